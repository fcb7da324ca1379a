//! `failover`: a node goes away while a fleet of devices reads, and what each device notices of it.
//!
//! ```text
//! core 0: node 1, node 2, … (processes)  <── real sockets ──>  core 1: N devices in one thread
//!              ^
//!   at its moment: stopped, killed, paused, cut off
//! ```
//!
//! | part | does |
//! |---|---|
//! | `args` | flags |
//! | `farm` | the farm file, and nodes started from it |
//! | `schedule` | when reads are due, whether answered or not |
//! | `drive` | the loop: asks for them, checks every byte |
//! | `stalls`, `moves` | the arithmetic of what devices notice |
//! | `scene`, `happening` | what happens to nodes, at its moment |
//! | `forgery` | a stranger that forges datagrams, and what they changed |
//! | `table` | all cases, against what they must reach |
//! | `report`, `plot` | figures, where they come from, and a picture |

mod args;
mod drive;
mod farm;
mod forgery;
mod happening;
mod moves;
mod plot;
mod report;
mod scene;
mod schedule;
mod stalls;
pub mod table;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use diskstream_ring::{Wait, clock};
use diskstream_wire::Nanos;

pub use args::FailoverArgs;
use args::Mode;
use farm::{Farm, FarmSpec, POWERS};
use forgery::Stranger;
use report::{Full, Placement, Report, Series};
use scene::{Beside, Run};
use stalls::Figures;

use crate::fleet::{Devices, DevicesConfig};
use crate::net::relay::RelayCounts;
use crate::net::{Lan, LanCounts, lan_address, may_make_namespaces};
use crate::random::Random;
use crate::read::{CORES, pin, warm};
use crate::report::{Provenance, round};
use crate::{stop, sys};

/// Wait for every device to have its standby. Guessed: sought within half a second of the login, asked again with backoff.
const STANDBY_LIMIT: Nanos = Nanos::from_secs(20);
/// Largest IP packet of the devices.
const MTU: u16 = 1500;
/// Open files beside the devices' sockets. Guessed.
const FILES_BESIDE: u64 = 512;

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, nodes that cannot be started or reached; reads that failed, bytes that are wrong, devices that
/// did not move.
pub fn run(args: &FailoverArgs) -> anyhow::Result<()> {
    let (report, series) = measure(args)?;
    report.print(args.json)?;
    if let Some(path) = &args.report {
        let text = serde_json::to_string(&Full { report: &report, series: &series })?;
        fs::write(path, text).with_context(|| format!("writing --report {}", path.display()))?;
    }
    if let Some(path) = &args.plot {
        let title = format!(
            "{}: {} devices, {} nodes, longest stall {} ms",
            args.mode.name(),
            report.devices,
            report.nodes,
            report.stall_ms_max
        );
        let svg = plot::svg(&title, &series);
        fs::write(path, svg).with_context(|| format!("writing --plot {}", path.display()))?;
    }
    report.fault().map_or(Ok(()), |fault| bail!("{fault}"))
}

/// Measures.
///
/// # Errors
/// Flags that cannot work, nodes that cannot be started or reached.
pub fn measure(args: &FailoverArgs) -> anyhow::Result<(Report, Series)> {
    args.check()?;
    if args.in_namespaces() {
        may_make_namespaces()?;
    }
    raise_open_files(args)?;
    let stop = stop::on_signals()?;
    let provenance = Provenance::with_node();
    // Nodes are hosts 0 and up, then comes the fleet, then the stranger.
    let hosts = args.nodes + 1 + usize::from(args.forged > 0);
    let lan = args.in_namespaces().then(|| Lan::new(hosts, args.impairment(), args.seed));
    let lan = lan.transpose().context("making a network")?;
    let own = |number| if lan.is_some() { lan_address(number) } else { loopback(number) };
    let farm = Farm::write(FarmSpec {
        addresses: (0..args.nodes).map(own).collect(),
        devices: args.devices,
        seed: args.seed,
        image_bytes: args.image_bytes,
        core: (!args.no_pin).then_some(CORES.0),
        odd_node: args.odd_node,
        metrics: args.forged > 0,
        logs: args.logs.clone(),
    })?;
    let farm = Arc::new(farm);
    // Nodes are started before this thread is pinned: they would inherit its core.
    let mut nodes = Vec::new();
    for number in 0..args.nodes {
        let place = lan.as_ref().map(|lan| lan.host(number));
        nodes.push(farm.start(number, |command| place.into_iter().for_each(|p| p.host(command)))?);
    }
    let stranger = lan.as_ref().filter(|_| args.forged > 0);
    let stranger = stranger.map(|lan| Stranger::start(lan.host(args.nodes + 1))).transpose()?;
    if let Some(lan) = &lan {
        lan.host(args.nodes).enter()?;
    }
    let pinned = !args.no_pin && pin(CORES.1);
    let mut random = Random::new(args.seed);
    if !args.cold {
        (0..args.nodes).try_for_each(|number| warm_node(args, &farm, number, &mut random))?;
    }
    let config = DevicesConfig {
        // All begin on node 1; the others they learn from it.
        servers: vec![farm.login(0)],
        devices: usize::from(args.devices),
        first: 0,
        mtu: MTU,
        request_bytes: None,
        // Who forges notices must find a session behind every port.
        own_notice_ports: args.forged > 0,
    };
    let mut devices = Devices::log_in(&config, &mut random)?;
    let placement = settle(args, &farm, &mut devices, &stop)?;
    if let Some(lan) = lan.as_ref().filter(|_| args.block_notice_port) {
        lan.block_port(args.nodes, devices.fleet().session(0).config().notice_port)?;
    }
    if let Some(lan) = &lan {
        lan.impair()?;
    }
    let beside = Beside { nodes, stranger, stop };
    let run = scene::play(args, &farm, beside, lan.as_ref(), &mut devices, random)?;
    let mut wire = Wire::of(args, lan)?;
    wire.devices_at_odd_node = args.odd_node.then(|| at_odd_node(&farm, &devices));
    devices.detach()?;
    let report = make_report(args, &run, &wire, placement, pinned, provenance);
    Ok((report, make_series(args, &run)))
}

