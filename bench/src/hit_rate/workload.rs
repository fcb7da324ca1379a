//! What the caches are asked: boots, a zipf working set, and scans mixed in.

use std::collections::HashMap;

use super::boot::{Request, as_f64, vary};
use crate::random::Random;

/// One lookup.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Number of the block; numbers are dense.
    pub block: u32,
    /// Whether a replication or a backup asks, not a device.
    pub scan: bool,
    /// Seconds since the begin.
    pub second: u32,
}

/// A sequence of lookups.
pub struct Workload {
    /// All of it, in order.
    pub accesses: Vec<Access>,
    /// Different blocks.
    pub blocks: usize,
    /// Different blocks that devices ask for: what "10 % of the working set" refers to.
    pub working_set: usize,
}

/// What a workload is made of.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Its name in the report.
    pub name: &'static str,
    /// Where devices read.
    pub devices: Devices,
    /// Blocks that a scan reads for each 100 lookups of devices; 0: no scan.
    pub scan_percent: u64,
    /// Lookups of each scanned block, one after the other: 1 for whole blocks, 16 for a reader in units of 4 KiB.
    pub scan_lookups: u32,
}

/// Where devices read.
#[derive(Clone, Copy, Debug)]
pub enum Devices {
    /// Boots of `versions` images, `boots` of them, begun at random within `within_s` seconds. Versions share no blocks in the cache:
    /// the content is part of the key.
    Boots {
        /// In all.
        boots: u32,
        /// Images.
        versions: u64,
        /// Seconds; 0: one after the other.
        within_s: u64,
    },
    /// Blocks by rank: the n-th is asked for 1/n^0.9 as often as the first.
    Zipf {
        /// Different blocks.
        blocks: u32,
        /// In all.
        lookups: u32,
    },
}

const FLEET: Devices = Devices::Boots { boots: 64, versions: 1, within_s: 120 };
const VERSIONS: Devices = Devices::Boots { boots: 64, versions: 4, within_s: 120 };
const ZIPF: Devices = Devices::Zipf { blocks: 8_192, lookups: 200_000 };

/// All workloads. The fleet's starts lie within some three boots, so that boots overlap and drift apart.
pub const RECIPES: [Recipe; 11] = [
    recipe("reboots", Devices::Boots { boots: 10, versions: 1, within_s: 0 }, 0, 1),
    recipe("fleet", FLEET, 0, 1),
    recipe("versions", VERSIONS, 0, 1),
    recipe("reboots+scan", Devices::Boots { boots: 10, versions: 1, within_s: 0 }, 100, 1),
    recipe("fleet+scan/10", FLEET, 10, 1),
    recipe("fleet+scan", FLEET, 100, 1),
    recipe("fleet+scan*4", FLEET, 400, 1),
    recipe("fleet+scan by units", FLEET, 100, 16),
    recipe("versions+scan", VERSIONS, 100, 1),
    recipe("zipf", ZIPF, 0, 1),
    recipe("zipf+scan", ZIPF, 100, 1),
];

const fn recipe(
    name: &'static str,
    devices: Devices,
    scan_percent: u64,
    scan_lookups: u32,
) -> Recipe {
    Recipe { name, devices, scan_percent, scan_lookups }
}

/// Content, block.
type Key = (u64, u64);
/// The content that scans read.
const SCANNED: u64 = u64::MAX;

impl Recipe {
    /// The lookups, different for each seed.
    pub fn make(&self, trace: &[Request], block_bytes: u64, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut devices = match self.devices {
            Devices::Boots { boots, versions, within_s } => {
                fleet(trace, block_bytes, (boots, versions, within_s), &mut random)
            }
            Devices::Zipf { blocks, lookups } => zipf(blocks, lookups, &mut random),
        };
        devices.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut numbers = Numbers::default();
        let mut accesses = Vec::new();
        let (mut owed, mut scanned) = (0, 0);
        for (time_ms, key) in devices {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "hours at most"
            )]
            let second = (time_ms / 1_000.0) as u32;
            accesses.push(Access { block: numbers.of(key), scan: false, second });
            owed += self.scan_percent;
            while owed >= 100 {
                owed -= 100;
                let block = numbers.of((SCANNED, scanned));
                scanned += 1;
                for _ in 0..self.scan_lookups {
                    accesses.push(Access { block, scan: true, second });
                }
            }
        }
        let blocks = numbers.0.len();
        Workload { accesses, blocks, working_set: blocks - usize::try_from(scanned).expect("few") }
    }
}

/// Gives dense numbers to keys, in the order in which they come.
#[derive(Default)]
struct Numbers(HashMap<Key, u32>);

impl Numbers {
    fn of(&mut self, key: Key) -> u32 {
        let next = u32::try_from(self.0.len()).expect("few blocks");
        *self.0.entry(key).or_insert(next)
    }
}

fn fleet(
    trace: &[Request],
    block_bytes: u64,
    (boots, versions, within_s): (u32, u64, u64),
    random: &mut Random,
) -> Vec<(f64, Key)> {
    let boot_ms = trace.iter().fold(0.0, |last: f64, request| last.max(request.time_ms));
    let mut all = Vec::new();
    for boot in 0..boots {
        let version = random.below(versions);
        let start = match within_s {
            0 => f64::from(boot) * boot_ms * 1.5,
            within_s => as_f64(random.below(within_s * 1_000)),
        };
        let mut blocks = Vec::new();
        vary(trace, start, block_bytes, random, &mut blocks);
        all.extend(blocks.into_iter().map(|(at, block)| (at, (version, block))));
    }
    all
}

/// A thousand lookups a second.
fn zipf(blocks: u32, lookups: u32, random: &mut Random) -> Vec<(f64, Key)> {
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=blocks)
        .map(|rank| {
            sum += f64::from(rank).powf(-0.9);
            sum
        })
        .collect();
    (0..lookups)
        .map(|n| {
            let at = as_f64(random.below(1 << 50)) / as_f64(1 << 50) * sum;
            let rank = weights.partition_point(|&w| w < at);
            (f64::from(n), (0, rank as u64))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Vec<Request> {
        (0..200u32)
            .map(|n| Request {
                time_ms: f64::from(n) * 10.0,
                offset: u64::from(n) << 16,
                length: 4096,
            })
            .collect()
    }

    #[test]
    fn scans_read_each_block_once_and_do_not_count_as_working_set() {
        for recipe in RECIPES {
            let made = recipe.make(&trace(), 65_536, 1);
            let mut scanned = std::collections::BTreeMap::<u32, u32>::new();
            let mut devices = std::collections::BTreeSet::new();
            for access in &made.accesses {
                assert!((access.block as usize) < made.blocks);
                if access.scan {
                    *scanned.entry(access.block).or_default() += 1;
                } else {
                    devices.insert(access.block);
                }
            }
            assert_eq!(devices.len(), made.working_set, "{}", recipe.name);
            assert!(scanned.values().all(|&n| n == recipe.scan_lookups), "{}", recipe.name);
            assert_eq!(scanned.is_empty(), recipe.scan_percent == 0);
            assert!(made.accesses.windows(2).all(|w| w[0].second <= w[1].second));
        }
    }

    #[test]
    fn a_seed_is_a_workload() {
        let blocks = |seed| -> Vec<u32> {
            RECIPES[5].make(&trace(), 65_536, seed).accesses.iter().map(|a| a.block).collect()
        };
        assert_eq!(blocks(1), blocks(1));
        assert_ne!(blocks(1), blocks(2));
    }
}
