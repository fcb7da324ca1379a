//! Login: who is let in, and where to. Every step is answered from what the datagram brings and what the farm knows; a shard
//! remembers nothing of it but how many devices are on their way.

use diskstream_wire::limits::{NODES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    BusyReason, ContentId, Endpoint, IoPortReply, IoPortRequest, LoginBusy, LoginKind,
    LoginPortReply, LoginPortRequest, LoginReject, LoginStart, LoginTransfer, Mac, NodeEntry,
    PROTOCOL_VERSION, RejectReason, Text, TicketBody,
};

use super::limits::STARTING_PAUSE_MS;
use super::place::{Place, Question};
use super::{Asked, Event, Mutation, Outbox, Shard, common, endpoint_for};
use crate::farm::Device;
use crate::placement::{Node, NodeList};
use crate::trust::{TICKET_SECONDS, TicketExpectation};

/// Why a device is not let in now.
pub(super) enum Refused {
    /// Later.
    Busy(BusyReason, u32),
    /// Not like this; with a text for the person in front of the device.
    Rejected(RejectReason, &'static str),
}

/// What a device that is let in was found to be.
#[derive(Clone, Copy)]
struct Admitted {
    vdisk: u32,
    name: Text<32>,
    key_hash: [u8; 32],
    kind: LoginKind,
    /// Nothing proves that it goes on: it takes a boot slot.
    boots: bool,
    /// The content that its ticket names.
    running: Option<ContentId>,
}

impl Shard {
    pub(super) fn on_login_port(
        &mut self,
        m: &LoginPortRequest,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        if !(m.version_min..=m.version_max).contains(&PROTOCOL_VERSION) {
            let text = "This node speaks version 1 of the protocol: update the device's software or boot medium";
            let refused = Refused::Rejected(RejectReason::ProtocolTooOld, text);
            return self.refuse(&refused, m.tag, m.mac, asked, out);
        }
        self.counters.login_ports_told.inc();
        let unix_seconds = self.shared.wall_clock.unix_seconds(now);
        let reply = LoginPortReply {
            tag: m.tag,
            login: self.own_login(asked),
            cookie: self.shared.keys.cookie(asked.from, m.mac, unix_seconds),
            version: PROTOCOL_VERSION,
            ..Default::default()
        };
        self.reply_within(asked, out, |buf| reply.encode(buf));
    }

    pub(super) fn on_login_start(
        &mut self,
        m: &LoginStart,
        tail: &[u8],
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let unix_seconds = self.shared.wall_clock.unix_seconds(now);
        let keys = &self.shared.keys;
        if !keys.cookie_is_valid(&m.cookie, asked.from, m.mac, unix_seconds)
            && self.mutation != Some(Mutation::AnswerBeforeCookie)
        {
            self.counters.refused_bad_cookie.inc();
            let text =
                "The login took too long or came from another address: it starts again by itself";
            let refused = Refused::Rejected(RejectReason::BadProof, text);
            return self.refuse(&refused, m.tag, m.mac, asked, out);
        }
        let placed = self.admit(m, tail, now).and_then(|admitted| {
            let Admitted { vdisk, kind, boots, running, .. } = admitted;
            let question = Question { mac: m.mac, vdisk, kind, boots, running };
            self.place(&question, asked, now).map(|place| (admitted, place))
        });
        match placed {
            Ok((admitted, place)) => self.transfer(m, &admitted, &place, asked, now, out),
            Err(refused) => self.refuse(&refused, m.tag, m.mac, asked, out),
        }
    }

    /// Whether a device with a good cookie may come in.
    fn admit(&mut self, m: &LoginStart, tail: &[u8], now: Nanos) -> Result<Admitted, Refused> {
        if m.version != PROTOCOL_VERSION {
            let text = "This node speaks version 1 of the protocol: update the device's software or boot medium";
            return Err(Refused::Rejected(RejectReason::ProtocolTooOld, text));
        }
        let Some(vdisks) = self.shared.vdisks() else {
            return Err(Refused::Busy(BusyReason::Starting, STARTING_PAUSE_MS));
        };
        let device = self.device(m.mac)?;
        let bound = (&m.cookie[..], &m.device_nonce, &m.proof);
        let key_hash = prove(device, bound, m.mac)?;
        let wanted = m.vdisk.as_str();
        let assigned = device.vdisk;
        let entry = assigned.and_then(|index| vdisks.get(index));
        let named = entry.filter(|entry| wanted.is_empty() || entry.name == wanted);
        let (Some(vdisk), Some(entry)) = (assigned, named) else {
            let text = "No such vDisk is assigned to this device: assign one in the farm, or ask for none by name";
            return Err(Refused::Rejected(RejectReason::NoVdiskAssigned, text));
        };
        let ticket = tail.get(..usize::from(m.ticket_bytes)).filter(|ticket| !ticket.is_empty());
        let going_on = matches!(m.login_kind, LoginKind::Reconnect | LoginKind::Standby);
        let ticket = ticket.filter(|_| going_on).and_then(|t| self.opens(t, m.mac, now));
        let running = ticket.filter(|t| t.vdisk.as_str() == entry.name).map(|t| t.content_id);
        // Without a good ticket it is a login like any other, and counts like one.
        let kind = if ticket.is_some() { m.login_kind } else { LoginKind::Boot };
        let boots = !ticket.is_some_and(|ticket| goes_on(&ticket));
        let name = Text::new(&device.name);
        let vdisk = u32::try_from(vdisk).expect("a farm has few vDisks");
        Ok(Admitted { vdisk, name, key_hash, kind, boots, running })
    }

