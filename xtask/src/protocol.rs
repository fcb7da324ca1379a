//! Keeps `docs/protocol.md`, `docs/peers.md` and `docs/diskstream.lua` equal to the tables of diskstream-wire.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

mod lua;
mod markdown;

/// Regenerates the protocol's documents; with `check` only says whether they are what they should be.
///
/// # Errors
/// With `check`: a document differs. Else: it cannot be read or written, or lost its markers.
pub fn run(check: bool) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let document = docs.join("protocol.md");
    let old = read(&document)?;
    bring(&document, &markdown::document(&old)?, check)?;
    let peers = docs.join("peers.md");
    bring(&peers, &markdown::peers_document(&read(&peers)?)?, check)?;
    bring(&docs.join("diskstream.lua"), &lua::dissector()?, check)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", shown(path)))
}

fn bring(path: &Path, wanted: &str, check: bool) -> Result<()> {
    if read(path).is_ok_and(|is| is == wanted) {
        return Ok(());
    }
    if check {
        bail!(
            "{} is not what the tables of diskstream-wire say: run `cargo xtask protocol`",
            shown(path)
        );
    }
    fs::write(path, wanted).with_context(|| format!("cannot write {}", shown(path)))?;
    println!("wrote {}", shown(path));
    Ok(())
}

/// The path without its detour through `xtask`.
fn shown(path: &Path) -> String {
    let name: PathBuf = path.file_name().into_iter().collect();
    format!("docs/{}", name.display())
}

/// The lines of a documentation comment as one line, fit for a table.
fn one_line(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_what_the_tables_say() {
        run(true).unwrap();
    }

    #[test]
    fn comments_become_one_line() {
        assert_eq!(one_line(" One.\n Two | three.\n"), "One. Two \\| three.");
    }
}
