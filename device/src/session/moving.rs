//! From node to node: when to look for another, what happens to outstanding reads, and how the old one is left.
//!
//! | sign | with a standby that can take over | without |
//! |---|---|---|
//! | notice, draining mark, store errors | it is promoted (see `promote`) | reads go on at the old node until a session at another is open |
//! | a reply without the mark, to what was asked after it | - | the node stays: the search ends |
//! | probes unanswered | it is promoted once it has answered since | reads are held; the old node is probed on, and taken back if it answers first |
//! | unknown session, ended by node | it is promoted | reads are held; the same node is asked first |

use std::net::SocketAddr;

use diskstream_wire::{CloseReason, FragmentSize, Nanos};

use super::event::{DiskInfo, Event, MoveCause, StandbyEnd};
use super::limits::{FULL_SIZE_LOST_MAX, PROBE_INTERVAL, REBALANCE_SPREAD, STEP_RETRY_FIRST};
use super::path::{Opening, Path};
use super::request::Phase;
use super::seek::{Context, Seek};
use super::{Held, PATHS_MAX, Session};

impl Session {
    /// Calls the search, if one is under way, with what it needs of the device.
    pub(super) fn with_seek<T>(
        &mut self,
        call: impl FnOnce(&mut Seek, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let seek = self.seek.as_mut()?;
        let mut context = Context {
            config: &self.config,
            nodes: &mut self.nodes,
            admission: &mut self.admission,
            disk: self.disk.as_ref(),
            random: &mut self.random,
            counters: &mut self.counters,
            events: &mut self.events,
            taken: [None; PATHS_MAX],
        };
        Some(call(seek, &mut context))
    }

    /// Looks for another node. A search that is under way goes on, and may now use every node if the reason is graver.
    pub(super) fn begin_move(
        &mut self,
        cause: MoveCause,
        preferred: Vec<SocketAddr>,
        avoid: Option<SocketAddr>,
        now: Nanos,
    ) {
        if self.is_ending() {
            return;
        }
        match &mut self.seek {
            Some(seek) if avoid.is_none() => seek.widen(preferred, now),
            Some(_) => {}
            None => {
                // Devices that lose a node lose it together: they do not all ask in the same instant.
                let at = if avoid.is_none() { now + self.random.jitter(SPREAD) } else { now };
                self.seek = Some(Seek::new(Some(cause), preferred, avoid, at));
            }
        }
    }

    /// The node is going to stop: look for a successor while it still serves.
    pub(super) fn on_draining(
        &mut self,
        index: usize,
        cause: MoveCause,
        successors: Vec<SocketAddr>,
        now: Nanos,
    ) {
        let Some(path) = &mut self.paths[index] else { return };
        if self.standby == Some(index) {
            return self.lose_standby(StandbyEnd::Draining, now);
        }
        if self.serving != Some(index) || !path.mark(now) {
            return;
        }
        (self.rebalance, self.rebalance_until) = (None, None);
        let node = path.at.node;
        self.go_elsewhere(cause, successors, node, now);
    }

    /// Something that was sent to the node at `sent_at` was answered, and perhaps it does not go any more (an operator ended its
    /// maintenance): reads go on where they are, and the search that its going began ends.
    #[inline]
    pub(super) fn answered_unmarked(&mut self, index: usize, sent_at: Nanos, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        if !path.stays(sent_at) || self.serving != Some(index) {
            return;
        }
        let cause = self.seek.as_ref().and_then(|seek| seek.cause);
        if matches!(cause, Some(MoveCause::Notice | MoveCause::Draining)) {
            self.counters.moves_averted += 1;
            self.abandon_seek(now);
        }
    }

    /// Leaves a node that still serves: to the standby if it is one of `successors` (or none are named), else to the first of
    /// those that lets the device in.
    pub(super) fn go_elsewhere(
        &mut self,
        cause: MoveCause,
        successors: Vec<SocketAddr>,
        from: SocketAddr,
        now: Nanos,
    ) {
        if !self.promote(cause, &successors, now) {
            self.begin_move(cause, successors, Some(from), now);
        }
    }

    /// The node's store cannot give what it should. Where all stores are bad, moving on and on mends nothing: what this one
    /// refuses is asked at the standby as well, so the device stays for a while, each time longer.
    pub(super) fn leave_bad_store(&mut self, node: SocketAddr, refused: u16, now: Nanos) {
        if self.store_moves.may_move(now) {
            let preferred = self.nodes.outside(refused);
            self.go_elsewhere(MoveCause::StoreErrors, preferred, node, now);
        }
    }

    /// The node asks the device to go for the balance's sake, until `until`: not all at once.
    pub(super) fn on_rebalance(
        &mut self,
        index: usize,
        successors: Vec<SocketAddr>,
        until: Nanos,
        now: Nanos,
    ) {
        if self.serving == Some(index) && self.rebalance.is_none() && self.seek.is_none() {
            let at = now + self.random.below(REBALANCE_SPREAD);
            self.rebalance = Some(Rebalance { at, until, successors });
        }
    }

    /// Moves for the balance's sake when its time has come, and stays when nobody let the device in meanwhile: an old order is not
    /// carried out when its reason has long gone.
    pub(super) fn check_rebalance(&mut self, now: Nanos) {
        let over = self.rebalance_until.take_if(|until| *until <= now).is_some();
        let searches = self.seek.as_ref().is_some_and(|s| s.cause == Some(MoveCause::Notice));
        if over && searches {
            self.counters.moves_averted += 1;
            self.abandon_seek(now);
        }
        let due = self.rebalance.take_if(|rebalance| rebalance.at <= now);
        let Some(Rebalance { successors, until, .. }) = due else { return };
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        if let Some(node) = serving.map(|path| path.at.node) {
            self.go_elsewhere(MoveCause::Notice, successors, node, now);
            self.rebalance_until = self.seek.as_ref().map(|_| until);
        }
    }

    /// The node ended the session, or never knew it: hold the reads, and log in again.
    pub(super) fn on_session_gone(&mut self, index: usize, cause: MoveCause, now: Nanos) {
        let Some(path) = &self.paths[index] else { return };
        let node = path.at.node;
        let was_closing = path.is_closing();
        if self.standby == Some(index) {
            return self.lose_standby(StandbyEnd::Gone, now);
        }
        if self.serving == Some(index) && !self.is_ending() {
            self.left = Some(node);
        }
        let served = self.serving == Some(index);
        self.drop_path(index);
        self.end_if_alone();
        if served && self.promote(cause, &[], now) {
            return;
        }
        if was_closing || self.serving.is_some() || self.is_ending() {
            return;
        }
        self.hold(cause, now);
        self.left = Some(node);
        self.begin_move(cause, vec![node], None, now);
    }

    /// Probes stayed unanswered: hold the reads, and look for any node that answers.
    pub(super) fn on_dead(&mut self, index: usize, now: Nanos) {
        if self.standby == Some(index) {
            return self.standby_died(now);
        }
        if self.serving == Some(index) {
            if self.helper_lives() && self.promote(MoveCause::NodeSilent, &[], now) {
                return;
            }
            self.hold(MoveCause::NodeSilent, now);
            self.begin_move(MoveCause::NodeSilent, Vec::new(), None, now);
        }
    }

    /// A suspect node answered.
    pub(super) fn speaks_again(&mut self, index: usize, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let (node, was_dead) = (path.at.node, path.heard(now));
        self.wake_requests(index, now);
        let standby = self.standby.and_then(|standby| self.paths[standby].as_ref());
        if self.serving == Some(index) && standby.is_some_and(Path::is_dead) {
            // It was kept because this one was silent too.
            self.lose_standby(StandbyEnd::Silent, now);
        }
        if !was_dead || self.serving != Some(index) {
            return;
        }
        self.counters.moves_averted += 1;
        let only_silence =
            self.seek.as_ref().is_some_and(|s| s.cause == Some(MoveCause::NodeSilent));
        if only_silence {
            self.abandon_seek(now);
        }
        self.resume(node, now);
    }

    /// Ends a search; a session that it had half opened is closed.
    pub(super) fn abandon_seek(&mut self, now: Nanos) {
        if let Some(opening) = self.seek.take().and_then(|seek| seek.abandoned()) {
            let mut path = Path::new(opening, 0, now, &mut self.random);
            path.close(CloseReason::Detached, now);
            let index = self.free_path();
            self.paths[index] = Some(path);
        }
    }

    /// A session is open at a node: go on there, with everything that is outstanding.
    pub(super) fn adopt(&mut self, opening: Opening, disk: DiskInfo, now: Nanos) {
        let cause = self.seek.take().and_then(|seek| seek.cause);
        let buffer = self.config.receive_buffer_bytes;
        let path = Path::new(opening, buffer, now, &mut self.random);
        // A node has one session for a device: this one ended the standby there.
        let warm = self.standby.and_then(|standby| self.paths[standby].as_ref());
        if let Some(warm) = warm
            && (warm.at.node == opening.node || warm.is_dead())
        {
            self.lose_standby(StandbyEnd::Gone, now);
        }
        let index = self.free_path();
        let old = self.serving.replace(index);
        self.paths[index] = Some(path);
        self.generation = disk.content_id.generation();
        let opened = self.disk.replace(disk).is_none();
        let from = old.and_then(|old| self.paths[old].as_ref()).map(|path| path.at.node);
        self.forget_refusals_of_old_list();
        match old {
            Some(old) => self.hand_over(old, now),
            None => self.requeue_waiting(),
        }
        self.requeue_questions(now);
        if opened {
            self.events.push_back(Event::Opened { disk, node: opening.node });
        }
        if let (Some(cause), Some(from)) = (cause, from.or(self.left.take())) {
            self.record_move(from, opening.node, cause, now);
        }
        self.resume(opening.node, now);
        if self.standby.is_none() {
            self.seek_standby(now);
        }
    }

    /// Whether the standby has answered since the serving node fell silent.
    fn helper_lives(&self) -> bool {
        let silent = self.serving.and_then(|serving| self.paths[serving].as_ref());
        let silent = silent.and_then(Path::silent_since);
        let helper = self.helper().and_then(|helper| self.paths[helper].as_ref());
        helper.is_some_and(|path| silent.is_none_or(|since| path.last_heard >= since))
    }

    /// What waited for another node's pause is asked at the present one.
    fn requeue_waiting(&mut self) {
        for slot in 0..self.requests.capacity() {
            if self.requests.get(slot).phase == Phase::Waiting {
                self.ask_anew(slot);
            }
        }
    }

    /// Something asked at `sent_at` was answered: what was asked before it, and was not answered, is held for lost soon.
    pub(super) fn look_at_overtaken(&mut self, index: usize, sent_at: Nanos, now: Nanos) {
        let Some(path) = &self.paths[index] else { return };
        let soon = now + path.reorder();
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            let waits = request.phase == Phase::Asked && usize::from(request.path) == index;
            if waits && request.sent_at < sent_at && !request.has_hole() && request.due > soon {
                self.requests.set_due(slot, soon);
            }
        }
    }

