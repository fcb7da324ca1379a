//! Reads at one shard: hits, misses, zeros, single reads, errors, signs of life, bounds.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::sync::Arc;

use diskstream_node::shard::Limits;
use diskstream_vdisk::{Extent, ImageMap, Place};
use diskstream_wire::{Capabilities, Flags, FragmentSize, Message, Nanos, ReadErrorCode};

use shard_support::device::{Device, expected};
use shard_support::{BLOCK, Setup, UNIT, World, image};

const SIZES: [FragmentSize; 4] =
    [FragmentSize::B1024, FragmentSize::B1376, FragmentSize::B4096, FragmentSize::B8192];

fn device(world: &mut World, size: FragmentSize) -> Device {
    Device { fragment_size: size, ..Device::new(1) }.connect(world)
}

#[test]
fn every_read_of_every_size_gives_the_right_bytes_missed_and_hit() {
    for size in SIZES {
        for block in [4096, 8192, BLOCK] {
            let mut world = World::new(Setup {
                image: image(200 * 1024 + 512),
                frames: 64,
                block,
                hashes: block == BLOCK,
                ..Setup::default()
            });
            let mut device = device(&mut world, size);
            let end = world.image.len().next_multiple_of(UNIT);
            for _warm in 0..2 {
                for first in [0, 1, 5, 14, 15, 30, 48, 49] {
                    for units in [1, 2, 3, 15, 16] {
                        let (offset, length) = (first * UNIT, units * UNIT);
                        if offset + length <= end {
                            device.read_right(&mut world, offset as u64, length);
                        }
                    }
                }
            }
            world.assert_at_rest();
        }
    }
}

#[test]
fn only_the_wanted_fragments_come() {
    let mut world = World::new(Setup::default());
    let mut device = device(&mut world, FragmentSize::B1376);
    let mut read = device.read_message(BLOCK as u64 - 2 * UNIT as u64, 4 * UNIT);
    read.wanted = 0b100_001_010_000;
    device.send_read(&mut world, &read);
    world.run();
    let mail = world.mail_for(device.at);
    let reply = device.assemble(&read, &mail);
    assert!(reply.complete && reply.fragments == read.wanted);
    assert_eq!(mail.len(), 3);
    world.assert_at_rest();
}

#[test]
fn equal_fragments_of_several_reads_share_sends() {
    let mut world = World::new(Setup::default());
    let mut device = device(&mut world, FragmentSize::B1376);
    device.read_right(&mut world, 0, BLOCK);
    let reads: Vec<_> = (0..15).map(|n| device.read_message(n * UNIT as u64, UNIT)).collect();
    world.send_count = 0;
    for read in &reads {
        device.send_read(&mut world, read);
    }
    world.run();
    let mail = world.mail_for(device.at);
    assert_eq!((mail.len(), world.send_count), (45, 1), "45 fragments of 15 reads in one send");
    for read in &reads {
        let own = |mail: &&shard_support::Mail| matches!(mail.message(), Message::ReadData(d) if d.request_id == read.request_id);
        let own: Vec<_> = mail.iter().filter(own).cloned().collect();
        assert!(device.assemble(read, &own).complete);
    }
}

