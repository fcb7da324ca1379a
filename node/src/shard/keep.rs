//! How sessions live: keep-alives, path probes, questions about extents, closing, silence.

use diskstream_vdisk::{ImageMap, Place};
use diskstream_wire::limits::{
    DATAGRAM_BYTES_MAX, EXTENTS_MAX, NODES_MAX, TICKET_BYTES_MAX, UNIT_BYTES,
};
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    Capabilities, CloseReason, ExtentEntry, Extents, ExtentsRequest, Flags, KeepAlive,
    KeepAliveReply, MoveReason, NodeEntry, NoticeReason, PathProbe, PathProbeReply, ReadErrorCode,
    SessionClose, SessionClosed, SessionRole, nodes_digest,
};

use super::jobs::{NewJob, Work};
use super::limits::{EXPIRY, SWEEP_EVERY, SWEEP_SESSIONS, TICKET_RENEW_SECONDS, UNCONFIRMED_FOR};
use super::login::Subject;
use super::session::{DeviceFigures, Phase, Told};
use super::{Asked, End, Named, Outbox, Shard, VdiskEntry};
use crate::placement::NodeList;
use crate::trust::TICKET_SECONDS;

/// Bytes of the map that one step of an extents answer looks at: bounds the work to 4096 extents a step.
const EXTENTS_STEP_BYTES: u64 = 16 << 20;
/// Steps of one extents answer: it covers at most 4 GiB; the device asks on from there.
const EXTENTS_STEPS_MAX: u64 = 256;

impl Shard {
    pub(super) fn on_keep_alive(
        &mut self,
        m: &KeepAlive,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let named = Named::new(m.session, m.tag);
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        self.counters.keep_alives.inc();
        self.gather.keep_alive(now);
        self.take_figures(m, index, now);
        self.set_role(index, m.role, now, out);
        self.count_arrival(index, m);
        let mut ticket = [0; TICKET_BYTES_MAX];
        let renew = m.ticket_age_s >= TICKET_RENEW_SECONDS;
        let ticket =
            if renew { self.fresh_ticket(index, asked, now, &mut ticket) } else { &[][..] };
        self.counters.tickets_renewed.add(u64::from(!ticket.is_empty()));
        // A node that joined, or came back, after this device's login is news to it: without it there is no standby.
        let nodes = self.news_for_guest(index, m.nodes_digest, asked);
        // This answer overtakes what waits for the session's turn, and must not be taken for a sign that it is lost.
        let waits = !self.sessions.get(index).queue.is_empty();
        let queued = if waits { Flags::QUEUED } else { Flags::NONE };
        let reply = KeepAliveReply {
            flags: self.flags_of(index).with(queued),
            tag: m.tag,
            sequence: m.sequence,
            ticket_bytes: u16::try_from(ticket.len()).expect("TICKET_BYTES_MAX fits"),
            node_count: nodes.count(),
            unix_seconds: self.shared.wall_clock.unix_seconds(now),
            ticket_seconds: ticket_seconds(ticket),
            ..Default::default()
        };
        self.reply(asked, out, |buf| {
            let mut tail = [0; NODES_MAX * NodeEntry::BYTES + TICKET_BYTES_MAX];
            let nodes_bytes = nodes.encode(&mut tail);
            tail[nodes_bytes..][..ticket.len()].copy_from_slice(ticket);
            reply.encode_with_tail(&tail[..nodes_bytes + ticket.len()], buf)
        });
    }

