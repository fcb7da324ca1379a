//! `storm`: a fleet boots at once from one image.
//!
//! ```text
//! core 0: node, its cache empty  <── real sockets ──>  core 1: N devices in one thread, each replays the trace
//! ```
//!
//! | part | does |
//! |---|---|
//! | `args` | flags |
//! | `trace` | what one boot reads, and when |
//! | `drive` | the loop: logins, reads, think times |
//! | `warm` | the list of what boots read, for storms that follow one another |
//! | `report`, `summary`, `plot` | figures, where they come from, and pictures |
//!
//! What the disk reads is the node's own count (`/metrics`), from before the first login; what it had to read follows from the trace
//! alone: all devices read the same.

mod args;
mod drive;
mod plot;
mod report;
mod summary;
mod trace;
mod warm;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use diskstream_wire::limits::UNIT_BYTES;

pub use args::StormArgs;
use args::{Kind, Switch, WarmUp};
use drive::{Plan, Progress};
use report::{Costs, NodeFigures, Storm};
use summary::{Report, Settings};
use trace::Trace;
use warm::Store;

use crate::fleet::{Check, DevicesConfig};
use crate::image;
use crate::node_process::{CpuTime, NodeProcess, metric, metric_sum};
use crate::random::Random;
use crate::read::{CORES, nanos_of, pin};
use crate::report::{Provenance, round};
use crate::{stop, sys};

/// Open files beside the devices' sockets. Guessed.
const FILES_BESIDE: u64 = 512;
/// Wait for a node to end that was told to. Guessed: nobody is logged in any more, and a list of blocks is written.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, a trace that is none, a node that cannot be started or reached; boots that failed, bytes that
/// are wrong.
pub fn run(args: &StormArgs) -> anyhow::Result<()> {
    args.check()?;
    let trace = Trace::load(&args.trace)?.at_speed(args.speed);
    let own = args.servers.is_empty();
    ensure!(
        !own || trace.end() <= args.image_bytes,
        "--image-bytes {}: the trace reads up to byte {}; give as many at least",
        args.image_bytes,
        trace.end()
    );
    let files = u64::from(args.devices) + FILES_BESIDE;
    let granted = sys::raise_open_files(files).context("raising the limit of open files")?;
    ensure!(
        granted >= files,
        "--devices {}: needs {files} open files, and the hard limit is {granted}; raise it with `ulimit -Hn {files}`",
        args.devices
    );
    let provenance = Provenance::with_node_if(args.servers.is_empty());
    let schedule = args.schedule();
    let mut storms = Vec::with_capacity(schedule.len());
    let image = own.then(|| image::make(&image::folder()?, args.seed, args.image_bytes));
    let image = image.transpose()?;
    let store = image.as_deref().filter(|_| args.warm_up == Switch::On);
    let store = store.map(Store::new).transpose()?;
    // Who is ended at once leaves the store's folder behind.
    let stop = stop::on_signals()?;
    for (number, &kind) in schedule.iter().enumerate() {
        if schedule.len() > 1 {
            let _ =
                writeln!(std::io::stderr(), "storm {} of {}: {kind}", number + 1, schedule.len());
        }
        let node = Setup { kind, image: image.as_deref(), store: store.as_ref() };
        let storm = measure(args, &trace, own.then_some(node), &stop)?;
        storms.push(storm);
    }
    // The figures are worth a look all the same, and say how many failed.
    let fault = storms.iter().find_map(Storm::fault);
    let settings = settings(args, &trace);
    let report = Report::new(storms, own.then_some(args.asked()), settings, provenance);
    if let Some(folder) = &args.plots {
        plot::write(folder, &report)?;
    }
    report.print(args.json)?;
    fault.map_or(Ok(()), |fault| bail!("{fault}"))
}

