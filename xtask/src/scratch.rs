//! Folders that vanish with their owner.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// A folder of its own, removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty folder for small files and sockets. It lies in the system's temporary folder, because the path of a Unix
    /// socket has room for 107 bytes only.
    pub fn small() -> anyhow::Result<Scratch> {
        Scratch::under(&std::env::temp_dir())
    }

    /// A new, empty folder with room for `bytes`: in memory where there is plenty, else under `parent`. On a disk that is
    /// busy with builds, removing a fresh copy of 1 GiB was seen to take 44 s.
    pub fn large(parent: &Path, bytes: u64) -> anyhow::Result<Scratch> {
        let memory = Path::new("/dev/shm");
        let plenty = free_bytes(memory)
            .zip(available_memory())
            .is_some_and(|(free, available)| free > 2 * bytes && available > 4 * bytes);
        Scratch::under(if plenty { memory } else { parent })
    }

    /// A new, empty folder under `parent`.
    pub fn under(parent: &Path) -> anyhow::Result<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("dsx-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Scratch(path))
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().nth(1)?.trim().parse().ok()
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Leaving a folder behind is no reason to fail a run that has its result.
        let _ = fs::remove_dir_all(&self.0);
    }
}
