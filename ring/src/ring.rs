//! One thread's dealings with the kernel: datagrams, disk reads, wake-ups. One turn is one system call, or as many
//! as the kernel needs to bring what has arrived.
//!
//! ```text
//! loop:  handle completions → send(), read(), recycle() queue entries → turn(): submit all, wait, reap into an array
//! ```
//!
//! * Nothing allocates after [`Ring::new`] but the control plane (`add_socket`, `add_file`).
//! * Sends, reads and receives under way never exceed the completion queue; "full" is its own answer, with the plan.
//! * The kernel's use of memory, and what dropping a ring does about it: `op.rs` and `drain.rs`.
//!
//! A ring stays on the thread that made it: the kernel is told that it has a single issuer.

mod arm;
mod attach;
mod completion;
mod config;
mod drain;
mod op;
mod poll;
mod queues;
mod reap;
mod receive;
mod table;
mod transmit;
mod zero_copy;

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::arena::{Arena, PIECE_BYTES};
use crate::clock;
use crate::features::Features;
use crate::file::DirectFile;
use crate::send::{SEGMENTS_MAX, SendPlan};
use crate::stats::Stats;
use crate::udp::UdpSocket;
use crate::wake::Waker;
use diskstream_wire::time::Nanos;

pub use completion::{
    Completion, Completions, Datagram, FileId, ReadPlan, Received, SocketId, Wait,
};
pub use config::{RingConfig, RingError};
pub(crate) use zero_copy::takes_registered_buffers;

use config::{MESSAGES, Sizes};
use op::{Class, Key, Slab, tag};
use queues::Queues;
use receive::ReceiveBuffers;
use table::Table;
use transmit::SendOp;
use zero_copy::{Credit, ZeroCopySends};

/// Why a send was not taken; the plan comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// No slot or queue entry is free: try again after the next turn.
    #[error("too many operations under way")]
    Full,
    /// The socket was removed.
    #[error("no such socket")]
    NoSocket,
    /// The plan has no payload.
    #[error("the plan is empty")]
    Empty,
    /// More segments than one send can have.
    #[error("the plan has more than {SEGMENTS_MAX} segments")]
    Segments,
    /// A piece lies outside the arena, or the ring has none.
    #[error("the plan names bytes outside the arena")]
    OutsideArena,
}

impl SendRefused {
    /// True when the same plan can be sent later.
    #[must_use]
    pub fn is_throttle(self) -> bool {
        self == SendRefused::Full
    }
}

/// No slot or queue entry is free: try again after the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many operations under way")]
pub struct Full;

/// See the [module](self).
pub struct Ring {
    /// Dropped last of all: by then `owned` is gone or leaked.
    queues: Queues,
    /// What the kernel may still be using: dropped by hand, or leaked, in `drain.rs`.
    owned: ManuallyDrop<Owned>,
    /// Tells this ring's received buffers from those of another.
    id: u32,
    sizes: Sizes,
    features: Features,
    stats: Stats,
    /// Completions that sends and reads will bring.
    expected: u32,
    /// The eventfd's read is under way.
    bell_armed: bool,
    socket_capacity: u16,
    file_capacity: u16,
    /// The kernel polls the cards' queues while it waits.
    busy_polls: bool,
    /// How long a wait looks before it sleeps.
    spin: Nanos,
    /// Sockets that need a receive armed or a cancellation queued, or may; spares looking in each turn.
    sockets_stale: bool,
}

/// Everything that entries point to, and what those point into.
struct Owned {
    sends: Slab<SendOp>,
    reads: Slab<ReadOp>,
    messages: Slab<Option<Waker>>,
    receives: ReceiveBuffers,
    sockets: Table<SocketSlot>,
    files: Table<FileSlot>,
    zero_copy: ZeroCopySends,
    arena: Option<Arc<Arena>>,
    waker: Waker,
    /// Where the eventfd's counter is read to.
    bell: Box<u64>,
}

struct ReadOp {
    token: u64,
    file: FileId,
    len: u32,
}

struct SocketSlot {
    socket: UdpSocket,
    /// Receives under way.
    receives: u16,
    /// Other completions to come: sends' messages and cancellations.
    others: u32,
    closing: bool,
    cancel_queued: bool,
    credit: Credit,
}

