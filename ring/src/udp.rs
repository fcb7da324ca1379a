//! UDP sockets: made, tuned and bound here; all traffic goes through a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

mod interfaces;
pub(crate) mod sys;

pub use interfaces::interfaces;

/// The kernel counts a socket's bytes under way in 31 bits, and the last send may go beyond the buffer by 17 fragments of 2 MiB: half
/// a GiB away from the end.
const SEND_BUFFER_MAX: usize = 3 << 29;

/// How to make a socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// Address and port to bind; port 0 lets the kernel choose. An IPv6 socket takes IPv6 only: bind two for both.
    pub addr: SocketAddr,
    /// Receive buffer wanted, in bytes of datagrams with the kernel's bookkeeping (a 100-byte datagram costs ~800).
    pub recv_buffer_bytes: usize,
    /// Send buffer wanted, in bytes.
    pub send_buffer_bytes: usize,
    /// Let the kernel join datagrams of one sender to trains (`UDP_GRO`), where it can.
    pub gro: bool,
    /// Report the address that each datagram was sent to, for hosts with several.
    pub packet_info: bool,
    /// Share the port with other sockets of this user (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Never fragment, and ignore what the path is believed to take (`IP_PMTUDISC_PROBE`): the caller probes.
    pub dont_fragment: bool,
    /// Allow sending to broadcast addresses.
    pub broadcast: bool,
    /// How long a receive polls the card's queue, in microseconds (`SO_BUSY_POLL`, `SO_PREFER_BUSY_POLL`); 0: not.
    pub busy_poll_us: u32,
    /// Take datagrams of this peer only, and learn of refusals.
    pub connect: Option<SocketAddr>,
}

impl SocketConfig {
    /// A plain socket: system buffers, nothing switched on.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> SocketConfig {
        SocketConfig {
            addr,
            recv_buffer_bytes: 0,
            send_buffer_bytes: 0,
            gro: false,
            packet_info: false,
            reuse_port: false,
            dont_fragment: false,
            broadcast: false,
            busy_poll_us: 0,
            connect: None,
        }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address could not be bound.
    #[error("cannot bind UDP {addr}: {source}; {remedy}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The peer could not be connected to.
    #[error("cannot connect UDP {addr} to {peer}: {source}; is there a route (ip route get)?")]
    Connect {
        /// The local address.
        addr: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A socket could not be made or tuned.
    #[error("cannot {what} for UDP {addr}: {source}")]
    Option {
        /// The address it was for.
        addr: SocketAddr,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A bound socket. Nothing reads or writes it but the ring it is given to.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    connected: Option<SocketAddr>,
    recv_buffer_bytes: usize,
    send_buffer_bytes: usize,
    gro: bool,
}

impl UdpSocket {
    /// Makes, tunes, binds and, if asked, connects a socket.
    ///
    /// Buffers ask first beyond the system's limits (`SO_RCVBUFFORCE`, needs `CAP_NET_ADMIN`), then within them; what was
    /// granted can be read back. GRO that the kernel does not have is left off with a log line.
    ///
    /// # Errors
    /// See [`SocketError`]; each names the address and what to do.
    pub fn bind(config: &SocketConfig) -> Result<UdpSocket, SocketError> {
        let addr = config.addr;
        let fail = |what| move |source| SocketError::Option { addr, what, source };
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))
            .map_err(fail("make a socket"))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true).map_err(fail("set IPV6_V6ONLY"))?;
        }
        if config.reuse_port {
            socket.set_reuse_port(true).map_err(fail("set SO_REUSEPORT"))?;
        }
        if config.broadcast {
            socket.set_broadcast(true).map_err(fail("set SO_BROADCAST"))?;
        }
        let fd = socket.as_fd();
        if config.packet_info {
            sys::set_packet_info(fd, addr.is_ipv6()).map_err(fail("report destinations"))?;
        }
        if config.dont_fragment {
            sys::set_dont_fragment(fd, addr.is_ipv6()).map_err(fail("forbid fragmentation"))?;
        }
        sys::set_receive_buffer(fd, config.recv_buffer_bytes)
            .map_err(fail("size the receive buffer"))?;
        sys::set_send_buffer(fd, config.send_buffer_bytes).map_err(fail("size the send buffer"))?;
        if config.busy_poll_us > 0
            && let Err(error) = sys::set_busy_poll(fd, config.busy_poll_us)
        {
            tracing::warn!(%addr, "the socket does not busy-poll ({error}); remedy: CAP_NET_ADMIN");
        }
        let gro = config.gro && enable_gro(fd, addr);
        socket.bind(&addr.into()).map_err(|source| bind_error(addr, source))?;
        if let Some(peer) = config.connect {
            socket.connect(&peer.into()).map_err(|source| SocketError::Connect {
                addr,
                peer,
                source,
            })?;
        }
        let granted = "read back what was granted";
        let local = socket.local_addr().map_err(fail(granted))?;
        Ok(UdpSocket {
            local: local.as_socket().expect("a socket of an internet family has such an address"),
            connected: config.connect,
            recv_buffer_bytes: socket.recv_buffer_size().map_err(fail(granted))?,
            send_buffer_bytes: socket.send_buffer_size().map_err(fail(granted))?,
            gro,
            socket,
        })
    }

    /// The address it is bound to, with the port that the kernel chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer it is connected to.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.connected
    }

    /// The receive buffer in force. The kernel reports twice what was asked, as half is for its bookkeeping.
    #[must_use]
    pub fn recv_buffer_bytes(&self) -> usize {
        self.recv_buffer_bytes
    }

    /// The send buffer in force; see [`UdpSocket::recv_buffer_bytes`].
    #[must_use]
    pub fn send_buffer_bytes(&self) -> usize {
        self.send_buffer_bytes
    }

    /// Makes the send buffer larger than it was made by so many bytes, as the kernel counts them, or as large as it was again; gives
    /// how many of them were granted. What [`UdpSocket::send_buffer_bytes`] tells stays the same.
    pub(crate) fn widen_send_buffer(&self, more_bytes: usize) -> usize {
        let wanted =
            (self.send_buffer_bytes + more_bytes).min(SEND_BUFFER_MAX).max(self.send_buffer_bytes);
        // The kernel doubles it. Refused, what is read back tells.
        let _ = sys::set_send_buffer(self.socket.as_fd(), wanted / 2);
        self.send_buffer_in_force().saturating_sub(self.send_buffer_bytes)
    }

    pub(crate) fn send_buffer_in_force(&self) -> usize {
        self.socket.send_buffer_size().unwrap_or(self.send_buffer_bytes)
    }

    /// True when trains may be received.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// What tells by which queue of a card datagrams come in, how many wait and how many were lost, for as long as it lives, from any
    /// thread.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn queue_watch(&self) -> io::Result<QueueWatch> {
        self.socket.try_clone().map(QueueWatch)
    }

    pub(crate) fn disable_gro(&mut self) {
        // A kernel that switched it on can switch it off; if not, trains merely keep coming and are understood.
        if self.gro && sys::set_gro(self.socket.as_fd(), false).is_ok() {
            self.gro = false;
        }
    }
}

