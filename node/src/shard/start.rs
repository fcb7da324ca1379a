//! The I/O service: a session begins, is confirmed, learns about its vDisk, and opens for many reads.

use diskstream_wire::limits::{DATAGRAM_BYTES_MAX, READ_BYTES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    BusyReason, Capabilities, Handshake, HandshakeReply, ImageMode, IoServiceStart, LoginComplete,
    LoginKind, LoginReject, PROTOCOL_VERSION, RejectReason, SessionRole, Text, VdiskInfo,
    VdiskInfoRequest,
};

use super::keep::ticket_seconds;
use super::limits::{
    ALIVE_FOR, BOOT_PAUSE_MS, DRAINING_PAUSE_MS, EXPIRY_MS, KEEP_ALIVE_MS, STARTING_PAUSE_MS,
    SWEEP_EVERY, UNCONFIRMED_PER_MAC,
};
use super::login::{CHANGED, Refused, goes_on, prove};
use super::session::{NewSession, Phase};
use super::{Asked, End, Event, Named, Outbox, Shard, USUAL_DATAGRAM_BYTES, common};
use crate::trust::Ticket;

impl Shard {
    pub(super) fn on_start(
        &mut self,
        m: &IoServiceStart,
        tail: &[u8],
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let session = match self.may_start(m, tail, asked, now) {
            Ok(new) => self.find_or_open(&new, asked, now, out),
            Err(refused) => Err(refused),
        };
        let index = match session {
            Ok(index) => index,
            Err(refused) => return self.refuse(&refused, m.tag, m.mac, asked, out),
        };
        let complete = LoginComplete {
            tag: m.tag,
            session: index,
            boot_device: 0,
            session_tag: self.sessions.get(index).tag,
            keep_alive_ms: KEEP_ALIVE_MS,
            expiry_ms: EXPIRY_MS,
            ..Default::default()
        };
        self.reply_within(asked, out, |buf| complete.encode(buf));
    }

    /// Whether ticket, device and proof earn a session.
    fn may_start(
        &self,
        m: &IoServiceStart,
        tail: &[u8],
        asked: &Asked,
        now: Nanos,
    ) -> Result<NewSession, Refused> {
        if m.version != PROTOCOL_VERSION {
            let text = "This node speaks version 1 of the protocol: update the device's software or boot medium";
            return Err(Refused::Rejected(RejectReason::ProtocolTooOld, text));
        }
        if self.drain.is_some() {
            return Err(Refused::Busy(BusyReason::Draining, DRAINING_PAUSE_MS));
        }
        if self.shared.vdisks().is_none() {
            return Err(Refused::Busy(BusyReason::Starting, STARTING_PAUSE_MS));
        }
        if self.shared.shard_of(m.mac) != self.index {
            let text = "This port serves other devices: ask the login port for the I/O port again";
            return Err(Refused::Rejected(RejectReason::BadProof, text));
        }
        let sealed = tail.get(..usize::from(m.ticket_bytes)).unwrap_or(&[]);
        let expected = self.expected_of_tickets(m.mac, now);
        let ticket = self.shared.keys.open_ticket(sealed, &expected).map_err(|error| {
            let text = "The ticket is not good (too old, or of another farm or device): log in from the start";
            Refused::Rejected(error.reject_reason(), text)
        })?;
        let device = self.device(m.mac)?;
        // The former tag too: it ends a session.
        let bound = [sealed, &m.former_tag.to_le_bytes()].concat();
        let bound = (bound.as_slice(), &m.device_nonce, &m.proof);
        let key_hash = prove(device, bound, m.mac)?;
        if key_hash != ticket.body.device_key_hash {
            let text = "The device's key changed since its login: log in from the start";
            return Err(Refused::Rejected(RejectReason::TicketExpired, text));
        }
        let vdisk = self.vdisk_of_ticket(m, &ticket)?;
        Ok(NewSession {
            tag: 0,
            peer: asked.from,
            local: asked.local,
            kind: m.login_kind,
            boots: m.login_kind == LoginKind::Boot || !goes_on(&ticket.body),
            capabilities: common(m.capabilities),
            vdisk,
            generation: self.shared.vdisk(vdisk).generation,
            mac: m.mac,
            notice_port: device.notice_port,
            nonce: m.device_nonce,
            former_tag: m.former_tag,
            device_name: ticket.body.device_name,
        })
    }

