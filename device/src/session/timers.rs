//! What is due: requests without an answer, and reads that were held for too long.

use diskstream_wire::Nanos;

use super::Session;
use super::event::{Event, MoveCause, ReadError};
use super::limits::{HOLDING_REPORT, IGNORED_MOVE, PROBE_INTERVAL, PROBE_INTERVAL_MAX};
use super::request::Phase;

impl Session {
    /// Does what is due. Cheap when nothing is.
    pub fn tick(&mut self, now: Nanos) {
        if self.closed {
            return;
        }
        if self.requests.earliest() <= now {
            self.scan_requests(now);
        }
        self.check_sizes(now);
        self.check_rebalance(now);
        self.check_ignored(now);
        self.check_held(now);
    }

    /// A node that answers keep-alives and no reads is left like one that answers nothing.
    fn check_ignored(&mut self, now: Nanos) {
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        if serving.is_some_and(|path| path.ignored >= IGNORED_MOVE) {
            self.promote(MoveCause::NodeSilent, &[], now);
        }
    }

    /// When [`Session::tick`] must be called next (and trains taken after it); [`Nanos::NEVER`]: not before something
    /// arrives.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.closed {
            return Nanos::NEVER;
        }
        let paths = self.paths.iter().flatten().map(|path| path.next_due());
        paths
            .chain(self.seek.as_ref().map(|seek| seek.next_due()))
            .fold(self.requests.earliest(), Nanos::earlier)
            .earlier(self.standby_seek_due())
            .earlier(self.rebalance.as_ref().map_or(Nanos::NEVER, |rebalance| rebalance.at))
            .earlier(self.rebalance_until.unwrap_or(Nanos::NEVER))
            .earlier(self.questions_due())
            .earlier(self.held_due())
    }

    fn scan_requests(&mut self, now: Nanos) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get_mut(slot);
            if request.due <= now {
                match request.phase {
                    Phase::Asked => self.unanswered(slot, now),
                    Phase::Pending => {
                        request.spoken_of(now);
                        self.withdraw(slot);
                        self.requests.enqueue(slot);
                    }
                    Phase::Waiting => self.requests.enqueue(slot),
                    Phase::Queued | Phase::Free => {}
                }
            }
            let request = self.requests.get(slot);
            if request.hedge_at <= now && request.phase != Phase::Free {
                self.consider_hedge(slot, now);
            }
        }
        self.requests.settle();
    }

    /// A request's answer, or the rest of it, did not come in time.
    fn unanswered(&mut self, slot: u16, now: Nanos) {
        let request = self.requests.get(slot);
        let (index, sent_at, answered) =
            (usize::from(request.path), request.sent_at, request.answered);
        let may_wait = !answered || !request.has_hole();
        let path = self.paths[index].as_mut().expect("asked requests name a live path");
        // While reads are queued there, only an unanswered keep-alive says that it is silent: so one is sent, also where what
        // follows asks again at once.
        if !answered && path.queue_wait == Nanos::ZERO {
            path.unanswered(sent_at, now);
        } else if !answered {
            path.check_soon(now);
        }
        let suspect = path.is_suspect();
        let asks_on = !suspect && !path.is_leaving();
        if asks_on && may_wait && !path.evidence.speaks_for_loss(sent_at) {
            // It may wait in a queue: the answer to what is asked after it will tell.
            path.evidence.await_answer();
            path.check_soon(now);
            let again = now + self.recheck();
            self.requests.set_due(slot, again);
            return;
        }
        if suspect && self.asked_path(now).is_none_or(|asked| asked == index) {
            // The path's probes speak for all its requests.
            let again = now + self.recheck();
            self.requests.set_due(slot, again);
            return;
        }
        if let Some(path) = self.paths[index].as_mut().filter(|_| !suspect) {
            path.window.lost(sent_at, now);
        }
        let request = self.requests.get_mut(slot);
        request.lost = true;
        request.lost_at = now;
        if !answered {
            request.timeouts += 1;
        } else {
            request.hole_of = Some(request.attempt);
        }
        if answered && let Some(path) = &mut self.paths[index] {
            path.evidence.lost();
        }
        self.withdraw(slot);
        self.requests.enqueue(slot);
        if !answered {
            self.full_size_lost(index, slot, sent_at, now);
        }
    }

    /// How soon to look again at what waits for a silent path.
    pub(super) fn recheck(&self) -> Nanos {
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        if serving.is_some_and(super::path::Path::is_dead) {
            PROBE_INTERVAL_MAX
        } else {
            PROBE_INTERVAL
        }
    }

    fn check_held(&mut self, now: Nanos) {
        let Some(held) = &mut self.held else { return };
        if let Some(cause) = held.cause
            && !held.reported
            && now.since(held.since) >= HOLDING_REPORT
        {
            held.reported = true;
            self.events.push_back(Event::Holding { since: held.since, cause });
        }
        if let Some(limit) = self.config.hold_limit
            && now.since(held.since) >= limit
        {
            self.fail_all(ReadError::HoldExpired);
        }
    }

    fn held_due(&self) -> Nanos {
        let Some(held) = &self.held else { return Nanos::NEVER };
        let report = match held.cause {
            Some(_) if !held.reported => held.since + HOLDING_REPORT,
            _ => Nanos::NEVER,
        };
        let waits = self.reads.len() > 0 || !self.questions.is_empty();
        let limit = match self.config.hold_limit {
            Some(limit) if waits => held.since + limit,
            _ => Nanos::NEVER,
        };
        report.earlier(limit)
    }
}
