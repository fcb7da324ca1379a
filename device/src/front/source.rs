//! The border between the block-device side and whatever delivers a vDisk's bytes.
//!
//! A [`BlockSource`] is read-only and asynchronous. A request carries the buffer to fill and an answer ([`Done`]) that
//! is called exactly once, from any thread. A request that waits holds no thread: while every node is away, reads are
//! entries in the source's own table and nothing else.
//!
//! Alignment: callers may ask for any range inside the image. A source that only speaks whole [`UNIT_BYTES`] units
//! (the session) is wrapped in [`UnitAligned`](super::aligned::UnitAligned), which is the one place that rounds.
use std::sync::Arc;

/// What the stream protocol moves, and the granularity of the write cache: 4 KiB.
pub const UNIT_BYTES: u64 = 4096;

/// Why a read or an extents query failed for good. "The nodes are away" is not among them: such reads stay pending.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFailure {
    /// The range does not lie inside the image; the caller is at fault.
    #[error("range {offset}+{length} lies outside the image of {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the image in bytes.
        size: u64,
    },
    /// The store could not deliver the range: every eligible node said so, or the local file did.
    #[error("the store cannot read {offset}+{length}: {cause}")]
    Store {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// What the store said.
        cause: Arc<str>,
    },
    /// The source is being shut down and answers nothing any more.
    #[error("the source is shutting down")]
    Shutdown,
    /// Somebody dropped the answer without calling it: a bug on our side, logged where it happened.
    #[error(
        "the request was dropped unanswered (a bug in diskstream; please report it with the log)"
    )]
    Dropped,
}

type ReadAnswer = Box<dyn FnOnce(Vec<u8>, Result<(), ReadFailure>) + Send>;
type ExtentsAnswer = Box<dyn FnOnce(Result<Vec<Extent>, ReadFailure>) + Send>;

/// The answer to one read, called exactly once with the buffer back.
///
/// Dropping it unanswered logs an error and reports [`ReadFailure::Dropped`] (with an empty buffer), so that no
/// requester waits for ever on a lost request.
pub struct Done(Option<ReadAnswer>);

impl Done {
    /// Wraps what shall happen with the answer. `answer` may run on any thread, also inside [`BlockSource::read`]
    /// itself; it must neither block nor panic.
    pub fn new(answer: impl FnOnce(Vec<u8>, Result<(), ReadFailure>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers. On success `buffer` is as long as it was in the request and wholly filled.
    pub fn call(mut self, buffer: Vec<u8>, result: Result<(), ReadFailure>) {
        if let Some(answer) = self.0.take() {
            answer(buffer, result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            tracing::error!("a read was dropped unanswered; its requester is told that it failed");
            answer(Vec::new(), Err(ReadFailure::Dropped));
        }
    }
}

/// The answer to one extents query; the same promises as [`Done`].
pub struct ExtentsDone(Option<ExtentsAnswer>);

impl ExtentsDone {
    /// Wraps what shall happen with the answer.
    pub fn new(answer: impl FnOnce(Result<Vec<Extent>, ReadFailure>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers: consecutive extents from the asked offset on, at least one, none empty, together at most the asked
    /// length. Fewer bytes than asked are allowed; the requester asks on.
    pub fn call(mut self, result: Result<Vec<Extent>, ReadFailure>) {
        if let Some(answer) = self.0.take() {
            answer(result);
        }
    }
}

impl Drop for ExtentsDone {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            tracing::error!("an extents query was dropped unanswered; its requester is told");
            answer(Err(ReadFailure::Dropped));
        }
    }
}

/// One read. The range is `offset .. offset + buffer.len()`.
pub struct ReadRequest {
    /// First byte, any alignment.
    pub offset: u64,
    /// What to fill; its length is the number of bytes wanted. Its content at this point means nothing.
    pub buffer: Vec<u8>,
    /// Whom to tell.
    pub done: Done,
}

/// One question for zero ranges.
pub struct ExtentsRequest {
    /// First byte, any alignment.
    pub offset: u64,
    /// Bytes of interest, at least 1.
    pub length: u64,
    /// At most so many extents are wanted (at least 1); the bound of the answer's allocation.
    pub extents_max: usize,
    /// Whom to tell.
    pub done: ExtentsDone,
}

/// A run of bytes that read as zero, or that may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, never 0.
    pub length: u64,
    /// True: reads as zeroes for certain. False: data, or not known.
    pub zero: bool,
}

/// A read-only image that answers asynchronously.
pub trait BlockSource: Send + Sync {
    /// Size of the image in bytes; constant for the life of the source.
    fn size_bytes(&self) -> u64;

    /// Reads. Returns at once or after queueing; the answer comes through `request.done`. A range outside the image is
    /// answered with [`ReadFailure::OutOfRange`].
    fn read(&self, request: ReadRequest);

    /// Tells which ranges are zero. A source that does not know answers one non-zero extent for the whole range.
    fn extents(&self, request: ExtentsRequest);
}

impl<S: BlockSource + ?Sized> BlockSource for Arc<S> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read(&self, request: ReadRequest) {
        (**self).read(request);
    }

    fn extents(&self, request: ExtentsRequest) {
        (**self).extents(request);
    }
}

/// Checks a range against an image's size.
pub fn check_range(offset: u64, length: u64, size: u64) -> Result<(), ReadFailure> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(ReadFailure::OutOfRange { offset, length, size }),
    }
}

/// Appends an extent, merging it with the last one of the same kind. Returns false, and appends nothing, when that
/// would need more than `extents_max` extents.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent, extents_max: usize) -> bool {
    if extent.length == 0 {
        return true;
    }
    if let Some(last) = extents.last_mut()
        && last.zero == extent.zero
    {
        last.length += extent.length;
        return true;
    }
    let room = extents.len() < extents_max.max(1);
    if room {
        extents.push(extent);
    }
    room
}

/// True when every byte is zero. Compares a chunk at a time, so that data is found out at its first bytes.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; 256] = [0; 256];
    bytes.chunks(ZEROES.len()).all(|chunk| chunk == &ZEROES[..chunk.len()])
}
