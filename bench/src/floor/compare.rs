//! The node and the bare responder in turns, under the same load.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::FloorArgs;
use super::bare::Cut;
use super::client::{self, ClientJob};
use super::loads::Load;
use super::on_core;
use super::responder::ResponderProcess;
use super::spread::Spread;
use crate::image;
use crate::node_process::{CpuTime, NodeProcess};
use crate::read::{self, CORES, RAMP, ReadArgs, nanos_of};
use crate::report::round;

/// UDP payload of a datagram that fills an IPv4 packet of 1500 bytes.
pub const PAYLOAD_BYTES: usize = 1472;

/// One measurement of one side.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Reads that ended within the window, whole and right.
    pub reads: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Reads per second.
    pub reads_per_s: f64,
    /// Processor time of the server per read.
    pub cpu_us_per_read: f64,
    /// The same per 2^30 delivered bytes.
    pub cpu_s_per_gib: f64,
    /// Processor time of the server per second: 1 is a whole core.
    pub cpu_share: f64,
    /// Time for which the server was ready to run while others had the processor.
    pub cpu_wait_s: f64,
    /// Processor time of the clients' thread per second.
    pub clients_cpu_share: f64,
    /// Latency of half of the reads at most.
    pub p50_us: f64,
    /// Of 99 in 100.
    pub p99_us: f64,
    /// Reads that were asked for again because something was lost.
    pub repeats: u64,
    /// All latencies in nanoseconds, for the plots.
    #[serde(skip)]
    pub latency: Histogram<u64>,
}

/// Both sides, one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Processor time per read of the node by that of the responder.
    pub ratio: f64,
    /// The node.
    pub node: Side,
    /// The bare responder.
    pub responder: Side,
}

/// All rounds under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The load.
    #[serde(flatten)]
    pub load: Load,
    /// Of the rounds' ratios.
    pub ratio: Spread,
    /// Processor time of the node per read in microseconds.
    pub node_us_per_read: Spread,
    /// Of the responder.
    pub responder_us_per_read: Spread,
    /// Processor time of the node per 2^30 bytes in seconds.
    pub node_s_per_gib: Spread,
    /// Of the responder.
    pub responder_s_per_gib: Spread,
    /// Each round.
    pub rounds: Vec<Round>,
}

/// Which pages the responder's image had, and all comparisons.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// Pages of the responder's image.
    pub responder_memory: String,
    /// One for each load.
    pub loads: Vec<Comparison>,
}

/// Starts both servers and compares them under each load that is asked for.
///
/// # Errors
/// When a server cannot be started, or a measurement is worth nothing.
pub fn run(args: &FloorArgs) -> anyhow::Result<Comparisons> {
    let path = image::make(&image::folder()?, args.seed, args.image_bytes)?;
    let loads = args.loads();
    let most = loads.iter().max_by_key(|load| load.devices).expect("at least one load");
    let for_all = read_args(args, most);
    for load in &loads {
        read_args(args, load).check().with_context(|| format!("load {}", load.name))?;
    }
    let core = (!args.no_pin).then_some(CORES.0);
    let responder = responder(&path, core)?;
    let node = read::start_node(&for_all)?;
    on_core(args.no_pin, || {
        let first = ReadArgs { devices: 1, seconds: 0.1, ..read_args(args, most) };
        read::measure(&first, Some(&node), true)?.judge().context("warming the node's cache")
    })?;
    let mut comparisons = Vec::new();
    for load in loads {
        let rounds: Vec<Round> = (0..args.rounds)
            .map(|number| one_round(args, &load, number, &node, &responder))
            .collect::<anyhow::Result<_>>()
            .with_context(|| format!("load {}", load.name))?;
        comparisons.push(Comparison::of(load, rounds));
    }
    Ok(Comparisons { responder_memory: responder.backing.clone(), loads: comparisons })
}

fn responder(image: &Path, core: Option<usize>) -> anyhow::Result<ResponderProcess> {
    let listen = "127.0.0.1:0".parse().expect("an address");
    ResponderProcess::start(image, listen, PAYLOAD_BYTES, core, None)
}

fn read_args(args: &FloorArgs, load: &Load) -> ReadArgs {
    let mut read = load.read_args(args.seed, args.image_bytes, args.seconds, 1500);
    (read.no_pin, read.verify) = (args.no_pin, args.verify);
    read
}