    /// A ticket for a device that has a session here; empty for one that the farm forgot or disabled meanwhile: that keeps what it
    /// has, and gets nothing new.
    pub(super) fn fresh_ticket<'a>(
        &mut self,
        index: u32,
        asked: &Asked,
        now: Nanos,
        out: &'a mut [u8; TICKET_BYTES_MAX],
    ) -> &'a [u8] {
        let session = self.sessions.get(index);
        let cold = self.sessions.cold(index);
        let (mac, vdisk, device_name) = (cold.mac, session.vdisk, cold.device_name);
        // Without the handshake it is still booting.
        let goes_on = session.phase == Phase::Open || !cold.boots;
        let Ok(device) = self.device(mac) else { return &[] };
        let key_hash = device.key.as_ref().map_or([0; 32], |key| key.hash());
        let nodes = self.list_for_guest(index, asked);
        let content_id = self.shared.vdisk(vdisk).content_id;
        let of_farm = self.shared.farm.vdisks.get(vdisk as usize);
        let pinned = of_farm.is_some_and(|vdisk| vdisk.pinned.is_some());
        let subject = Subject { mac, vdisk, content_id, device_name, key_hash, pinned, goes_on };
        self.seal(&subject, &nodes, now, out)
    }

    /// The list for a device that knows other nodes than it would be told now; else an empty one.
    fn news_for_guest(&mut self, session: u32, known: u32, asked: &Asked) -> NodeList {
        if known == 0 || self.sessions.cold(session).role == SessionRole::Standby {
            return NodeList::new();
        }
        let list = self.list_for_guest(session, asked);
        let digest = nodes_digest(list.as_slice().iter().map(|entry| entry.login));
        if list.count() == 0 || digest == known {
            return NodeList::new();
        }
        self.counters.node_lists_renewed.inc();
        list
    }

    /// Why a device came, told with its first keep-alive as a device that is served here.
    fn count_arrival(&mut self, index: u32, m: &KeepAlive) {
        let session = self.sessions.cold_mut(index);
        let serves = m.role != SessionRole::Standby;
        if !serves {
            self.counters.standby_checks.inc();
        }
        if std::mem::replace(&mut session.arrival_counted, serves) || !serves {
            return;
        }
        let c = &self.counters;
        match m.moved {
            MoveReason::None => {}
            MoveReason::NodeSilent => c.moves_node_silent.inc(),
            MoveReason::Notice => c.moves_notice.inc(),
            MoveReason::Draining => c.moves_draining.inc(),
            MoveReason::UnknownSession => c.moves_unknown_session.inc(),
            MoveReason::EndedByNode => c.moves_ended_by_node.inc(),
            MoveReason::StoreErrors => c.moves_store_errors.inc(),
            MoveReason::WrongContent => c.moves_wrong_content.inc(),
            MoveReason::Other(_) => c.moves_other.inc(),
        }
    }

    /// What the device says of itself. It counts since its start, the node since its own: only what is new counts, and only
    /// at the node that serves it, or two nodes would count it twice.
    fn take_figures(&mut self, m: &KeepAlive, index: u32, now: Nanos) {
        let session = self.sessions.cold_mut(index);
        let before = session.figures;
        let after = DeviceFigures::of(m);
        let counts = session.figures_known && m.role != SessionRole::Standby;
        (session.figures, session.figures_known) = (after, true);
        if !counts {
            return;
        }
        let (c, mac) = (&self.counters, session.mac);
        let more = |after: u32, before: u32| u64::from(after.saturating_sub(before));
        c.device_retries.add(after.retries.saturating_sub(before.retries));
        c.device_sum_mismatches.add(after.sum_mismatches.saturating_sub(before.sum_mismatches));
        c.device_moves.add(more(after.moves, before.moves));
        c.device_hedges.add(more(after.hedges, before.hedges));
        c.device_hedges_won.add(more(after.hedges_won, before.hedges_won));
        if after.read_us_max > 0 {
            self.shared.own.slowest.note(mac, after.read_us_max, now);
            c.device_read_longest.record(Nanos(u64::from(after.read_us_max) * 1000));
        }
    }

    pub(super) fn on_probe(&mut self, m: &PathProbe, asked: &Asked, now: Nanos, out: &mut Outbox) {
        let named = Named::new(m.session, m.tag);
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        if asked.bytes > DATAGRAM_BYTES_MAX || usize::from(m.probe_bytes) != asked.bytes {
            return self.counters.refused_bad_value.inc();
        }
        self.counters.path_probes.inc();
        let flags = self.flags_of(index);
        let session = self.sessions.get_mut(index);
        if session.capabilities().has(Capabilities::JUMBO) {
            // It came through; whether the answer does is for the device to see before it asks for more.
            session.datagram_bytes = session.datagram_bytes.max(m.probe_bytes);
        }
        let reply = PathProbeReply {
            flags,
            tag: m.tag,
            sequence: m.sequence,
            probe_bytes: m.probe_bytes,
            ..Default::default()
        };
        let Some(mut plan) = self.take_plan(asked.from, asked.local, out) else { return };
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        reply.encode(&mut bytes);
        plan.push_scratch(&bytes[..asked.bytes]).expect("an empty plan holds the longest datagram");
        self.ship(asked.socket, plan, out);
    }

    pub(super) fn on_extents(
        &mut self,
        m: &ExtentsRequest,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let named = Named { request_id: m.request_id, ..Named::new(m.session, m.tag) };
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        let negotiated = self.sessions.get(index).capabilities().has(Capabilities::EXTENTS);
        let vdisk = self.vdisk_of(index);
        if let Err(code) = check_extents(m, vdisk, negotiated) {
            let length = u32::try_from(m.length).unwrap_or(u32::MAX);
            self.count_read_error(code);
            let work = Work::Error { length, code };
            let (request_id, offset) = (m.request_id, m.offset);
            let new = NewJob { session: index, request_id, arrived: now, offset, attempt: 0, work };
            return self.queue_small(new, out);
        }
        let mut list = ExtentList::new();
        list.collect(&*vdisk.map, m.offset, m.offset + m.length);
        self.counters.extents_answers.inc();
        let reply = Extents {
            flags: self.flags_of(index),
            tag: m.tag,
            request_id: m.request_id,
            generation: m.generation,
            offset: m.offset,
            count: u8::try_from(list.count).expect("EXTENTS_MAX fits a byte"),
            ..Default::default()
        };
        self.reply(asked, out, |buf| {
            let mut tail = [0; EXTENTS_MAX * ExtentEntry::BYTES];
            let entries = tail.chunks_exact_mut(ExtentEntry::BYTES);
            entries.zip(&list.entries[..list.count]).for_each(|(bytes, entry)| entry.encode(bytes));
            reply.encode_with_tail(&tail[..list.count * ExtentEntry::BYTES], buf)
        });
    }

    pub(super) fn on_close(
        &mut self,
        m: &SessionClose,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let named = Named::new(m.session, m.tag);
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        let end = if m.reason == CloseReason::Moved { End::Moved } else { End::Detached };
        self.close(index, end, now, out);
        let closed = SessionClosed {
            tag: m.tag,
            session: m.session,
            reason: m.reason,
            ..Default::default()
        };
        self.reply_within(asked, out, |buf| closed.encode(buf));
    }

    /// Once a second, in slices: ends sessions that fell silent, and tells those whose vDisk became ineligible.
    ///
    /// In the order of the slots, and in most of them with a look at one line of memory: what is next in memory is on its way
    /// from there before it is asked for, so that a look costs nanoseconds however many sessions there are.
    pub(super) fn sweep(&mut self, now: Nanos, out: &mut Outbox) {
        if now < self.sweep_due {
            return;
        }
        let end = (self.sweep_at + SWEEP_SESSIONS).min(self.sessions.used());
        for index in (0u32..).take(end).skip(self.sweep_at) {
            if self.sessions.find(index).is_some() {
                self.look_after(index, now, out);
            }
        }
        let over = end == self.sessions.used();
        self.sweep_at = if over { 0 } else { end };
        self.sweep_due = match over {
            true if self.sessions.len() == 0 => Nanos::NEVER,
            true => now + SWEEP_EVERY,
            false => Nanos::ZERO,
        };
    }

    fn look_after(&mut self, index: u32, now: Nanos, out: &mut Outbox) {
        let session = self.sessions.get(index);
        if session.phase == Phase::Unconfirmed {
            // Whoever was heard of would be confirmed, so this is when it began.
            if now.since(session.heard) > UNCONFIRMED_FOR {
                self.close(index, End::Unconfirmed, now, out);
            }
            return;
        }
        if now.since(session.heard) > EXPIRY {
            return self.close(index, End::Expired, now, out);
        }
        let (says, told) = (session.says, session.told);
        let eligible = self.shared.vdisk(session.vdisk).is_eligible();
        if told == Told::Nothing && !eligible {
            self.begin_notice(index, NoticeReason::VdiskIneligible, Nanos::NEVER, now);
        } else if told != Told::Nothing && eligible {
            let notice = self.sessions.cold(index).notice;
            if notice.is_some_and(|notice| notice.reason == NoticeReason::VdiskIneligible) {
                // The node with the sound copy is gone: this one is better than none.
                self.end_notice(index);
            }
        }
        if says == SessionRole::Standby {
            self.look_at_lean(index, now, out);
        }
    }
}

