//! What is measured.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use anyhow::Context;
use diskstream_node::cache::{BLOCK_BYTES_MIN, BlockKey, Cache, Lookup, Purpose};
use diskstream_ring::{Arena, ArenaConfig, HugePages};

use super::race::{Work, race};
use super::report::Cost;
use crate::random::Random;

/// One thing that is measured.
pub struct Step {
    /// What is done.
    pub name: &'static str,
    threads: usize,
    prepare: Box<dyn Fn(usize) -> Work<'static> + Sync>,
}

impl Step {
    /// Runs it so many times.
    pub fn measure(&self, rounds: usize, operations: u64) -> Cost {
        let ns = (0..rounds).map(|_| race(self.threads, operations, &*self.prepare)).collect();
        Cost::new(self.name, self.threads, ns)
    }
}

/// A word on a line of its own.
#[repr(align(128))]
struct Alone(AtomicU64);

fn words(count: usize) -> Arc<[Alone]> {
    (0..count).map(|_| Alone(AtomicU64::new(0))).collect()
}

/// Every step. `frames` is the size of the large cache.
///
/// # Errors
/// When there is no memory for it.
pub fn all(frames: usize) -> anyhow::Result<Vec<Step>> {
    let mut steps = bare();
    let small = filled(1024)?;
    let large = filled(frames)?;
    let hot = |name, threads, cache: &Arc<Cache>, blocks| lookups(name, threads, cache, blocks);
    steps.extend([
        hot("hit: lookup and unpin, one block", 1, &small, Blocks::One),
        hot("hit: lookup and unpin, the same block", 2, &small, Blocks::One),
        hot("hit: lookup and unpin, a block each", 2, &small, Blocks::Own),
        hot("hit: any of 1024 blocks", 1, &small, Blocks::Any(1024)),
        hot("hit: any of 1024 blocks", 2, &small, Blocks::Any(1024)),
        hot("hit: any block of the large cache", 1, &large, Blocks::Any(frames as u64)),
        hot("hit: any block of the large cache", 2, &large, Blocks::Any(frames as u64)),
        held("hit: a block that the shard holds already", &small),
    ]);
    Ok(steps)
}

/// Multiplications of other work. Without any, a core that has a line makes dozens of operations on it before the other one gets it; a
/// shard has a whole read to serve in between.
const BUSY: u32 = 300;

fn work(multiplications: u32) {
    (0..multiplications).fold(black_box(1u64), |x, _| black_box(x.wrapping_mul(3)));
}

/// Atomics alone: what a pin costs in the frame's word, and in a table of the shard's own.
fn bare() -> Vec<Step> {
    let shared = |name, threads, apart: bool, busy: u32| Step {
        name,
        threads,
        prepare: {
            let words = words(2);
            Box::new(move |thread| {
                let (words, at) = (Arc::clone(&words), if apart { thread } else { 0 });
                Box::new(move |operations| {
                    for _ in 0..operations {
                        black_box(words[at].0.fetch_add(1, Acquire));
                        work(busy);
                        black_box(words[at].0.fetch_sub(1, Release));
                        work(busy);
                    }
                })
            })
        },
    };
    vec![
        shared("bare: pin and unpin in the frame's word", 1, false, 0),
        shared("bare: pin and unpin in the frame's word, the same", 2, false, 0),
        shared("bare: pin and unpin in the frame's word, one each", 2, true, 0),
        own("bare: count, look, uncount in an own table", 1, true, 0),
        own("bare: count, look, uncount in an own table, the same", 2, true, 0),
        own("bare: the same without order (wrong; the price of the order)", 1, false, 0),
        shared("bare, and other work after each: in the frame's word", 1, false, BUSY),
        shared("bare, and other work after each: in the frame's word, the same", 2, false, BUSY),
        own("bare, and other work after each: in an own table", 1, true, BUSY),
        own("bare, and other work after each: in an own table, the same", 2, true, BUSY),
        bounce(),
    ]
}

