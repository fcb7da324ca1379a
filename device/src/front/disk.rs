//! What a front end exports: a [`Disk`], which is a source plus writes, or a refusal of writes.
use std::sync::Arc;

use super::source::{BlockSource, ExtentsRequest, ReadFailure, ReadRequest};

/// Why a write, a zeroing or a flush failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The disk takes no writes.
    #[error("the disk is read-only: it was exported without a write cache")]
    ReadOnly,
    /// The write cache is full (`ENOSPC`). Reads and rewrites of cached units go on.
    #[error("the write cache is full")]
    NoSpace,
    /// The range does not lie inside the disk.
    #[error("range {offset}+{length} lies outside the disk of {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// A partial-unit write could not read the rest of its unit.
    #[error("cannot complete a partial write: {0}")]
    Base(#[from] ReadFailure),
    /// The overflow file failed.
    #[error("overflow file: {0}")]
    Overflow(Arc<str>),
    /// The answer was dropped: a bug on our side, logged where it happened.
    #[error(
        "the request was dropped unanswered (a bug in diskstream; please report it with the log)"
    )]
    Dropped,
}

type WriteAnswer = Box<dyn FnOnce(Result<(), WriteFailure>) + Send>;

/// The answer to one write, zeroing or flush; called exactly once, from any thread.
pub struct WriteDone(Option<WriteAnswer>);

impl WriteDone {
    /// Wraps what shall happen with the answer, which must neither block nor panic.
    pub fn new(answer: impl FnOnce(Result<(), WriteFailure>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers.
    pub fn call(mut self, result: Result<(), WriteFailure>) {
        if let Some(answer) = self.0.take() {
            answer(result);
        }
    }
}

impl Drop for WriteDone {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            tracing::error!("a write was dropped unanswered; its requester is told that it failed");
            answer(Err(WriteFailure::Dropped));
        }
    }
}

/// One write of `bytes` at `offset`, any alignment.
pub struct WriteRequest {
    /// First byte.
    pub offset: u64,
    /// What to write.
    pub bytes: Vec<u8>,
    /// Whom to tell.
    pub done: WriteDone,
}

/// How a range becomes zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMode {
    /// A hint (`TRIM`): whole units become zero, ragged edges keep their content.
    Discard,
    /// The range reads as zero afterwards; no storage is held for whole units.
    Zero,
    /// The range reads as zero afterwards and holds storage (`NO_HOLE`), so that a later write cannot find it full.
    ZeroAllocated,
}

/// One discard or zeroing.
pub struct ZeroRequest {
    /// First byte, any alignment.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// How.
    pub mode: ZeroMode,
    /// Whom to tell.
    pub done: WriteDone,
}

/// A disk as a front end exports it. Concurrent overlapping requests have no order among them; each unit of a write is
/// applied as a whole.
pub trait Disk: Send + Sync {
    /// Size in bytes; constant.
    fn size_bytes(&self) -> u64;
    /// True when every write is refused.
    fn read_only(&self) -> bool;
    /// Reads, as [`BlockSource::read`].
    fn read(&self, request: ReadRequest);
    /// Tells zero ranges, as [`BlockSource::extents`].
    fn extents(&self, request: ExtentsRequest);
    /// Writes.
    fn write(&self, request: WriteRequest);
    /// Discards or zeroes.
    fn zero(&self, request: ZeroRequest);
    /// Answers when every write answered before this call is as safe as this disk makes it.
    fn flush(&self, done: WriteDone);
}

/// A source exported as it is (`--write-cache none`): every write is refused, and the export says so up front.
pub struct ReadOnlyDisk<S>(pub S);

impl<S: BlockSource> Disk for ReadOnlyDisk<S> {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, request: ReadRequest) {
        self.0.read(request);
    }

    fn extents(&self, request: ExtentsRequest) {
        self.0.extents(request);
    }

    fn write(&self, request: WriteRequest) {
        request.done.call(Err(WriteFailure::ReadOnly));
    }

    fn zero(&self, request: ZeroRequest) {
        request.done.call(Err(WriteFailure::ReadOnly));
    }

    fn flush(&self, done: WriteDone) {
        done.call(Ok(()));
    }
}
