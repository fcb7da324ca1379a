//! The sockets of a device: for logins, for vDisk data, and for notices.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use diskstream_ring::{Ring, SocketConfig, SocketId, UdpSocket};

use super::DriverError;
use crate::session::Channel;

/// Receive buffer asked for. Derived: 1,820 full datagrams in flight.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Send buffer asked for: requests are small. Guess.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Which UDP ports a device uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// PVS's own, counted from this base: login at it (6901), notices at base + 1 (6902), vDisk data at base + 4 (6905).
    From(u16),
    /// Free ones: one socket for login and data, one for notices. For many devices on one host.
    Free,
}

impl Ports {
    /// As `--port-base` says; none when the ports would pass 65,535.
    #[must_use]
    pub fn from_base(base: u16) -> Option<Ports> {
        match base {
            0 => Some(Ports::Free),
            base => base.checked_add(4).map(|_| Ports::From(base)),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports::From(base) => {
                write!(f, "UDP ports {base}, {} and {} (--port-base)", base + 1, base + 4)
            }
            Ports::Free => f.write_str("free UDP ports"),
        }
    }
}

/// The sockets of one address family, before a ring has them.
pub struct Bound {
    login: Option<UdpSocket>,
    io: UdpSocket,
    notice: Option<UdpSocket>,
}

impl Bound {
    /// Binds the sockets of one family.
    pub fn new(v6: bool, ports: Ports, notice: Option<u16>) -> Result<Bound, DriverError> {
        let any =
            if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let bind = |port: u16| {
            let mut config = SocketConfig::new(SocketAddr::new(any, port));
            config.recv_buffer_bytes = RECEIVE_BUFFER_BYTES;
            config.send_buffer_bytes = SEND_BUFFER_BYTES;
            config.gro = true;
            config.dont_fragment = true;
            UdpSocket::bind(&config).map_err(|source| DriverError::Socket { ports, source })
        };
        let (login, io) = match ports {
            Ports::From(base) => (Some(bind(base)?), bind(base + 4)?),
            Ports::Free => (None, bind(0)?),
        };
        let notice = notice.map(bind).transpose()?;
        Ok(Bound { login, io, notice })
    }

    /// Granted bytes of the data socket's receive buffer.
    pub fn receive_buffer_bytes(&self) -> u32 {
        u32::try_from(self.io.recv_buffer_bytes()).unwrap_or(u32::MAX)
    }

    /// The port of the notice socket.
    pub fn notice_port(&self) -> Option<u16> {
        self.notice.as_ref().map(|socket| socket.local_addr().port())
    }

    /// Gives the sockets to a ring.
    pub fn attach(self, ring: &mut Ring) -> Result<Sockets, DriverError> {
        let io = ring.add_socket(self.io)?;
        let login = self.login.map(|socket| ring.add_socket(socket)).transpose()?;
        let notice = self.notice.map(|socket| ring.add_socket(socket)).transpose()?;
        Ok(Sockets { login: login.unwrap_or(io), io, notice })
    }
}

/// The sockets of one address family, by channel.
#[derive(Clone, Copy, Debug)]
pub struct Sockets {
    login: SocketId,
    io: SocketId,
    notice: Option<SocketId>,
}

impl Sockets {
    /// The socket of a channel; none for notices where another member has that socket.
    pub fn of(&self, channel: Channel) -> Option<SocketId> {
        match channel {
            Channel::Login => Some(self.login),
            Channel::Io => Some(self.io),
            Channel::Notice => self.notice,
        }
    }

    /// All of them, each once, with its channel.
    pub fn all(&self) -> impl Iterator<Item = (SocketId, Channel)> {
        let login = (self.login != self.io).then_some((self.login, Channel::Login));
        let notice = self.notice.map(|socket| (socket, Channel::Notice));
        [Some((self.io, Channel::Io)), login, notice].into_iter().flatten()
    }
}
