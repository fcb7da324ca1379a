//! `cores`: does a read cost a node more when it has two shards?
//!
//! Shards that share nothing but the cache's pins serve a read for the same time, however many they are. On two cores the fleet
//! needs one itself, so the rate cannot double; what a read costs the node can be compared all the same: once with one shard,
//! once with two, in turns, over the same hot image.

use std::io::Write;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::read::{self, CORES, Pattern, ReadArgs};
use crate::report::{self, Provenance, round};
use crate::spread::Spread;

/// Flags of `cores`.
#[derive(Debug, clap::Args)]
pub struct CoresArgs {
    /// Turns: one shard and two shards are measured once in a turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Length of each measurement.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Devices.
    #[arg(long, default_value_t = 64)]
    pub devices: u32,
    /// Reads that each keeps outstanding.
    #[arg(long, default_value_t = 16)]
    pub depth: u32,
    /// Bytes of a read.
    #[arg(long, default_value = "4K", value_parser = read::parse_size)]
    pub size: u64,
    /// Bytes of the image that all devices read: small, so that the shards meet in the same blocks.
    #[arg(long, default_value = "64M", value_parser = read::parse_size)]
    pub image_bytes: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    reads_per_s: f64,
    node_cpu_us_per_read: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Round {
    one_shard: Side,
    two_shards: Side,
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    ratios: Ratios,
    spread: Spread,
    rounds: Vec<Round>,
    devices: u32,
    depth: u32,
    size: u64,
    image_bytes: u64,
    seconds: f64,
    provenance: Provenance,
}

#[derive(Debug, Serialize)]
struct Ratios {
    /// Processor time of the node per read with two shards by that with one: median over the rounds.
    cpu_per_read_two_shards_over_one: f64,
}

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, a node that cannot be started, fewer than two cores; reads that failed.
pub fn run(args: &CoresArgs) -> anyhow::Result<()> {
    ensure!(args.rounds >= 1, "--rounds must be at least 1");
    let cores = std::thread::available_parallelism().context("counting cores")?.get();
    ensure!(cores >= 2, "two shards need two cores, and this machine has {cores}");
    let provenance = Provenance::with_node();
    let both = format!("{},{}", CORES.0, CORES.1);
    let mut rounds = Vec::new();
    for turn in 1..=args.rounds {
        // What comes first changes, so that what the machine does beside it falls on both alike.
        let (one_shard, two_shards) = if turn % 2 == 1 {
            (side(args, &CORES.0.to_string())?, side(args, &both)?)
        } else {
            let two_shards = side(args, &both)?;
            (side(args, &CORES.0.to_string())?, two_shards)
        };
        let ratio = two_shards.node_cpu_us_per_read / one_shard.node_cpu_us_per_read;
        let _ = writeln!(
            std::io::stderr(),
            "round {turn} of {}: {:.2} µs per read with one shard, {:.2} with two, ratio {ratio:.3}",
            args.rounds,
            one_shard.node_cpu_us_per_read,
            two_shards.node_cpu_us_per_read,
        );
        rounds.push(Round { one_shard, two_shards, ratio: round(ratio, 3) });
    }
    let spread = Spread::of(rounds.iter().map(|round| round.ratio), 3).expect("one round at least");
    let ratios = Ratios { cpu_per_read_two_shards_over_one: spread.median };
    let (devices, depth, size) = (args.devices, args.depth, args.size);
    let (image_bytes, seconds) = (args.image_bytes, args.seconds);
    let report =
        Report { ratios, spread, rounds, devices, depth, size, image_bytes, seconds, provenance };
    report.print(args.json)
}

impl Report {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| {
            writeln!(
                out,
                "processor time of the node per read, two shards ÷ one: {}; {} rounds\n{}",
                self.spread,
                self.rounds.len(),
                self.provenance
            )
        })
    }
}

fn side(args: &CoresArgs, node_cores: &str) -> anyhow::Result<Side> {
    let load = ReadArgs {
        devices: args.devices,
        depth: args.depth,
        size: args.size,
        pattern: Pattern::Rand,
        seconds: args.seconds,
        image_bytes: args.image_bytes,
        node_cores: node_cores.to_owned(),
        ..ReadArgs::default()
    };
    let node = read::start_node(&load)?;
    // A thread of its own: what is bound to a core hands that on to every node that it starts.
    let measured = std::thread::scope(|scope| {
        let fleet = scope.spawn(|| {
            read::pin(CORES.1);
            read::measure(&load, Some(&node), true)
        });
        fleet.join().expect("a broken invariant ends the process")
    })?;
    measured.judge()?;
    let cpu = measured.node_cpu().context("the node's processor time")?.used_ns;
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    let (busy_us, reads) = (cpu as f64 / 1e3, measured.tally.reads as f64);
    Ok(Side {
        reads_per_s: round(reads / measured.seconds(), 0),
        node_cpu_us_per_read: round(busy_us / reads, 3),
    })
}
