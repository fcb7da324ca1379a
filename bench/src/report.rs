//! Where figures come from: machine, kernel, commit. Every report carries it.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Facts without which a figure says nothing.
#[derive(Debug, Serialize)]
pub struct Provenance {
    /// Commit of the source tree that the program runs in, with `-dirty` when it was changed; "unknown" elsewhere.
    pub commit: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the first processor.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Version of this program.
    pub version: &'static str,
}

impl Provenance {
    /// Asks the machine.
    #[must_use]
    pub fn of_this_machine() -> Provenance {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Provenance {
            commit: commit(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cpu: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