/// How long a fresh ticket lives; 0 for none.
pub(super) fn ticket_seconds(ticket: &[u8]) -> u32 {
    let seconds = if ticket.is_empty() { 0 } else { TICKET_SECONDS };
    u32::try_from(seconds).expect("a week fits")
}

fn check_extents(
    m: &ExtentsRequest,
    vdisk: &VdiskEntry,
    negotiated: bool,
) -> Result<(), ReadErrorCode> {
    if m.generation != vdisk.generation {
        return Err(ReadErrorCode::WrongGeneration);
    }
    if !negotiated {
        return Err(ReadErrorCode::NotNegotiated);
    }
    let unit = UNIT_BYTES as u64;
    let end = m.offset.checked_add(m.length).ok_or(ReadErrorCode::OutOfRange)?;
    let units = m.offset.is_multiple_of(unit) && m.length.is_multiple_of(unit) && m.length != 0;
    if units && end <= vdisk.size_bytes.next_multiple_of(unit) {
        Ok(())
    } else {
        Err(ReadErrorCode::OutOfRange)
    }
}

/// The extents of an answer, in whole units, neighbours of one kind joined.
struct ExtentList {
    entries: [ExtentEntry; EXTENTS_MAX],
    count: usize,
    full: bool,
}

impl ExtentList {
    fn new() -> ExtentList {
        ExtentList { entries: [ExtentEntry::default(); EXTENTS_MAX], count: 0, full: false }
    }

    fn collect(&mut self, map: &dyn ImageMap, offset: u64, end: u64) {
        let mut at = offset;
        for _ in 0..EXTENTS_STEPS_MAX {
            if at >= end || self.full {
                return;
            }
            let len = EXTENTS_STEP_BYTES.min(end - at);
            map.visit(at, len, &mut |extent| {
                let zero = extent.place == Place::Zero;
                // Only the image's last extent can end inside a unit.
                self.push(extent.len.next_multiple_of(UNIT_BYTES as u64), zero);
            });
            at += len;
        }
    }

    fn push(&mut self, length: u64, zero: bool) {
        let zero = u8::from(zero);
        if self.full {
            return;
        }
        if let Some(last) = self.count.checked_sub(1).map(|last| &mut self.entries[last])
            && last.zero == zero
        {
            last.length += length;
            return;
        }
        if self.count == EXTENTS_MAX {
            self.full = true;
            return;
        }
        self.entries[self.count] = ExtentEntry { length, zero, ..Default::default() };
        self.count += 1;
    }
}
