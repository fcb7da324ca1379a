//! Datagrams in which everything is right that is no secret. Pure.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use diskstream_wire::limits::{SEND_BYTES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::{
    CloseReason, Flags, IoServiceStart, KeepAlive, KeepAliveReply, LoginKind, LoginStart,
    NodeEntry, Notice, NoticeReason, PeerSealed, ReadData, SessionClose, SessionClosed,
    SessionRole, UnknownSession,
};

use super::packet::{PACKET_BYTES_MAX, PAYLOAD, Unreachable, icmp, udp};
use super::{Plan, Target};
use crate::fleet::mac_of;
use crate::random::Random;

/// Data of a forged fragment: the usual one.
const DATA_BYTES: usize = 1376;
/// A path that carries no more, says an ICMP error: less than any datagram with data.
const SMALL_MTU: u16 = 576;
/// Sealed bytes of a forged datagram between nodes: as a report has them.
const SEALED_BYTES: usize = 112;

const _: () = assert!(PAYLOAD + ReadData::BYTES + DATA_BYTES <= PACKET_BYTES_MAX);
const _: () = assert!(TICKET_BYTES_MAX + IoServiceStart::BYTES < SEND_BYTES_MAX);

/// Makes them.
pub struct Liar<'a> {
    plan: &'a Plan,
    random: Random,
}

impl<'a> Liar<'a> {
    /// One that knows the plan.
    pub fn new(plan: &'a Plan, random: Random) -> Liar<'a> {
        Liar { plan, random }
    }

    /// Makes a packet: who is meant, where it goes, and its length.
    pub fn lie(&mut self, packet: &mut [u8]) -> (Target, Ipv4Addr, usize) {
        match self.random.below(16) {
            0..6 => self.tell_device(packet),
            6..13 => self.tell_node(packet),
            _ => self.error(packet),
        }
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        let index = self.random.below(list.len() as u64);
        list[usize::try_from(index).expect("below a length")]
    }

    /// A node, or in one of four cases nobody, at a node's port.
    fn as_node(&mut self, port: u16) -> SocketAddrV4 {
        let stranger = self.random.below(4) == 0;
        let plan = self.plan;
        let ip = self.pick(if stranger { &plan.nobodies } else { &plan.nodes });
        SocketAddrV4::new(ip, port)
    }

    /// A device, or in half of the cases nobody, at a device's port.
    fn as_device(&mut self) -> SocketAddrV4 {
        let plan = self.plan;
        let stranger = self.random.below(2) == 0;
        let ip = if stranger { self.pick(&plan.nobodies) } else { plan.devices_at };
        SocketAddrV4::new(ip, self.pick(&plan.io_ports))
    }

    fn device(&mut self) -> u16 {
        u16::try_from(self.random.below(self.plan.devices.into())).expect("below a u16")
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bits = self.random.bits().to_le_bytes();
            chunk.copy_from_slice(&bits[..chunk.len()]);
        }
    }

    /// "Go to me": the stranger, as an entry of a node list.
    fn own_entry(&self) -> [u8; NodeEntry::BYTES] {
        let login = SocketAddr::from((self.plan.own, self.plan.login_port));
        let mut entry = [0; NodeEntry::BYTES];
        NodeEntry { login: login.into(), rating: 100, ..NodeEntry::default() }.encode(&mut entry);
        entry
    }

    fn tell_device(&mut self, packet: &mut [u8]) -> (Target, Ipv4Addr, usize) {
        let plan = self.plan;
        let from = self.as_node(plan.io_port);
        let tag = self.random.bits();
        let entry = self.own_entry();
        let out = &mut packet[PAYLOAD..];
        let mut to = plan.io_ports.as_slice();
        let length = match self.random.below(6) {
            case @ 0..2 => {
                if case == 0 {
                    to = &plan.notice_ports;
                }
                let reason = NoticeReason::Stopping;
                let (sequence, deadline_ms, node_count) = (1, 1000, 1);
                Notice { tag, sequence, deadline_ms, reason, node_count, ..Notice::default() }
                    .encode_with_tail(&entry, out)
            }
            2 => {
                let mut data = [0; DATA_BYTES];
                self.fill(&mut data);
                ReadData {
                    tag,
                    flags: Flags::DRAINING,
                    request_id: self.random.bits(),
                    data_bytes: u16::try_from(DATA_BYTES).expect("small"),
                    ..ReadData::default()
                }
                .encode_with_tail(&data, out)
            }
            3 => KeepAliveReply { tag, sequence: 1, node_count: 1, ..KeepAliveReply::default() }
                .encode_with_tail(&entry, out),
            4 => SessionClosed { tag, session: 0, ..SessionClosed::default() }.encode(out),
            _ => UnknownSession { tag, session: 0, ..UnknownSession::default() }.encode(out),
        };
        let to = SocketAddrV4::new(plan.devices_at, self.pick(to));
        (Target::Devices, plan.devices_at, udp(packet, length, from, to))
    }