/// Each device has a socket or two.
fn raise_open_files(args: &FailoverArgs) -> anyhow::Result<()> {
    let sockets = if args.forged > 0 { 2 } else { 1 };
    let files = u64::from(args.devices) * sockets + FILES_BESIDE;
    let granted = sys::raise_open_files(files).context("raising the limit of open files")?;
    ensure!(
        granted >= files,
        "--devices {}: needs {files} open files, and the hard limit is {granted}; raise it with `ulimit -Hn {files}`",
        args.devices
    );
    Ok(())
}

/// A loopback address of this run's own, so that several runs do not meet.
fn loopback(number: usize) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = u8::try_from(number + 1).expect("at most 16 nodes");
    // 127.64.0.0/10: outside what people type by hand.
    IpAddr::V4(Ipv4Addr::new(127, 64 | (high & 0x3f), low, number))
}

/// One device reads the whole image from a node, so that it is in that node's cache.
fn warm_node(
    args: &FailoverArgs,
    farm: &Farm,
    number: usize,
    random: &mut Random,
) -> anyhow::Result<()> {
    if farm.is_odd(number) {
        return Ok(());
    }
    let config = DevicesConfig {
        servers: vec![farm.login(number)],
        devices: 1,
        first: farm::warmer(number),
        mtu: MTU,
        request_bytes: None,
        own_notice_ports: false,
    };
    let mut device = Devices::log_in(&config, random)?;
    let done = warm(args.seed, &mut device).and_then(|()| device.detach());
    done.with_context(|| format!("warming the cache of node {}", farm::node_name(number)))
}

/// What the network did, and what was found at its hosts.
#[derive(Default)]
struct Wire {
    network: &'static str,
    relay: Option<RelayCounts>,
    lan: Option<LanCounts>,
    blocked: Option<u64>,
    devices_at_odd_node: Option<usize>,
}

/// Devices that are at a node with another copy of the image, or have their standby there.
fn at_odd_node(farm: &Farm, devices: &Devices) -> usize {
    let now = clock::now();
    let odd = |at| farm.number_of(at).is_some_and(|number| farm.is_odd(number));
    let members = 0..devices.fleet().len();
    let statuses = members.map(|member| devices.fleet().session(member).status(now));
    statuses
        .filter(|status| {
            status.node.is_some_and(odd) || status.standby.as_ref().is_some_and(|s| odd(s.node))
        })
        .count()
}

impl Wire {
    fn of(args: &FailoverArgs, lan: Option<Lan>) -> anyhow::Result<Wire> {
        let Some(lan) = lan else {
            return Ok(Wire { network: "loopback", ..Wire::default() });
        };
        let blocked = args.block_notice_port.then(|| lan.blocked(args.nodes)).transpose()?;
        let counts = Some(lan.counts((args.mode == Mode::Cut).then_some(0))?);
        let relay = lan.end()?;
        let network = if relay.is_some() { "namespaces, relay" } else { "namespaces, bridge" };
        Ok(Wire { network, relay, lan: counts, blocked, devices_at_odd_node: None })
    }

    fn drops(&self) -> u64 {
        let relay = self.relay.map_or(0, |relay| relay.drops);
        relay + self.lan.map_or(0, |lan| lan.interface_drops)
    }
}

