//! `read`: devices read a vDisk as fast as it comes.

mod plots;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use diskstream_device::session::{MTU_MIN, limits::READ_CALL_BYTES_MAX, limits::READS_MAX};
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use diskstream_wire::limits::UNIT_BYTES;

use crate::flags::within;
use crate::fleet::{Check, Counts, Devices, DevicesConfig, Job, Offsets, Tally};
use crate::image;
use crate::node_process::{CpuTime, NodeProcess, serve_command};
use crate::random::Random;
use crate::report::{Provenance, Report, Reports, round};

/// Core of the node, core of the fleet.
pub const CORES: (usize, usize) = (0, 1);
/// Cache beside the image: room for blocks that are being read and for the cache's own slack. Guessed.
pub const CACHE_BESIDE_BYTES: u64 = 128 << 20;
/// Reads before the window opens, so that windows and round trips have settled. Guessed; a device needs some 50 ms.
pub const RAMP: Nanos = Nanos::from_millis(500);
/// Reads that warm the cache: large, few, by one device.
const WARM: (usize, usize) = (1 << 20, 8);
/// Memory for buffers at most.
const BUFFERS_BYTES_MAX: u64 = 4 << 30;
/// Reads per second at most: ten times what one core was ever seen to serve.
const RATE_MAX: u32 = 10_000_000;
/// Devices at most: a socket each, in one ring.
const DEVICES_MAX: u32 = 16_384;

/// Numbers of devices that one run measures at most. Guessed.
const COUNTS_MAX: usize = 32;
/// Devices where nothing is said.
const DEVICES: u32 = 64;

/// Where reads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Anywhere, in multiples of the size.
    Rand,
    /// Each device from its own start, in order, beginning anew at the end.
    Seq,
}

/// Flags of `read`.
#[derive(Debug, clap::Args)]
pub struct ReadCommand {
    /// Devices, each with its own session and socket; of several numbers, by comma, each is measured, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [DEVICES])]
    devices: Vec<u32>,
    /// Folder for pictures: latencies, and with several numbers of devices the throughput over them.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

/// What one measurement is made of.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadArgs {
    /// Devices.
    #[arg(skip = DEVICES)]
    pub devices: u32,
    /// Reads that each device keeps outstanding.
    #[arg(long, default_value_t = 4)]
    pub depth: u32,
    /// Reads per second of all devices together, asked for by the clock at random times; at most --depth of a device are
    /// outstanding, the others wait, and latencies count from when a read was due [default: each as soon as one is done].
    #[arg(long)]
    pub rate: Option<u32>,
    /// Bytes of a read: whole units of 4K, up to 32M.
    #[arg(long, default_value = "4K", value_parser = parse_size)]
    pub size: u64,
    /// Where reads go.
    #[arg(long, value_enum, default_value_t = Pattern::Rand)]
    pub pattern: Pattern,
    /// Length of the measurement.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Largest IP packet of the devices' link.
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// Login addresses of running nodes, ADDRESS:PORT, instead of a node of this run's own.
    #[arg(long, value_delimiter = ',')]
    pub servers: Vec<SocketAddr>,
    /// Compare every byte, not just each unit's stamp. With --servers the vDisk must be an image that this program made.
    #[arg(long)]
    pub verify: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Bytes of the image that is made.
    #[arg(long, default_value = "1G", value_parser = parse_size, conflicts_with = "servers")]
    pub image_bytes: u64,
    /// Bytes of one request on the wire: whole units of 4K up to 64K [default: the device's own].
    #[arg(long, value_parser = parse_size)]
    pub request: Option<u64>,
    /// Seed of the image and of random offsets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Cores of the node, one shard each; the fleet's is 1.
    #[arg(long, default_value = "0", conflicts_with = "servers")]
    pub node_cores: String,
    /// A flag of the node besides those that the load needs, such as --node-flag=--busy-poll=50; may be given several times.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true, conflicts_with = "servers")]
    pub node_flag: Vec<String>,
    /// A variable of the node's environment, such as DISKSTREAM_RING_WITHOUT=gro; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable, conflicts_with = "servers")]
    pub node_env: Vec<(String, String)>,
    /// Do not pin node and fleet to cores.
    #[arg(long)]
    pub no_pin: bool,
}

impl Default for ReadArgs {
    /// As the command without flags.
    fn default() -> ReadArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            read: ReadArgs,
        }
        <Line as clap::Parser>::parse_from(["read"]).read
    }
}

