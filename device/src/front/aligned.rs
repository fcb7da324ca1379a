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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::MemorySource;
    use proptest::prelude::*;
    use std::sync::mpsc::channel;

    /// Asserts what the session is promised.
    struct Strict(MemorySource);

    impl Strict {
        fn check(&self, offset: u64, length: u64) {
            let end = offset + length;
            assert_eq!(offset % UNIT_BYTES, 0);
            assert!(end.is_multiple_of(UNIT_BYTES) || end == self.0.size_bytes());
        }
    }

    impl BlockSource for Strict {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn read(&self, request: ReadRequest) {
            self.check(request.offset, request.buffer.len() as u64);
            self.0.read(request);
        }
        fn extents(&self, request: ExtentsRequest) {
            self.check(request.offset, request.length);
            self.0.extents(request);
        }
    }

    const SIZE: usize = 5 * 4096 + 1234;

    fn image() -> Vec<u8> {
        let byte = |at| if at / 4096 % 2 == 1 { 0 } else { u8::try_from(at % 255).unwrap() + 1 };
        (0..SIZE).map(byte).collect()
    }

    proptest! {
        #[test]
        fn any_range_reads_right(offset in 0..SIZE, length in 0..SIZE) {
            let source = UnitAligned::new(Strict(MemorySource::new(image())));
            let (sender, receiver) = channel();
            let done = Done::new(move |buffer, result| sender.send((buffer, result)).unwrap());
            source.read(ReadRequest { offset: offset as u64, buffer: vec![0; length], done });
            let (buffer, result) = receiver.recv().unwrap();
            prop_assert_eq!(buffer.len(), length);
            match image().get(offset..offset + length) {
                Some(wanted) => prop_assert!(result.is_ok() && buffer == wanted),
                None => {
                    let outside = matches!(result, Err(ReadFailure::OutOfRange { .. }));
                    prop_assert!(outside);
                }
            }
        }

        #[test]
        fn any_range_is_mapped_right(offset in 0..SIZE, length in 1..SIZE, extents_max in 1..9usize) {
            let length = length.min(SIZE - offset);
            let source = UnitAligned::new(Strict(MemorySource::new(image())));
            let (sender, receiver) = channel();
            let done = ExtentsDone::new(move |result| sender.send(result).unwrap());
            let (start, asked) = (offset as u64, length as u64);
            source.extents(ExtentsRequest { offset: start, length: asked, extents_max, done });
            let extents = receiver.recv().unwrap().unwrap();
            prop_assert!(!extents.is_empty() && extents.len() <= extents_max);
            let mut at = offset;
            for extent in extents {
                let end = at + usize::try_from(extent.length).unwrap();
                prop_assert!(end > at && end <= offset + length);
                prop_assert_eq!(extent.zero, image()[at..end].iter().all(|byte| *byte == 0));
                at = end;
            }
        }
    }
}
