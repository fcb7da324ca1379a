//! Hedging: an overdue read is asked at the standby too, and whichever node answers a fragment first has answered it. The
//! content is identical, so any answer counts. It ends a stall; it decides nothing about the node (see `promote`).
//!
//! | the serving node | what is asked at the standby |
//! |---|---|
//! | shows life | a read that is unanswered after max(20 ms, SRTT + 4 × RTTVAR) and whose repeat or probe is overdue too; as far as the budget goes |
//! | is lost: three probes unanswered | everything that is out, and what is new |
//!
//! One lost datagram is no reason for a hedge: the repeat at the serving node costs the same time and no second answer. So the
//! budget (1 % of reads) is nearly untouched on a lossy link, and is there when a node dies. A read that was answered
//! `Pending` is not overdue: a slow disk is not a dead node.

use diskstream_wire::{Flags, Nanos, Read};

use super::Session;
use super::limits::{
    HEDGE_AFTER_MIN, HEDGE_ANYWAY, HEDGE_REPEAT_MIN, HEDGES_SAVED_MAX, READS_PER_HEDGE, RTO_MAX,
    TIMEOUTS_PLAIN, TRAIN_SEGMENTS_MAX, WINDOW_FRAGMENTS_MIN,
};
use super::request::Phase;
use super::send::lowest;

/// How many hedges may be sent: a token bucket that reads fill.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In shares of a hedge: [`READS_PER_HEDGE`] make one.
    shares: u32,
}

impl Budget {
    /// Full: the first reads of a device may meet a node's death as well as any.
    pub fn new() -> Budget {
        Budget { shares: HEDGES_SAVED_MAX * READS_PER_HEDGE }
    }

    /// A read was asked for.
    pub fn earn(&mut self) {
        self.shares = (self.shares + 1).min(HEDGES_SAVED_MAX * READS_PER_HEDGE);
    }

    /// Spends one hedge, if there is one.
    pub fn take(&mut self) -> bool {
        // Planted defect: the simulator must catch a device that asks two nodes for everything that is late.
        #[cfg(feature = "mutations")]
        if super::mutations::is_planted(super::mutations::Mutation::HedgeWithoutTokens) {
            return true;
        }
        let enough = self.shares >= READS_PER_HEDGE;
        if enough {
            self.shares -= READS_PER_HEDGE;
        }
        enough
    }
}

impl Session {
    /// Whether the serving path shows no sign of life, so that everything is asked at the standby.
    pub(super) fn serving_is_lost(&self, now: Nanos) -> bool {
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        serving.is_some_and(|path| path.is_lost(now))
    }

    /// Where reads are asked now: at the serving path, or at the standby while the former is lost.
    pub(super) fn asked_path(&self, now: Nanos) -> Option<usize> {
        let serving = self.serving?;
        let path = self.paths[serving].as_ref()?;
        if path.serves() {
            return Some(serving);
        }
        self.helper().filter(|_| path.is_lost(now))
    }

    /// Where a request that waits is asked: a range that the serving node's store refused is read at the standby.
    pub(super) fn path_for(&self, slot: u16, now: Nanos) -> Option<usize> {
        let avoids = self.requests.get(slot).avoids;
        let refuses = |index: usize| {
            let node = self.paths[index].as_ref().map(|path| path.at.node);
            let bit = node.and_then(|node| self.nodes.index_of(node)).map_or(0, |n| 1 << n);
            avoids & bit != 0
        };
        match (self.serving, self.helper()) {
            (Some(serving), Some(helper)) if refuses(serving) && !refuses(helper) => Some(helper),
            _ => self.asked_path(now),
        }
    }

    /// When a request that is asked now for the first time wants a copy at the standby.
    pub(super) fn hedge_due(&self, index: usize, now: Nanos) -> Nanos {
        match &self.paths[index] {
            Some(path) if self.serving == Some(index) => {
                now + path.answers.bare_timeout().max(HEDGE_AFTER_MIN)
            }
            _ => now + HEDGE_AFTER_MIN,
        }
    }

