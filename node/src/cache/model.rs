//! The cache under the model checker: every interleaving (up to a bound of preemptions) of a few threads on two frames.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p diskstream-node --profile loom --lib loom`. The bytes are watched cells, so a frame that
//! is written while somebody holds a pin on it fails the model, as do two loads of one key and a lost wake-up.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use diskstream_ring::{ArenaConfig, HugePages};

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

fn load(cache: &Cache, mut ticket: LoadTicket) -> WaitingShards {
    let key = ticket.key();
    cache.load_bytes(&mut ticket)[0] = stamp(key);
    let (pin, waiting) = cache.publish(ticket, 1, Purpose::Demand);
    look(cache, &pin, key);
    cache.unpin(pin);
    waiting
}

fn look(cache: &Cache, pin: &Pin, key: BlockKey) {
    assert_eq!(cache.bytes(pin)[0], stamp(key), "bytes of another block");
}

/// One read, without waiting for anybody: whom it owes a wake-up, and whether it waits.
fn read(cache: &Cache, key: BlockKey, shard: u16) -> (u64, bool) {
    match cache.lookup(key, shard) {
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
    assert_eq!(stats.frames_free + stats.frames_small + stats.frames_main, stats.frames);
}

#[test]
fn loom_one_load_and_no_lost_wake_up() {
    check(2, 2, |cache| {
        let woken = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2u16)
            .map(|shard| {
                let (cache, woken) = (cache.clone(), woken.clone());
                thread::spawn(move || {
                    let (owes, waits) = read(&cache, A, shard);
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
    });
}

#[test]
fn loom_a_failed_load_wakes_and_is_forgotten() {
    check(2, 1, |cache| {
        let Lookup::Load(ticket) = cache.lookup(A, 0) else { panic!("an empty cache") };
        let other = {
            let cache = cache.clone();
            thread::spawn(move || read(&cache, A, 1).1)
        };
        let woken = cache.abandon(ticket);
        let waits = other.join().expect("no panic");
        assert!(!waits || woken.contains(1), "shard 1 waits for ever");
        settled(&cache);
    });
}

#[test]
fn loom_a_pinned_frame_is_never_reused() {
    check(2, 1, |cache| {
        let (owes, _) = read(&cache, A, 0);
        assert_eq!(owes, 0);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || {
                if let Lookup::Hit(pin) = lookup_without_load(&cache, A) {
                    look(&cache, &pin, A);
                    let again = cache.pin_again(&pin);
                    cache.unpin(pin);
                    look(&cache, &again, A);
                    cache.unpin_token(again.into_token());
                }
            })
        };
        // Wants the only frame.
        read(&cache, C, 0);
        reader.join().expect("no panic");
        settled(&cache);
    });
}

/// A hit, or nothing.
fn lookup_without_load(cache: &Cache, key: BlockKey) -> Lookup {
    match cache.lookup(key, 1) {
        Lookup::Load(ticket) => {
            let _ = cache.abandon(ticket);
            Lookup::Full
        }
        other => other,
    }
}

#[test]
fn loom_two_misses_share_the_frames() {
    check(2, 2, |cache| {
        read(&cache, A, 0);
        read(&cache, B, 0);
        let other = {
            let cache = cache.clone();
            thread::spawn(move || read(&cache, A, 1))
        };
        // Evicts A or B while the other looks A up.
        read(&cache, C, 0);
        other.join().expect("no panic");
        settled(&cache);
    });
}

#[test]
fn loom_three_shards_on_one_frame() {
    check(1, 1, |cache| {
        let threads: Vec<_> = [A, C]
            .into_iter()
            .zip(1u16..)
            .map(|(key, shard)| {
                let cache = cache.clone();
                thread::spawn(move || (shard, key, read(&cache, key, shard)))
            })
            .collect();
        let (own, _) = read(&cache, A, 0);
        let ends: Vec<_> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
        let woken = ends.iter().fold(own, |all, (.., (owes, _))| all | owes);
        for (shard, _, (_, waits)) in ends {
            assert!(!waits || woken >> shard & 1 == 1, "shard {shard} waits for ever");
        }
        settled(&cache);
    });
}

#[test]
fn loom_forgetting_while_it_is_read() {
    check(2, 2, |cache| {
        read(&cache, A, 0);
        let other = {
            let cache = cache.clone();
            thread::spawn(move || read(&cache, A, 1))
        };
        cache.forget_generation(A.generation);
        other.join().expect("no panic");
        read(&cache, B, 0);
        read(&cache, C, 0);
        settled(&cache);
    });
}