struct FileSlot {
    file: Arc<DirectFile>,
    reads: u32,
    closing: bool,
}

/// How entries name a socket or a file.
#[derive(Clone, Copy)]
enum Target {
    Registered(u32),
    Plain(RawFd),
}

/// Builds an entry with whichever kind of descriptor the target is.
macro_rules! on_target {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            Target::Registered(index) => {
                let $fd = types::Fixed(index);
                $entry
            }
            Target::Plain(raw) => {
                let $fd = types::Fd(raw);
                $entry
            }
        }
    };
}
use on_target;

impl Ring {
    /// A ring for the calling thread, with all its memory; `arena` is what reads and sends may name.
    ///
    /// Features that the kernel refuses now, though it seemed to have them (no locked memory left for registered buffers,
    /// say), get their twin and a log line.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn new(config: &RingConfig, arena: Option<Arc<Arena>>) -> Result<Ring, RingError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut features = Features::probe().and(config.permit);
        // Each needs the other.
        let multishot = features.multishot_receive && features.buffer_ring;
        (features.multishot_receive, features.buffer_ring) = (multishot, multishot);
        let sizes = Sizes::of(config, features)?;
        let queues = Queues::new(sizes.entries, sizes.completions, features.defer_taskrun)
            .map_err(RingError::setup)?;
        let resource = |what| move |source| RingError::Resource { what, source };
        let waker = match &config.waker {
            Some(waker) => waker.clone(),
            None => Waker::new().map_err(resource("make an eventfd"))?,
        };
        let receives =
            ReceiveBuffers::new(config.recv_buffers, config.recv_buffer_bytes, multishot)
                .map_err(resource("map the receive buffers"))?;
        let owned = Owned {
            sends: Slab::new(config.sends, SendOp::new),
            reads: Slab::new(config.reads, ReadOp::new),
            messages: Slab::new(MESSAGES, || None),
            receives,
            sockets: Table::new(config.sockets),
            files: Table::new(config.files),
            zero_copy: ZeroCopySends::new(
                config.zero_copy,
                config.zero_copy_pins_max,
                arena.as_deref().filter(|_| features.zero_copy_send),
            ),
            arena,
            waker,
            bell: Box::new(0),
        };
        let mut ring = Ring {
            queues,
            owned: ManuallyDrop::new(owned),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            sizes,
            features,
            stats: Stats::default(),
            expected: 0,
            bell_armed: false,
            socket_capacity: config.sockets,
            file_capacity: config.files,
            busy_polls: false,
            spin: config.spin,
            sockets_stale: false,
        };
        ring.register()?;
        ring.register_busy_poll(config.busy_poll_us);
        ring.owned.waker.set_ring(Some(ring.queues.fd()));
        Ok(ring)
    }

    /// The features in use, twins being `false`. They can only get fewer.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Wakes this ring from anywhere. Clones are cheap.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.owned.waker.clone()
    }

    /// Receive buffers that the caller holds.
    #[must_use]
    pub fn buffers_outstanding(&self) -> usize {
        usize::from(self.owned.receives.outstanding())
    }

    /// Sends under way.
    #[must_use]
    pub fn sends_outstanding(&self) -> usize {
        self.owned.sends.in_use()
    }

    /// Disk reads under way.
    #[must_use]
    pub fn reads_outstanding(&self) -> usize {
        self.owned.reads.in_use()
    }

    /// Queues a send for the next turn. The plan comes back with [`Completion::Sent`].
    ///
    /// A socket whose send buffer is full drops the plan (`EAGAIN`) instead of waiting.
    ///
    /// # Errors
    /// Why not, and the plan.
    pub fn send(
        &mut self,
        socket: SocketId,
        plan: Box<SendPlan>,
    ) -> Result<(), (SendRefused, Box<SendPlan>)> {
        match self.check_send(socket, &plan) {
            Ok(connected) => {
                let key = self.owned.sends.claim().expect("checked");
                self.owned.sends.get_mut(key).start(socket, plan, connected);
                self.choose_copy(key);
                self.queue_send(key);
                self.stats.sends += 1;
                Ok(())
            }
            Err(refused) => {
                self.stats.refused_full += u64::from(refused.is_throttle());
                Err((refused, plan))
            }
        }
    }

    /// Whether the socket is connected, or why the plan cannot be sent now.
    fn check_send(&self, socket: SocketId, plan: &SendPlan) -> Result<bool, SendRefused> {
        let slot = self.owned.sockets.get(socket.0).filter(|slot| !slot.closing);
        let slot = slot.ok_or(SendRefused::NoSocket)?;
        let segments = plan.segments();
        if segments == 0 {
            return Err(SendRefused::Empty);
        }
        if segments > SEGMENTS_MAX {
            return Err(SendRefused::Segments);
        }
        if plan.arena_end() > self.owned.arena.as_deref().map_or(0, Arena::len) {
            return Err(SendRefused::OutsideArena);
        }
        let messages = if self.features.gso { 1 } else { segments };
        if self.owned.sends.is_full() || !self.has_room(messages) {
            return Err(SendRefused::Full);
        }
        Ok(slot.socket.peer_addr().is_some())
    }

    /// Lays a claimed send out and queues its messages. Room was checked.
    fn queue_send(&mut self, key: Key) {
        let owned = &mut *self.owned;
        let op = owned.sends.get_mut(key);
        let messages = op.lay_out(owned.arena.as_deref(), self.features.gso);
        let socket = op.socket;
        let slot = owned.sockets.get_mut(socket.0).expect("a socket outlives its sends");
        slot.others += u32::from(messages);
        if let Some(held) = self.owned.sends.get_mut(key).held() {
            let entry = self.zero_copy_entry(key, held);
            // The notification has a place of its own (`config.rs`).
            self.expected += 1;
            // SAFETY: as below; and the headers lie in a slot of the arena that this send has alone until its notification.
            unsafe { self.queues.push(&entry) }.expect("room was checked");
            return;
        }
        let target = self.target(u32::from(socket.0.index), self.socket_fd(socket));
        self.expected += u32::from(messages);
        for index in 0..messages {
            let message = self.owned.sends.get_mut(key).message(index);
            // MSG_DONTWAIT: a full send buffer is an answer (EAGAIN), not something to wait for in the kernel.
            let flags = libc::MSG_DONTWAIT.cast_unsigned();
            let entry =
                on_target!(target, |fd| opcode::SendMsg::new(fd, message).flags(flags).build());
            let entry = entry.user_data(tag(Class::Send, key));
            // SAFETY: the message, its address, control messages and ranges lie in the claimed slot, which stays claimed
            // until `remaining` completions were reaped; the ranges point into the slot's boxed plan, which nobody can
            // reach meanwhile, and into the arena, whose bytes the plan's pins keep from being written.
            unsafe { self.queues.push(&entry) }.expect("room was checked");
        }
    }

    /// Queues a disk read for the next turn; [`Completion::Read`] tells its end.
    ///
    /// Until then nobody may hold references to the arena range (see [`Arena::bytes`]).
    ///
    /// # Errors
    /// [`Full`]: try after the next turn.
    ///
    /// # Panics
    /// When the file was removed, the ring has no arena, or the range lies outside it, crosses one of its pieces or is
    /// [reserved](Arena::is_reserved): those are mistakes of the caller's own bookkeeping.
    pub fn read(&mut self, plan: ReadPlan) -> Result<(), Full> {
        if self.owned.reads.is_full() || !self.has_room(1) {
            self.stats.refused_full += 1;
            return Err(Full);
        }
        let len = plan.len as usize;
        let arena = self.owned.arena.as_deref().expect("a ring that reads was given an arena");
        let address = arena.address(plan.arena_offset, len);
        let piece = plan.arena_offset / PIECE_BYTES;
        let last = plan.arena_offset + len.saturating_sub(1);
        assert!(piece == last / PIECE_BYTES, "a read crosses two registered pieces: {plan:?}");
        assert!(!arena.is_reserved(plan.arena_offset, len), "a read into rings' headers: {plan:?}");
        let file = self.owned.files.get_mut(plan.file.0).filter(|slot| !slot.closing);
        let file = file.expect("a file is removed after its last read");
        file.reads += 1;
        let (fd, by_worker) = (file.file.as_raw_fd(), file.file.is_read_by_worker());
        let target = self.target(self.file_index(plan.file.0), fd);
        let key = self.owned.reads.claim().expect("checked");
        *self.owned.reads.get_mut(key) =
            ReadOp { token: plan.token, file: plan.file, len: plan.len };
        let entry = if self.features.registered_buffers {
            let piece = u16::try_from(piece).expect("an arena has fewer pieces than that");
            on_target!(target, |fd| opcode::ReadFixed::new(fd, address, plan.len, piece)
                .offset(plan.file_offset)
                .build())
        } else {
            on_target!(target, |fd| opcode::Read::new(fd, address, plan.len)
                .offset(plan.file_offset)
                .build())
        };
        let flags = if by_worker { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let entry = entry.flags(flags).user_data(tag(Class::Read, key));
        self.expected += 1;
        self.stats.reads += 1;
        // SAFETY: the range is inside the arena and no ring's headers (asserted), and `owned` keeps the arena until the read is
        // over; whoever handed the range out keeps references away from it meanwhile, by the contract of `Arena::bytes` and `bytes_mut`.
        unsafe { self.queues.push(&entry) }.expect("room was checked");
        Ok(())
    }

    /// Wakes another ring. Where rings can message each other, the wake-up travels with this ring's next turn and costs
    /// no system call of its own; else it is an eventfd's.
    pub fn wake(&mut self, waker: &Waker) {
        if !waker.raise() {
            return;
        }
        let target = waker.ring_fd().filter(|_| self.features.msg_ring && self.has_room(1));
        let Some((fd, key)) = target.and_then(|fd| Some((fd, self.owned.messages.claim()?))) else {
            self.stats.wakes_written += 1;
            waker.ring_bell();
            return;
        };
        // Kept for the case that the other ring is gone by then.
        *self.owned.messages.get_mut(key) = Some(waker.clone());
        let there = tag(Class::Messaged, Key::NONE);
        let entry = opcode::MsgRingData::new(types::Fd(fd), 0, there, None).build();
        let entry = entry.user_data(tag(Class::Message, key));
        // SAFETY: the entry points to no memory.
        unsafe { self.queues.push(&entry) }.expect("room was checked");
    }

    /// The view of a received train.
    ///
    /// # Panics
    /// When it belongs to another ring.
    #[must_use]
    pub fn datagram<'a>(&'a self, received: &'a Received) -> Datagram<'a> {
        assert!(received.ring == self.id, "the buffer belongs to another ring");
        Datagram {
            socket: received.socket,
            from: received.from,
            local: received.local,
            interface: received.interface,
            segment_bytes: received.segment_bytes,
            payload: self.owned.receives.payload(received.buffer, received.payload_bytes),
        }
    }

    /// Gives a received train's buffer back for the next one.
    ///
    /// # Panics
    /// When it belongs to another ring.
    #[expect(clippy::needless_pass_by_value, reason = "taking it is what ends its use")]
    pub fn recycle(&mut self, received: Received) {
        assert!(received.ring == self.id, "the buffer belongs to another ring");
        self.owned.receives.take_back(received.buffer);
    }

    /// Submits everything queued, waits, and appends to `done` what finished: one `io_uring_enter`, and another for every 20
    /// sockets and reads that have more to tell, because the kernel does no more in one call (`IO_LOCAL_TW_DEFAULT_MAX`, since
    /// Linux 6.13). Without them a burst from a thousand sockets took fifty turns, each with a turn's other work.
    ///
    /// It may return without any completion: when the time is up, when a signal came, or when what completed was the
    /// ring's own business. With a full `done` it submits and does not wait.
    ///
    /// # Errors
    /// Only what makes the ring useless.
    pub fn turn(&mut self, wait: Wait, done: &mut Completions) -> Result<(), RingError> {
        self.arm();
        let mut reaped = match self.submit_measured(done)? {
            // What it brought is not to wait behind what comes next.
            Some(reaped) if reaped > 0 => reaped,
            _ => self.submit_and_wait(wait, done)?,
        };
        for _ in 1..ENTERS_PER_TURN_MAX {
            // Less than a call's share: nothing was left over, and what came since is the next turn's.
            if reaped < WORK_PER_CALL || done.is_full() || !self.queues.work_waits() {
                break;
            }
            reaped = self.enter(0, None, done)?;
        }
        Ok(())
    }

    fn submit_and_wait(&mut self, wait: Wait, done: &mut Completions) -> Result<u32, RingError> {
        let (mut wanted, mut left) = patience(wait, done);
        if wanted == 1 && self.spin > Nanos::ZERO {
            let until = if let Wait::Until(deadline) = wait { deadline } else { Nanos::NEVER };
            let reaped = self.spin(until, done)?;
            if reaped > 0 {
                return Ok(reaped);
            }
            (wanted, left) = patience(wait, done);
        }
        let reaped = self.enter(wanted, left, done)?;
        self.sends_submitted(None);
        Ok(reaped)
    }

    /// One call; gives the completions that it brought, the ring's own among them.
    fn enter(
        &mut self,
        wanted: u32,
        patience: Option<Duration>,
        done: &mut Completions,
    ) -> Result<u32, RingError> {
        let entered = self.queues.enter(wanted, patience).map_err(RingError::Enter)?;
        self.stats.enters += 1;
        self.stats.sqes += u64::from(entered.submitted);
        self.stats.overflows += u64::from(entered.overflowed);
        Ok(self.reap_ready(done))
    }

    /// Completions that are there already: no system call.
    fn reap_ready(&mut self, done: &mut Completions) -> u32 {
        let mut reaped = 0;
        while !done.is_full() {
            let Some(entry) = self.queues.pop() else { break };
            reaped += 1;
            if let Some(completion) = self.reap(&entry) {
                done.push(completion);
            }
        }
        self.stats.cqes += u64::from(reaped);
        self.queues.sync_completions();
        reaped
    }

    /// Room for `count` more operations of the caller's, in both queues.
    fn has_room(&self, count: usize) -> bool {
        let entries = self.queues.room().saturating_sub(self.sizes.reserved_entries as usize);
        let completions = self.queues.completion_capacity()
            - (self.sizes.reserved_completions + self.expected) as usize;
        count <= entries && count <= completions
    }

    fn target(&self, index: u32, fd: RawFd) -> Target {
        if self.features.registered_files { Target::Registered(index) } else { Target::Plain(fd) }
    }

    fn socket_fd(&self, id: SocketId) -> RawFd {
        self.owned.sockets.get(id.0).expect("a socket outlives its operations").socket.as_raw_fd()
    }
}