#[test]
fn holes_and_cached_zeros_are_marked_once_and_only_if_the_device_knows_marks() {
    let mut content = image(4 * BLOCK);
    // A hole in the map, and zeros that only the cache finds out about.
    content[2 * UNIT..5 * UNIT].fill(0);
    content[7 * UNIT..9 * UNIT].fill(0);
    let unit = UNIT as u64;
    let setup = |content: &Vec<u8>| Setup {
        image: content.clone(),
        data: Some(vec![0..2 * unit, 5 * unit..content.len() as u64]),
        ..Setup::default()
    };
    for size in SIZES {
        let mut world = World::new(setup(&content));
        let mut device = device(&mut world, size);
        device.read_right(&mut world, 0, BLOCK);
        let reply = device.read_right(&mut world, 0, BLOCK);
        assert_eq!(reply.zero_marks, 1, "one mark for all zeros of a hit");
        let marked = if size == FragmentSize::B8192 { 0b0000_1100 } else { 0b1_1001_1100 };
        assert_eq!(reply.zero_units, marked, "{size:?}");
        let reply = device.read_right(&mut world, 2 * unit, 2 * UNIT);
        assert_eq!((reply.fragments, reply.zero_units), (0, 0b11), "holes need no data at all");
        world.assert_at_rest();
    }
    let mut world = World::new(setup(&content));
    let plain = Device { capabilities: Capabilities(0), ..Device::new(2) };
    let mut device = plain.connect(&mut world);
    for _ in 0..2 {
        assert_eq!(device.read_right(&mut world, 0, BLOCK).zero_marks, 0);
    }
}

#[test]
fn a_block_that_is_all_hole_needs_no_disk() {
    let mut content = image(4 * BLOCK);
    content[BLOCK..2 * BLOCK].fill(0);
    let b = BLOCK as u64;
    let data = Some(vec![0..b, 2 * b..4 * b]);
    let mut world = World::new(Setup { image: content, data, ..Setup::default() });
    world.disk_runs = false;
    let plain = Device { capabilities: Capabilities(0), ..Device::new(2) };
    let mut device = plain.connect(&mut world);
    device.read_right(&mut world, b, BLOCK);
    assert!(world.disk.is_empty());
    world.assert_at_rest();
}

#[test]
fn a_straddling_read_gets_each_block_as_soon_as_it_is_there() {
    let mut world = World::new(Setup::default());
    let mut device = device(&mut world, FragmentSize::B1376);
    device.read_right(&mut world, 0, BLOCK);
    world.disk_runs = false;
    let read = device.read_message(BLOCK as u64 - 2 * UNIT as u64, 4 * UNIT);
    device.send_read(&mut world, &read);
    world.run();
    let first = world.mail_for(device.at);
    assert_eq!(device.assemble(&read, &first).fragments, 0b111_111);
    world.answer_disk();
    world.run();
    let second = world.mail_for(device.at);
    assert_eq!(device.assemble(&read, &second).fragments, 0b111_111 << 6);
    world.assert_at_rest();
}

#[test]
fn before_the_handshake_there_are_only_single_reads() {
    let mut world = World::new(Setup { image: image(BLOCK + 512), ..Setup::default() });
    let mut device = Device::new(1);
    device.login(&mut world);
    device.get_io_port(&mut world);
    device.try_start(&mut world);
    let errors = device.read(&mut world, 0, UNIT).errors;
    assert_eq!(errors, [ReadErrorCode::NotNegotiated]);
    let cases = [
        (0, 512, None),
        (512, 1024, None),
        (3072, 1024, None),
        (BLOCK as u64, 512, None),
        (3584, 1024, Some(ReadErrorCode::OutOfRange)),
        (BLOCK as u64, 1024, Some(ReadErrorCode::OutOfRange)),
        (100, 512, Some(ReadErrorCode::OutOfRange)),
        (0, 1536, Some(ReadErrorCode::NotNegotiated)),
        (0, 0, Some(ReadErrorCode::OutOfRange)),
        (u64::MAX - 511, 512, Some(ReadErrorCode::OutOfRange)),
    ];
    for (offset, length, error) in cases {
        let mut read = device.read_message(offset, length);
        read.flags = Flags::SINGLE;
        device.send_read(&mut world, &read);
        world.run();
        let mail = world.mail_for(device.at);
        let reply = device.assemble(&read, &mail);
        assert_eq!(reply.errors.first().copied(), error, "{offset}+{length}");
        if error.is_none() {
            assert!(reply.complete, "{offset}+{length}");
            assert_eq!(reply.bytes, expected(&world, offset, length));
        }
    }
    assert_eq!(world.counters(0).reads_single.get(), 4);
    world.assert_at_rest();
}

