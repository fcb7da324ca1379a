//! What goes into a shard and what comes out, as plain data: the border to its drivers (event loop, simulator).

use std::fmt;
use std::net::SocketAddr;

use diskstream_ring::{Errno, LocalAddr, SendPlan};
use diskstream_wire::time::Nanos;
use diskstream_wire::{CloseReason, Endpoint, LoginKind, Mac, RejectReason, Text};

use super::drain::LEFT_NAMED;
use crate::cache::BlockKey;
use crate::rebalance::Share;
use crate::view::DrainState;

/// Which of a shard's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketRole {
    /// The node's login port. Every shard may read it: what is answered there needs no memory of the device.
    Login,
    /// The shard's own I/O port.
    Io,
}

/// What happened. Given to [`super::Shard::step`], one at a time.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came in.
    Datagram {
        /// Where.
        socket: SocketRole,
        /// Who sent it; [`diskstream_wire::canonical`].
        from: SocketAddr,
        /// Which of our addresses it was sent to: the answer leaves from there.
        local: Option<LocalAddr>,
        /// Its payload, padding included.
        bytes: &'a [u8],
    },
    /// A [`DiskRead`] is complete: the bytes read (fewer at the end of a file), or the kernel's reason.
    DiskDone {
        /// The read's token.
        token: u64,
        /// Bytes read.
        result: Result<u32, Errno>,
    },
    /// A send is complete; its plan comes home.
    Sent {
        /// The plan that was in [`Outbox::sends`].
        plan: Box<SendPlan>,
        /// Bytes sent.
        result: Result<u32, Errno>,
    },
    /// A socket of the shard reported an error of its own; it goes on receiving.
    SocketFailed {
        /// The kernel's reason.
        error: Errno,
    },
    /// Another shard of this node says something.
    FromShard(ShardMessage),
    /// Somebody changed the file of a vDisk: it takes no devices any more, and those that it has move.
    VdiskChanged {
        /// Index in [`super::NodeShared::vdisks`].
        vdisk: u32,
    },
    /// Take no devices, and tell those that are here to move; serve until they have. Where to is in the view of the farm.
    Drain {
        /// For maintenance, or because the node is going to end. [`DrainState::Serving`] is the same as `Resume`.
        state: DrainState,
        /// When whoever is left is given up. A node in maintenance goes on serving them.
        deadline: Nanos,
    },
    /// Take devices again after maintenance, and end a rebalance. A node that is going to end does not.
    Resume,
    /// Ask some devices to go elsewhere, so that the load is even.
    Rebalance {
        /// Index in [`super::NodeShared::vdisks`].
        vdisk: u32,
        /// So many of them.
        count: u32,
        /// Where to; at most [`diskstream_wire::limits::NODES_MAX`] count.
        successors: &'a [Share],
    },
    /// A turn begins. Said before its other inputs; by it the shard notices that it was paused.
    Turn {
        /// It brings so many datagrams that there may be more behind them.
        more: bool,
    },
}

/// From one shard of a node to another. Bounded: a shard waits for at most [`super::Limits::flights_max`] blocks of
/// others, and each wait is answered by one message; the list of a vDisk is started once; and a store takes as long to hang as a disk read
/// may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardMessage {
    /// A block that the receiver waits for is in the cache, or the sender loads it no more: look.
    Loaded(BlockKey),
    /// A block that the receiver waits for could not be loaded.
    LoadFailed(BlockKey),
    /// A vDisk has a list of blocks to load from here on, which the shards share.
    ListStarted,
    /// Another store hangs now, or one answers again: look. By its number.
    StoreChanged(u16),
}

/// Which file a disk read is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileRef {
    /// Index in [`super::NodeShared::vdisks`].
    pub vdisk: u32,
    /// Which of the vDisk's files.
    pub file_index: u16,
}

/// One read from a disk into the arena. Exactly one [`Input::DiskDone`] answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRead {
    /// From which file.
    pub file: FileRef,
    /// First byte in the file; a multiple of 4096 unless the format's own layout is not.
    pub file_offset: u64,
    /// Where to put it.
    pub arena_offset: usize,
    /// Bytes; may reach past the end of the file, where the read comes back short.
    pub len: u32,
    /// To hand back.
    pub token: u64,
}

