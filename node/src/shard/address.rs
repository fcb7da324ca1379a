//! A session's two addresses, in two thirds of the bytes that the standard types take.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use diskstream_ring::LocalAddr;

/// Where a device is, and which of the node's addresses it asked.
///
/// IPv4 addresses are kept mapped into IPv6: peers are canonical, so no mapped one comes from outside. A peer's flow label is not
/// kept; the kernel gives none with a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    peer: [u8; 16],
    /// Unspecified when the socket is bound to one address and does not ask.
    local: [u8; 16],
    /// Scope of a link-local peer.
    scope: u32,
    /// Interface that an answer must leave through.
    interface: u32,
    port: u16,
}

const UNSPECIFIED: [u8; 16] = [0; 16];

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

impl Ends {
    pub(super) fn new(peer: SocketAddr, local: Option<LocalAddr>) -> Ends {
        Ends {
            peer: octets(peer.ip()),
            local: local.map_or(UNSPECIFIED, |local| octets(local.ip)),
            scope: scope(peer),
            interface: local.map_or(0, |local| local.interface),
            port: peer.port(),
        }
    }

    /// Whether a datagram comes from the device's address.
    #[inline]
    pub(super) fn is_from(&self, from: SocketAddr) -> bool {
        self.port == from.port() && self.peer == octets(from.ip()) && self.scope == scope(from)
    }

    /// The device's address.
    #[inline]
    pub(super) fn peer(&self) -> SocketAddr {
        match Ipv6Addr::from(self.peer).to_canonical() {
            IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), self.port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }

    /// Where to answer from.
    #[inline]
    pub(super) fn local(&self) -> Option<LocalAddr> {
        let ip = Ipv6Addr::from(self.local).to_canonical();
        let interface = self.interface;
        (self.local != UNSPECIFIED).then_some(LocalAddr { ip, interface })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went_in() {
        let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3));
        let plain = ["192.0.2.7:6910", "[2001:db8::5]:6911", "0.0.0.0:0", "[::1]:65535"];
        let peers: Vec<SocketAddr> =
            plain.iter().map(|text| text.parse().unwrap()).chain([scoped]).collect();
        let link_local = LocalAddr { ip: "fe80::2".parse().unwrap(), interface: 7 };
        let locals = [None, Some(LocalAddr::new("10.0.0.1".parse().unwrap())), Some(link_local)];
        for &peer in &peers {
            for local in locals {
                let ends = Ends::new(peer, local);
                assert_eq!((ends.peer(), ends.local()), (peer, local));
                for &other in &peers {
                    assert_eq!(ends.is_from(other), other == peer, "{peer} {other}");
                }
            }
        }
        let elsewhere = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 4));
        assert!(!Ends::new(scoped, None).is_from(elsewhere), "another link's");
    }
}
