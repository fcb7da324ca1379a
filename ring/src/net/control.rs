//! Control messages: which local address, which segment size.
//!
//! ```text
//! cmsghdr  len:usize (header and data)  level:i32  type:i32  data, padded to 8
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::send::LocalAddr;

/// Bytes for everything that a receive may report. Sum: segment size 24 + IPv6 packet info 40.
pub(crate) const RECEIVE_BYTES: usize = space(4) + space(20);
/// Bytes for everything that a send may carry. Sum: segment size 24 + IPv6 packet info 40.
pub(crate) const SEND_BYTES: usize = space(2) + space(20);

const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const _: () = assert!(HEADER_BYTES == 16 && size_of::<usize>() == 8);

const fn space(data: usize) -> usize {
    16 + data.next_multiple_of(8)
}

/// What the control messages of a received datagram said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// The address it was sent to, as one to answer from.
    pub(crate) local: Option<LocalAddr>,
    /// The interface it came in by; 0 when not reported.
    pub(crate) interface: u32,
    /// Segment size of a train; 0 for a single datagram.
    pub(crate) segment_bytes: u16,
}

/// Reads what the kernel wrote; unknown messages are skipped.
pub(crate) fn parse(mut control: &[u8]) -> Reported {
    let mut reported = Reported::default();
    while let Some((level, kind, data, rest)) = next(control) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let bytes = first(data).map_or(0, i32::from_ne_bytes);
                reported.segment_bytes = u16::try_from(bytes).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => packet_info_v4(data, &mut reported),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => packet_info_v6(data, &mut reported),
            _ => {}
        }
        control = rest;
    }
    reported
}

type Message<'a> = (i32, i32, &'a [u8], &'a [u8]);

fn next(control: &[u8]) -> Option<Message<'_>> {
    let len = usize::from_ne_bytes(first(control)?);
    let level = i32::from_ne_bytes(first(control.get(8..)?)?);
    let kind = i32::from_ne_bytes(first(control.get(12..)?)?);
    let data = control.get(HEADER_BYTES..len)?;
    let rest = control.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    Some((level, kind, data, rest))
}

fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

/// `in_pktinfo`: interface:i32, local address to answer from:4, destination in the header:4.
fn packet_info_v4(data: &[u8], reported: &mut Reported) {
    let (Some(interface), Some(ip)) = (first(data), data.get(4..).and_then(first::<4>)) else {
        return;
    };
    reported.interface = u32::from_ne_bytes(interface);
    reported.local = Some(LocalAddr::new(IpAddr::V4(Ipv4Addr::from(ip))));
}

/// `in6_pktinfo`: destination:16, interface:u32.
fn packet_info_v6(data: &[u8], reported: &mut Reported) {
    let (Some(ip), Some(interface)) = (first::<16>(data), data.get(16..).and_then(first)) else {
        return;
    };
    let ip = Ipv6Addr::from(ip);
    reported.interface = u32::from_ne_bytes(interface);
    let scoped = ip.is_unicast_link_local();
    // A multicast destination is no address to answer from.
    reported.local = (!ip.is_multicast()).then_some(LocalAddr {
        ip: IpAddr::V6(ip),
        interface: if scoped { reported.interface } else { 0 },
    });
}

/// Control messages to send, aligned for the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; SEND_BYTES],
    len: usize,
}

impl Control {
    pub(crate) const EMPTY: Control = Control { bytes: [0; SEND_BYTES], len: 0 };

    /// The local address if any, and the segment size unless 0.
    pub(crate) fn build(&mut self, local: Option<LocalAddr>, segment_bytes: u16) {
        self.len = 0;
        match local {
            Some(LocalAddr { ip: IpAddr::V4(ip), interface }) => {
                let mut data = [0; 12];
                data[..4].copy_from_slice(&interface.to_ne_bytes());
                data[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            Some(LocalAddr { ip: IpAddr::V6(ip), interface }) => {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&ip.octets());
                data[16..].copy_from_slice(&interface.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            None => {}
        }
        if segment_bytes > 0 {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = &mut self.bytes[self.len..self.len + space(data.len())];
        at.fill(0);
        at[..8].copy_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
        at[8..12].copy_from_slice(&level.to_ne_bytes());
        at[12..16].copy_from_slice(&kind.to_ne_bytes());
        at[HEADER_BYTES..HEADER_BYTES + data.len()].copy_from_slice(data);
        self.len += space(data.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_parsed() {
        let v4 = LocalAddr::new("192.0.2.1".parse().unwrap());
        let v6 = LocalAddr::new("2001:db8::1".parse().unwrap());
        let scoped = LocalAddr { ip: "fe80::1".parse().unwrap(), interface: 4 };
        for local in [None, Some(v4), Some(v6), Some(scoped)] {
            let mut control = Control::EMPTY;
            control.build(local, 1452);
            assert_eq!(parse(control.bytes()).local, local);
            control.build(local, 0);
            assert_eq!(control.bytes().is_empty(), local.is_none());
        }
    }

    #[test]
    fn golden_segment_message() {
        let mut control = Control::EMPTY;
        control.build(None, 0x05AC);
        let mut golden = Vec::new();
        golden.extend(18_usize.to_ne_bytes());
        golden.extend(17_i32.to_ne_bytes());
        golden.extend(103_i32.to_ne_bytes());
        golden.extend(0x05AC_u16.to_ne_bytes());
        golden.extend([0; 6]);
        assert_eq!(control.bytes(), golden);
    }

    #[test]
    fn nothing_malformed_hurts() {
        let mut control = Control::EMPTY;
        control.build(Some(LocalAddr::new("2001:db8::1".parse().unwrap())), 9);
        let whole = control.bytes().to_vec();
        for len in 0..whole.len() {
            let _ = parse(&whole[..len]);
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 15, 127, 255] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let _ = parse(&bytes);
            }
        }
    }
}
