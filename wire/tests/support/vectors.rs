//! Reads the annotated byte listings of `vectors/*.hex`.
//!
//! A line is `tokens  # label: remark`; a line without tokens is a remark on the whole. Tokens are pairs of hexadecimal
//! digits in any grouping, `xx*N` (the byte `xx` N times) and `"text"~N` (text filled up to N bytes with zeros). A label
//! is a field's name, or `tail` for what follows the fixed part, or `beyond` for padding behind the header's length.

#![allow(dead_code, reason = "each test crate takes what it needs")]

use std::fs;
use std::path::{Path, PathBuf};

/// One labelled run of bytes.
pub struct Line {
    /// The field that the bytes are, or `tail`, or `beyond`.
    pub label: String,
    /// Where they start.
    pub offset: usize,
    /// How many they are.
    pub bytes: usize,
}

/// One listing.
pub struct Vector {
    /// File name without `.hex`, e.g. `Read.single`.
    pub name: String,
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The labelled runs, in order.
    pub lines: Vec<Line>,
}

impl Vector {
    /// The message or record that is listed: the name up to its first dot.
    pub fn of(&self) -> &str {
        self.name.split('.').next().unwrap_or(&self.name)
    }

    /// All bytes labelled `label`, in order.
    pub fn labelled(&self, label: &str) -> Vec<u8> {
        let runs = self.lines.iter().filter(|line| line.label == label);
        runs.flat_map(|line| self.bytes[line.offset..line.offset + line.bytes].to_vec()).collect()
    }
}

/// The directory of the listings.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Every listing, by name.
pub fn all() -> Vec<Vector> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory())
        .expect("tests/vectors is a directory")
        .map(|entry| entry.expect("an entry of tests/vectors").path())
        .filter(|path| path.extension().is_some_and(|e| e == "hex"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// The listing of this name.
pub fn named(name: &str) -> Vector {
    read(&directory().join(name).with_added_extension("hex"))
}

fn read(path: &Path) -> Vector {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = path.file_stem().expect("a file name").to_str().expect("ASCII").to_owned();
    let mut vector = Vector { name, bytes: Vec::new(), lines: Vec::new() };
    for (number, line) in text.lines().enumerate() {
        let place = format!("{}:{}", path.display(), number + 1);
        let (tokens, remark) = line.split_once('#').unwrap_or_else(|| panic!("{place}: no remark"));
        if tokens.trim().is_empty() {
            continue;
        }
        let label = remark.split_once(':').unwrap_or_else(|| panic!("{place}: no label")).0.trim();
        let offset = vector.bytes.len();
        push_tokens(tokens, &place, &mut vector.bytes);
        let bytes = vector.bytes.len() - offset;
        vector.lines.push(Line { label: label.to_owned(), offset, bytes });
    }
    vector
}

fn push_tokens(tokens: &str, place: &str, out: &mut Vec<u8>) {
    let number = |text: &str| -> usize { text.parse().unwrap_or_else(|e| panic!("{place}: {e}")) };
    if let Some(rest) = tokens.trim().strip_prefix('"') {
        let (text, width) = rest.split_once("\"~").unwrap_or_else(|| panic!("{place}: text"));
        let width = number(width);
        assert!(text.len() <= width, "{place}: {} bytes in {width}", text.len());
        out.extend_from_slice(text.as_bytes());
        out.extend(std::iter::repeat_n(0, width - text.len()));
        return;
    }
    for token in tokens.split_whitespace() {
        let (digits, times) = token.split_once('*').map_or((token, 1), |(d, n)| (d, number(n)));
        assert!(digits.len() % 2 == 0, "{place}: half a byte in {digits}");
        for _ in 0..times {
            for at in (0..digits.len()).step_by(2) {
                let pair = &digits[at..at + 2];
                out.push(u8::from_str_radix(pair, 16).unwrap_or_else(|e| panic!("{place}: {e}")));
            }
        }
    }
}
