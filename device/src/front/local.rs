//! Sources that need no node: bytes in memory and a plain file. For tests, demonstrations and `quickstart`.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{
    BlockSource, Extent, ExtentsRequest, ReadFailure, ReadRequest, UNIT_BYTES, check_range,
    is_zero, push_extent,
};

/// Extents of a local source are found by reading; one query reads no more than this (guessed: 1 ms of memory).
const SCAN_BYTES_MAX: u64 = 4 << 20;

/// An image in memory. Answers inside the call.
pub struct MemorySource {
    bytes: Arc<[u8]>,
}

impl MemorySource {
    /// Serves `bytes`.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { bytes: bytes.into() }
    }

    fn slice(&self, offset: u64, length: u64) -> Result<&[u8], ReadFailure> {
        check_range(offset, length, self.bytes.len() as u64)?;
        let start = usize::try_from(offset).expect("inside a slice");
        let length = usize::try_from(length).expect("inside a slice");
        Ok(&self.bytes[start..start + length])
    }
}

impl BlockSource for MemorySource {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, request: ReadRequest) {
        let ReadRequest { offset, mut buffer, done } = request;
        let result =
            self.slice(offset, buffer.len() as u64).map(|bytes| buffer.copy_from_slice(bytes));
        done.call(buffer, result);
    }

    fn extents(&self, request: ExtentsRequest) {
        let ExtentsRequest { offset, length, extents_max, done } = request;
        let scanned = length.min(SCAN_BYTES_MAX);
        let result = check_range(offset, length, self.size_bytes())
            .and_then(|()| self.slice(offset, scanned))
            .map(|bytes| scan(bytes, offset, extents_max));
        done.call(result);
    }
}

/// An image in a plain file. Reads block the calling thread: for tests and small tools, not for a root disk.
pub struct FileSource {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl FileSource {
    /// Opens `path` read-only. Its size is taken now; a file that shrinks later gives [`ReadFailure::Store`].
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { file, path: path.to_owned(), size_bytes })
    }

    fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadFailure> {
        let length = buffer.len() as u64;
        check_range(offset, length, self.size_bytes)?;
        self.file.read_exact_at(buffer, offset).map_err(|error| ReadFailure::Store {
            offset,
            length,
            cause: format!("{}: {error}", self.path.display()).into(),
        })
    }
}

impl BlockSource for FileSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, request: ReadRequest) {
        let ReadRequest { offset, mut buffer, done } = request;
        let result = self.read_into(offset, &mut buffer);
        done.call(buffer, result);
    }

    fn extents(&self, request: ExtentsRequest) {
        let ExtentsRequest { offset, length, extents_max, done } = request;
        let result = check_range(offset, length, self.size_bytes).and_then(|()| {
            let scanned = usize::try_from(length.min(SCAN_BYTES_MAX)).expect("at most the bound");
            let mut buffer = vec![0; scanned];
            self.read_into(offset, &mut buffer)?;
            Ok(scan(&buffer, offset, extents_max))
        });
        done.call(result);
    }
}

/// The extents of `bytes`, which begin at `offset` of the image; borders between them lie on units.
fn scan(bytes: &[u8], offset: u64, extents_max: usize) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let in_unit = UNIT_BYTES - (offset + at as u64) % UNIT_BYTES;
        let length = (bytes.len() - at).min(usize::try_from(in_unit).expect("at most a unit"));
        let zero = is_zero(&bytes[at..at + length]);
        if !push_extent(&mut extents, Extent { length: length as u64, zero }, extents_max) {
            break;
        }
        at += length;
    }
    extents
}