/// What a shard wants done. Filled by `step` and `flush`, emptied by the driver; every list is bounded and keeps its
/// memory.
#[derive(Debug)]
pub struct Outbox {
    /// Datagrams to send. Each plan comes back by [`Input::Sent`], whatever becomes of it.
    pub sends: Vec<(SocketRole, Box<SendPlan>)>,
    /// Disk reads to start.
    pub reads: Vec<DiskRead>,
    /// Messages for other shards, by index.
    pub messages: Vec<(u16, ShardMessage)>,
    /// What an operator may want to read. Dropped (and counted) beyond [`EVENTS_MAX`] a turn.
    pub events: Vec<Event>,
    /// Plans that nobody uses.
    #[expect(
        clippy::vec_box,
        reason = "a plan lives in a box all its life: the kernel is shown its insides"
    )]
    pub(super) free_plans: Vec<Box<SendPlan>>,
}

/// Events of one turn at most; the rest is only counted. Guessed: more in one turn says nothing new.
pub const EVENTS_MAX: usize = 64;

impl Outbox {
    /// An outbox with all its memory for a shard with these limits.
    #[must_use]
    pub fn new(limits: &super::Limits) -> Outbox {
        let plans = usize::from(limits.plans);
        Outbox {
            sends: Vec::with_capacity(plans),
            reads: Vec::with_capacity(usize::from(limits.flights())),
            // A turn can finish every flight, and each may be waited for by every other shard.
            messages: Vec::with_capacity(usize::from(limits.flights()) * super::SHARDS_MAX),
            events: Vec::with_capacity(EVENTS_MAX),
            free_plans: (0..plans).map(|_| SendPlan::new()).collect(),
        }
    }

    /// Plans that nobody uses.
    #[must_use]
    pub fn free_plans(&self) -> usize {
        self.free_plans.len()
    }

    /// True when the driver has nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
            && self.reads.is_empty()
            && self.messages.is_empty()
            && self.events.is_empty()
    }
}

/// How loudly an event is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Ordinary life of a node.
    Info,
    /// Somebody should look.
    Warning,
    /// Something is broken.
    Error,
}

/// Something that an operator may want to read. `Display` gives the sentence; the driver limits the rate by
/// [`Event::label`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the sentence of each is its documentation, see Display")]
pub enum Event {
    LoginRefused {
        mac: Mac,
        peer: SocketAddr,
        reason: RejectReason,
        text: Text<128>,
    },
    LoginPlaced {
        mac: Mac,
        peer: SocketAddr,
        kind: LoginKind,
        vdisk: Text<64>,
        node: Endpoint,
        here: bool,
        why: &'static str,
        eligible: usize,
        sessions: u32,
        rating: u16,
    },
    DuplicateDevice {
        mac: Mac,
        alive_at: SocketAddr,
        refused: SocketAddr,
    },
    SessionStarted {
        mac: Mac,
        peer: SocketAddr,
        session: u32,
        kind: LoginKind,
        vdisk: Text<64>,
    },
    Handshake {
        mac: Mac,
        device_name: Text<32>,
        software: Text<32>,
        datagram_bytes: u16,
    },
    SessionEnded {
        mac: Mac,
        peer: SocketAddr,
        session: u32,
        reason: CloseReason,
        why: &'static str,
        lasted_s: u64,
        reads: u64,
    },
    StandbyPromoted {
        mac: Mac,
        peer: SocketAddr,
        session: u32,
        stood_by_s: u64,
    },
    StandbyLeans {
        mac: Mac,
        peer: SocketAddr,
        session: u32,
        reads: u64,
    },
    DiskFailed {
        vdisk: u32,
        offset: u64,
        errno: Errno,
    },
    DiskShort {
        vdisk: u32,
        offset: u64,
        wanted: u32,
        got: u32,
    },
    DiskOverdue {
        vdisk: u32,
        offset: u64,
        waited_ms: u64,
    },
    StoreHangs {
        vdisk: u32,
    },
    StoreAnswers {
        vdisk: u32,
    },
    ContentDiffers {
        vdisk: u32,
        offset: u64,
    },
    VdiskIneligible {
        vdisk: u32,
        sessions: u32,
    },
    DrainStarted {
        state: DrainState,
        sessions: u32,
        standbys: u32,
        deadline_ms: u64,
    },
    DrainProgress {
        sessions: u32,
        standbys: u32,
    },
    DrainFinished {
        left_behind: u32,
        named: [Option<Mac>; LEFT_NAMED],
        stopping: bool,
    },
    Resumed {
        sessions: u32,
        after_s: u64,
    },
    RebalanceStarted {
        vdisk: u32,
        sessions: u32,
        told: u32,
    },
    Paused {
        late_ms: u64,
    },
    SocketFailed {
        shard: u16,
        error: Errno,
    },
}

