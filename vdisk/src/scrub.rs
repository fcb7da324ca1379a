//! Scrub: an image is read from its disk, and every 64 KiB of it compared with the hash that is kept.
//!
//! Blocks are checked each time they enter a node's cache, so a scrub protects nobody from wrong bytes. It finds a rotten or changed
//! image before the day on which a device needs just that block and no other node has it.
use crate::content::{BlockHashes, Verdict};
use crate::direct::DataFile;
use crate::error::OpenError;
use crate::formats::raw;
use crate::geometry::{VERIFY_BLOCK_BYTES, bytes, index};
use crate::map::{FlatMap, ImageMap, Place};
use crate::open::open_image;
use crate::sidecar::{self, RehashReason, Stale};
use crate::vdisk::Vdisk;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes between two calls of a scrub's `turn`: one read where all is well. Guessed: a good size for disks, 4 ms of a core.
pub const SCRUB_PIECE_BYTES: u64 = 16 * VERIFY_BLOCK_BYTES;
/// What memory, offset and length of direct reads are aligned to: what every disk known is content with; others are
/// read through the page cache.
const ALIGNMENT: u32 = 4096;
/// Bad ranges that are kept by place; the bytes of all are counted. Guessed: more than a person reads.
const RANGES_MAX: usize = 1000;

/// Why an image cannot be scrubbed.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The image cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There are no hashes to compare it with.
    #[error(
        "{} cannot be scrubbed: {why}; `diskstream-node vdisk hash` keeps the hashes of what it holds now", path.display()
    )]
    NoHashes {
        /// The image.
        path: PathBuf,
        /// What is wrong with its sidecar.
        why: RehashReason,
    },
    /// The kernel gave no descriptor, or no map of the holes.
    #[error("{} cannot be scrubbed: {source}", path.display())]
    Os {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubFound {
    /// Bytes of the image that do not have their hash; neighbours joined, the first 1000 ranges.
    pub differing: Vec<Range<u64>>,
    /// Bytes of the image that could not be read, likewise.
    pub unreadable: Vec<Range<u64>>,
    /// Why the first of these could not.
    pub unreadable_because: Option<String>,
    /// Bytes that differ or could not be read, whether their range is kept or not.
    pub bad_bytes: u64,
    /// Bytes looked at, holes included.
    pub checked_bytes: u64,
}

impl ScrubFound {
    /// Whether every byte looked at was right.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bad_bytes == 0
    }

    fn differs(&mut self, range: Range<u64>) {
        self.bad_bytes += range.end - range.start;
        join(&mut self.differing, range);
    }

    fn fails(&mut self, range: Range<u64>, error: &io::Error) {
        self.bad_bytes += range.end - range.start;
        self.unreadable_because.get_or_insert_with(|| error.to_string());
        join(&mut self.unreadable, range);
    }
}

/// Adds a range that lies behind the others.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if let Some(last) = ranges.last_mut().filter(|last| last.end == range.start) {
        last.end = range.end;
    } else if ranges.len() < RANGES_MAX {
        ranges.push(range);
    }
}

/// An image and what it must hold, with descriptors of its own.
#[derive(Debug)]
pub struct Scrub {
    path: PathBuf,
    data: DataFile,
    map: Arc<FlatMap>,
    hashes: Arc<BlockHashes>,
    stale: Option<Stale>,
}

impl Scrub {
    /// An image file, against the hashes in its sidecar. Those of an older state of the file are taken too, and
    /// [`Scrub::stale`] says so: comparing shows where it was changed.
    ///
    /// # Errors
    /// [`ScrubError`] names the image and what is missing.
    pub fn of_image(path: &Path) -> Result<Self, ScrubError> {
        let (file, identity) = open_image(path)?;
        let (hashes, stale) = sidecar::load_any(path, &identity)
            .map_err(|why| ScrubError::NoHashes { path: path.to_owned(), why })?;
        let os = |source| ScrubError::Os { path: path.to_owned(), source };
        let map = raw::map(&file, identity.size_bytes).map_err(|failure| os(failure.source))?;
        let data = DataFile::new(path, file, true);
        let (map, hashes) = (Arc::new(map), Arc::new(hashes));
        Ok(Self { path: path.to_owned(), data, map, hashes, stale })
    }

