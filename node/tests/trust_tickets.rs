//! Tickets and cookies as a node of the farm meets them: its own, another's, old, damaged, and made of random bytes.

use diskstream_node::trust::{
    FarmKey, Keys, TICKET_SECONDS, TICKET_SKEW_SECONDS, Ticket, TicketError, TicketExpectation,
};
use diskstream_wire::limits::{NODES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::{ContentId, Endpoint, Mac, NodeEntry, RejectReason, Text, TicketBody};
use proptest::prelude::*;

const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const NOW: u64 = 1_800_000_000;

fn keys() -> Keys {
    Keys::derive(&FarmKey::new([7; 32]))
}

fn body() -> TicketBody {
    TicketBody {
        flags: 1,
        mac: MAC,
        device_key_hash: [3; 32],
        farm_epoch: 5,
        content_id: ContentId([9; 32]),
        vdisk: Text::new("debian"),
        device_name: Text::new("ws-17"),
        serial: 42,
        ..TicketBody::default()
    }
}

fn nodes(count: u8) -> Vec<NodeEntry> {
    (0..count)
        .map(|n| NodeEntry {
            login: Endpoint::from(std::net::SocketAddr::from(([10, 0, 0, n], 6910))),
            rating: 100 + u16::from(n),
            ..NodeEntry::default()
        })
        .collect()
}

fn seal(nodes: &[NodeEntry]) -> Vec<u8> {
    let mut out = [0; TICKET_BYTES_MAX];
    keys().seal_ticket(&body(), nodes, NOW, [1; 24], &mut out).to_vec()
}

fn expected() -> TicketExpectation {
    TicketExpectation { mac: MAC, farm_epoch: 5, unix_seconds: NOW }
}

fn open(sealed: &[u8]) -> Result<Ticket, TicketError> {
    keys().open_ticket(sealed, &expected())
}

#[test]
fn round_trip_with_any_number_of_nodes() {
    for count in 0..=u8::try_from(NODES_MAX).unwrap() {
        let nodes = nodes(count);
        let sealed = seal(&nodes);
        assert_eq!(sealed.len(), 24 + TicketBody::BYTES + nodes.len() * NodeEntry::BYTES + 16);
        let ticket = open(&sealed).unwrap();
        assert_eq!(ticket.nodes(), nodes);
        let expires = NOW + TICKET_SECONDS;
        let filled = TicketBody { version: 1, issued: NOW, expires, node_count: count, ..body() };
        assert_eq!(ticket.body, filled);
    }
}

#[test]
fn more_nodes_than_fit_are_cut() {
    assert_eq!(open(&seal(&nodes(40))).unwrap().nodes(), &nodes(40)[..NODES_MAX]);
}

#[test]
fn seals_differ_with_the_nonce_only_known_to_the_farm() {
    let mut out = [0; TICKET_BYTES_MAX];
    let other = keys().seal_ticket(&body(), &[], NOW, [2; 24], &mut out).to_vec();
    assert_ne!(other[24..], seal(&[])[24..]);
    assert!(open(&other).is_ok());
    let foreign = Keys::derive(&FarmKey::new([8; 32]));
    assert_eq!(foreign.open_ticket(&other, &expected()).unwrap_err(), TicketError::Seal);
}

#[test]
fn days_and_skew() {
    let sealed = seal(&nodes(2));
    let at = |unix_seconds| {
        keys().open_ticket(&sealed, &TicketExpectation { unix_seconds, ..expected() }).map(drop)
    };
    assert_eq!(at(NOW - TICKET_SKEW_SECONDS), Ok(()));
    assert_eq!(at(NOW - TICKET_SKEW_SECONDS - 1), Err(TicketError::NotYet));
    assert_eq!(at(NOW + TICKET_SECONDS + TICKET_SKEW_SECONDS), Ok(()));
    assert_eq!(at(NOW + TICKET_SECONDS + TICKET_SKEW_SECONDS + 1), Err(TicketError::Expired));
    assert_eq!(at(u64::MAX), Err(TicketError::Expired));
    assert_eq!(at(0), Err(TicketError::NotYet));
}

#[test]
fn another_device_and_another_epoch() {
    let sealed = seal(&[]);
    let with = |change: fn(&mut TicketExpectation)| {
        let mut expectation = expected();
        change(&mut expectation);
        keys().open_ticket(&sealed, &expectation).unwrap_err()
    };
    assert_eq!(with(|e| e.mac = Mac([1; 6])), TicketError::Device);
    assert_eq!(with(|e| e.farm_epoch = 6), TicketError::Epoch);
    assert_eq!(with(|e| e.farm_epoch = 4), TicketError::Epoch);
}

#[test]
fn every_truncation_and_every_bit() {
    let sealed = seal(&nodes(3));
    for length in 0..sealed.len() {
        let error = open(&sealed[..length]).unwrap_err();
        assert!(matches!(error, TicketError::Length | TicketError::Seal), "{length}: {error}");
    }
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&damaged).unwrap_err(), TicketError::Seal, "bit {bit}");
    }
    let mut long = sealed;
    long.push(0);
    assert_eq!(open(&long).unwrap_err(), TicketError::Seal);
    assert_eq!(open(&[0; TICKET_BYTES_MAX + 1]).unwrap_err(), TicketError::Length);
}

#[test]
fn reasons_have_labels_and_a_way_on() {
    let labels: std::collections::BTreeSet<_> =
        TicketError::ALL.iter().map(|error| error.label()).collect();
    assert_eq!(labels.len(), TicketError::ALL.len());
    // A ticket under another key means full login, not failure.
    assert_eq!(TicketError::Seal.reject_reason(), RejectReason::TicketExpired);
    assert_eq!(TicketError::Device.reject_reason(), RejectReason::BadProof);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..700), now: u64, epoch: u64, mac: [u8; 6]) {
        let expectation = TicketExpectation { mac: Mac(mac), farm_epoch: epoch, unix_seconds: now };
        prop_assert!(keys().open_ticket(&bytes, &expectation).is_err());
    }

    #[test]
    fn any_time_gives_a_verdict(issued: u64, now: u64) {
        let mut out = [0; TICKET_BYTES_MAX];
        let sealed = keys().seal_ticket(&body(), &[], issued, [1; 24], &mut out);
        let expectation = TicketExpectation { unix_seconds: now, ..expected() };
        let verdict = keys().open_ticket(sealed, &expectation).map(drop);
        let early = issued > now.saturating_add(TICKET_SKEW_SECONDS);
        let late = now > issued.saturating_add(TICKET_SECONDS).saturating_add(TICKET_SKEW_SECONDS);
        let expected = match (early, late) {
            (true, _) => Err(TicketError::NotYet),
            (_, true) => Err(TicketError::Expired),
            _ => Ok(()),
        };
        prop_assert_eq!(verdict, expected);
    }
}
