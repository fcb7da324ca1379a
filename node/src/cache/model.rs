//! The cache under the model checker: every interleaving (up to a bound of preemptions) of a few threads on two frames.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p diskstream-node --profile loom --lib loom`. The bytes are watched cells, so a frame that
//! is written while somebody holds a pin on it fails the model, as do two loads of one key and a lost wake-up. That it does is proved by
//! mistakes that are planted one by one: each must be found by one of the models that pass without it.
#![cfg(loom)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use diskstream_ring::{ArenaConfig, HugePages};

use super::sync::{Mistake, plant};
use super::*;

const A: BlockKey = BlockKey { generation: 1, block: 1 };
const B: BlockKey = BlockKey { generation: 1, block: 2 };
const C: BlockKey = BlockKey { generation: 2, block: 1 };

/// Explores with at most `preemptions` of them, unless `LOOM_MAX_PREEMPTIONS` says otherwise. Most faults of lock-free code
/// show with two (Musuvathi and Qadeer, PLDI 2007); three threads with two take longer than a CI run may (measured: minutes).
fn check(preemptions: usize, frames: usize, model: impl Fn(Arc<Cache>) + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    // Gives the size only: the model's bytes are watched cells.
    let config = ArenaConfig { bytes: frames * UNIT_BYTES, huge_pages: HugePages::Off };
    let arena = std::sync::Arc::new(Arena::new(&config).expect("some pages"));
    builder.check(move || {
        model(Arc::new(Cache::new(arena.clone(), UNIT_BYTES).expect("whole frames")));
    });
}

fn stamp(key: BlockKey) -> u8 {
    u8::try_from(key.generation * 16 + key.block).expect("small keys")
}

fn load(cache: &ShardCache, ticket: LoadTicket) -> WaitingShards {
    load_for(cache, ticket, Purpose::Demand)
}

fn load_for(cache: &ShardCache, mut ticket: LoadTicket, purpose: Purpose) -> WaitingShards {
    let key = ticket.key();
    cache.load_bytes(&mut ticket)[0] = stamp(key);
    let (pin, waiting) = cache.publish(ticket, 1, purpose);
    look(cache, &pin, key);
    cache.unpin(pin);
    waiting
}

fn look(cache: &ShardCache, pin: &Pin, key: BlockKey) {
    assert_eq!(cache.bytes(pin)[0], stamp(key), "bytes of another block");
}

/// One read, without waiting for anybody: whom it owes a wake-up, and whether it waits.
fn read(cache: &ShardCache, key: BlockKey) -> (u64, bool) {
    match cache.lookup(key) {
        Lookup::Hit(pin) => {
            look(cache, &pin, key);
            cache.unpin(pin);
            (0, false)
        }
        Lookup::Load(ticket) => (load(cache, ticket).0, false),
        Lookup::Wait => (0, true),
        Lookup::Full => (0, false),
    }
}

fn settled(cache: &Cache) {
    assert_eq!(cache.frames_pinned(), 0);
    let stats = cache.stats();
    let kept = usize::try_from(stats.frames_kept).expect("a few");
    assert_eq!(stats.frames_free + stats.frames_small + stats.frames_main + kept, stats.frames);
}

#[test]
fn loom_one_load_and_no_lost_wake_up() {
    check(2, 2, one_load);
}

