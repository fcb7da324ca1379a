//! What several targets share: input taken apart, and datagrams that pass the first checks.

use diskstream_wire::header::{Flags, Header};
use diskstream_wire::{HEADER_BYTES, Kind};

/// Bytes of tail for each step of the input's byte: 255 of them hold a fragment of 1376 bytes.
pub const TAIL_STEP: usize = 6;

/// Takes the input apart from the front.
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Over all of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Cursor<'a> {
        Cursor(input)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A datagram whose header is right: kind, flags and length of the tail from the input, then its bytes; zeros where the
/// input ends. One in 32 kinds is the input's own byte.
pub fn datagram(input: &mut Cursor<'_>, tag: u64) -> Vec<u8> {
    let choice = input.byte().unwrap_or(0);
    let flags = Flags(u16::from(input.byte().unwrap_or(0) & 0x1f));
    let tail = usize::from(input.byte().unwrap_or(0)) * TAIL_STEP;
    let (kind, fixed) = match Kind::ALL.get(usize::from(choice)) {
        Some(kind) => (kind.code(), kind.bytes()),
        None => (choice, HEADER_BYTES),
    };
    let mut bytes = vec![0; fixed + tail];
    let body = input.bytes(bytes.len() - HEADER_BYTES);
    bytes[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
    let length = bytes.len();
    Header::store(kind, flags, length, tag, &mut bytes);
    bytes
}

/// The 64 bits at `at`; zero where there are none.
#[must_use]
pub fn peek_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}
