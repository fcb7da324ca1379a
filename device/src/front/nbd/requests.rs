//! The reader thread: requests come off the socket, are checked, and start.
use std::io::{self, Read};
use std::sync::Arc;

use super::connection::{Connection, shutdown_body};
use super::counters::add;
use super::protocol::{REQUEST_BYTES, REQUEST_MAGIC, command, command_flag, errno};
use super::replies::Body;
use crate::front::disk::{Disk, WriteDone, WriteFailure, WriteRequest, ZeroMode, ZeroRequest};
use crate::front::source::{
    Done, Extent, ExtentsDone, ExtentsRequest, ReadFailure, ReadRequest, push_extent,
};

/// Extents in one block status reply, and so the bound of its size: 8 KiB. Clients ask on.
const EXTENTS_MAX: usize = 1024;
/// What a request without a payload claims of the connection's bytes: about what its bookkeeping takes.
const SMALL_CLAIM_BYTES: u64 = 256;

/// Why the reader stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReaderEnd {
    #[error("the client disconnected")]
    Disconnect,
    #[error("the client hung up")]
    HangUp,
    #[error("the connection failed: {0}")]
    Stream(io::Error),
    #[error("a request began with {0:#010x} instead of its magic")]
    Magic(u32),
    #[error("a write of {length} bytes exceeds the announced maximum of {max}")]
    WriteTooBig { length: u32, max: u32 },
}

