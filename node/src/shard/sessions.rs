//! The sessions of a shard: slots found by index, and by MAC through a small hash table of their own.
//!
//! ```text
//!            hot                cold    ahead
//! index ──> [Session | vacant]  [Cold]  [Ahead]     arrays of their own, so that what reads touch lies together
//! ```
//!
//! All arrays have their final size from the start, but a slot is written for the first time when its first session comes: a table
//! for many sessions costs the memory of those that came.

use diskstream_wire::time::Nanos;
use diskstream_wire::{LoginKind, Mac};

use super::ahead::Ahead;
use super::jobs::NONE;
use super::limits::SESSION_BYTES_MAX;
use super::session::{Cold, NewSession, Notice, Phase, Session, Told};

/// What one session costs: itself, its places in the lists of live and ready sessions and of vacant slots, and in the MAC table
/// (two buckets for one session at worst).
const SESSION_COST: usize =
    size_of::<Option<Session>>() + size_of::<Cold>() + size_of::<Ahead>() + 4 + 4 + 4 + 2 * 4;
const _: () = assert!(SESSION_COST <= SESSION_BYTES_MAX);

/// Bytes that one session costs in all. Jobs and plans are the shard's, however many sessions it has.
#[must_use]
pub const fn session_cost_bytes() -> usize {
    SESSION_COST
}

/// The sessions of a shard.
#[derive(Debug)]
pub(super) struct Sessions {
    hot: Vec<Option<Session>>,
    /// By the same index; a vacant slot's is its last session's.
    cold: Vec<Cold>,
    ahead: Vec<Ahead>,
    slots: usize,
    /// Slots whose session ended; those never used follow the arrays' ends.
    vacant: Vec<u32>,
    live: Vec<u32>,
    /// First session of each bucket of MACs; sessions are chained by `mac_next`.
    by_mac: Vec<u32>,
    /// Sessions whose device has not echoed its tag.
    unconfirmed: u32,
    /// Counts all uses of all slots.
    serial: u32,
}

/// A session that was taken out.
pub(super) struct Ended {
    pub(super) session: Session,
    pub(super) cold: Cold,
}

