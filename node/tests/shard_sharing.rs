//! What shards and sessions share: one disk read for a block, one turn each, bounded bytes in flight.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use diskstream_node::shard::{Limits, STORES_MAX, ShardMessage};
use diskstream_wire::{Message, Nanos, ReadErrorCode};

use shard_support::device::Device;
use shard_support::{BLOCK, Setup, TWO_STORES, UNIT, World};

fn two_shards() -> (World, Device, Device) {
    let mut world = World::new(Setup { shards: 2, ..Setup::default() });
    let one = Device::on_shard(&world, 0, 1).connect(&mut world);
    let two = Device::on_shard(&world, 1, 1).connect(&mut world);
    (world, one, two)
}

#[test]
fn misses_of_many_devices_and_shards_are_one_disk_read() {
    let (mut world, mut one, mut two) = two_shards();
    let mut three = Device::on_shard(&world, 1, two.mac.0[5] + 1).connect(&mut world);
    world.disk_runs = false;
    world.messages_run = false;
    let reads = [&mut one, &mut two, &mut three].map(|d| {
        let read = d.read_message(UNIT as u64, 3 * UNIT);
        (d.clone(), read)
    });
    for (device, read) in &reads {
        device.send_read(&mut world, read);
    }
    world.run();
    assert_eq!(world.disk.len(), 1);
    let (a, b) = (world.counters(0), world.counters(1));
    assert_eq!((a.cache_misses.get(), b.cache_misses.get(), b.cache_coalesced.get()), (1, 0, 2));
    world.answer_disk();
    world.run();
    assert_eq!(world.messages.len(), 1, "the other shard is woken once");
    assert_eq!(world.mail_for(one.at).len(), 9);
    assert!(world.mail.is_empty());
    world.messages_run = true;
    world.run();
    for (device, read) in &reads[1..] {
        let mail = world.mail_for(device.at);
        assert!(device.assemble(read, &mail).complete);
    }
    assert_eq!(a.disk_reads.get() + b.disk_reads.get(), 1);
    world.assert_at_rest();
}

#[test]
fn a_failed_load_fails_for_all_who_waited_and_for_nobody_after() {
    let (mut world, mut one, mut two) = two_shards();
    world.disk_runs = false;
    let reads = [one.read_message(0, UNIT), two.read_message(0, UNIT)];
    one.send_read(&mut world, &reads[0]);
    two.send_read(&mut world, &reads[1]);
    world.run();
    world.fail_disk(5);
    world.run();
    for (device, read) in [(&one, &reads[0]), (&two, &reads[1])] {
        let mail = world.mail_for(device.at);
        assert_eq!(device.assemble(read, &mail).errors, [ReadErrorCode::StoreError]);
    }
    world.disk_runs = true;
    two.read_right(&mut world, 0, UNIT);
    one.read_right(&mut world, 0, UNIT);
    world.assert_at_rest();
}

#[test]
fn a_block_that_was_evicted_before_the_wake_up_is_loaded_again() {
    let mut world = World::new(Setup { shards: 2, frames: 1, ..Setup::default() });
    let mut one = Device::on_shard(&world, 0, 1).connect(&mut world);
    let mut two = Device::on_shard(&world, 1, 1).connect(&mut world);
    world.messages_run = false;
    world.disk_runs = false;
    let reads = [one.read_message(0, UNIT), two.read_message(0, UNIT)];
    one.send_read(&mut world, &reads[0]);
    two.send_read(&mut world, &reads[1]);
    world.run();
    world.answer_disk();
    world.run();
    world.mail.clear();
    // The one frame goes to another block before the second shard looks.
    world.disk_runs = true;
    one.read_right(&mut world, BLOCK as u64, UNIT);
    world.messages_run = true;
    world.run();
    let mail = world.mail_for(two.at);
    assert!(two.assemble(&reads[1], &mail).complete);
    assert_eq!(world.counters(1).disk_reads.get(), 1);
    world.assert_at_rest();
}