#[test]
fn reads_that_cannot_be_answered_with_bytes_are_typed() {
    let mut world = World::new(Setup { image: image(100 * UNIT + 512), ..Setup::default() });
    let mut device = device(&mut world, FragmentSize::B1376);
    let u = UNIT as u64;
    type Change = fn(&mut diskstream_wire::Read);
    let cases: &[(Change, ReadErrorCode)] = &[
        (|r| r.generation ^= 1, ReadErrorCode::WrongGeneration),
        (|r| r.offset += 512, ReadErrorCode::OutOfRange),
        (|r| r.length = 4095, ReadErrorCode::OutOfRange),
        (|r| r.length = 0, ReadErrorCode::OutOfRange),
        (|r| r.length = 65_537, ReadErrorCode::NotNegotiated),
        (|r| r.length = u32::MAX, ReadErrorCode::NotNegotiated),
        (|r| r.offset = 101 * 4096, ReadErrorCode::OutOfRange),
        (|r| r.offset = u64::MAX - 4095, ReadErrorCode::OutOfRange),
        (|r| r.wanted = 0, ReadErrorCode::OutOfRange),
        (|r| r.wanted = 1 << 63, ReadErrorCode::OutOfRange),
        (|r| r.fragment_size = FragmentSize::B4096, ReadErrorCode::NotNegotiated),
    ];
    for (n, (change, code)) in cases.iter().enumerate() {
        let mut read = device.read_message(u, UNIT);
        change(&mut read);
        device.send_read(&mut world, &read);
        world.run();
        let mail = world.mail_for(device.at);
        let Message::ReadError(error) = mail[0].message() else { panic!("{n}: {mail:?}") };
        assert_eq!((error.code, error.request_id, mail.len()), (*code, read.request_id, 1), "{n}");
    }
    device.read_right(&mut world, 100 * u, UNIT);
    world.assert_at_rest();
}

#[test]
fn a_slow_disk_is_no_silence() {
    let mut world = World::new(Setup::default());
    let mut device = device(&mut world, FragmentSize::B1376);
    world.disk_runs = false;
    let read = device.read_message(0, UNIT);
    device.send_read(&mut world, &read);
    world.run();
    assert!(world.mail.is_empty(), "ten milliseconds are the disk's");
    let due = world.shards[0].next_deadline();
    assert_eq!(due, world.now + Nanos::from_millis(10));
    world.pass(Nanos::from_millis(10));
    let mail = world.mail_for(device.at);
    assert_eq!((mail.len(), device.assemble(&read, &mail).pending), (1, 1));
    world.pass(Nanos::from_millis(100));
    assert!(world.mail.is_empty(), "once, and then for each repeat");
    for attempt in 1..4 {
        let again = diskstream_wire::Read { attempt, flags: Flags::AGAIN, ..read };
        device.send_read(&mut world, &again);
        world.run();
        let mail = world.mail_for(device.at);
        let [Message::ReadPending(pending)] =
            mail.iter().map(|m| m.message()).collect::<Vec<_>>()[..]
        else {
            panic!("{mail:?}")
        };
        assert_eq!((pending.attempt, pending.waited_ms), (attempt, 110));
    }
    assert_eq!(world.disk.len(), 1, "repeats read nothing more");
    world.answer_disk();
    world.run();
    let mail = world.mail_for(device.at);
    assert_eq!(mail.len(), 3, "the answer comes once");
    assert!(device.assemble(&read, &mail).complete);
    assert_eq!(world.counters(0).reads_joined.get(), 3);
    world.assert_at_rest();
}

