//! How a node empties: for maintenance, after which it takes devices again, or because it is going to end.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::time::Nanos;
use diskstream_wire::{CloseReason, Flags, Mac, NoticeReason, SessionClosed, SessionRole};

use super::limits::{
    DRAIN_ALONE, DRAIN_CLOSING_FOR, DRAIN_REPORT_EVERY, NOTICES_PER_TURN, PLANS_RESERVED,
};
use super::session::Phase;
use super::{End, Event, Outbox, Shard, SocketRole};
use crate::view::DrainState;

/// Devices left behind that are named.
pub const LEFT_NAMED: usize = 4;

/// A shard that takes no devices.
pub(super) struct Drain {
    pub(super) state: DrainState,
    pub(super) deadline: Nanos,
    pub(super) finished: bool,
    /// When it began.
    since: Nanos,
    /// When to say how far it is, and, if it is to end, to look whether anybody has somewhere to go.
    report_due: Nanos,
    /// The story was told to its end.
    told_end: bool,
    /// It ends: those who are left are told so, until then at most.
    closing_until: Option<Nanos>,
    /// Serving sessions at the time when it began to end.
    left_behind: u32,
    named: [Option<Mac>; LEFT_NAMED],
}

impl Drain {
    /// When something is due.
    pub(super) fn due(&self) -> Nanos {
        if self.finished || (self.told_end && self.state == DrainState::Maintenance) {
            return Nanos::NEVER;
        }
        match self.closing_until {
            // Plans come home with the next completions; a millisecond if there are none.
            Some(_) => self.report_due,
            None => self.deadline.earlier(self.report_due),
        }
    }
}