    /// The vDisk that a ticket was sealed for, if this node has exactly that content.
    fn vdisk_of_ticket(&self, m: &IoServiceStart, ticket: &Ticket) -> Result<u32, Refused> {
        let name = ticket.body.vdisk;
        if !m.vdisk.as_str().is_empty() && m.vdisk.as_str() != name.as_str() {
            let text = "The ticket was given for another vDisk: log in from the start";
            return Err(Refused::Rejected(RejectReason::NoVdiskAssigned, text));
        }
        let vdisks = self.shared.vdisks().unwrap_or(&[]);
        let Some((entry, index)) = vdisks.iter().zip(0u32..).find(|(v, _)| v.name == name.as_str())
        else {
            let text = "This node does not have the vDisk: go to another node of the list";
            return Err(Refused::Rejected(RejectReason::VersionMissing, text));
        };
        if entry.content_id != ticket.body.content_id {
            let text = "This node has another version of the vDisk: go to another node, or log in from the start";
            return Err(Refused::Rejected(RejectReason::VersionPending, text));
        }
        if !entry.is_eligible() {
            return Err(Refused::Rejected(RejectReason::VersionMissing, CHANGED));
        }
        Ok(index)
    }

    /// The session that a repeat of this start already made, or a new one, unconfirmed. What lives is not touched: a
    /// replayed start, even from the device's own address, displaces nothing, because its sender never sees the tag.
    fn find_or_open(
        &mut self,
        new: &NewSession,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) -> Result<u32, Refused> {
        let mut unconfirmed = 0;
        let mut oldest = None;
        let mut alive_at = None;
        for index in self.sessions.of_mac(new.mac) {
            let session = self.sessions.get(index);
            let moved = !session.ends.is_from(new.peer);
            let nonce = &self.sessions.cold(index).nonce;
            if !moved && *nonce == new.nonce && session.vdisk == new.vdisk {
                return Ok(index);
            }
            if session.phase == Phase::Unconfirmed {
                unconfirmed += 1;
                // The newest come first, so the last one seen is the oldest.
                oldest = Some(index);
            } else if moved
                && now.since(session.heard) < ALIVE_FOR
                && !is_same_device(session.tag, new.former_tag)
            {
                alive_at = Some(session.peer());
            }
        }
        if let Some(alive_at) = alive_at {
            let (mac, refused) = (new.mac, asked.from);
            self.event(Event::DuplicateDevice { mac, alive_at, refused }, out);
            let text = "This MAC address is in use by a running device: give one of them another. A restarted device is let in after 5 s";
            return Err(Refused::Rejected(RejectReason::DuplicateDevice, text));
        }
        if unconfirmed >= UNCONFIRMED_PER_MAC
            && let Some(oldest) = oldest
        {
            self.close(oldest, End::Unconfirmed, now, out);
        }
        if new.role() == SessionRole::Standby
            && self.sessions.places_left() <= self.standby_reserve()
        {
            let text = "This node keeps its last places for devices that read: raise --sessions, or add a node";
            return Err(Refused::Rejected(RejectReason::NoRoom, text));
        }
        if self.sessions.is_full() {
            let text = "This node has no room for another device: raise --sessions, or add a node";
            return Err(Refused::Rejected(RejectReason::NoRoom, text));
        }
        // Here and not at login: the node that serves the boot is the one that it loads. Repeats found their session above.
        if new.boots {
            if !self.shared.boot_slots.take(new.mac, now) {
                return Err(Refused::Busy(BusyReason::BootLimit, BOOT_PAUSE_MS));
            }
            if new.kind != LoginKind::Boot {
                self.counters.sessions_unproven.inc();
            }
        }
        let new = NewSession { tag: self.random.u64(), device_name: new.device_name, ..*new };
        let index = self.sessions.add(&new, now);
        self.role_begins(new.role(), new.vdisk);
        if new.role() == SessionRole::Serving {
            self.guest_came();
        }
        self.count_sessions();
        self.sweep_due = self.sweep_due.earlier(now + SWEEP_EVERY);
        Ok(index)
    }

    /// The tag came back: the session is its device's. Whatever else the MAC had here ends; but if that is alive at another
    /// address by now, this one ends instead, and false is the answer.
    pub(super) fn confirm(&mut self, index: u32, now: Nanos, out: &mut Outbox) -> bool {
        let (mac, peer, former_tag) = {
            let cold = self.sessions.cold(index);
            (cold.mac, self.sessions.get(index).peer(), cold.former_tag)
        };
        let rival = self.sessions.of_mac(mac).find(|&other| {
            let session = self.sessions.get(other);
            session.phase != Phase::Unconfirmed
                && !session.ends.is_from(peer)
                && now.since(session.heard) < ALIVE_FOR
                && !is_same_device(session.tag, former_tag)
        });
        if let Some(rival) = rival {
            let alive_at = self.sessions.get(rival).peer();
            self.event(Event::DuplicateDevice { mac, alive_at, refused: peer }, out);
            self.count_reject(RejectReason::DuplicateDevice);
            self.close(index, End::Unconfirmed, now, out);
            return false;
        }
        loop {
            let other = self.sessions.of_mac(mac).find(|&other| other != index);
            let Some(other) = other else { break };
            let former = self.sessions.get(other);
            let end = match former.phase {
                Phase::Unconfirmed => End::Unconfirmed,
                _ => End::Replaced,
            };
            if !former.ends.is_from(peer) && end == End::Replaced {
                self.counters.sessions_readdressed.inc();
            }
            self.close(other, end, now, out);
        }
        self.sessions.set_confirmed(index);
        let vdisk = self.sessions.get(index).vdisk;
        let cold = self.sessions.cold(index);
        let (kind, serving) = (cold.kind, cold.role == SessionRole::Serving);
        self.counters.sessions_started.inc();
        self.begin_feed(vdisk, out);
        if serving {
            self.make_room(now, out);
        }
        self.count_sessions();
        let vdisk = Text::new(&self.shared.vdisk(vdisk).name);
        self.event(Event::SessionStarted { mac, peer, session: index, kind, vdisk }, out);
        true
    }

