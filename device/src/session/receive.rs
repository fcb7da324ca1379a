//! What arrives: to which session or search a datagram belongs, and what it changes.

use std::net::SocketAddr;

use diskstream_wire::{
    Decoded, Extents, Flags, KeepAliveReply, Message, Nanos, Notice, NoticeAck, NoticeReason,
    PathProbeReply, ReadBusy, ReadData, ReadError as ReadErrorMessage, ReadErrorCode, ReadPending,
    ReadZero, canonical, decode, node_entries,
};

use super::event::{Channel, Event, MoveCause, ReadError, StandbyEnd};
use super::limits::{PENDING_RECHECK, RTO_MAX, STORE_ERROR_WAIT, STORE_ERRORS_MOVE};
use super::request::{Phase, Request, Taken};
use super::seek::Answer;
use super::{Control, Session};

/// As what a request is out at the path that answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Itself,
    Copy,
}

/// What a request had out before a fragment of it arrived.
#[derive(Clone, Copy)]
struct Flight {
    phase: Phase,
    asked: u32,
    copies: u32,
}

impl Flight {
    #[inline]
    fn of(request: &Request) -> Flight {
        Flight {
            phase: request.phase,
            asked: request.in_flight(),
            copies: request.hedge_in_flight(),
        }
    }
}

