//! What a session is to its device, and what the node counts by it: a serving session is load, a standby is none.
//!
//! A device says what a session is to it. One that has its reads answered at a "standby" says so in vain: it counts as load, for
//! placement as for a drain, until it reads elsewhere.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, SessionRole};

use super::limits::{LEAN_READS_MAX, LEAN_READS_MIN, LEAN_WINDOW, STANDBY_RESERVE};
use super::session::{Cold, Session};
use super::{End, Event, Mutation, Outbox, Shard};

/// Sessions of a shard by role. What the node says about its load is the sum over its shards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roles {
    pub(super) serving: u32,
    pub(super) standby: u32,
}

/// How far a device leans on a session that it calls a standby.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lean {
    /// It is used like a serving one, whatever the word.
    leans: bool,
    /// The last window was like that, too.
    suspect: bool,
    since: Nanos,
    /// Reads here, and the device's own count of all its reads, when the window began.
    reads: u64,
    device_reads: u64,
}

impl Lean {
    pub(super) fn new(now: Nanos) -> Lean {
        Lean { leans: false, suspect: false, since: now, reads: 0, device_reads: 0 }
    }

    fn role(&self, says: SessionRole) -> SessionRole {
        if self.leans { SessionRole::Serving } else { says }
    }
}

impl Shard {
    /// The places that standbys leave free.
    pub(super) fn standby_reserve(&self) -> usize {
        (self.shared.limits.sessions_max / STANDBY_RESERVE).max(1) as usize
    }

    /// A serving session was confirmed. Where it took one of the last places, the standby that was heard of longest ago gives up its
    /// own: its device finds another node, or none, and reads on either way. Not before the confirmation: a replayed start displaces
    /// nobody.
    pub(super) fn make_room(&mut self, now: Nanos, out: &mut Outbox) {
        if self.roles.standby == 0 || self.sessions.places_left() >= self.standby_reserve() {
            return;
        }
        // A walk over the table, but only while it is full and somebody comes.
        let standbys = self
            .sessions
            .iter()
            .filter(|&(index, _)| self.sessions.cold(index).role == SessionRole::Standby);
        let oldest = standbys.min_by_key(|(_, s)| s.heard).map(|(index, _)| index);
        if let Some(index) = oldest {
            self.say_closed(index, Flags::NONE, out);
            self.close(index, End::Evicted, now, out);
        }
    }

    /// Looks whether a device has its reads answered at what it calls a standby.
    pub(super) fn look_at_lean(&mut self, index: u32, now: Nanos, out: &mut Outbox) {
        let Session { says, reads: reads_in_all, .. } = *self.sessions.get(index);
        let Cold { lean, figures, .. } = self.sessions.cold_mut(index);
        if says != SessionRole::Standby || now.since(lean.since) < LEAN_WINDOW {
            return;
        }
        let reads = reads_in_all - lean.reads;
        let of = figures.reads.saturating_sub(lean.device_reads);
        let much = reads > LEAN_READS_MAX || (reads >= LEAN_READS_MIN && reads > of / 2);
        lean.leans = much && lean.suspect;
        (lean.suspect, lean.since) = (much, now);
        (lean.reads, lean.device_reads) = (reads_in_all, figures.reads);
        self.settle_role(index, now, out);
    }

    /// Counts a session in.
    pub(super) fn role_begins(&mut self, role: SessionRole, vdisk: u32) {
        let own = &self.shared.own;
        if role == SessionRole::Standby {
            self.roles.standby += 1;
            own.standbys.fetch_add(1, Relaxed);
        } else {
            self.roles.serving += 1;
            own.sessions.fetch_add(1, Relaxed);
            self.shared.vdisk(vdisk).sessions.fetch_add(1, Relaxed);
        }
        self.show_roles();
    }

    /// Counts a session out.
    pub(super) fn role_ends(&mut self, role: SessionRole, vdisk: u32) {
        let own = &self.shared.own;
        if role == SessionRole::Standby {
            self.roles.standby -= 1;
            own.standbys.fetch_sub(1, Relaxed);
        } else {
            self.roles.serving -= 1;
            own.sessions.fetch_sub(1, Relaxed);
            self.shared.vdisk(vdisk).sessions.fetch_sub(1, Relaxed);
        }
        self.show_roles();
    }

    /// The device says what a session is to it, or shows it with a read.
    pub(super) fn set_role(&mut self, index: u32, role: SessionRole, now: Nanos, out: &mut Outbox) {
        let session = self.sessions.get_mut(index);
        let role = if role == SessionRole::Standby { role } else { SessionRole::Serving };
        if session.says == role {
            return;
        }
        session.says = role;
        let lean = &mut self.sessions.cold_mut(index).lean;
        // What it leaned on before it said so is no sign any more.
        (lean.leans, lean.suspect) = (false, false);
        self.settle_role(index, now, out);
    }

    fn settle_role(&mut self, index: u32, now: Nanos, out: &mut Outbox) {
        let session = self.sessions.get(index);
        let (says, reads, peer, vdisk) =
            (session.says, session.reads, session.peer(), session.vdisk);
        let cold = self.sessions.cold_mut(index);
        let (before, role) = (cold.role, cold.lean.role(says));
        if before == role {
            return;
        }
        cold.role = role;
        let (leans, mac) = (cold.lean.leans, cold.mac);
        let stood_by_s = now.since(cold.opened).0 / 1_000_000_000;
        if self.mutation != Some(Mutation::ForgetPromoted) {
            self.role_ends(before, vdisk);
            self.role_begins(role, vdisk);
        }
        if leans {
            self.counters.standbys_leaning.inc();
            self.event(Event::StandbyLeans { mac, peer, session: index, reads }, out);
        } else if role == SessionRole::Serving {
            self.counters.standbys_promoted.inc();
            self.event(Event::StandbyPromoted { mac, peer, session: index, stood_by_s }, out);
        } else {
            self.counters.sessions_demoted.inc();
        }
    }

    /// One of those that logins said were coming has come.
    pub(super) fn guest_came(&self) {
        let expected = &self.shared.own.expected;
        // Those that were handed over by other nodes were never expected here: the count stays at zero then.
        let _none = expected.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    fn show_roles(&self) {
        self.counters.sessions_serving.set(u64::from(self.roles.serving));
        self.counters.sessions_standby.set(u64::from(self.roles.standby));
    }
}
