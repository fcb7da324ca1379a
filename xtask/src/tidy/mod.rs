//! House rules that no lint knows (docs/STYLE.md, docs/ARCHITECTURE.md), as tests of the repository's own files.

mod lexer;
mod links;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::proc::{self, Log};
use crate::runner::Job;
use lexer::{code_only, functions, line_of, words};

/// Lines of a source file.
const FILE_LINES_MAX: usize = 900;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines above `unsafe` in which its note must be.
const SAFETY_NOTE_WITHIN: usize = 12;

/// A file of the repository.
struct Source {
    /// From the repository's root.
    path: String,
    text: String,
    /// The text without comments and literals, for Rust; else empty.
    code: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Code that ships, not a test or a measurement of it.
    fn is_product(&self) -> bool {
        let name = self.file_name();
        let folders = ["tests/", "benches/", "examples/", "fuzz_targets/"];
        name != "tests.rs" && !folders.iter().any(|f| self.path.contains(f))
    }

    /// The code before the file's own `mod tests { ... }`.
    fn product_code(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod tests {").unwrap_or(self.code.len());
        if self.is_product() { &self.code[..end] } else { "" }
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

type Rule = (&'static str, fn(&Path, &[Source]) -> Vec<String>);

const RULES: &[Rule] = &[
    ("files are at most 900 lines", |_, all| each_rust(all, long_files)),
    ("functions are at most 70 lines", |_, all| each_rust(all, long_functions)),
    ("unsafe code is in ring and in sys.rs only", |_, all| each_rust(all, unsafe_places)),
    ("every unsafe has its safety note", |_, all| each_rust(all, unsafe_notes)),
    ("clocks are read in their own files", |_, all| each_rust(all, clocks)),
    ("state machines do no input or output", |_, all| each_rust(all, pure_machines)),
    ("event loops match no message type", |_, all| each_rust(all, blind_loops)),
    ("locks of a node are counted ones", |_, all| each_rust(all, counted_locks)),
    ("no leftover markers", |_, all| all.iter().flat_map(leftovers).collect()),
    ("no path of one machine", |_, all| all.iter().flat_map(machine_paths).collect()),
    ("links in documents lead somewhere", |root, all| {
        let documents = all.iter().filter(|s| s.path.ends_with(".md"));
        documents.flat_map(|s| links::dead(root, &s.path, &s.text)).collect()
    }),
];

/// The step: each rule is a check.
pub fn step(job: &mut Job<'_>) -> anyhow::Result<()> {
    let sources = sources(&job.ctx.root, &job.log)?;
    for (name, rule) in RULES {
        job.check(name, |job| {
            let found = rule(&job.ctx.root, &sources);
            anyhow::ensure!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
            Ok(())
        });
    }
    Ok(())
}

/// The rules alone, for a person; whether all hold.
pub fn run(root: &Path) -> anyhow::Result<bool> {
    let sources = sources(root, &Log::create(Path::new("/dev/null"))?)?;
    let mut holds = true;
    for (name, rule) in RULES {
        let found = rule(root, &sources);
        println!("{} {name}", if found.is_empty() { "ok    " } else { "BROKEN" });
        for place in &found {
            println!("       {place}");
        }
        holds &= found.is_empty();
    }
    Ok(holds)
}

/// The files that git knows or would add.
fn sources(root: &Path, log: &Log) -> anyhow::Result<Vec<Source>> {
    let mut command = proc::command("git");
    // A clean checkout may belong to somebody else than the one who tests it; git refuses that unless told.
    command.current_dir(root).args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "-co",
        "--exclude-standard",
    ]);
    let list =
        proc::run_ok(&mut command, "git", log, Duration::from_mins(1)).context("listing files")?;
    let mut sources = Vec::new();
    for path in list.lines() {
        // A file that is deleted but not yet committed, and one that is not text, have nothing to check.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        let code = if path.ends_with(".rs") { code_only(&text) } else { String::new() };
        sources.push(Source { path: path.to_owned(), text, code });
    }
    anyhow::ensure!(sources.len() > 5, "git lists {} files only", sources.len());
    Ok(sources)
}

fn each_rust(all: &[Source], rule: fn(&Source) -> Vec<String>) -> Vec<String> {
    all.iter().filter(|s| s.is_rust()).flat_map(rule).collect()
}

fn long_files(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![source.at(lines, "too long; which concept can move out?")]
}

fn long_functions(source: &Source) -> Vec<String> {
    // Golden bytes and tables of cases are as long as what they cover.
    functions(source.product_code())
        .into_iter()
        .filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX)
        .map(|(name, first, lines)| source.at(first, &format!("fn {name} has {lines} lines")))
        .collect()
}

fn unsafe_places(source: &Source) -> Vec<String> {
    let allowed = source.path.starts_with("ring/") || source.file_name() == "sys.rs";
    let found = words(&source.code, "unsafe").filter(|_| !allowed);
    found
        .map(|at| source.at(line_of(&source.code, at), "unsafe outside ring/ and sys.rs"))
        .collect()
}

fn unsafe_notes(source: &Source) -> Vec<String> {
    let lines: Vec<_> = source.text.lines().collect();
    let mut bare = Vec::new();
    for at in words(&source.code, "unsafe") {
        let rest = source.code[at + "unsafe".len()..].trim_start();
        // A type `unsafe fn(...)` or `unsafe extern "C" fn(...)` does nothing unsafe by itself.
        let type_only = rest.strip_prefix("fn").is_some_and(|r| r.trim_start().starts_with('('))
            || (rest.starts_with("extern")
                && rest.contains("fn(")
                && rest.find("fn(") < rest.find('{'));
        let line = line_of(&source.code, at);
        let above = &lines[line.saturating_sub(SAFETY_NOTE_WITHIN + 1)..line];
        if !type_only && !above.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
            bare.push(source.at(line, "unsafe without a safety note above"));
        }
    }
    bare
}