    fn opens(&self, ticket: &[u8], mac: Mac, now: Nanos) -> Option<TicketBody> {
        let expected = self.expected_of_tickets(mac, now);
        self.shared.keys.open_ticket(ticket, &expected).ok().map(|ticket| ticket.body)
    }

    pub(super) fn expected_of_tickets(&self, mac: Mac, now: Nanos) -> TicketExpectation {
        let unix_seconds = self.shared.wall_clock.unix_seconds(now);
        TicketExpectation { mac, farm_epoch: self.shared.farm.epoch, unix_seconds }
    }

    /// What the farm says about a MAC.
    pub(super) fn device(&self, mac: Mac) -> Result<&Device, Refused> {
        match self.shared.farm.device(mac) {
            Some(device) if device.enabled => Ok(device),
            Some(_) => {
                let text = "This device is disabled in the farm: enable it there";
                Err(Refused::Rejected(RejectReason::Disabled, text))
            }
            None => {
                let text =
                    "The farm knows no device with this MAC address: add it to the farm file";
                Err(Refused::Rejected(RejectReason::UnknownDevice, text))
            }
        }
    }

    fn transfer(
        &mut self,
        m: &LoginStart,
        admitted: &Admitted,
        place: &Place,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        match admitted.kind {
            LoginKind::Reconnect => self.counters.logins_reconnected.inc(),
            LoginKind::Standby => self.counters.logins_standby.inc(),
            _ => self.counters.logins_transferred.inc(),
        }
        let nodes = &place.nodes;
        let mut ticket = [0; TICKET_BYTES_MAX];
        let subject = Subject {
            mac: m.mac,
            vdisk: admitted.vdisk,
            content_id: place.content_id,
            device_name: admitted.name,
            key_hash: admitted.key_hash,
            pinned: place.pinned,
            goes_on: !admitted.boots,
        };
        let ticket = self.seal(&subject, nodes, now, &mut ticket);
        let entry = self.shared.vdisk(admitted.vdisk);
        let same = entry.content_id == place.content_id;
        let node = nodes.as_slice().first().map_or(Endpoint::NONE, |node| node.login);
        let transfer = LoginTransfer {
            tag: m.tag,
            node,
            vdisk_count: 1,
            image_mode: entry.image_mode,
            policy: u32::from(place.pinned),
            // What this node does not hold it cannot measure: the device learns it from the node that does.
            size_bytes: if same { entry.size_bytes } else { 0 },
            content_id: place.content_id,
            vdisk: Text::new(&entry.name),
            device_name: admitted.name,
            capabilities: common(m.capabilities),
            node_count: nodes.count(),
            ticket_bytes: u16::try_from(ticket.len()).expect("TICKET_BYTES_MAX fits"),
            ticket_seconds: u32::try_from(TICKET_SECONDS).expect("a week fits"),
            ..Default::default()
        };
        let event = Event::LoginPlaced {
            mac: m.mac,
            peer: asked.from,
            kind: admitted.kind,
            vdisk: transfer.vdisk,
            node,
            here: place.placed.node == Node::Own,
            why: place.why,
            eligible: place.placed.eligible,
            sessions: place.placed.sessions,
            rating: place.placed.rating,
        };
        self.event(event, out);
        self.reply(asked, out, |buf| {
            let mut tail = [0; NODES_MAX * NodeEntry::BYTES + TICKET_BYTES_MAX];
            let nodes_bytes = nodes.encode(&mut tail);
            tail[nodes_bytes..][..ticket.len()].copy_from_slice(ticket);
            transfer.encode_with_tail(&tail[..nodes_bytes + ticket.len()], buf)
        });
    }

