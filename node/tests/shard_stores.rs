//! What stores, and sessions that wait for them, owe each other: room for misses, and none for those who ask for too much.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::sync::Arc;

use diskstream_node::metrics::{Exporter, Source, StoreSource};
use diskstream_node::shard::{Feed, Limits, VdiskEntry};
use diskstream_wire::{Capabilities, Message, Nanos, Read, ReadErrorCode};

use shard_support::device::Device;
use shard_support::{BLOCK, Mail, Setup, TWO_STORES, UNIT, World, image};

const BLOCKS: usize = 256;

fn setup(stores: u16) -> Setup {
    let limits = Limits { sessions_max: 16, plans: 64, stores, ..Limits::default() };
    Setup { limits, frames: 2 * BLOCKS, image: image(BLOCKS * BLOCK), ..Setup::default() }
}

fn listed(blocks: std::ops::Range<usize>) -> impl FnOnce(&mut VdiskEntry) {
    let blocks: Box<[u32]> = blocks.map(|n| n as u32).collect();
    move |entry| entry.feed = Feed::of(blocks)
}

fn block(n: usize) -> u64 {
    (n * BLOCK) as u64
}

/// Asks for these blocks at once.
fn ask(world: &mut World, device: &mut Device, blocks: std::ops::Range<usize>) -> Vec<Read> {
    let reads: Vec<Read> = blocks.map(|n| device.read_message(block(n), UNIT)).collect();
    reads.iter().for_each(|read| device.send_read(world, read));
    world.run();
    reads
}

fn busy(mail: &[Mail]) -> usize {
    mail.iter().filter(|mail| matches!(mail.message(), Message::ReadBusy(_))).count()
}

fn errors(mail: &[Mail]) -> Vec<ReadErrorCode> {
    let of = |mail: &Mail| match mail.message() {
        Message::ReadError(error) => Some(error.code),
        _ => None,
    };
    mail.iter().filter_map(of).collect()
}

#[test]
fn a_pinned_vdisk_that_is_loaded_takes_no_room_from_misses() {
    let change = |entry: &mut VdiskEntry| {
        entry.kept = true;
        entry.feed = Feed::all(BLOCKS as u32);
    };
    let mut world = World::new(Setup { change: Some(Box::new(change)), ..setup(16) });
    world.disk_runs = false;
    world.run();
    assert_eq!(world.disk.len(), 4, "a quarter of the store's 16 flights");
    let mut one = Device::new(1).connect(&mut world);
    let mut two = Device::new(2).connect(&mut world);
    let mut three = Device::new(3).connect(&mut world);
    // All that the store has for misses: 12. None alone may have so many.
    ask(&mut world, &mut one, 100..107);
    ask(&mut world, &mut two, 200..204);
    ask(&mut world, &mut three, 220..221);
    assert_eq!((world.disk.len(), world.mail.len()), (16, 0), "nobody is told to come back");
    ask(&mut world, &mut two, 205..206);
    assert_eq!(busy(&world.mail_for(two.at)), 1, "what is full is full");
    world.disk_runs = true;
    world.run();
    assert_eq!(world.shared.vdisk(0).feed.done(), BLOCKS as u32);
    assert_eq!(world.counters(0).disk_reads.get(), BLOCKS as u64, "and each block is read once");
    world.mail.clear();
    world.assert_at_rest();
}

/// Devices of both vDisks, the lists of which are started; nothing is read from any disk yet.
fn two_lists() -> (World, Device, Device) {
    let second = Box::new(listed(0..200));
    let mut world = World::new(Setup {
        farm: Some(TWO_STORES),
        second_vdisk: true,
        change: Some(Box::new(listed(0..200))),
        change_second: Some(second),
        ..setup(2)
    });
    world.disk_runs = false;
    let one = Device::new(1).connect(&mut world);
    let two = Device::new(2).connect(&mut world);
    world.run();
    (world, one, two)
}

