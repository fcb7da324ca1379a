//! What goes out of the machine: trains of datagrams, and events.

use std::net::SocketAddr;

use diskstream_wire::{
    BusyReason, ContentId, ImageMode, MoveReason, Nanos, RejectReason, Text, WriteCacheType,
};

/// Which of the device's sockets a datagram uses. A driver may map several to one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Login exchanges (port 6901).
    Login,
    /// vDisk data and all that belongs to a session (port 6905).
    Io,
    /// Notices that a node sends of its own accord (port 6902).
    Notice,
}

/// One send: a datagram, or several equally long ones behind each other for one GSO `sendmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// From which socket.
    pub channel: Channel,
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of each datagram: the written bytes are a multiple of it.
    pub segment_bytes: usize,
}

/// What a device knows of its vDisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Name of the vDisk.
    pub vdisk: Text<64>,
    /// Name that the farm has for this device.
    pub device_name: Text<32>,
    /// Bytes of the vDisk; reads cover whole units, the last filled up with zeros.
    pub size_bytes: u64,
    /// What its content is.
    pub content_id: ContentId,
    /// Bytes of a cache block of the nodes.
    pub block_bytes: u32,
    /// Number of the version; 0 is the base.
    pub version: u32,
    /// How the image is used.
    pub image_mode: ImageMode,
    /// Where the farm wants writes to be kept.
    pub write_cache: WriteCacheType,
    /// Bytes of the write cache that the farm prescribes; 0: the device decides.
    pub write_cache_bytes: u64,
    /// Pinned to one node: there is no failover.
    pub pinned: bool,
}

/// Why a device goes to another node, or logs in again at the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveCause {
    /// Probes were not answered.
    NodeSilent,
    /// The node sent a notice.
    Notice,
    /// The node marked its replies.
    Draining,
    /// The node does not know the session: it restarted.
    UnknownSession,
    /// The node ended the session.
    EndedByNode,
    /// The node's store failed repeatedly.
    StoreErrors,
    /// The node serves another content.
    WrongContent,
}

impl MoveCause {
    /// All causes, in the order of their counters.
    pub const ALL: [MoveCause; 7] = [
        MoveCause::NodeSilent,
        MoveCause::Notice,
        MoveCause::Draining,
        MoveCause::UnknownSession,
        MoveCause::EndedByNode,
        MoveCause::StoreErrors,
        MoveCause::WrongContent,
    ];

    /// What a node is told.
    #[must_use]
    pub const fn reason(self) -> MoveReason {
        match self {
            MoveCause::NodeSilent => MoveReason::NodeSilent,
            MoveCause::Notice => MoveReason::Notice,
            MoveCause::Draining => MoveReason::Draining,
            MoveCause::UnknownSession => MoveReason::UnknownSession,
            MoveCause::EndedByNode => MoveReason::EndedByNode,
            MoveCause::StoreErrors => MoveReason::StoreErrors,
            MoveCause::WrongContent => MoveReason::WrongContent,
        }
    }

    /// A stable label for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            MoveCause::NodeSilent => "node_silent",
            MoveCause::Notice => "notice",
            MoveCause::Draining => "draining",
            MoveCause::UnknownSession => "unknown_session",
            MoveCause::EndedByNode => "ended_by_node",
            MoveCause::StoreErrors => "store_errors",
            MoveCause::WrongContent => "wrong_content",
        }
    }
}

impl std::fmt::Display for MoveCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// Why there is no standby at a node, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyEnd {
    /// Probes were not answered.
    Silent,
    /// The node does not know the session, or ended it.
    Gone,
    /// The node is going to stop.
    Draining,
    /// The node serves another content.
    WrongContent,
    /// The node's store cannot give what it was asked for.
    StoreErrors,
    /// The node said to come later.
    Busy,
    /// The node refused the login.
    Rejected(RejectReason),
}

impl std::fmt::Display for StandbyEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StandbyEnd::Silent => f.write_str("silent"),
            StandbyEnd::Gone => f.write_str("session_gone"),
            StandbyEnd::Draining => f.write_str("draining"),
            StandbyEnd::WrongContent => f.write_str("wrong_content"),
            StandbyEnd::StoreErrors => f.write_str("store_errors"),
            StandbyEnd::Busy => f.write_str("busy"),
            StandbyEnd::Rejected(reason) => write!(f, "rejected: {reason}"),
        }
    }
}