impl ReadOp {
    fn new() -> ReadOp {
        ReadOp { token: 0, file: FileId(Key::NONE), len: 0 }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("id", &self.id)
            .field("sizes", &self.sizes)
            .field("features", &self.features)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// System calls of one turn at most, so that whoever sends without end does not keep the ring's owner from its other work. Derived:
/// 20 sockets each, so that one turn reaches 5,000.
const ENTERS_PER_TURN_MAX: u32 = 256;
/// Pieces of deferred work that the kernel does in one call (`IO_LOCAL_TW_DEFAULT_MAX`); each brings a completion at least, as a rule.
const WORK_PER_CALL: u32 = 20;

/// Completions that end a gathering early. Guessed: a burst that should not wait. (A socket's receive counts once, however much it
/// brings, as the kernel does its work when the call ends.)
const GATHER_COMPLETIONS: u32 = 64;

/// So many completions, or this moment.
fn until(wanted: u32, deadline: Nanos) -> (u32, Option<Duration>) {
    let left = deadline.since(clock::now());
    if left.0 == 0 { (0, None) } else { (wanted, Some(left.as_duration())) }
}

/// Completions to wait for, and how long.
fn patience(wait: Wait, done: &Completions) -> (u32, Option<Duration>) {
    match wait {
        _ if done.is_full() => (0, None),
        Wait::Never => (0, None),
        Wait::Forever => (1, None),
        Wait::Until(deadline) => until(1, deadline),
        Wait::Gather(deadline) => until(GATHER_COMPLETIONS, deadline),
    }
}