    /// An open vDisk, against the hashes that it is served by.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn of_vdisk(vdisk: &Vdisk) -> Result<Self, ScrubError> {
        let path = vdisk.path();
        let file = vdisk.files()[0].buffered().try_clone();
        let file = file.map_err(|source| ScrubError::Os { path: path.to_owned(), source })?;
        let data = DataFile::new(path, file, true);
        let (map, hashes) = (vdisk.map_shared(), vdisk.block_hashes_shared());
        Ok(Self { path: path.to_owned(), data, map, hashes, stale: None })
    }

    /// The image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the image.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.hashes.size_bytes()
    }

    /// In what the file has changed since it was hashed; none: in nothing that can be told without reading it.
    #[must_use]
    pub fn stale(&self) -> Option<&Stale> {
        self.stale.as_ref()
    }

    /// Whether it is read from the disk itself. Otherwise what the page cache holds is looked at, not what the disk does.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.data.alignment().is_some()
    }

    /// Reads all of the image. `turn` is called before each piece of [`SCRUB_PIECE_BYTES`] with what was found so far, and once at
    /// the end; it may take its time, which is how a scrub is slowed down, and ends the scrub by breaking.
    pub fn run(&self, turn: &mut dyn FnMut(&ScrubFound) -> ControlFlow<()>) -> ScrubFound {
        let size = self.size_bytes();
        let mut found = ScrubFound::default();
        let mut buffer = Buffer::new();
        while found.checked_bytes < size {
            if turn(&found).is_break() {
                return found;
            }
            let start = found.checked_bytes;
            let end = (start + SCRUB_PIECE_BYTES).min(size);
            self.check(start..end, &mut buffer, &mut found);
            found.checked_bytes = end;
        }
        // Whatever it says: there is nothing left to end.
        let _ = turn(&found);
        found
    }

    /// A piece in one read; where it is not right, block by block, so that the bad ones are named.
    fn check(&self, piece: Range<u64>, buffer: &mut Buffer, found: &mut ScrubFound) {
        if let Ok(Verdict::Match) = self.judge(&piece, buffer) {
            return;
        }
        let mut start = piece.start;
        while start < piece.end {
            let block = start..(start + VERIFY_BLOCK_BYTES).min(piece.end);
            start = block.end;
            match self.judge(&block, buffer) {
                Ok(Verdict::Match) => {}
                Ok(_) => found.differs(block),
                Err(error) => found.fails(block, &error),
            }
        }
    }

    fn judge(&self, range: &Range<u64>, buffer: &mut Buffer) -> io::Result<Verdict> {
        let content = buffer.room(index(range.end - range.start));
        self.read(range, content)?;
        Ok(self.hashes.verify(range.start, content))
    }

    /// Fills `content` with a range of the image: holes with zeroes, the rest from the disk itself where that works.
    fn read(&self, range: &Range<u64>, content: &mut [u8]) -> io::Result<()> {
        let mut outcome = Ok(());
        self.map.visit(range.start, range.end - range.start, &mut |extent| {
            let start = index(extent.logical_offset - range.start);
            let into = &mut content[start..start + index(extent.len)];
            match extent.place {
                Place::Zero => into.fill(0),
                Place::File { file_offset, .. } if outcome.is_ok() => {
                    outcome = self.read_file(file_offset, into, start);
                }
                Place::File { .. } => {}
            }
        });
        outcome
    }

    /// Past the page cache as far as alignment allows: all but an odd end.
    fn read_file(&self, offset: u64, into: &mut [u8], start: usize) -> io::Result<()> {
        let alignment = u64::from(ALIGNMENT);
        let aligned = offset.is_multiple_of(alignment) && bytes(start).is_multiple_of(alignment);
        let whole = bytes(into.len()) / alignment * alignment;
        let direct = if aligned && self.takes_alignment() { whole } else { 0 };
        let (direct, rest) = into.split_at_mut(index(direct));
        self.data.file().read_exact_at(direct, offset)?;
        self.data.buffered().read_exact_at(rest, offset + bytes(direct.len()))
    }

    fn takes_alignment(&self) -> bool {
        let fits = |bytes: u32| bytes <= ALIGNMENT;
        self.data.alignment().is_some_and(|a| fits(a.memory_bytes) && fits(a.offset_bytes))
    }
}

/// Memory that direct reads take.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let alignment = index(u64::from(ALIGNMENT));
        let memory = vec![0; index(SCRUB_PIECE_BYTES) + alignment];
        let start = memory.as_ptr().align_offset(alignment);
        Self { memory, start }
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }
}

#[cfg(test)]
mod tests;