/// Why a read gave no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReadError {
    /// Every eligible node said so.
    #[error("no node of the farm can read this range from its store")]
    Store,
    /// Not inside the vDisk.
    #[error("the range is not inside the vDisk")]
    OutOfRange,
    /// No node answered for as long as the operator set.
    #[error("no node answered within the hold limit")]
    HoldExpired,
    /// The session was closed.
    #[error("the session is closed")]
    Closed,
}

/// Why a read was not taken at all. The buffer comes back.
#[derive(Debug, thiserror::Error)]
#[error("the read was not taken: {reason}")]
pub struct ReadRefused {
    /// The caller's buffer.
    pub buffer: Vec<u8>,
    /// Why.
    pub reason: RefusedReason,
}

/// Why a read or question was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// As many are outstanding as the bound allows: try again when one is done.
    #[error("too many are outstanding")]
    Full,
    /// Not whole units, nothing, or too much.
    #[error("it does not cover whole units of 4096 bytes, 1 to 8192 of them")]
    Misaligned,
    /// The session is closed.
    #[error("the session is closed")]
    Closed,
}

/// A run of bytes of a vDisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u64,
    /// All zeros; else it may hold data.
    pub zero: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A read is over; without error the buffer is full.
    ReadDone {
        /// The caller's mark.
        token: u64,
        /// The caller's buffer.
        buffer: Vec<u8>,
        /// How it ended.
        result: Result<(), ReadError>,
    },
    /// A question about extents is answered: runs that follow each other from `offset`. May cover less than was asked,
    /// but at least a unit: ask on from there.
    ExtentsDone {
        /// The caller's mark.
        token: u64,
        /// First byte.
        offset: u64,
        /// The runs.
        result: Result<Vec<Extent>, ReadError>,
    },
    /// The vDisk can be read; happens once.
    Opened {
        /// What it is.
        disk: DiskInfo,
        /// The node that serves it (its login address).
        node: SocketAddr,
    },
    /// The device goes on at another node (or with a new session at the same).
    Moved {
        /// The node that served before.
        from: SocketAddr,
        /// The node that serves now.
        to: SocketAddr,
        /// Why.
        cause: MoveCause,
        /// For how long the oldest outstanding read had waited.
        stall: Nanos,
        /// Reads outstanding.
        outstanding: usize,
    },
    /// A session is open at a second node and kept warm.
    StandbyOpened {
        /// Which node.
        node: SocketAddr,
    },
    /// The standby is given up; another is sought.
    StandbyLost {
        /// Which node.
        node: SocketAddr,
        /// Why.
        why: StandbyEnd,
    },
    /// A node did not take the device as its standby. It keeps asking, patiently; told once for a node and reason in a row.
    StandbyRefused {
        /// Which node.
        node: SocketAddr,
        /// Why.
        why: StandbyEnd,
    },
    /// No node answers; reads are held.
    Holding {
        /// Since when.
        since: Nanos,
        /// Why the last node was left.
        cause: MoveCause,
    },
    /// Reads go on after they were held.
    Resumed {
        /// The node that serves now.
        node: SocketAddr,
        /// For how long they were held.
        held: Nanos,
    },
    /// A node refused the device. It keeps trying, slowly where a person must act.
    Rejected {
        /// Which node.
        node: SocketAddr,
        /// Why.
        reason: RejectReason,
        /// What to show.
        text: Text<128>,
    },
    /// A node told the device to wait before it logs in.
    Busy {
        /// Which node.
        node: SocketAddr,
        /// How long.
        wait: Nanos,
        /// Why.
        reason: BusyReason,
    },
    /// A node offers another content than the one that is being read: it is not used.
    WrongContent {
        /// Which node.
        node: SocketAddr,
        /// What is being read.
        expected: ContentId,
        /// What it offers, where it said so.
        offered: Option<ContentId>,
    },
    /// The session is over, after [`super::Session::detach`].
    Closed,
}