    /// Looks whether a request wants a copy, or its copy is overdue.
    pub(super) fn consider_hedge(&mut self, slot: u16, now: Nanos) {
        let request = self.requests.get_mut(slot);
        if !matches!(request.phase, Phase::Asked | Phase::Pending) && !request.is_hedged() {
            // Asked again soon, wherever that is right then; `ask` sets the time anew.
            request.hedge_at = Nanos::NEVER;
            return;
        }
        if request.is_hedged() {
            let (index, sent_at) = (usize::from(request.hedge.path), request.hedge.sent_at);
            if !request.hedge.answered {
                request.hedge.timeouts += 1;
                let path = self.paths[index].as_mut().expect("copies name a live path");
                path.unanswered(sent_at, now);
            }
            self.withdraw_hedge(slot);
        }
        if self.wants_hedge(slot, now) {
            self.requests.enqueue_hedge(slot);
        }
        let again = now + self.recheck();
        self.requests.set_hedge_at(slot, again);
    }

    fn wants_hedge(&mut self, slot: u16, now: Nanos) -> bool {
        let (Some(helper), Some(serving)) = (self.helper(), self.serving) else { return false };
        let request = self.requests.get(slot);
        let asked = matches!(request.phase, Phase::Asked | Phase::Pending);
        if request.hedge_queued || !asked || usize::from(request.path) != serving {
            return false;
        }
        let node = self.paths[helper].as_ref().map(|path| path.at.node);
        let bit = node.and_then(|node| self.nodes.index_of(node)).map_or(0, |index| 1 << index);
        if request.refused_by & bit != 0 {
            return false;
        }
        if self.serving_is_lost(now) {
            return true;
        }
        let request = self.requests.get_mut(slot);
        let silent = now.since(request.silent_since);
        let Some(path) = &mut self.paths[serving] else { return false };
        let unanswered = request.phase == Phase::Asked && !request.answered;
        if unanswered && silent >= HEDGE_ANYWAY {
            // The node lives and does not answer this: reads that do not end earn no hedges either.
            path.ignored += u32::from(!std::mem::replace(&mut request.ignored, true));
            return true;
        }
        let probed_at = match (request.repeated_at, path.silent_since()) {
            (Some(repeated), Some(probed)) => repeated.earlier(probed),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return false,
        };
        unanswered
            && silent >= path.answers.bare_timeout().max(HEDGE_AFTER_MIN)
            && now.since(probed_at) >= path.network.bare_timeout().max(HEDGE_REPEAT_MIN)
            && self.budget.take()
    }

