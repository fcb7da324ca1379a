//! Tails and sealed bodies: node entries, extents, tickets. The first byte is the count that the message claims.
#![no_main]

use diskstream_wire::{ExtentEntry, NodeEntry, TicketBody, node_entries};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, tail)) = bytes.split_first() else { return };

    let mut nodes = 0;
    let rest = node_entries(tail, count, |node| {
        nodes += 1;
        let mut again = [0xee; NodeEntry::BYTES];
        node.encode(&mut again);
        assert_eq!(NodeEntry::decode(&again), Some((node, &[][..])));
        if let Some(addr) = node.login.socket_addr() {
            assert_eq!(diskstream_wire::Endpoint::from(addr), node.login);
        }
    });
    assert!(nodes <= usize::from(count));
    assert_eq!(rest.len(), tail.len() - nodes * NodeEntry::BYTES);

    let mut extents = tail;
    while let Some((extent, rest)) = ExtentEntry::decode(extents) {
        let mut again = [0xee; ExtentEntry::BYTES];
        extent.encode(&mut again);
        assert_eq!(ExtentEntry::decode(&again), Some((extent, &[][..])));
        extents = rest;
    }
    assert!(extents.len() < ExtentEntry::BYTES);

    if let Some((ticket, rest)) = TicketBody::decode(tail) {
        let mut again = [0xee; TicketBody::BYTES];
        ticket.encode(&mut again);
        assert_eq!(TicketBody::decode(&again), Some((ticket, &[][..])));
        assert_eq!(rest.len(), tail.len() - TicketBody::BYTES);
        let _ = (ticket.vdisk.as_str(), ticket.device_name.as_str());
    }
});
