//! A front end's request while its units are worked on: it is answered when the last unit is.
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::front::disk::{WriteDone, WriteFailure};
use crate::front::source::{Done, ReadFailure};

/// An answer that is due. It is given after the cache's lock is released, because it runs foreign code.
pub(super) enum Answer {
    Read(Done, Vec<u8>, Result<(), ReadFailure>),
    Write(WriteDone, Result<(), WriteFailure>),
}

impl Answer {
    pub(super) fn give(self) {
        match self {
            Self::Read(done, buffer, result) => done.call(buffer, result),
            Self::Write(done, result) => done.call(result),
        }
    }
}

struct WriteState {
    /// Units not finished yet, plus one while the request is still being split.
    left: usize,
    failure: Option<WriteFailure>,
    done: Option<WriteDone>,
}

/// A write or a zeroing.
pub(super) struct Write {
    /// What to write; empty for a zeroing.
    pub(super) bytes: Vec<u8>,
    state: Mutex<WriteState>,
}

impl Write {
    pub(super) fn new(bytes: Vec<u8>, done: WriteDone) -> Arc<Self> {
        let state = Mutex::new(WriteState { left: 1, failure: None, done: Some(done) });
        Arc::new(Self { bytes, state })
    }

    fn lock(&self) -> MutexGuard<'_, WriteState> {
        self.state.lock().expect("no code panics while it holds a request's lock")
    }

    pub(super) fn add_piece(&self) {
        self.lock().left += 1;
    }

    /// Finishes a piece; the last one brings the answer. The first failure is the one reported.
    pub(super) fn finish_piece(&self, result: Result<(), WriteFailure>) -> Option<Answer> {
        let mut state = self.lock();
        if let Err(failure) = result {
            state.failure.get_or_insert(failure);
        }
        state.left -= 1;
        if state.left > 0 {
            return None;
        }
        let done = state.done.take().expect("a request is finished once");
        Some(Answer::Write(done, state.failure.take().map_or(Ok(()), Err)))
    }
}

struct ReadState {
    left: usize,
    buffer: Vec<u8>,
    failure: Option<ReadFailure>,
    done: Option<Done>,
}

/// A read that is put together from several places.
pub(super) struct Read {
    state: Mutex<ReadState>,
}

impl Read {
    pub(super) fn new(buffer: Vec<u8>, done: Done) -> Arc<Self> {
        let state = ReadState { left: 1, buffer, failure: None, done: Some(done) };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, ReadState> {
        self.state.lock().expect("no code panics while it holds a request's lock")
    }

    pub(super) fn add_piece(&self) {
        self.lock().left += 1;
    }

    /// Fills a part of the buffer.
    pub(super) fn put(&self, range: Range<usize>, bytes: &[u8]) {
        self.lock().buffer[range].copy_from_slice(bytes);
    }

    /// Zeroes a part of the buffer.
    pub(super) fn put_zeroes(&self, range: Range<usize>) {
        self.lock().buffer[range].fill(0);
    }

    /// As [`Write::finish_piece`].
    pub(super) fn finish_piece(&self, result: Result<(), ReadFailure>) -> Option<Answer> {
        let mut state = self.lock();
        if let Err(failure) = result {
            state.failure.get_or_insert(failure);
        }
        state.left -= 1;
        if state.left > 0 {
            return None;
        }
        let done = state.done.take().expect("a request is finished once");
        let buffer = std::mem::take(&mut state.buffer);
        Some(Answer::Read(done, buffer, state.failure.take().map_or(Ok(()), Err)))
    }
}

/// One unit's part of a write.
pub(super) struct WritePiece {
    pub(super) write: Arc<Write>,
    pub(super) unit: u64,
    /// Bytes inside the unit.
    pub(super) within: Range<usize>,
    pub(super) payload: Payload,
}

/// What a write piece puts there.
#[derive(Clone, Copy)]
pub(super) enum Payload {
    /// The request's bytes from here on.
    Bytes(usize),
    /// Zeroes; with storage if asked.
    Zeroes { allocate: bool },
}

impl WritePiece {
    /// Whether nothing of a unit with `unit_bytes` bytes survives the piece.
    pub(super) fn covers(&self, unit_bytes: usize) -> bool {
        self.within.start == 0 && self.within.end >= unit_bytes
    }

    /// Applies the piece to its unit's bytes.
    pub(super) fn apply(&self, unit: &mut [u8]) {
        let target = &mut unit[self.within.clone()];
        match self.payload {
            Payload::Bytes(from) => {
                let bytes = &self.write.bytes[from..from + target.len()];
                target.copy_from_slice(bytes);
            }
            Payload::Zeroes { .. } => target.fill(0),
        }
    }
}

/// One unit's part of a read.
pub(super) struct ReadPiece {
    pub(super) read: Arc<Read>,
    pub(super) unit: u64,
    /// Bytes inside the unit.
    pub(super) within: Range<usize>,
    /// Where they go in the request's buffer.
    pub(super) to: usize,
}

impl ReadPiece {
    pub(super) fn target(&self) -> Range<usize> {
        self.to..self.to + self.within.len()
    }
}