fn clocks(source: &Source) -> Vec<String> {
    let allowed = ["clock.rs", "sys.rs"].contains(&source.file_name());
    let reads = ["Instant::now", "SystemTime::now", "clock_gettime"];
    find_words(
        source,
        if allowed { &[] } else { &reads },
        "reads a clock; take the time as an argument",
    )
}

/// The crates and modules that docs/ARCHITECTURE.md calls pure.
fn pure_machines(source: &Source) -> Vec<String> {
    let pure = ["wire/src/", "node/src/shard", "device/src/session", "sim/src/network"];
    if !pure.iter().any(|p| source.path.starts_with(p)) {
        return Vec::new();
    }
    let effects = [
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "UnixStream",
        "UnixListener",
        "std::fs",
        "std::thread",
        "clock::now",
        "getrandom",
        "println",
        "eprintln",
    ];
    find_words(source, &effects, "in a state machine; leave it to the driver")
}

fn blind_loops(source: &Source) -> Vec<String> {
    let loops = ["node/src/event_loop", "device/src/driver"];
    if !loops.iter().any(|p| source.path.starts_with(p)) {
        return Vec::new();
    }
    let found = source.product_code().match_indices("Message::");
    found
        .map(|(at, _)| source.at(line_of(&source.code, at), "an event loop names a message"))
        .collect()
}

/// A test counts what shards lock; a lock of another kind would escape it.
fn counted_locks(source: &Source) -> Vec<String> {
    let watched = ["node/src/", "ring/src/"].iter().any(|p| source.path.starts_with(p));
    // The one that counts, and the model checker's.
    if !watched || ["node/src/lock.rs", "node/src/cache/sync.rs"].contains(&source.path.as_str()) {
        return Vec::new();
    }
    let words = ["Mutex", "RwLock", "Condvar"];
    if source.product_code().contains("use crate::lock::Mutex") {
        return find_words(source, &["std::sync::Mutex", "RwLock"], "use crate::lock");
    }
    find_words(source, &words, "use crate::lock, whose locks are counted")
}

fn find_words(source: &Source, list: &[&str], what: &str) -> Vec<String> {
    let mut places = Vec::new();
    for word in list {
        for at in words(source.product_code(), word) {
            places.push(source.at(line_of(&source.code, at), &format!("{word}: {what}")));
        }
    }
    places
}

