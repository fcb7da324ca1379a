//! The cache against a naive one, operation by operation.

use super::*;

const SHARDS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Lookup { which: usize, shard: usize },
    Publish { which: usize, shard: usize, valid: usize, purpose: Purpose },
    Abandon { which: usize },
    PinAgain { which: usize },
    Unpin { which: usize, as_token: bool },
    Tick,
}

/// At most so many, on keys that are as often asked for as what is kept stays rare.
fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    let purpose = prop_oneof![12 => Just(Purpose::Demand), 2 => Just(Purpose::Ahead), 1 => Just(Purpose::Keep)];
    let op = prop_oneof![
        8 => (any::<usize>(), 0..SHARDS).prop_map(|(which, shard)| Op::Lookup { which, shard }),
        4 => (any::<usize>(), 0..SHARDS, 0..=BLOCK, purpose).prop_map(
            |(which, shard, valid, purpose)| Op::Publish { which, shard, valid, purpose }
        ),
        1 => any::<usize>().prop_map(|which| Op::Abandon { which }),
        1 => any::<usize>().prop_map(|which| Op::PinAgain { which }),
        6 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, as_token)| Op::Unpin { which, as_token }),
        1 => Just(Op::Tick),
    ];
    prop::collection::vec(op, 1..most)
}

struct Oracle {
    keys: Vec<BlockKey>,
    /// Whether all keys meet in one bucket.
    crowd: bool,
    shards: Vec<ShardCache>,
    /// Loads under way, and the shards that wait for them.
    loading: Vec<(LoadTicket, BTreeSet<usize>)>,
    /// Pins with what they must show.
    pins: Vec<(Pin, BlockKey, usize)>,
    /// Valid bytes at the last publication of a key that may still be found.
    published: BTreeMap<BlockKey, usize>,
    /// Where what is kept lies.
    kept: BTreeMap<BlockKey, usize>,
}

impl Oracle {
    /// Of `keys` blocks: any, or of one bucket.
    fn new(frames: usize, keys: usize, crowd: bool) -> Oracle {
        let one = cache(frames);
        let others = (1..SHARDS).map(|shard| one.cache.for_shard(u16::try_from(shard).unwrap()));
        let mut shards: Vec<_> = others.collect();
        let home = |key: &BlockKey| one.index.home(key.hash());
        let all = (0..).map(|n| BlockKey { generation: n % 2, block: n / 2 });
        let keys = all.filter(|key| !crowd || home(key) == 0).take(keys).collect();
        shards.insert(0, one);
        Oracle {
            keys,
            crowd,
            shards,
            loading: Vec::new(),
            pins: Vec::new(),
            published: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply(&op);
            self.check();
        }
        self.finish();
    }

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
                let valid = *self.published.get(&key).expect("a hit was published");
                assert_eq!(self.cache().bytes(&pin), Self::expected(key, valid));
                self.pins.push((pin, key, valid));
            }
            Lookup::Load(mut ticket) => {
                assert!(!self.is_loading(key), "two loads of one key");
                assert!(!self.kept.contains_key(&key), "a kept block is loaded again");
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
                assert!(!self.kept.contains_key(&key), "a kept block is not to be had");
                let mut used = self.pinned();
                used.extend(self.kept.values());
                let all = used.len() + self.loading.len() == self.cache().usable_frames();
                // What neither gives way nor ages out may fill a bucket, if every key is of that bucket.
                let bucket = self.crowd && self.kept.len() + self.loading.len() >= BUCKET;
                assert!(all || bucket, "full while frames are unused");
            }
        }
    }

    fn pinned(&self) -> BTreeSet<usize> {
        self.pins.iter().map(|(pin, ..)| self.cache().arena_offset(pin)).collect()
    }

    fn publish(&mut self, which: usize, shard: usize, valid: usize, purpose: Purpose) {
        if self.loading.is_empty() {
            return;
        }
        let (ticket, waiting) = self.loading.swap_remove(which % self.loading.len());
        let key = ticket.key();
        let (pin, woken) = self.shards[shard].publish(ticket, valid, purpose);
        assert_eq!(woken.iter().map(usize::from).collect::<BTreeSet<_>>(), waiting);
        self.published.insert(key, valid);
        if purpose == Purpose::Keep {
            self.kept.insert(key, self.cache().arena_offset(&pin));
        }
        self.pins.push((pin, key, valid));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Lookup { which, shard } => self.lookup(self.keys[which % self.keys.len()], shard),
            Op::Publish { which, shard, valid, purpose } => {
                self.publish(which, shard, valid, purpose);
            }
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
        let lost = self.cache().check_invariants();
        assert!(lost == 0 || self.cache().usable_frames() > BUCKET, "a block is not to be found");
        assert!(
            self.kept.keys().all(|&key| self.cache().known(key) == Some(Known::Here)),
            "a kept block is lost"
        );
        assert_eq!(self.cache().stats().frames_kept, self.kept.len() as u64);
        for (pin, key, valid) in &self.pins {
            let expected = Self::expected(*key, *valid);
            assert_eq!(self.cache().bytes(pin), expected, "{key:?} changed under its pin");
            for unit in 0..BLOCK / UNIT_BYTES {
                let bytes = &expected[unit * UNIT_BYTES..][..UNIT_BYTES];
                assert_eq!(self.cache().unit_sum(pin, unit), crc32c::crc32c(bytes));
                assert_eq!(self.cache().unit_is_zero(pin, unit), bytes.iter().all(|&b| b == 0));
            }
        }
        assert_eq!(self.cache().frames_pinned(), self.pinned().len());
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
    fn agrees_with_the_oracle(ops in ops(200)) {
        Oracle::new(4, 24, false).run(ops);
    }

    #[test]
    fn agrees_with_the_oracle_in_one_buckets_list(ops in ops(200)) {
        Oracle::new(12, 24, true).run(ops);
    }

    #[test]
    fn agrees_with_the_oracle_in_a_crowded_bucket(ops in ops(400)) {
        Oracle::new(40, 60, true).run(ops);
    }
}