impl Event {
    /// A stable name of the kind of event.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Event::LoginRefused { .. } => "login_refused",
            Event::LoginPlaced { .. } => "login_placed",
            Event::DuplicateDevice { .. } => "duplicate_device",
            Event::SessionStarted { .. } => "session_started",
            Event::Handshake { .. } => "handshake",
            Event::SessionEnded { .. } => "session_ended",
            Event::DiskFailed { .. } => "disk_failed",
            Event::DiskShort { .. } => "disk_short",
            Event::DiskOverdue { .. } => "disk_overdue",
            Event::StoreHangs { .. } => "store_hangs",
            Event::StoreAnswers { .. } => "store_answers",
            Event::ContentDiffers { .. } => "content_differs",
            Event::VdiskIneligible { .. } => "vdisk_ineligible",
            Event::DrainStarted { .. } => "drain_started",
            Event::DrainProgress { .. } => "drain_progress",
            Event::DrainFinished { .. } => "drain_finished",
            Event::Resumed { .. } => "resumed",
            Event::RebalanceStarted { .. } => "rebalance_started",
            Event::Paused { .. } => "paused",
            Event::SocketFailed { .. } => "socket_failed",
            Event::StandbyPromoted { .. } => "standby_promoted",
            Event::StandbyLeans { .. } => "standby_leans",
        }
    }

    /// How loudly to say it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Event::LoginPlaced { .. }
            | Event::SessionStarted { .. }
            | Event::Handshake { .. }
            | Event::SessionEnded { .. }
            | Event::StandbyPromoted { .. }
            | Event::DrainStarted { .. }
            | Event::DrainProgress { .. }
            | Event::Resumed { .. }
            | Event::RebalanceStarted { .. }
            | Event::StoreAnswers { .. }
            | Event::DrainFinished { left_behind: 0, .. } => Severity::Info,
            Event::LoginRefused { .. }
            | Event::DuplicateDevice { .. }
            | Event::StandbyLeans { .. }
            | Event::DiskOverdue { .. }
            | Event::Paused { .. }
            | Event::SocketFailed { .. }
            | Event::DrainFinished { .. } => Severity::Warning,
            Event::DiskFailed { .. }
            | Event::DiskShort { .. }
            | Event::StoreHangs { .. }
            | Event::ContentDiffers { .. }
            | Event::VdiskIneligible { .. } => Severity::Error,
        }
    }

    /// The vDisk that it is about (an index; the driver knows the name).
    #[must_use]
    pub fn vdisk(&self) -> Option<u32> {
        match *self {
            Event::DiskFailed { vdisk, .. }
            | Event::DiskShort { vdisk, .. }
            | Event::DiskOverdue { vdisk, .. }
            | Event::StoreHangs { vdisk }
            | Event::StoreAnswers { vdisk }
            | Event::ContentDiffers { vdisk, .. }
            | Event::RebalanceStarted { vdisk, .. }
            | Event::VdiskIneligible { vdisk, .. } => Some(vdisk),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::LoginRefused { mac, peer, reason, text } => {
                write!(f, "device {mac} at {peer} refused ({reason}): {}", text.as_str())
            }
            Event::DuplicateDevice { mac, alive_at, refused } => write!(
                f,
                "device {mac} is alive at {alive_at}; the same MAC at {refused} was refused: give one of them another MAC"
            ),
            Event::SessionStarted { mac, peer, session, kind, vdisk } => {
                write!(
                    f,
                    "device {mac} at {peer}: session {session} on {} ({kind})",
                    vdisk.as_str()
                )
            }
            Event::Handshake { mac, device_name, software, datagram_bytes } => write!(
                f,
                "device {mac} ({}, {}) reads with datagrams of up to {datagram_bytes} bytes",
                device_name.as_str(),
                software.as_str()
            ),
            Event::LoginPlaced { .. }
            | Event::SessionEnded { .. }
            | Event::StandbyPromoted { .. }
            | Event::StandbyLeans { .. } => self.fmt_story(f),
            Event::SocketFailed { shard, error } => {
                write!(f, "a socket of shard {shard} reported {error}; it goes on receiving")
            }
            Event::DiskFailed { offset, errno, .. } => write!(
                f,
                "the store gave no bytes at offset {offset}: {errno}; devices read this range elsewhere. Check the disk"
            ),
            Event::DiskShort { offset, wanted, got, .. } => write!(
                f,
                "the store gave {got} of {wanted} bytes at offset {offset}: the image shrank under the node. Restore it"
            ),
            Event::DiskOverdue { offset, waited_ms, .. } => write!(
                f,
                "the store has not answered a read at offset {offset} for {waited_ms} ms; devices read this range elsewhere"
            ),
            Event::StoreHangs { .. } => f.write_str(
                "its store gives nothing any more: whoever asks for what is not in the cache is told at once to read elsewhere. Look at its \
                 disk or file server; the node goes on by itself when the store answers",
            ),
            Event::StoreAnswers { .. } => f.write_str("its store, which gave nothing, answers again"),
            Event::ContentDiffers { offset, .. } => write!(
                f,
                "content differs from its content id at offset {offset}: the image was changed in place, or disk or \
                 memory is at fault. The block is not served. Restore the image, or serve the changed one under a new name"
            ),
            Event::VdiskIneligible { sessions, .. } => {
                write!(
                    f,
                    "takes no devices any more; {sessions} sessions of this shard are told to move"
                )
            }
            Event::DrainStarted { .. }
            | Event::DrainProgress { .. }
            | Event::DrainFinished { .. }
            | Event::Resumed { .. }
            | Event::RebalanceStarted { .. }
            | Event::Paused { .. } => self.fmt_moves(f),
        }
    }
}