    /// The node has reads of this session that wait for their turn: it is asked about them again later.
    pub(super) fn wait_for_queued(&mut self, index: usize, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let later = now + path.told_queued();
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            let waits = request.phase == Phase::Asked && usize::from(request.path) == index;
            let lost = request.has_hole() || path.evidence.speaks_for_loss(request.sent_at);
            if waits && !lost && request.due < later {
                self.requests.set_due(slot, later);
            }
        }
    }

    /// The path speaks: what waited for that is looked at soon.
    fn wake_requests(&mut self, index: usize, now: Nanos) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            let soon = now + PROBE_INTERVAL;
            if request.phase == Phase::Asked
                && usize::from(request.path) == index
                && request.due > soon
            {
                self.requests.set_due(slot, soon);
            }
        }
        self.requests.look_soon(now);
    }

    /// Which nodes refused a request is a bitmap over the eligible list, whose order a new transfer changes, also while
    /// the old node still serves.
    pub(super) fn forget_refusals_of_old_list(&mut self) {
        if self.nodes.take_changed() {
            for slot in 0..self.requests.capacity() {
                let request = self.requests.get_mut(slot);
                (request.refused_by, request.avoids) = (0, 0);
            }
        }
    }

    /// A place for a path: a free one, or that of a node to which goodbye is being said, or else one that is being left.
    pub(super) fn free_path(&mut self) -> usize {
        let find = |pick: fn(&Path) -> bool| {
            self.paths.iter().position(|path| path.as_ref().is_some_and(pick))
        };
        let free = self.paths.iter().position(Option::is_none);
        let index = free
            .or_else(|| find(Path::is_closing))
            .or_else(|| find(Path::is_leaving))
            .expect("at most a serving path and a standby are in use, and there is room for more");
        self.drop_path(index);
        index
    }

    /// Forgets a path; what was asked there waits for another.
    pub(super) fn drop_path(&mut self, index: usize) {
        self.take_back(index);
        self.paths[index] = None;
        if self.serving == Some(index) {
            self.serving = None;
        }
    }

    /// Full-size datagrams do not arrive: go on with smaller ones.
    pub(super) fn fall_back(&mut self, index: usize, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let size =
            if path.size > FragmentSize::B1376 { FragmentSize::B1376 } else { FragmentSize::B1024 };
        if size == path.size {
            path.size_probe.fell_back(size, now);
            return;
        }
        self.counters.size_fallbacks += 1;
        path.set_size(size);
        path.size_probe.fell_back(size, now);
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            if request.phase == Phase::Free {
                continue;
            }
            if request.is_hedged() && usize::from(request.hedge.path) == index {
                self.withdraw_hedge(slot);
            }
            let request = self.requests.get(slot);
            if usize::from(request.path) != index {
                continue;
            }
            if matches!(request.phase, Phase::Asked | Phase::Pending) {
                self.withdraw(slot);
            }
            self.resize(slot, size);
            self.requests.enqueue(slot);
        }
    }

    /// Goes on with another fragment size; a copy that is out counts fragments by the old one.
    pub(super) fn resize(&mut self, slot: u16, size: FragmentSize) {
        if self.requests.get(slot).size != size {
            self.withdraw_hedge(slot);
            self.requests.get_mut(slot).change_size(size);
        }
    }

    /// A full-size answer was lost while small datagrams arrive. That a node is overloaded looks the same, and smaller fragments would
    /// cost it more; so the path is asked first.
    pub(super) fn full_size_lost(&mut self, index: usize, slot: u16, sent_at: Nanos, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let has_full = self.requests.get(slot).length >= path.size.bytes();
        if !has_full || path.last_full >= sent_at || path.last_heard < sent_at {
            return;
        }
        path.full_lost += 1;
        if path.full_lost >= FULL_SIZE_LOST_MAX && path.size > FragmentSize::B1024 {
            path.size_probe.doubt(path.size, now);
        }
    }

    /// Paths that did not carry probes of the size in use either.
    pub(super) fn check_sizes(&mut self, now: Nanos) {
        for index in 0..self.paths.len() {
            if self.paths[index].as_ref().is_some_and(|path| path.size_probe.is_disproved(now)) {
                self.fall_back(index, now);
            }
        }
    }

    fn hold(&mut self, cause: MoveCause, now: Nanos) {
        if self.held.is_none() {
            self.held = Some(Held { since: now, cause: Some(cause), reported: false });
        }
    }

    pub(super) fn resume(&mut self, node: SocketAddr, now: Nanos) {
        if let Some(held) = self.held.take()
            && held.reported
        {
            self.events.push_back(Event::Resumed { node, held: now.since(held.since) });
        }
    }
}

