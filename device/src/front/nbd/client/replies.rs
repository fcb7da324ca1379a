//! Replies, as the client reads them.
use std::collections::HashMap;
use std::io::Read;

use super::ClientError;
use crate::front::nbd::protocol::{
    CHUNK_HEADER_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, state,
};
use crate::front::source::Extent;

/// A chunk without data (status, error text) is at most this long: 8,192 extents.
const SMALL_CHUNK_BYTES_MAX: usize = 64 * 1024 + 4;

/// A request that is not answered completely.
#[derive(Debug)]
pub(super) struct Outstanding {
    offset: u64,
    /// A read's bytes.
    pub(super) buffer: Vec<u8>,
    /// How many of them came.
    covered: usize,
    error: Option<(u32, String)>,
    /// A block status's extents.
    pub(super) extents: Vec<Extent>,
}

impl Outstanding {
    pub(super) fn new(offset: u64, read_bytes: u32) -> Self {
        let buffer = vec![0; usize::try_from(read_bytes).expect("32 bits fit")];
        Self { offset, buffer, covered: 0, error: None, extents: Vec::new() }
    }

    /// The answer, once it is complete.
    pub(super) fn finish(self) -> Result<Self, ClientError> {
        match self.error {
            Some((errno, text)) => Err(ClientError::Server { errno, text }),
            None if self.covered != self.buffer.len() => {
                Err(ClientError::Protocol("a read was answered in part"))
            }
            None => Ok(self),
        }
    }

    /// The part of the buffer that a content chunk describes.
    fn part(&mut self, offset: u64, length: usize) -> Result<&mut [u8], ClientError> {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(length));
        self.covered += length;
        match (start, end) {
            (Some(start), Some(end)) if length > 0 && self.covered <= self.buffer.len() => {
                self.buffer.get_mut(start..end).ok_or(OUTSIDE)
            }
            _ => Err(OUTSIDE),
        }
    }
}

const OUTSIDE: ClientError = ClientError::Protocol("a chunk lies outside its read");

/// Reads one reply or chunk. Returns the cookie of the request that it completes, if it does.
pub(super) fn receive(
    stream: &mut impl Read,
    outstanding: &mut HashMap<u64, Outstanding>,
) -> Result<Option<u64>, ClientError> {
    let mut magic = [0; 4];
    stream.read_exact(&mut magic)?;
    match u32::from_be_bytes(magic) {
        SIMPLE_REPLY_MAGIC => simple(stream, outstanding).map(Some),
        STRUCTURED_REPLY_MAGIC => structured(stream, outstanding),
        _ => Err(ClientError::Protocol("a reply without its magic")),
    }
}

fn find(
    outstanding: &mut HashMap<u64, Outstanding>,
    cookie: u64,
) -> Result<&mut Outstanding, ClientError> {
    outstanding.get_mut(&cookie).ok_or(ClientError::Protocol("a reply to no request"))
}

fn simple(
    stream: &mut impl Read,
    outstanding: &mut HashMap<u64, Outstanding>,
) -> Result<u64, ClientError> {
    let errno = u32::from_be_bytes(array(stream)?);
    let cookie = u64::from_be_bytes(array(stream)?);
    let request = find(outstanding, cookie)?;
    if errno != 0 {
        request.error = Some((errno, String::new()));
    } else {
        stream.read_exact(&mut request.buffer)?;
        request.covered = request.buffer.len();
    }
    Ok(cookie)
}

fn structured(
    stream: &mut impl Read,
    outstanding: &mut HashMap<u64, Outstanding>,
) -> Result<Option<u64>, ClientError> {
    let header: [u8; CHUNK_HEADER_BYTES - 4] = array(stream)?;
    let field = |at: usize, length: usize| {
        header[at..at + length].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (flags, kind, cookie) = (field(0, 2), field(2, 2), field(4, 8));
    let length = usize::try_from(field(12, 4)).expect("32 bits fit");
    let request = find(outstanding, cookie)?;
    match u16::try_from(kind).expect("16 bits") {
        chunk::NONE if length == 0 => {}
        chunk::OFFSET_DATA if length > 8 => {
            let offset = u64::from_be_bytes(array(stream)?);
            stream.read_exact(request.part(offset, length - 8)?)?;
        }
        chunk::OFFSET_HOLE if length == 12 => {
            let offset = u64::from_be_bytes(array(stream)?);
            let hole = u32::from_be_bytes(array(stream)?);
            request.part(offset, usize::try_from(hole).expect("32 bits fit"))?.fill(0);
        }
        chunk::BLOCK_STATUS => {
            let payload = small(stream, length)?;
            let (extents, rest) = payload.get(4..).unwrap_or_default().as_chunks::<8>();
            if !rest.is_empty() {
                return Err(ClientError::Protocol("a ragged block status"));
            }
            request.extents = extents.iter().map(extent).collect();
        }
        kind if kind & (1 << 15) != 0 && length >= 6 => {
            let payload = small(stream, length)?;
            let errno = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
            let text_bytes = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            let text = payload.get(6..6 + text_bytes).unwrap_or_default();
            request.error = Some((errno, String::from_utf8_lossy(text).into_owned()));
        }
        _ => return Err(ClientError::Protocol("a chunk of unknown shape")),
    }
    Ok((flags & u64::from(chunk::FLAG_DONE) != 0).then_some(cookie))
}

fn extent(bytes: &[u8; 8]) -> Extent {
    let [a, b, c, d, e, f, g, h] = *bytes;
    let flags = u32::from_be_bytes([e, f, g, h]);
    Extent { length: u64::from(u32::from_be_bytes([a, b, c, d])), zero: flags & state::ZERO != 0 }
}

fn small(stream: &mut impl Read, length: usize) -> Result<Vec<u8>, ClientError> {
    if length > SMALL_CHUNK_BYTES_MAX {
        return Err(ClientError::Protocol("a chunk of absurd length"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

fn array<const N: usize>(stream: &mut impl Read) -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
