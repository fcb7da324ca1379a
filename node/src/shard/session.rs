//! Sessions: a slab found by index, and by MAC through a small hash table of its own.

use std::net::SocketAddr;

use diskstream_ring::LocalAddr;
use diskstream_wire::time::Nanos;
use diskstream_wire::{Capabilities, KeepAlive, LoginKind, Mac, NoticeReason, SessionRole, Text};

use super::jobs::{Job, List, NONE};
use super::limits::{JOBS_PER_SESSION, SESSION_BYTES_MAX};
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

/// One device's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) tag: u64,
    pub(super) peer: SocketAddr,
    pub(super) local: Option<LocalAddr>,
    pub(super) phase: Phase,
    pub(super) kind: LoginKind,
    /// It took a boot slot.
    pub(super) boots: bool,
    /// Load, or kept warm for a failure of another node.
    pub(super) role: SessionRole,
    /// What its device says that it is, and what it does.
    pub(super) lean: Lean,
    pub(super) capabilities: Capabilities,
    /// Largest UDP payload that it was agreed to send.
    pub(super) datagram_bytes: u16,
    /// Its turn will come: it is in the round.
    pub(super) scheduled: bool,
    pub(super) vdisk: u32,
    /// What its reads name: the vDisk's.
    pub(super) generation: u64,
    /// Replies that are ready.
    pub(super) queue: List,
    /// Parts of reads that wait for a block.
    pub(super) waiting: List,
    /// Jobs in both.
    pub(super) jobs: u16,
    /// Fragments of the ready ones.
    pub(super) queued_fragments: u32,
    /// Bytes in sends that are not complete.
    pub(super) inflight_bytes: u32,
    /// What it may still send in its turn.
    pub(super) deficit: u32,
    /// When it was last heard of.
    pub(super) heard: Nanos,
    pub(super) opened: Nanos,
    /// When it last read.
    pub(super) read_at: Nanos,
    /// Reads that it asked for.
    pub(super) reads: u64,
    /// Until when it is not asked again to make room for others.
    pub(super) left_alone_until: Nanos,
    pub(super) notice: Option<Notice>,
    pub(super) notice_port: u16,
    pub(super) mac: Mac,
    mac_next: u32,
    /// Place in the list of live sessions.
    live_at: u32,
    /// Counts the slot's uses; part of what a send plan remembers.
    pub(super) serial: u32,
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

/// What one session costs: itself, its share of the jobs, its places in the lists of live and ready sessions, in the
/// free list and in the MAC table (two buckets for one session).
const SESSION_COST: usize =
    size_of::<Slot>() + JOBS_PER_SESSION * (size_of::<Option<Job>>() + 4) + 4 + 4 + 4 + 2 * 4;
const _: () = assert!(SESSION_COST <= SESSION_BYTES_MAX);

/// Bytes that one session costs in all.
#[must_use]
pub const fn session_cost_bytes() -> usize {
    SESSION_COST
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    session: Option<Session>,
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

/// The sessions of a shard.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: Vec<u32>,
    /// First session of each bucket of MACs; sessions are chained by `mac_next`.
    by_mac: Vec<u32>,
}

impl Sessions {
    pub(super) fn new(count: u32) -> Sessions {
        let buckets = (count as usize).next_power_of_two();
        Sessions {
            slots: (0..count).map(|_| Slot { serial: 0, session: None }).collect(),
            free: (0..count).rev().collect(),
            live: Vec::with_capacity(count as usize),
            by_mac: vec![NONE; buckets],
        }
    }

