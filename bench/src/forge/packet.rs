//! Whole IPv4 packets, sums included. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Room for the largest packet that is made: a control datagram and its headers.
pub const PACKET_BYTES_MAX: usize = 1500;
/// Bytes of an IPv4 header without options (RFC 791).
const IP: usize = 20;
/// Bytes of a UDP header (RFC 768), and of an ICMP one (RFC 792).
const UDP: usize = 8;
const ICMP: usize = 8;
/// Where the payload of a UDP packet begins.
pub const PAYLOAD: usize = IP + UDP;
/// Protocol numbers of the IP header.
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_UDP: u8 = 17;
/// ICMP "destination unreachable".
const UNREACHABLE: u8 = 3;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No such host.
    Host,
    /// Nobody listens there.
    Port,
    /// Larger packets than this do not pass.
    TooBig(u16),
}

/// Puts headers before the `length` bytes of payload that stand at [`PAYLOAD`]; gives the packet's length.
pub fn udp(packet: &mut [u8], length: usize, from: SocketAddrV4, to: SocketAddrV4) -> usize {
    let all = PAYLOAD + length;
    let packet = &mut packet[..all];
    udp_header(&mut packet[IP..], length, from, to);
    let mut sum = Sum::default();
    sum.add(&from.ip().octets());
    sum.add(&to.ip().octets());
    sum.add(&[0, PROTOCOL_UDP]);
    sum.add(&short(UDP + length));
    sum.add(&packet[IP..]);
    // Zero would mean that there is no sum.
    let sum = match sum.end() {
        0 => 0xffff,
        sum => sum,
    };
    packet[IP + 6..IP + 8].copy_from_slice(&sum.to_be_bytes());
    ip_header(packet, PROTOCOL_UDP, *from.ip(), *to.ip());
    all
}

/// An ICMP error from `from`, about a UDP packet that `to` is said to have sent to `peer`; gives its length.
pub fn icmp(
    packet: &mut [u8],
    what: Unreachable,
    from: Ipv4Addr,
    to: SocketAddrV4,
    peer: SocketAddrV4,
) -> usize {
    // Header of the error, then the header that it is about and eight bytes more (RFC 792).
    let all = IP + ICMP + IP + UDP;
    let packet = &mut packet[..all];
    let quoted = IP + ICMP;
    // A read is that long.
    udp_header(&mut packet[quoted + IP..], 80, to, peer);
    ip_header(&mut packet[quoted..], PROTOCOL_UDP, *to.ip(), *peer.ip());
    packet[quoted + 2..quoted + 4].copy_from_slice(&short(IP + UDP + 80));
    let (code, mtu) = match what {
        Unreachable::Host => (1, 0),
        Unreachable::Port => (3, 0),
        Unreachable::TooBig(mtu) => (4, mtu),
    };
    let [high, low] = u16::to_be_bytes(mtu);
    packet[IP..IP + ICMP].copy_from_slice(&[UNREACHABLE, code, 0, 0, 0, 0, high, low]);
    let mut sum = Sum::default();
    sum.add(&packet[IP..]);
    packet[IP + 2..IP + 4].copy_from_slice(&sum.end().to_be_bytes());
    ip_header(packet, PROTOCOL_ICMP, from, *to.ip());
    all
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a packet is shorter than 64 KiB").to_be_bytes()
}

fn udp_header(out: &mut [u8], length: usize, from: SocketAddrV4, to: SocketAddrV4) {
    out[..2].copy_from_slice(&from.port().to_be_bytes());
    out[2..4].copy_from_slice(&to.port().to_be_bytes());
    out[4..6].copy_from_slice(&short(UDP + length));
    out[6..8].fill(0);
}

/// The header of a packet that is as long as `packet`.
fn ip_header(packet: &mut [u8], protocol: u8, from: Ipv4Addr, to: Ipv4Addr) {
    let length = short(packet.len());
    let head = &mut packet[..IP];
    // Version 4, five words, no marks; DF, as nodes and devices set it; 64 hops.
    head.copy_from_slice(&[
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    head[12..16].copy_from_slice(&from.octets());
    head[16..20].copy_from_slice(&to.octets());
    let mut sum = Sum::default();
    sum.add(head);
    head[10..12].copy_from_slice(&sum.end().to_be_bytes());
}

/// The internet checksum (RFC 1071).
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    /// Adds words; a last odd byte is filled up, so only the last part may be odd.
    fn add(&mut self, bytes: &[u8]) {
        let (pairs, odd) = bytes.as_chunks::<2>();
        self.0 += pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum::<u64>();
        self.0 += odd.first().map_or(0, |&byte| u64::from(byte) << 8);
    }

    fn end(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn sum(parts: &[&[u8]]) -> u16 {
        let mut sum = Sum::default();
        parts.iter().for_each(|part| sum.add(part));
        sum.end()
    }

    #[test]
    fn sums_are_those_of_the_standard() {
        // The worked example of RFC 1071, section 3.
        assert_eq!(sum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(sum(&[&[0x12]]), !0x1200);
    }

    #[test]
    fn a_udp_packet_is_laid_out_and_sums_up() {
        let mut packet = [0xee; PACKET_BYTES_MAX];
        packet[PAYLOAD..PAYLOAD + 3].copy_from_slice(b"abc");
        let length = udp(&mut packet, 3, at("10.0.0.1:6911"), at("10.0.0.2:1234"));
        assert_eq!(length, 31);
        let packet = &packet[..length];
        assert_eq!(packet[..4], [0x45, 0, 0, 31]);
        assert_eq!((packet[9], &packet[12..20]), (17, &[10, 0, 0, 1, 10, 0, 0, 2][..]));
        assert_eq!(packet[20..26], [0x1a, 0xff, 0x04, 0xd2, 0, 11]);
        assert_eq!(&packet[28..], b"abc");
        // A receiver adds everything up, the sums included, and must get zero.
        assert_eq!(sum(&[&packet[..20]]), 0);
        assert_eq!(sum(&[&packet[12..20], &[0, 17, 0, 11], &packet[20..]]), 0);
    }

    #[test]
    fn an_icmp_error_quotes_the_flow_that_it_is_about() {
        let mut packet = [0xee; PACKET_BYTES_MAX];
        let (device, node) = (at("10.0.0.9:40000"), at("10.0.0.1:6911"));
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let length = icmp(&mut packet, Unreachable::Port, from, device, node);
        let packet = &packet[..length];
        assert_eq!((length, packet[9], &packet[20..22]), (56, 1, &[3, 3][..]));
        assert_eq!((&packet[12..16], &packet[16..20]), (&[10, 0, 0, 1][..], &[10, 0, 0, 9][..]));
        // What is quoted went the other way.
        assert_eq!((&packet[40..44], &packet[44..48]), (&[10, 0, 0, 9][..], &[10, 0, 0, 1][..]));
        assert_eq!(packet[48..52], [0x9c, 0x40, 0x1a, 0xff]);
        assert_eq!((sum(&[&packet[..20]]), sum(&[&packet[20..]])), (0, 0));
        let mut big = [0; PACKET_BYTES_MAX];
        icmp(&mut big, Unreachable::TooBig(576), from, device, node);
        assert_eq!(big[20..28], [3, 4, big[22], big[23], 0, 0, 0x02, 0x40]);
    }
}
