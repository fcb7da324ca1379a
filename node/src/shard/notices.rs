//! How devices are told to move: to the notice port, and down the established flow in case a firewall stands before that
//! port; again and again, more and more slowly, until they acknowledge.
//!
//! Not all at once. A move costs both ends some datagrams and the next node a burst of first reads, and devices that are told
//! together move together; told one after the other ([`NOTICES_FRESH`]), nobody waits behind anybody. So replies carry the
//! draining mark only to devices whose turn has come: the mark is as good as the notice.

use std::net::SocketAddr;

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{NodeEntry, Notice as NoticeMessage, NoticeAck, NoticeReason, SessionRole};

use super::limits::{NOTICE_BACKOFF, NOTICES_FRESH, NOTICES_FRESH_EVERY, NOTICES_PER_TURN};
use super::session::{Notice, Phase, Told};
use super::{Asked, Named, Outbox, Shard, SocketRole};
use crate::placement::NodeList;

/// What a notice about a changed vDisk names as the node's patience, in milliseconds: as long as a drain's default.
const INELIGIBLE_DEADLINE_MS: u32 = 15_000;
/// How long notices wait when the plans are out: sends come home within a turn or two.
const PLANS_PAUSE: Nanos = Nanos::from_millis(1);

/// The walk over the sessions that have something to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notices {
    /// When the next walk, or the next part of this one, begins.
    pub(super) due: Nanos,
    /// Live sessions that the walk under way has not looked at; they are the first in the list.
    left: usize,
    /// When the walk after this one begins, as far as is known.
    next: Nanos,
    /// Number of the last notice.
    sequence: u32,
    /// How many devices may be told for the first time before `fresh_at`: of those that are served, and of those that have a
    /// standby here, which nobody waits for.
    fresh: [usize; 2],
    /// When as many again may be.
    fresh_at: Nanos,
}

impl Notices {
    pub(super) const NONE: Notices = Notices {
        due: Nanos::NEVER,
        left: 0,
        next: Nanos::NEVER,
        sequence: 0,
        fresh: [0; 2],
        fresh_at: Nanos::ZERO,
    };

    fn wake(&mut self, at: Nanos) {
        self.next = self.next.earlier(at);
        self.due = self.due.earlier(at);
    }
}

/// What came of looking at one session.
enum Looked {
    /// Nothing to do before then.
    Until(Nanos),
    /// It was told.
    Told(Nanos),
    /// There are not enough plans.
    NoPlans,
}

impl Shard {
    /// Starts to tell a device to move, when its turn comes for the first time; `until`: when to give up.
    pub(super) fn begin_notice(
        &mut self,
        index: u32,
        reason: NoticeReason,
        until: Nanos,
        now: Nanos,
    ) {
        // Whoever is on its way already is told the new reason too, and the mark stays: without it the device would think that it
        // may stay.
        let goes = |notice: Notice| notice.told && notice.reason != NoticeReason::Rebalance;
        let told = self.sessions.cold(index).notice.is_some_and(goes);
        if !told {
            self.end_notice(index);
        }
        self.notices.sequence = self.notices.sequence.wrapping_add(1);
        let (backoff, _) = NOTICE_BACKOFF;
        let sequence = self.notices.sequence;
        let notice = Notice { reason, sequence, told, acked: false, due: now, backoff, until };
        self.sessions.set_notice(index, Some(notice));
        self.notices.wake(now);
    }

    /// Forgets a notice.
    pub(super) fn end_notice(&mut self, index: u32) {
        let notice = self.sessions.cold(index).notice;
        self.sessions.set_notice(index, None);
        if notice.is_some_and(|notice| notice.told && !notice.acked) {
            self.counters.notices_expired.inc();
        }
    }

    /// Sends notices that are due, as many as one turn may.
    pub(super) fn send_notices(&mut self, now: Nanos, out: &mut Outbox) {
        if now < self.notices.due {
            return;
        }
        if now >= self.notices.fresh_at {
            self.notices.fresh = [self.fresh_share(now); 2];
            self.notices.fresh_at = now + NOTICES_FRESH_EVERY;
        }
        if self.notices.left == 0 {
            self.notices.left = self.sessions.len();
            self.notices.next = Nanos::NEVER;
        }
        let (tell_max, look_max) = NOTICES_PER_TURN;
        let mut told = 0;
        for _ in 0..look_max {
            // From the end, because closing one moves the last into its place.
            self.notices.left = self.notices.left.min(self.sessions.len());
            let Some(n) = self.notices.left.checked_sub(1) else { break };
            let index = self.sessions.nth(n).expect("the walk is inside the list");
            match self.look_at_notice(index, told < tell_max, now, out) {
                Looked::Until(due) => self.notices.next = self.notices.next.earlier(due),
                Looked::Told(due) => {
                    told += 1;
                    self.notices.next = self.notices.next.earlier(due);
                }
                Looked::NoPlans => {
                    // The others get their turn, and those that are booked out come home.
                    let pause = if told < tell_max { PLANS_PAUSE } else { Nanos::ZERO };
                    self.notices.due = now + pause;
                    return;
                }
            }
            self.notices.left = n;
        }
        self.notices.due = if self.notices.left == 0 { self.notices.next } else { now };
    }

