//! The overflow file: slots of one unit, and the threads that read and write them.
//!
//! File I/O may block on a slow disk, so it is done neither under the cache's lock nor on a thread that completes
//! network reads. The file is worthless after the process ends; it is emptied at start.
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::front::sys;

/// Stands at the start of the file, so that only a file of ours is ever emptied.
const MAGIC: &[u8; 32] = b"diskstream write cache overflow\n";
/// Slots begin after one unit that holds the magic.
const HEADER_BYTES: u64 = 4096;
const UNIT: u64 = 4096;

/// Why an overflow file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OverflowError {
    /// The file holds something else.
    #[error("overflow file {}: not empty and not an overflow file; remove it or name another", .0.display())]
    Foreign(PathBuf),
    /// Another process uses it.
    #[error("overflow file {}: in use by another process; name another file", .0.display())]
    Locked(PathBuf),
    /// The system refused a step.
    #[error("overflow file {}: cannot {step}: {error}; check that its directory is on a writable local disk", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

pub struct OverflowFile {
    file: File,
    /// Bytes were written since the last sync.
    dirty: AtomicBool,
    /// A sync failed: the kernel may have dropped bytes that were acknowledged, so no later sync can make it good.
    damaged: AtomicBool,
}

impl OverflowFile {
    /// Opens or creates `path`, locks it, and empties it. Also gives the bytes free on its file system.
    pub fn open(path: &Path) -> Result<(Self, u64), OverflowError> {
        let system =
            |step| move |error| OverflowError::System { path: path.to_owned(), step, error };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(system("open it"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OverflowError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(system("lock it")(error)),
        }
        let metadata = file.metadata().map_err(system("look at it"))?;
        let mut start = [0; MAGIC.len()];
        let ours =
            metadata.len() == 0 || (file.read_exact_at(&mut start, 0).is_ok() && start == *MAGIC);
        if !metadata.is_file() || !ours {
            return Err(OverflowError::Foreign(path.to_owned()));
        }
        file.set_len(0).map_err(system("empty it"))?;
        file.write_all_at(MAGIC, 0).map_err(system("write its header"))?;
        let free_bytes = sys::free_bytes(&file).map_err(system("ask for free space"))?;
        let (dirty, damaged) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok((Self { file, dirty, damaged }, free_bytes))
    }

    /// Reads whole slots from `slot` on.
    pub fn read(&self, slot: u32, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, position(slot))
    }

    /// Writes whole slots from `slot` on.
    pub fn write(&self, slot: u32, bytes: &[u8]) -> io::Result<()> {
        self.dirty.store(true, Ordering::Release);
        self.file.write_all_at(bytes, position(slot))
    }

    /// Whether a flush has anything to do.
    pub fn needs_sync(&self) -> bool {
        self.dirty.load(Ordering::Acquire) || self.damaged.load(Ordering::Acquire)
    }

    /// Waits for what was written to be on the disk. Once it has failed it fails for ever.
    pub fn sync(&self) -> io::Result<()> {
        if self.damaged.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed; written data may be lost"));
        }
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.file.sync_data().inspect_err(|_| self.damaged.store(true, Ordering::Release))?;
        }
        Ok(())
    }
}

fn position(slot: u32) -> u64 {
    HEADER_BYTES + u64::from(slot) * UNIT
}

/// Slots of the file: given back ones first, so that the file grows no larger than its fullest moment.
#[derive(Default)]
pub struct FileSlots {
    free: Vec<u32>,
    next: u32,
}

impl FileSlots {
    pub fn allocate(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        (self.next < super::table::SLOTS_MAX).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    pub fn used_units(&self) -> u64 {
        u64::from(self.next) - self.free.len() as u64
    }
}