fn one_load(cache: Arc<Cache>) {
    let woken = loom::sync::Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..2u16)
        .map(|shard| {
            let (cache, woken) = (cache.for_shard(shard), woken.clone());
            thread::spawn(move || {
                let (owes, waits) = read(&cache, A);
                woken.fetch_or(owes, Ordering::AcqRel);
                (shard, waits)
            })
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
    let woken = woken.load(Ordering::Acquire);
    for (shard, waits) in ends {
        assert!(!waits || woken >> shard & 1 == 1, "shard {shard} waits for ever");
    }
    assert_eq!(cache.stats().loads, 1, "one load of one key");
    settled(&cache);
}

#[test]
fn loom_a_failed_load_wakes_and_is_forgotten() {
    check(2, 1, |cache| {
        let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
        let Lookup::Load(ticket) = ours.lookup(A) else { panic!("an empty cache") };
        let other = thread::spawn(move || read(&theirs, A).1);
        let woken = ours.abandon(ticket);
        let waits = other.join().expect("no panic");
        assert!(!waits || woken.contains(1), "shard 1 waits for ever");
        settled(&cache);
    });
}

#[test]
fn loom_a_pinned_frame_is_never_reused() {
    check(2, 1, pinned_and_wanted);
}

/// One shard holds the only frame for a while, which the other one wants.
fn pinned_and_wanted(cache: Arc<Cache>) {
    let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
    assert_eq!(read(&ours, A).0, 0);
    let reader = thread::spawn(move || {
        if let Lookup::Hit(pin) = lookup_without_load(&theirs, A) {
            look(&theirs, &pin, A);
            let again = theirs.pin_again(&pin);
            theirs.unpin(pin);
            look(&theirs, &again, A);
            theirs.unpin_token(again.into_token());
        }
    });
    read(&ours, C);
    reader.join().expect("no panic");
    settled(&cache);
}

/// A hit, or nothing.
fn lookup_without_load(cache: &ShardCache, key: BlockKey) -> Lookup {
    match cache.lookup(key) {
        Lookup::Load(ticket) => {
            let _ = cache.abandon(ticket);
            Lookup::Full
        }
        other => other,
    }
}

/// The shortest meeting of a hit and an eviction: one look each, so that it can be searched with more preemptions.
fn hit_and_evict(cache: Arc<Cache>) {
    let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
    read(&ours, A);
    let reader = thread::spawn(move || {
        if let Some(incarnation) = theirs.pin(0, A) {
            let pin = Pin::new(0, incarnation, 1);
            look(&theirs, &pin, A);
            theirs.unpin(pin);
        }
    });
    read(&ours, C);
    reader.join().expect("no panic");
    settled(&cache);
}

#[test]
fn loom_a_hit_meets_an_eviction() {
    check(3, 1, hit_and_evict);
}

#[test]
fn loom_a_shard_comes_while_another_evicts() {
    check(2, 1, |cache| {
        let ours = cache.for_shard(0);
        read(&ours, A);
        let late = {
            let cache = cache.clone();
            thread::spawn(move || {
                let theirs = cache.for_shard(1);
                if let Some(incarnation) = theirs.pin(0, A) {
                    let pin = Pin::new(0, incarnation, 1);
                    look(&theirs, &pin, A);
                    theirs.unpin(pin);
                }
            })
        };
        read(&ours, C);
        late.join().expect("no panic");
        settled(&cache);
    });
}

#[test]
fn loom_two_misses_share_the_frames() {
    check(2, 2, |cache| {
        let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
        read(&ours, A);
        read(&ours, B);
        let other = thread::spawn(move || read(&theirs, A));
        // Evicts A or B while the other looks A up.
        read(&ours, C);
        other.join().expect("no panic");
        settled(&cache);
    });
}

/// Three at once are many interleavings: two of them only hold the frame that the third one wants.
#[test]
fn loom_three_shards_on_one_frame() {
    check(1, 1, |cache| {
        let ours = cache.for_shard(0);
        read(&ours, A);
        let holders: Vec<_> = (1..3u16)
            .map(|shard| {
                let theirs = cache.for_shard(shard);
                thread::spawn(move || {
                    if let Some(incarnation) = theirs.pin(0, A) {
                        let pin = Pin::new(0, incarnation, shard);
                        look(&theirs, &pin, A);
                        theirs.unpin(pin);
                    }
                })
            })
            .collect();
        read(&ours, C);
        for holder in holders {
            holder.join().expect("no panic");
        }
        settled(&cache);
    });
}

/// In models a bucket's line has one entry: the second frame is in its list.
#[test]
fn loom_a_listed_frame_leaves_while_it_is_looked_up() {
    check(1, 2, |cache| {
        let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
        // The third takes the first one's place in the line; B stays in the list, and is the next to go.
        for key in [A, B, C] {
            read(&ours, key);
        }
        let other = thread::spawn(move || read(&theirs, B));
        read(&ours, A);
        other.join().expect("no panic");
        settled(&cache);
    });
}

#[test]
fn loom_one_load_of_a_listed_block() {
    check(2, 3, |cache| {
        let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
        read(&ours, A);
        let other = thread::spawn(move || read(&theirs, B));
        read(&ours, B);
        other.join().expect("no panic");
        assert_eq!(cache.stats().loads, 2, "one load of each key");
        settled(&cache);
    });
}

#[test]
fn loom_what_is_kept_stays() {
    check(1, 2, |cache| {
        let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
        // B is in the line, and gives way to C: so A is in the list for good.
        read(&ours, B);
        let Lookup::Load(ticket) = ours.lookup(A) else { panic!("a free frame") };
        let other = thread::spawn(move || {
            read(&theirs, C);
            read(&theirs, A).1
        });
        let woken = load_for(&ours, ticket, Purpose::Keep);
        read(&ours, B);
        let waits = other.join().expect("no panic");
        assert!(!waits || woken.contains(1), "shard 1 waits for ever");
        let Lookup::Hit(pin) = ours.lookup(A) else { panic!("a kept block is gone") };
        look(&ours, &pin, A);
        ours.unpin(pin);
        settled(&cache);
    });
}

/// Whether a model fails when this mistake is made.
fn is_found(mistake: Mistake, model: fn(Arc<Cache>)) -> bool {
    plant(Some(mistake));
    let end = catch_unwind(AssertUnwindSafe(|| check(3, 1, model)));
    plant(None);
    end.is_err()
}

#[test]
fn loom_finds_a_count_that_is_seen_late() {
    assert!(is_found(Mistake::AnnounceRelaxed, hit_and_evict));
}

#[test]
fn loom_finds_an_eviction_without_a_look() {
    assert!(is_found(Mistake::EvictWithoutLook, hit_and_evict));
}

#[test]
fn loom_finds_a_key_that_was_read_too_early() {
    assert!(is_found(Mistake::KeyNotReread, pinned_and_wanted));
}

#[test]
fn loom_finds_a_pin_that_goes_before_its_reads() {
    assert!(is_found(Mistake::UnpinRelaxed, hit_and_evict));
}

#[test]
fn loom_finds_a_block_that_comes_before_its_bytes() {
    assert!(is_found(Mistake::PublishRelaxed, one_load_and_look));
}

/// One loads, the other hits, or not.
fn one_load_and_look(cache: Arc<Cache>) {
    let (ours, theirs) = (cache.for_shard(0), cache.for_shard(1));
    let other = thread::spawn(move || read(&theirs, A).1);
    read(&ours, A);
    other.join().expect("no panic");
}

#[test]
fn loom_finds_an_insertion_that_does_not_look_again() {
    assert!(is_found(Mistake::ClaimAfterAnOldScan, one_load));
}

#[test]
fn loom_finds_a_wait_without_a_look() {
    assert!(is_found(Mistake::WaitWithoutLook, one_load));
}
