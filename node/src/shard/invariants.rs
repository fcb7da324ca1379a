//! What must be true between turns. A violation ends the process: half a state serves nobody.

use diskstream_wire::SessionRole;

use super::flights::Loader;
use super::jobs::{FLIGHT, NONE, SESSION, Work};
use super::session::{Phase, Session, Told};
use super::{Outbox, Shard};

impl Shard {
    /// The cheap part: sums that cost nothing to compare. Runs after every turn of a debug build, and in the simulator.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn check_invariants(&self, out: &Outbox) {
        let limits = &self.shared.limits;
        let plans = usize::from(limits.plans);
        assert!(
            self.plans_out + out.free_plans() == plans,
            "every plan is free or out: {} + {} of {plans}",
            out.free_plans(),
            self.plans_out
        );
        assert!(out.sends.len() <= self.plans_out, "a send in the outbox is a plan that is out");
        assert!(self.round.len() <= self.sessions.len(), "a session is in the round once");
        let (reading, queued) = self.stores.counts().fold((0, 0), |(r, q), (reading, queued)| {
            (r + usize::from(reading), q + usize::from(queued))
        });
        assert!(reading + queued <= self.flights.len(), "a disk read is one flight's");
        assert!(self.flights.len() <= usize::from(limits.flights()));
        assert!(self.jobs.in_use() <= limits.jobs());
        let roles = self.roles.serving as usize + self.roles.standby as usize;
        assert!(roles == self.sessions.len(), "every session is load or stands by");
        assert!(self.plans_out > 0 || self.bytes_out == 0, "bytes that are out are in plans");
    }

    /// The whole: walks every session, job and flight.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn check_invariants_deep(&self, out: &Outbox) {
        self.check_invariants(out);
        let mut jobs = 0;
        let mut bytes_out = 0;
        let mut scheduled = 0;
        let mut waiting = 0;
        let all = self.sessions.iter().map(|(index, _)| self.sessions.cold(index));
        let standbys = all.filter(|cold| cold.role == SessionRole::Standby);
        assert!(standbys.count() == self.roles.standby as usize, "standbys are counted");
        let unconfirmed = self.sessions.iter().filter(|(_, s)| s.phase == Phase::Unconfirmed);
        assert!(unconfirmed.count() == self.sessions.unconfirmed() as usize, "they are counted");
        for (index, session) in self.sessions.iter() {
            let told = Told::of(self.sessions.cold(index).notice);
            assert!(session.told == told, "replies say what the notice says");
            let (queued, waits) = self.check_session(index, session);
            jobs += queued + waits;
            waiting += waits;
            bytes_out += u64::from(session.inflight_bytes);
            scheduled += usize::from(session.scheduled);
        }
        assert!(jobs == self.jobs.in_use(), "every job is one session's");
        assert!(bytes_out == self.bytes_out, "bytes that are out are some session's");
        assert!(scheduled == self.round.len(), "the round holds the scheduled sessions");
        assert!(self.round.iter().all(|&index| self.sessions.get(index).scheduled));
        let waiters = self.flights.iter().map(|(index, flight)| {
            assert!(
                !flight.is_overdue() || flight.waiters.is_empty(),
                "nobody waits past the deadline"
            );
            assert!(
                matches!(flight.loader, Loader::Us { .. })
                    || flight.waiters.is_empty()
                    || flight.started <= flight.pending_due,
                "whoever waits for another shard is told so in time"
            );
            self.jobs
                .iter::<FLIGHT>(flight.waiters)
                .inspect(|&job| assert!(self.jobs.get(job).flight == index))
                .count()
        });
        assert!(waiters.sum::<usize>() == waiting, "whoever waits, waits for a block on its way");
        for (store, (reading, queued)) in (0..).zip(self.stores.counts()) {
            let of = || self.flights.iter().map(|(_, flight)| flight).filter(|f| f.store == store);
            let turns = of().filter(|flight| flight.has_turn).count();
            assert!(turns == usize::from(reading), "a store's turns are some flight's");
            let waits = of().filter(|flight| flight.queued.is_some()).count();
            assert!(waits == usize::from(queued), "reads that wait for a turn are counted");
        }
    }

    /// Queued and waiting jobs of a session.
    fn check_session(&self, index: u32, session: &Session) -> (usize, usize) {
        let mut fragments = 0;
        let queued = self.jobs.iter::<SESSION>(session.queue).inspect(|&job| {
            let job = self.jobs.get(job);
            assert!(job.session == index && job.flight == NONE && !job.is_waiting());
            assert!(!matches!(&job.work, Work::Data(data) if data.wanted == 0));
            fragments += job.fragments();
        });
        let queued = queued.count();
        let waits = self.jobs.iter::<SESSION>(session.waiting).inspect(|&job| {
            let job = self.jobs.get(job);
            assert!(job.session == index && job.is_waiting(), "only what lacks a block waits");
            assert!(job.flight != NONE, "whoever waits, waits for a block on its way");
        });
        let waits = waits.count();
        assert!(fragments == session.queued_fragments, "queued fragments are counted");
        assert!(queued + waits == usize::from(session.jobs), "jobs are counted");
        assert!(
            session.scheduled
                || session.queue.is_empty()
                || session.inflight_bytes >= self.shared.limits.session_inflight_bytes_max,
            "a session with replies ready is in the round, or has its fill on the way"
        );
        if session.phase == Phase::Unconfirmed {
            assert!(session.jobs == 0, "an unconfirmed session has nothing to get");
        }
        (queued, waits)
    }
}