/// Pause after the first move because of a bad store. Guess: a store that comes back at the node that was left is not missed, and
/// reads go to both nodes meanwhile.
const STORE_MOVE_PAUSE_FIRST: Nanos = Nanos::from_secs(1);
/// Longest such pause; a device that had none for twice as long begins anew. Guess: an operator who mends a store sees it
/// used within half a minute.
const STORE_MOVE_PAUSE_MAX: Nanos = Nanos::from_secs(30);

/// Moves because of bad stores: the first at once, the next ones after pauses that grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreMoves {
    not_before: Nanos,
    pause: Nanos,
}

impl StoreMoves {
    /// Whether the device may move now; if so, the next pause begins.
    fn may_move(&mut self, now: Nanos) -> bool {
        if now < self.not_before {
            return false;
        }
        let quiet = now.since(self.not_before) >= Nanos(2 * STORE_MOVE_PAUSE_MAX.0);
        let first = quiet || self.pause == Nanos::ZERO;
        let longer = Nanos(2 * self.pause.0).earlier(STORE_MOVE_PAUSE_MAX);
        self.pause = if first { STORE_MOVE_PAUSE_FIRST } else { longer };
        self.not_before = now + self.pause;
        true
    }
}

/// A move for the balance's sake: when it begins, until when it may, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Rebalance {
    pub(super) at: Nanos,
    pub(super) until: Nanos,
    pub(super) successors: Vec<SocketAddr>,
}

/// Over this time devices that lose a node together spread their first question.
const SPREAD: Nanos = Nanos(STEP_RETRY_FIRST.0 / 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_away_from_bad_stores_grow_rare() {
        let mut moves = StoreMoves::default();
        let at = |from: u64, until: u64, moves: &mut StoreMoves| -> Vec<u64> {
            (from..until).filter(|&s| moves.may_move(Nanos::from_secs(s))).collect()
        };
        assert_eq!(at(100, 200, &mut moves), [100, 101, 103, 107, 115, 131, 161, 191]);
        // Nothing for a minute after the last pause: the next one is a first one.
        assert_eq!(at(281, 285, &mut moves), [281, 282, 284]);
    }
}