/// Who begins changes from round to round, so that what drifts meets both alike.
fn one_round(
    args: &FloorArgs,
    load: &Load,
    number: u32,
    node: &NodeProcess,
    responder: &ResponderProcess,
) -> anyhow::Result<Round> {
    let of_node = || node_side(args, load, node).context("the node's side");
    let of_responder = || responder_side(args, load, responder).context("the responder's side");
    let (node, responder) = if number.is_multiple_of(2) {
        let responder = of_responder()?;
        (of_node()?, responder)
    } else {
        (of_node()?, of_responder()?)
    };
    let ratio = node.cpu_us_per_read / responder.cpu_us_per_read;
    let _ = writeln!(
        std::io::stderr(),
        "{} round {}: node {:.2} µs per read, responder {:.2}, ratio {ratio:.3}",
        load.name,
        number + 1,
        node.cpu_us_per_read,
        responder.cpu_us_per_read
    );
    Ok(Round { ratio: round(ratio, 4), node, responder })
}

fn node_side(args: &FloorArgs, load: &Load, node: &NodeProcess) -> anyhow::Result<Side> {
    let read = read_args(args, load);
    let measured = on_core(args.no_pin, || read::measure(&read, Some(node), false))?;
    measured.judge()?;
    let cpu = measured.node_cpu().expect("the node is this run's own");
    let mut side = side(load, measured.tally.reads, measured.seconds(), cpu, measured.fleet_cpu());
    side.repeats = measured.retries();
    Ok(side.with_latencies(measured.tally.latency))
}

fn responder_side(
    args: &FloorArgs,
    load: &Load,
    responder: &ResponderProcess,
) -> anyhow::Result<Side> {
    let job = ClientJob {
        server: responder.address,
        sockets: load.devices as usize,
        depth: load.depth as usize,
        size: usize::try_from(load.size).expect("at most 1 MiB"),
        offsets: load.offsets(args.seed, args.image_bytes),
        thorough: args.verify,
        seed: args.seed,
        image_bytes: args.image_bytes,
        cut: Cut::new(PAYLOAD_BYTES),
        ramp: RAMP,
        window: nanos_of(args.seconds),
    };
    let (tally, edges) = on_core(args.no_pin, || {
        let mut edges = Vec::with_capacity(2);
        let tally = client::run(job, || {
            let clients = CpuTime::read(Path::new("/proc/thread-self/schedstat"));
            edges.push((clock::now(), responder.cpu()?, clients));
            Ok(())
        })?;
        Ok((tally, edges))
    })?;
    anyhow::ensure!(tally.wrong_bytes == 0, "{} bytes are not the image's", tally.wrong_bytes);
    let [begin, end] = <[(Nanos, CpuTime, CpuTime); 2]>::try_from(edges).expect("both edges");
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    let seconds = end.0.since(begin.0).0 as f64 / 1e9;
    let mut side = side(load, tally.reads, seconds, end.1.since(begin.1), end.2.since(begin.2));
    side.repeats = tally.repeats;
    Ok(side.with_latencies(tally.latency))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn side(load: &Load, reads: u64, seconds: f64, server: CpuTime, clients: CpuTime) -> Side {
    let (used, count) = (server.used_ns as f64, reads.max(1) as f64);
    let bytes = count * load.size as f64;
    Side {
        reads,
        seconds: round(seconds, 3),
        reads_per_s: round(reads as f64 / seconds, 1),
        cpu_us_per_read: round(used / 1e3 / count, 4),
        cpu_s_per_gib: round(used / 1e9 / (bytes / f64::from(1 << 30)), 5),
        cpu_share: round(used / 1e9 / seconds, 3),
        cpu_wait_s: round(server.waited_ns as f64 / 1e9, 4),
        clients_cpu_share: round(clients.used_ns as f64 / 1e9 / seconds, 3),
        p50_us: 0.0,
        p99_us: 0.0,
        repeats: 0,
        latency: Histogram::new(3).expect("three digits are allowed"),
    }
}

impl Side {
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    fn with_latencies(self, latency: Histogram<u64>) -> Side {
        let at = |q: f64| round(latency.value_at_quantile(q) as f64 / 1e3, 1);
        Side { p50_us: at(0.5), p99_us: at(0.99), latency, ..self }
    }
}

impl Comparison {
    fn of(load: Load, rounds: Vec<Round>) -> Comparison {
        let spread = |figure: fn(&Round) -> f64, decimals| {
            Spread::of(rounds.iter().map(figure), decimals).expect("at least one round")
        };
        Comparison {
            load,
            ratio: spread(|round| round.ratio, 3),
            node_us_per_read: spread(|round| round.node.cpu_us_per_read, 3),
            responder_us_per_read: spread(|round| round.responder.cpu_us_per_read, 3),
            node_s_per_gib: spread(|round| round.node.cpu_s_per_gib, 4),
            responder_s_per_gib: spread(|round| round.responder.cpu_s_per_gib, 4),
            rounds,
        }
    }
}