#[test]
fn waiting_for_another_shard_is_pending_and_overdue_like_waiting_for_the_disk() {
    let (mut world, mut one, mut two) = two_shards();
    world.disk_runs = false;
    let reads = [one.read_message(0, UNIT), two.read_message(0, UNIT)];
    one.send_read(&mut world, &reads[0]);
    two.send_read(&mut world, &reads[1]);
    world.pass(Nanos::from_millis(10));
    let mail = world.mail_for(two.at);
    assert_eq!(two.assemble(&reads[1], &mail).pending, 1);
    world.pass(Nanos::from_secs(10));
    let mail = world.mail_for(two.at);
    assert_eq!(two.assemble(&reads[1], &mail).errors, [ReadErrorCode::StoreTimeout]);
    assert_eq!(two.read(&mut world, 0, UNIT).errors, [ReadErrorCode::StoreTimeout]);
    world.disk_runs = true;
    world.run();
    two.read_right(&mut world, 0, UNIT);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn stray_messages_harm_nobody() {
    let (mut world, mut one, _) = two_shards();
    let key = diskstream_node::cache::BlockKey { generation: one.generation, block: 3 };
    for message in [ShardMessage::Loaded(key), ShardMessage::LoadFailed(key)] {
        world.step(0, diskstream_node::shard::Input::FromShard(message));
    }
    world.disk_runs = false;
    let read = one.read_message(3 * BLOCK as u64, UNIT);
    one.send_read(&mut world, &read);
    for message in [ShardMessage::Loaded(key), ShardMessage::LoadFailed(key)] {
        world.step(0, diskstream_node::shard::Input::FromShard(message));
    }
    assert_eq!(world.counters(0).stale_messages.get(), 4);
    world.disk_runs = true;
    world.run();
    let mail = world.mail_for(one.at);
    assert!(one.assemble(&read, &mail).complete);
    world.assert_at_rest();
}

#[test]
fn a_greedy_device_delays_a_modest_one_by_one_turn() {
    let limits = Limits { sessions_max: 8, plans: 48, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut greedy = Device::new(1).connect(&mut world);
    let mut modest = Device::new(2).connect(&mut world);
    greedy.read_right(&mut world, 0, BLOCK);
    world.sends_run = false;
    for _ in 0..32 {
        let read = greedy.read_message(0, BLOCK);
        greedy.send_read(&mut world, &read);
    }
    let read = modest.read_message(0, UNIT);
    modest.send_read(&mut world, &read);
    world.run();
    let position = world.mail.iter().position(|mail| mail.to == modest.at).expect("served");
    let before: usize = world.mail[..position].iter().map(|mail| mail.bytes.len()).sum();
    assert!(before <= 64 * 1024, "{before} bytes of the greedy one first");
    // The greedy one has its fill on the way and waits for it to arrive.
    let out: usize = world.mail_for(greedy.at).iter().map(|mail| mail.bytes.len()).sum();
    let most = limits.session_inflight_bytes_max as usize;
    assert!(out >= most && out <= most + 64 * 1024, "{out}");
    world.mail.clear();
    world.sends_run = true;
    world.complete_sends();
    world.run();
    let rest = world.mail_for(greedy.at).iter().map(|mail| mail.bytes.len()).sum::<usize>();
    assert_eq!((out + rest) / 1452, 32 * 48, "nothing is lost");
    world.assert_at_rest();
}

#[test]
fn equal_devices_get_equal_shares() {
    let limits = Limits { sessions_max: 8, plans: 32, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut devices: Vec<_> = (1..=4).map(|n| Device::new(n).connect(&mut world)).collect();
    devices[0].read_right(&mut world, 0, BLOCK);
    world.sends_run = false;
    for round in 0..32 {
        for device in &mut devices {
            // The same bytes in reads of very different lengths.
            let units = if device.mac.0[5] % 2 == 0 { 1 } else { 8 };
            for part in 0..8 / units {
                let offset = (round % 2 * 8 + part * units) * UNIT;
                let read = device.read_message(offset as u64, units * UNIT);
                device.send_read(&mut world, &read);
            }
        }
    }
    world.run();
    // Every plan that reads may use is out now.
    assert_eq!(world.outs[0].free_plans(), 16);
    let sent: Vec<usize> =
        devices.iter().map(|d| world.mail.iter().filter(|mail| mail.to == d.at).count()).collect();
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= 45, "{sent:?}");
    world.mail.clear();
    world.sends_run = true;
    world.complete_sends();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn plans_kept_back_let_control_messages_out() {
    let limits = Limits { sessions_max: 8, plans: 32, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut devices: Vec<_> = (1..=6).map(|n| Device::new(n).connect(&mut world)).collect();
    devices[0].read_right(&mut world, 0, BLOCK);
    world.sends_run = false;
    for device in &mut devices {
        for _ in 0..16 {
            let read = device.read_message(0, BLOCK);
            device.send_read(&mut world, &read);
        }
    }
    world.run();
    world.mail.clear();
    let mut seven = Device::new(7);
    assert!(matches!(seven.try_login(&mut world).message(), Message::LoginTransfer(_)));
    assert_eq!(world.counters(0).sends_no_plan.get(), 0);
    world.sends_run = true;
    world.complete_sends();
    world.run();
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_slow_store_leaves_room_for_the_devices_of_another() {
    let limits =
        Limits { flights_max: 16, sessions_max: 4, plans: 64, stores: 2, ..Limits::default() };
    let setup = Setup { farm: Some(TWO_STORES), second_vdisk: true, limits, ..Setup::default() };
    let mut world = World::new(setup);
    let mut slow = Device::new(1).connect(&mut world);
    let mut fast = Device::new(2).connect(&mut world);
    assert_ne!(slow.generation, fast.generation);
    world.disk_runs = false;
    let reads: Vec<_> = (0..8).map(|n| slow.read_message(n * BLOCK as u64, UNIT)).collect();
    reads.iter().for_each(|read| slow.send_read(&mut world, read));
    world.run();
    assert_eq!(
        (world.disk.len(), world.mail_for(slow.at).len()),
        (4, 4),
        "two thirds of its store's misses, the rest busy"
    );
    let stuck = std::mem::take(&mut world.disk);
    world.disk_runs = true;
    for n in 0..8 {
        fast.read_right(&mut world, n * BLOCK as u64, BLOCK);
    }
    assert!(stuck.iter().all(|(_, read)| read.file.vdisk == 0));
    world.disk = stuck;
    world.run();
    assert_eq!(world.mail_for(slow.at).len(), 4 * 3);
    world.assert_at_rest();
}

#[test]
fn a_store_is_asked_for_no_more_than_it_takes_and_the_oldest_first() {
    let limits =
        Limits { store_depths: [2; STORES_MAX], sessions_max: 4, plans: 64, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    let order = [7u64, 3, 9, 1, 12];
    let reads = order.map(|n| device.read_message(n * BLOCK as u64, UNIT));
    for read in &reads {
        device.send_read(&mut world, read);
        world.pass(Nanos::from_micros(10));
    }
    let mut asked = Vec::new();
    while let Some((shard, read)) = world.disk.pop_front() {
        assert!(world.disk.len() <= 1, "two at once at most");
        asked.push(read.file_offset / BLOCK as u64);
        world.answer(shard, &read);
        world.run();
    }
    assert_eq!(asked, order, "in the order in which they were asked for");
    assert_eq!(world.counters(0).disk_queued.get(), 3);
    assert_eq!(world.counters(0).disk_reads.get(), 5);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn a_read_that_never_ends_holds_its_turn_and_the_rest_time_out_and_recover() {
    let limits =
        Limits { store_depths: [1; STORES_MAX], sessions_max: 4, plans: 64, ..Limits::default() };
    let deadline = limits.disk_deadline;
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    let reads = [0u64, 1].map(|n| device.read_message(n * BLOCK as u64, UNIT));
    reads.iter().for_each(|read| device.send_read(&mut world, read));
    world.run();
    assert_eq!(world.disk.len(), 1);
    world.pass(deadline + Nanos::from_millis(1));
    let mail = world.mail_for(device.at);
    let timeouts = mail.iter().filter(|mail| matches!(mail.message(), Message::ReadError(e) if e.code == ReadErrorCode::StoreTimeout));
    assert_eq!(timeouts.count(), 2, "also who never had a turn is told");
    // The disk comes back: what is still queued is read, and the devices are served again.
    world.disk_runs = true;
    world.run();
    for n in 0..2 {
        device.read_right(&mut world, n * BLOCK as u64, UNIT);
    }
    world.assert_at_rest();
}
