//! Folders that vanish with their owner.

use std::fs;
use std::path::{Path, PathBuf};
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

    /// A new, empty folder under `parent`, for files of many megabytes.
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

impl Drop for Scratch {
    fn drop(&mut self) {
        // Leaving a folder behind is no reason to fail a run that has its result.
        let _ = fs::remove_dir_all(&self.0);
    }
}
