//! What a hit costs, without kernel and network. Not a pass or fail: run with `--release -- --ignored --nocapture`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use diskstream_node::shard::{Input, Outbox, Shard, SocketRole};
use diskstream_wire::{FragmentSize, Nanos};

use shard_support::device::Device;
use shard_support::{BLOCK, Setup, UNIT, World, local};

fn turn(shard: &mut Shard, out: &mut Outbox, now: Nanos) -> usize {
    shard.flush(now, out);
    let mut datagrams = 0;
    while let Some((_, plan)) = out.sends.pop() {
        datagrams += plan.segments();
        shard.step(Input::Sent { plan, result: Ok(1) }, now, out);
    }
    datagrams
}

#[expect(clippy::disallowed_methods, reason = "measures this machine, not the protocol")]
fn measure(name: &str, size: FragmentSize, devices: u8, length: usize, batch: usize) {
    let mut world = World::new(Setup::default());
    let new = |n| Device { fragment_size: size, ..Device::new(n) };
    let mut all: Vec<_> = (1..=devices).map(|n| new(n).connect(&mut world)).collect();
    for n in 0..16 {
        all[0].read_right(&mut world, n * BLOCK as u64, BLOCK);
    }
    let mut requests = Vec::new();
    for n in 0..batch as u64 {
        let device = &mut all[n as usize % usize::from(devices)];
        let read = device.read_message(n * 7 % 16 * BLOCK as u64, length);
        let mut bytes = vec![0; 80];
        read.encode(&mut bytes);
        requests.push((device.at, bytes));
    }
    let (shard, out) = (&mut world.shards[0], &mut world.outs[0]);
    let mut datagrams = 0;
    let start = std::time::Instant::now();
    let rounds = 400_000 / batch;
    for _ in 0..rounds {
        for (from, bytes) in &requests {
            let input =
                Input::Datagram { socket: SocketRole::Io, from: *from, local: local(), bytes };
            shard.step(input, world.now, out);
        }
        datagrams += turn(shard, out, world.now);
        while shard.next_deadline() <= world.now {
            datagrams += turn(shard, out, world.now);
        }
    }
    let ns = start.elapsed().as_nanos() as usize;
    let reads = rounds * batch;
    println!("{name}: {} ns a read, {} ns a datagram", ns / reads, ns / datagrams);
}

#[test]
#[ignore = "a measurement"]
fn what_a_hit_costs() {
    measure("64 devices, 4 KiB, 1376", FragmentSize::B1376, 64, UNIT, 256);
    measure("64 devices, 4 KiB, 4096", FragmentSize::B4096, 64, UNIT, 256);
    measure("1 device, 64 KiB, 1376", FragmentSize::B1376, 1, BLOCK, 16);
    measure("1 device, 64 KiB, 8192", FragmentSize::B8192, 1, BLOCK, 16);
}