impl Sessions {
    pub(super) fn new(count: u32) -> Sessions {
        let slots = count as usize;
        Sessions {
            hot: Vec::with_capacity(slots),
            cold: Vec::with_capacity(slots),
            ahead: Vec::with_capacity(slots),
            slots,
            vacant: Vec::with_capacity(slots),
            live: Vec::with_capacity(slots),
            by_mac: vec![NONE; slots.next_power_of_two()],
            unconfirmed: 0,
            serial: 0,
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
        self.places_left() == 0
    }

    /// Places that nobody has.
    pub(super) fn places_left(&self) -> usize {
        self.slots - self.live.len()
    }

    /// Sessions whose device has not echoed its tag.
    pub(super) fn unconfirmed(&self) -> u32 {
        self.unconfirmed
    }

    /// Slots that were ever used: every live session's index is below.
    pub(super) fn used(&self) -> usize {
        self.hot.len()
    }

    /// Opens a session in a free slot.
    pub(super) fn add(&mut self, new: &NewSession, now: Nanos) -> u32 {
        assert!(!self.is_full(), "the caller asked is_full");
        self.serial = self.serial.wrapping_add(1);
        let session = Session::new(new, self.serial, now);
        let bucket = self.bucket(new.mac);
        let live_at = u32::try_from(self.live.len()).expect("no more than the slots");
        let cold = Cold { mac_next: self.by_mac[bucket], live_at, ..Cold::new(new, now) };
        let ahead = Ahead::new(new.kind == LoginKind::Boot);
        let index = match self.vacant.pop() {
            Some(index) => {
                self.hot[index as usize] = Some(session);
                self.cold[index as usize] = cold;
                self.ahead[index as usize] = ahead;
                index
            }
            None => {
                self.hot.push(Some(session));
                self.cold.push(cold);
                self.ahead.push(ahead);
                u32::try_from(self.hot.len() - 1).expect("no more than the slots")
            }
        };
        self.by_mac[bucket] = index;
        self.live.push(index);
        self.unconfirmed += 1;
        index
    }

    /// Takes a session out. Its jobs are gone already.
    pub(super) fn remove(&mut self, index: u32) -> Ended {
        let session = self.hot[index as usize].take().expect("a live session");
        let cold = self.cold[index as usize];
        assert!(session.jobs == 0, "a session's jobs end before it does");
        let bucket = self.bucket(cold.mac);
        self.unchain(bucket, index, cold.mac_next);
        self.live.swap_remove(cold.live_at as usize);
        if let Some(&moved) = self.live.get(cold.live_at as usize) {
            self.cold_mut(moved).live_at = cold.live_at;
        }
        self.vacant.push(index);
        self.unconfirmed -= u32::from(session.phase == Phase::Unconfirmed);
        Ended { session, cold }
    }

    fn unchain(&mut self, bucket: usize, index: u32, next: u32) {
        let mut at = self.by_mac[bucket];
        if at == index {
            self.by_mac[bucket] = next;
            return;
        }
        while self.cold(at).mac_next != index {
            at = self.cold(at).mac_next;
        }
        self.cold_mut(at).mac_next = next;
    }

    /// Asks for the first line of a session that a read will need soon; the second one follows it.
    #[inline]
    pub(super) fn foresee(&self, index: u32) {
        if let Some(slot) = self.hot.get(index as usize) {
            diskstream_ring::prefetch(slot);
        }
    }

    /// The session with this index, if there is one.
    #[inline]
    pub(super) fn find(&self, index: u32) -> Option<&Session> {
        self.hot.get(index as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Session {
        self.hot[index as usize].as_ref().expect("a live session")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Session {
        self.hot[index as usize].as_mut().expect("a live session")
    }

    /// What the session is likely to ask for next.
    #[inline]
    pub(super) fn ahead_mut(&mut self, index: u32) -> &mut Ahead {
        &mut self.ahead[index as usize]
    }

    /// What is asked for rarely.
    #[inline]
    pub(super) fn cold(&self, index: u32) -> &Cold {
        &self.cold[index as usize]
    }

    /// What is asked for rarely; a notice changes by [`Sessions::set_notice`].
    #[inline]
    pub(super) fn cold_mut(&mut self, index: u32) -> &mut Cold {
        &mut self.cold[index as usize]
    }

    /// The session that a send plan remembers, if it still lives.
    #[inline]
    pub(super) fn by_serial(&mut self, index: u32, serial: u32) -> Option<&mut Session> {
        let session = self.hot.get_mut(index as usize)?.as_mut()?;
        (session.serial == serial).then_some(session)
    }

    /// Its device echoed its tag.
    pub(super) fn set_confirmed(&mut self, index: u32) {
        let session = self.get_mut(index);
        assert!(session.phase == Phase::Unconfirmed, "a session is confirmed once");
        session.phase = Phase::Single;
        self.unconfirmed -= 1;
    }

    /// What its device is to be told, and with it what every reply of the session says.
    pub(super) fn set_notice(&mut self, index: u32, notice: Option<Notice>) {
        self.cold_mut(index).notice = notice;
        self.get_mut(index).told = Told::of(notice);
    }

    /// The sessions of a MAC, the newest first.
    pub(super) fn of_mac(&self, mac: Mac) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.by_mac[self.bucket(mac)];
        std::iter::from_fn(move || {
            while at != NONE {
                let index = at;
                let cold = self.cold(index);
                at = cold.mac_next;
                if cold.mac == mac {
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
    use diskstream_wire::{Capabilities, LoginKind, Text};

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
    fn a_session_costs_at_most_half_a_kib() {
        println!(
            "a session costs {} bytes: {} hot, {} cold",
            session_cost_bytes(),
            size_of::<Option<Session>>(),
            size_of::<Cold>()
        );
        assert!(session_cost_bytes() <= SESSION_BYTES_MAX);
    }
}