fn leftovers(source: &Source) -> Vec<String> {
    // Written in two halves, so that this file does not find itself.
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("HA", "CK"),
        concat!("<<<", "<<<<"),
    ];
    if source.path == "Cargo.lock" {
        return Vec::new();
    }
    let mut places = Vec::new();
    for marker in markers {
        for at in words(&source.text, marker) {
            places.push(source.at(line_of(&source.text, at), marker));
        }
    }
    places
}

fn machine_paths(source: &Source) -> Vec<String> {
    let roots = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/."),
        concat!("/ho", "me/"),
        concat!("/tmp/", "target"),
    ];
    let mut places = Vec::new();
    for root in roots {
        for (at, _) in source.text.match_indices(root) {
            // As a part of a longer path, such as `target/work/`, it is no place on a machine.
            let before = at.checked_sub(1).map(|i| source.text.as_bytes()[i]);
            if !before.is_some_and(|b| b.is_ascii_alphanumeric() || b"_-.}".contains(&b)) {
                places.push(source.at(line_of(&source.text, at), root));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: code_only(text) }
    }

    #[test]
    fn unsafe_needs_its_place_and_its_note() {
        let bare = "fn f() {\n    unsafe { g() }\n}\n";
        let noted = "fn f() {\n    // SAFETY: g needs nothing\n    unsafe { g() }\n}\n";
        assert_eq!(unsafe_places(&source("node/src/a.rs", bare)).len(), 1);
        assert!(unsafe_places(&source("node/src/a/sys.rs", bare)).is_empty());
        assert_eq!(unsafe_notes(&source("ring/src/a.rs", bare)).len(), 1);
        assert!(unsafe_notes(&source("ring/src/a.rs", noted)).is_empty());
    }

    #[test]
    fn event_loops_must_not_name_messages() {
        let text = "// Message::Read in a comment is fine\nmatch m { Message::Read(_) => {} }";
        assert_eq!(blind_loops(&source("node/src/event_loop.rs", text)).len(), 1);
        assert_eq!(blind_loops(&source("device/src/driver/mod.rs", text)).len(), 1);
        assert!(blind_loops(&source("node/src/shard/mod.rs", text)).is_empty());
    }

    #[test]
    fn clocks_and_effects_are_found_where_they_are_forbidden() {
        let text = "let t = Instant::now();";
        assert_eq!(clocks(&source("bench/src/main.rs", text)).len(), 1);
        assert!(clocks(&source("ring/src/clock.rs", text)).is_empty());
        let text = "use std::net::UdpSocket;";
        assert_eq!(pure_machines(&source("wire/src/lib.rs", text)).len(), 1);
        assert!(pure_machines(&source("bench/src/relay.rs", text)).is_empty());
    }

    #[test]
    fn locks_that_nobody_counts_are_found() {
        let bare = "use std::sync::{Arc, Mutex};";
        assert_eq!(counted_locks(&source("node/src/a.rs", bare)).len(), 1);
        assert_eq!(counted_locks(&source("ring/src/a.rs", "std::sync::RwLock::new(1)")).len(), 1);
        let counted = "use crate::lock::Mutex;\nstatic A: Mutex<u8> = Mutex::new(1);";
        assert!(counted_locks(&source("node/src/a.rs", counted)).is_empty());
        assert!(counted_locks(&source("node/src/lock.rs", bare)).is_empty());
        assert!(counted_locks(&source("device/src/a.rs", bare)).is_empty());
    }

    #[test]
    fn long_things_are_found() {
        let function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(70));
        assert_eq!(long_functions(&source("node/src/a.rs", &function)).len(), 1);
        assert_eq!(long_files(&source("node/src/a.rs", &"\n".repeat(901))).len(), 1);
    }

    #[test]
    fn markers_and_machine_paths_are_found() {
        let text =
            format!("// {} later\nlet p = \"{}main\";", concat!("TO", "DO"), concat!("/wo", "rk/"));
        assert_eq!(leftovers(&source("node/src/a.rs", &text)).len(), 1);
        assert_eq!(machine_paths(&source("node/src/a.rs", &text)).len(), 1);
        assert!(machine_paths(&source("node/src/a.rs", "target/work/x")).is_empty());
    }
}
