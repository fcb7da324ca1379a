//! Login: who is let in, and where to. Every step is answered from what the datagram brings and what the farm knows; a shard
//! remembers nothing of it but the boot slot.

use diskstream_wire::limits::{NODES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    BusyReason, Endpoint, IoPortReply, IoPortRequest, LoginBusy, LoginKind, LoginPortReply,
    LoginPortRequest, LoginReject, LoginStart, LoginTransfer, Mac, NodeEntry, PROTOCOL_VERSION,
    RejectReason, Text, TicketBody,
};

use super::limits::{BOOT_PAUSE_MS, DRAINING_PAUSE_MS, STARTING_PAUSE_MS};
use super::{Asked, Event, Mutation, Outbox, Shard, common, endpoint_for};
use crate::farm::Device;
use crate::trust::{TICKET_SECONDS, TicketExpectation};

/// Why a device is not let in now.
pub(super) enum Refused {
    /// Later.
    Busy(BusyReason, u32),
    /// Not like this; with a text for the person in front of the device.
    Rejected(RejectReason, &'static str),
}

/// A list of nodes for a device, the best first.
pub(super) struct NodeList {
    entries: [NodeEntry; NODES_MAX],
    count: usize,
}

impl NodeList {
    pub(super) fn new() -> NodeList {
        NodeList { entries: [NodeEntry::default(); NODES_MAX], count: 0 }
    }

    /// Appends a node that is not in the list, while there is room.
    pub(super) fn push(&mut self, entry: NodeEntry) {
        let known = self.as_slice().iter().any(|known| known.login == entry.login);
        if self.count < NODES_MAX && !known && entry.login.socket_addr().is_some() {
            self.entries[self.count] = entry;
            self.count += 1;
        }
    }

    pub(super) fn as_slice(&self) -> &[NodeEntry] {
        &self.entries[..self.count]
    }

    /// Writes the list as a message's tail; gives the bytes.
    pub(super) fn encode(&self, out: &mut [u8]) -> usize {
        let entries = out.chunks_exact_mut(NodeEntry::BYTES);
        entries.zip(self.as_slice()).for_each(|(bytes, entry)| entry.encode(bytes));
        self.count * NodeEntry::BYTES
    }

    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.count).expect("NODES_MAX fits a byte")
    }
}

/// What a device that is let in was found to be.
#[derive(Clone, Copy)]
struct Admitted {
    vdisk: u32,
    name: Text<32>,
    key_hash: [u8; 32],
    kind: LoginKind,
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
        match self.admit(m, tail, now) {
            Ok(admitted) => self.transfer(m, &admitted, asked, now, out),
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
        if !entry.is_eligible() {
            return Err(Refused::Rejected(RejectReason::VersionMissing, CHANGED));
        }
        let ticket = tail.get(..usize::from(m.ticket_bytes)).filter(|ticket| !ticket.is_empty());
        let kind = match m.login_kind {
            LoginKind::Reconnect | LoginKind::Standby
                if ticket.is_some_and(|ticket| self.opens(ticket, m.mac, now)) =>
            {
                m.login_kind
            }
            // Without a good ticket it is a login like any other, and counts like one.
            _ => LoginKind::Boot,
        };
        if let Some(drain) = &self.drain {
            if drain.successors().is_empty() {
                return Err(Refused::Busy(BusyReason::Draining, DRAINING_PAUSE_MS));
            }
        } else if kind == LoginKind::Boot && !self.shared.boot_slots.take(m.mac, now) {
            return Err(Refused::Busy(BusyReason::BootLimit, BOOT_PAUSE_MS));
        }
        let name = Text::new(&device.name);
        let vdisk = u32::try_from(vdisk).expect("a farm has few vDisks");
        Ok(Admitted { vdisk, name, key_hash, kind })
    }

    fn opens(&self, ticket: &[u8], mac: Mac, now: Nanos) -> bool {
        let expected = self.expected_of_tickets(mac, now);
        self.shared.keys.open_ticket(ticket, &expected).is_ok()
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
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) {
        match admitted.kind {
            LoginKind::Reconnect => self.counters.logins_reconnected.inc(),
            LoginKind::Standby => self.counters.logins_standby.inc(),
            _ => self.counters.logins_transferred.inc(),
        }
        let nodes = self.node_list(admitted.vdisk, asked);
        let mut ticket = [0; TICKET_BYTES_MAX];
        let subject = Subject {
            mac: m.mac,
            vdisk: admitted.vdisk,
            device_name: admitted.name,
            key_hash: admitted.key_hash,
        };
        let ticket = self.seal(&subject, &nodes, now, &mut ticket);
        let entry = self.shared.vdisk(admitted.vdisk);
        let transfer = LoginTransfer {
            tag: m.tag,
            node: nodes.as_slice().first().map_or(Endpoint::NONE, |node| node.login),
            vdisk_count: 1,
            image_mode: entry.image_mode,
            policy: 0,
            size_bytes: entry.size_bytes,
            content_id: entry.content_id,
            vdisk: Text::new(&entry.name),
            device_name: admitted.name,
            capabilities: common(m.capabilities),
            node_count: nodes.count(),
            ticket_bytes: u16::try_from(ticket.len()).expect("TICKET_BYTES_MAX fits"),
            ticket_seconds: u32::try_from(TICKET_SECONDS).expect("a week fits"),
            ..Default::default()
        };
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
            content_id: entry.content_id,
            vdisk: Text::new(&entry.name),
            device_name: subject.device_name,
            serial,
            ..Default::default()
        };
        let unix_seconds = self.shared.wall_clock.unix_seconds(now);
        self.shared.keys.seal_ticket(&body, nodes.as_slice(), unix_seconds, nonce, out)
    }

    /// Where a device can go, the best first: this node, or the successors of one that drains, and the farm's others that
    /// have the vDisk.
    ///
    /// A node that drains comes last but is not left out: a ticket outlives the drain by days, and whoever knows only a
    /// successor whose disk is bad would take its word for the whole farm's.
    pub(super) fn node_list(&self, vdisk: u32, asked: &Asked) -> NodeList {
        let rating = self.shared.farm.nodes.get(self.shared.own_node).map_or(100, |own| own.rating);
        let own = NodeEntry { login: self.own_login(asked), rating, ..Default::default() };
        let mut list = NodeList::new();
        match &self.drain {
            Some(drain) => drain.successors().iter().for_each(|&entry| list.push(entry)),
            None => list.push(own),
        }
        self.push_others(vdisk, &mut list);
        list.push(own);
        list
    }

    /// Appends the farm's other nodes that have the vDisk.
    pub(super) fn push_others(&self, vdisk: u32, list: &mut NodeList) {
        let farm = &self.shared.farm;
        let own = farm.nodes.get(self.shared.own_node);
        if (vdisk as usize) < farm.vdisks.len() {
            let nodes = farm.nodes_with(vdisk as usize);
            let others = nodes.filter(|node| own.is_none_or(|own| own.name != node.name));
            others.for_each(|node| list.push(node.entry()));
        }
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
    pub(super) device_name: Text<32>,
    pub(super) key_hash: [u8; 32],
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