fn settings(args: &StormArgs, trace: &Trace) -> Settings {
    let own = args.servers.is_empty();
    #[expect(clippy::cast_precision_loss, reason = "some seconds")]
    let think_s = round(trace.think().0 as f64 / 1e9, 3);
    Settings {
        devices: args.devices,
        trace_reads: trace.reads.len(),
        trace_bytes: trace.bytes(),
        think_s,
        speed: args.speed,
        spread_s: args.spread,
        boot_limit: own.then_some(args.boot_limit),
        cache_bytes: own.then_some(args.cache),
        image_bytes: args.image_bytes,
        mtu: args.mtu,
        pinned: !args.no_pin,
    }
}

/// A node of this run's own.
#[derive(Clone, Copy)]
struct Setup<'a> {
    kind: Kind,
    image: Option<&'a Path>,
    /// For storms that follow one another.
    store: Option<&'a Store>,
}

/// One storm, with a node of its own where one is set up: its cache is empty.
fn measure(
    args: &StormArgs,
    trace: &Trace,
    setup: Option<Setup<'_>>,
    stop: &AtomicBool,
) -> anyhow::Result<Storm> {
    let own = setup.is_some();
    // The node is started before this thread's devices: it would inherit the core.
    let node = setup.as_ref().map(|setup| start_node(args, setup)).transpose()?;
    let devices = DevicesConfig {
        servers: node.as_ref().map_or_else(|| args.servers.clone(), |node| vec![node.login]),
        devices: usize::from(args.devices),
        first: 0,
        mtu: args.mtu,
        request_bytes: None,
        own_notice_ports: false,
    };
    let check = match (args.verify, own) {
        (true, _) => Check::EveryByte,
        (false, true) => Check::Stamps,
        (false, false) => Check::Nothing,
    };
    let spread = nanos_of(args.spread);
    let plan = Plan { trace, devices: &devices, spread, check, seed: args.seed, stop };
    let before = node.as_ref().map(Sample::of).transpose()?;
    let (outcome, elapsed, fleet) = on_its_core(args.no_pin, || {
        let (start, fleet_before) = (clock::now(), CpuTime::of_this_thread()?);
        let mut shown = Shown::new(devices.devices);
        let outcome = drive::run(&plan, &mut Random::new(args.seed), |now| shown.show(now))?;
        shown.end();
        let fleet = CpuTime::of_this_thread()?.since(fleet_before);
        Ok((outcome, clock::now().since(start), fleet))
    })?;
    let counted = match (before, &node) {
        (Some(before), Some(node)) => Some(Sample::of(node)?.since(&before)),
        _ => None,
    };
    if let (Some(setup), Some(node), Some(counted)) = (setup, node, &counted) {
        end_node(&setup, node, counted)?;
    }
    let unique = |block: u64| trace.unique_bytes(block.max(1), outcome.image_bytes);
    let costs = Costs {
        kind: setup.map(|setup| setup.kind),
        node: counted,
        elapsed,
        fleet_ns: (fleet.used_ns, fleet.waited_ns),
        check,
        unique: (unique(outcome.block_bytes), unique(UNIT_BYTES as u64)),
    };
    Ok(Storm::new(outcome, &costs))
}