impl Session {
    /// Takes one datagram (one segment: a driver cuts GRO trains up). `channel` is the socket it came by; `from` its source.
    pub fn handle_datagram(
        &mut self,
        channel: Channel,
        from: SocketAddr,
        bytes: &[u8],
        now: Nanos,
    ) {
        self.counters.datagrams_in += 1;
        if self.closed {
            return;
        }
        let from = canonical(from);
        if bytes.get(3) == Some(&ReadData::KIND) {
            let Ok((message, tail)) = ReadData::decode(bytes) else {
                self.counters.malformed += 1;
                return;
            };
            if let Some(path) = self.path_of(message.tag, from) {
                self.hear(path, message.flags, now);
                return self.on_data(path, &message, tail, now);
            }
        }
        match decode(bytes) {
            Ok(decoded) => self.handle_message(channel, from, &decoded, bytes.len(), now),
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// The path with this tag, if the datagram comes from its node's I/O service.
    #[inline]
    fn path_of(&self, tag: u64, from: SocketAddr) -> Option<usize> {
        self.paths.iter().position(|path| {
            path.as_ref().is_some_and(|path| tag_fits(path.at.tag, tag) && path.at.io == from)
        })
    }

    /// A sign of life.
    #[inline]
    fn hear(&mut self, index: usize, flags: Flags, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        if path.is_suspect() {
            self.speaks_again(index, now);
        } else {
            path.last_heard = now;
        }
        if self.standby == Some(index) {
            self.standby_speaks(index, now);
        }
        if flags.has(Flags::DRAINING) {
            self.on_draining(index, MoveCause::Draining, Vec::new(), now);
        }
    }

    fn handle_message(
        &mut self,
        channel: Channel,
        from: SocketAddr,
        decoded: &Decoded<'_>,
        datagram_bytes: usize,
        now: Nanos,
    ) {
        if let Message::Notice(notice) = &decoded.message {
            return self.on_notice(channel, from, notice, decoded.tail, now);
        }
        let (tag, flags) = tag_and_flags(&decoded.message);
        let Some(index) = self.path_of(tag, from) else {
            return self.handle_search(from, decoded, now);
        };
        // A node that has forgotten the session lives, but the path does not.
        match &decoded.message {
            Message::UnknownSession(_) => {
                self.counters.unknown_session += 1;
                return self.on_session_gone(index, MoveCause::UnknownSession, now);
            }
            Message::SessionClosed(_) => {
                return self.on_session_gone(index, MoveCause::EndedByNode, now);
            }
            _ => self.hear(index, flags, now),
        }
        match &decoded.message {
            Message::ReadZero(m) => self.on_zero(index, m, now),
            Message::ReadPending(m) => self.on_pending(index, m, now),
            Message::ReadBusy(m) => self.on_busy(index, m, now),
            Message::ReadError(m) => self.on_error(index, m, now),
            Message::KeepAliveReply(m) => self.on_keep_alive(index, m, decoded.tail, now),
            Message::PathProbeReply(m) => self.on_path_probe(index, m, datagram_bytes, now),
            Message::Extents(m) => self.on_extents(m, decoded.tail),
            // Late repeats of login answers.
            Message::VdiskInfo(_) | Message::HandshakeReply(_) | Message::LoginComplete(_) => {}
            _ => self.counters.implausible += 1,
        }
    }

    fn handle_search(&mut self, from: SocketAddr, decoded: &Decoded<'_>, now: Nanos) {
        let answer = self.with_seek(|seek, context| seek.handle(context, from, decoded, now));
        match answer {
            Some(Answer::Opened(opened)) => return self.adopt(opened.0, opened.1, now),
            Some(Answer::Taken) => return,
            Some(Answer::Foreign) | None => {}
        }
        let answer =
            self.with_standby_seek(|seek, context| seek.handle(context, from, decoded, now));
        match answer {
            Some(Answer::Opened(opened)) => self.adopt_standby(opened.0, now),
            Some(Answer::Taken) => {}
            Some(Answer::Foreign) | None => self.counters.foreign += 1,
        }
    }

    #[inline]
    fn on_data(&mut self, from_path: usize, m: &ReadData, tail: &[u8], now: Nanos) {
        let Some(slot) = self.requests.find(m.request_id) else {
            self.counters.fragments_late += 1;
            return;
        };
        if m.generation != self.generation {
            self.counters.implausible += 1;
            return;
        }
        let request = self.requests.get_mut(slot);
        let read = self.reads.get_mut(request.read);
        let part = &mut read.buffer[request.at..request.at + request.length];
        let before = Flight::of(request);
        let taken = request.take(m, tail, part);
        match taken {
            Taken::Late => {
                self.counters.fragments_late += 1;
                return;
            }
            Taken::Implausible => {
                self.counters.implausible += 1;
                return;
            }
            Taken::New => self.counters.fragments += 1,
            Taken::WrongSum => {
                self.counters.fragments += 1;
                self.counters.sum_mismatches += 1;
            }
        }
        let overtook = request.attempt != m.attempt && request.hole_of == Some(m.attempt);
        let overtook = overtook && usize::from(request.path) == from_path;
        let lost_at = request.lost_at;
        self.account(from_path, slot, before, now);
        if let Some(path) = &mut self.paths[from_path] {
            let bytes = usize::from(m.data_bytes) + usize::from(m.pad_bytes);
            if bytes >= path.size.bytes() {
                path.last_full = now;
                path.full_lost = 0;
                path.size_probe.carried();
            }
            if overtook {
                path.evidence.overtook_more();
                path.window.spurious(lost_at);
            }
        }
        self.time_answer(from_path, slot, m.attempt, m.service_us, before.phase, now);
        self.after_arrival(from_path, slot, now);
    }

    /// Fragments of a request arrived: they leave the flights of the paths that were asked, of which the other will bring them
    /// in vain. Only what a path brought itself says something about it.
    #[inline]
    fn account(&mut self, from_path: usize, slot: u16, before: Flight, now: Nanos) {
        let request = self.requests.get_mut(slot);
        request.spoken_of(now);
        let (after, index) = (request.in_flight(), usize::from(request.path));
        let (copies, helper) = (request.hedge_in_flight(), usize::from(request.hedge.path));
        let helped = request.helped && self.standby == Some(from_path);
        if let Some(path) = &mut self.paths[from_path] {
            path.fresh = false;
        }
        if before.copies > copies
            && let Some(path) = &mut self.paths[helper]
        {
            if from_path == helper {
                path.window.arrived(before.copies - copies, path.in_flight);
            }
            path.in_flight -= before.copies - copies;
            path.requests -= u32::from(copies == 0);
        }
        if helped {
            let read = self.reads.get_mut(request.read);
            self.counters.hedges_won += u64::from(!std::mem::replace(&mut read.hedge_won, true));
        }
        let Some(path) = &mut self.paths[index] else { return };
        match before.phase {
            Phase::Asked => {
                if from_path == index {
                    path.window.arrived(before.asked - after, path.in_flight);
                }
                path.in_flight -= before.asked - after;
            }
            Phase::Pending if from_path == index => {
                // The disk has answered: the rest is on its way.
                path.parked -= before.asked;
                path.in_flight += after;
                request.phase = Phase::Asked;
                request.pendings = 0;
                self.requests.set_due(slot, now + path.reorder());
            }
            Phase::Pending => path.parked -= before.asked - after,
            // A late answer to a request that was given up meanwhile: nothing was counted for it.
            Phase::Queued | Phase::Waiting | Phase::Free => {}
        }
    }

    /// Times the first fragment of an answer, by the attempt that it echoes (which is what Karn's rule is for).
    #[inline]
    fn time_answer(
        &mut self,
        from_path: usize,
        slot: u16,
        attempt: u8,
        service_us: u32,
        phase: Phase,
        now: Nanos,
    ) {
        let request = self.requests.get_mut(slot);
        let Some(path) = &mut self.paths[from_path] else { return };
        let service = Nanos::from_micros(u64::from(service_us));
        if usize::from(request.path) != from_path {
            let copy = &mut request.hedge;
            let first = copy.sent && !copy.answered && usize::from(copy.path) == from_path;
            if first && attempt == copy.attempt {
                copy.answered = true;
                copy.timeouts = 0;
                path.evidence.answered(copy.sent_at);
                let rtt = now.since(copy.sent_at);
                path.network.sample(rtt - service);
                path.answers.sample(rtt);
            }
            return;
        }
        if request.answered {
            return;
        }
        // Time-outs need not wait for a disk: `Pending` speaks for that. They must for what was given up too early.
        let counts = phase == Phase::Asked || phase == Phase::Queued && request.lost;
        if attempt != request.attempt {
            path.window.spurious(request.lost_at);
            path.evidence.answered(request.attempt_sent_at(attempt));
            // The time-out was too short. Were this answer not timed, it would stay so: only answers that beat the
            // time-out would count, and a node whose queue is longer than that would get every read several times.
            if !request.timed_before && counts {
                request.timed_before = true;
                let late = now.since(request.attempt_sent_at(attempt));
                path.answers.sample(late.earlier(RTO_MAX));
            }
            return;
        }
        path.ignored = 0;
        path.queue_wait = Nanos::ZERO;
        path.evidence.answered(request.sent_at);
        path.window.answered(request.sent_at);
        if request.repeats_loss {
            path.evidence.lost();
        }
        request.answered = true;
        request.timeouts = 0;
        let rtt = now.since(request.sent_at);
        let network = rtt - service;
        path.store_errors = 0;
        path.network.sample(network);
        // A slow disk says nothing about the path; but time-outs must wait for it.
        path.window.measured(network, path.network.smoothed(), now);
        if counts {
            // However long a queue is: a node that dies is to be missed soon.
            path.answers.sample(rtt.earlier(RTO_MAX));
        }
        self.answered_unmarked(from_path, now - rtt, now);
    }

    /// What follows from new fragments: the end of the request, or the wait for the rest.
    #[inline]
    fn after_arrival(&mut self, from_path: usize, slot: u16, now: Nanos) {
        let request = self.requests.get(slot);
        if request.is_complete() {
            return self.finish_request(slot, now);
        }
        let path = usize::from(request.path);
        if request.is_hedged() && usize::from(request.hedge.path) == from_path {
            let path = self.paths[from_path].as_ref().expect("copies name a live path");
            let due = now + path.reorder();
            self.requests.set_hedge_at(slot, due);
        }
        let request = self.requests.get(slot);
        match request.phase {
            Phase::Asked | Phase::Pending if request.outstanding == 0 => {
                let path = self.paths[path].as_mut().expect("asked requests name a live path");
                path.requests -= 1;
                self.requests.enqueue(slot);
            }
            Phase::Asked if path == from_path => {
                let path = self.paths[path].as_ref().expect("asked requests name a live path");
                self.requests.set_due(slot, now + path.reorder());
            }
            _ => {}
        }
    }

    fn on_zero(&mut self, from_path: usize, m: &ReadZero, now: Nanos) {
        let Some(slot) = self.requests.find(m.request_id) else { return };
        let request = self.requests.get_mut(slot);
        if m.generation != self.generation || m.offset != request.offset {
            self.counters.implausible += 1;
            return;
        }
        let read = self.reads.get_mut(request.read);
        let part = &mut read.buffer[request.at..request.at + request.length];
        let before = Flight::of(request);
        let units = request.take_zeros(m.zero_units, part);
        if units == 0 {
            return;
        }
        self.counters.zero_units += u64::from(units);
        self.account(from_path, slot, before, now);
        self.time_answer(from_path, slot, m.attempt, m.service_us, before.phase, now);
        self.after_arrival(from_path, slot, now);
    }

    /// The node has the request; for this slot, which is out there, in itself or as a copy.
    fn answered_slot(&mut self, from_path: usize, id: u64, now: Nanos) -> Option<(u16, Sent)> {
        let slot = self.requests.find(id)?;
        if let Some(path) = &mut self.paths[from_path] {
            path.fresh = false;
        }
        let request = self.requests.get_mut(slot);
        let is_out = matches!(request.phase, Phase::Asked | Phase::Pending);
        if is_out && usize::from(request.path) == from_path {
            if let Some(path) = &mut self.paths[from_path] {
                path.ignored = 0;
            }
            request.spoken_of(now);
            return Some((slot, Sent::Itself));
        }
        let is_copy = request.is_hedged() && usize::from(request.hedge.path) == from_path;
        is_copy.then_some((slot, Sent::Copy))
    }

    fn on_pending(&mut self, from_path: usize, m: &ReadPending, now: Nanos) {
        self.counters.pending += 1;
        let Some((slot, sent)) = self.answered_slot(from_path, m.request_id, now) else { return };
        if sent == Sent::Copy {
            let wait = self.random.jitter(PENDING_RECHECK);
            return self.requests.set_hedge_at(slot, now + wait);
        }
        let request = self.requests.get_mut(slot);
        if request.phase == Phase::Asked {
            let fragments = request.in_flight();
            request.phase = Phase::Pending;
            request.timeouts = 0;
            let path = self.paths[from_path].as_mut().expect("the message came from it");
            path.in_flight -= fragments;
            path.parked += fragments;
        }
        let wait = Nanos(PENDING_RECHECK.0 << request.pendings.min(4)).earlier(RTO_MAX);
        request.pendings += 1;
        let wait = self.random.jitter(wait);
        self.requests.set_due(slot, now + wait);
    }

    fn on_busy(&mut self, from_path: usize, m: &ReadBusy, now: Nanos) {
        self.counters.busy += 1;
        let Some((slot, sent)) = self.answered_slot(from_path, m.request_id, now) else { return };
        let wait = Nanos::from_millis(u64::from(m.wait_ms.clamp(1, 10_000)));
        let wait = self.random.later(wait);
        if sent == Sent::Copy {
            self.withdraw_hedge(slot);
            return self.requests.set_hedge_at(slot, now + wait);
        }
        self.withdraw(slot);
        self.requests.get_mut(slot).phase = Phase::Waiting;
        self.requests.set_due(slot, now + wait);
    }

    fn on_error(&mut self, from_path: usize, m: &ReadErrorMessage, now: Nanos) {
        if let Some(index) = self.question_of(m.request_id) {
            return self.question_failed(index, m.code);
        }
        let Some((slot, sent)) = self.answered_slot(from_path, m.request_id, now) else { return };
        let request = self.requests.get(slot);
        let read = request.read;
        let wait = Nanos(STORE_ERROR_WAIT.0 << request.timeouts.min(4)).earlier(RTO_MAX);
        if sent == Sent::Copy {
            self.withdraw_hedge(slot);
            self.requests.set_hedge_at(slot, now + wait);
        } else {
            self.withdraw(slot);
            let request = self.requests.get_mut(slot);
            request.phase = Phase::Waiting;
            request.timeouts += 1;
            self.requests.set_due(slot, now + wait);
        }
        match m.code {
            ReadErrorCode::OutOfRange => self.fail_read(read, ReadError::OutOfRange),
            ReadErrorCode::WrongGeneration => self.on_wrong_generation(from_path, now),
            ReadErrorCode::NotNegotiated => self.fall_back(from_path, now),
            ReadErrorCode::StoreError | ReadErrorCode::Other(_) => {
                self.on_store_error(from_path, slot, true, now);
            }
            ReadErrorCode::StoreTimeout => self.on_store_error(from_path, slot, false, now),
        }
    }

    /// One node's store cannot give the range: another may. Only when every node said so, the read fails; one that merely
    /// took too long (not `final_word`) has not said so, and a slow store is no reason to fail a machine's read.
    fn on_store_error(&mut self, from_path: usize, slot: u16, final_word: bool, now: Nanos) {
        self.counters.store_errors += 1;
        self.forget_refusals_of_old_list();
        let path = self.paths[from_path].as_mut().expect("the message came from it");
        path.store_errors += 1;
        let (node, errors) = (path.at.node, path.store_errors);
        let all = self.nodes.all_mask();
        // A node that drains is in no newer list: what it cannot read, those in the list may.
        let bit = self.nodes.index_of(node).map_or(0, |index| 1 << index);
        let request = self.requests.get_mut(slot);
        request.avoids |= bit;
        if final_word {
            request.refused_by |= bit;
        }
        if request.refused_by & all == all {
            let read = request.read;
            return self.fail_read(read, ReadError::Store);
        }
        let refused = request.refused_by;
        if request.phase == Phase::Waiting && self.path_for(slot, now) != Some(from_path) {
            // Another node is asked at once.
            self.requests.set_due(slot, now);
        }
        if self.standby == Some(from_path) {
            if errors >= STORE_ERRORS_MOVE {
                self.lose_standby(StandbyEnd::StoreErrors, now);
            }
            return;
        }
        if errors >= STORE_ERRORS_MOVE && self.serving == Some(from_path) {
            self.leave_bad_store(node, refused, now);
        }
    }

    fn on_wrong_generation(&mut self, from_path: usize, now: Nanos) {
        self.counters.wrong_content += 1;
        if self.standby == Some(from_path) {
            return self.lose_standby(StandbyEnd::WrongContent, now);
        }
        if self.serving != Some(from_path) {
            return;
        }
        let path = self.paths[from_path].as_ref().expect("the message came from it");
        let node = path.at.node;
        if let Some(disk) = &self.disk
            && self.seek.is_none()
        {
            let expected = disk.content_id;
            self.events.push_back(Event::WrongContent { node, expected, offered: None });
        }
        self.go_elsewhere(MoveCause::WrongContent, Vec::new(), node, now);
    }

    fn on_keep_alive(&mut self, index: usize, m: &KeepAliveReply, tail: &[u8], now: Nanos) {
        let path = self.paths[index].as_mut().expect("the message came from it");
        let node = path.at.node;
        let queued = m.flags.has(Flags::QUEUED);
        if let Some(sent_at) = path.keep_alive_answered(m.sequence, queued) {
            let rtt = now.since(sent_at);
            path.network.sample(rtt);
            // One that overtook reads says how long answers take only where that is longer than was thought.
            if !queued || rtt > path.answers.smoothed() {
                path.answers.sample(rtt.earlier(RTO_MAX));
            }
            path.fresh = false;
            if self.serving == Some(index) && self.read_longest <= self.longest_told {
                self.read_longest = Nanos::ZERO;
            }
            if queued {
                self.wait_for_queued(index, now);
            } else if path.evidence.take_awaited() {
                self.look_at_overtaken(index, sent_at, now);
            }
            self.answered_unmarked(index, sent_at, now);
        }
        let mut entries = Vec::new();
        let tail = node_entries(tail, m.node_count, |entry| entries.push(entry));
        if !entries.is_empty() && self.serving == Some(index) {
            self.nodes.renew_list(node, entries.into_iter());
            self.forget_refusals_of_old_list();
            self.seek_standby(now);
        }
        if m.ticket_bytes > 0
            && let Some(ticket) = tail.get(..usize::from(m.ticket_bytes))
        {
            let lives = Nanos::from_secs(u64::from(m.ticket_seconds));
            self.nodes.renew_ticket(ticket, lives, now);
        }
    }

    fn on_path_probe(
        &mut self,
        index: usize,
        m: &PathProbeReply,
        datagram_bytes: usize,
        now: Nanos,
    ) {
        let path = self.paths[index].as_mut().expect("the message came from it");
        if let Some(size) = path.size_probe.answered(m.sequence, datagram_bytes, now) {
            path.set_size(size);
        }
    }

    /// A notice counts when it carries the session's tag and comes from the node's address, whichever way it took.
    fn on_notice(
        &mut self,
        channel: Channel,
        from: SocketAddr,
        m: &Notice,
        tail: &[u8],
        now: Nanos,
    ) {
        let index = self.paths.iter().position(|path| {
            path.as_ref()
                .is_some_and(|path| tag_fits(path.at.tag, m.tag) && path.at.io.ip() == from.ip())
        });
        let Some(index) = index else {
            self.counters.foreign += 1;
            return;
        };
        // The mark says less than the notice, which names successors.
        self.hear(index, Flags::NONE, now);
        let Some(path) = &self.paths[index] else { return };
        let ack = NoticeAck {
            tag: m.tag,
            session: path.at.session,
            sequence: m.sequence,
            ..NoticeAck::default()
        };
        self.counters.notices += 1;
        self.control(Control::new(channel, from, |out| ack.encode(out)));
        let mut successors = Vec::with_capacity(usize::from(m.node_count));
        node_entries(tail, m.node_count, |entry| successors.extend(entry.login.socket_addr()));
        match m.reason {
            NoticeReason::Rebalance => {
                let until = now + Nanos::from_millis(u64::from(m.deadline_ms));
                self.on_rebalance(index, successors, until, now);
            }
            _ => self.on_draining(index, MoveCause::Notice, successors, now),
        }
    }

    fn on_extents(&mut self, m: &Extents, tail: &[u8]) {
        let Some(index) = self.question_of(m.request_id) else { return };
        if m.generation != self.generation || !self.question_answered(index, m, tail) {
            self.counters.implausible += 1;
        }
    }
}

#[inline]
fn tag_fits(ours: u64, theirs: u64) -> bool {
    // Planted defect: the simulator must catch a device that takes anybody's datagrams.
    #[cfg(feature = "mutations")]
    if super::mutations::is_planted(super::mutations::Mutation::AcceptForeignTag) {
        return true;
    }
    ours == theirs
}

/// Tag and marks of a message that a node sends within a session.
fn tag_and_flags(message: &Message) -> (u64, Flags) {
    match message {
        Message::ReadData(m) => (m.tag, m.flags),
        Message::ReadZero(m) => (m.tag, m.flags),
        Message::ReadPending(m) => (m.tag, m.flags),
        Message::ReadBusy(m) => (m.tag, m.flags),
        Message::ReadError(m) => (m.tag, m.flags),
        Message::UnknownSession(m) => (m.tag, m.flags),
        Message::SessionClosed(m) => (m.tag, m.flags),
        Message::KeepAliveReply(m) => (m.tag, m.flags),
        Message::PathProbeReply(m) => (m.tag, m.flags),
        Message::Extents(m) => (m.tag, m.flags),
        Message::VdiskInfo(m) => (m.tag, m.flags),
        Message::HandshakeReply(m) => (m.tag, m.flags),
        Message::LoginComplete(m) => (m.tag, m.flags),
        _ => (0, Flags::NONE),
    }
}
