//! `cache-cost`: what a hit of the block cache costs, alone and while another core hits too, and what the alternatives would.
//!
//! Steps alternate the real `node::cache::Cache` with bare atomics: a count in the frame's own word, which all shards share, is what the
//! cache did before; a count in a table of the shard's own is what it does. From these figures and from the number of shared lines that a
//! hit writes follows the model for more cores in `docs/performance.md`.

mod race;
mod report;
mod steps;

use std::io::Write;

use anyhow::ensure;

use report::CostReport;

use crate::report::Provenance;

/// Flags of `cache-cost`.
#[derive(Debug, clap::Args)]
pub struct CacheCostArgs {
    /// Runs of each step; the table shows the median.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Operations of each thread in a run.
    #[arg(long, default_value_t = 1_000_000)]
    pub operations: u64,
    /// Frames of the large cache, in units of 4 KiB of memory; lookups there miss the processor's caches.
    #[arg(long, default_value_t = 1 << 20)]
    pub frames: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures every step.
///
/// # Errors
/// When flags make no sense, or there is no memory for the cache.
pub fn run(args: &CacheCostArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.operations > 0, "--rounds and --operations: at least 1");
    ensure!(
        (4_096..=1 << 22).contains(&args.frames),
        "--frames {}: wanted between 4096 and 4194304",
        args.frames
    );
    let provenance = Provenance::of_this_machine();
    let mut costs = Vec::new();
    for step in steps::all(args.frames)? {
        let _ = writeln!(std::io::stderr(), "{} …", step.name);
        costs.push(step.measure(args.rounds, args.operations));
    }
    CostReport::new(costs, args, provenance).print(args.json)
}
