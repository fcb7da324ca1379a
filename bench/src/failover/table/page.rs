//! The table as it grows: each line is printed and written to the file when it is known, so that a run that is interrupted
//! keeps what it has measured.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the table goes.
#[derive(Debug)]
pub struct Page {
    file: Option<(PathBuf, File)>,
    failed: Vec<String>,
}

impl Page {
    /// An empty one; a file of that name is replaced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(path: Option<&Path>) -> anyhow::Result<Page> {
        let make = |path: &Path| {
            let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
            anyhow::Ok((path.to_owned(), file))
        };
        Ok(Page { file: path.map(make).transpose()?, failed: Vec::new() })
    }

    /// Lines that are known now.
    ///
    /// # Errors
    /// When nobody takes them.
    pub fn add(&mut self, lines: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{lines}")?;
        out.flush()?;
        if let Some((path, file)) = &mut self.file {
            file.write_all(lines.as_bytes())
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Lines that were judged.
    ///
    /// # Errors
    /// When nobody takes them.
    pub fn judged(&mut self, rows: super::verdict::Rows) -> anyhow::Result<()> {
        self.failed.extend(rows.failed);
        self.add(&rows.lines)
    }

    /// What must not be and was.
    #[must_use]
    pub fn failed(&self) -> &[String] {
        &self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_the_file_before_the_next_ones_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.md");
        std::fs::write(&path, "an older table").unwrap();
        let mut page = Page::new(Some(&path)).unwrap();
        let rows =
            super::super::verdict::Rows { lines: "| b |\n".into(), failed: vec!["b".into()] };
        page.add("| a |\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "| a |\n");
        page.judged(rows).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "| a |\n| b |\n");
        assert_eq!(page.failed(), ["b"]);
    }
}
