//! The whole cache: against an oracle, under threads, and its policy on a scan.

#![cfg(not(loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskstream_ring::{ArenaConfig, HugePages};
use proptest::prelude::*;

use super::*;

mod oracle;
mod policy;
mod stress;

const BLOCK: usize = 2 * UNIT_BYTES;

fn cache(frames: usize) -> ShardCache {
    cache_of(frames, BLOCK)
}

fn cache_of(frames: usize, block_bytes: usize) -> ShardCache {
    let config = ArenaConfig { bytes: frames * block_bytes, huge_pages: HugePages::Off };
    let arena = Arc::new(Arena::new(&config).unwrap());
    Arc::new(Cache::new(arena, block_bytes).unwrap()).for_shard(0)
}

#[test]
fn what_rings_keep_for_headers_holds_no_block() {
    let config = ArenaConfig { bytes: 4 << 20, huge_pages: HugePages::Off };
    let arena = Arc::new(Arena::with_headers(&config, 2).unwrap());
    let cache = Arc::new(Cache::new(Arc::clone(&arena), BLOCK).unwrap()).for_shard(0);
    let reserved = 2 * diskstream_ring::arena::AREA_BYTES / BLOCK;
    let stats = cache.stats();
    assert_eq!(cache.usable_frames(), (4 << 20) / BLOCK - reserved);
    assert_eq!((stats.frames, stats.frames_reserved), (cache.usable_frames(), reserved));
    assert_eq!(stats.frames_free, stats.frames);
    // However many blocks come and go, none lies there.
    for block in 0..2000 {
        let Lookup::Load(ticket) = cache.lookup(key(block)) else { panic!("a new block") };
        assert!(!arena.is_reserved(cache.load_offset(&ticket), BLOCK));
        let _nobody = cache.abandon(ticket);
    }
}

fn key(block: u64) -> BlockKey {
    BlockKey { generation: 0xfeed, block }
}

/// Content that names its key, so that a block of another key is never taken for it.
fn fill(key: BlockKey, bytes: &mut [u8]) {
    for (at, word) in bytes.chunks_exact_mut(16).enumerate() {
        word[..8].copy_from_slice(&(key.block ^ (at as u64) << 32).to_le_bytes());
        word[8..].copy_from_slice(&key.generation.to_le_bytes());
    }
}

fn load(cache: &ShardCache, key: BlockKey) -> Pin {
    let Lookup::Load(mut ticket) = cache.lookup(key) else { panic!("{key:?} is there already") };
    fill(key, cache.load_bytes(&mut ticket));
    let (pin, waiting) = cache.publish(ticket, cache.block_bytes(), Purpose::Demand);
    assert!(waiting.is_empty());
    pin
}

fn hit(cache: &ShardCache, key: BlockKey) -> Pin {
    match cache.lookup(key) {
        Lookup::Hit(pin) => pin,
        other => panic!("{key:?}: {other:?}"),
    }
}

fn hits(cache: &ShardCache, key: BlockKey) -> bool {
    match cache.lookup(key) {
        Lookup::Hit(pin) => {
            cache.unpin(pin);
            true
        }
        Lookup::Load(ticket) => {
            let _ = cache.abandon(ticket);
            false
        }
        other => panic!("{other:?}"),
    }
}

impl Cache {
    /// What must hold while nobody uses the cache.
    fn check_invariants(&self) {
        let mut indexed = BTreeMap::new();
        for (bucket, number) in self.index.entries() {
            let frame = &self.frames[number as usize];
            let home = self.index.home(frame.key().hash());
            assert_eq!(bucket, home, "entry of frame {number} is in a foreign bucket");
            let phase = frame.state().phase();
            assert!(matches!(phase, Phase::Loading | Phase::Ready), "frame {number}: {phase:?}");
            assert!(indexed.insert(frame.key(), number).is_none(), "two entries of one key");
        }
        let count = |phase| self.frames.iter().filter(|f| f.state().phase() == phase).count();
        let stats = self.stats();
        assert_eq!(stats.frames_free, count(Phase::Free));
        assert_eq!(stats.frames_small + stats.frames_main, count(Phase::Ready));
        assert_eq!(count(Phase::Evicting), 0);
    }
}

#[test]
fn sizes_are_checked() {
    let arena =
        |bytes| Arc::new(Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Off }).unwrap());
    for block_bytes in [0, 512, 2048, 4097, 65_537, 2 << 20] {
        let error = Cache::new(arena(4 << 20), block_bytes).err();
        assert_eq!(error, Some(CacheError::BlockBytes { block_bytes }));
    }
    let error = Cache::new(arena(4096), 65_536).err().unwrap();
    assert!(error.to_string().contains("--cache"), "{error}");
    // The only frame has the headers of a ring in it.
    let config = ArenaConfig { bytes: 1 << 20, huge_pages: HugePages::Off };
    let small = Arc::new(Arena::with_headers(&config, 1).unwrap());
    let error = Cache::new(small, 1 << 20).err().unwrap();
    assert!(error.to_string().contains("headers"), "{error}");
    assert_eq!(cache_of(3, 1 << 20).stats().frames, 3);
}