    /// Seals a ticket for a device.
    pub(super) fn seal<'a>(
        &mut self,
        subject: &Subject,
        nodes: &NodeList,
        now: Nanos,
        out: &'a mut [u8; TICKET_BYTES_MAX],
    ) -> &'a [u8] {
        let mut nonce = [0; 24];
        self.random.fill(&mut nonce);
        let serial = self.random.u64();
        let entry = self.shared.vdisk(subject.vdisk);
        let body = TicketBody {
            mac: subject.mac,
            device_key_hash: subject.key_hash,
            farm_epoch: self.shared.farm.epoch,
            flags: u8::from(subject.pinned) | if subject.goes_on { HAD_SESSION } else { 0 },
            content_id: subject.content_id,
            vdisk: Text::new(&entry.name),
            device_name: subject.device_name,
            serial,
            ..Default::default()
        };
        let unix_seconds = self.shared.wall_clock.unix_seconds(now);
        self.shared.keys.seal_ticket(&body, nodes.as_slice(), unix_seconds, nonce, out)
    }

    /// Where this node answers logins, as the asker sees it.
    pub(super) fn own_login(&self, asked: &Asked) -> Endpoint {
        endpoint_for(self.shared.login_endpoint, asked.local)
    }

    pub(super) fn on_io_port(&mut self, m: &IoPortRequest, asked: &Asked, out: &mut Outbox) {
        self.counters.io_ports_told.inc();
        let shard = self.shared.shard_of(m.mac);
        let endpoint = self.shared.io_endpoints[usize::from(shard)];
        let io = endpoint_for(endpoint, asked.local);
        let reply = IoPortReply { tag: m.tag, io, ..Default::default() };
        self.reply_within(asked, out, |buf| reply.encode(buf));
    }

    /// Says "later" or "no", counts it, and logs a "no".
    pub(super) fn refuse(
        &mut self,
        refused: &Refused,
        tag: u64,
        mac: Mac,
        asked: &Asked,
        out: &mut Outbox,
    ) {
        match *refused {
            Refused::Busy(reason, pause_ms) => {
                match reason {
                    BusyReason::BootLimit => self.counters.logins_busy_boot_limit.inc(),
                    BusyReason::Draining => self.counters.logins_busy_draining.inc(),
                    BusyReason::Starting | BusyReason::Other(_) => {
                        self.counters.logins_busy_starting.inc();
                    }
                }
                let wait_ms = self.random.around(pause_ms);
                let busy = LoginBusy { tag, wait_ms, reason, ..Default::default() };
                self.reply_within(asked, out, |buf| busy.encode(buf));
            }
            Refused::Rejected(reason, text) => {
                self.count_reject(reason);
                let text = Text::new(text);
                let reject = LoginReject { tag, reason, text, ..Default::default() };
                self.reply_within(asked, out, |buf| reject.encode(buf));
                self.event(Event::LoginRefused { mac, peer: asked.from, reason, text }, out);
            }
        }
    }

    pub(super) fn count_reject(&self, reason: RejectReason) {
        let c = &self.counters;
        match reason {
            RejectReason::UnknownDevice => c.logins_unknown_device.inc(),
            RejectReason::Disabled => c.logins_disabled.inc(),
            RejectReason::NoVdiskAssigned => c.logins_no_vdisk_assigned.inc(),
            RejectReason::VdiskLocked => c.logins_vdisk_locked.inc(),
            RejectReason::NoEligibleNode => c.logins_no_eligible_node.inc(),
            RejectReason::VersionMissing => c.logins_version_missing.inc(),
            RejectReason::VersionPending => c.logins_version_pending.inc(),
            RejectReason::ProtocolTooOld => c.logins_protocol_too_old.inc(),
            RejectReason::BadProof | RejectReason::Other(_) => c.logins_bad_proof.inc(),
            RejectReason::DuplicateDevice => c.logins_duplicate_device.inc(),
            RejectReason::TicketExpired => c.logins_ticket_expired.inc(),
            RejectReason::NoRoom => c.logins_no_room.inc(),
        }
    }
}

/// What to say of a vDisk whose file is not what it was.
pub(super) const CHANGED: &str = "The vDisk's file on this node was changed or removed: restore it, or serve the new one under a new name";

/// For whom a ticket is sealed.
pub(super) struct Subject {
    pub(super) mac: Mac,
    pub(super) vdisk: u32,
    /// What it may read.
    pub(super) content_id: ContentId,
    pub(super) device_name: Text<32>,
    pub(super) key_hash: [u8; 32],
    /// One node alone may serve it.
    pub(super) pinned: bool,
    /// It had a session, here or where the ticket that it brought was sealed.
    pub(super) goes_on: bool,
}

/// The flag of a ticket that proves a session.
const HAD_SESSION: u8 = 2;

/// Whether the device of a ticket had a session: what it says itself exempts it from no boot limit.
pub(super) fn goes_on(ticket: &TicketBody) -> bool {
    ticket.flags & HAD_SESSION != 0
}

/// Checks the proof of a device that has a key: over what the step is bound to, the device's nonce and its MAC. Gives the
/// key's hash; zeros where there is no key.
pub(super) fn prove(
    device: &Device,
    (bound, nonce, proof): (&[u8], &[u8; 16], &[u8; 32]),
    mac: Mac,
) -> Result<[u8; 32], Refused> {
    let Some(key) = &device.key else { return Ok([0; 32]) };
    if key.proves(proof, bound, nonce, mac) {
        return Ok(key.hash());
    }
    let text = "The device did not prove that it has its key: compare the key in the farm file with the device's";
    Err(Refused::Rejected(RejectReason::BadProof, text))
}