#[test]
fn a_store_that_hangs_stops_no_list_of_another() {
    let (mut world, _, two) = two_lists();
    let hung = |world: &World| world.disk.iter().filter(|(_, r)| r.file.vdisk == 0).count();
    assert_eq!((hung(&world), world.disk.len()), (16, 32), "both are asked for their part");
    world.pass(Nanos::from_secs(11));
    assert_eq!(world.counters(0).disk_overdue.get(), 32);
    assert_eq!((world.event("disk_overdue"), world.event("store_hangs")), (2, 2), "said once each");
    world.answer_vdisk(1);
    assert_eq!(world.shared.vdisk(1).feed.done(), 200);
    assert_eq!((hung(&world), world.shared.vdisk(0).feed.done()), (16, 0), "and no more than that");
    // A list that waits for a store costs no turns.
    let idle = world.shards[0].next_deadline().since(world.now);
    assert!(idle >= Nanos::from_millis(500), "the next turn is due in {idle:?}");
    let mut two = two;
    world.disk_runs = false;
    let read = two.read_message(block(199), UNIT);
    two.send_read(&mut world, &read);
    world.run();
    let mail = world.mail_for(two.at);
    assert!(two.assemble(&read, &mail).complete, "it is in the cache");
    world.disk_runs = true;
    world.run();
    assert_eq!(world.shared.vdisk(0).feed.done(), 200, "a store that comes back is read on");
    world.assert_at_rest();
}

#[test]
fn nothing_is_read_ahead_of_a_store_with_a_read_that_does_not_come_back() {
    // Both vDisks on one store.
    let mut world = World::new(Setup { farm: Some(TWO_STORES), second_vdisk: true, ..setup(1) });
    let mut one = Device::new(1).connect(&mut world);
    let mut two = Device::new(2).connect(&mut world);
    (0..8).for_each(|n| drop(two.read_right(&mut world, block(n), UNIT)));
    world.disk_runs = false;
    ask(&mut world, &mut one, 50..51);
    world.pass(Nanos::from_secs(11));
    let before = world.counters(0).ahead_sequential.get();
    ask(&mut world, &mut two, 8..13);
    assert_eq!(world.counters(0).ahead_sequential.get(), before);
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_store_that_gives_nothing_any_more_is_not_called_busy() {
    let mut world = World::new(setup(16));
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..12);
    assert_eq!((world.disk.len(), busy(&world.mail_for(device.at))), (8, 4), "its part of 12");
    world.pass(Nanos::from_secs(9));
    world.mail.clear();
    ask(&mut world, &mut device, 20..21);
    assert_eq!(busy(&world.mail_for(device.at)), 1, "it may still answer");
    world.pass(Nanos::from_secs(2));
    assert_eq!(errors(&world.mail_for(device.at)).len(), 8, "those that waited");
    ask(&mut world, &mut device, 20..24);
    let mail = world.mail_for(device.at);
    assert_eq!(errors(&mail), [ReadErrorCode::StoreTimeout; 4], "and who comes now");
    assert_eq!((busy(&mail), world.disk.len()), (0, 8));
    // One answer, and it is only slow.
    let (shard, read) = world.disk.pop_front().unwrap();
    world.answer(shard, &read);
    ask(&mut world, &mut device, 30..32);
    let mail = world.mail_for(device.at);
    assert_eq!(
        (errors(&mail).len(), busy(&mail)),
        (0, 0),
        "what was late is nobody's part any more"
    );
    ask(&mut world, &mut device, 40..50);
    let mail = world.mail_for(device.at);
    assert_eq!((errors(&mail).len(), busy(&mail)), (0, 8), "but the store's share is what it is");
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    device.read_right(&mut world, block(20), UNIT);
    world.assert_at_rest();
}

