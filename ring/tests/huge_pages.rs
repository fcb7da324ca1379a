//! Arenas on reserved huge pages and beyond one registered piece, read into by a ring.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::io::Write;
use std::sync::Arc;

use common::{ONE_GIB, Reservation, TWO_MIB};
use diskstream_ring::arena::PIECE_BYTES;
use diskstream_ring::{
    Arena, ArenaConfig, Backing, Completion, DirectFile, Features, HugePages, ReadPlan, Ring,
    RingConfig, SendPlan, ZeroCopy,
};

/// Reads a file into `offset` of the arena through a ring, and compares.
fn read_into(arena: &Arc<Arena>, offset: usize) {
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[1] ^ 0x5A).collect();
    temp.write_all(&content).unwrap();
    let config = RingConfig { permit: Features::ALL, ..common::small() };
    let mut ring = Ring::new(&config, Some(Arc::clone(arena))).unwrap();
    let file = ring.add_file(Arc::new(DirectFile::open(temp.path()).unwrap())).unwrap();
    let len = u32::try_from(content.len()).unwrap();
    ring.read(ReadPlan { file, file_offset: 0, arena_offset: offset, len, token: 0 }).unwrap();
    let each = |_: &mut Ring, over: &mut bool, completion| {
        let Completion::Read { result, .. } = completion else { panic!("{completion:?}") };
        assert_eq!(result, Ok(len));
        *over = true;
    };
    common::turn_until(&mut ring, &mut false, each, |over| *over);
    // SAFETY: the read is over.
    assert!(unsafe { arena.bytes(offset, content.len()) } == content);
}

#[test]
fn two_mebibyte_pages() {
    let Some(_reservation) = Reservation::new(TWO_MIB, 4) else {
        eprintln!("SKIPPED: needs root and 8 MiB of memory that is not fragmented");
        return;
    };
    let config = ArenaConfig { bytes: (8 << 20) - 5, huge_pages: HugePages::TwoMiB };
    let arena = Arc::new(Arena::new(&config).unwrap());
    assert_eq!((arena.backing(), arena.len()), (Backing::TwoMiB, 8 << 20));
    // Across the border of two pages.
    read_into(&arena, (2 << 20) - (512 << 10));
    // More than is reserved: falls back, says so, works.
    let larger = ArenaConfig { bytes: 64 << 20, huge_pages: HugePages::TwoMiB };
    let larger = Arc::new(Arena::new(&larger).unwrap());
    assert!(larger.backing() < Backing::TwoMiB);
    read_into(&larger, 0);
}

#[test]
fn a_gibibyte_page() {
    let Some(_reservation) = Reservation::new(ONE_GIB, 1) else {
        eprintln!(
            "SKIPPED: needs root, 1 GiB of memory in one piece, and a processor with such pages"
        );
        return;
    };
    let config = ArenaConfig { bytes: 1 << 20, huge_pages: HugePages::OneGiB };
    let arena = Arc::new(Arena::new(&config).unwrap());
    assert_eq!((arena.backing(), arena.len()), (Backing::OneGiB, 1 << 30), "rounded up");
    read_into(&arena, (1 << 30) - (1 << 20));
    drop(arena);
    sends_are_copied_from_a_gibibyte_page(&config);
    let arena = Arc::new(Arena::new(&config).unwrap());
    assert_eq!(arena.backing(), Backing::OneGiB);
    // The page is taken: falls back, says so, works.
    let second = Arc::new(Arena::new(&config).unwrap());
    assert!(second.backing() < Backing::OneGiB);
    read_into(&second, 0);
}

/// One fragment from its end would be charged with a gibibyte.
fn sends_are_copied_from_a_gibibyte_page(config: &ArenaConfig) {
    let arena = Arc::new(Arena::with_headers(config, 1).unwrap());
    assert_eq!(arena.backing(), Backing::OneGiB);
    let on = RingConfig { zero_copy: ZeroCopy::On, ..common::small() };
    let mut ring = Ring::new(&on, Some(arena)).unwrap();
    let (socket, to) = common::add(&mut ring, &common::config(common::V4));
    let mut plan = SendPlan::new();
    plan.push_scratch(&[1; 76]).unwrap();
    plan.push_arena(4 << 20, 8192).unwrap();
    plan.peer = to;
    ring.send(socket, plan).unwrap();
    let each = |ring: &mut Ring, ended: &mut bool, completion| match completion {
        Completion::Sent { result, .. } => {
            assert_eq!(result, Ok(8268));
            *ended = true;
        }
        Completion::Received(received) => ring.recycle(received),
        other => panic!("{other:?}"),
    };
    common::turn_until(&mut ring, &mut false, each, |ended| *ended);
    assert_eq!(ring.stats().sends_zero_copy, 0);
}

#[test]
fn an_arena_of_two_pieces() {
    let config = ArenaConfig { bytes: PIECE_BYTES + (2 << 20), huge_pages: HugePages::Auto };
    let arena = match Arena::new(&config) {
        Ok(arena) => Arc::new(arena),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
    read_into(&arena, PIECE_BYTES);
    read_into(&arena, PIECE_BYTES - (1 << 20));
}
