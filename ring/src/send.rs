//! What one UDP send consists of, as plain data.
//!
//! A plan owns nothing borrowed and does no I/O, so a state machine can build it and a simulator can turn it into
//! datagrams ([`SendPlan::copy_payload`]). Plans are made once, at start, and go round: pool → machine → ring →
//! completion → pool; nothing in them ever reallocates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Segments of one send: what every kernel with UDP segmentation takes (`UDP_MAX_SEGMENTS`: 64 until Linux 6.9, 128 since).
pub const SEGMENTS_MAX: usize = 64;
/// Payload of one send: 65,535 less the IPv4 and UDP headers. IPv6 would allow 20 more.
pub const PAYLOAD_BYTES_MAX: usize = 65_507;
/// Bytes a plan can hold itself. Sum: 64 headers of 76 bytes (4,864) + 32 bytes of padding for each of 64 segments
/// (2,048) = 6,912; or one unsegmented datagram of 8,268 bytes (a padded path probe); rounded up to a whole 9 KiB.
pub const SCRATCH_BYTES: usize = 9 * 1024;
/// Pieces of one plan. Sum: 64 headers + 64 arena ranges + 64 further ranges or paddings.
pub const PIECES_MAX: usize = 192;
/// Pins of one plan: two for each segment.
pub const PINS_MAX: usize = 128;

const _: () = assert!(SEGMENTS_MAX * (76 + 32) <= SCRATCH_BYTES);
const _: () = assert!(SCRATCH_BYTES >= 8192 + 76 && SCRATCH_BYTES <= u16::MAX as usize);

/// A range of bytes to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes inside the plan.
    Scratch {
        /// First byte in the plan's scratch buffer.
        start: u16,
        /// Length in bytes.
        len: u16,
    },
    /// Bytes of the arena; the plan's pins keep them in place until the send is complete.
    Arena {
        /// First byte in the arena.
        offset: usize,
        /// Length in bytes.
        len: u32,
    },
}

impl Piece {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match *self {
            Piece::Scratch { len, .. } => usize::from(len),
            Piece::Arena { len, .. } => len as usize,
        }
    }

    /// True for a range of no bytes; plans never keep one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The address of this host that a datagram arrived at, or is to leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalAddr {
    /// The address; of the peer's family.
    pub ip: IpAddr,
    /// The interface's index that a send must leave through; 0 lets routing decide, which is what an answer wants.
    /// Received datagrams carry it only for IPv6 link-local addresses, which mean nothing without it.
    pub interface: u32,
}

impl LocalAddr {
    /// `ip`, with routing choosing the interface.
    #[must_use]
    pub const fn new(ip: IpAddr) -> LocalAddr {
        LocalAddr { ip, interface: 0 }
    }
}

/// A fixed capacity of the plan is used up: finish this plan and begin another. The plan is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the send plan is full: {SCRATCH_BYTES} scratch bytes, {PIECES_MAX} pieces, {PINS_MAX} pins, {PAYLOAD_BYTES_MAX} payload bytes"
)]
pub struct PlanFull;

/// One UDP send: a datagram, or a train of equal segments of which only the last may be shorter.
#[derive(Debug)]
pub struct SendPlan {
    /// Where to. Ignored by connected sockets.
    pub peer: SocketAddr,
    /// Which of this host's addresses to send from; `None` leaves it to routing.
    pub local: Option<LocalAddr>,
    /// Bytes of every datagram but the last; 0 sends the payload as one datagram.
    pub segment_bytes: u16,
    /// The driver's own mark; the ring carries it and never looks.
    pub token: u64,
    /// Opaque marks of what must stay in place until the completion; at most [`PINS_MAX`].
    pins: Vec<u64>,
    pieces: Vec<Piece>,
    /// Its first [`SendPlan::scratch_bytes`] are in use.
    scratch: Box<[u8; SCRATCH_BYTES]>,
    scratch_bytes: usize,
    payload_bytes: usize,
    /// Where the last byte ends that is named in the arena; 0: none is. Whoever sends the plan checks it once, not each piece.
    arena_end: usize,
}

