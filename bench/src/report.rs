//! Reports: figures, and where they come from (machine, kernel, commit, load).

use std::fs;
use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fleet::Check;
use crate::node_process;
use crate::read::Pattern;

/// Figures of a run of `read`. Keys of the JSON object are the fields' names.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Reads per second.
    pub iops: f64,
    /// 2^20 bytes per second.
    pub mib_per_s: f64,
    /// Latencies, from the caller's read (with a rate: from when it was due) to its last byte.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Reads that ended within the window.
    pub reads: u64,
    /// Reads that failed, in the window or not.
    pub failed: u64,
    /// Bytes that are not the image's, in the window or not.
    pub wrong_bytes: u64,
    /// How bytes were checked.
    pub check: Check,
    /// The node's processor time, all threads; none when the node is not ours.
    pub node_cpu_us_per_read: Option<f64>,
    /// The same per 2^30 bytes.
    pub node_cpu_s_per_gib: Option<f64>,
    /// The same in all.
    pub node_cpu_s: Option<f64>,
    /// Time for which the node was ready to run while others had the processor.
    pub node_cpu_wait_s: Option<f64>,
    /// Processor time of the fleet's thread.
    pub fleet_cpu_s: f64,
    /// Time for which it was ready to run while others had the processor.
    pub fleet_cpu_wait_s: f64,
    /// The node's system calls per read, ramp included.
    pub node_enters_per_read: Option<f64>,
    /// The fleet's.
    pub fleet_enters_per_read: f64,
    /// Trains that the fleet received, per read.
    pub fleet_trains_in_per_read: f64,
    /// Datagrams that the fleet received, per read.
    pub fleet_datagrams_in_per_read: f64,
    /// Receives of the fleet that found no buffer.
    pub fleet_receives_starved: u64,
    /// Requests sent, repeats included.
    pub requests: u64,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Datagrams with data that had arrived before.
    pub late_datagrams: u64,
    /// Times that a device probed a node which had fallen silent.
    pub probes: u64,
    /// Times that a device left its node, or logged in there anew.
    pub moves: u64,
    /// Devices.
    pub devices: u32,
    /// Reads outstanding per device; with a rate at most.
    pub depth: u32,
    /// Reads per second that were due; none: each device asked as soon as it was answered.
    pub rate: Option<u32>,
    /// Reads that were due and never asked for, because too many were waiting.
    pub skipped: u64,
    /// Reads that were due and not answered some seconds after the window; their latency counts until then.
    pub unfinished: u64,
    /// Bytes of a read.
    pub size: u64,
    /// Flags that the node was given besides (--node-flag).
    pub node_flags: Vec<String>,
    /// What it was given of an environment (--node-env).
    pub node_env: Vec<String>,
    /// Where reads went.
    pub pattern: Pattern,
    /// Largest IP packet.
    pub mtu: u16,
    /// Data bytes of a fragment.
    pub fragment_bytes: usize,
    /// Length of the window.
    pub seconds: f64,
    /// Whether the fleet's thread had a core of its own.
    pub pinned: bool,
    /// All latencies in nanoseconds, for pictures.
    #[serde(skip)]
    pub latency: Histogram<u64>,
    /// Where the figures come from.
    pub provenance: Provenance,
}

/// Of several runs of `read`, which differ by their devices.
#[derive(Debug, Serialize)]
pub struct Reports {
    /// Each, in the order in which they were measured.
    pub runs: Vec<Report>,
}

impl Reports {
    /// Prints the tables, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        print(self, json, |out| self.runs.iter().try_for_each(|run| run.table(out)))
    }
}

