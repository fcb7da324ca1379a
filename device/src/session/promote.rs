//! Changing the node: the standby becomes the serving path, without a login. What was out at the old node stays there if that
//! still serves (it is leaving in good order), and is asked at the new one if it does not.
//!
//! Nothing ever moves back by itself: a node that returns is found as a standby. So two nodes of which one comes and
//! goes cost one move, not one for each of its deaths.

use std::net::SocketAddr;

use diskstream_wire::{CloseReason, Nanos};

use super::event::{Event, MoveCause, StandbyEnd};
use super::request::Phase;
use super::stalls::LastMove;
use super::{PATHS_MAX, Session};

impl Session {
    /// Goes on at the standby, if there is one that can take over. `only`: one of these, unless there are none.
    pub(super) fn promote(&mut self, cause: MoveCause, only: &[SocketAddr], now: Nanos) -> bool {
        let Some(new) = self.helper() else { return false };
        let Some(path) = &self.paths[new] else { return false };
        let node = path.at.node;
        if !only.is_empty() && !only.contains(&node) {
            return false;
        }
        self.abandon_seek(now);
        let old = self.serving.replace(new);
        self.standby = None;
        let from = old.and_then(|old| self.paths[old].as_ref()).map(|path| path.at.node);
        if let Some(old) = old {
            self.hand_over(old, now);
        }
        if let Some(path) = &mut self.paths[new] {
            path.promoted(now);
        }
        self.requeue_questions(now);
        self.requests.look_soon(now);
        self.counters.promotions += 1;
        if let Some(from) = from.or(self.left.take()) {
            self.record_move(from, node, cause, now);
        }
        self.resume(node, now);
        self.seek_standby(now);
        true
    }

    /// What is out at the path that served until now, and the path itself.
    pub(super) fn hand_over(&mut self, old: usize, now: Nanos) {
        let serves = self.paths[old].as_ref().is_some_and(super::path::Path::serves);
        let new = self.serving;
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            let here = usize::from(request.path) == old
                && matches!(request.phase, Phase::Asked | Phase::Pending);
            // A copy at a standby that stays one is left alone.
            if request.is_hedged() && Some(usize::from(request.hedge.path)) == new {
                self.go_on_with_copy(slot);
            } else if here && !serves {
                self.withdraw(slot);
                self.ask_anew(slot);
            } else if request.phase == Phase::Waiting {
                self.ask_anew(slot);
            }
        }
        if let Some(path) = &mut self.paths[old] {
            if serves {
                path.leave(now);
            } else {
                path.close(CloseReason::Moved, now);
            }
        }
    }

    /// Queues a request for the present node, as one that was not asked in vain there.
    pub(super) fn ask_anew(&mut self, slot: u16) {
        let request = self.requests.get_mut(slot);
        request.timeouts = 0;
        request.pendings = 0;
        request.lost = false;
        request.ignored = false;
        self.requests.enqueue(slot);
    }

    /// Counts a move and tells of it.
    pub(super) fn record_move(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        cause: MoveCause,
        now: Nanos,
    ) {
        let stall = self.reads.oldest().map_or(Nanos::ZERO, |oldest| now.since(oldest));
        let outstanding = self.reads.len();
        self.counters.moves += 1;
        self.counters.moves_by_cause[cause as usize] += 1;
        self.last_move = Some(LastMove { from, to, cause, stall, at: now });
        self.events.push_back(Event::Moved { from, to, cause, stall, outstanding });
    }

    /// Closes paths that were left and from which nothing more is awaited.
    pub(super) fn close_left(&mut self, now: Nanos) {
        for index in 0..PATHS_MAX {
            if self.paths[index].as_ref().is_some_and(|path| path.has_left(now)) {
                self.take_back(index);
                if let Some(path) = &mut self.paths[index] {
                    path.close(CloseReason::Moved, now);
                }
            }
        }
    }

    /// The standby answered, or died: what follows depends on whether the serving node lives.
    pub(super) fn standby_speaks(&mut self, index: usize, now: Nanos) {
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        if self.standby == Some(index) && serving.is_some_and(super::path::Path::is_dead) {
            self.promote(MoveCause::NodeSilent, &[], now);
        }
    }

    /// The standby died. While the serving node is silent too it is kept and probed on: perhaps it is the device that was cut
    /// off, and then either path that comes back is better than a login.
    pub(super) fn standby_died(&mut self, now: Nanos) {
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        if serving.is_some_and(|path| !path.is_suspect()) {
            self.lose_standby(StandbyEnd::Silent, now);
        }
    }
}
