//! What is sent: duties of the paths, the search's datagrams, and trains of reads.

use diskstream_wire::limits::{READ_BYTES_MAX, UNIT_BYTES};
use diskstream_wire::{Flags, KeepAlive, Nanos, PathProbe, Read, SessionClose, SessionRole};

use super::event::{Channel, ReadError, Train};
use super::limits::{RTO_MAX, TIMEOUTS_PLAIN, TRAIN_SEGMENTS_MAX, WINDOW_FRAGMENTS_MIN};
use super::path::{Path, Vigil};
use super::request::{Phase, Request};
use super::{PATHS_MAX, Session};

impl Session {
    /// Writes the next train into `out` (cleared first; at most [`super::limits::TRAIN_BYTES_MAX`] bytes). None: nothing
    /// to send.
    pub fn poll_send(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<Train> {
        out.clear();
        if self.closed {
            return None;
        }
        let train = self.poll_train(now, out)?;
        self.counters.datagrams_out += (out.len() / train.segment_bytes) as u64;
        Some(train)
    }

    fn poll_train(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<Train> {
        if let Some(control) = self.controls.pop_front() {
            out.extend_from_slice(control.bytes());
            return Some(Train {
                channel: control.channel,
                to: control.to,
                segment_bytes: out.len(),
            });
        }
        self.close_left(now);
        for index in 0..PATHS_MAX {
            if self.poll_path(index, now, out) {
                return self.train_to(index, out.len());
            }
        }
        if let Some(Some((channel, to))) =
            self.with_seek(|seek, context| seek.poll(context, now, out))
        {
            return Some(Train { channel, to, segment_bytes: out.len() });
        }
        if let Some(index) = self.poll_question(now, out) {
            return self.train_to(index, out.len());
        }
        if let Some(Some((channel, to))) =
            self.with_standby_seek(|seek, context| seek.poll(context, now, out))
        {
            return Some(Train { channel, to, segment_bytes: out.len() });
        }
        let index = self.poll_reads(now, out).or_else(|| self.poll_hedges(now, out))?;
        self.train_to(index, Read::BYTES)
    }

    fn train_to(&self, index: usize, segment_bytes: usize) -> Option<Train> {
        let path = self.paths[index].as_ref()?;
        Some(Train { channel: Channel::Io, to: path.at.io, segment_bytes })
    }

    /// Duties of one path: goodbye, probes of life and of size, keep-alives. True when something was written.
    fn poll_path(&mut self, index: usize, now: Nanos, out: &mut Vec<u8>) -> bool {
        // Without a standby, or with one that is silent too, nobody answers until there is a decision.
        let helper = self.helper().and_then(|helper| self.paths[helper].as_ref());
        let haste = self.serving == Some(index) && helper.is_none_or(Path::is_suspect);
        let Some(path) = &mut self.paths[index] else { return false };
        let (tag, session) = (path.at.tag, path.at.session);
        if path.is_closing() {
            let (close, over) = path.close_due(now);
            if let Some(reason) = close {
                out.resize(SessionClose::BYTES, 0);
                SessionClose { tag, session, reason, ..SessionClose::default() }.encode(out);
            } else if over {
                self.drop_path(index);
                self.end_if_alone();
            }
            return close.is_some();
        }
        match path.watch(haste, now, &mut self.random) {
            Vigil::Quiet => {}
            vigil => {
                self.counters.probes += 1;
                self.look_for_help(index, now);
                if vigil == Vigil::Died {
                    self.on_dead(index, now);
                    if self.paths[index].as_ref().is_none_or(|path| !path.is_suspect()) {
                        // It was left: goodbye is its next duty.
                        return self.poll_path(index, now, out);
                    }
                }
                self.probing = match vigil {
                    Vigil::ProbeAndRepeat => self.oldest_asked(index).map(|slot| (index, slot)),
                    _ => None,
                };
                self.write_keep_alive(index, now, out);
                return true;
            }
        }
        if let Some((_, slot)) = self.probing.take_if(|(at, _)| *at == index)
            && self.ask_again(index, slot, now, out)
        {
            return true;
        }
        let Some(path) = &mut self.paths[index] else { return false };
        if path.keep_alive_due(now, &mut self.random) {
            self.write_keep_alive(index, now, out);
            return true;
        }
        if let Some((sequence, probe_bytes)) = path.size_probe.due(now) {
            out.resize(usize::from(probe_bytes), 0);
            PathProbe { tag, session, sequence, probe_bytes, ..PathProbe::default() }.encode(out);
            return true;
        }
        false
    }

    /// The serving path is silent: is there somebody else? Asked with the second probe, so that the answer is there in time: as a
    /// rule a copy of a read has shown it until then.
    fn look_for_help(&mut self, index: usize, now: Nanos) {
        if self.serving != Some(index) {
            return;
        }
        let Some(path) = &self.paths[index] else { return };
        let (since, lost) = (path.silent_since().unwrap_or(now), path.is_lost(now));
        if since < now
            && let Some(helper) = self.helper().and_then(|helper| self.paths[helper].as_mut())
            && helper.last_heard < since
        {
            helper.check_soon(now);
        }
        if lost {
            self.hedge_everything(now);
        }
    }

    fn write_keep_alive(&mut self, index: usize, now: Nanos, out: &mut Vec<u8>) {
        let serves = self.serving == Some(index);
        // One node is asked for tickets, and one is told of the longest read.
        let wants_ticket = serves && self.nodes.ticket_is_old(now);
        let age = self.nodes.ticket_age_s(now).and_then(|age| u32::try_from(age).ok());
        let outstanding = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        let Some(path) = &mut self.paths[index] else { return };
        let message = KeepAlive {
            tag: path.at.tag,
            session: path.at.session,
            sequence: path.next_sequence(now),
            write_cache_used_bytes: self.write_cache_used_bytes,
            write_cache_bytes: self.write_cache_bytes,
            reads: self.counters.reads,
            retries: self.counters.retries,
            srtt_us: micros(path.network.smoothed()),
            rttvar_us: micros(path.network.variation()),
            moves: u32::try_from(self.counters.moves).unwrap_or(u32::MAX),
            write_cache: self.config.write_cache,
            role: if serves { SessionRole::Serving } else { SessionRole::Standby },
            moved: self.last_move.map(|last| last.cause.reason()).unwrap_or_default(),
            sum_mismatches: self.counters.sum_mismatches,
            outstanding,
            ticket_age_s: if wants_ticket { u32::MAX } else { age.unwrap_or(u32::MAX) },
            read_us_max: if serves { micros(self.read_longest) } else { 0 },
            hedges: u32::try_from(self.counters.hedged_reads).unwrap_or(u32::MAX),
            hedges_won: u32::try_from(self.counters.hedges_won).unwrap_or(u32::MAX),
            nodes_digest: if serves { self.nodes.digest() } else { 0 },
            ..KeepAlive::default()
        };
        if serves {
            // Forgotten when it was answered: the last ones before a node's death tell nobody.
            self.longest_told = self.read_longest;
        }
        self.counters.standby_checks += u64::from(self.standby == Some(index));
        out.resize(KeepAlive::BYTES, 0);
        message.encode(out);
    }

    /// The request that has waited longest at a path, and nowhere else: a probe that may bring what is missing.
    fn oldest_asked(&self, index: usize) -> Option<u16> {
        self.requests
            .live()
            .filter(|(_, r)| {
                let here = usize::from(r.path) == index && !r.is_hedged();
                here && matches!(r.phase, Phase::Asked | Phase::Pending)
            })
            .min_by_key(|(_, r)| r.sent_at)
            .map(|(slot, _)| slot)
    }

    fn ask_again(&mut self, index: usize, slot: u16, now: Nanos, out: &mut Vec<u8>) -> bool {
        let request = self.requests.get(slot);
        if !matches!(request.phase, Phase::Asked | Phase::Pending)
            || usize::from(request.path) != index
        {
            return false;
        }
        self.withdraw(slot);
        let decreased_at = self.paths[index].as_ref().map(|path| path.window.decreased_at());
        let request = self.requests.get_mut(slot);
        request.lost = true;
        request.lost_at = decreased_at.unwrap_or(now);
        self.ask(index, slot, WINDOW_FRAGMENTS_MIN, now, out);
        true
    }

    /// Writes a train of reads for the node that serves, or for the one that stands in for it.
    fn poll_reads(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        let index = match self.requests.next_queued() {
            Some(slot) => self.path_for(slot, now)?,
            None => self.asked_path(now)?,
        };
        for _ in 0..TRAIN_SEGMENTS_MAX {
            if !self.write_read(index, now, out) {
                break;
            }
        }
        (!out.is_empty()).then_some(index)
    }

    /// Writes one read, repeats first; false when there is none or no room.
    fn write_read(&mut self, index: usize, now: Nanos, out: &mut Vec<u8>) -> bool {
        let queued = self.requests.next_queued();
        if queued.is_none() && self.reads.next_ready().is_none() {
            return false;
        }
        // A train goes to one node: what is for another waits for the next.
        let here = match queued {
            Some(slot) => self.path_for(slot, now),
            None => self.asked_path(now),
        };
        if here != Some(index) {
            return false;
        }
        let Some(path) = &mut self.paths[index] else { return false };
        path.before_asking(now);
        if path.fresh && path.requests > 0 {
            return false;
        }
        let room = path.room();
        if let Some(slot) = queued {
            if room == 0 && path.in_flight > 0 {
                return false;
            }
            self.requests.pop_queued();
            self.ask(index, slot, room.max(WINDOW_FRAGMENTS_MIN), now, out);
            return true;
        }
        match self.new_request(index, room) {
            Some(slot) => {
                self.ask(index, slot, u32::MAX, now, out);
                true
            }
            None => false,
        }
    }

    /// Cuts the next request off the oldest read that has something left to ask for.
    fn new_request(&mut self, index: usize, room: u32) -> Option<u16> {
        let disk = *self.disk.as_ref()?;
        let end = disk.size_bytes.next_multiple_of(UNIT_BYTES as u64);
        let ready = loop {
            let ready = self.reads.next_ready()?;
            let read = self.reads.get(ready);
            let read_end = read.offset.checked_add(read.buffer.len() as u64);
            if read_end.is_some_and(|read_end| read_end <= end) {
                break ready;
            }
            self.fail_read(ready, ReadError::OutOfRange);
        };
        let path = self.paths[index].as_ref()?;
        if !self.requests.has_room() || path.requests >= path.at.requests_max.max(1) {
            return None;
        }
        let read = self.reads.get(ready);
        let offset = read.offset + read.issued as u64;
        let left = read.buffer.len() - read.issued;
        let longest = (self.config.request_bytes.min(path.at.request_bytes) as usize)
            .clamp(UNIT_BYTES, READ_BYTES_MAX);
        let wanted = left.min(longest / UNIT_BYTES * UNIT_BYTES).min(to_block_end(&disk, offset));
        let length = fit(path, wanted, room)?;
        let request = Request {
            read: ready,
            at: read.issued,
            offset,
            length,
            size: path.size,
            phase: Phase::Queued,
            hedge_at: Nanos::NEVER,
            ..Request::default()
        };
        self.reads.issue(length);
        Some(self.requests.add(request, &mut self.random))
    }

    /// Writes a request for up to `room` of its missing fragments and counts them as in flight.
    pub(super) fn ask(
        &mut self,
        index: usize,
        slot: u16,
        room: u32,
        now: Nanos,
        out: &mut Vec<u8>,
    ) {
        let instead = self.serving != Some(index);
        if instead {
            self.count_hedge(slot);
        }
        let hedge_due = self.hedge_due(index, now);
        if usize::from(self.requests.get(slot).hedge.path) == index {
            // What was a copy is asked in full now.
            self.withdraw_hedge(slot);
        }
        let size = self.paths[index].as_ref().expect("the caller has just used it").size;
        self.resize(slot, size);
        let path = self.paths[index].as_mut().expect("the caller has just used it");
        let request = self.requests.get_mut(slot);
        let wanted = lowest(request.missing(), room);
        request.attempt = if request.sent { request.attempt.wrapping_add(1) } else { 0 };
        request.data_up_to = 0;
        let message = Read {
            flags: flags(request.sent, instead),
            tag: path.at.tag,
            session: path.at.session,
            fragment_size: request.size,
            attempt: request.attempt,
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
        let lost = std::mem::take(&mut request.lost);
        self.counters.retries += u64::from(lost);
        request.repeats_loss = lost && !request.answered && usize::from(request.path) == index;
        if request.sent {
            request.sent_before = request.sent_at;
            request.repeated_at.get_or_insert(now);
        } else {
            request.first_sent_at = now;
            request.silent_since = now;
        }
        request.timed_before = false;
        request.sent = true;
        request.answered = false;
        request.outstanding = wanted;
        request.phase = Phase::Asked;
        request.path = u8::try_from(index).expect("a handful of paths");
        request.sent_at = now;
        path.in_flight += wanted.count_ones();
        path.requests += 1;
        let doublings = request.timeouts.saturating_sub(TIMEOUTS_PLAIN).min(6);
        let wait = Nanos(path.answers.timeout().0 << doublings).earlier(RTO_MAX);
        let (due, unplanned) =
            (now + wait.max(path.answers.timeout()), request.hedge_at == Nanos::NEVER);
        self.requests.set_due(slot, due);
        if unplanned {
            self.requests.set_hedge_at(slot, hedge_due);
        }
    }
}

/// Marks of a read that was `sent` before, or is asked `instead` of at the serving node.
fn flags(sent: bool, instead: bool) -> Flags {
    let again = if sent { Flags::AGAIN } else { Flags::NONE };
    if instead { again.with(Flags::HEDGED) } else { again }
}

/// Bytes up to the end of the node's cache block: reads that stay inside one are cheapest, and come whole or not at all.
fn to_block_end(disk: &super::DiskInfo, offset: u64) -> usize {
    let block = u64::from(disk.block_bytes);
    if block == 0 || !block.is_multiple_of(UNIT_BYTES as u64) {
        return usize::MAX;
    }
    usize::try_from(block - offset % block).unwrap_or(usize::MAX)
}

/// How much of `wanted` bytes to ask for with `room` fragments free: all of it, or a good part; not crumbs, for what is in
/// flight will make room.
fn fit(path: &Path, wanted: usize, room: u32) -> Option<usize> {
    let room = if path.in_flight == 0 { room.max(WINDOW_FRAGMENTS_MIN) } else { room } as usize;
    let need = path.size.count(wanted);
    if need <= room {
        return Some(wanted);
    }
    let step = path.size.per_unit();
    let least = need.min((path.window.fragments() as usize / 2).max(step));
    if room < least {
        return None;
    }
    let units = room / step * path.size.units_each();
    Some(wanted.min(units * UNIT_BYTES))
}

/// The `count` lowest set bits.
pub(super) fn lowest(bits: u64, count: u32) -> u64 {
    if bits.count_ones() <= count {
        return bits;
    }
    let mut kept = 0;
    let mut left = bits;
    for _ in 0..count {
        let bit = left & left.wrapping_neg();
        kept |= bit;
        left &= !bit;
    }
    kept
}

fn micros(time: Nanos) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
