//! [`UnitAligned`]: the one place that rounds to whole units.
use super::source::{
    BlockSource, Done, Extent, ExtentsDone, ExtentsRequest, ReadFailure, ReadRequest, UNIT_BYTES,
    check_range, push_extent,
};

/// Lets callers ask for any range of a source that only serves whole units.
///
/// What the inner source sees: the offset is a multiple of [`UNIT_BYTES`], and so is the length, except that a range
/// never passes the end of the image (the last unit of an image may be short).
///
/// Buffers: an aligned request passes through untouched. Otherwise the *caller's* buffer is grown, read into, and cut
/// back: a ragged tail costs nothing, a ragged head one move of the bytes inside the same buffer.
pub struct UnitAligned<S> {
    inner: S,
}

impl<S: BlockSource> UnitAligned<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The wrapped source.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The unit-aligned range around `offset .. offset + length`, clipped to the image: (start, end).
    fn widen(&self, offset: u64, length: u64) -> Result<(u64, u64), ReadFailure> {
        let size = self.inner.size_bytes();
        check_range(offset, length, size)?;
        let start = offset - offset % UNIT_BYTES;
        let end = (offset + length).div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES).min(size);
        Ok((start, end))
    }
}

impl<S: BlockSource> BlockSource for UnitAligned<S> {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read(&self, request: ReadRequest) {
        let ReadRequest { offset, mut buffer, done } = request;
        let wanted = buffer.len();
        let (start, end) = match self.widen(offset, wanted as u64) {
            Ok(range) => range,
            Err(failure) => return done.call(buffer, Err(failure)),
        };
        if wanted == 0 {
            return done.call(buffer, Ok(()));
        }
        let head = usize_of(offset - start);
        let length = usize_of(end - start);
        if length == wanted {
            return self.inner.read(ReadRequest { offset, buffer, done });
        }
        buffer.resize(length, 0);
        let cut = Done::new(move |mut buffer: Vec<u8>, result| {
            if result.is_ok() {
                buffer.copy_within(head..head + wanted, 0);
            }
            buffer.truncate(wanted);
            done.call(buffer, result);
        });
        self.inner.read(ReadRequest { offset: start, buffer, done: cut });
    }

    fn extents(&self, request: ExtentsRequest) {
        let ExtentsRequest { offset, length, extents_max, done } = request;
        let (start, end) = match self.widen(offset, length) {
            Ok(range) => range,
            Err(failure) => return done.call(Err(failure)),
        };
        let head = offset - start;
        let cut = ExtentsDone::new(move |result: Result<Vec<Extent>, ReadFailure>| {
            done.call(result.map(|extents| clip(&extents, head, length, extents_max)));
        });
        let (offset, length) = (start, end - start);
        self.inner.extents(ExtentsRequest { offset, length, extents_max, done: cut });
    }
}

/// Cuts `head` bytes off the front and everything past `length` bytes after it.
fn clip(extents: &[Extent], head: u64, length: u64, extents_max: usize) -> Vec<Extent> {
    let (mut skip, mut left) = (head, length);
    let mut clipped = Vec::new();
    for extent in extents {
        let skipped = skip.min(extent.length);
        skip -= skipped;
        let taken = (extent.length - skipped).min(left);
        left -= taken;
        push_extent(&mut clipped, Extent { length: taken, zero: extent.zero }, extents_max);
    }
    if clipped.is_empty() {
        // The inner source covered less than the rounding added; "may hold anything" is always a true answer.
        clipped.push(Extent { length, zero: false });
    }
    clipped
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a range that holds a caller's buffer fits the address space")
}