#[test]
fn past_the_deadline_the_disk_keeps_its_frame_and_the_devices_go_elsewhere() {
    let mut world = World::new(Setup::default());
    let mut device = device(&mut world, FragmentSize::B1376);
    world.disk_runs = false;
    let read = device.read_message(0, UNIT);
    device.send_read(&mut world, &read);
    world.run();
    world.pass(Nanos::from_secs(10));
    let mail = world.mail_for(device.at);
    let reply = device.assemble(&read, &mail);
    assert_eq!(reply.errors, [ReadErrorCode::StoreTimeout]);
    assert_eq!(world.event("disk_overdue"), 1);
    // Whoever asks now is told at once.
    assert_eq!(device.read(&mut world, 0, UNIT).errors, [ReadErrorCode::StoreTimeout]);
    assert_eq!(world.disk.len(), 1, "nobody reads a second time into the same block");
    world.answer_disk();
    world.run();
    world.disk_runs = true;
    device.read_right(&mut world, 0, UNIT);
    assert_eq!(world.counters(0).disk_reads.get(), 1);
    world.assert_at_rest();
}

#[test]
fn an_image_that_fails_shrinks_or_changes_is_a_typed_error() {
    // An I/O error, then a good disk.
    let mut world = World::new(Setup::default());
    let mut dev = device(&mut world, FragmentSize::B1376);
    world.disk_runs = false;
    let read = dev.read_message(0, BLOCK);
    dev.send_read(&mut world, &read);
    world.run();
    world.fail_disk(5);
    world.run();
    let mail = world.mail_for(dev.at);
    assert_eq!(dev.assemble(&read, &mail).errors, [ReadErrorCode::StoreError]);
    assert_eq!(world.event("disk_failed"), 1);
    world.disk_runs = true;
    dev.read_right(&mut world, 0, BLOCK);
    // Fewer bytes than the image has.
    world.image.truncate(BLOCK + 100);
    let errors = dev.read(&mut world, BLOCK as u64, UNIT).errors;
    assert_eq!(errors, [ReadErrorCode::StoreError]);
    assert_eq!(world.event("disk_short"), 1);
    assert!(world.shared.vdisk(0).is_eligible(), "an error is not a change");
    world.assert_at_rest();

    // Other bytes: noticed before anybody gets one of them.
    let mut world = World::new(Setup::default());
    let mut dev = device(&mut world, FragmentSize::B1376);
    world.image[BLOCK + 70] ^= 1;
    let reply = dev.read(&mut world, BLOCK as u64, UNIT);
    assert!(reply.fragments == 0 && reply.errors == [ReadErrorCode::StoreError]);
    assert_eq!((world.event("content_differs"), world.counters(0).disk_mismatches.get()), (1, 1));
    assert!(!world.shared.vdisk(0).is_eligible());
    // What is right is still served; the device was told to move.
    let reply = dev.read(&mut world, 0, UNIT);
    assert!(reply.complete && reply.draining);
    assert_eq!(world.counters(0).notices_sent.get(), 2);
    world.assert_at_rest();
}

