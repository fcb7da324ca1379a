//! What a turn returns.

use std::net::SocketAddr;
use std::vec::Drain;

use diskstream_wire::time::Nanos;

use super::op::Key;
use crate::errno::Errno;
use crate::send::{LocalAddr, SendPlan};

/// A socket of one ring, from [`crate::Ring::add_socket`] until [`crate::Ring::remove_socket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub(crate) Key);

/// A file of one ring, from [`crate::Ring::add_file`] until [`crate::Ring::remove_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub(crate) Key);

/// How long a turn may wait for its first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Never,
    /// Until a moment of the boot-time clock ([`crate::clock::now`]); past ones mean not at all.
    Until(Nanos),
    /// Until a moment, also when something completes meanwhile: it gathers. A burst ends it early, some tens of completions of
    /// different operations; wake-ups gather like everything else.
    Gather(Nanos),
    /// Until there is one. Something must be able to complete: a socket, a read, a waker.
    Forever,
}

/// One disk read into the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPlan {
    /// The file.
    pub file: FileId,
    /// First byte in the file; aligned as the file wants it ([`crate::DirectFile::alignment`]).
    pub file_offset: u64,
    /// First byte in the arena; aligned likewise. The range must not cross a multiple of
    /// [`crate::arena::PIECE_BYTES`].
    pub arena_offset: usize,
    /// Bytes to read; aligned likewise.
    pub len: u32,
    /// The driver's own mark, returned with the completion.
    pub token: u64,
}

/// Something that finished or arrived.
#[derive(Debug)]
pub enum Completion {
    /// A datagram, or a train of them. Must be given back: [`crate::Ring::recycle`].
    Received(Received),
    /// A send is over, and the plan is the caller's again.
    Sent {
        /// The socket it went through.
        socket: SocketId,
        /// The plan, unchanged.
        plan: Box<SendPlan>,
        /// Payload bytes handed to the network, or why not. `EAGAIN`: the send buffer was full, all or part was dropped.
        result: Result<u32, Errno>,
    },
    /// A disk read is over.
    Read {
        /// The plan's token.
        token: u64,
        /// Bytes read; fewer than asked at the end of the file, or rarely elsewhere, where the rest can be read again.
        result: Result<u32, Errno>,
    },
    /// Somebody used this ring's [`crate::Waker`].
    Woken,
    /// A socket reported an error that belongs to no send: an ICMP refusal on a connected socket, an interface that went
    /// down. Receiving goes on.
    SocketError {
        /// The socket.
        socket: SocketId,
        /// The reason.
        error: Errno,
    },
}

/// A received train that still occupies its buffer. Move-only; [`crate::Ring::datagram`] reads it,
/// [`crate::Ring::recycle`] ends it. One that is dropped instead occupies its buffer until the ring ends
/// ([`crate::Ring::buffers_outstanding`] shows it).
#[derive(Debug)]
#[must_use = "the buffer is only reused after Ring::recycle"]
pub struct Received {
    /// Which ring; a buffer of another one must not be mistaken for its own.
    pub(crate) ring: u32,
    pub(crate) buffer: u16,
    pub(crate) segment_bytes: u16,
    pub(crate) payload_bytes: u32,
    pub(crate) interface: u32,
    pub(crate) socket: SocketId,
    pub(crate) from: SocketAddr,
    pub(crate) local: Option<LocalAddr>,
}

impl Received {
    /// The socket it arrived at.
    #[must_use]
    pub fn socket(&self) -> SocketId {
        self.socket
    }

    /// Who sent it, as far as the network says.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.from
    }
}

/// A received train, borrowed from its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The socket it arrived at.
    pub socket: SocketId,
    /// Who sent it, as far as the network says.
    pub from: SocketAddr,
    /// Which of this host's addresses it was sent to, as one to answer from ([`SendPlan::local`]); with
    /// [`crate::SocketConfig::packet_info`] only.
    pub local: Option<LocalAddr>,
    /// The interface it came in by; 0 without packet info.
    pub interface: u32,
    /// Bytes of every datagram of the train but the last; that of the only one otherwise.
    pub segment_bytes: u16,
    /// All datagrams, one behind the other.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagrams, one by one. None for a datagram of no bytes.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.payload.chunks(usize::from(self.segment_bytes).max(1))
    }
}

/// A fixed array that turns fill.
#[derive(Debug)]
pub struct Completions {
    list: Vec<Completion>,
}

impl Completions {
    /// Room for `capacity` completions; what does not fit stays with the kernel until the next turn.
    ///
    /// # Panics
    /// When `capacity` is zero.
    #[must_use]
    pub fn new(capacity: usize) -> Completions {
        assert!(capacity > 0, "a turn must be able to return something");
        Completions { list: Vec::with_capacity(capacity) }
    }

    /// Takes all of them out, oldest first.
    pub fn drain(&mut self) -> Drain<'_, Completion> {
        self.list.drain(..)
    }

    /// Completions that wait to be taken out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True when the next turn could add none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.list.len() == self.list.capacity()
    }

    pub(crate) fn push(&mut self, completion: Completion) {
        assert!(!self.is_full(), "checked before a completion is reaped");
        self.list.push(completion);
    }
}