/// A store that was asked for one block and has given nothing for longer than it may take.
fn hung(shards: usize) -> (World, Device) {
    let mut world = World::new(Setup { shards, ..setup(1) });
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..1);
    world.pass(Nanos::from_secs(9));
    ask(&mut world, &mut device, 9..10);
    assert_eq!((world.disk.len(), errors(&world.mail_for(device.at)).len()), (2, 0));
    world.pass(Nanos::from_secs(1));
    (world, device)
}

const LATE: ReadErrorCode = ReadErrorCode::StoreTimeout;

#[test]
fn nobody_waits_for_a_store_that_hangs() {
    let (mut world, device) = hung(1);
    assert_eq!(errors(&world.mail_for(device.at)), [LATE; 2], "who came a second ago, too");
    assert_eq!((world.event("store_hangs"), world.event("disk_overdue")), (1, 1));
    let mut new = Device::new(2).connect(&mut world);
    world.mail.clear();
    ask(&mut world, &mut new, 20..30);
    ask(&mut world, &mut new, 0..1);
    ask(&mut world, &mut new, 9..10);
    assert_eq!(errors(&world.mail_for(new.at)), [LATE; 12], "at once");
    assert_eq!(world.disk.len(), 2, "and it is asked for nothing more");
    // What it owes comes at last.
    world.disk_runs = true;
    world.run();
    assert_eq!(world.event("store_answers"), 1);
    world.mail.clear();
    new.read_right(&mut world, block(20), UNIT);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_store_that_came_back_without_what_it_owes_is_found_out() {
    let (mut world, mut device) = hung(1);
    world.mail.clear();
    let owed: Vec<_> = world.disk.drain(..).collect();
    ask(&mut world, &mut device, 20..24);
    assert_eq!(world.disk.len(), 0, "it has just shown that it hangs");
    world.pass(Nanos::from_secs(10));
    ask(&mut world, &mut device, 20..24);
    assert_eq!(errors(&world.mail_for(device.at)), [LATE; 8], "who asks never waits for the look");
    assert_eq!(world.disk.len(), 1, "one look");
    world.pass(Nanos::from_secs(9));
    ask(&mut world, &mut device, 20..24);
    assert_eq!(world.disk.len(), 1, "every ten seconds");
    world.disk_runs = true;
    world.mail.clear();
    world.run();
    for n in 20..24 {
        device.read_right(&mut world, block(n), UNIT);
    }
    owed.iter().for_each(|(shard, read)| world.answer(*shard, read));
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn one_shard_knows_of_a_hung_store_what_another_found_out() {
    let (mut world, first) = hung(2);
    let other = 1 - first.shard;
    let mut second = Device::on_shard(&world, other, 2).connect(&mut world);
    world.mail.clear();
    ask(&mut world, &mut second, 20..30);
    assert_eq!(errors(&world.mail_for(second.at)), [LATE; 10]);
    assert_eq!(world.counters(other).disk_overdue.get(), 0, "it knows nothing of its own");
}

/// A store of depth 2 that has been asked for four blocks and gives nothing.
fn full(shards: usize) -> (World, Device) {
    let mut setup = setup(1);
    setup.limits.store_depths.fill(2);
    let mut world = World::new(Setup { shards, ..setup });
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..4);
    assert_eq!(world.disk.len(), 2, "the others wait for their turn");
    world.pass(Nanos::from_secs(10));
    assert_eq!(errors(&world.mail_for(device.at)), [LATE; 4]);
    (world, device)
}

#[test]
fn a_store_that_forgot_all_that_it_may_be_asked_is_found_out() {
    let (mut world, mut device) = full(1);
    let shard = device.shard;
    assert_eq!(world.counters(shard).flights.get(), 2, "what it was not asked is not waited for");
    let owed: Vec<_> = world.disk.drain(..).collect();
    world.pass(Nanos::from_secs(10));
    ask(&mut world, &mut device, 20..24);
    assert_eq!(errors(&world.mail_for(device.at)), [LATE; 4]);
    assert_eq!(world.disk.len(), 1, "a look has a place of its own");
    world.disk_runs = true;
    world.run();
    assert_eq!(world.event("store_answers"), 1);
    world.mail.clear();
    for n in 20..30 {
        device.read_right(&mut world, block(n), UNIT);
        world.mail.clear();
    }
    assert_eq!(world.counters(shard).flights.get(), 2, "what it forgot");
    owed.iter().for_each(|(shard, read)| world.answer(*shard, read));
    device.read_right(&mut world, block(0), UNIT);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn looks_that_do_not_come_back_either_are_few_and_come_ever_more_seldom() {
    let (mut world, mut device) = full(1);
    let mut asked = Vec::new();
    for second in 1..3000 {
        world.pass(Nanos::from_secs(1));
        let before = world.disk.len();
        ask(&mut world, &mut device, 20 + second % 199..21 + second % 199);
        if world.disk.len() > before {
            asked.push(second);
        }
        assert_eq!(errors(&world.mail_for(device.at)), [LATE]);
    }
    assert_eq!(asked, [10, 20, 40, 80, 160, 320, 640, 1280]);
    assert_eq!(world.counters(device.shard).flights.get(), 10);
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    device.read_right(&mut world, block(200), UNIT);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_look_needs_none_of_the_flights_that_a_store_keeps() {
    let mut setup = setup(1);
    setup.limits.flights_max = 8;
    let mut world = World::new(Setup { change: Some(Box::new(listed(200..240))), ..setup });
    world.disk_runs = false;
    let mut devices = [1, 2, 3, 4].map(|n| Device::new(n).connect(&mut world));
    world.run();
    assert_eq!(world.disk.len(), 2, "a quarter, for the list");
    for (n, device) in devices.iter_mut().enumerate() {
        ask(&mut world, device, n * 10..n * 10 + 6);
    }
    assert_eq!((world.disk.len(), world.counters(0).flights.get()), (8, 8), "all that there are");
    world.pass(Nanos::from_secs(10));
    world.pass(Nanos::from_secs(10));
    world.mail.clear();
    ask(&mut world, &mut devices[0], 100..102);
    assert_eq!(errors(&world.mail_for(devices[0].at)), [LATE; 2]);
    assert_eq!(world.disk.len(), 9);
    // It is back, and has forgotten all but that.
    let (shard, look) = world.disk.pop_back().unwrap();
    world.answer(shard, &look);
    world.run();
    ask(&mut world, &mut devices[0], 100..102);
    let mail = world.mail_for(devices[0].at);
    assert_eq!(
        (errors(&mail), busy(&mail)),
        (vec![LATE], 0),
        "nobody is told to come back in vain"
    );
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn whoever_waits_at_another_shard_is_told_at_once() {
    let mut world = World::new(Setup { shards: 2, ..setup(1) });
    let mut first = Device::new(1).connect(&mut world);
    let mut second = Device::on_shard(&world, 1 - first.shard, 2).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut first, 0..1);
    world.pass(Nanos::from_secs(8));
    ask(&mut world, &mut second, 9..10);
    ask(&mut world, &mut second, 0..1);
    assert_eq!(errors(&world.mail_for(second.at)).len(), 0);
    world.pass(Nanos::from_secs(2));
    assert_eq!(errors(&world.mail_for(second.at)), [LATE; 2]);
    assert_eq!((world.event("store_hangs"), world.event("disk_overdue")), (1, 1));
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    second.read_right(&mut world, block(9), UNIT);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_store_that_answers_one_shard_is_asked_anew_by_the_other() {
    let (mut world, mut first) = full(2);
    let mut second = Device::on_shard(&world, 1 - first.shard, 2).connect(&mut world);
    // The first shard's depth is lost for good; the second finds out that the store is back.
    let lost: Vec<_> = world.disk.drain(..).collect();
    world.pass(Nanos::from_secs(10));
    world.disk_runs = true;
    world.mail.clear();
    ask(&mut world, &mut second, 20..21);
    assert_eq!(errors(&world.mail_for(second.at)), [LATE]);
    assert_eq!(world.event("store_answers"), 1);
    first.read_right(&mut world, block(30), UNIT);
    lost.iter().for_each(|(shard, read)| world.answer(*shard, read));
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_read_that_was_lost_gives_its_turn_to_the_next() {
    let mut setup = setup(1);
    setup.limits.store_depths.fill(1);
    let mut world = World::new(Setup { shards: 2, ..setup });
    let mut device = Device::new(1).connect(&mut world);
    let mut other = Device::on_shard(&world, 1 - device.shard, 2).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..1);
    let (shard, lost) = world.disk.pop_front().unwrap();
    world.pass(Nanos::from_secs(5));
    ask(&mut world, &mut device, 1..2);
    assert_eq!(world.disk.len(), 0, "one at once");
    world.disk_runs = true;
    other.read_right(&mut world, block(2), UNIT);
    world.disk_runs = false;
    world.pass(Nanos::from_secs(5));
    assert_eq!((world.event("disk_overdue"), world.event("store_hangs")), (1, 0));
    assert_eq!(world.disk.len(), 1, "the next one's turn");
    world.disk_runs = true;
    world.run();
    world.answer(shard, &lost);
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_shard_that_only_hands_back_says_nothing_of_the_store() {
    let mut setup = setup(1);
    setup.limits.store_depths.fill(1);
    let mut world = World::new(Setup { shards: 2, ..setup });
    let mut first = Device::new(1).connect(&mut world);
    let mut second = Device::on_shard(&world, 1 - first.shard, 2).connect(&mut world);
    world.disk_runs = false;
    // The first shard has the second's block 1 wait for its turn, and hands it back when the store hangs.
    ask(&mut world, &mut first, 0..2);
    ask(&mut world, &mut second, 0..2);
    world.pass(Nanos::from_secs(10));
    assert_eq!(world.counters(second.shard).stale_messages.get(), 0, "it was told to look");
    let flights = [&first, &second].map(|device| world.counters(device.shard).flights.get());
    assert_eq!(flights, [1, 1], "only what the store was asked");
    assert_eq!((world.event("store_hangs"), world.event("store_answers")), (1, 0));
    world.mail.clear();
    ask(&mut world, &mut first, 40..41);
    ask(&mut world, &mut second, 41..42);
    assert_eq!(errors(&world.mail), [LATE; 2]);
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn holes_of_an_image_are_served_although_its_store_hangs() {
    let holes = (100 * BLOCK) as u64..(110 * BLOCK) as u64;
    let mut bytes = image(BLOCKS * BLOCK);
    bytes[holes.start as usize..holes.end as usize].fill(0);
    let data = vec![0..holes.start, holes.end..bytes.len() as u64];
    let mut setup = Setup { image: bytes, data: Some(data), ..setup(1) };
    setup.limits.store_depths.fill(2);
    let mut world = World::new(setup);
    let connect = |n| {
        // What it asks for comes as bytes, not as marks, which need no block.
        let device = Device { capabilities: Capabilities(0), ..Device::new(n) };
        device.connect(&mut world)
    };
    let mut devices = [1, 2, 3, 4].map(connect);
    world.disk_runs = false;
    devices.iter_mut().for_each(|device| drop(ask(&mut world, device, 0..60)));
    world.pass(Nanos::from_secs(10));
    assert_eq!(world.event("store_hangs"), 1);
    world.mail.clear();
    let device = &mut devices[0];
    for n in 100..110 {
        device.read_right(&mut world, block(n), UNIT);
        world.mail.clear();
    }
    ask(&mut world, device, 120..121);
    assert_eq!(errors(&world.mail_for(device.at)), [LATE]);
    assert_eq!(world.event("store_answers"), 0, "a hole says nothing of the store");
}

#[test]
fn a_store_that_hangs_is_in_the_metrics() {
    let gauge = |world: &World| {
        let sources: Vec<Box<dyn Source>> = vec![Box::new(StoreSource(Arc::clone(&world.shared)))];
        Exporter::new(sources).render().unwrap()
    };
    let line = |value| format!("diskstream_store_hangs{{store=\"0\",device=\"8:0\"}} {value}\n");
    let (mut world, _) = hung(1);
    assert!(gauge(&world).ends_with(&line(1)), "{}", gauge(&world));
    world.disk_runs = true;
    world.run();
    assert!(gauge(&world).ends_with(&line(0)), "{}", gauge(&world));
}

#[test]
fn a_store_that_keeps_one_block_back_does_not_hang() {
    let mut world = World::new(setup(1));
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..1);
    let owed = world.disk.pop_front().unwrap();
    world.disk_runs = true;
    world.pass(Nanos::from_secs(5));
    world.mail.clear();
    device.read_right(&mut world, block(1), UNIT);
    world.pass(Nanos::from_secs(6));
    assert_eq!((world.event("disk_overdue"), world.event("store_hangs")), (1, 0));
    world.mail.clear();
    device.read_right(&mut world, block(2), UNIT);
    world.answer(owed.0, &owed.1);
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_store_that_answers_another_shard_does_not_hang() {
    let mut world = World::new(Setup { shards: 2, ..setup(1) });
    let mut device = Device::new(1).connect(&mut world);
    let mut other = Device::on_shard(&world, 1 - device.shard, 2).connect(&mut world);
    world.disk_runs = false;
    ask(&mut world, &mut device, 0..1);
    let owed = world.disk.pop_front().unwrap();
    world.disk_runs = true;
    world.pass(Nanos::from_secs(5));
    world.mail.clear();
    other.read_right(&mut world, block(1), UNIT);
    world.pass(Nanos::from_secs(6));
    assert_eq!((world.event("disk_overdue"), world.event("store_hangs")), (1, 0));
    world.answer(owed.0, &owed.1);
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

/// Two devices that read across the image with all that they may have outstanding, and one that starts.
#[test]
fn a_device_that_starts_finds_room_beside_two_that_read_all_over() {
    let mut world = World::new(Setup { frames: 400, ..setup(1) });
    let mut scanners = [1, 2].map(|n| Device::new(n).connect(&mut world));
    let mut boots = Device::new(3).connect(&mut world);
    world.disk_runs = false;
    // Reads of 64 KiB across the border of two blocks: each waits for two.
    for number in 0..60 {
        for (n, scanner) in (0..).zip(&mut scanners) {
            let offset = block(n * 125 + number * 2) + (BLOCK / 2) as u64;
            let read = scanner.read_message(offset, BLOCK);
            scanner.send_read(&mut world, &read);
        }
    }
    world.run();
    let told = scanners.each_ref().map(|scanner| busy(&world.mail_for(scanner.at)));
    assert!(told.iter().all(|&busy| busy > 0), "they want more than there is: {told:?}");
    ask(&mut world, &mut boots, 250..256);
    assert_eq!(world.mail_for(boots.at).len(), 0, "whoever asks for little waits for the disk");
    // Of what comes free each gets its part, whoever asks more often.
    for _ in 0..4 {
        let done: Vec<_> = world.disk.drain(..world.disk.len() / 2).collect();
        done.iter().for_each(|(shard, read)| world.answer(*shard, read));
        world.run();
        for (n, scanner) in (0..).zip(&mut scanners) {
            ask(&mut world, scanner, n * 125 + 1..n * 125 + 60);
        }
        world.mail.clear();
        ask(&mut world, &mut boots, 250..256);
        assert_eq!(busy(&world.mail_for(boots.at)), 0);
    }
    world.disk_runs = true;
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}
