//! A session: what every read of its device touches, and what is asked for rarely.
//!
//! They lie in two arrays (see [`super::sessions`]), so that a read and its reply meet two cache lines of a session and no more,
//! however many sessions there are.

use std::net::SocketAddr;

use diskstream_ring::LocalAddr;
use diskstream_wire::time::Nanos;
use diskstream_wire::{Capabilities, KeepAlive, LoginKind, Mac, NoticeReason, SessionRole, Text};

use super::address::Ends;
use super::jobs::List;
use super::moment::Moment;
use super::roles::Lean;

/// What a device says about itself in its keep-alives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceFigures {
    /// Bytes kept in the write cache.
    pub write_cache_used_bytes: u64,
    /// Bytes that the write cache can keep; 0: no bound of its own.
    pub write_cache_bytes: u64,
    /// Reads completed since the device started.
    pub reads: u64,
    /// Requests sent again since the device started.
    pub retries: u64,
    /// Units whose sum did not match, since the device started.
    pub sum_mismatches: u64,
    /// Smoothed round trip in microseconds.
    pub srtt_us: u32,
    /// Microseconds of the longest read since the last keep-alive.
    pub read_us_max: u32,
    /// Moves to another node since the device started.
    pub moves: u32,
    /// Reads that were asked at the standby as well, since the device started.
    pub hedges: u32,
    /// Those of them that the standby answered first.
    pub hedges_won: u32,
    /// Code of the write-cache type.
    pub write_cache: u8,
}

impl DeviceFigures {
    pub(super) fn of(said: &KeepAlive) -> DeviceFigures {
        DeviceFigures {
            write_cache_used_bytes: said.write_cache_used_bytes,
            write_cache_bytes: said.write_cache_bytes,
            reads: said.reads,
            retries: said.retries,
            sum_mismatches: said.sum_mismatches,
            srtt_us: said.srtt_us,
            read_us_max: said.read_us_max,
            moves: said.moves,
            hedges: said.hedges,
            hedges_won: said.hedges_won,
            write_cache: said.write_cache.code(),
        }
    }
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Its device has not echoed the tag yet: it may be a replay, and gets nothing larger than what it sends.
    Unconfirmed,
    /// Single-read mode.
    Single,
    /// The handshake is done: many reads outstanding.
    Open,
}

/// A notice on its way to a device, until it acknowledges or leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notice {
    pub(super) reason: NoticeReason,
    pub(super) sequence: u32,
    /// It was sent once at least: from then on replies are marked, too.
    pub(super) told: bool,
    pub(super) acked: bool,
    /// When to send it again.
    pub(super) due: Nanos,
    /// Distance to the time after that.
    pub(super) backoff: Nanos,
    /// When the node gives up, if it does.
    pub(super) until: Nanos,
}

/// What flags and notices need to know of [`Cold::notice`] in every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing is to be said.
    Nothing,
    /// There is a notice, but its device may stay for now: it is only asked to make room, or its turn has not come.
    MayStay,
    /// It was told to go.
    MustGo,
}

impl Told {
    pub(super) fn of(notice: Option<Notice>) -> Told {
        match notice {
            None => Told::Nothing,
            Some(n) if n.told && n.reason != NoticeReason::Rebalance => Told::MustGo,
            Some(_) => Told::MayStay,
        }
    }
}

/// What a read and its reply touch of a session: two cache lines, of which two bytes are free.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Session {
    pub(super) tag: u64,
    /// What its reads name: the vDisk's.
    pub(super) generation: u64,
    /// Reads that it asked for.
    pub(super) reads: u64,
    /// When it was last heard of.
    pub(super) heard: Nanos,
    /// Where its device is, and what that asked.
    pub(super) ends: Ends,
    /// Replies that are ready.
    pub(super) queue: List,
    /// Parts of reads that wait for a block.
    pub(super) waiting: List,
    /// Fragments of the ready ones.
    pub(super) queued_fragments: u32,
    /// Bytes in sends that are not complete.
    pub(super) inflight_bytes: u32,
    /// What it may still send in its turn.
    pub(super) deficit: u32,
    /// Counts the slot's uses; part of what a send plan remembers.
    pub(super) serial: u32,
    pub(super) vdisk: u32,
    /// When it last read.
    pub(super) read_at: Moment,
    /// Jobs in both lists.
    pub(super) jobs: u16,
    /// Largest UDP payload that it was agreed to send.
    pub(super) datagram_bytes: u16,
    capabilities: u8,
    pub(super) phase: Phase,
    /// Its device's word for what the session is to it.
    pub(super) says: SessionRole,
    /// Its turn will come: it is in the round.
    pub(super) scheduled: bool,
    /// Follows [`Cold::notice`].
    pub(super) told: Told,
}
/// A vacant slot takes no more: [`Phase`] has room for the mark.
const _: () = assert!(size_of::<Option<Session>>() == 128);
/// Capabilities are kept in 8 bits.
const _: () = assert!(Capabilities::OURS.0 < 1 << 8);

