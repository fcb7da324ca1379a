//! Writes UDP datagrams as a capture file: classic pcap (draft-ietf-opsawg-pcap), link type 101, bare IP packets.

use std::net::{IpAddr, SocketAddr};

/// A capture under construction. Frames follow each other by a millisecond.
pub struct Capture {
    bytes: Vec<u8>,
    frames: u32,
}

const LINKTYPE_RAW: u32 = 101;
const UDP: u8 = 17;

impl Capture {
    /// An empty capture.
    pub fn new() -> Capture {
        let mut bytes = Vec::new();
        bytes.extend(0xa1b2_c3d4_u32.to_le_bytes()); // magic: microseconds, little endian
        bytes.extend(2u16.to_le_bytes()); // version 2.4
        bytes.extend(4u16.to_le_bytes());
        bytes.extend([0; 8]); // time zone and accuracy: always 0
        bytes.extend(65_535u32.to_le_bytes()); // longest packet
        bytes.extend(LINKTYPE_RAW.to_le_bytes());
        Capture { bytes, frames: 0 }
    }

    /// Adds a datagram of which only the first `kept` bytes of payload were captured; gives the frame's number.
    pub fn push_cut(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        kept: usize,
    ) -> u32 {
        let packet = ip_packet(from, to, payload);
        let captured = packet.len() - payload.len() + kept.min(payload.len());
        let count = |n: usize| u32::try_from(n).expect("a packet is short").to_le_bytes();
        self.bytes.extend(1_760_000_000u32.to_le_bytes());
        self.bytes.extend((self.frames * 1000).to_le_bytes());
        self.bytes.extend(count(captured));
        self.bytes.extend(count(packet.len()));
        self.bytes.extend(&packet[..captured]);
        self.frames += 1;
        self.frames
    }

    /// Adds a datagram; gives the frame's number, counted from 1.
    pub fn push(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> u32 {
        self.push_cut(from, to, payload, payload.len())
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn ip_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram fits");
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let (addresses, header) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let total = (20 + length).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, UDP, 0, 0];
            header.extend(&addresses);
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            (addresses, header)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([UDP, 64]);
            header.extend(&addresses);
            (addresses, header)
        }
        _ => panic!("both ends have one family"),
    };
    // RFC 768: the sum covers addresses, protocol and length as well; 0 is sent as 0xffff.
    let pseudo = [&addresses[..], &[0, UDP], &length.to_be_bytes(), &udp].concat();
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [header, udp].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