/// A count of the thread's own, and a look at a word that nobody writes.
fn own(name: &'static str, threads: usize, ordered: bool, busy: u32) -> Step {
    let (counts, word) = (words(2), words(1));
    let prepare = move |thread: usize| -> Work<'static> {
        let (counts, word) = (Arc::clone(&counts), Arc::clone(&word));
        Box::new(move |operations| {
            let count = &counts[thread].0;
            for _ in 0..operations {
                count.store(1, if ordered { SeqCst } else { Relaxed });
                black_box(word[0].0.load(SeqCst));
                work(busy);
                count.store(0, Release);
                work(busy);
            }
        })
    };
    Step { name, threads, prepare: Box::new(prepare) }
}

/// A line that goes to and fro: each thread waits until the other has written it.
fn bounce() -> Step {
    let word = words(1);
    let prepare = move |thread: usize| -> Work<'static> {
        let word = Arc::clone(&word);
        Box::new(move |operations| {
            for _ in 0..operations {
                let word = &word[0].0;
                while word.load(Acquire) % 2 != thread as u64 {
                    std::hint::spin_loop();
                }
                word.fetch_add(1, AcqRel);
            }
        })
    };
    Step {
        name: "bare: a line to the other core and back (two transfers)",
        threads: 2,
        prepare: Box::new(prepare),
    }
}

/// Which blocks a thread looks up.
#[derive(Clone, Copy)]
enum Blocks {
    One,
    Own,
    Any(u64),
}

fn key(block: u64) -> BlockKey {
    BlockKey { generation: 1, block }
}

/// A cache with all its blocks, from 0, in it.
fn filled(frames: usize) -> anyhow::Result<Arc<Cache>> {
    // A bucket that is full lets blocks go: with a tenth more frames than blocks those have a place to come back to.
    let bytes = (frames + frames / 8) * BLOCK_BYTES_MIN;
    let config = ArenaConfig { bytes, huge_pages: HugePages::Auto };
    let arena = Arc::new(Arena::new(&config).context("--frames: memory for the cache")?);
    let cache = Arc::new(Cache::new(arena, BLOCK_BYTES_MIN)?);
    let shard = cache.for_shard(0);
    for block in 0..frames as u64 {
        match shard.lookup(key(block)) {
            Lookup::Load(ticket) => {
                let (pin, _) = shard.publish(ticket, 0, Purpose::Demand);
                shard.unpin(pin);
            }
            other => unreachable!("each block comes once: {other:?}"),
        }
    }
    drop(shard);
    Ok(cache)
}

fn lookups(name: &'static str, threads: usize, cache: &Arc<Cache>, blocks: Blocks) -> Step {
    let cache = Arc::clone(cache);
    let prepare = move |thread: usize| -> Work<'static> {
        let shard = cache.for_shard(u16::try_from(thread).expect("two"));
        let mut random = Random::new(thread as u64);
        Box::new(move |operations| {
            for _ in 0..operations {
                let block = match blocks {
                    Blocks::One => 0,
                    Blocks::Own => 64 * thread as u64,
                    Blocks::Any(count) => random.below(count),
                };
                match shard.lookup(key(block)) {
                    Lookup::Hit(pin) => shard.unpin(black_box(pin)),
                    Lookup::Load(ticket) => {
                        // One of the few that a full bucket let go.
                        let (pin, _) = shard.publish(ticket, 0, Purpose::Demand);
                        shard.unpin(pin);
                    }
                    Lookup::Wait | Lookup::Full => {}
                }
            }
        })
    };
    Step { name, threads, prepare: Box::new(prepare) }
}

/// Lookups of a block on which the shard has a pin: a storm's usual case.
fn held(name: &'static str, cache: &Arc<Cache>) -> Step {
    let cache = Arc::clone(cache);
    let prepare = move |_: usize| -> Work<'static> {
        let shard = cache.for_shard(0);
        Box::new(move |operations| {
            let Lookup::Hit(first) = shard.lookup(key(0)) else { unreachable!("it is there") };
            for _ in 0..operations {
                let Lookup::Hit(pin) = shard.lookup(key(0)) else { unreachable!("it is held") };
                shard.unpin(black_box(pin));
            }
            shard.unpin(first);
        })
    };
    Step { name, threads: 1, prepare: Box::new(prepare) }
}