impl Session {
    /// Its device's address.
    #[inline]
    pub(super) fn peer(&self) -> SocketAddr {
        self.ends.peer()
    }

    /// Where to answer from.
    #[inline]
    pub(super) fn local(&self) -> Option<LocalAddr> {
        self.ends.local()
    }

    /// What both sides can do.
    #[inline]
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities(u64::from(self.capabilities))
    }

    /// Takes what both sides can do.
    pub(super) fn agree(&mut self, capabilities: Capabilities) {
        self.capabilities = in_8_bits(capabilities);
    }

    pub(super) fn new(new: &NewSession, serial: u32, now: Nanos) -> Session {
        Session {
            tag: new.tag,
            generation: new.generation,
            reads: 0,
            ends: Ends::new(new.peer, new.local),
            queue: List::EMPTY,
            waiting: List::EMPTY,
            queued_fragments: 0,
            inflight_bytes: 0,
            deficit: 0,
            serial,
            vdisk: new.vdisk,
            heard: now,
            read_at: Moment::at(now),
            jobs: 0,
            datagram_bytes: super::USUAL_DATAGRAM_BYTES,
            capabilities: in_8_bits(new.capabilities),
            phase: Phase::Unconfirmed,
            says: new.role(),
            scheduled: false,
            told: Told::Nothing,
        }
    }
}

fn in_8_bits(capabilities: Capabilities) -> u8 {
    let known = Capabilities::OURS.common(capabilities);
    u8::try_from(known.0).expect("checked where it is defined")
}

/// The rest of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cold {
    pub(super) kind: LoginKind,
    /// It took a boot slot.
    pub(super) boots: bool,
    /// Load, or kept warm for a failure of another node.
    pub(super) role: SessionRole,
    /// How far its device leans on what it calls a standby.
    pub(super) lean: Lean,
    pub(super) opened: Nanos,
    /// Until when it is not asked again to make room for others.
    pub(super) left_alone_until: Nanos,
    /// Set with [`super::sessions::Sessions::set_notice`].
    pub(super) notice: Option<Notice>,
    pub(super) notice_port: u16,
    pub(super) mac: Mac,
    pub(super) mac_next: u32,
    /// Place in the list of live sessions.
    pub(super) live_at: u32,
    /// The login that made it, so that a repeat finds it: the device's nonce.
    pub(super) nonce: [u8; 16],
    /// Tag of a session of the device that this one replaces wherever its device is; 0: none.
    pub(super) former_tag: u64,
    pub(super) figures: DeviceFigures,
    /// Whether it was counted why its device came; a standby's device has not come yet.
    pub(super) arrival_counted: bool,
    /// Whether the figures of before are known: a device that comes from elsewhere has counted there already.
    pub(super) figures_known: bool,
    pub(super) device_name: Text<32>,
}

impl Cold {
    pub(super) fn new(new: &NewSession, now: Nanos) -> Cold {
        Cold {
            kind: new.kind,
            boots: new.boots,
            role: new.role(),
            lean: Lean::new(now),
            opened: now,
            left_alone_until: Nanos::ZERO,
            notice: None,
            notice_port: new.notice_port,
            mac: new.mac,
            mac_next: super::jobs::NONE,
            live_at: super::jobs::NONE,
            nonce: new.nonce,
            former_tag: new.former_tag,
            figures: DeviceFigures::default(),
            arrival_counted: false,
            figures_known: new.kind == LoginKind::Boot,
            device_name: new.device_name,
        }
    }
}

/// What a session starts from.
pub(super) struct NewSession {
    pub(super) tag: u64,
    pub(super) peer: SocketAddr,
    pub(super) local: Option<LocalAddr>,
    pub(super) kind: LoginKind,
    /// Nothing proves that it goes on: it takes a boot slot.
    pub(super) boots: bool,
    pub(super) capabilities: Capabilities,
    pub(super) vdisk: u32,
    pub(super) generation: u64,
    pub(super) mac: Mac,
    /// Where the farm says that the device hears notices; its handshake may name another port.
    pub(super) notice_port: u16,
    pub(super) nonce: [u8; 16],
    /// Tag of the session that the device had here; 0: none.
    pub(super) former_tag: u64,
    pub(super) device_name: Text<32>,
}

impl NewSession {
    /// What it begins as.
    pub(super) fn role(&self) -> SessionRole {
        match self.kind {
            LoginKind::Standby => SessionRole::Standby,
            _ => SessionRole::Serving,
        }
    }
}
