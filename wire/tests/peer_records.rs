//! The records between nodes: golden bytes, round trips, every truncation.

use std::net::SocketAddr;

use diskstream_wire::limits::CONTROL_BYTES_MAX;
use diskstream_wire::*;

fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an address and a port").into()
}

/// The bytes at a place.
fn at<const N: usize>(bytes: &[u8], place: usize) -> [u8; N] {
    bytes[place..place + N].try_into().expect("long enough")
}

#[test]
fn a_hello_lies_where_the_page_says() {
    let mut bytes = [0xee; PeerHello::BYTES];
    PeerHello {
        challenge: 0x0102_0304_0506_0708,
        echo: 9,
        name: Text::new("alpha"),
        login: endpoint("10.0.0.1:6910"),
        seen: endpoint("[2001:db8::7]:6890"),
        rating: 250,
        verdict: PeerVerdict::NameTaken,
        ..PeerHello::default()
    }
    .encode(&mut bytes);
    assert_eq!(at(&bytes, 0), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(at(&bytes, 8), [0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(&at::<7>(&bytes, 16), b"alpha\0\0");
    // ::ffff:10.0.0.1, port 6910.
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, 0x1a, 0xfe];
    assert_eq!(at(&bytes, 48), mapped);
    let seen = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x1a, 0xea];
    assert_eq!(at(&bytes, 66), seen);
    assert_eq!(at(&bytes, 84), [0, 250, 1]);
    assert_eq!(at(&bytes, 87), [0; 33], "reserved bytes are zeros");
}

#[test]
fn a_report_and_its_head_lie_where_the_page_says() {
    let mut bytes = [0xee; PeerHead::BYTES + PeerReport::BYTES];
    let head = PeerHead {
        kind: PeerKind::Report,
        sender: 1,
        receiver: 2,
        sequence: 3,
        ..PeerHead::default()
    };
    head.encode(&mut bytes);
    let report = PeerReport {
        digest: [0xd1; 16],
        sessions: 4,
        standbys: 5,
        boot_slots_in_use: 6,
        boot_limit: 500,
        login: endpoint("10.0.0.1:6910"),
        rating: 100,
        versions: 20,
        drain: 1,
        ..PeerReport::default()
    };
    report.encode(&mut bytes[PeerHead::BYTES..]);
    assert_eq!(at(&bytes, 0), [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        at(&bytes, 8),
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    );
    assert_eq!(at(&bytes, 32), [0xd1; 16]);
    assert_eq!(at(&bytes, 48), [0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 1, 0xf4]);
    assert_eq!(at(&bytes, 32 + 50), [0, 100, 0, 20, 1]);
    let (again, rest) = PeerHead::decode(&bytes).expect("long enough");
    assert_eq!(again, head);
    assert_eq!(PeerReport::decode(rest), Some((report, &[][..])));
}

#[test]
fn every_truncation_is_refused_and_unknown_numbers_are_kept() {
    let bytes = [7; 200];
    for cut in 0..PeerHead::BYTES {
        assert_eq!(PeerHead::decode(&bytes[..cut]), None);
    }
    for cut in 0..PeerVersion::BYTES {
        assert_eq!(PeerVersion::decode(&bytes[..cut]), None);
    }
    for cut in 0..PeerInventoryRequest::BYTES {
        assert_eq!(PeerInventoryRequest::decode(&bytes[..cut]), None);
    }
    let (head, _) = PeerHead::decode(&[0x63; 32]).expect("long enough");
    assert_eq!(head.kind, PeerKind::Other(0x63));
}

#[test]
fn a_shard_does_not_know_the_kind_and_everything_fits_a_control_datagram() {
    let mut bytes = [0; PeerSealed::BYTES];
    PeerSealed::default().encode(&mut bytes);
    assert_eq!(decode(&bytes), Err(Refusal::UnknownKind));
    let around = PeerSealed::BYTES + PEER_SEAL_BYTES + PeerHead::BYTES;
    let largest = PeerInventory::BYTES + PEER_VERSIONS_PER_DATAGRAM * PeerVersion::BYTES;
    assert!(around + largest <= CONTROL_BYTES_MAX);
    assert!(around + PeerReport::BYTES + 4 * PEER_REPORT_SESSIONS_MAX <= CONTROL_BYTES_MAX);
}
