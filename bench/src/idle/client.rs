//! One idle device as the node sees it: a login, then keep-alives. What a real device keeps beside that (reads, windows, timers) would be
//! a hundred thousand times what is measured here, on the wrong side.

use diskstream_wire::limits::TICKET_BYTES_MAX;
use diskstream_wire::{
    Capabilities, Decoded, Endpoint, FragmentSize, Handshake, ImageMode, IoPortRequest,
    IoServiceStart, KeepAlive, LoginKind, LoginPortRequest, LoginStart, LoginTransfer, Mac,
    Message, Nanos, PROTOCOL_VERSION, SessionRole, Text, node_entries, nodes_digest,
};

/// Longest datagram that a client sends.
pub const DATAGRAM_BYTES_MAX: usize = 1024;
const _: () = assert!(IoServiceStart::BYTES + TICKET_BYTES_MAX <= DATAGRAM_BYTES_MAX);

/// How far a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    #[default]
    Away,
    /// Logging in.
    LoggingIn,
    /// Idle, with a session.
    Open,
    /// The node ended its session.
    Lost,
}

/// A client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    /// How far it is.
    pub stage: Stage,
    /// When something is to be done; other entries of the queue of deadlines mean nothing.
    pub due: Nanos,
    /// The shard's port.
    pub io_port: u16,
    /// Number of the last keep-alive.
    pub sequence: u32,
    /// The last keep-alive was answered.
    pub answered: bool,
    session: u32,
    tag: u64,
}

/// To which port an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The node's login port.
    Login,
    /// The client's shard.
    Shard,
}

/// What follows from a datagram.
#[derive(Debug)]
pub enum Next {
    /// Send what was written: so many bytes.
    Send(To, usize),
    /// The login is over.
    Opened,
    /// A keep-alive was answered.
    Alive,
    /// The session is gone.
    Lost,
    /// The node says to come later.
    Busy,
    /// The node does not want the device; why.
    Refused(String),
    /// Nothing.
    Nothing,
}

/// What all clients have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// What the node's list of nodes sums up to, as the login told it: keep-alives that know it are answered without a list.
    pub digest: u32,
}

/// A locally administered address for each client.
fn mac_of(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([0x02, 0x1d, a, b, c, d])
}