impl Event {
    /// The sentences that together tell one device's story at a node.
    fn fmt_story(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::LoginPlaced {
                mac,
                peer,
                kind,
                vdisk,
                node,
                here,
                why,
                eligible,
                sessions,
                rating,
            } => write!(
                f,
                "device {mac} at {peer}: {kind} login on {} placed {} ({node:?}): {why}; {eligible} eligible, it serves \
                 {sessions} at power {}.{:02}",
                vdisk.as_str(),
                if *here { "here" } else { "elsewhere" },
                rating / 100,
                rating % 100
            ),
            Event::SessionEnded { mac, peer, session, reason, why, lasted_s, reads } => write!(
                f,
                "device {mac} at {peer}: session {session} ended ({reason}) after {lasted_s} s and {reads} reads: {why}"
            ),
            Event::StandbyPromoted { mac, peer, session, stood_by_s } => write!(
                f,
                "device {mac} at {peer}: session {session} serves it now, after {stood_by_s} s as its standby"
            ),
            Event::StandbyLeans { mac, peer, session, reads } => write!(
                f,
                "device {mac} at {peer}: session {session} is called a standby, but answers most of its reads ({reads} so \
                 far), and counts as load: look whether its serving node is slow, or its software out of date"
            ),
            _ => Ok(()),
        }
    }

    /// The sentences about devices that are told to move.
    fn fmt_moves(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::DrainStarted { state, sessions, standbys, deadline_ms } => write!(
                f,
                "{}: {sessions} devices that read here and {standbys} that stand by are told to go elsewhere, within \
                 {deadline_ms} ms",
                state.label()
            ),
            Event::DrainProgress { sessions, standbys } => {
                write!(f, "draining: {sessions} devices still read here, {standbys} stand by")
            }
            Event::DrainFinished { left_behind: 0, .. } => {
                f.write_str("drained: no device reads here any more")
            }
            Event::DrainFinished { left_behind, named, stopping } => {
                write!(f, "{left_behind} devices had not moved at the deadline")?;
                let names = named.iter().flatten().enumerate();
                names.into_iter().try_for_each(|(n, mac)| {
                    write!(f, "{}{mac}", if n == 0 { ": " } else { ", " })
                })?;
                let more = *left_behind as usize > LEFT_NAMED;
                f.write_str(if more { " and more" } else { "" })?;
                f.write_str(if *stopping {
                    "; their sessions are ended"
                } else {
                    "; they are served as long as the node runs"
                })
            }
            Event::Resumed { sessions, after_s } => {
                write!(f, "takes devices again after {after_s} s; {sessions} had stayed")
            }
            Event::RebalanceStarted { sessions, told, .. } => write!(
                f,
                "rebalance: {told} of this shard's {sessions} devices are asked to go to nodes with less to do"
            ),
            Event::Paused { late_ms } => write!(
                f,
                "was paused for at least {late_ms} ms: reads from that time are dropped, and the other nodes are looked at anew. \
                 Check the host for swapping, a stopped process or a frozen virtual machine"
            ),
            _ => Ok(()),
        }
    }
}