impl Shard {
    /// True when nothing is left to serve: the thread may end once what is in the outbox is sent.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.finished)
    }

    /// True from the moment the shard was told to take no devices, until it is told to take some again.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn on_drain(
        &mut self,
        state: DrainState,
        deadline: Nanos,
        now: Nanos,
        out: &mut Outbox,
    ) {
        if state == DrainState::Serving {
            return self.on_resume(now, out);
        }
        if let Some(drain) = &mut self.drain
            && (drain.state == state || drain.state == DrainState::Stopping)
        {
            // Told again: the earlier of two deadlines. A node that is to end is not kept by maintenance.
            if drain.state == state {
                drain.deadline = drain.deadline.earlier(deadline);
            }
            return;
        }
        self.end_rebalance();
        self.shared.own.drain.store(state as u8, Relaxed);
        self.drain = Some(Drain {
            state,
            deadline,
            finished: false,
            since: now,
            report_due: now
                + if state == DrainState::Stopping { DRAIN_ALONE } else { DRAIN_REPORT_EVERY },
            told_end: false,
            closing_until: None,
            left_behind: 0,
            named: [None; LEFT_NAMED],
        });
        self.counters.draining.set(1);
        self.counters.drain_left.set(0);
        // From the end, because closing one moves the last into its place.
        for n in (0..self.sessions.len()).rev() {
            let index = self.sessions.nth(n).expect("only sessions behind this one were closed");
            if self.sessions.get(index).phase == Phase::Unconfirmed {
                self.close(index, End::Unconfirmed, now, out);
            } else {
                self.begin_notice(index, NoticeReason::Stopping, Nanos::NEVER, now);
            }
        }
        let event = Event::DrainStarted {
            state,
            sessions: self.roles.serving,
            standbys: self.roles.standby,
            deadline_ms: deadline.since(now).as_millis(),
        };
        self.event(event, out);
    }

    /// Takes devices again. A node that is going to end cannot.
    pub(super) fn on_resume(&mut self, now: Nanos, out: &mut Outbox) {
        self.end_rebalance();
        let Some(drain) = self.drain.take_if(|drain| drain.state == DrainState::Maintenance) else {
            return;
        };
        self.shared.own.drain.store(DrainState::Serving as u8, Relaxed);
        self.counters.draining.set(0);
        self.feeding.look();
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            let notice = self.sessions.cold(index).notice;
            if notice.is_some_and(|notice| notice.reason == NoticeReason::Stopping) {
                self.end_notice(index);
                // The vDisk was changed before or during maintenance: that this node stays is no reason to stay here.
                if !self.is_eligible(index) {
                    self.begin_notice(index, NoticeReason::VdiskIneligible, Nanos::NEVER, now);
                }
            }
        }
        let after_s = now.since(drain.since).0 / 1_000_000_000;
        self.event(Event::Resumed { sessions: self.roles.serving, after_s }, out);
    }

    fn is_eligible(&self, index: u32) -> bool {
        let vdisk = self.sessions.get(index).vdisk as usize;
        let entry = self.shared.vdisks().and_then(|vdisks| vdisks.get(vdisk));
        entry.is_some_and(|entry| entry.is_eligible())
    }

    pub(super) fn on_vdisk_changed(&mut self, vdisk: u32, now: Nanos, out: &mut Outbox) {
        let Some(entry) = self.shared.vdisks().and_then(|vdisks| vdisks.get(vdisk as usize)) else {
            return;
        };
        entry.eligible.store(false, Relaxed);
        let mut told = 0;
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            let notice = self.sessions.cold(index).notice;
            let free = notice.is_none_or(|notice| notice.reason == NoticeReason::Rebalance);
            if self.sessions.get(index).vdisk == vdisk && free {
                self.begin_notice(index, NoticeReason::VdiskIneligible, Nanos::NEVER, now);
                told += 1;
            }
        }
        self.event(Event::VdiskIneligible { vdisk, sessions: told }, out);
    }

    /// Looks how far a drain is, and ends it when every device has left, or has nowhere to go, or when the time is up.
    pub(super) fn drive_drain(&mut self, now: Nanos, out: &mut Outbox) {
        let Some(drain) = &self.drain else { return };
        // In maintenance nothing is left to say: no walk over the sessions in every turn from then on.
        if drain.finished || (drain.told_end && drain.state == DrainState::Maintenance) {
            return;
        }
        if drain.closing_until.is_some() {
            return self.close_rest(now, out);
        }
        let (empty, late) = (self.roles.serving == 0, now >= drain.deadline);
        let report = now >= drain.report_due;
        let stopping = drain.state == DrainState::Stopping;
        // Standbys hold nothing up. Whoever has nowhere to go is waited for no longer than the others are looked for.
        if empty || late || (stopping && report && !self.anybody_can_go()) {
            return if stopping { self.begin_end(now, out) } else { self.tell_end(out) };
        }
        if report {
            let sessions = self.roles.serving;
            let event = Event::DrainProgress { sessions, standbys: self.roles.standby };
            self.event(event, out);
            if let Some(drain) = &mut self.drain {
                drain.report_due = now + DRAIN_REPORT_EVERY;
            }
        }
    }

    fn anybody_can_go(&mut self) -> bool {
        (0..self.sessions.len()).any(|n| {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            self.sessions.cold(index).role == SessionRole::Serving && self.has_successor(index)
        })
    }

    fn begin_end(&mut self, now: Nanos, out: &mut Outbox) {
        let (left_behind, named) = self.who_is_left();
        if let Some(drain) = &mut self.drain {
            drain.closing_until = Some(now + DRAIN_CLOSING_FOR);
            (drain.left_behind, drain.named) = (left_behind, named);
        }
        self.close_rest(now, out);
    }

    fn who_is_left(&self) -> (u32, [Option<Mac>; LEFT_NAMED]) {
        let all = self.sessions.iter().map(|(index, _)| self.sessions.cold(index));
        let serving = all.filter(|cold| cold.role == SessionRole::Serving);
        let mut named = [None; LEFT_NAMED];
        named.iter_mut().zip(serving).for_each(|(name, cold)| *name = Some(cold.mac));
        (self.roles.serving, named)
    }

    /// Tells those who are left that their session ends, as many in a turn as notices, and as fast as plans come home.
    fn close_rest(&mut self, now: Nanos, out: &mut Outbox) {
        let Some(until) = self.drain.as_ref().and_then(|drain| drain.closing_until) else { return };
        let (mut room, _) = NOTICES_PER_TURN;
        while let Some(index) = self.sessions.nth(0) {
            if now < until && (room == 0 || out.free_plans() <= PLANS_RESERVED) {
                if let Some(drain) = &mut self.drain {
                    let pause = if room == 0 { Nanos::ZERO } else { Nanos::from_millis(1) };
                    drain.report_due = now + pause;
                }
                return;
            }
            room = room.saturating_sub(1);
            self.say_closed(index, Flags::DRAINING, out);
            self.close(index, End::Drained, now, out);
        }
        if let Some(drain) = &mut self.drain {
            drain.finished = true;
        }
        self.tell_end(out);
    }

    /// Tells a device that its session ends.
    pub(super) fn say_closed(&mut self, index: u32, flags: Flags, out: &mut Outbox) {
        let session = self.sessions.get(index);
        let closed = SessionClosed {
            flags,
            tag: session.tag,
            session: index,
            reason: CloseReason::EndedByNode,
            ..Default::default()
        };
        let (peer, local) = (session.peer(), session.local());
        if session.phase != Phase::Unconfirmed {
            self.send_one(SocketRole::Io, peer, local, out, |buf| closed.encode(buf));
        }
    }

    /// The end of the story, once. A node in maintenance goes on to serve whoever stayed: it is there, after all.
    fn tell_end(&mut self, out: &mut Outbox) {
        let (serving, macs) = self.who_is_left();
        let Some(drain) = &mut self.drain else { return };
        if std::mem::replace(&mut drain.told_end, true) {
            return;
        }
        let stopping = drain.state == DrainState::Stopping;
        let (left_behind, named) =
            if stopping { (drain.left_behind, drain.named) } else { (serving, macs) };
        self.counters.drain_left.set(u64::from(left_behind));
        self.event(Event::DrainFinished { left_behind, named, stopping }, out);
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
