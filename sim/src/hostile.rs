//! An attacker off the path: sees some datagrams of others, can forge any source, receives nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use diskstream_wire::limits::{DEVICE_IO_PORT, DEVICE_NOTICE_PORT};
use diskstream_wire::{
    CloseReason, Flags, FragmentSize, HEADER_BYTES, IoServiceStart, KeepAlive, LoginKind,
    LoginPortRequest, LoginStart, Nanos, Notice, NoticeReason, Read, ReadData, SessionClose,
    UnknownSession,
};

use crate::hosts::{LOGIN_PORT, PEER_PORT, device_ip, device_mac, node_ip};
use crate::network::Datagram;
use crate::options::Options;
use crate::random::Random;
use crate::world::BEGIN;

/// Request ids of forged reads start with this, so that a judge knows an answer to one.
pub const FORGED_MARK: u64 = 0xF0F0_F0F0_0000_0000;
/// Datagrams kept for replay.
const CAPTURED_MAX: usize = 64;

/// What peers said is old after this time. Derived: no challenge of theirs is open for longer.
const RECORDED: Nanos = Nanos::from_secs(5);

/// The attacker.
pub struct Hostile {
    nodes: usize,
    shards: usize,
    devices: usize,
    captured: Vec<(Nanos, Datagram)>,
    every: Nanos,
    next: Nanos,
    random: Random,
}

/// An address that is nobody's: what it gets, it never asked for.
fn victim(random: &mut Random) -> SocketAddr {
    let last = u8::try_from(random.between(1, 8)).expect("small");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, last)), 4000)
}

/// True for addresses that only the attacker uses.
#[must_use]
pub fn is_victim(addr: SocketAddr) -> bool {
    matches!(addr.ip(), IpAddr::V4(v4) if v4.octets()[..3] == [10, 9, 9])
}

impl Hostile {
    /// The attacker of a world.
    #[must_use]
    pub fn new(options: &Options, random: Random) -> Hostile {
        let per_second = options.forgeries_per_second;
        let every = 1_000_000_000u64.checked_div(per_second).map_or(Nanos::NEVER, Nanos);
        Hostile {
            nodes: options.nodes,
            shards: options.shards,
            devices: options.devices,
            captured: Vec::new(),
            every,
            next: if every == Nanos::NEVER { every } else { BEGIN + every },
            random,
        }
    }

    /// When it strikes next.
    #[must_use]
    pub fn next_event(&self) -> Nanos {
        self.next
    }

    /// Sees a datagram of somebody else. Tags inside are blotted out: it is off the path of sessions, but may have
    /// login datagrams from an earlier time.
    pub fn overhear(&mut self, now: Nanos, datagram: &Datagram, of_node: bool) {
        let login = !of_node && datagram.bytes.get(3).is_some_and(|&kind| kind < 0x0b);
        let peers = datagram.to.port() == PEER_PORT;
        if (login || peers) && self.captured.len() < CAPTURED_MAX && self.random.chance_ppm(200_000)
        {
            self.captured.push((now, datagram.clone()));
        }
    }

    /// Ends the attack.
    pub fn stop(&mut self) {
        self.next = Nanos::NEVER;
    }

    /// Strikes.
    pub fn advance(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        if self.next > now {
            return;
        }
        self.next = now + self.every;
        let datagram = match self.random.below(6) {
            0 => self.replay(now),
            1 => self.login(),
            2 => self.lie(),
            3 => self.noise(),
            _ => self.session_message(),
        };
        sent.push(datagram);
    }

    fn io_port(&mut self) -> u16 {
        LOGIN_PORT + 1 + u16::try_from(self.random.index(self.shards)).expect("few shards")
    }

    fn node(&mut self, port: u16) -> SocketAddr {
        SocketAddr::new(node_ip(self.random.index(self.nodes)), port)
    }

    /// What somebody else sent, again, from an address of a victim.
    fn replay(&mut self, now: Nanos) -> Datagram {
        if self.captured.is_empty() {
            return self.noise();
        }
        let (at, mut datagram) = self.random.pick(&self.captured).clone();
        // Who can race a datagram that is still awaited is on the path.
        if datagram.to.port() == PEER_PORT && now.since(at) < RECORDED {
            return self.noise();
        }
        // What peers said comes again from where it came, or from a stranger; logins from a stranger.
        if datagram.to.port() == PEER_PORT && self.random.below(2) == 0 {
            return datagram;
        }
        if datagram.to.port() >= PEER_PORT {
            datagram.from = victim(&mut self.random);
        }
        datagram
    }