    fn tell_node(&mut self, packet: &mut [u8]) -> (Target, Ipv4Addr, usize) {
        let plan = self.plan;
        let node = self.pick(&plan.nodes);
        let mut from = self.as_device();
        let mut port = plan.io_port;
        let (tag, device) = (self.random.bits(), self.device());
        let (mac, session) = (mac_of(device), u32::from(device));
        let out = &mut packet[PAYLOAD..];
        let length = match self.random.below(5) {
            0 => {
                let mut ticket = [0; 240];
                self.fill(&mut ticket);
                IoServiceStart {
                    tag,
                    mac,
                    login_kind: LoginKind::Reconnect,
                    version: 1,
                    ticket_bytes: u16::try_from(ticket.len()).expect("small"),
                    ..IoServiceStart::default()
                }
                .encode_with_tail(&ticket, out)
            }
            1 => {
                port = plan.login_port;
                let mut cookie = [0; 16];
                self.fill(&mut cookie);
                let login_kind = LoginKind::Boot;
                LoginStart { tag, mac, login_kind, version: 1, cookie, ..LoginStart::default() }
                    .encode(out)
            }
            2 => KeepAlive { tag, session, role: SessionRole::Serving, ..KeepAlive::default() }
                .encode(out),
            3 => {
                SessionClose { tag, session, reason: CloseReason::Moved, ..SessionClose::default() }
                    .encode(out)
            }
            _ => {
                port = plan.peer_port;
                from = self.as_node(plan.peer_port);
                if *from.ip() == node {
                    from.set_ip(plan.own);
                }
                let (mut nonce, mut sealed) = ([0; 24], [0; SEALED_BYTES]);
                self.fill(&mut nonce);
                self.fill(&mut sealed);
                PeerSealed { nonce, ..PeerSealed::default() }.encode_with_tail(&sealed, out)
            }
        };
        let to = SocketAddrV4::new(node, port);
        (Target::Nodes, node, udp(packet, length, from, to))
    }

    /// An ICMP error about a flow that there is: a device's to a node, a node's to a device, or between nodes.
    fn error(&mut self, packet: &mut [u8]) -> (Target, Ipv4Addr, usize) {
        let plan = self.plan;
        let node = self.pick(&plan.nodes);
        let device = SocketAddrV4::new(plan.devices_at, self.pick(&plan.io_ports));
        let (to, peer) = match self.random.below(4) {
            0 => (SocketAddrV4::new(node, plan.io_port), device),
            1 => {
                // Not itself: no kernel takes a packet of its own from outside.
                let others: Vec<_> = plan.nodes.iter().filter(|&&other| other != node).collect();
                let other = if others.is_empty() { plan.own } else { *self.pick(&others) };
                let peer = SocketAddrV4::new(other, plan.peer_port);
                (SocketAddrV4::new(node, plan.peer_port), peer)
            }
            _ => (device, SocketAddrV4::new(node, plan.io_port)),
        };
        let what = match self.random.below(3) {
            0 => Unreachable::Host,
            1 => Unreachable::Port,
            _ => Unreachable::TooBig(SMALL_MTU),
        };
        // From the peer itself, or from a router that nobody has.
        let router = self.random.below(2) == 0;
        let from = if router { self.pick(&plan.nobodies) } else { *peer.ip() };
        (Target::Kernel, *to.ip(), icmp(packet, what, from, to, peer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use diskstream_wire::{Kind, decode};

    use super::*;

    fn plan() -> Plan {
        let ip = |n| Ipv4Addr::new(198, 18, 0, n);
        Plan {
            nodes: vec![ip(1), ip(2)],
            login_port: 6910,
            io_port: 6911,
            peer_port: 6890,
            devices_at: ip(3),
            devices: 5,
            io_ports: vec![40_000, 40_001],
            notice_ports: vec![41_000],
            own: ip(4),
            nobodies: vec![ip(200), ip(201)],
            count: 0,
            per_second: 1,
            seed: 1,
        }
    }

    #[test]
    fn every_datagram_is_a_message_that_its_receiver_knows() {
        let plan = plan();
        let mut liar = Liar::new(&plan, Random::new(1));
        let mut packet = [0; PACKET_BYTES_MAX];
        let (mut kinds, mut errors) = (BTreeMap::<_, u32>::new(), 0);
        for _ in 0..10_000 {
            let (target, ip, length) = liar.lie(&mut packet);
            let packet = &packet[..length];
            assert_eq!(packet[16..20], ip.octets());
            let port = u16::from_be_bytes([packet[22], packet[23]]);
            match target {
                Target::Kernel => {
                    assert_eq!((packet[9], packet[20]), (1, 3));
                    errors += 1;
                }
                Target::Nodes if port == plan.peer_port => {
                    PeerSealed::decode(&packet[PAYLOAD..]).unwrap();
                    *kinds.entry(None).or_default() += 1;
                }
                Target::Nodes | Target::Devices => {
                    let kind = decode(&packet[PAYLOAD..]).unwrap().message.kind();
                    let at_device = ip == plan.devices_at;
                    assert_eq!(target == Target::Devices, at_device);
                    *kinds.entry(Some(kind)).or_default() += 1;
                }
            }
        }
        // Five to devices, four to nodes, and one between nodes; none is rare.
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        assert!(kinds.contains_key(&Some(Kind::Notice)) && kinds.contains_key(&None));
        assert!(kinds.values().all(|&n| n > 400) && errors > 1500, "{kinds:?}, {errors}");
    }
}