/// Digits and an optional K, M or G (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is no size: write a number and K, M or G, such as 4K");
    let (digits, shift) = match text.bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// A name and a value.
fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no variable: write NAME=VALUE")),
    }
}

impl ReadCommand {
    /// One for each number of devices, all checked.
    fn runs(&self) -> anyhow::Result<Vec<ReadArgs>> {
        ensure!(
            (1..=COUNTS_MAX).contains(&self.devices.len()),
            "--devices: at most {COUNTS_MAX} numbers"
        );
        let of = |&devices| ReadArgs { devices, ..self.read.clone() };
        let runs: Vec<ReadArgs> = self.devices.iter().map(of).collect();
        runs.iter().try_for_each(ReadArgs::check)?;
        Ok(runs)
    }
}

impl ReadArgs {
    /// What no single flag can tell, before anything is made or opened.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> anyhow::Result<()> {
        let unit = UNIT_BYTES as u64;
        let (devices, depth, size) = (u64::from(self.devices), u64::from(self.depth), self.size);
        within("--devices", self.devices, 1..=DEVICES_MAX)?;
        within("--depth", depth, 1..=READS_MAX as u64)?;
        self.rate.map_or(Ok(()), |rate| within("--rate", rate, 1..=RATE_MAX))?;
        ensure!(
            size > 0 && size.is_multiple_of(unit) && size <= READ_CALL_BYTES_MAX as u64,
            "--size {size}: must be whole units of {unit}, up to {}M",
            READ_CALL_BYTES_MAX >> 20
        );
        within("--seconds", self.seconds, 0.1..=86_400.0)?;
        ensure!(self.mtu >= MTU_MIN, "--mtu {}: must be at least {MTU_MIN}", self.mtu);
        ensure!(
            devices * depth * size <= BUFFERS_BYTES_MAX,
            "--devices, --depth and --size together need {} MiB of buffers; at most {} MiB",
            (devices * depth * size) >> 20,
            BUFFERS_BYTES_MAX >> 20
        );
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20)
                && self.image_bytes >= (64 << 20).max(size)
                && self.image_bytes <= 1 << 40,
            "--image-bytes {}: must be whole MiB, from 64M (and one read) to 1024G",
            self.image_bytes
        );
        if let Some(bytes) = self.request {
            ensure!(
                bytes > 0 && bytes.is_multiple_of(unit) && bytes <= 64 << 10,
                "--request {bytes}: must be whole units of {unit}, up to 64K"
            );
        }
        let needed = devices + 64;
        ensure!(
            open_files_limit().is_none_or(|limit| limit >= needed),
            "--devices {devices}: needs {needed} open files; raise the limit with `ulimit -n {needed}`"
        );
        Ok(())
    }
}

/// The soft limit of open files; none when the system does not say.
fn open_files_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What is read at both edges of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Nanos,
    node: Option<CpuTime>,
    fleet: CpuTime,
    counts: Counts,
}

/// What one measurement found.
#[derive(Debug)]
pub struct Measured {
    /// Reads, failures and latencies.
    pub tally: Tally,
    samples: [Sample; 2],
    check: Check,
    fragment_bytes: usize,
    node_enters_per_read: Option<f64>,
}

