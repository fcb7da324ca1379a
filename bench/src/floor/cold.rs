//! Random reads that no cache has: the node's against `fio`'s of the same file, in turns.
//!
//! The node reads blocks of 64 KiB past the page cache, checks their hashes and sends them; `fio` only reads. The node's cache is
//! small beside the image, and what it answers from there all the same is told (`cached_share` of each round).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::FloorArgs;
use super::on_core;
use crate::image;
use crate::node_process::{NodeProcess, metric};
use crate::read::{self, CORES, Pattern, RAMP, ReadArgs};
use crate::report::round;
use crate::spread::Spread;
use crate::sys;

/// Bytes of a read: the node's block.
pub const READ_BYTES: u64 = 64 << 10;
/// Cache of the node. Guessed: 3 % of the image, room for all reads of the largest depth many times over.
const CACHE_BYTES: u64 = 64 << 20;
/// Depths that are tried to find the one at which the disk is the limit.
const DEPTHS: [u32; 5] = [4, 8, 16, 32, 64];
/// The deepest queue with this share of the best rate is taken: there the disk is the limit for either side, also for the one that
/// takes longer to ask again.
const ENOUGH: f64 = 0.97;
/// Length of each try in seconds.
const TRY_SECONDS: f64 = 0.5;
/// Devices at most; each has as many outstanding as the depth asks for. Guessed.
const DEVICES_MAX: u32 = 8;

/// What one turn found.
#[derive(Clone, Debug, Serialize)]
pub struct ColdRound {
    /// Delivered bytes of the node by those of `fio`.
    pub ratio: f64,
    /// Bytes per second that the node's devices got, in 2^20.
    pub node_mib_per_s: f64,
    /// Share of the reads that the node answered without reading the disk; none when it does not tell.
    pub cached_share: Option<f64>,
    /// Of the node's reads.
    pub node_p99_us: f64,
    /// Processor time of the node per 2^30 bytes.
    pub node_cpu_s_per_gib: f64,
    /// Bytes per second that `fio` read, in 2^20.
    pub fio_mib_per_s: f64,
    /// Of its reads.
    pub fio_p99_us: f64,
    /// Latencies of the node's reads in nanoseconds, for pictures.
    #[serde(skip)]
    pub latency: Histogram<u64>,
}

/// How fast `fio` is at a depth.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Try {
    depth: u32,
    mib_per_s: f64,
}

/// All turns.
#[derive(Clone, Debug, Serialize)]
pub struct Cold {
    /// Of the rounds' ratios.
    pub ratio: Spread,
    /// Of the node.
    pub node_mib_per_s: Spread,
    /// Of `fio`.
    pub fio_mib_per_s: Spread,
    /// Reads outstanding in all, on both sides.
    pub depth: u32,
    /// Devices that have them between them.
    pub devices: u32,
    /// What led to the depth; empty when it was given.
    pub tries: Vec<Try>,
    /// Bytes of a read.
    pub read_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the node's cache.
    pub cache_bytes: u64,
    /// Each turn.
    pub rounds: Vec<ColdRound>,
}

/// Makes the image, finds the depth and compares.
///
/// # Errors
/// When there is no `fio`, the node cannot be started, or bytes are wrong.
pub fn run(args: &FloorArgs) -> anyhow::Result<Cold> {
    let path = image::make(&image::folder()?, args.seed, args.cold_image_bytes)?;
    let core = (!args.no_pin).then_some(CORES.0);
    let mut tries = Vec::new();
    let depth = match args.cold_depth {
        Some(depth) => depth,
        None => find_depth(&path, core, &mut tries)?,
    };
    let devices = depth.min(DEVICES_MAX);
    let node = start_node(&path, core)?;
    let load = ReadArgs {
        devices,
        depth: depth / devices,
        size: READ_BYTES,
        pattern: Pattern::Rand,
        seconds: args.seconds,
        seed: args.seed,
        image_bytes: args.cold_image_bytes,
        no_pin: args.no_pin,
        verify: args.verify,
        ..ReadArgs::default()
    };
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        let round = one_round(number, &load, &node, &path, core).context("cold reads")?;
        let _ = writeln!(
            std::io::stderr(),
            "cold round {}: node {:.0} MiB/s, fio {:.0} MiB/s, ratio {:.3}",
            number + 1,
            round.node_mib_per_s,
            round.fio_mib_per_s,
            round.ratio
        );
        rounds.push(round);
    }
    let spread = |figure: fn(&ColdRound) -> f64, decimals| {
        Spread::of(rounds.iter().map(figure), decimals).expect("at least one round")
    };
    Ok(Cold {
        ratio: spread(|round| round.ratio, 3),
        node_mib_per_s: spread(|round| round.node_mib_per_s, 1),
        fio_mib_per_s: spread(|round| round.fio_mib_per_s, 1),
        depth: load.depth * devices,
        devices,
        tries,
        read_bytes: READ_BYTES,
        image_bytes: args.cold_image_bytes,
        cache_bytes: CACHE_BYTES,
        rounds,
    })
}

fn start_node(path: &Path, core: Option<usize>) -> anyhow::Result<NodeProcess> {
    let cache = CACHE_BYTES.to_string();
    let fixed = ["--login-port", "0", "--io-ports", "0", "--http", "127.0.0.1:0"];
    let mut flags: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
    // Without what earlier runs have read: reads are to be cold.
    flags.extend(["--boot-limit", "0", "--warm-up", "off", "--cache", &cache].map(str::to_owned));
    if let Some(core) = core {
        flags.extend(["--cores".to_owned(), core.to_string()]);
    }
    NodeProcess::start(path, &flags)
}

