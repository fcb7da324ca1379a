//! What a session is to its device, and what the node counts by it: a serving session is load, a standby is none.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::SessionRole;
use diskstream_wire::time::Nanos;

use super::{Event, Mutation, Outbox, Shard};

/// Sessions of a shard by role. What the node says about its load is the sum over its shards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roles {
    pub(super) serving: u32,
    pub(super) standby: u32,
}

impl Shard {
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

    /// The device uses a session as another thing than before.
    pub(super) fn set_role(&mut self, index: u32, role: SessionRole, now: Nanos, out: &mut Outbox) {
        let session = self.sessions.get_mut(index);
        let before = session.role;
        let role = if role == SessionRole::Standby { role } else { SessionRole::Serving };
        if before == role {
            return;
        }
        session.role = role;
        let (mac, peer, vdisk) = (session.mac, session.peer, session.vdisk);
        let stood_by_s = now.since(session.opened).0 / 1_000_000_000;
        if self.mutation != Some(Mutation::ForgetPromoted) {
            self.role_ends(before, vdisk);
            self.role_begins(role, vdisk);
        }
        if role == SessionRole::Serving {
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