#[test]
fn a_short_block_is_zeroed_summed_and_marked() {
    let cache = cache_of(1, 4 * UNIT_BYTES);
    // Something foreign in the frame first.
    let pin = load(&cache, key(1));
    cache.unpin(pin);
    let Lookup::Load(mut ticket) = cache.lookup(key(2)) else { panic!() };
    assert_eq!(cache.load_offset(&ticket), 0);
    let bytes = cache.load_bytes(&mut ticket);
    bytes[..UNIT_BYTES].fill(0);
    bytes[UNIT_BYTES..UNIT_BYTES + 100].fill(7);
    let (pin, _) = cache.publish(ticket, UNIT_BYTES + 100, Purpose::Demand);
    let bytes = cache.bytes(&pin);
    assert!(bytes[UNIT_BYTES..UNIT_BYTES + 100].iter().all(|&b| b == 7));
    assert!(bytes[UNIT_BYTES + 100..].iter().all(|&b| b == 0), "no byte of another block is left");
    let zero = [true, false, true, true];
    for (unit, expected) in zero.into_iter().enumerate() {
        assert_eq!(cache.unit_is_zero(&pin, unit), expected);
        let sum = crc32c::crc32c(&bytes[unit * UNIT_BYTES..][..UNIT_BYTES]);
        assert_eq!(cache.unit_sum(&pin, unit), sum);
    }
    cache.unpin(pin);
}

#[test]
fn the_largest_block_has_four_words_of_zero_marks() {
    let cache = cache_of(1, 1 << 20);
    let Lookup::Load(mut ticket) = cache.lookup(key(0)) else { panic!() };
    let bytes = cache.load_bytes(&mut ticket);
    bytes.fill(0);
    for unit in [0, 63, 64, 200, 255] {
        bytes[unit * UNIT_BYTES + 4095] = 1;
    }
    let (pin, _) = cache.publish(ticket, 1 << 20, Purpose::Demand);
    let data: Vec<_> = (0..256).filter(|&unit| !cache.unit_is_zero(&pin, unit)).collect();
    assert_eq!(data, [0, 63, 64, 200, 255]);
    cache.unpin(pin);
}

#[test]
fn one_load_the_others_wait_and_are_named() {
    let cache = cache(4);
    let Lookup::Load(ticket) = cache.lookup(key(1)) else { panic!() };
    let others = [5, 63].map(|shard| cache.cache.for_shard(shard));
    for shard in [&others[0], &cache, &others[1], &others[0]] {
        assert!(matches!(shard.lookup(key(1)), Lookup::Wait));
    }
    let (pin, waiting) = cache.publish(ticket, 0, Purpose::Demand);
    assert_eq!(waiting.iter().collect::<Vec<_>>(), [0, 5, 63]);
    let again = hit(&cache, key(1));
    assert_eq!(cache.arena_offset(&again), cache.arena_offset(&pin));
    cache.unpin(again);
    cache.unpin(pin);
    assert_eq!(cache.frames_pinned(), 0);
}

#[test]
fn a_failed_load_is_forgotten_and_its_waiters_named() {
    let cache = cache(1);
    let Lookup::Load(ticket) = cache.lookup(key(1)) else { panic!() };
    assert!(matches!(cache.cache.for_shard(2).lookup(key(1)), Lookup::Wait));
    assert_eq!(cache.abandon(ticket), WaitingShards(1 << 2));
    let pin = load(&cache, key(1));
    cache.unpin(pin);
    assert_eq!(cache.stats().abandoned, 1);
    cache.check_invariants();
}

#[test]
fn full_means_that_every_frame_is_in_use() {
    let cache = cache(2);
    let pinned = load(&cache, key(1));
    let Lookup::Load(loading) = cache.lookup(key(2)) else { panic!() };
    assert!(matches!(cache.lookup(key(3)), Lookup::Full));
    cache.unpin(pinned);
    let pin = load(&cache, key(3));
    assert!(matches!(cache.lookup(key(1)), Lookup::Full));
    assert_eq!(cache.stats().full, 2);
    cache.unpin(pin);
    let _ = cache.abandon(loading);
    cache.check_invariants();
}

#[test]
fn a_pin_survives_as_a_token() {
    let cache = cache(1);
    let pin = load(&cache, key(1));
    let second = cache.pin_again(&pin);
    cache.unpin(pin);
    let token = second.into_token();
    assert!(matches!(cache.lookup(key(2)), Lookup::Full));
    cache.unpin_token(token);
    let pin = load(&cache, key(2));
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.unpin_token(token)))
            .is_err()
    );
    let _ = pin.into_token();
}