    fn bucket(&self, mac: Mac) -> usize {
        // Not keyed: the shard's MACs were spread by a keyed hash already, and tickets are sealed.
        crc32c::crc32c(&mac.0) as usize & (self.by_mac.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Places that nobody has.
    pub(super) fn places_left(&self) -> usize {
        self.free.len()
    }

    /// Opens a session in a free slot.
    pub(super) fn add(&mut self, new: &NewSession, now: Nanos) -> u32 {
        let index = self.free.pop().expect("the caller asked is_full");
        let bucket = self.bucket(new.mac);
        let live_at = u32::try_from(self.live.len()).expect("no more than the slots");
        let slot = &mut self.slots[index as usize];
        slot.serial = slot.serial.wrapping_add(1);
        slot.session = Some(Session {
            tag: new.tag,
            peer: new.peer,
            local: new.local,
            phase: Phase::Unconfirmed,
            kind: new.kind,
            boots: new.boots,
            role: new.role(),
            lean: Lean::new(new.role(), now),
            capabilities: new.capabilities,
            datagram_bytes: super::USUAL_DATAGRAM_BYTES,
            scheduled: false,
            vdisk: new.vdisk,
            generation: new.generation,
            queue: List::EMPTY,
            waiting: List::EMPTY,
            jobs: 0,
            queued_fragments: 0,
            inflight_bytes: 0,
            deficit: 0,
            heard: now,
            opened: now,
            read_at: now,
            reads: 0,
            left_alone_until: Nanos::ZERO,
            notice: None,
            notice_port: new.notice_port,
            mac: new.mac,
            mac_next: self.by_mac[bucket],
            live_at,
            serial: slot.serial,
            nonce: new.nonce,
            former_tag: new.former_tag,
            figures: DeviceFigures::default(),
            arrival_counted: false,
            figures_known: new.kind == LoginKind::Boot,
            device_name: new.device_name,
        });
        self.by_mac[bucket] = index;
        self.live.push(index);
        index
    }

    /// Takes a session out. Its jobs are gone already.
    pub(super) fn remove(&mut self, index: u32) -> Session {
        let session = self.slots[index as usize].session.take().expect("a live session");
        assert!(session.jobs == 0, "a session's jobs end before it does");
        let bucket = self.bucket(session.mac);
        self.unchain(bucket, index, session.mac_next);
        self.live.swap_remove(session.live_at as usize);
        if let Some(&moved) = self.live.get(session.live_at as usize) {
            self.get_mut(moved).live_at = session.live_at;
        }
        self.free.push(index);
        session
    }

    fn unchain(&mut self, bucket: usize, index: u32, next: u32) {
        let mut at = self.by_mac[bucket];
        if at == index {
            self.by_mac[bucket] = next;
            return;
        }
        while self.get(at).mac_next != index {
            at = self.get(at).mac_next;
        }
        self.get_mut(at).mac_next = next;
    }

    /// The session with this index, if there is one.
    #[inline]
    pub(super) fn find(&self, index: u32) -> Option<&Session> {
        self.slots.get(index as usize)?.session.as_ref()
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Session {
        self.slots[index as usize].session.as_ref().expect("a live session")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Session {
        self.slots[index as usize].session.as_mut().expect("a live session")
    }

    /// The session that a send plan remembers, if it still lives.
    #[inline]
    pub(super) fn by_serial(&mut self, index: u32, serial: u32) -> Option<&mut Session> {
        let slot = self.slots.get_mut(index as usize)?;
        if slot.serial == serial { slot.session.as_mut() } else { None }
    }

    /// The sessions of a MAC, the newest first.
    pub(super) fn of_mac(&self, mac: Mac) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.by_mac[self.bucket(mac)];
        std::iter::from_fn(move || {
            while at != NONE {
                let index = at;
                let session = self.get(index);
                at = session.mac_next;
                if session.mac == mac {
                    return Some(index);
                }
            }
            None
        })
    }

    /// The `n`th live session, for walks that close some.
    pub(super) fn nth(&self, n: usize) -> Option<u32> {
        self.live.get(n).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Session)> {
        self.live.iter().map(|&index| (index, self.get(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(mac: u8, tag: u64) -> NewSession {
        NewSession {
            tag,
            peer: diskstream_wire::NO_ADDR,
            local: None,
            kind: LoginKind::Boot,
            boots: true,
            capabilities: Capabilities(0),
            vdisk: 0,
            generation: 7,
            mac: Mac([0, 0, 0, 0, 0, mac]),
            notice_port: 0,
            nonce: [0; 16],
            former_tag: 0,
            device_name: Text::default(),
        }
    }

    #[test]
    fn found_by_index_mac_and_serial_until_removed() {
        let mut sessions = Sessions::new(4);
        let all: Vec<u32> =
            [1, 2, 1, 3].iter().map(|&mac| sessions.add(&new(mac, 9), Nanos::ZERO)).collect();
        assert!(sessions.is_full());
        let of = |sessions: &Sessions, mac| -> Vec<u32> {
            sessions.of_mac(Mac([0, 0, 0, 0, 0, mac])).collect()
        };
        assert_eq!(of(&sessions, 1), [all[2], all[0]]);
        let serial = sessions.get(all[0]).serial;
        sessions.remove(all[0]);
        assert_eq!(of(&sessions, 1), [all[2]]);
        assert!(sessions.find(all[0]).is_none() && sessions.by_serial(all[0], serial).is_none());
        let again = sessions.add(&new(4, 8), Nanos::ZERO);
        assert_eq!(again, all[0]);
        assert!(sessions.by_serial(again, serial).is_none(), "another use of the slot");
        for index in [all[3], all[1], all[2], again] {
            sessions.remove(index);
        }
        assert_eq!((sessions.len(), sessions.iter().count()), (0, 0));
        assert!(sessions.find(u32::MAX).is_none());
    }

    #[test]
    fn a_session_costs_at_most_two_kib() {
        assert!(session_cost_bytes() <= 2048, "{}", session_cost_bytes());
        println!("a session costs {} bytes", session_cost_bytes());
    }
}