fn nonce_of(number: u32) -> [u8; 16] {
    let mut nonce = [0x1d; 16];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// What a client is to its node: of each hundred so many stand by.
#[must_use]
pub fn role_of(number: u32, standby_percent: u32) -> SessionRole {
    // 37 has no divisor in common with 100: standbys are spread evenly over the numbers.
    if number.wrapping_mul(37) % 100 < standby_percent {
        SessionRole::Standby
    } else {
        SessionRole::Serving
    }
}

impl Client {
    /// The first datagram of a login.
    pub fn begin(&mut self, number: u32, out: &mut [u8]) -> Next {
        *self = Client { stage: Stage::LoggingIn, due: self.due, ..Client::default() };
        let request =
            IoPortRequest { tag: number.into(), mac: mac_of(number), ..Default::default() };
        Next::Send(To::Login, request.encode(out))
    }

    /// A keep-alive.
    pub fn keep_alive(&mut self, role: SessionRole, common: Common, out: &mut [u8]) -> Next {
        self.sequence += 1;
        self.answered = false;
        let message = KeepAlive {
            tag: self.tag,
            session: self.session,
            sequence: self.sequence,
            role,
            nodes_digest: common.digest,
            ..Default::default()
        };
        Next::Send(To::Shard, message.encode(out))
    }

    /// Takes an answer, and writes what follows it.
    pub fn take(
        &mut self,
        number: u32,
        role: SessionRole,
        common: &mut Common,
        decoded: &Decoded<'_>,
        out: &mut [u8],
    ) -> Next {
        let logging_in = self.stage == Stage::LoggingIn;
        match &decoded.message {
            Message::KeepAliveReply(m) if self.stage == Stage::Open => {
                if m.tag != self.tag || m.sequence != self.sequence || self.answered {
                    return Next::Nothing;
                }
                self.answered = true;
                Next::Alive
            }
            Message::UnknownSession(m) if m.tag == self.tag && self.stage == Stage::Open => {
                self.stage = Stage::Lost;
                Next::Lost
            }
            Message::LoginBusy(_) if logging_in => Next::Busy,
            Message::LoginReject(m) if logging_in => {
                Next::Refused(format!("{:?}: {}", m.reason, m.text.as_str()))
            }
            _ if logging_in => self.go_on(number, role, common, decoded, out),
            _ => Next::Nothing,
        }
    }

    /// The step that confirms it.
    fn handshake(&self) -> Handshake {
        let size = FragmentSize::B1376.datagram_bytes();
        Handshake {
            tag: self.tag,
            session: self.session,
            datagram_bytes: u16::try_from(size).expect("a datagram fits 16 bits"),
            notice_port: 6902,
            window: 16,
            receive_buffer_bytes: 1 << 20,
            capabilities: Capabilities::OURS,
            image_mode: ImageMode::Standard,
            device_name: Text::new("idle"),
            software: Text::new("diskstream-bench idle"),
            ..Default::default()
        }
    }

    /// The next step of the login.
    fn go_on(
        &mut self,
        number: u32,
        role: SessionRole,
        common: &mut Common,
        decoded: &Decoded<'_>,
        out: &mut [u8],
    ) -> Next {
        let (tag, mac) = (u64::from(number), mac_of(number));
        match &decoded.message {
            Message::IoPortReply(m) => {
                let Some(io) = m.io.socket_addr() else { return Next::Nothing };
                self.io_port = io.port();
                let (version_min, version_max) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
                let request =
                    LoginPortRequest { tag, mac, version_min, version_max, ..Default::default() };
                Next::Send(To::Login, request.encode(out))
            }
            Message::LoginPortReply(m) => {
                let start = LoginStart {
                    tag,
                    mac,
                    version: PROTOCOL_VERSION,
                    capabilities: Capabilities::OURS,
                    cookie: m.cookie,
                    device_nonce: nonce_of(number),
                    ..Default::default()
                };
                Next::Send(To::Login, start.encode_with_tail(&[], out))
            }
            Message::LoginTransfer(m) => {
                // The ticket follows the other nodes' entries.
                let mut others = Vec::new();
                let rest =
                    node_entries(decoded.tail, m.node_count, |entry| others.push(entry.login));
                let Some(ticket) = rest.get(..usize::from(m.ticket_bytes)) else {
                    return Next::Nothing;
                };
                common.digest = digest(m.node, &others);
                let start = service_start(number, role, m);
                Next::Send(To::Shard, start.encode_with_tail(ticket, out))
            }
            Message::LoginComplete(m) => {
                (self.session, self.tag) = (m.session, m.session_tag);
                let handshake = self.handshake();
                Next::Send(To::Shard, handshake.encode(out))
            }
            Message::HandshakeReply(m) if m.tag == self.tag => {
                if m.accepted != 1 {
                    return Next::Refused(format!("handshake refused: {:?}", m.reason));
                }
                self.stage = Stage::Open;
                self.answered = true;
                Next::Opened
            }
            _ => Next::Nothing,
        }
    }
}

/// The step that makes the session.
fn service_start(number: u32, role: SessionRole, m: &LoginTransfer) -> IoServiceStart {
    IoServiceStart {
        tag: number.into(),
        mac: mac_of(number),
        login_kind: if role == SessionRole::Standby { LoginKind::Standby } else { LoginKind::Boot },
        version: PROTOCOL_VERSION,
        capabilities: Capabilities::OURS,
        device_nonce: nonce_of(number),
        vdisk: m.vdisk,
        ticket_bytes: m.ticket_bytes,
        ..Default::default()
    }
}

/// As a device sums up its nodes: the one it is at, where the list does not say so already, and the list.
fn digest(node: Endpoint, others: &[Endpoint]) -> u32 {
    if others.is_empty() {
        nodes_digest(std::iter::once(node))
    } else {
        nodes_digest(others.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_as_many_as_was_asked_for_and_spread() {
        for percent in [0, 30, 50, 100] {
            let standby = |range: std::ops::Range<u32>| {
                range.filter(|&n| role_of(n, percent) == SessionRole::Standby).count()
            };
            assert_eq!(standby(0..1000), percent as usize * 10);
            assert_eq!(standby(500..600), percent as usize);
        }
    }
}