    /// How many devices may hear of their move for the first time in the next [`NOTICES_FRESH_EVERY`]: more when half of the time
    /// until a drain's deadline is not enough for all of them otherwise.
    fn fresh_share(&self, now: Nanos) -> usize {
        let Some(drain) = &self.drain else { return NOTICES_FRESH };
        let shares = drain.deadline.since(now).0 / 2 / NOTICES_FRESH_EVERY.0;
        let shares = usize::try_from(shares).unwrap_or(usize::MAX);
        self.sessions.len().div_ceil(shares.max(1)).max(NOTICES_FRESH)
    }

    fn look_at_notice(
        &mut self,
        index: u32,
        may_tell: bool,
        now: Nanos,
        out: &mut Outbox,
    ) -> Looked {
        // Unconfirmed sessions get nothing that they did not pay for.
        let session = self.sessions.get(index);
        if session.told == Told::Nothing || session.phase == Phase::Unconfirmed {
            return Looked::Until(Nanos::NEVER);
        }
        let cold = self.sessions.cold(index);
        let Some(notice) = cold.notice else {
            return Looked::Until(Nanos::NEVER);
        };
        if now >= notice.until {
            self.end_notice(index);
            return Looked::Until(Nanos::NEVER);
        }
        if notice.acked {
            return Looked::Until(notice.until);
        }
        if notice.due > now {
            return Looked::Until(notice.due.earlier(notice.until));
        }
        // What is asked for the balance's sake devices spread themselves.
        let fresh = !notice.told && notice.reason != NoticeReason::Rebalance;
        let kind = usize::from(cold.role == SessionRole::Standby);
        if fresh && self.notices.fresh[kind] == 0 {
            return Looked::Until(self.notices.fresh_at.earlier(notice.until));
        }
        // Half of the plans are left to the reads.
        if !may_tell || out.free_plans() < usize::from(self.shared.limits.plans) / 2 {
            return Looked::NoPlans;
        }
        let nodes = match notice.reason {
            NoticeReason::Rebalance => self.rebalance_successors(index),
            _ => self.successors_of(index),
        };
        if notice.reason == NoticeReason::Rebalance && nodes.as_slice().is_empty() {
            // Nobody has room any more: then it stays.
            self.end_notice(index);
            return Looked::Until(Nanos::NEVER);
        }
        self.notices.fresh[kind] -= usize::from(fresh);
        self.sessions.set_notice(index, Some(Notice { told: true, ..notice }));
        self.send_notice(index, notice, &nodes, now, out);
        let next = now + notice.backoff;
        let (_, longest) = NOTICE_BACKOFF;
        let backoff = (notice.backoff + notice.backoff).earlier(longest);
        let notice = Notice { told: true, due: next, backoff, ..notice };
        self.sessions.set_notice(index, Some(notice));
        Looked::Told(next)
    }

    fn send_notice(
        &mut self,
        index: u32,
        notice: Notice,
        nodes: &NodeList,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let session = self.sessions.get(index);
        let (tag, peer, local) = (session.tag, session.peer(), session.local());
        let port = self.sessions.cold(index).notice_port;
        let deadline = match (notice.reason, &self.drain) {
            (NoticeReason::Rebalance, _) => Some(notice.until),
            (_, Some(drain)) => Some(drain.deadline),
            _ => None,
        };
        let deadline_ms = deadline.map_or(INELIGIBLE_DEADLINE_MS, |deadline| {
            u32::try_from(deadline.since(now).as_millis()).unwrap_or(u32::MAX)
        });
        let message = NoticeMessage {
            flags: self.flags_of(index),
            tag,
            sequence: notice.sequence,
            deadline_ms,
            reason: notice.reason,
            node_count: nodes.count(),
            ..Default::default()
        };
        let to_notice_port =
            (port != 0 && port != peer.port()).then(|| SocketAddr::new(peer.ip(), port));
        for to in [Some(peer), to_notice_port].into_iter().flatten() {
            self.counters.notices_sent.inc();
            self.send_one(SocketRole::Io, to, local, out, |buf| {
                let mut tail = [0; NODES_MAX * NodeEntry::BYTES];
                let tail_bytes = nodes.encode(&mut tail);
                message.encode_with_tail(&tail[..tail_bytes], buf)
            });
        }
    }

    /// An acknowledgement may come from the notice port: then it is known by its tag alone, which nobody off the path has.
    pub(super) fn on_notice_ack(
        &mut self,
        m: &NoticeAck,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let at_notice_port = self.sessions.find(m.session).filter(|session| {
            let port = self.sessions.cold(m.session).notice_port;
            let from = SocketAddr::new(session.peer().ip(), port);
            session.tag == m.tag && port != 0 && from == asked.from
        });
        let index = if at_notice_port.is_some() {
            m.session
        } else {
            let named = Named { answer: false, ..Named::new(m.session, m.tag) };
            let Some(index) = self.recognise(named, asked, now, out) else { return };
            index
        };
        match &mut self.sessions.cold_mut(index).notice {
            Some(notice) if notice.sequence == m.sequence => {
                if !notice.acked {
                    self.counters.notices_acked.inc();
                }
                notice.acked = true;
            }
            _ => self.counters.refused_bad_value.inc(),
        }
    }
}