#[test]
fn a_token_is_the_whole_pin() {
    let cache = cache(3);
    let pin = load(&cache.cache.for_shard(63), key(1));
    let (frame, incarnation, shard) = (pin.frame, pin.incarnation, pin.shard);
    let pin = Pin::from_token(pin.into_token());
    assert_eq!((pin.frame, pin.incarnation, pin.shard), (frame, incarnation, shard));
    let _ = pin.into_token();
    let extreme = Pin::new(u32::MAX, u32::MAX, SHARDS_MAX - 1);
    let back = Pin::from_token(extreme.into_token());
    assert_eq!((back.frame, back.shard), (u32::MAX, SHARDS_MAX - 1));
    assert!(back.is_of_life(u32::MAX) && !back.is_of_life(0));
    let _ = back.into_token();
}

#[test]
#[should_panic(expected = "a pin of shard 0")]
fn a_pin_goes_back_to_its_shard() {
    let cache = cache(1);
    let pin = load(&cache, key(1));
    cache.cache.for_shard(1).unpin(pin);
}

#[test]
#[should_panic(expected = "has its part of the cache already")]
fn a_shard_is_one() {
    let cache = cache(1);
    let _ = cache.cache.for_shard(0);
}

#[test]
fn what_a_shard_leaves_behind_stays_pinned() {
    let cache = cache(1);
    let other = cache.cache.for_shard(1);
    let token = load(&other, key(1)).into_token();
    drop(other);
    assert!(matches!(cache.lookup(key(2)), Lookup::Full));
    cache.cache.for_shard(1).unpin_token(token);
    let pin = load(&cache, key(2));
    cache.unpin(pin);
    assert_eq!(cache.frames_pinned(), 0);
}

#[test]
fn each_shard_keeps_a_frame_for_itself() {
    let cache = cache(1);
    let others = [1, 63].map(|shard| cache.cache.for_shard(shard));
    let pin = load(&cache, key(1));
    let pins: Vec<_> = others.iter().map(|other| hit(other, key(1))).collect();
    cache.unpin(pin);
    for (other, pin) in others.iter().zip(pins) {
        assert!(matches!(cache.lookup(key(2)), Lookup::Full));
        assert_eq!(cache.frames_pinned(), 1);
        other.unpin(pin);
    }
    let pin = load(&cache, key(2));
    cache.unpin(pin);
}

#[test]
#[should_panic(expected = "a Pin was dropped")]
fn a_dropped_pin_is_caught() {
    drop(load(&cache(1), key(1)));
}

#[test]
#[should_panic(expected = "a LoadTicket was dropped")]
fn a_dropped_ticket_is_caught() {
    drop(cache(1).lookup(key(1)));
}

#[test]
fn another_content_never_answers() {
    let cache = cache(4);
    let old = load(&cache, key(1));
    let new_key = BlockKey { generation: 0xbeef, block: 1 };
    let new = load(&cache, new_key);
    for (pin, key) in [(old, key(1)), (new, new_key)] {
        let mut expected = [0; BLOCK];
        fill(key, &mut expected);
        assert_eq!(cache.bytes(&pin), expected);
        let found = hit(&cache, key);
        assert_eq!(cache.arena_offset(&found), cache.arena_offset(&pin));
        cache.unpin(found);
        cache.unpin(pin);
    }
    cache.check_invariants();
}

#[test]
fn keys_of_one_bucket_give_way_to_each_other() {
    let cache = cache(64);
    let home = cache.index.home(key(0).hash());
    let crowd: Vec<_> =
        (0..).map(key).filter(|k| cache.index.home(k.hash()) == home).take(9).collect();
    let pins: Vec<_> = crowd.iter().map(|&k| load(&cache, k)).collect();
    assert_eq!(crowd.iter().filter(|&&k| cache.index.candidates(k.hash()).count() > 0).count(), 7);
    for (pin, &k) in pins.into_iter().zip(&crowd) {
        let mut expected = [0; BLOCK];
        fill(k, &mut expected);
        assert_eq!(cache.bytes(&pin), expected);
        cache.unpin(pin);
    }
    cache.check_invariants();
    // Seven loads under way in one bucket leave no room for an eighth.
    let cache = self::cache(64);
    let tickets: Vec<_> = crowd[..7]
        .iter()
        .map(|&k| match cache.lookup(k) {
            Lookup::Load(ticket) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(matches!(cache.lookup(crowd[7]), Lookup::Full));
    for ticket in tickets {
        let _ = cache.abandon(ticket);
    }
    cache.check_invariants();
}