impl Measured {
    /// Length of the window in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    pub fn seconds(&self) -> f64 {
        self.samples[1].at.since(self.samples[0].at).0 as f64 / 1e9
    }

    /// What the node had of the processor within the window; none when it is not ours.
    #[must_use]
    pub fn node_cpu(&self) -> Option<CpuTime> {
        let [begin, end] = &self.samples;
        begin.node.zip(end.node).map(|(begin, end)| end.since(begin))
    }

    /// What the fleet's thread had of it.
    #[must_use]
    pub fn fleet_cpu(&self) -> CpuTime {
        self.samples[1].fleet.since(self.samples[0].fleet)
    }

    /// Requests that were sent again within the window, because fragments did not arrive.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.samples[1].counts.retries - self.samples[0].counts.retries
    }

    /// Whether the figures may be believed.
    ///
    /// # Errors
    /// When reads failed, bytes were wrong, or nothing was read.
    pub fn judge(&self) -> anyhow::Result<()> {
        let tally = &self.tally;
        if let Some(reason) = &tally.first_failure {
            bail!("{} reads failed; the first: {reason}", tally.failed);
        }
        ensure!(tally.wrong_bytes == 0, "{} bytes are not the image's", tally.wrong_bytes);
        ensure!(tally.reads > 0, "no read ended within the window; give more --seconds");
        Ok(())
    }
}

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, a node that cannot be started or reached; reads that failed, bytes that are wrong.
pub fn run(command: &ReadCommand) -> anyhow::Result<()> {
    let all = command.runs()?;
    let most = all.iter().max_by_key(|args| args.devices).expect("at least one");
    let provenance = Provenance::with_node_if(most.servers.is_empty());
    // The node is started before this thread is pinned: it would inherit the core.
    let node = if most.servers.is_empty() { Some(start_node(most)?) } else { None };
    let pinned = !most.no_pin && pin(CORES.1);
    let (mut reports, mut fault) = (Vec::new(), None);
    for args in &all {
        if all.len() > 1 {
            let _ = writeln!(std::io::stderr(), "{} devices", args.devices);
        }
        let measured = measure(args, node.as_ref(), node.is_some() && reports.is_empty())?;
        fault = measured.judge().err();
        reports.push(make_report(args, measured, pinned, provenance.clone()));
        if fault.is_some() {
            break;
        }
    }
    drop(node);
    if let Some(folder) = &command.plots {
        plots::draw(folder, &reports)?;
    }
    match <[Report; 1]>::try_from(reports) {
        Ok([report]) => report.print(most.json)?,
        Err(runs) => Reports { runs }.print(most.json)?,
    }
    fault.map_or(Ok(()), Err)
}

/// One measurement: logs the devices in, at `node` or at the servers of `args`, reads for the ramp and the window, and takes
/// the devices out again. `args` must have been checked.
///
/// # Errors
/// A node that cannot be reached, a ring that fails. Reads that failed are left to [`Measured::judge`].
pub fn measure(
    args: &ReadArgs,
    node: Option<&NodeProcess>,
    warm_first: bool,
) -> anyhow::Result<Measured> {
    let servers = node.map_or_else(|| args.servers.clone(), |node| vec![node.login]);
    let mut random = Random::new(args.seed);
    let config = DevicesConfig {
        servers,
        devices: args.devices as usize,
        first: 0,
        mtu: args.mtu,
        request_bytes: args.request.map(|bytes| u32::try_from(bytes).expect("checked above")),
        own_notice_ports: false,
    };
    let mut devices = Devices::log_in(&config, &mut random)?;
    ensure!(
        devices.image_bytes() >= args.size,
        "the vDisk has {} bytes, fewer than one read",
        devices.image_bytes()
    );
    let check = match (args.verify, node) {
        (true, _) => Check::EveryByte,
        (false, Some(_)) => Check::Stamps,
        (false, None) => Check::Nothing,
    };
    if warm_first {
        warm(args.seed, &mut devices)?;
    }
    let enters_before = node.and_then(NodeProcess::enters);
    let (tally, samples) = drive(args, check, random, &mut devices, node)?;
    let enters_after = node.and_then(NodeProcess::enters);
    let fragment_bytes = devices.fragment_bytes();
    devices.detach()?;
    let node_enters_per_read = match (enters_before, enters_after) {
        (Some(before), Some(after)) => Some(ratio(after - before, tally.reads_all)),
        _ => None,
    };
    Ok(Measured { tally, samples, check, fragment_bytes, node_enters_per_read })
}