impl SendPlan {
    /// An empty plan with all its memory. Boxed, because the kernel is shown addresses inside it.
    #[must_use]
    pub fn new() -> Box<SendPlan> {
        Box::new(SendPlan {
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            local: None,
            segment_bytes: 0,
            token: 0,
            pins: Vec::with_capacity(PINS_MAX),
            pieces: Vec::with_capacity(PIECES_MAX),
            scratch: Box::new([0; SCRATCH_BYTES]),
            scratch_bytes: 0,
            payload_bytes: 0,
            arena_end: 0,
        })
    }

    /// Empties the plan for its next use. The pins must have been released before: they are forgotten.
    pub fn reset(&mut self) {
        self.peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.local = None;
        self.segment_bytes = 0;
        self.token = 0;
        self.pins.clear();
        self.pieces.clear();
        self.scratch_bytes = 0;
        self.payload_bytes = 0;
        self.arena_end = 0;
    }

    /// Appends bytes, copied into the plan. Bytes that follow other copied bytes join their piece.
    ///
    /// # Errors
    /// [`PlanFull`], and nothing was appended.
    #[inline]
    pub fn push_scratch(&mut self, bytes: &[u8]) -> Result<(), PlanFull> {
        let Some(room) = self.scratch[self.scratch_bytes..].get_mut(..bytes.len()) else {
            return Err(PlanFull);
        };
        // Beyond what is in use: no harm is done if the piece finds no room.
        room.copy_from_slice(bytes);
        let added = u16::try_from(bytes.len()).expect("checked against the scratch capacity");
        self.append(Piece::Scratch { start: scratch_at(self.scratch_bytes), len: added })?;
        self.scratch_bytes += bytes.len();
        Ok(())
    }

    /// Appends `count` datagrams of a reply, each of `datagram_bytes`: first its copy of `head`, or less of it, then bytes of the
    /// arena, not copied. `each` is shown each copy in order, to change what is that datagram's own, and gives how many bytes of it
    /// are to be sent and where in the arena the data begin.
    ///
    /// A large read has hundreds of datagrams: what bounds a plan is checked once for all of them.
    ///
    /// # Errors
    /// [`PlanFull`], and nothing was appended.
    ///
    /// # Panics
    /// When `each` wants more of a head than there is, none of it, or no data.
    #[inline]
    pub fn push_run<const N: usize>(
        &mut self,
        count: usize,
        datagram_bytes: usize,
        head: &[u8; N],
        mut each: impl FnMut(&mut [u8; N]) -> (usize, usize),
    ) -> Result<(), PlanFull> {
        if count > SEGMENTS_MAX
            || datagram_bytes > PAYLOAD_BYTES_MAX
            || count * N > SCRATCH_BYTES - self.scratch_bytes
            || 2 * count > PIECES_MAX - self.pieces.len()
            || count * datagram_bytes > PAYLOAD_BYTES_MAX - self.payload_bytes
        {
            return Err(PlanFull);
        }
        let (first, mut at, mut arena_end) =
            (self.pieces.len(), self.scratch_bytes, self.arena_end);
        self.pieces.resize(first + 2 * count, Piece::Scratch { start: 0, len: 0 });
        for pair in self.pieces[first..].chunks_exact_mut(2) {
            let room = self.scratch[at..].first_chunk_mut().expect("checked for all");
            *room = *head;
            let (used, offset) = each(room);
            assert!(
                used > 0 && used <= N && used < datagram_bytes,
                "{used} bytes of a head of {N}"
            );
            let data = datagram_bytes - used;
            pair[0] = Piece::Scratch { start: scratch_at(at), len: scratch_at(used) };
            pair[1] = Piece::Arena { offset, len: u32::try_from(data).expect("checked for all") };
            at += used;
            arena_end = arena_end.max(offset.saturating_add(data));
        }
        (self.scratch_bytes, self.arena_end) = (at, arena_end);
        self.payload_bytes += count * datagram_bytes;
        Ok(())
    }

