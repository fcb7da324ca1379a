//! What is wrong with a farm file: one line per defect.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Defects shown; a file with more gets a count of the rest.
const SHOWN_MAX: usize = 20;

/// Why there is no farm.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read the farm file {}: {source}; --farm takes the path of a readable TOML file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is longer than [`super::FILE_BYTES_MAX`].
    #[error("the farm file {} is longer than 64 MiB; is it one?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file does not describe a farm.
    #[error("{}", lines(path, defects))]
    Defects {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of checking; at least one.
        defects: Vec<Defect>,
    },
}

/// One thing wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The item, the cause and the remedy.
    pub text: String,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)
    }
}

fn lines(path: &std::path::Path, defects: &[Defect]) -> String {
    let mut lines: Vec<_> = defects
        .iter()
        .take(SHOWN_MAX)
        .map(|defect| format!("{}:{defect}", path.display()))
        .collect();
    if let Some(more) = defects.len().checked_sub(SHOWN_MAX).filter(|&more| more > 0) {
        lines.push(format!("{}: and {more} more", path.display()));
    }
    lines.join("\n")
}
