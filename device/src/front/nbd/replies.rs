//! Replies of the transmission phase, and how a batch of them leaves in one vectored write.
use std::io::{self, IoSlice, Write};
use std::ops::Range;

use super::handshake::BASE_ALLOCATION_ID;
use super::protocol::{
    CHUNK_HEADER_BYTES, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
    state,
};
use crate::front::source::{Extent, UNIT_BYTES, is_zero};

/// Chunks of one read's reply; beyond it, holes are sent as data. Keeps a reply's headers below 10 KiB.
const CHUNKS_MAX: usize = 256;
/// Linux takes at most 1024 slices in one `writev` (`IOV_MAX`).
const SLICES_MAX: usize = 1024;
/// Replies written at once. Guessed: small replies share a system call, large ones fill one anyway.
pub(super) const BATCH_MAX: usize = 32;

/// What a request came to.
pub(super) enum Body {
    /// Done, without data.
    Ok,
    /// Failed with this error number and text.
    Error(u32, String),
    /// A read's bytes.
    Data {
        offset: u64,
        bytes: Vec<u8>,
        /// The client wants one chunk.
        unfragmented: bool,
    },
    /// A block status.
    Extents(Vec<Extent>),
}

/// One reply, on its way.
pub(super) struct Reply {
    pub cookie: u64,
    /// Bytes of the connection's budget to give back when it is written.
    pub claimed_bytes: u64,
    pub body: Body,
}

/// Writes `replies`. `heads` is scratch space that keeps its allocation from batch to batch.
pub(super) fn write_replies(
    stream: &mut impl Write,
    replies: &[Reply],
    structured: bool,
    heads: &mut Vec<u8>,
) -> io::Result<()> {
    heads.clear();
    let mut layout = Layout { heads, pieces: Vec::new() };
    for (index, reply) in replies.iter().enumerate() {
        layout.add(index, reply, structured);
    }
    let Layout { heads, pieces } = layout;
    let mut slices: Vec<IoSlice<'_>> = pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Head(range) => IoSlice::new(&heads[range]),
            Piece::Data(index, range) => match &replies[index].body {
                Body::Data { bytes, .. } => IoSlice::new(&bytes[range]),
                _ => unreachable!("only data replies have data pieces"),
            },
        })
        .collect();
    write_all_vectored(stream, &mut slices)
}

fn write_all_vectored(stream: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // drops leading empty ones
    while !slices.is_empty() {
        let count = slices.len().min(SLICES_MAX);
        match stream.write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

enum Piece {
    /// Bytes of `heads`.
    Head(Range<usize>),
    /// Bytes of the reply with this index.
    Data(usize, Range<usize>),
}

struct Layout<'a> {
    heads: &'a mut Vec<u8>,
    pieces: Vec<Piece>,
}

impl Layout<'_> {
    fn add(&mut self, index: usize, reply: &Reply, structured: bool) {
        match &reply.body {
            Body::Ok => self.simple(reply.cookie, 0),
            Body::Error(errno, _) if !structured => self.simple(reply.cookie, *errno),
            Body::Error(errno, text) => self.error(reply.cookie, *errno, text),
            Body::Data { bytes, .. } if !structured => {
                self.simple(reply.cookie, 0);
                self.pieces.push(Piece::Data(index, 0..bytes.len()));
            }
            Body::Data { offset, bytes, unfragmented } => {
                self.read(index, reply.cookie, *offset, bytes, *unfragmented);
            }
            Body::Extents(extents) => self.block_status(reply.cookie, extents),
        }
    }

    /// Appends header bytes, joining them with the header before them where nothing lies between.
    fn head(&mut self, bytes: &[u8]) {
        let start = self.heads.len();
        self.heads.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Head(range)) if range.end == start => range.end = self.heads.len(),
            _ => self.pieces.push(Piece::Head(start..self.heads.len())),
        }
    }

    fn simple(&mut self, cookie: u64, errno: u32) {
        let mut bytes = [0; SIMPLE_REPLY_BYTES];
        bytes[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&errno.to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        self.head(&bytes);
    }

    fn chunk(&mut self, cookie: u64, kind: u16, last: bool, length: usize) {
        let length = u32::try_from(length).expect("requests are bounded far below 4 GiB");
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        bytes[16..20].copy_from_slice(&length.to_be_bytes());
        self.head(&bytes);
    }

    fn error(&mut self, cookie: u64, errno: u32, text: &str) {
        let text = &text.as_bytes()[..text.len().min(1024)];
        self.chunk(cookie, chunk::ERROR, true, 6 + text.len());
        self.head(&errno.to_be_bytes());
        self.head(&u16::try_from(text.len()).expect("cut to 1024").to_be_bytes());
        self.head(text);
    }

    fn read(&mut self, index: usize, cookie: u64, offset: u64, bytes: &[u8], unfragmented: bool) {
        if bytes.is_empty() {
            return self.chunk(cookie, chunk::NONE, true, 0);
        }
        let runs = if unfragmented {
            vec![Run { range: 0..bytes.len(), zero: false }]
        } else {
            zero_runs(bytes, offset)
        };
        let count = runs.len();
        for (number, Run { range, zero }) in runs.into_iter().enumerate() {
            let last = number + 1 == count;
            let at = (offset + range.start as u64).to_be_bytes();
            if zero {
                self.chunk(cookie, chunk::OFFSET_HOLE, last, 12);
                self.head(&at);
                let length = u32::try_from(range.len()).expect("requests are bounded");
                self.head(&length.to_be_bytes());
            } else {
                self.chunk(cookie, chunk::OFFSET_DATA, last, 8 + range.len());
                self.head(&at);
                self.pieces.push(Piece::Data(index, range));
            }
        }
    }

    fn block_status(&mut self, cookie: u64, extents: &[Extent]) {
        self.chunk(cookie, chunk::BLOCK_STATUS, true, 4 + 8 * extents.len());
        self.head(&BASE_ALLOCATION_ID.to_be_bytes());
        for extent in extents {
            let length = u32::try_from(extent.length).expect("cut to a 32-bit request");
            let flags = if extent.zero { state::HOLE | state::ZERO } else { 0 };
            self.head(&length.to_be_bytes());
            self.head(&flags.to_be_bytes());
        }
    }
}

struct Run {
    range: Range<usize>,
    zero: bool,
}

/// Splits a read into runs of zero units and runs of data. The zero test ends at the first byte that is not zero, so
/// data costs next to nothing; zeroes cost one pass and save the copy through the socket.
fn zero_runs(bytes: &[u8], offset: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let in_unit = UNIT_BYTES - (offset + at as u64) % UNIT_BYTES;
        let end = (at + usize::try_from(in_unit).expect("a unit")).min(bytes.len());
        let zero = runs.len() < CHUNKS_MAX && is_zero(&bytes[at..end]);
        match runs.last_mut() {
            Some(run) if run.zero == zero => run.range.end = end,
            _ => runs.push(Run { range: at..end, zero }),
        }
        at = end;
    }
    runs
}
