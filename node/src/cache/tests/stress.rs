//! Threads as shards on a small cache: every hit shows its own key's bytes, every waiter is woken, nothing leaks.

use super::*;

const SHARDS: u16 = 4;
const FRAMES: usize = 24;
const BLOCKS: u64 = 96;
const ROUNDS: u64 = 30_000;

struct Shared {
    cache: Arc<Cache>,
    /// Bit n: shard n was woken since it last looked.
    woken: AtomicU64,
    waits: AtomicU64,
    hits: AtomicU64,
    loads: AtomicU64,
    /// Whether each block is being loaded: never twice.
    loading: Vec<AtomicBool>,
}

impl Shared {
    fn check(&self, pin: &Pin, key: BlockKey) {
        let mut expected = [0; BLOCK];
        fill(key, &mut expected);
        assert_eq!(self.cache.bytes(pin), expected);
        assert_eq!(self.cache.unit_sum(pin, 1), crc32c::crc32c(&expected[UNIT_BYTES..]));
    }

    fn wake(&self, shards: WaitingShards) {
        self.woken.fetch_or(shards.0, Ordering::AcqRel);
    }

    /// Looks a block up until it has seen its bytes.
    fn read(&self, cache: &ShardCache, block: u64, shard: u16, fail: bool) {
        let key = key(block);
        loop {
            match cache.lookup(key) {
                Lookup::Hit(pin) => {
                    self.hits.fetch_add(1, Relaxed);
                    self.check(&pin, key);
                    cache.unpin_token(pin.into_token());
                    return;
                }
                Lookup::Load(mut ticket) => {
                    self.loads.fetch_add(1, Relaxed);
                    let loading = &self.loading[usize::try_from(block).expect("small")];
                    let twice = loading.swap(true, Ordering::AcqRel);
                    assert!(!twice, "two loads of one block");
                    fill(key, cache.load_bytes(&mut ticket));
                    std::thread::yield_now();
                    loading.store(false, Ordering::Release);
                    if fail {
                        self.wake(cache.abandon(ticket));
                        return;
                    }
                    let (pin, waiting) = cache.publish(ticket, BLOCK, Purpose::Demand);
                    self.wake(waiting);
                    self.check(&pin, key);
                    cache.unpin(pin);
                    return;
                }
                Lookup::Wait => {
                    self.waits.fetch_add(1, Relaxed);
                    // A lost wake-up hangs here.
                    while self.woken.fetch_and(!(1 << shard), Ordering::AcqRel) >> shard & 1 == 0 {
                        std::thread::yield_now();
                    }
                }
                Lookup::Full => std::thread::yield_now(),
            }
        }
    }
}

#[test]
fn shards_share_without_a_wrong_byte() {
    let shared = Shared {
        cache: Arc::clone(&cache(FRAMES).cache),
        woken: AtomicU64::new(0),
        waits: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        loads: AtomicU64::new(0),
        loading: (0..BLOCKS).map(|_| AtomicBool::new(false)).collect(),
    };
    std::thread::scope(|scope| {
        for shard in 0..SHARDS {
            let shared = &shared;
            scope.spawn(move || {
                let cache = shared.cache.for_shard(shard);
                let mut random = u64::from(shard);
                for round in 0..ROUNDS {
                    random = BlockKey { generation: random, block: round }.hash();
                    // Half of the reads are of a few hot blocks, so that shards meet.
                    let block =
                        if random % 2 == 0 { (random >> 8) % 8 } else { (random >> 8) % BLOCKS };
                    shared.read(&cache, block, shard, random % 97 == 0);
                }
            });
        }
    });
    assert_eq!(shared.cache.frames_pinned(), 0, "a pin leaked");
    shared.cache.check_invariants();
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    assert!(count(&shared.hits) > 1000 && count(&shared.loads) > 1000);
    assert!(count(&shared.waits) > 0, "the shards never met");
    assert!(shared.cache.stats().evictions > 1000);
}