impl Report {
    /// Prints a table, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Report { devices, depth, size, pattern, mtu, .. } = self;
        if let Some(rate) = self.rate {
            let Report { skipped, unfinished, .. } = self;
            writeln!(out, "{rate} reads/s due; {skipped} skipped, {unfinished} unfinished")?;
        }
        let known = |figure: Option<f64>| figure.map_or("unknown".to_owned(), |f| f.to_string());
        writeln!(out, "{devices} devices x {depth} reads of {size} bytes, {pattern:?}, MTU {mtu}")?;
        writeln!(out, "  reads/s        {:>12}", self.iops)?;
        writeln!(out, "  MiB/s          {:>12}", self.mib_per_s)?;
        writeln!(
            out,
            "  latency        {:>12} µs half, {} µs 99 %, {} µs 99.9 %, {} µs longest",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )?;
        writeln!(
            out,
            "  reads          {:>12} in {} s; {} failed, {} wrong bytes (checked: {:?})",
            self.reads, self.seconds, self.failed, self.wrong_bytes, self.check
        )?;
        writeln!(
            out,
            "  requests       {:>12}, {} of them again; {} datagrams came twice; {} probes, {} moves",
            self.requests, self.retries, self.late_datagrams, self.probes, self.moves
        )?;
        writeln!(
            out,
            "  node           {:>12} µs of processor per read, {} s per GiB, {} io_uring_enter per read",
            known(self.node_cpu_us_per_read),
            known(self.node_cpu_s_per_gib),
            known(self.node_enters_per_read)
        )?;
        writeln!(
            out,
            "  fleet          {:>12} s of processor, {} io_uring_enter per read, {} datagrams in {} trains per read",
            self.fleet_cpu_s,
            self.fleet_enters_per_read,
            self.fleet_datagrams_in_per_read,
            self.fleet_trains_in_per_read
        )?;
        writeln!(
            out,
            "  others         had the processor for {} s while the node, for {} s while the fleet could have run",
            known(self.node_cpu_wait_s),
            self.fleet_cpu_wait_s
        )?;
        writeln!(out, "  {}", self.provenance)
    }
}

/// Prints a report: with `json` as one JSON object, else what `table` writes for people.
///
/// # Errors
/// When standard output is gone.
pub fn print(
    report: &impl Serialize,
    json: bool,
    table: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        table(&mut out)?;
    }
    Ok(out.flush()?)
}

/// Rounds to so many decimals.
#[must_use]
pub fn round(figure: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (figure * scale).round() / scale
}

/// Facts without which a figure says nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Commit that this program was built of, with `-dirty` when its sources were changed; "unknown" where it was built without
    /// git, "development" of builds for tests.
    pub commit: &'static str,
    /// The same of the node's program that the run starts, as that says itself; none when it starts none.
    pub node_commit: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Model of the first processor.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Load average over the last minute, before the run: others on the machine make figures worse.
    pub load_average: f64,
    /// Version of this program.
    pub version: &'static str,
}

impl Provenance {
    /// Asks the machine; and when the node is the run's `own` that one's program, or else it is running already.
    #[must_use]
    pub fn with_node_if(own: bool) -> Provenance {
        if own { Provenance::with_node() } else { Provenance::of_this_machine() }
    }

    /// Asks the machine, and the node's program, which is what is measured.
    #[must_use]
    pub fn with_node() -> Provenance {
        // Where the program is missing the run ends anyway, as soon as it is to start it.
        let commit = node_process::commit().unwrap_or_else(|_| "unknown".to_owned());
        Provenance { node_commit: Some(commit), ..Provenance::of_this_machine() }
    }

    /// Asks the machine.
    #[must_use]
    pub fn of_this_machine() -> Provenance {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Provenance {
            commit: env!("DISKSTREAM_COMMIT"),
            node_commit: None,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            cpu: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load_average: load_average(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl std::fmt::Display for Provenance {
    /// One line under a table.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Provenance { commit, node_commit, cores, cpu, kernel, load_average, .. } = self;
        if let Some(node) = node_commit {
            write!(f, "node {node}, bench ")?;
        }
        write!(f, "{commit} | {cores} x {cpu} | Linux {kernel} | load {load_average}")
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}
