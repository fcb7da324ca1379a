//! What coding costs: nanoseconds for each call on the data path, the best of several rounds.
//!
//! `cargo run --release -p diskstream-wire --example codec_cost`
//!
//! The best round, because what disturbs a run only ever makes it slower. Copying one fragment's data stands beside it as
//! a measure that other machines share.

use std::hint::black_box;
use std::time::Instant;

use diskstream_wire::{Decoded, FragmentSize, KeepAlive, Read, ReadData, decode};

const ROUNDS: u32 = 30;
const CALLS: u32 = 200_000;

/// Nanoseconds of one call of `work`.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn cost(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    best
}

fn main() {
    let mut read = [0u8; Read::BYTES];
    Read { session: 42, request_id: 7, length: 32 * 1024, wanted: 0xff_ffff, ..Default::default() }
        .encode(&mut read);
    let mut alive = [0u8; KeepAlive::BYTES];
    KeepAlive { session: 42, ..Default::default() }.encode(&mut alive);
    let data = ReadData { request_id: 7, data_bytes: 1376, ..Default::default() };
    let mut datagram = vec![0x5a; FragmentSize::B1376.datagram_bytes()];
    data.encode_head(FragmentSize::B1376.datagram_bytes(), &mut datagram);
    let mut head = [0u8; ReadData::BYTES];
    let mut copy = [0u8; 1376];

    let copied = cost(|| copy.copy_from_slice(black_box(&datagram[ReadData::BYTES..])));
    black_box(&copy);
    let one = |bytes: &[u8]| {
        let decoded: Result<Decoded<'_>, _> = decode(black_box(bytes));
        let _ = black_box(decoded);
    };
    let rows = [
        ("decode, Read", cost(|| one(&read))),
        ("decode, ReadData of 1376", cost(|| one(&datagram))),
        ("decode, KeepAlive", cost(|| one(&alive))),
        (
            "Read::decode",
            cost(|| {
                let _ = black_box(Read::decode(black_box(&read)));
            }),
        ),
        (
            "encode_head, ReadData of 1376",
            cost(|| black_box(&data).encode_head(black_box(1452), black_box(&mut head))),
        ),
        (
            "range and of_unit of a fragment",
            cost(|| {
                let size = black_box(FragmentSize::B1376);
                black_box((size.range(black_box(17), 32 * 1024), size.of_unit(black_box(5))));
            }),
        ),
    ];
    println!("{:<34} {:>8} {:>24}", "", "ns", "copies of 1376 bytes");
    println!("{:<34} {copied:>8.1} {:>24.2}", "copy of one fragment's data", 1.0);
    for (name, ns) in rows {
        println!("{name:<34} {ns:>8.1} {:>24.2}", ns / copied);
    }
}
