//! Disk reads against `pread`, in every combination of features.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use diskstream_ring::arena::AREA_BYTES;
use diskstream_ring::{
    Arena, ArenaConfig, Completion, DirectFile, Features, FileId, Full, HugePages, ReadPlan, Ring,
    RingConfig,
};
use proptest::prelude::*;

const FILE_BYTES: usize = 1 << 20;
const FRAME: usize = 64 * 1024;

fn image() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut word = 0x9E37_79B9_7F4A_7C15_u64;
    let bytes: Vec<u8> = (0..FILE_BYTES / 8)
        .flat_map(|_| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.to_le_bytes()
        })
        .collect();
    file.write_all(&bytes).unwrap();
    // Not a multiple of any block: the last read is short.
    file.write_all(&[7; 1000]).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

fn compare(
    ring: &mut Ring,
    arena: &Arena,
    file: FileId,
    reads: &[(u64, u32)],
    truth: &std::fs::File,
) {
    let mut next = 0;
    let mut state = (0_usize, vec![None; reads.len()]);
    while state.0 < reads.len() {
        while next < reads.len() {
            let (file_offset, len) = reads[next];
            let plan = ReadPlan {
                file,
                file_offset,
                arena_offset: next * FRAME,
                len,
                token: u64::try_from(next).unwrap(),
            };
            if ring.read(plan) == Err(Full) {
                break;
            }
            next += 1;
        }
        let before = state.0;
        common::turn_until(
            ring,
            &mut state,
            |_, state, completion| {
                let Completion::Read { token, result } = completion else {
                    panic!("{completion:?}")
                };
                state.0 += 1;
                state.1[usize::try_from(token).unwrap()] = Some(result);
            },
            |state| state.0 > before,
        );
    }
    for (index, (offset, len)) in reads.iter().enumerate() {
        let mut expected = vec![0; *len as usize];
        let count = truth.read_at(&mut expected, *offset).unwrap();
        assert_eq!(state.1[index], Some(Ok(u32::try_from(count).unwrap())));
        // SAFETY: no read is in flight any more.
        let got = unsafe { arena.bytes(index * FRAME, count) };
        assert!(got == &expected[..count], "read {index} at {offset}+{len} differs");
    }
}

#[test]
fn random_reads_are_what_pread_says() {
    let image = image();
    let arena = common::arena(64 * FRAME);
    let plain = Features { registered_buffers: false, ..Features::ALL };
    for permit in [Features::ALL, Features::NONE, plain] {
        for (direct, by_worker) in [(true, false), (true, true), (false, false), (false, true)] {
            let file = DirectFile::open(image.path()).unwrap();
            if direct && !file.is_direct() {
                eprintln!("SKIPPED: no direct I/O here");
                continue;
            }
            let truth = std::fs::File::open(image.path()).unwrap();
            let file = if direct {
                file
            } else {
                DirectFile::buffered(truth.try_clone().unwrap(), image.path()).unwrap()
            };
            let file = if by_worker { file.by_worker() } else { file };
            let config = RingConfig { permit, ..common::small() };
            let mut ring = Ring::new(&config, Some(Arc::clone(&arena))).unwrap();
            let block = u64::from(file.alignment().offset_bytes).max(512);
            let id = ring.add_file(Arc::new(file)).unwrap();
            assert_eq!(ring.features().direct_io, direct && permit.direct_io);
            let blocks = u64::try_from(FILE_BYTES).unwrap() / block;
            let per_frame = u64::try_from(FRAME).unwrap() / block;
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            for _ in 0..4 {
                let strategy = proptest::collection::vec((0..=blocks, 1..=per_frame), 1..64);
                let reads = strategy.new_tree(&mut runner).unwrap().current();
                let reads: Vec<_> = reads
                    .into_iter()
                    .map(|(at, count)| (at * block, u32::try_from(count * block).unwrap()))
                    .collect();
                compare(&mut ring, &arena, id, &reads, &truth);
            }
            assert_eq!(ring.stats().reads_failed, 0);
            assert!(ring.stats().refused_full > 0, "more reads than slots were tried");
            assert_eq!(ring.reads_outstanding(), 0);
        }
    }
}

use proptest::strategy::ValueTree;

#[test]
fn a_bad_read_says_why() {
    let image = image();
    let mut ring = common::ring(Features::ALL);
    let file = DirectFile::open(image.path()).unwrap();
    if !file.is_direct() {
        eprintln!("SKIPPED: no direct I/O here");
        return;
    }
    let file = ring.add_file(Arc::new(file)).unwrap();
    ring.read(ReadPlan { file, file_offset: 1, arena_offset: 0, len: 4096, token: 5 }).unwrap();
    let mut result = None;
    common::turn_until(
        &mut ring,
        &mut result,
        |_, result, completion| {
            let Completion::Read { token: 5, result: got } = completion else { panic!() };
            *result = Some(got);
        },
        Option::is_some,
    );
    assert_eq!(result, Some(Err(diskstream_ring::Errno::EINVAL)));
    assert_eq!(ring.stats().reads_failed, 1);
}

#[test]
fn a_file_can_go_while_it_is_read() {
    let image = image();
    let mut ring = common::ring(Features::ALL);
    let shared = Arc::new(DirectFile::open(image.path()).unwrap());
    for _ in 0..10 {
        let file = ring.add_file(Arc::clone(&shared)).unwrap();
        ring.read(ReadPlan { file, file_offset: 0, arena_offset: 0, len: 4096, token: 1 }).unwrap();
        ring.remove_file(file);
        ring.remove_file(file);
        assert_eq!(Arc::strong_count(&shared), 2, "kept for its read");
        common::turn_until(
            &mut ring,
            &mut false,
            |_, over, completion| {
                assert!(matches!(completion, Completion::Read { result: Ok(4096), .. }));
                *over = true;
            },
            |over| *over,
        );
        assert_eq!(Arc::strong_count(&shared), 1, "let go after it");
    }
}

#[test]
#[should_panic(expected = "outside the arena")]
fn a_read_outside_the_arena_is_a_mistake() {
    let image = image();
    let mut ring = common::ring(Features::ALL);
    let file = ring.add_file(Arc::new(DirectFile::open(image.path()).unwrap())).unwrap();
    let plan = ReadPlan { file, file_offset: 0, arena_offset: 1 << 20, len: 4096, token: 0 };
    let _ = ring.read(plan);
}

#[test]
#[should_panic(expected = "into rings' headers")]
fn a_read_into_the_headers_of_rings_is_a_mistake() {
    let image = image();
    let config = ArenaConfig { bytes: 4 << 20, huge_pages: HugePages::Off };
    let arena = Arc::new(Arena::with_headers(&config, 1).unwrap());
    let mut ring = Ring::new(&common::small(), Some(arena)).unwrap();
    let file = ring.add_file(Arc::new(DirectFile::open(image.path()).unwrap())).unwrap();
    let arena_offset = AREA_BYTES - 4096;
    let _ = ring.read(ReadPlan { file, file_offset: 0, arena_offset, len: 8192, token: 0 });
}

#[test]
#[should_panic(expected = "after its last read")]
fn a_removed_file_is_not_read() {
    let image = image();
    let mut ring = common::ring(Features::ALL);
    let file = ring.add_file(Arc::new(DirectFile::open(image.path()).unwrap())).unwrap();
    ring.remove_file(file);
    let other = ring.add_file(Arc::new(DirectFile::open(image.path()).unwrap())).unwrap();
    assert_ne!(file, other);
    let plan = ReadPlan { file, file_offset: 0, arena_offset: 0, len: 4096, token: 0 };
    let _ = ring.read(plan);
}