/// Who begins changes from round to round.
fn one_round(
    number: u32,
    load: &ReadArgs,
    node: &NodeProcess,
    path: &Path,
    core: Option<usize>,
) -> anyhow::Result<ColdRound> {
    let of_fio = || Fio::run(path, load.devices * load.depth, load.seconds, core);
    let (fio, served) = if number.is_multiple_of(2) {
        let fio = of_fio()?;
        (fio, Served::by(node, load)?)
    } else {
        let served = Served::by(node, load)?;
        (of_fio()?, served)
    };
    Ok(ColdRound {
        ratio: round(served.mib_per_s / fio.mib_per_s, 4),
        node_mib_per_s: round(served.mib_per_s, 1),
        cached_share: served.cached_share.map(|share| round(share, 4)),
        node_p99_us: round(served.p99_us, 1),
        node_cpu_s_per_gib: round(served.cpu_s_per_gib, 4),
        fio_mib_per_s: round(fio.mib_per_s, 1),
        fio_p99_us: round(fio.p99_us, 1),
        latency: served.latency,
    })
}

/// What the node's devices got.
struct Served {
    mib_per_s: f64,
    cached_share: Option<f64>,
    p99_us: f64,
    cpu_s_per_gib: f64,
    latency: Histogram<u64>,
}

impl Served {
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    fn by(node: &NodeProcess, load: &ReadArgs) -> anyhow::Result<Served> {
        let disk_reads = || metric(&node.metrics()?, "diskstream_disk_reads_total");
        let before = disk_reads();
        let measured = on_core(load.no_pin, || read::measure(load, Some(node), false))?;
        measured.judge()?;
        let read = before.zip(disk_reads()).map(|(before, after)| (after - before) as f64);
        let bytes = (measured.tally.reads * load.size) as f64;
        let cpu = measured.node_cpu().expect("the node is this run's own");
        Ok(Served {
            mib_per_s: bytes / measured.seconds() / f64::from(1 << 20),
            cached_share: read.map(|read| 1.0 - read / measured.tally.reads_all.max(1) as f64),
            p99_us: measured.tally.latency.value_at_quantile(0.99) as f64 / 1e3,
            cpu_s_per_gib: cpu.used_ns as f64 / 1e9 / (bytes / f64::from(1 << 30)),
            latency: measured.tally.latency,
        })
    }
}

fn find_depth(path: &Path, core: Option<usize>, tries: &mut Vec<Try>) -> anyhow::Result<u32> {
    for depth in DEPTHS {
        let fio = Fio::run(path, depth, TRY_SECONDS, core)?;
        tries.push(Try { depth, mib_per_s: round(fio.mib_per_s, 1) });
    }
    let best = tries.iter().map(|a_try| a_try.mib_per_s).fold(0.0, f64::max);
    let enough = tries.iter().rfind(|a_try| a_try.mib_per_s >= best * ENOUGH);
    Ok(enough.context("fio read nothing")?.depth)
}

/// What `fio` reached.
struct Fio {
    mib_per_s: f64,
    p99_us: f64,
}

impl Fio {
    fn run(path: &Path, depth: u32, seconds: f64, core: Option<usize>) -> anyhow::Result<Fio> {
        let mut command = Command::new("fio");
        command.args(["--name=floor", "--ioengine=io_uring", "--direct=1", "--rw=randread"]);
        command.args(["--readonly", "--time_based", "--norandommap", "--randrepeat=0"]);
        command.args(["--thread", "--output-format=json", "--percentile_list=99"]);
        command.arg(format!("--filename={}", path.display()));
        command.arg(format!("--bs={READ_BYTES}")).arg(format!("--iodepth={depth}"));
        command.arg(format!("--runtime={}ms", (seconds * 1e3).round()));
        command.arg(format!("--ramp_time={}ms", RAMP.as_millis()));
        if let Some(core) = core {
            command.arg(format!("--cpus_allowed={core}"));
        }
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        sys::end_with_parent(&mut command);
        let output = command.output().context(
            "starting fio: install it (apt install fio), or leave out `cold` with --parts",
        )?;
        ensure!(output.status.success(), "fio ended with {}", output.status);
        Fio::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// From its report, which may stand behind notes of its own.
    fn parse(text: &str) -> anyhow::Result<Fio> {
        let json = text.find('{').map(|at| &text[at..]).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_str(json).context("fio's report")?;
        let read = &report["jobs"][0]["read"];
        let number = |value: &serde_json::Value| value.as_f64().filter(|number| *number > 0.0);
        let (rate, p99) =
            (number(&read["bw_bytes"]), number(&read["clat_ns"]["percentile"]["99.000000"]));
        let (Some(rate), Some(p99)) = (rate, p99) else { bail!("fio's report names no reads") };
        Ok(Fio { mib_per_s: rate / f64::from(1 << 20), p99_us: p99 / 1e3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_report_is_understood_or_refused() {
        let text = "note: a warning\n{\"jobs\": [{\"read\": {\"bw_bytes\": 1048576, \"clat_ns\": \
                    {\"percentile\": {\"99.000000\": 5000}}}}]}";
        let fio = Fio::parse(text).unwrap();
        assert!((fio.mib_per_s - 1.0).abs() < 1e-9 && (fio.p99_us - 5.0).abs() < 1e-9);
        for bad in ["", "{}", "{\"jobs\": [{\"read\": {\"bw_bytes\": 0}}]}"] {
            assert!(Fio::parse(bad).is_err(), "{bad}");
        }
    }
}
