//! The cache against a naive one, operation by operation.

use super::*;

const FRAMES: usize = 4;
const SHARDS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Lookup { block: u64, generation: u64, shard: usize },
    Publish { which: usize, shard: usize, valid: usize },
    Abandon { which: usize },
    PinAgain { which: usize },
    Unpin { which: usize, as_token: bool },
    Tick,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0..12u64, 0..2u64, 0..SHARDS)
            .prop_map(|(block, generation, shard)| Op::Lookup { block, generation, shard }),
        4 => (any::<usize>(), 0..SHARDS, 0..=BLOCK)
            .prop_map(|(which, shard, valid)| Op::Publish { which, shard, valid }),
        1 => any::<usize>().prop_map(|which| Op::Abandon { which }),
        1 => any::<usize>().prop_map(|which| Op::PinAgain { which }),
        6 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, as_token)| Op::Unpin { which, as_token }),
        1 => Just(Op::Tick),
    ];
    prop::collection::vec(op, 1..200)
}

struct Oracle {
    shards: Vec<ShardCache>,
    /// Loads under way, and the shards that wait for them.
    loading: Vec<(LoadTicket, BTreeSet<usize>)>,
    /// Pins with what they must show.
    pins: Vec<(Pin, BlockKey, usize)>,
    /// Valid bytes at the last publication of a key that may still be found.
    published: BTreeMap<BlockKey, usize>,
}

impl Oracle {
    fn expected(key: BlockKey, valid: usize) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        fill(key, &mut bytes);
        bytes[valid..].fill(0);
        bytes
    }

    fn is_loading(&self, key: BlockKey) -> bool {
        self.loading.iter().any(|(ticket, _)| ticket.key() == key)
    }

    fn cache(&self) -> &ShardCache {
        &self.shards[0]
    }

    fn owner(&self, pin: &Pin) -> &ShardCache {
        &self.shards[usize::from(pin.shard)]
    }

    fn lookup(&mut self, key: BlockKey, shard: usize) {
        match self.shards[shard].lookup(key) {
            Lookup::Hit(pin) => {
                assert!(!self.is_loading(key));
                let valid =
                    *self.published.get(&key).expect("a hit was published and not forgotten");
                assert_eq!(self.cache().bytes(&pin), Self::expected(key, valid));
                self.pins.push((pin, key, valid));
            }
            Lookup::Load(mut ticket) => {
                assert!(!self.is_loading(key), "two loads of one key");
                fill(key, self.cache().load_bytes(&mut ticket));
                self.published.remove(&key);
                self.loading.push((ticket, BTreeSet::new()));
            }
            Lookup::Wait => {
                let mut loads = self.loading.iter_mut();
                let (_, waiting) = loads
                    .find(|(ticket, _)| ticket.key() == key)
                    .expect("waits for a load under way");
                waiting.insert(shard);
            }
            Lookup::Full => {
                let pinned: BTreeSet<_> =
                    self.pins.iter().map(|(pin, ..)| self.cache().arena_offset(pin)).collect();
                assert_eq!(
                    pinned.len() + self.loading.len(),
                    FRAMES,
                    "full while frames are unused"
                );
            }
        }
    }

    fn publish(&mut self, which: usize, shard: usize, valid: usize) {
        if self.loading.is_empty() {
            return;
        }
        let (ticket, waiting) = self.loading.swap_remove(which % self.loading.len());
        let key = ticket.key();
        let (pin, woken) = self.shards[shard].publish(ticket, valid, Purpose::Demand);
        assert_eq!(woken.iter().map(usize::from).collect::<BTreeSet<_>>(), waiting);
        self.published.insert(key, valid);
        self.pins.push((pin, key, valid));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Lookup { block, generation, shard } => {
                self.lookup(BlockKey { generation, block }, shard);
            }
            Op::Publish { which, shard, valid } => self.publish(which, shard, valid),
            Op::Abandon { which } => {
                if !self.loading.is_empty() {
                    let (ticket, waiting) = self.loading.swap_remove(which % self.loading.len());
                    let woken = self.cache().abandon(ticket);
                    assert_eq!(woken.iter().map(usize::from).collect::<BTreeSet<_>>(), waiting);
                }
            }
            Op::PinAgain { which } => {
                if !self.pins.is_empty() {
                    let (pin, key, valid) = &self.pins[which % self.pins.len()];
                    let again = self.owner(pin).pin_again(pin);
                    let entry = (again, *key, *valid);
                    self.pins.push(entry);
                }
            }
            Op::Unpin { which, as_token } => {
                if !self.pins.is_empty() {
                    let (pin, ..) = self.pins.swap_remove(which % self.pins.len());
                    let owner = &self.shards[usize::from(pin.shard)];
                    if as_token {
                        owner.unpin_token(pin.into_token());
                    } else {
                        owner.unpin(pin);
                    }
                }
            }
            Op::Tick => self.cache().tick(),
        }
    }

    fn check(&self) {
        self.cache().check_invariants();
        for (pin, key, valid) in &self.pins {
            let expected = Self::expected(*key, *valid);
            assert_eq!(self.cache().bytes(pin), expected, "{key:?} changed under its pin");
            for unit in 0..BLOCK / UNIT_BYTES {
                let bytes = &expected[unit * UNIT_BYTES..][..UNIT_BYTES];
                assert_eq!(self.cache().unit_sum(pin, unit), crc32c::crc32c(bytes));
                assert_eq!(self.cache().unit_is_zero(pin, unit), bytes.iter().all(|&b| b == 0));
            }
        }
        let pinned: BTreeSet<_> =
            self.pins.iter().map(|(pin, ..)| self.cache().arena_offset(pin)).collect();
        assert_eq!(self.cache().frames_pinned(), pinned.len());
    }

    fn finish(mut self) {
        for (ticket, _) in self.loading.drain(..) {
            let _ = self.shards[0].abandon(ticket);
        }
        for (pin, ..) in self.pins.drain(..) {
            self.shards[usize::from(pin.shard)].unpin(pin);
        }
        assert_eq!(self.cache().frames_pinned(), 0);
        self.cache().check_invariants();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_oracle(ops in ops()) {
        let one = cache(FRAMES);
        let others = (1..SHARDS).map(|shard| one.cache.for_shard(u16::try_from(shard).unwrap()));
        let mut shards: Vec<_> = others.collect();
        shards.insert(0, one);
        let mut oracle = Oracle {
            shards,
            loading: Vec::new(),
            pins: Vec::new(),
            published: BTreeMap::new(),
        };
        for op in ops {
            oracle.apply(&op);
            oracle.check();
        }
        oracle.finish();
    }
}