    pub(super) fn on_vdisk_info(
        &mut self,
        m: &VdiskInfoRequest,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let named = Named::new(m.session, m.tag);
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        let block_bytes = u32::try_from(self.shared.cache.block_bytes()).expect("at most 1 MiB");
        let vdisk = self.vdisk_of(index);
        let info = VdiskInfo {
            flags: self.flags_of(index),
            tag: m.tag,
            size_bytes: vdisk.size_bytes,
            content_id: vdisk.content_id,
            block_bytes,
            version: vdisk.version,
            image_mode: vdisk.image_mode,
            write_cache: vdisk.write_cache,
            write_cache_bytes: vdisk.write_cache_bytes,
            vdisk: Text::new(&vdisk.name),
            ..Default::default()
        };
        self.reply(asked, out, |buf| info.encode(buf));
    }

    pub(super) fn on_handshake(
        &mut self,
        m: &Handshake,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let named = Named::new(m.session, m.tag);
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        if let Some(reason) = self.handshake_fault(m, index) {
            self.counters.handshakes_refused.inc();
            let reply = HandshakeReply { tag: m.tag, reason, ..Default::default() };
            self.reply(asked, out, |buf| reply.encode(buf));
            return;
        }
        let session = self.sessions.get_mut(index);
        let first = session.phase != Phase::Open;
        session.phase = Phase::Open;
        session.agree(m.capabilities);
        let jumbo = session.capabilities().has(Capabilities::JUMBO);
        let most = if jumbo { DATAGRAM_BYTES_MAX } else { usize::from(USUAL_DATAGRAM_BYTES) };
        let most = u16::try_from(most).expect("a datagram's length fits");
        session.datagram_bytes = m.datagram_bytes.clamp(USUAL_DATAGRAM_BYTES, most);
        let (datagram_bytes, capabilities) = (session.datagram_bytes, session.capabilities());
        let cold = self.sessions.cold_mut(index);
        if m.notice_port != 0 {
            cold.notice_port = m.notice_port;
        }
        let mac = cold.mac;
        if first {
            self.shared.boot_slots.free(mac);
        }
        // From here on the device can prove that it goes on: also the node that it asks next takes no boot slot for it.
        let mut ticket = [0; TICKET_BYTES_MAX];
        let ticket = match self.sessions.cold(index).role {
            SessionRole::Standby => &[],
            _ => self.fresh_ticket(index, asked, now, &mut ticket),
        };
        let limits = &self.shared.limits;
        let wanted = if m.window == 0 { limits.reads_max } else { m.window };
        let reply = HandshakeReply {
            flags: self.flags_of(index),
            tag: m.tag,
            window: limits.session_fragments_max,
            datagram_bytes,
            accepted: 1,
            capabilities,
            read_bytes_max: u32::try_from(READ_BYTES_MAX).expect("64 KiB fits"),
            reads_max: wanted.min(limits.reads_max),
            unix_seconds: self.shared.wall_clock.unix_seconds(now),
            ticket_bytes: u16::try_from(ticket.len()).expect("TICKET_BYTES_MAX fits"),
            ticket_seconds: ticket_seconds(ticket),
            ..Default::default()
        };
        self.counters.handshakes.inc();
        if first {
            let (device_name, software) = (m.device_name, m.software);
            let event = Event::Handshake { mac, device_name, software, datagram_bytes };
            self.event(event, out);
        }
        self.reply(asked, out, |buf| reply.encode_with_tail(ticket, buf));
    }

    fn handshake_fault(&self, m: &Handshake, index: u32) -> Option<RejectReason> {
        let vdisk = self.vdisk_of(index);
        let name = m.vdisk.as_str();
        if !name.is_empty() && name != vdisk.name {
            return Some(RejectReason::NoVdiskAssigned);
        }
        // Writers come with a later version; until then the image is everybody's.
        let mode = m.image_mode;
        if mode != ImageMode::Standard && mode != ImageMode::Other(0) {
            return Some(RejectReason::VdiskLocked);
        }
        None
    }
}

/// Whether whoever names this tag is the device that the session was given to, wherever it is now: the tag is told to nobody else.
fn is_same_device(tag: u64, named: u64) -> bool {
    named != 0 && tag == named
}

const _: () = assert!(IoServiceStart::BYTES >= LoginReject::BYTES);