/// Waits until every device has a standby, and says who is where.
fn settle(
    args: &FailoverArgs,
    farm: &Farm,
    devices: &mut Devices,
    stop: &AtomicBool,
) -> anyhow::Result<Placement> {
    let limit = clock::now() + STANDBY_LIMIT;
    let all = usize::from(args.devices);
    loop {
        let until = clock::now() + Nanos::from_millis(100);
        while clock::now() < until {
            devices.fleet_mut().turn(Wait::Until(until), |_, _, _, _| ())?;
        }
        stop::go_on(stop)?;
        let now = clock::now();
        let statuses = (0..all).map(|member| devices.fleet().session(member).status(now));
        let (mut on_node_1, mut with_standby) = (0, 0);
        for status in statuses {
            on_node_1 += usize::from(status.node.and_then(|at| farm.number_of(at)) == Some(0));
            with_standby += usize::from(status.standby.is_some_and(|s| s.state == "open"));
        }
        let others = args.nodes - 1 - usize::from(args.odd_node);
        let as_wanted = on_node_1 == all && (others == 0 || with_standby == all);
        if as_wanted || now > limit {
            let (first, others) = POWERS;
            let how = format!("node 1 has power {first}, the others {others}; devices know node 1");
            return Ok(Placement { how, on_node_1, with_standby, as_wanted });
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn millis(time: Nanos) -> f64 {
    round(time.0 as f64 / 1e6, 3)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn seconds(ns: u64) -> f64 {
    round(ns as f64 / 1e9, 3)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn percent(part: u64, whole: u64) -> f64 {
    round(part as f64 * 100.0 / whole.max(1) as f64, 3)
}

fn make_series(args: &FailoverArgs, run: &Run) -> Series {
    let bins = run.outcome.stalls.bins();
    Series {
        bin_ms: stalls::BIN.as_millis(),
        event_ms: (args.mode != Mode::None).then(|| millis(args.length()) / 2.0),
        reads: bins.iter().map(|bin| bin.reads).collect(),
        stall_ms_max: bins.iter().map(|bin| millis(bin.stall)).collect(),
        moves: bins.iter().map(|bin| bin.moves).collect(),
    }
}

/// What devices noticed before the event; of the whole run where nothing happens.
fn baseline(args: &FailoverArgs, run: &Run) -> Figures {
    let stalls = &run.outcome.stalls;
    if args.mode == Mode::None { stalls.after() } else { stalls.before() }
}

/// What becomes of datagrams for a killed node.
fn refusals(args: &FailoverArgs) -> Option<&'static str> {
    let word = if args.refusals { "delivered" } else { "filtered" };
    (args.mode == Mode::Kill).then_some(word)
}

fn make_report(
    args: &FailoverArgs,
    run: &Run,
    wire: &Wire,
    placement: Placement,
    pinned: bool,
    provenance: Provenance,
) -> Report {
    let Run { outcome, load, .. } = run;
    let after = outcome.stalls.after();
    let before = baseline(args, run);
    Report {
        mode: args.mode,
        devices: usize::from(args.devices),
        nodes: args.nodes,
        seconds: args.seconds,
        network: wire.network,
        loss: args.loss.0,
        jitter_ms: args.jitter_ms,
        block_notice_port: args.block_notice_port,
        notices_blocked: wire.blocked,
        relay_drops: wire.drops(),
        relay: wire.relay,
        socket_drops: wire.lan.map(|lan| lan.socket_drops),
        refusals: refusals(args),
        caches: if args.cold { "cold" } else { "warm" },
        idle: args.idle,
        rate: args.rate,
        size: args.size,
        placement,
        reads: outcome.reads,
        reads_failed: outcome.failed,
        first_failure: outcome.first_failure.clone(),
        wrong_bytes: outcome.wrong_bytes,
        devices_moved: outcome.moves.devices_moved(),
        unneeded_moves: outcome.moves.unneeded(),
        all_moved_ms: outcome.moves.all_moved_after().map(millis),
        stall_ms_max: millis(after.max),
        stall_ms_p99: millis(after.p99),
        stall_ms_p50: millis(after.p50),
        baseline_stall_ms_max: millis(before.max),
        baseline_stall_ms_p50: millis(before.p50),
        gap_ms_max: millis(outcome.stalls.gap_max()),
        hedged_reads: load.hedged,
        hedged_percent: percent(load.hedged, outcome.reads),
        forged: run.forged,
        devices_at_odd_node: wire.devices_at_odd_node,
        gone_seconds: args.all.then_some(args.gone_seconds),
        reads_skipped: outcome.skipped,
        all_reading_ms: run.all_reading_after().map(millis),
        moves_by_cause: outcome.moves.by_cause().clone(),
        fleet_receives_starved: load.counts.starved,
        fleet_enters: load.counts.enters,
        device_counters: load.devices.clone(),
        retries: load.counts.retries,
        probes: load.counts.probes,
        node_exit_ms: run.exited_after.map(millis),
        moved_before_exit: run.moved_before_exit,
        event_late_ms: run.event_late.map(millis),
        node_cpu_s: load.nodes.iter().map(|cpu| seconds(cpu.used_ns)).collect(),
        node_cpu_wait_s: load.nodes.iter().map(|cpu| seconds(cpu.waited_ns)).collect(),
        fleet_cpu_s: seconds(load.fleet.used_ns),
        fleet_cpu_wait_s: seconds(load.fleet.waited_ns),
        pinned,
        seed: args.seed,
        provenance,
    }
}