    /// Everything that is out at the serving path wants a copy now: it has just been found lost.
    pub(super) fn hedge_everything(&mut self, now: Nanos) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            if request.phase != Phase::Free && !request.is_hedged() && self.wants_hedge(slot, now) {
                self.requests.enqueue_hedge(slot);
                let again = now + self.recheck();
                self.requests.set_hedge_at(slot, again);
            }
        }
    }

    /// Writes a train of copies for the standby.
    pub(super) fn poll_hedges(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        self.requests.next_hedge()?;
        let Some(index) = self.helper() else {
            while self.requests.next_hedge().is_some() {
                self.requests.pop_hedge();
            }
            return None;
        };
        for _ in 0..TRAIN_SEGMENTS_MAX {
            if !self.write_hedge(index, now, out) {
                break;
            }
        }
        (!out.is_empty()).then_some(index)
    }

    /// Writes one copy; false when there is none or no room.
    fn write_hedge(&mut self, index: usize, now: Nanos, out: &mut Vec<u8>) -> bool {
        let Some(path) = &mut self.paths[index] else { return false };
        path.before_asking(now);
        let room = path.room();
        let (size, full) = (path.size, room == 0 && path.in_flight > 0);
        if full || path.fresh && path.requests > 0 {
            return false;
        }
        while let Some(slot) = self.requests.next_hedge() {
            self.requests.pop_hedge();
            let request = self.requests.get(slot);
            let out_there = matches!(request.phase, Phase::Asked | Phase::Pending)
                && Some(usize::from(request.path)) == self.serving;
            if !out_there || request.is_hedged() {
                continue;
            }
            let room = room.max(WINDOW_FRAGMENTS_MIN);
            if size < request.size {
                // The standby's way carries less: fragments are counted anew, so the first node's answer is given up.
                self.withdraw(slot);
                self.ask(index, slot, room, now, out);
            } else {
                self.ask_copy(index, slot, room, now, out);
            }
            return true;
        }
        false
    }

    /// Counts a request, and its read, as asked at the standby.
    pub(super) fn count_hedge(&mut self, slot: u16) {
        self.counters.hedges += 1;
        let request = self.requests.get_mut(slot);
        request.helped = true;
        let read = self.reads.get_mut(request.read);
        if !std::mem::replace(&mut read.hedged, true) {
            self.counters.hedged_reads += 1;
        }
    }

    fn ask_copy(&mut self, index: usize, slot: u16, room: u32, now: Nanos, out: &mut Vec<u8>) {
        self.count_hedge(slot);
        let path = self.paths[index].as_mut().expect("the caller has just used it");
        let request = self.requests.get_mut(slot);
        let again = request.hedge.sent && usize::from(request.hedge.path) == index;
        if !again {
            request.hedge = super::request::Hedge::default();
        }
        let wanted = lowest(request.missing(), room);
        let hedge = &mut request.hedge;
        hedge.attempt = if again { hedge.attempt.wrapping_add(1) } else { 0 };
        hedge.sent = true;
        hedge.answered = false;
        hedge.path = u8::try_from(index).expect("a handful of paths");
        hedge.outstanding = wanted;
        hedge.sent_at = now;
        path.in_flight += wanted.count_ones();
        path.requests += 1;
        let message = Read {
            flags: if again { Flags::HEDGED.with(Flags::AGAIN) } else { Flags::HEDGED },
            tag: path.at.tag,
            session: path.at.session,
            fragment_size: request.size,
            attempt: hedge.attempt,
            request_id: request.id,
            generation: self.generation,
            offset: request.offset,
            length: u32::try_from(request.length).expect("at most 64 KiB"),
            wanted,
            ..Read::default()
        };
        let start = out.len();
        out.resize(start + Read::BYTES, 0);
        message.encode(&mut out[start..]);
        self.counters.requests += 1;
        let timeout = path.answers.timeout();
        let doublings = hedge.timeouts.saturating_sub(TIMEOUTS_PLAIN).min(6);
        let wait = Nanos(timeout.0 << doublings).earlier(RTO_MAX).max(timeout);
        self.requests.set_hedge_at(slot, now + wait);
    }

    /// Takes back what a copy has out.
    pub(super) fn withdraw_hedge(&mut self, slot: u16) {
        let request = self.requests.get_mut(slot);
        let fragments = request.hedge_in_flight();
        if fragments == 0 {
            return;
        }
        request.hedge.outstanding = 0;
        if let Some(path) = &mut self.paths[usize::from(request.hedge.path)] {
            path.in_flight -= fragments;
            path.requests -= 1;
        }
    }

    /// The first node's part of a request is given up; its copy is all that is out from now on.
    pub(super) fn go_on_with_copy(&mut self, slot: u16) {
        self.withdraw(slot);
        if self.requests.get(slot).phase == Phase::Queued {
            self.requests.unqueue(slot);
        }
        let request = self.requests.get_mut(slot);
        let hedge = std::mem::take(&mut request.hedge);
        request.phase = Phase::Asked;
        request.path = hedge.path;
        request.attempt = hedge.attempt;
        request.outstanding = hedge.outstanding;
        request.answered = hedge.answered;
        request.sent_at = hedge.sent_at;
        request.sent_before = hedge.sent_at;
        request.first_sent_at = hedge.sent_at;
        request.timeouts = hedge.timeouts;
        request.pendings = 0;
        let due = request.hedge_at;
        request.hedge_at = Nanos::NEVER;
        self.requests.set_due(slot, due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_one_in_a_hundred_with_a_few_saved_up() {
        let mut budget = Budget::new();
        let mut at_once = 0;
        while budget.take() {
            at_once += 1;
        }
        assert_eq!(at_once, HEDGES_SAVED_MAX);
        let mut spent = 0;
        for _ in 0..10_000 {
            budget.earn();
            spent += u32::from(budget.take());
        }
        assert_eq!(spent, 100);
        for _ in 0..100_000 {
            budget.earn();
        }
        assert!((0..HEDGES_SAVED_MAX).all(|_| budget.take()) && !budget.take());
    }
}
