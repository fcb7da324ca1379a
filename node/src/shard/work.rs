//! What a session has to do and how it ends: its jobs enter the queue, leave it, or go with it.

use diskstream_wire::CloseReason;
use diskstream_wire::time::Nanos;

use super::jobs::{FLIGHT, NONE, NewJob, SESSION, Work};
use super::session::Phase;
use super::sessions::Ended;
use super::{Event, Outbox, Shard, SocketRole, serve};

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Detached,
    Moved,
    Replaced,
    Expired,
    Unconfirmed,
    Drained,
    Evicted,
}

impl Shard {
    /// Ends a session and everything that it has queued or waits for.
    pub(super) fn close(&mut self, index: u32, end: End, now: Nanos, out: &mut Outbox) {
        loop {
            let session = self.sessions.get_mut(index);
            let job =
                if session.queue.is_empty() { session.waiting.head } else { session.queue.head };
            if job == NONE {
                break;
            }
            self.end_job(job);
        }
        if self.sessions.get(index).scheduled {
            self.round.retain(|&scheduled| scheduled != index);
        }
        let Ended { session, cold } = self.sessions.remove(index);
        // Its sends that are out are nobody's from here on.
        self.bytes_out -= u64::from(session.inflight_bytes);
        self.role_ends(cold.role, session.vdisk);
        self.count_sessions();
        if cold.notice.is_some_and(|notice| !notice.acked) {
            self.counters.notices_expired.inc();
        }
        // A boot that ends before its handshake, and was not begun again, boots no more.
        let booting = cold.boots && session.phase != Phase::Open;
        if booting && self.sessions.of_mac(cold.mac).next().is_none() {
            self.shared.boot_slots.free(cold.mac);
        }
        let c = &self.counters;
        let (counter, reason, why) = match end {
            End::Detached => {
                (&c.sessions_closed_detached, CloseReason::Detached, "the device said so")
            }
            End::Moved => (&c.sessions_closed_moved, CloseReason::Moved, "the device said so"),
            End::Replaced => (
                &c.sessions_closed_replaced,
                CloseReason::EndedByNode,
                "the device logged in again",
            ),
            End::Expired => {
                (&c.sessions_closed_expired, CloseReason::EndedByNode, "the device fell silent")
            }
            End::Unconfirmed => (
                &c.sessions_closed_unconfirmed,
                CloseReason::EndedByNode,
                "its tag never came back",
            ),
            End::Evicted => (
                &c.sessions_closed_evicted,
                CloseReason::EndedByNode,
                "a standby, and its place went to a device that reads",
            ),
            End::Drained => {
                (&c.sessions_closed_drained, CloseReason::EndedByNode, "the node stops")
            }
        };
        counter.inc();
        if session.phase != Phase::Unconfirmed {
            let (mac, peer) = (cold.mac, session.peer());
            let lasted_s = now.since(cold.opened).0 / 1_000_000_000;
            let reads = session.reads;
            let event =
                Event::SessionEnded { mac, peer, session: index, reason, why, lasted_s, reads };
            self.event(event, out);
        }
    }

    pub(super) fn count_sessions(&self) {
        self.counters.sessions.set(self.sessions.len() as u64);
        self.counters.sessions_unconfirmed.set(u64::from(self.sessions.unconfirmed()));
    }

    /// Takes a job out of its lists and gives its pins back.
    pub(super) fn end_job(&mut self, index: u32) {
        let (session, flight) = {
            let job = self.jobs.get(index);
            (job.session, job.flight)
        };
        if flight != NONE {
            let flight = self.flights.get_mut(flight);
            self.jobs.unlink::<FLIGHT>(&mut flight.waiters, index);
        }
        let session = self.sessions.get_mut(session);
        let fragments = self.jobs.get(index).fragments();
        let list = if self.jobs.get(index).is_waiting() {
            &mut session.waiting
        } else {
            session.queued_fragments -= fragments;
            &mut session.queue
        };
        self.jobs.unlink::<SESSION>(list, index);
        session.jobs -= 1;
        self.forget_job(index);
    }

    /// Gives back the slot and the pins of a job that is in no list.
    pub(super) fn forget_job(&mut self, index: u32) {
        let job = self.jobs.remove(index);
        if let Work::Data(data) = job.work {
            for pin in [data.pin, data.second].into_iter().flatten() {
                self.cache.unpin(pin);
            }
        }
    }

    /// Queues a job behind the session's other replies.
    pub(super) fn enqueue(&mut self, index: u32) {
        let job = self.jobs.get(index);
        let (of, fragments) = (job.session, job.fragments());
        let session = self.sessions.get_mut(of);
        session.queued_fragments += fragments;
        self.jobs.push::<SESSION>(&mut session.queue, index);
        self.schedule(of);
    }

    /// Puts a session into the round if it has something to send and may.
    pub(super) fn schedule(&mut self, index: u32) {
        let room = self.shared.limits.session_inflight_bytes_max;
        let session = self.sessions.get_mut(index);
        if !session.scheduled && !session.queue.is_empty() && session.inflight_bytes < room {
            session.scheduled = true;
            session.deficit = 0;
            self.round.push_back(index);
        }
    }

    /// Queues a small reply, which shares a send with others of its session.
    ///
    /// Where the shard has no room for another job it is sent alone, as long as that leaves half of the plans to the replies that
    /// are queued. A device that has twice as much to get as it was told that it may ask for gets no more signs of life: each would
    /// cost a send of its own, and the sends that the others wait for.
    pub(super) fn queue_small(&mut self, new: NewJob, out: &mut Outbox) {
        let index = new.session;
        let bound = u32::from(self.shared.limits.session_jobs_max) * 2;
        let session = self.sessions.get(index);
        let floods = u32::from(session.jobs) >= bound;
        if !floods && !self.jobs.is_full() {
            let job = self.jobs.add(new).expect("asked is_full just now");
            self.sessions.get_mut(index).jobs += 1;
            self.enqueue(job);
            return;
        }
        if floods || out.free_plans() <= usize::from(self.shared.limits.plans) / 2 {
            return self.counters.replies_dropped.inc();
        }
        let (peer, local) = (session.peer(), session.local());
        let mut bytes = [0; serve::SMALL_BYTES];
        self.encode_small(&new, Nanos::ZERO, &mut bytes);
        self.send_one(SocketRole::Io, peer, local, out, |buf| {
            buf[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        });
    }
}