/// Starts a node for this load: an image of the seed, a cache that holds all of it, pinned unless told otherwise.
///
/// # Errors
/// When the image cannot be made, or the node cannot be started.
pub fn start_node(args: &ReadArgs) -> anyhow::Result<NodeProcess> {
    let image = image::make(&image::folder()?, args.seed, args.image_bytes)?;
    let cache = args.image_bytes + CACHE_BESIDE_BYTES;
    let mut flags: Vec<String> = ["--login-port", "0", "--io-ports", "0", "--http", "127.0.0.1:0"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    flag("--cache", cache.to_string());
    flag("--sessions", args.devices.max(1024).to_string());
    flag("--boot-limit", "0".to_owned());
    if !args.no_pin {
        flag("--cores", args.node_cores.clone());
    }
    flags.extend(args.node_flag.iter().cloned());
    let mut command = serve_command()?;
    command.arg(&image).args(flags).envs(args.node_env.iter().cloned());
    NodeProcess::launch(command)
}

/// Pins this thread; false when the core is not there for us.
pub fn pin(core: usize) -> bool {
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
    if !pinned {
        let _ = writeln!(std::io::stderr(), "core {core} cannot be had: the fleet is not pinned");
    }
    pinned
}

/// Reads the whole image once, so that the node has it in its cache, and checks every stamp on the way.
///
/// # Errors
/// When a read fails or a stamp is wrong.
pub fn warm(seed: u64, devices: &mut Devices) -> anyhow::Result<()> {
    let (size, depth) = WARM;
    let job = Job {
        devices: 1,
        depth,
        rate: None,
        size,
        offsets: Offsets::Once { next: 0 },
        check: Check::Stamps,
        seed,
        ramp: Nanos::ZERO,
        window: Nanos::NEVER,
    };
    let total = devices.image_bytes() / size as u64;
    let show = std::io::stderr().is_terminal();
    let tally = devices
        .run(
            job,
            |_| Ok(()),
            |done, _| {
                if show && done % 32 == 0 {
                    eprint!("\rwarming the cache: {:3} %", done * 100 / total);
                }
            },
        )
        .context("warming the cache")?;
    if show {
        eprintln!("\rwarming the cache: 100 %");
    }
    ensure!(
        tally.failed == 0 && tally.wrong_bytes == 0,
        "warming the cache: {} reads failed, {} bytes are not the image's",
        tally.failed,
        tally.wrong_bytes
    );
    Ok(())
}

fn drive(
    args: &ReadArgs,
    check: Check,
    random: Random,
    devices: &mut Devices,
    node: Option<&NodeProcess>,
) -> anyhow::Result<(Tally, [Sample; 2])> {
    let count = args.devices as usize;
    let job = Job {
        devices: count,
        depth: args.depth as usize,
        rate: args.rate,
        size: usize::try_from(args.size).expect("checked above"),
        offsets: match args.pattern {
            Pattern::Rand => Offsets::Random(random),
            Pattern::Seq => Offsets::sequential(count, args.size, devices.image_bytes()),
        },
        check,
        seed: args.seed,
        ramp: RAMP,
        window: nanos_of(args.seconds),
    };
    let mut samples = Vec::with_capacity(2);
    let edge = |devices: &Devices| -> anyhow::Result<()> {
        samples.push(Sample {
            at: clock::now(),
            node: node.map(NodeProcess::cpu).transpose()?,
            fleet: CpuTime::of_this_thread()?,
            counts: devices.counts(),
        });
        Ok(())
    };
    let show = std::io::stderr().is_terminal();
    let mut shown = 0;
    let tally = devices.run(job, edge, |_, elapsed_ms| {
        if show && elapsed_ms / 1000 != shown {
            shown = elapsed_ms / 1000;
            eprint!("\rmeasuring: {shown} s");
        }
    })?;
    if show {
        eprintln!();
    }
    let samples: [Sample; 2] = samples
        .try_into()
        .map_err(|_| anyhow::anyhow!("every read failed before the measurement began"))?;
    Ok((tally, samples))
}

/// A time, from seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number of seconds below 86,401, as checked"
)]
pub fn nanos_of(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    round(part as f64 / whole.max(1) as f64, 3)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn make_report(
    args: &ReadArgs,
    measured: Measured,
    pinned: bool,
    provenance: Provenance,
) -> Report {
    let seconds = measured.seconds();
    let bytes = measured.tally.reads * args.size;
    let node = measured.node_cpu();
    let node_cpu_ns = node.map(|node| node.used_ns);
    let fleet = measured.fleet_cpu();
    let Measured { tally, samples: [begin, end], .. } = measured;
    let to_seconds = |ns: u64| round(ns as f64 / 1e9, 3);
    let percentile = |q: f64| round(tally.latency.value_at_quantile(q) as f64 / 1e3, 1);
    let per_read = |of: fn(&Counts) -> u64| ratio(of(&end.counts) - of(&begin.counts), tally.reads);
    Report {
        iops: round(tally.reads as f64 / seconds, 1),
        mib_per_s: round(bytes as f64 / seconds / f64::from(1 << 20), 2),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        max_us: round(tally.latency.max() as f64 / 1e3, 1),
        reads: tally.reads,
        failed: tally.failed,
        wrong_bytes: tally.wrong_bytes,
        check: measured.check,
        node_cpu_us_per_read: node_cpu_ns
            .map(|ns| round(ns as f64 / 1e3 / tally.reads.max(1) as f64, 3)),
        node_cpu_s_per_gib: node_cpu_ns
            .map(|ns| round(ns as f64 / 1e9 / (bytes.max(1) as f64 / f64::from(1 << 30)), 4)),
        node_cpu_s: node_cpu_ns.map(to_seconds),
        node_cpu_wait_s: node.map(|node| to_seconds(node.waited_ns)),
        fleet_cpu_s: to_seconds(fleet.used_ns),
        fleet_cpu_wait_s: to_seconds(fleet.waited_ns),
        node_enters_per_read: measured.node_enters_per_read,
        fleet_enters_per_read: per_read(|c| c.enters),
        fleet_trains_in_per_read: per_read(|c| c.trains_in),
        fleet_datagrams_in_per_read: per_read(|c| c.datagrams_in),
        fleet_receives_starved: end.counts.starved - begin.counts.starved,
        requests: end.counts.requests - begin.counts.requests,
        late_datagrams: end.counts.late - begin.counts.late,
        probes: end.counts.probes - begin.counts.probes,
        moves: end.counts.moves - begin.counts.moves,
        retries: end.counts.retries - begin.counts.retries,
        devices: args.devices,
        depth: args.depth,
        rate: args.rate,
        skipped: tally.skipped,
        unfinished: tally.unfinished,
        size: args.size,
        node_flags: args.node_flag.clone(),
        node_env: args.node_env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        pattern: args.pattern,
        mtu: args.mtu,
        fragment_bytes: measured.fragment_bytes,
        seconds: round(seconds, 3),
        pinned,
        latency: tally.latency,
        provenance,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        command: ReadCommand,
    }

    fn runs(flags: &[&str]) -> Result<Vec<ReadArgs>, String> {
        let line = Line::try_parse_from(std::iter::once(&"read").chain(flags));
        line.map_err(|e| e.to_string())?.command.runs().map_err(|e| e.to_string())
    }

    fn check(flags: &[&str]) -> Result<ReadArgs, String> {
        Ok(runs(flags)?.remove(0))
    }

    #[test]
    fn each_number_of_devices_is_a_run() {
        let of = |flags| runs(flags).unwrap().iter().map(|run| run.devices).collect::<Vec<_>>();
        assert_eq!(of(&[]), [64]);
        assert_eq!(of(&["--devices", "500,1,8"]), [500, 1, 8]);
        assert!(runs(&["--devices", "8,0"]).unwrap_err().contains("--devices 0"));
        assert_eq!(ReadArgs::default().devices, 64);
    }

    #[test]
    fn the_usual_lines_parse() {
        let line = "--devices 64 --depth 4 --size 4K --pattern rand --seconds 5 --mtu 1500 --verify --json";
        let args = check(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((args.size, args.pattern), (4096, Pattern::Rand));
        let servers = check(&["--servers", "127.0.0.1:6910,[::1]:6910"]).unwrap().servers;
        assert_eq!(servers.len(), 2);
        assert_eq!(check(&["--size", "1M", "--pattern", "seq"]).unwrap().size, 1 << 20);
        let line = ["--node-flag", "--busy-poll=50", "--node-flag=--pace", "--node-flag", "off"];
        assert_eq!(check(&line).unwrap().node_flag, ["--busy-poll=50", "--pace", "off"]);
        let variable = check(&["--node-env", "A=b=c"]).unwrap().node_env;
        assert_eq!(variable, [("A".to_owned(), "b=c".to_owned())]);
    }

    #[test]
    fn every_refusal_names_the_flag() {
        for (flags, words) in [
            (&["--devices", "0"][..], "--devices 0"),
            (&["--depth", "0"], "--depth 0"),
            (&["--rate", "0"], "--rate 0"),
            (&["--size", "100"], "--size 100"),
            (&["--size", "64M"], "--size"),
            (&["--size", "big"], "'big' is no size"),
            (&["--size", "K"], "'K' is no size"),
            (&["--seconds", "0"], "--seconds 0"),
            (&["--seconds", "NaN"], "--seconds NaN"),
            (&["--mtu", "576"], "--mtu 576"),
            (&["--pattern", "zigzag"], "zigzag"),
            (&["--devices", "4096", "--depth", "64", "--size", "1M"], "of buffers"),
            (&["--image-bytes", "1M"], "--image-bytes"),
            (&["--request", "6K"], "--request 6144"),
            (&["--servers", "nowhere"], "nowhere"),
            (&["--node-env", "GRO"], "'GRO' is no variable"),
            (&["--node-env", "=off"], "'=off' is no variable"),
            (&["--node-flag=--spin=9", "--servers", "127.0.0.1:1"], "--servers"),
        ] {
            let error = check(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
