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
/// What a bucket holds, line and list.
const BUCKET: usize = 32;

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
    /// What must hold while nobody uses the cache. Tells how many blocks are here and cannot be found: those that gave way.
    fn check_invariants(&self) -> usize {
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
        let kept = usize::try_from(stats.frames_kept).unwrap();
        assert_eq!(stats.frames_small + stats.frames_main + kept, count(Phase::Ready));
        assert_eq!(count(Phase::Evicting), 0);
        count(Phase::Ready) + count(Phase::Loading) - indexed.len()
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

/// Blocks that meet in one bucket.
fn crowd(cache: &Cache, count: usize) -> Vec<BlockKey> {
    let home = |key: BlockKey| cache.index.home(key.hash());
    (0..).map(key).filter(|&k| home(k) == home(key(0))).take(count).collect()
}

#[test]
fn keys_of_one_bucket_stand_in_its_list() {
    let cache = cache(64);
    let crowd = crowd(&cache, BUCKET);
    for &key in &crowd {
        let pin = load(&cache, key);
        cache.unpin(pin);
    }
    for &key in &crowd {
        let pin = hit(&cache, key);
        let mut expected = [0; BLOCK];
        fill(key, &mut expected);
        assert_eq!(cache.bytes(&pin), expected);
        cache.unpin(pin);
    }
    assert_eq!(cache.check_invariants(), 0);
}

#[test]
fn past_the_end_of_a_list_keys_give_way_to_each_other_but_not_loads() {
    let cache = cache(64);
    let crowd = crowd(&cache, BUCKET + 2);
    let pins: Vec<_> = crowd.iter().map(|&k| load(&cache, k)).collect();
    assert_eq!(crowd.iter().filter(|&&k| cache.known(k).is_some()).count(), BUCKET);
    for (pin, &k) in pins.into_iter().zip(&crowd) {
        let mut expected = [0; BLOCK];
        fill(k, &mut expected);
        assert_eq!(cache.bytes(&pin), expected);
        cache.unpin(pin);
    }
    assert_eq!(cache.check_invariants(), 2);
    let cache = self::cache(64);
    let begin = |&key| match cache.lookup(key) {
        Lookup::Load(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let tickets: Vec<_> = crowd[..BUCKET].iter().map(begin).collect();
    assert!(matches!(cache.lookup(crowd[BUCKET]), Lookup::Full));
    for ticket in tickets {
        let _ = cache.abandon(ticket);
    }
    assert_eq!(cache.check_invariants(), 0);
}

/// A vDisk that nearly fills the cache is all there, and leaves no other block without a place.
#[test]
fn what_is_kept_shuts_nobody_out() {
    const FRAMES: u64 = 1 << 14;
    const KEPT: u64 = 15_872;
    let cache = cache_of(usize::try_from(FRAMES).unwrap(), UNIT_BYTES);
    let keep = |block| BlockKey { generation: 77, block };
    for block in 0..KEPT {
        let Lookup::Load(ticket) = cache.lookup(keep(block)) else {
            panic!("block {block} has no place")
        };
        let (pin, _) = cache.publish(ticket, 0, Purpose::Keep);
        cache.unpin(pin);
    }
    assert!(cache.index.listed_frames() > 0, "no bucket overflows: this tests nothing");
    // As many others as there are blocks of the image: each bucket is met.
    for block in 0..2 * FRAMES {
        let pin = load(&cache, key(block));
        cache.unpin(pin);
        assert!(hits(&cache, key(block)), "block {block} did not stay for a moment");
    }
    assert!((0..KEPT).all(|block| hits(&cache, keep(block))), "a kept block is gone");
    let stats = cache.stats();
    assert_eq!((stats.frames_kept, stats.full), (KEPT, 0));
    assert_eq!(cache.check_invariants(), 0);
}
