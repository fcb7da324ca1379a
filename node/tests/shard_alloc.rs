//! Nothing is allocated after start: neither on a hit nor on a miss, nor for keep-alives, errors and repeats.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::vec_box,
    reason = "test values are small, and a failed unwrap fails the test"
)]

#[path = "../../wire/tests/support/sys.rs"]
mod counting;
mod shard_support;

use diskstream_node::shard::{Input, SocketRole};
use diskstream_wire::{Flags, KeepAlive, Nanos};

use shard_support::device::Device;
use shard_support::{BLOCK, Setup, UNIT, World, local};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Steps and flushes, sends plans back at once, and answers the disk, without the support's own allocations.
fn turn(world: &mut World, home: &mut Vec<Box<diskstream_ring::SendPlan>>) {
    let (shard, out) = (&mut world.shards[0], &mut world.outs[0]);
    shard.flush(world.now, out);
    home.extend(out.sends.drain(..).map(|(_, plan)| plan));
    for plan in home.drain(..) {
        shard.step(Input::Sent { plan, result: Ok(1) }, world.now, out);
    }
    while let Some(read) = out.reads.pop() {
        let start = read.file_offset as usize;
        let bytes = &world.image[start..start + read.len as usize];
        shard_support::sys::write_arena(&world.arena, read.arena_offset, bytes);
        let done = Input::DiskDone { token: read.token, result: Ok(read.len) };
        shard.step(done, world.now, out);
    }
    out.events.clear();
}

#[test]
fn a_running_shard_allocates_nothing() {
    let mut world = World::new(Setup { frames: 4, ..Setup::default() });
    let mut device = Device::new(1).connect(&mut world);
    let mut requests: Vec<Vec<u8>> = Vec::new();
    let mut push = |write: &dyn Fn(&mut [u8]) -> usize| {
        let mut buf = [0; 256];
        let length = write(&mut buf);
        requests.push(buf[..length].to_vec());
    };
    for n in 0..64u64 {
        // Sixteen blocks through four frames: hits, misses, evictions; reads across two blocks; repeats; wrong ones.
        let offset = (n * 5 % 15) * BLOCK as u64 + (n % 2) * 15 * UNIT as u64;
        let mut read = device.read_message(offset, 2 * UNIT);
        push(&|buf| read.encode(buf));
        read.flags = Flags::AGAIN;
        push(&|buf| read.encode(buf));
        read.generation = 1;
        push(&|buf| read.encode(buf));
    }
    let (tag, session) = (device.tag, device.session);
    push(&|buf| KeepAlive { tag, session, ..Default::default() }.encode(buf));
    push(&|buf| buf.len());

    let mut home = Vec::with_capacity(64);
    let mut run = |world: &mut World| {
        for bytes in &requests {
            let input =
                Input::Datagram { socket: SocketRole::Io, from: device.at, local: local(), bytes };
            world.shards[0].step(input, world.now, &mut world.outs[0]);
            turn(world, &mut home);
            turn(world, &mut home);
        }
        world.now = world.now + Nanos::from_millis(1);
    };
    run(&mut world);
    let before = counting::allocations();
    for _ in 0..10 {
        run(&mut world);
    }
    let allocations = counting::allocations() - before;
    let c = world.counters(0);
    assert!(c.cache_hits.get() > 100 && c.disk_reads.get() > 100 && c.data_fragments.get() > 5000);
    assert_eq!(allocations, 0, "of {} datagrams", requests.len() * 10);
}