    /// Appends `len` bytes of the arena, not copied. A range that continues the one before joins it.
    ///
    /// # Errors
    /// [`PlanFull`], and nothing was appended.
    #[inline]
    pub fn push_arena(&mut self, offset: usize, len: usize) -> Result<(), PlanFull> {
        let end = offset.checked_add(len).ok_or(PlanFull)?;
        let len = u32::try_from(len).map_err(|_| PlanFull)?;
        self.append(Piece::Arena { offset, len })?;
        if len > 0 {
            self.arena_end = self.arena_end.max(end);
        }
        Ok(())
    }

    /// Remembers something to release at the completion.
    ///
    /// # Errors
    /// [`PlanFull`], and nothing was remembered.
    pub fn push_pin(&mut self, pin: u64) -> Result<(), PlanFull> {
        if self.pins.len() == PINS_MAX {
            return Err(PlanFull);
        }
        self.pins.push(pin);
        Ok(())
    }

    /// The pins, in order of appending.
    #[must_use]
    pub fn pins(&self) -> &[u64] {
        &self.pins
    }

    /// Takes the pins out, last first, leaving none.
    pub fn drain_pins(&mut self) -> impl Iterator<Item = u64> {
        self.pins.drain(..).rev()
    }

    /// The pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The bytes kept inside the plan.
    #[must_use]
    pub fn scratch(&self) -> &[u8] {
        &self.scratch[..self.scratch_bytes]
    }

    /// Scratch bytes that can still be appended.
    #[must_use]
    pub fn scratch_room(&self) -> usize {
        SCRATCH_BYTES - self.scratch_bytes
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Where the last byte ends that the pieces name in the arena; 0: they name none.
    #[must_use]
    pub fn arena_end(&self) -> usize {
        self.arena_end
    }

    /// Datagrams that this plan becomes; 0 when it is empty.
    #[must_use]
    pub fn segments(&self) -> usize {
        match usize::from(self.segment_bytes) {
            0 => usize::from(self.payload_bytes > 0),
            segment => self.payload_bytes.div_ceil(segment),
        }
    }

    /// Appends the payload to `out`; `arena` appends `len` arena bytes at `offset`. For simulators and tests: cut the
    /// result into chunks of `segment_bytes`, and those are the datagrams.
    pub fn copy_payload(
        &self,
        out: &mut Vec<u8>,
        mut arena: impl FnMut(usize, usize, &mut Vec<u8>),
    ) {
        for piece in &self.pieces {
            match *piece {
                Piece::Scratch { start, len } => {
                    let start = usize::from(start);
                    out.extend_from_slice(&self.scratch[start..start + usize::from(len)]);
                }
                Piece::Arena { offset, len } => arena(offset, len as usize, out),
            }
        }
    }

    #[inline]
    fn append(&mut self, piece: Piece) -> Result<(), PlanFull> {
        let added = piece.len();
        if added == 0 {
            return Ok(());
        }
        if self.payload_bytes + added > PAYLOAD_BYTES_MAX {
            return Err(PlanFull);
        }
        let full = self.pieces.len() == PIECES_MAX;
        match (self.pieces.last_mut(), piece) {
            // Copied bytes lie one behind the other, so two such pieces in a row always continue each other.
            (Some(Piece::Scratch { len, .. }), Piece::Scratch { len: added, .. }) => *len += added,
            (Some(Piece::Arena { offset: first, len }), Piece::Arena { offset, len: added })
                if *first + *len as usize == offset =>
            {
                *len += added;
            }
            _ if full => return Err(PlanFull),
            _ => self.pieces.push(piece),
        }
        self.payload_bytes += added;
        Ok(())
    }
}

/// A number of bytes within the scratch buffer.
#[inline]
fn scratch_at(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("the scratch buffer is short (const-asserted)")
}

#[cfg(test)]
mod tests;