/// Runs on a thread of its own, pinned to the devices' core: the next node that is started does not inherit it.
fn on_its_core<T: Send>(
    no_pin: bool,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if !no_pin {
                pin(CORES.1);
            }
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn start_node(args: &StormArgs, setup: &Setup<'_>) -> anyhow::Result<NodeProcess> {
    let Setup { kind, image, store } = *setup;
    if let (WarmUp::Recorded, Some(store)) = (kind.warm_up, store) {
        store.forget()?;
    }
    let image = store.map(Store::image).or(image).context("a node without an image")?;
    let mut flags: Vec<String> = ["--login-port", "0", "--io-ports", "0", "--http", "127.0.0.1:0"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    flag("--cache", args.cache.to_string());
    flag("--sessions", args.devices.max(1024).to_string());
    flag("--boot-limit", args.boot_limit.to_string());
    flag("--read-ahead", kind.read_ahead.name().to_owned());
    // Off: what earlier runs left beside the image would make this one warm.
    let warm_up = if kind.warm_up == WarmUp::Off { Switch::Off } else { Switch::On };
    flag("--warm-up", warm_up.name().to_owned());
    if !args.no_pin {
        flag("--cores", CORES.0.to_string());
    }
    NodeProcess::start(image, &flags)
}

/// Ends a node: one that writes down what boots read is given the time to do so, and one that has such a list must have used it.
fn end_node(setup: &Setup<'_>, node: NodeProcess, counted: &NodeFigures) -> anyhow::Result<()> {
    let Some(store) = setup.store else { return Ok(()) };
    ensure!(
        setup.kind.warm_up != WarmUp::Used || counted.listed_blocks > 0,
        "the node loaded nothing of what the storm before has read"
    );
    node.end(END_LIMIT)?;
    store.ensure_list()
}

/// What a node has counted and used at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    figures: NodeFigures,
    cpu: CpuTime,
}

impl Sample {
    fn of(node: &NodeProcess) -> anyhow::Result<Sample> {
        let text = node.metrics().context("the node's metrics cannot be had")?;
        let plain = |name: &str| {
            metric(&text, name).with_context(|| format!("the node's metrics have no {name}"))
        };
        let labelled = |name: &str, label: &str| metric_sum(&text, name, |l| l.contains(label));
        let lookups = "diskstream_cache_lookups_total";
        let figures = NodeFigures {
            disk_bytes: plain("diskstream_disk_read_bytes_total")?,
            disk_reads: plain("diskstream_disk_reads_total")?,
            hits: labelled(lookups, "\"hit\""),
            misses: labelled(lookups, "\"miss\""),
            coalesced: labelled(lookups, "\"coalesced\""),
            busy: labelled("diskstream_read_busy_total", ""),
            pending: plain("diskstream_read_pending_total")?,
            listed_blocks: labelled("diskstream_listed_blocks_done", "\"warm_up\""),
            cpu_s: 0.0,
            cpu_wait_s: 0.0,
        };
        Ok(Sample { figures, cpu: node.cpu()? })
    }

    fn since(&self, before: &Sample) -> NodeFigures {
        let cpu = self.cpu.since(before.cpu);
        #[expect(clippy::cast_precision_loss, reason = "some seconds")]
        let seconds = |ns: u64| round(ns as f64 / 1e9, 3);
        let (now, then) = (&self.figures, &before.figures);
        NodeFigures {
            disk_bytes: now.disk_bytes - then.disk_bytes,
            disk_reads: now.disk_reads - then.disk_reads,
            hits: now.hits - then.hits,
            misses: now.misses - then.misses,
            coalesced: now.coalesced - then.coalesced,
            busy: now.busy - then.busy,
            pending: now.pending - then.pending,
            listed_blocks: now.listed_blocks - then.listed_blocks,
            cpu_s: seconds(cpu.used_ns),
            cpu_wait_s: seconds(cpu.waited_ns),
        }
    }
}

/// Progress on standard error: on a terminal one line that changes, else a line now and then.
struct Shown {
    devices: usize,
    terminal: bool,
    every: Nanos,
    next: Nanos,
}

impl Shown {
    fn new(devices: usize) -> Shown {
        let terminal = std::io::stderr().is_terminal();
        // Guessed: quick enough to look alive, slow enough not to fill a log.
        let every = if terminal { Nanos::from_millis(500) } else { Nanos::from_secs(5) };
        Shown { devices, terminal, every, next: every }
    }

    fn show(&mut self, now: Progress) {
        if now.elapsed < self.next {
            return;
        }
        self.next = now.elapsed + self.every;
        let (start, end) = if self.terminal { ("\r", "") } else { ("", "\n") };
        let _ = write!(
            std::io::stderr(),
            "{start}{:4} s: of {} devices {} started, {} logged in, {} booted; {} MiB read{end}",
            now.elapsed.as_millis() / 1000,
            self.devices,
            now.started,
            now.opened,
            now.ended,
            now.bytes >> 20
        );
    }

    fn end(&self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}
