//! Socket addresses ↔ `sockaddr` bytes, without pointer casts.
//!
//! ```text
//! sockaddr_in   family:u16 (host order)  port:u16 (network)  address:4                             zero:8
//! sockaddr_in6  family:u16 (host order)  port:u16 (network)  flow:u32 (network)  address:16  scope:u32 (host)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of the longer of the two.
pub(crate) const NAME_BYTES: usize = 28;

const _: () = assert!(size_of::<libc::sockaddr_in6>() == NAME_BYTES);
const _: () = assert!(size_of::<libc::sockaddr_in>() == 16);

const INET: [u8; 2] = family(libc::AF_INET);
const INET6: [u8; 2] = family(libc::AF_INET6);

const fn family(number: i32) -> [u8; 2] {
    assert!(number > 0 && number < 256);
    let [b0, b1, b2, b3] = number.to_ne_bytes();
    if cfg!(target_endian = "little") { [b0, b1] } else { [b2, b3] }
}

/// A `sockaddr`, aligned for the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Name {
    bytes: [u8; NAME_BYTES],
    len: u32,
}

impl Name {
    pub(crate) const EMPTY: Name = Name { bytes: [0; NAME_BYTES], len: 0 };

    pub(crate) fn of(address: SocketAddr) -> Name {
        let mut name = Name::EMPTY;
        let bytes = &mut name.bytes;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&INET);
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                name.len = 16;
            }
            SocketAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&INET6);
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                name.len = 28;
            }
        }
        name
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The address in a `sockaddr`; `None` for another family or too few bytes.
pub(crate) fn parse(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    if *family == INET {
        let (ip, _) = rest.split_first_chunk::<4>()?;
        return Some(SocketAddrV4::new(Ipv4Addr::from(*ip), port).into());
    }
    if *family == INET6 {
        let (flow, rest) = rest.split_first_chunk::<4>()?;
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (scope, _) = rest.split_first_chunk::<4>()?;
        let (flow, scope) = (u32::from_be_bytes(*flow), u32::from_ne_bytes(*scope));
        return Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_system_layout() {
        for text in ["192.0.2.7:6910", "[2001:db8::5]:6911", "0.0.0.0:0", "[::]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let ours = Name::of(address);
            // socket2 is the independent judge of the layout.
            let theirs = socket2::SockAddr::from(address);
            assert_eq!(ours.bytes().len(), theirs.len() as usize);
            assert_eq!(parse(ours.bytes()), Some(address));
            assert_eq!(theirs.as_socket(), parse(ours.bytes()));
        }
        let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 5, 3));
        assert_eq!(parse(Name::of(scoped).bytes()), Some(scoped));
        assert_eq!(socket2::SockAddr::from(scoped).as_socket(), Some(scoped));
    }

    #[test]
    fn short_or_foreign_names_are_nothing() {
        let name = Name::of("[2001:db8::5]:6911".parse().unwrap());
        for len in 0..28 {
            assert_eq!(parse(&name.bytes()[..len]), None);
        }
        assert_eq!(parse(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
