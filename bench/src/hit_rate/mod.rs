//! `hit-rate`: how often the node's cache has what is asked, beside other policies on the same lookups.
//!
//! No time passes and nothing is served: lookups go straight into the real `node::cache::Cache` and into small exact versions of
//! the others. A hit counts for devices only; what a scan reads is read once and hits nowhere, but what it pushes out does.

mod arc;
mod boot;
mod list;
mod ours;
mod policies;
mod report;
mod tiny_lfu;
mod workload;

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;

use ours::Ours;
use policies::Policy;
use report::{Cell, HitRateReport};
use workload::{RECIPES, Recipe, Workload};

use crate::report::Provenance;

/// Sizes of the cache, in percent of the blocks that devices ask for.
const CACHE_PERCENT: [usize; 3] = [10, 25, 50];
/// The name of the node's own cache in the report.
const OURS: &str = "ours";

/// Flags of `hit-rate`.
#[derive(Debug, clap::Args)]
pub struct HitRateArgs {
    /// A recorded boot: columns `time_ms,offset,length`.
    #[arg(long)]
    pub trace: PathBuf,
    /// Bytes of a block, a power of two.
    #[arg(long, default_value = "64K", value_parser = crate::read::parse_size)]
    pub block: u64,
    /// Different runs of each workload.
    #[arg(long, default_value_t = 5)]
    pub seeds: u64,
    /// Only workloads whose name contains this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs all workloads on all policies.
///
/// # Errors
/// When the trace cannot be read, or flags make no sense.
pub fn run(args: &HitRateArgs) -> anyhow::Result<()> {
    ensure!(args.seeds > 0, "--seeds 0: nothing to run; give at least 1");
    ensure!(
        args.block.is_power_of_two() && (4096..=1 << 20).contains(&args.block),
        "--block {}: wanted a power of two from 4K to 1M",
        args.block
    );
    let provenance = Provenance::of_this_machine();
    let trace = boot::read_trace(&args.trace)?;
    let mut cells = Vec::new();
    for recipe in RECIPES.iter().filter(|recipe| recipe.name.contains(&args.only)) {
        let _ = writeln!(std::io::stderr(), "{} …", recipe.name);
        measure(recipe, args, &trace, &mut cells)?;
    }
    ensure!(!cells.is_empty(), "--only {}: no workload has that in its name", args.only);
    HitRateReport::new(cells, args, provenance).print(args.json)
}

fn measure(
    recipe: &Recipe,
    args: &HitRateArgs,
    trace: &[boot::Request],
    cells: &mut Vec<Cell>,
) -> anyhow::Result<()> {
    let names: Vec<&'static str> = std::iter::once(OURS).chain(policies::NAMES).collect();
    let mut rates = vec![vec![Vec::new(); names.len()]; CACHE_PERCENT.len()];
    let mut working_set = 0;
    for seed in 0..args.seeds {
        let workload = recipe.make(trace, args.block, seed);
        working_set = workload.working_set;
        let future: Vec<u32> = workload.accesses.iter().map(|access| access.block).collect();
        for (by_policy, percent) in rates.iter_mut().zip(CACHE_PERCENT) {
            let frames = (workload.working_set * percent / 100).max(2);
            for (rates, &name) in by_policy.iter_mut().zip(&names) {
                rates.push(if name == OURS {
                    ask_ours(&workload, frames)?
                } else {
                    ask(&workload, &mut *policies::make(name, workload.blocks, frames, &future))
                });
            }
        }
    }
    for (by_policy, cache_percent) in rates.into_iter().zip(CACHE_PERCENT) {
        for (rates, &policy) in by_policy.iter().zip(&names) {
            cells.push(Cell::new(recipe.name, cache_percent, policy, working_set, rates));
        }
    }
    Ok(())
}

/// The share of the devices' lookups that hit.
fn ask(workload: &Workload, policy: &mut dyn Policy) -> f64 {
    let (mut lookups, mut hits) = (0, 0);
    for access in &workload.accesses {
        let hit = policy.access(access.block);
        lookups += u64::from(!access.scan);
        hits += u64::from(hit && !access.scan);
    }
    boot::as_f64(hits) / boot::as_f64(lookups)
}

/// The same for the node's cache, whose clock ticks once a second.
fn ask_ours(workload: &Workload, frames: usize) -> anyhow::Result<f64> {
    let mut ours = Ticking { cache: Ours::new(frames)?, second: 0, at: 0, workload };
    Ok(ask(workload, &mut ours))
}

/// Says when a second went by, as it goes through the workload.
struct Ticking<'a> {
    cache: Ours,
    second: u32,
    at: usize,
    workload: &'a Workload,
}

impl Policy for Ticking<'_> {
    fn access(&mut self, block: u32) -> bool {
        let now = self.workload.accesses[self.at].second;
        self.at += 1;
        if now != self.second {
            self.second = now;
            self.cache.tick();
        }
        self.cache.access(block)
    }
}
