//! A small NBD client: for tests, and for `quickstart` to check every byte through the export.
//!
//! Blocking, one thread, many requests in flight. It speaks structured replies and `base:allocation` where the server
//! does and simple replies otherwise. What the server sends is checked before it is believed.
mod connect;
mod replies;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;

use self::replies::Outstanding;
use super::protocol::{REQUEST_MAGIC, command, command_flag, export_flag};
use crate::front::source::Extent;

/// Why a request or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed, or the server was silent for longer than the timeout.
    #[error("NBD connection: {0}")]
    Stream(#[from] io::Error),
    /// The server refused an option.
    #[error("NBD server refused {what}: {text}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        text: String,
    },
    /// The server broke the protocol.
    #[error("NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server answered a request with an error.
    #[error("NBD server reports error {errno} ({text})")]
    Server {
        /// An `errno` value.
        errno: u32,
        /// What it said; may be empty.
        text: String,
    },
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    size_bytes: u64,
    flags: u16,
    block_status: bool,
    next_cookie: u64,
    outstanding: HashMap<u64, Outstanding>,
}

/// One request, as it is sent.
struct Request<'a> {
    command: u16,
    flags: u16,
    offset: u64,
    length: u32,
    payload: &'a [u8],
}

impl Client {
    /// Size of the export in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the export refuses writes.
    pub fn read_only(&self) -> bool {
        self.flags & export_flag::READ_ONLY != 0
    }

    /// Whether [`block_status`](Self::block_status) may be asked.
    pub fn has_block_status(&self) -> bool {
        self.block_status
    }

    /// Fills `buffer` from `offset`.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ClientError> {
        let length = length_of(buffer)?;
        let cookie = self.send(&Request::new(command::READ, offset, length))?;
        let answer = self.wait(cookie)?;
        buffer.copy_from_slice(&answer.buffer);
        Ok(())
    }

    /// Reads `range` with up to `depth` requests of `chunk_bytes` in flight, and hands the pieces over in order.
    ///
    /// # Errors
    /// The first error of the server, the connection, or `each` ends it; requests in flight are then abandoned, so the
    /// client should be dropped.
    pub fn read_pipelined(
        &mut self,
        range: Range<u64>,
        chunk_bytes: u32,
        depth: usize,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let (mut ask, mut give) = (range.start, range.start);
        let mut in_flight = HashMap::new();
        let mut ready = BTreeMap::new();
        while give < range.end {
            while ask < range.end && in_flight.len() + ready.len() < depth.max(1) {
                let length = (range.end - ask).min(u64::from(chunk_bytes.max(1)));
                let length = u32::try_from(length).expect("cut to 32 bits");
                let cookie = self.send(&Request::new(command::READ, ask, length))?;
                in_flight.insert(cookie, ask);
                ask += u64::from(length);
            }
            let (cookie, answer) = self.receive_any()?;
            let offset = in_flight.remove(&cookie).ok_or(ClientError::Protocol("stray reply"))?;
            ready.insert(offset, answer.finish()?.buffer);
            while let Some(bytes) = ready.remove(&give) {
                each(give, &bytes)?;
                give += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        let length = length_of(bytes)?;
        let request = Request { payload: bytes, ..Request::new(command::WRITE, offset, length) };
        self.call(&request)
    }

    /// Discards a range.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        self.call(&Request::new(command::TRIM, offset, length))
    }

    /// Zeroes a range; `allocate` keeps storage for it.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        length: u32,
        allocate: bool,
    ) -> Result<(), ClientError> {
        let flags = if allocate { command_flag::NO_HOLE } else { 0 };
        self.call(&Request { flags, ..Request::new(command::WRITE_ZEROES, offset, length) })
    }

    /// Waits until what was answered so far is as safe as the server makes it.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(&Request::new(command::FLUSH, 0, 0))
    }

    /// Which parts of the range are zero; may cover less than was asked, never nothing.
    pub fn block_status(&mut self, offset: u64, length: u32) -> Result<Vec<Extent>, ClientError> {
        if !self.block_status {
            return Err(ClientError::Protocol("base:allocation was not negotiated"));
        }
        let cookie = self.send(&Request::new(command::BLOCK_STATUS, offset, length))?;
        let extents = self.wait(cookie)?.extents;
        match extents.iter().map(|extent| extent.length).sum::<u64>() {
            1.. if extents.iter().all(|extent| extent.length > 0) => Ok(extents),
            _ => Err(ClientError::Protocol("a block status without extents")),
        }
    }

    /// Says goodbye.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.send(&Request::new(command::DISC, 0, 0)).map(drop)
    }

    fn call(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        let cookie = self.send(request)?;
        self.wait(cookie).map(drop)
    }

    fn send(&mut self, request: &Request<'_>) -> Result<u64, ClientError> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = Vec::with_capacity(28);
        bytes.extend(REQUEST_MAGIC.to_be_bytes());
        bytes.extend(request.flags.to_be_bytes());
        bytes.extend(request.command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(request.offset.to_be_bytes());
        bytes.extend(request.length.to_be_bytes());
        self.writer.write_all(&bytes)?;
        self.writer.write_all(request.payload)?;
        let read = if request.command == command::READ { request.length } else { 0 };
        self.outstanding.insert(cookie, Outstanding::new(request.offset, read));
        Ok(cookie)
    }

    /// Waits for one request; answers of others stay for their turn.
    fn wait(&mut self, cookie: u64) -> Result<Outstanding, ClientError> {
        loop {
            let (finished, answer) = self.receive_any()?;
            if finished == cookie {
                return answer.finish();
            }
        }
    }

    /// Waits for any request to be answered completely.
    fn receive_any(&mut self) -> Result<(u64, Outstanding), ClientError> {
        loop {
            if let Some(cookie) = replies::receive(&mut self.reader, &mut self.outstanding)? {
                let answer = self.outstanding.remove(&cookie);
                return Ok((cookie, answer.expect("receive names an outstanding request")));
            }
        }
    }
}

impl Request<'_> {
    fn new(command: u16, offset: u64, length: u32) -> Self {
        Self { command, flags: 0, offset, length, payload: &[] }
    }
}

fn length_of(bytes: &[u8]) -> Result<u32, ClientError> {
    u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length <= 32 << 20)
        .ok_or(ClientError::Protocol("a request may carry 32 MiB at most"))
}
