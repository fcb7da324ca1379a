//! Decoding and encoding allocate nothing, whatever the bytes: counted by the allocator itself.

use std::hint::black_box;

use diskstream_wire::*;

mod support {
    pub mod sys;
    pub mod vectors;
}
use support::{sys, vectors};

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

#[test]
fn the_counter_counts() {
    let before = sys::allocations();
    drop(black_box(vec![0u8; 100]));
    assert_eq!(sys::allocations() - before, 1);
}

#[test]
fn coding_allocates_nothing() {
    let listings = vectors::all();
    let mut out = vec![0u8; 10_000];
    let mut decoded_messages = 0;
    let before = sys::allocations();
    for listing in &listings {
        for length in 0..=listing.bytes.len() {
            let Ok(decoded) = black_box(decode(black_box(&listing.bytes[..length]))) else {
                continue;
            };
            decoded_messages += 1;
            black_box(node_entries(decoded.tail, u8::MAX, |entry| {
                black_box(entry.login.socket_addr());
            }));
            black_box(decoded.message.encode_with_tail(decoded.tail, &mut out));
        }
        black_box((NodeEntry::decode(&listing.bytes), ExtentEntry::decode(&listing.bytes)));
        black_box(TicketBody::decode(&listing.bytes).map(|(t, _)| t.vdisk.as_str().len()));
    }
    assert_eq!(sys::allocations() - before, 0);
    assert!(decoded_messages >= Kind::ALL.len(), "{decoded_messages} messages were decoded");
}