    fn login(&mut self) -> Datagram {
        let mut bytes = vec![0u8; 256];
        let mac = device_mac(self.random.index(self.devices));
        let tag = self.random.bits();
        let port = if self.random.below(2) == 0 { LOGIN_PORT } else { self.io_port() };
        let length = match self.random.below(3) {
            0 => LoginPortRequest {
                tag,
                mac,
                login_kind: LoginKind::Boot,
                version_min: 1,
                version_max: 1,
                ..Default::default()
            }
            .encode(&mut bytes),
            1 => LoginStart {
                tag,
                mac,
                login_kind: LoginKind::Boot,
                version: 1,
                ..Default::default()
            }
            .encode(&mut bytes),
            _ => IoServiceStart {
                tag,
                mac,
                login_kind: LoginKind::Reconnect,
                version: 1,
                ticket_bytes: 40,
                ..Default::default()
            }
            .encode_with_tail(&[7; 40], &mut bytes),
        };
        bytes.truncate(length);
        Datagram { from: victim(&mut self.random), to: self.node(port), bytes }
    }

    /// A message of a session that it guesses at, from a device's own address or a victim's.
    fn session_message(&mut self) -> Datagram {
        let mut bytes = vec![0u8; 256];
        let tag = self.random.bits();
        let session = u32::try_from(self.random.below(10)).expect("small");
        let length = match self.random.below(3) {
            0 => Read {
                tag,
                session,
                fragment_size: FragmentSize::B1376,
                request_id: FORGED_MARK | self.random.below(1 << 32),
                generation: self.random.bits(),
                length: 4096,
                wanted: 7,
                ..Default::default()
            }
            .encode(&mut bytes),
            1 => SessionClose { tag, session, reason: CloseReason::Detached, ..Default::default() }
                .encode(&mut bytes),
            _ => KeepAlive { tag, session, sequence: 1, ..Default::default() }.encode(&mut bytes),
        };
        bytes.truncate(length);
        let device = SocketAddr::new(device_ip(self.random.index(self.devices)), DEVICE_IO_PORT);
        let from = if self.random.below(2) == 0 { device } else { victim(&mut self.random) };
        let port = self.io_port();
        Datagram { from, to: self.node(port), bytes }
    }

    /// Lies to a device in a node's name.
    fn lie(&mut self) -> Datagram {
        let mut bytes = vec![0u8; 256];
        let tag = self.random.bits();
        let length = match self.random.below(3) {
            0 => Notice {
                tag,
                sequence: 1,
                deadline_ms: 100,
                reason: NoticeReason::Stopping,
                ..Default::default()
            }
            .encode(&mut bytes),
            1 => UnknownSession { tag, session: 0, ..Default::default() }.encode(&mut bytes),
            _ => ReadData {
                tag,
                flags: Flags::DRAINING,
                request_id: self.random.bits(),
                data_bytes: 64,
                ..Default::default()
            }
            .encode_with_tail(&[9; 64], &mut bytes),
        };
        bytes.truncate(length);
        let port = if self.random.below(2) == 0 { DEVICE_IO_PORT } else { DEVICE_NOTICE_PORT };
        let to = SocketAddr::new(device_ip(self.random.index(self.devices)), port);
        let from = self.io_port();
        Datagram { from: self.node(from), to, bytes }
    }

    /// Random bytes behind, half of the time, a header that looks right.
    fn noise(&mut self) -> Datagram {
        let length = self.random.index(200) + 1;
        let mut bytes: Vec<u8> = (0..length).map(|_| self.random.bits().to_le_bytes()[0]).collect();
        if length > HEADER_BYTES && self.random.below(2) == 0 {
            bytes[..3].copy_from_slice(&[0x44, 0x53, 1]);
            bytes[3] &= 0x6f;
            bytes[6..8].copy_from_slice(&u16::try_from(length).expect("small").to_be_bytes());
        }
        let io = self.io_port();
        let port = *self.random.pick(&[LOGIN_PORT, PEER_PORT, io]);
        Datagram { from: victim(&mut self.random), to: self.node(port), bytes }
    }
}
