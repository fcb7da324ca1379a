//! Blocks that are loaded before anybody asks: for whom, how many at once, and who comes first.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::sync::atomic::Ordering::Relaxed;

use diskstream_node::cache::{BlockKey, Lookup, Purpose};
use diskstream_node::shard::{Feed, Input, Limits, Recorder, STORES_MAX, VdiskEntry};
use diskstream_node::view::DrainState;
use diskstream_wire::{Message, Nanos, Read, ReadErrorCode};

use shard_support::device::Device;
use shard_support::{BLOCK, Mail, Setup, UNIT, World, image};

const BLOCKS: usize = 64;

fn setup() -> Setup {
    let image = image(BLOCKS * BLOCK);
    Setup { frames: 2 * BLOCKS, image, ..Setup::default() }
}

fn world_of(limits: Limits, shards: usize) -> World {
    World::new(Setup { limits, shards, ..setup() })
}

fn limits() -> Limits {
    Setup::default().limits
}

fn block(n: usize) -> u64 {
    (n * BLOCK) as u64
}

#[test]
fn a_sequential_reader_misses_only_at_the_beginning() {
    let mut world = world_of(limits(), 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    for n in 0..BLOCKS {
        device.read_right(&mut world, block(n), UNIT);
    }
    let counters = world.counters(0);
    assert_eq!(
        counters.disk_reads.get(),
        BLOCKS as u64,
        "each block is read once, none past the end"
    );
    assert_eq!(counters.cache_misses.get(), 4);
    assert_eq!(counters.ahead_sequential.get(), BLOCKS as u64 - 4);
    assert_eq!(world.shared.cache.stats().ahead_used, BLOCKS as u64 - 4);
    world.assert_at_rest();
}

#[test]
fn off_means_off_and_random_reads_cost_nothing() {
    let mut world = world_of(Limits { read_ahead: false, ..limits() }, 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..20).for_each(|n| drop(device.read_right(&mut world, block(n), UNIT)));
    let counters = world.counters(0);
    assert_eq!((counters.disk_reads.get(), counters.ahead_sequential.get()), (20, 0));
    let mut world = world_of(limits(), 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..20).for_each(|n| drop(device.read_right(&mut world, block(n * 23 % BLOCKS), UNIT)));
    assert_eq!(world.counters(0).disk_reads.get(), 20);
}

#[test]
fn who_asks_for_a_block_on_its_way_waits_for_that_one() {
    let mut world = world_of(limits(), 2);
    let mut one = Device::on_shard(&world, 0, 1).connect(&mut world);
    let mut two = Device::on_shard(&world, 1, 1).connect(&mut world);
    (0..3).for_each(|n| drop(one.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    let third = one.read_message(block(3), UNIT);
    one.send_read(&mut world, &third);
    world.run();
    assert_eq!(world.disk.len(), 2, "the block that was asked for, and the next");
    // The next one is asked for by the other shard's device and by this one.
    let reads = [one.read_message(block(4), UNIT), two.read_message(block(4), UNIT)];
    one.send_read(&mut world, &reads[0]);
    two.send_read(&mut world, &reads[1]);
    world.run();
    assert_eq!(world.counters(0).ahead_late.get(), 1);
    assert_eq!(world.counters(1).disk_reads.get(), 0);
    world.disk_runs = true;
    world.run();
    let mail = world.mail_for(two.at);
    assert!(two.assemble(&reads[1], &mail).complete);
    let is_of = |mail: &Mail, id| matches!(mail.message(), Message::ReadData(data) if data.request_id == id);
    let of = |read: &Read, mail: &[Mail]| -> Vec<Mail> {
        mail.iter().filter(|mail| is_of(mail, read.request_id)).cloned().collect()
    };
    let mail = world.mail_for(one.at);
    for read in [&third, &reads[0]] {
        assert!(one.assemble(read, &of(read, &mail)).complete);
    }
    world.assert_at_rest();
}

#[test]
fn misses_come_first_when_flights_are_few() {
    let mut world = world_of(Limits { flights_max: 8, ..limits() }, 1);
    let mut runner = Device::on_shard(&world, 0, 1).connect(&mut world);
    let mut other = Device::on_shard(&world, 0, runner.mac.0[5] + 1).connect(&mut world);
    (0..12).for_each(|n| drop(runner.read_right(&mut world, block(n), UNIT)));
    let before = world.counters(0).ahead_sequential.get();
    world.disk_runs = false;
    // Half of the flights are misses: nothing is read ahead.
    let reads: Vec<_> = (0..4).map(|n| other.read_message(block(40 + 5 * n), UNIT)).collect();
    reads.iter().for_each(|read| other.send_read(&mut world, read));
    for n in 12..BLOCKS {
        let read = runner.read_message(block(n), UNIT);
        runner.send_read(&mut world, &read);
        world.run();
        if world.disk.len() == 8 {
            break;
        }
    }
    assert_eq!(world.counters(0).ahead_sequential.get(), before);
    assert!(world.counters(0).ahead_no_room.get() > 0);
    world.disk_runs = true;
    world.run();
    world.assert_at_rest();
}

#[test]
fn a_quarter_of_the_flights_at_most_is_early() {
    let mut world = world_of(Limits { flights_max: 16, ..limits() }, 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..20).for_each(|n| drop(device.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    // All of this is here already; what follows it is not.
    let cached = device.read_message(block(19), UNIT);
    device.send_read(&mut world, &cached);
    for n in 20..24 {
        let read = device.read_message(block(n), UNIT);
        device.send_read(&mut world, &read);
    }
    world.run();
    assert!(world.disk.len() <= 4 + 4, "{} reads for four devices' blocks", world.disk.len());
    world.disk_runs = true;
    world.run();
    world.assert_at_rest();
}

#[test]
fn a_block_that_cannot_be_read_ahead_fails_for_nobody_but_who_asks() {
    let mut world = world_of(limits(), 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..3).for_each(|n| drop(device.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    let read = device.read_message(block(3), UNIT);
    device.send_read(&mut world, &read);
    world.run();
    let (shard, asked) = world.disk.pop_front().unwrap();
    world.answer(shard, &asked);
    world.fail_disk(5);
    world.run();
    let mail = world.mail_for(device.at);
    assert!(device.assemble(&read, &mail).complete);
    assert_eq!(world.event("disk_failed"), 1, "it is said, and counted");
    world.disk_runs = true;
    device.read_right(&mut world, block(4), UNIT);
    world.assert_at_rest();
}

#[test]
fn a_store_that_owes_a_block_is_not_asked_ahead() {
    let mut world = world_of(limits(), 1);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..3).for_each(|n| drop(device.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    let stuck = device.read_message(block(50), UNIT);
    device.send_read(&mut world, &stuck);
    world.run();
    let owed = world.disk.pop_front().unwrap();
    // It answers others meanwhile, so it does not hang as a whole.
    world.pass(Nanos(limits().disk_deadline.0 / 2));
    world.mail.clear();
    world.disk_runs = true;
    device.read_right(&mut world, block(60), UNIT);
    world.disk_runs = false;
    world.pass(limits().disk_deadline);
    let mail = world.mail_for(device.at);
    assert_eq!(device.assemble(&stuck, &mail).errors, [ReadErrorCode::StoreTimeout]);
    let read = device.read_message(block(3), UNIT);
    device.send_read(&mut world, &read);
    world.run();
    assert_eq!(world.disk.len(), 1, "the one that is asked for");
    assert_eq!(world.counters(0).ahead_sequential.get(), 0);
    world.answer(owed.0, &owed.1);
    world.answer_disk();
    world.run();
    world.assert_at_rest();
}

#[test]
fn misses_are_read_before_what_is_read_ahead() {
    let mut world = world_of(Limits { store_depths: [1; STORES_MAX], ..limits() }, 1);
    let mut runner = Device::on_shard(&world, 0, 1).connect(&mut world);
    let mut other = Device::on_shard(&world, 0, runner.mac.0[5] + 1).connect(&mut world);
    (0..11).for_each(|n| drop(runner.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    let next = runner.read_message(block(12), UNIT);
    runner.send_read(&mut world, &next);
    world.run();
    assert!(world.counters(0).disk_queued.get() > 0, "several blocks ahead, one at a time");
    let miss = other.read_message(block(60), UNIT);
    other.send_read(&mut world, &miss);
    world.run();
    let mut asked = Vec::new();
    while let Some((shard, read)) = world.disk.pop_front() {
        asked.push(read.file_offset as usize / BLOCK);
        world.answer(shard, &read);
        world.run();
    }
    assert_eq!(asked.iter().position(|&n| n == 60), Some(1), "after the one under way: {asked:?}");
    world.mail.clear();
    world.assert_at_rest();
}

fn fed(feed: Feed, kept: bool, frames: usize) -> World {
    let change = Box::new(move |entry: &mut VdiskEntry| {
        entry.kept = kept;
        entry.recorder = Some(Recorder::new(BLOCKS as u64));
        entry.feed = feed;
    });
    World::new(Setup { change: Some(change), frames, ..setup() })
}

#[test]
fn what_earlier_boots_read_is_there_when_a_device_has_come() {
    let list: Box<[u32]> = Box::new([40, 3, 3, 63, 7, 9999]);
    let mut world = fed(Feed::of(list), false, 2 * BLOCKS);
    world.run();
    assert_eq!(world.counters(0).disk_reads.get(), 0, "nobody is here yet");
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    world.run();
    assert_eq!(world.counters(0).ahead_listed.get(), 4);
    for n in [7, 40, 63, 3] {
        device.read_right(&mut world, block(n), UNIT);
    }
    assert_eq!(world.counters(0).cache_misses.get(), 0);
    assert_eq!(world.shared.cache.stats().ahead_used, 4);
    device.read_right(&mut world, block(20), UNIT);
    let recorder = world.shared.vdisk(0).recorder.as_ref().expect("set above");
    let read = recorder.collect(world.now, true).expect("a boot reads");
    assert_eq!(read.blocks, [7, 40, 63, 3, 20], "hits and misses, in the order of first use");
    world.assert_at_rest();
}

#[test]
fn only_the_first_minute_of_a_boot_is_recorded() {
    let mut world = fed(Feed::default(), false, 2 * BLOCKS);
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    device.read_right(&mut world, block(1), UNIT);
    world.pass(Nanos::from_secs(61));
    device.read_right(&mut world, block(2), UNIT);
    let recorder = world.shared.vdisk(0).recorder.as_ref().expect("set above");
    let record = recorder.collect(world.now, false).expect("the boot is over");
    assert_eq!((record.blocks, record.whole), (vec![1], true));
}

#[test]
fn what_is_to_stay_is_loaded_without_a_device_and_never_goes() {
    let mut world = fed(Feed::all(BLOCKS as u32), true, BLOCKS + 16);
    world.run();
    let reads = world.counters(0).disk_reads.get();
    assert_eq!((reads, world.shared.cache.stats().frames_kept), (BLOCKS as u64, BLOCKS as u64));
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..BLOCKS).for_each(|n| drop(device.read_right(&mut world, block(n), UNIT)));
    assert_eq!(world.counters(0).disk_reads.get(), reads);
    world.assert_at_rest();
}

#[test]
fn a_list_gives_way_to_misses_and_goes_on_when_they_are_done() {
    let limits = Limits { flights_max: 8, ..limits() };
    let list: Box<[u32]> = (0..BLOCKS as u32).collect();
    let change = Box::new(move |entry: &mut VdiskEntry| entry.feed = Feed::of(list));
    let mut world = World::new(Setup { change: Some(change), limits, ..setup() });
    world.disk_runs = false;
    let mut device = Device::on_shard(&world, 0, 1).connect(&mut world);
    world.run();
    assert_eq!(world.disk.len(), 2, "a quarter of the flights");
    for n in 50..54 {
        let read = device.read_message(block(n), UNIT);
        device.send_read(&mut world, &read);
    }
    world.run();
    assert_eq!(world.disk.len(), 6);
    world.disk_runs = true;
    for _ in 0..100 {
        world.pass(Nanos::from_millis(5));
    }
    assert!(world.shared.vdisk(0).feed.done() == BLOCKS as u32, "all of the list was looked at");
    assert_eq!(world.counters(0).disk_reads.get(), BLOCKS as u64, "and each block read once");
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn all_shards_work_on_a_list() {
    let list: Box<[u32]> = (0..BLOCKS as u32).collect();
    let change = Box::new(move |entry: &mut VdiskEntry| entry.feed = Feed::of(list));
    let mut world = World::new(Setup { change: Some(change), shards: 2, ..setup() });
    world.disk_runs = false;
    Device::on_shard(&world, 0, 1).connect(&mut world);
    world.run();
    let asked = |shard| world.disk.iter().filter(|(by, _)| *by == shard).count();
    assert_eq!((asked(0), asked(1)), (16, 16));
    world.disk_runs = true;
    world.run();
    let (a, b) = (world.counters(0).ahead_listed.get(), world.counters(1).ahead_listed.get());
    assert!(a + b == BLOCKS as u64 && b >= 16, "{a} and {b}");
    assert_eq!(world.shared.vdisk(0).feed.done(), BLOCKS as u32);
    world.assert_at_rest();
}

#[test]
fn a_list_goes_on_after_maintenance_and_when_its_vdisk_takes_devices_again() {
    let list: Box<[u32]> = (0..BLOCKS as u32).collect();
    let mut world = fed(Feed::of(list), false, 2 * BLOCKS);
    world.disk_runs = false;
    Device::on_shard(&world, 0, 1).connect(&mut world);
    world.drain(DrainState::Maintenance, 60);
    world.disk_runs = true;
    world.pass(Nanos::from_secs(5));
    let entry = std::sync::Arc::clone(world.shared.vdisk(0));
    assert_eq!(entry.feed.done(), 16, "what was on its way");
    entry.eligible.store(false, Relaxed);
    world.step(0, Input::Resume);
    world.pass(Nanos::from_secs(5));
    assert_eq!(entry.feed.done(), 16, "it takes no devices");
    entry.eligible.store(true, Relaxed);
    world.pass(Nanos::from_secs(1));
    assert_eq!(entry.feed.done(), BLOCKS as u32);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn what_could_not_be_loaded_is_not_called_done_and_is_tried_again() {
    let mut world = fed(Feed::all(BLOCKS as u32), true, BLOCKS + 16);
    world.disk_runs = false;
    world.run();
    world.fail_disk(5);
    world.disk_runs = true;
    world.run();
    let entry = std::sync::Arc::clone(world.shared.vdisk(0));
    assert_eq!(entry.feed.done() as usize, BLOCKS - 16);
    assert_eq!(world.shared.cache.stats().frames_kept as usize, BLOCKS - 16);
    // Once more in vain.
    world.disk_runs = false;
    world.pass(Nanos::from_secs(1));
    assert_eq!(world.disk.len(), 16);
    world.fail_disk(5);
    world.run();
    assert_eq!((world.disk.len(), entry.feed.missing()), (0, 16), "not in every turn");
    world.disk_runs = true;
    world.pass(Nanos::from_secs(2));
    assert_eq!((entry.feed.done() as usize, entry.feed.missing()), (BLOCKS, 0));
    assert_eq!(world.shared.cache.stats().frames_kept as usize, BLOCKS);
    world.assert_at_rest();
}

#[test]
fn a_block_that_finds_no_frame_is_looked_for_again() {
    let mut world = fed(Feed::of((0..BLOCKS as u32).collect()), false, 16);
    // Somebody has every frame in use.
    let other = world.shared.cache.for_shard(40);
    let hold = |block| {
        let Lookup::Load(ticket) = other.lookup(BlockKey { generation: 1, block }) else {
            panic!("an empty cache")
        };
        other.publish(ticket, 0, Purpose::Demand).0
    };
    let pins: Vec<_> = (0..16).map(hold).collect();
    Device::on_shard(&world, 0, 1).connect(&mut world);
    world.run();
    assert_eq!(world.counters(0).ahead_no_room.get(), 1, "not in every turn");
    world.pass(Nanos::from_millis(100));
    assert_eq!((world.counters(0).ahead_no_room.get(), world.shared.vdisk(0).feed.done()), (2, 0));
    pins.into_iter().for_each(|pin| other.unpin(pin));
    world.pass(Nanos::from_millis(100));
    assert_eq!(world.shared.vdisk(0).feed.done() as usize, BLOCKS - 2);
    world.pass(Nanos::from_secs(1));
    assert_eq!(world.shared.vdisk(0).feed.done() as usize, BLOCKS, "also the two that found none");
    world.assert_at_rest();
}

#[test]
fn boots_that_overlap_leave_one_record_of_all_that_they_read() {
    let mut world = fed(Feed::default(), false, 2 * BLOCKS);
    let mut one = Device::on_shard(&world, 0, 1).connect(&mut world);
    (0..20).for_each(|n| drop(one.read_right(&mut world, block(n), UNIT)));
    world.pass(Nanos::from_secs(5));
    let mut two = Device::on_shard(&world, 0, one.mac.0[5] + 1).connect(&mut world);
    (0..20).for_each(|n| drop(two.read_right(&mut world, block(n), UNIT)));
    world.pass(Nanos::from_secs(57));
    let entry = std::sync::Arc::clone(world.shared.vdisk(0));
    let recorder = entry.recorder.as_ref().expect("set above");
    assert_eq!(recorder.collect(world.now, false), None, "the second one still starts");
    two.read_right(&mut world, block(30), UNIT);
    world.pass(Nanos::from_secs(3));
    let record = recorder.collect(world.now, false).expect("both have started");
    assert_eq!(record.blocks, (0..20).chain([30]).collect::<Vec<u32>>());
    assert!(record.whole);
}