#[test]
fn bounds_are_answered_with_busy() {
    // One frame, which somebody else's slow send keeps pinned.
    let mut world = World::new(Setup { frames: 1, ..Setup::default() });
    let mut dev = device(&mut world, FragmentSize::B1376);
    world.sends_run = false;
    let first = dev.read_message(0, UNIT);
    dev.send_read(&mut world, &first);
    world.run();
    let second = dev.read_message(BLOCK as u64, UNIT);
    dev.send_read(&mut world, &second);
    world.run();
    let mail = world.mail_for(dev.at);
    let (one, two) = mail.split_at(3);
    assert!(dev.assemble(&first, one).complete);
    assert_eq!(dev.assemble(&second, two).busy.len(), 1);
    assert_eq!(world.counters(0).read_busy_cache.get(), 1);
    world.complete_sends();
    world.sends_run = true;
    dev.read_right(&mut world, BLOCK as u64, UNIT);
    world.assert_at_rest();

    // More blocks than may be in flight.
    let limits = Limits { flights_max: 2, sessions_max: 4, plans: 64, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut dev = device(&mut world, FragmentSize::B1376);
    world.disk_runs = false;
    let reads: Vec<_> = (0..3).map(|n| dev.read_message(n * BLOCK as u64, UNIT)).collect();
    reads.iter().for_each(|read| dev.send_read(&mut world, read));
    world.run();
    let mail = world.mail_for(dev.at);
    assert_eq!((mail.len(), dev.assemble(&reads[2], &mail).busy.len()), (1, 1));
    world.answer_disk();
    world.run();
    assert_eq!(world.mail_for(dev.at).len(), 6);
    world.assert_at_rest();

    // More of one session than it may have.
    let limits = Limits { session_jobs_max: 32, sessions_max: 4, plans: 64, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let mut dev = device(&mut world, FragmentSize::B1376);
    dev.read_right(&mut world, 0, BLOCK);
    let reads: Vec<_> = (0..40).map(|n| dev.read_message(n % 16 * UNIT as u64, UNIT)).collect();
    reads.iter().for_each(|read| dev.send_read(&mut world, read));
    world.run();
    let busy = world.mail_for(dev.at);
    let busy = busy.iter().filter(|m| matches!(m.message(), Message::ReadBusy(b) if b.wait_ms > 0));
    assert_eq!(busy.count(), 8);
    assert_eq!(world.counters(0).read_busy_queue.get(), 8);
    world.assert_at_rest();
}

/// Units that lie in two files in turn, every third nowhere: no two can be read together.
struct Scattered(u64);

impl ImageMap for Scattered {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn visit(&self, offset: u64, len: u64, visit: &mut dyn FnMut(Extent)) {
        let (mut at, end) = (offset, (offset + len).min(self.0));
        while at < end {
            let unit = at / UNIT as u64;
            let next = end.min((unit + 1) * UNIT as u64);
            let place = match unit % 3 {
                2 => Place::Zero,
                file => Place::File { file_index: file as u16, file_offset: at },
            };
            visit(Extent { logical_offset: at, len: next - at, place });
            at = next;
        }
    }

    fn is_zero_unit(&self, unit: u32) -> bool {
        unit % 3 == 2
    }
}

#[test]
fn a_block_in_pieces_is_put_together_and_its_holes_hold_nobodys_bytes() {
    let mut content = image(3 * BLOCK + 5 * UNIT + 512);
    content.chunks_mut(UNIT).skip(2).step_by(3).for_each(|unit| unit.fill(0));
    let map: Option<Arc<dyn ImageMap>> = Some(Arc::new(Scattered(content.len() as u64)));
    // One frame, so that each block is put where another one was.
    let setup = Setup { image: content, map, frames: 1, ..Setup::default() };
    let mut world = World::new(setup);
    let plain = Device { capabilities: Capabilities(0), ..Device::new(1) };
    let mut dev = plain.connect(&mut world);
    for block in [0, 1, 2, 0] {
        dev.read_right(&mut world, block * BLOCK as u64, BLOCK);
    }
    dev.read_right(&mut world, 3 * BLOCK as u64, 6 * UNIT);
    let c = world.counters(0);
    assert_eq!(c.disk_reads.get(), 11 + 11 + 10 + 11 + 4, "one for each unit that lies in a file");
    world.assert_at_rest();

    // A piece that fails is the block's failure.
    world.disk_runs = false;
    let read = dev.read_message(0, BLOCK);
    dev.send_read(&mut world, &read);
    for _ in 0..5 {
        world.run();
        world.answer_disk();
    }
    world.run();
    world.fail_disk(5);
    world.run();
    let mail = world.mail_for(dev.at);
    assert!(matches!(mail.last().unwrap().message(), Message::ReadError(_)));
    world.disk_runs = true;
    dev.read_right(&mut world, 0, BLOCK);
    world.assert_at_rest();
}