/// See [`UdpSocket::queue_watch`].
#[derive(Debug)]
pub struct QueueWatch(Socket);

impl QueueWatch {
    /// The kernel's number of the queue that the last datagram came in by (`SO_INCOMING_NAPI_ID`); 0 when it was none that can
    /// be polled, as of a loopback or a veth, or when nothing came yet.
    #[must_use]
    pub fn queue(&self) -> u32 {
        sys::incoming_queue(self.0.as_fd()).unwrap_or(0)
    }

    /// Bytes that wait to be received, with what the kernel keeps beside them, which is what counts against the buffer; 0 when the kernel
    /// does not say.
    #[must_use]
    pub fn waiting_bytes(&self) -> u32 {
        sys::receive_queue(self.0.as_fd()).map_or(0, |(waiting, _)| waiting)
    }

    /// Datagrams that the socket had no room for since it was made, modulo 2^32; 0 when the kernel does not say.
    #[must_use]
    pub fn drops(&self) -> u32 {
        sys::receive_queue(self.0.as_fd()).map_or(0, |(_, drops)| drops)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn enable_gro(fd: BorrowedFd<'_>, addr: SocketAddr) -> bool {
    match sys::set_gro(fd, true) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%addr, "no UDP_GRO ({error}): every datagram is received alone");
            false
        }
    }
}

fn bind_error(addr: SocketAddr, source: io::Error) -> SocketError {
    let remedy = match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another socket holds it (ss -ulpn shows which); stop that one, or choose another port"
        }
        Some(libc::EADDRNOTAVAIL) => "this host does not have the address (ip address shows which)",
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
        }
        _ => "see ip(7)",
    };
    SocketError::Bind { addr, source, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketConfig {
        SocketConfig::new("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn binds_and_reports() {
        let socket = UdpSocket::bind(&SocketConfig {
            recv_buffer_bytes: 4 << 20,
            send_buffer_bytes: 4 << 20,
            packet_info: true,
            dont_fragment: true,
            gro: true,
            ..any()
        })
        .unwrap();
        assert_ne!(socket.local_addr().port(), 0);
        assert!(socket.recv_buffer_bytes() > 100_000);
        assert!(socket.send_buffer_bytes() > 100_000);
    }

    #[test]
    fn errors_name_the_address_and_a_remedy() {
        let held = UdpSocket::bind(&any()).unwrap();
        let error = UdpSocket::bind(&SocketConfig::new(held.local_addr())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&held.local_addr().to_string()), "{text}");
        assert!(text.contains("choose another port"), "{text}");
        let error =
            UdpSocket::bind(&SocketConfig::new("192.0.2.1:0".parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains("does not have the address"), "{error}");
    }

    #[test]
    fn ports_can_be_shared() {
        let first = UdpSocket::bind(&SocketConfig { reuse_port: true, ..any() }).unwrap();
        let shared = SocketConfig { reuse_port: true, ..SocketConfig::new(first.local_addr()) };
        UdpSocket::bind(&shared).unwrap();
    }

    #[test]
    fn connects() {
        let peer = UdpSocket::bind(&any()).unwrap().local_addr();
        let socket = UdpSocket::bind(&SocketConfig { connect: Some(peer), ..any() }).unwrap();
        assert_eq!(socket.peer_addr(), Some(peer));
        let v6 = Some("[::1]:9".parse().unwrap());
        let error = UdpSocket::bind(&SocketConfig { connect: v6, ..any() }).unwrap_err();
        assert!(matches!(error, SocketError::Connect { .. }));
    }
}
