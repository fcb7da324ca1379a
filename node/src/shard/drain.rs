//! How devices are told to move, and how a node ends.

use std::net::SocketAddr;

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    CloseReason, Flags, NodeEntry, Notice as NoticeMessage, NoticeAck, NoticeReason, SessionClosed,
};

use super::limits::NOTICE_BACKOFF;
use super::login::NodeList;
use super::session::{Notice, Phase};
use super::{Asked, End, Event, Named, Outbox, Shard, SocketRole};

/// What a notice about a changed vDisk names as the node's patience, in milliseconds: as long as a drain's default.
const INELIGIBLE_DEADLINE_MS: u32 = 15_000;

/// A shard that is told to stop.
pub(super) struct Drain {
    pub(super) deadline: Nanos,
    pub(super) finished: bool,
    successors: NodeList,
}

impl Drain {
    pub(super) fn successors(&self) -> &[NodeEntry] {
        self.successors.as_slice()
    }
}

impl Shard {
    /// True when nothing is left to serve: the thread may end once what is in the outbox is sent.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.finished)
    }

    /// True from the moment the shard was told to stop.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn on_drain(
        &mut self,
        deadline: Nanos,
        successors: &[NodeEntry],
        now: Nanos,
        out: &mut Outbox,
    ) {
        let mut list = NodeList::new();
        successors.iter().take(NODES_MAX).for_each(|&entry| list.push(entry));
        if let Some(drain) = &mut self.drain {
            // Told again: newer successors, and the earlier of two deadlines.
            drain.successors = list;
            drain.deadline = drain.deadline.earlier(deadline);
            return;
        }
        let event = Event::DrainStarted {
            sessions: u32::try_from(self.sessions.len()).expect("sessions_max is a u32"),
            successors: list.count(),
            deadline_ms: deadline.since(now).as_millis(),
        };
        self.event(event, out);
        self.drain = Some(Drain { deadline, finished: false, successors: list });
        self.counters.draining.set(1);
        // From the end, because closing one moves the last into its place.
        for n in (0..self.sessions.len()).rev() {
            let index = self.sessions.nth(n).expect("only sessions behind this one were closed");
            if self.sessions.get(index).phase == Phase::Unconfirmed {
                self.close(index, End::Unconfirmed, out);
            } else {
                self.begin_notice(index, NoticeReason::Stopping, now);
            }
        }
    }

    pub(super) fn on_vdisk_changed(&mut self, vdisk: u32, now: Nanos, out: &mut Outbox) {
        let Some(entry) = self.shared.vdisks().and_then(|vdisks| vdisks.get(vdisk as usize)) else {
            return;
        };
        entry.eligible.store(false, std::sync::atomic::Ordering::Relaxed);
        let mut told = 0;
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            let session = self.sessions.get(index);
            if session.vdisk == vdisk && session.notice.is_none() {
                self.begin_notice(index, NoticeReason::VdiskIneligible, now);
                told += 1;
            }
        }
        self.event(Event::VdiskIneligible { vdisk, sessions: told }, out);
    }

    /// Starts to tell a device to move, at the end of this turn for the first time.
    pub(super) fn begin_notice(&mut self, index: u32, reason: NoticeReason, now: Nanos) {
        self.notice_sequence = self.notice_sequence.wrapping_add(1);
        let (backoff, _) = NOTICE_BACKOFF;
        let sequence = self.notice_sequence;
        let notice = Notice { reason, sequence, acked: false, due: now, backoff };
        self.sessions.get_mut(index).notice = Some(notice);
        self.notices_due = self.notices_due.earlier(now);
    }

    /// Sends the notices that are due: to the notice port, and down the established flow in case a firewall stands before
    /// that port.
    pub(super) fn send_notices(&mut self, now: Nanos, out: &mut Outbox) {
        let mut due = Nanos::NEVER;
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            // Unconfirmed sessions get nothing that they did not pay for.
            let session = self.sessions.get(index);
            if session.phase == Phase::Unconfirmed {
                continue;
            }
            let Some(notice) = session.notice.filter(|notice| !notice.acked) else { continue };
            if notice.due > now {
                due = due.earlier(notice.due);
                continue;
            }
            if out.free_plans() < 2 {
                // Soon: sends that are out come home within a turn or two.
                due = due.earlier(now + Nanos::from_millis(1));
                break;
            }
            self.send_notice(index, notice, now, out);
            let next = now + notice.backoff;
            let (_, longest) = NOTICE_BACKOFF;
            let backoff = (notice.backoff + notice.backoff).earlier(longest);
            self.sessions.get_mut(index).notice = Some(Notice { due: next, backoff, ..notice });
            due = due.earlier(next);
        }
        self.notices_due = due;
    }

    fn send_notice(&mut self, index: u32, notice: Notice, now: Nanos, out: &mut Outbox) {
        let session = self.sessions.get(index);
        let (tag, peer, local) = (session.tag, session.peer, session.local);
        let (port, vdisk) = (session.notice_port, session.vdisk);
        let mut nodes = NodeList::new();
        let deadline_ms = match &self.drain {
            Some(drain) => {
                drain.successors().iter().for_each(|&entry| nodes.push(entry));
                u32::try_from(drain.deadline.since(now).as_millis()).unwrap_or(u32::MAX)
            }
            None => {
                self.push_others(vdisk, &mut nodes);
                INELIGIBLE_DEADLINE_MS
            }
        };
        let message = NoticeMessage {
            flags: Flags::DRAINING,
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
            let port = session.notice_port;
            let from = SocketAddr::new(session.peer.ip(), port);
            session.tag == m.tag && port != 0 && from == asked.from
        });
        let index = if at_notice_port.is_some() {
            m.session
        } else {
            let named = Named { answer: false, ..Named::new(m.session, m.tag) };
            let Some(index) = self.recognise(named, asked, now, out) else { return };
            index
        };
        match &mut self.sessions.get_mut(index).notice {
            Some(notice) if notice.sequence == m.sequence => {
                if !notice.acked {
                    self.counters.notices_acked.inc();
                }
                notice.acked = true;
            }
            _ => self.counters.refused_bad_value.inc(),
        }
    }

    /// Ends the drain when everybody has left, or when the time is up: then those who are left are told so.
    pub(super) fn finish_drain(&mut self, now: Nanos, out: &mut Outbox) {
        let Some(drain) = &self.drain else { return };
        if drain.finished || (self.sessions.len() > 0 && now < drain.deadline) {
            return;
        }
        let left_behind = u32::try_from(self.sessions.len()).expect("sessions_max is a u32");
        while let Some(index) = self.sessions.nth(0) {
            let session = self.sessions.get(index);
            let closed = SessionClosed {
                flags: Flags::DRAINING,
                tag: session.tag,
                session: index,
                reason: CloseReason::EndedByNode,
                ..Default::default()
            };
            let (peer, local) = (session.peer, session.local);
            if session.phase != Phase::Unconfirmed {
                self.send_one(SocketRole::Io, peer, local, out, |buf| closed.encode(buf));
            }
            self.close(index, End::Drained, out);
        }
        self.event(Event::DrainFinished { left_behind }, out);
        if let Some(drain) = &mut self.drain {
            drain.finished = true;
        }
    }
}

/// A node may end with blocks still on their way from a slow disk and replies queued. Their tickets and pins are not given
/// back but forgotten: a disk may write to those frames until its read is done, so nobody else is to have them.
impl Drop for Shard {
    fn drop(&mut self) {
        while let Some(index) = self.flights.nth(0) {
            std::mem::forget(self.flights.remove(index));
        }
        self.jobs.forget_all();
    }
}