impl From<io::Error> for ReaderEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::HangUp,
            _ => Self::Stream(error),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl Request {
    fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, ReaderEnd> {
        fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            bytes[at..at + N].try_into().expect("a constant range inside a request")
        }
        let magic = u32::from_be_bytes(field(bytes, 0));
        if magic != REQUEST_MAGIC {
            return Err(ReaderEnd::Magic(magic));
        }
        Ok(Self {
            flags: u16::from_be_bytes(field(bytes, 4)),
            command: u16::from_be_bytes(field(bytes, 6)),
            cookie: u64::from_be_bytes(field(bytes, 8)),
            offset: u64::from_be_bytes(field(bytes, 16)),
            length: u32::from_be_bytes(field(bytes, 24)),
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The flags that mean something for this command; others are refused with `EINVAL`. `FUA` must be accepted on
    /// every command (doc/proto.md, "Command flags").
    fn flags_allowed(&self) -> u16 {
        use command_flag as f;
        f::FUA
            | match self.command {
                command::READ => f::DF,
                command::WRITE_ZEROES => f::NO_HOLE | f::FAST_ZERO,
                command::BLOCK_STATUS => f::REQ_ONE,
                _ => 0,
            }
    }
}

/// What the reader serves requests with.
pub(super) struct Service {
    pub connection: Arc<Connection>,
    pub disk: Arc<dyn Disk>,
    pub base_allocation: bool,
    pub request_bytes_max: u32,
}

impl Service {
    /// Reads requests until the client or the server ends it.
    pub(super) fn read_loop(&self, stream: &mut impl Read) -> ReaderEnd {
        loop {
            if let Err(end) = self.serve_one(stream) {
                return end;
            }
        }
    }

    fn serve_one(&self, stream: &mut impl Read) -> Result<(), ReaderEnd> {
        let mut bytes = [0; REQUEST_BYTES];
        stream.read_exact(&mut bytes)?;
        let request = Request::decode(&bytes)?;
        if request.command == command::DISC {
            return Err(ReaderEnd::Disconnect);
        }
        let payload_bytes = self.payload_bytes(&request)?;
        let checked = self.check(&request);
        let claim = match request.command {
            command::READ if checked.is_ok() => u64::from(request.length),
            command::WRITE => u64::from(request.length),
            _ => SMALL_CLAIM_BYTES,
        };
        // Room is claimed before anything is allocated: what a client claims costs us no more than our own bounds.
        let token = self.connection.claim(request.cookie, claim).ok_or(ReaderEnd::HangUp)?;
        let mut payload = vec![0; payload_bytes];
        stream.read_exact(&mut payload)?;
        let refused = match checked {
            _ if self.connection.is_server_stopping() => Some(shutdown_body()),
            Err((errno, text)) => Some(Body::Error(errno, text)),
            Ok(()) => None,
        };
        match refused {
            Some(body) => self.connection.complete(token, body),
            None => self.start(&request, payload, token),
        }
        Ok(())
    }

    /// Bytes that follow the request. A write beyond the announced maximum ends the connection: skipping up to 4 GiB
    /// for a client that ignores what it was told helps nobody.
    fn payload_bytes(&self, request: &Request) -> Result<usize, ReaderEnd> {
        if request.command != command::WRITE {
            return Ok(0);
        }
        let (length, max) = (request.length, self.request_bytes_max);
        if length > max {
            return Err(ReaderEnd::WriteTooBig { length, max });
        }
        Ok(usize::try_from(length).expect("32 bits fit"))
    }

    /// Checks what can be known before the request starts.
    fn check(&self, request: &Request) -> Result<(), (u32, String)> {
        let size = self.disk.size_bytes();
        let Request { command, offset, length, .. } = *request;
        let writes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        let unknown = request.flags & !request.flags_allowed();
        if unknown != 0 {
            return Err((
                errno::EINVAL,
                format!("unknown flags {unknown:#x} for command {command}"),
            ));
        }
        if writes && self.disk.read_only() {
            return Err((errno::EPERM, WriteFailure::ReadOnly.to_string()));
        }
        match command {
            command::FLUSH => return Ok(()),
            command::BLOCK_STATUS if !self.base_allocation => {
                let text = "negotiate base:allocation before asking for block status";
                return Err((errno::EINVAL, text.to_owned()));
            }
            command::BLOCK_STATUS if length == 0 => {
                return Err((errno::EINVAL, "block status of no bytes".to_owned()));
            }
            command::READ if length > self.request_bytes_max => {
                let max = self.request_bytes_max;
                return Err((errno::EINVAL, format!("a read may ask for {max} bytes at most")));
            }
            command::WRITE_ZEROES
                if request.has(command_flag::FAST_ZERO) && request.has(command_flag::NO_HOLE) =>
            {
                let text = "zeroing with storage is not faster than writing";
                return Err((errno::ENOTSUP, text.to_owned()));
            }
            command::READ | command::BLOCK_STATUS => {}
            _ if writes => {}
            _ => return Err((errno::EINVAL, format!("unknown command {command}"))),
        }
        match offset.checked_add(u64::from(length)) {
            Some(end) if end <= size => Ok(()),
            _ => {
                let errno = if writes { errno::ENOSPC } else { errno::EINVAL };
                Err((errno, format!("{offset}+{length} lies outside the disk of {size} bytes")))
            }
        }
    }

    fn start(&self, request: &Request, payload: Vec<u8>, token: u64) {
        let counters = &self.connection.counters;
        let length = u64::from(request.length);
        match request.command {
            command::READ => {
                add(&counters.reads_total, 1);
                add(&counters.read_bytes_total, length);
                self.read(request, token);
            }
            command::WRITE => {
                add(&counters.writes_total, 1);
                add(&counters.write_bytes_total, length);
                let done = self.write_done(request.has(command_flag::FUA), token);
                let offset = request.offset;
                self.disk.write(WriteRequest { offset, bytes: payload, done });
            }
            command::TRIM | command::WRITE_ZEROES => {
                add(&counters.zeroes_total, 1);
                let mode = match request.command {
                    command::TRIM => ZeroMode::Discard,
                    _ if request.has(command_flag::NO_HOLE) => ZeroMode::ZeroAllocated,
                    _ => ZeroMode::Zero,
                };
                let done = self.write_done(request.has(command_flag::FUA), token);
                self.disk.zero(ZeroRequest { offset: request.offset, length, mode, done });
            }
            command::FLUSH => {
                add(&counters.flushes_total, 1);
                self.disk.flush(self.write_done(false, token));
            }
            command::BLOCK_STATUS => {
                add(&counters.block_status_total, 1);
                self.block_status(request, token);
            }
            other => unreachable!("command {other} was refused by check"),
        }
    }

    fn read(&self, request: &Request, token: u64) {
        let connection = Arc::clone(&self.connection);
        let offset = request.offset;
        let unfragmented = request.has(command_flag::DF);
        let done = Done::new(move |bytes, result| {
            let body = match result {
                Ok(()) => Body::Data { offset, bytes, unfragmented },
                Err(failure) => Body::Error(read_errno(&failure), failure.to_string()),
            };
            connection.complete(token, body);
        });
        let length = usize::try_from(request.length).expect("32 bits fit");
        if length == 0 {
            return done.call(Vec::new(), Ok(()));
        }
        self.disk.read(ReadRequest { offset, buffer: vec![0; length], done });
    }

    fn block_status(&self, request: &Request, token: u64) {
        let connection = Arc::clone(&self.connection);
        let length = u64::from(request.length);
        let extents_max = if request.has(command_flag::REQ_ONE) { 1 } else { EXTENTS_MAX };
        let done = ExtentsDone::new(move |result| {
            let body = match result {
                Ok(extents) => Body::Extents(fit(&extents, length, extents_max)),
                Err(failure) => Body::Error(read_errno(&failure), failure.to_string()),
            };
            connection.complete(token, body);
        });
        self.disk.extents(ExtentsRequest { offset: request.offset, length, extents_max, done });
    }

    /// The answer to a write; with `FUA` a flush comes before it.
    fn write_done(&self, fua: bool, token: u64) -> WriteDone {
        let connection = Arc::clone(&self.connection);
        let answer = WriteDone::new(move |result: Result<(), WriteFailure>| {
            let body = match result {
                Ok(()) => Body::Ok,
                Err(failure) => Body::Error(write_errno(&failure), failure.to_string()),
            };
            connection.complete(token, body);
        });
        if !fua {
            return answer;
        }
        let disk = Arc::clone(&self.disk);
        WriteDone::new(move |result| match result {
            Ok(()) => disk.flush(answer),
            failed => answer.call(failed),
        })
    }
}

/// Holds a disk's answer to the protocol's rules: at least one extent, none empty, no more bytes than asked for.
fn fit(extents: &[Extent], length: u64, extents_max: usize) -> Vec<Extent> {
    let mut left = length;
    let mut fitting = Vec::with_capacity(extents.len().min(extents_max));
    for extent in extents {
        let taken = extent.length.min(left);
        left -= taken;
        push_extent(&mut fitting, Extent { length: taken, zero: extent.zero }, extents_max);
    }
    if fitting.is_empty() {
        fitting.push(Extent { length, zero: false });
    }
    fitting
}

fn read_errno(failure: &ReadFailure) -> u32 {
    match failure {
        ReadFailure::OutOfRange { .. } => errno::EINVAL,
        ReadFailure::Shutdown => errno::ESHUTDOWN,
        ReadFailure::Store { .. } | ReadFailure::Dropped => errno::EIO,
    }
}

fn write_errno(failure: &WriteFailure) -> u32 {
    match failure {
        WriteFailure::ReadOnly => errno::EPERM,
        WriteFailure::NoSpace | WriteFailure::OutOfRange { .. } => errno::ENOSPC,
        WriteFailure::Base(failure) => read_errno(failure),
        WriteFailure::Overflow(_) | WriteFailure::Dropped => errno::EIO,
    }
}
