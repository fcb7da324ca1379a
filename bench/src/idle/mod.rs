//! `idle`: sessions that do nothing but live, and what they cost their node.
//!
//! ```text
//! core 0: node with one shard  <── loopback ──>  core 1: N clients, each with an address of its own in 127.128.0.0/9
//! ```
//!
//! All clients share one socket, which sends from and hears at any address of this host, so that the node sees N devices and this
//! program needs no N sockets. The run is in real time: nothing is compressed. Memory is the node's, with all sessions, less that of
//! the same node with hardly any room for some: what it keeps ready for sessions counts, whether they come or not.

mod client;
mod herd;

use std::io::{IsTerminal, Write};

use anyhow::{Context, ensure};
use diskstream_node::shard::session_cost_bytes;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use serde::Serialize;

use crate::flags::within;
use crate::image;
use crate::node_process::{CpuTime, NodeProcess, metric};
use crate::read::{CORES, nanos_of, pin};
use crate::report::{self, Provenance, round};
use herd::{Herd, Intervals};

/// Bytes of the image: nobody reads it.
const IMAGE_BYTES: u64 = 64 << 20;
/// Room for sessions of the node that others are compared with.
const SESSIONS_FEW: u32 = 16;
/// Sessions at most: numbers of addresses in 127.128.0.0/9, with room.
const SESSIONS_MAX: u32 = 4_000_000;
/// Quiet time before and after what is measured begins. Guessed.
const SETTLE: Nanos = Nanos::from_secs(2);

/// Flags of `idle`.
#[derive(Debug, clap::Args)]
pub struct IdleArgs {
    /// Sessions.
    #[arg(long, default_value_t = 100_000)]
    pub sessions: u32,
    /// Length of the measurement: two keep-alives of everybody and a check of each standby take 90 s.
    #[arg(long, default_value_t = 90.0)]
    pub seconds: f64,
    /// Seconds between keep-alives of a session that serves.
    #[arg(long, default_value_t = 30.0)]
    pub keep_alive: f64,
    /// Percent of the sessions that stand by for another node's.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub standby_percent: u32,
    /// Seconds between keep-alives of a standby session. Devices of this version check theirs every 10 s.
    #[arg(long, default_value_t = 60.0)]
    pub standby_check: f64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Do not pin the clients to a core; the node's one shard has its own in any case.
    #[arg(long)]
    pub no_pin: bool,
}

/// Figures of a run. Keys of the JSON object are the fields' names.
#[derive(Debug, Serialize)]
struct Report {
    /// Sessions.
    sessions: u32,
    /// Sessions that the node counted at the end.
    sessions_at_node: u64,
    /// Resident bytes that the node has more with the sessions and their room than without, ÷ sessions.
    memory_bytes_each: f64,
    /// What a shard sets aside for one session, by its own account.
    accounted_bytes_each: usize,
    /// The node's resident bytes with the sessions, and those of a node with hardly any room for some.
    resident_bytes: u64,
    resident_bytes_empty: u64,
    /// The node's processor time over the measurement ÷ its length, in percent of a core.
    cpu_percent: f64,
    /// The same with no session, which the figure above contains.
    cpu_percent_empty: f64,
    /// The node's processor time per keep-alive, in microseconds.
    cpu_us_per_keep_alive: f64,
    /// Time for which the node was ready to run while others had its core.
    cpu_wait_s: f64,
    /// Length of the measurement.
    seconds: f64,
    /// Keep-alives sent, and not answered until the next one.
    keep_alives: u64,
    keep_alives_per_s: f64,
    unanswered: u64,
    /// Sessions that the node ended.
    lost: u64,
    /// Logins, all of them one after the other in a window.
    login_s: f64,
    logins_per_s: f64,
    /// Login steps that had to be repeated.
    login_repeats: u64,
    keep_alive_s: f64,
    standby_percent: u32,
    standby_check_s: f64,
    provenance: Provenance,
}

impl IdleArgs {
    fn check(&self) -> anyhow::Result<()> {
        within("--sessions", self.sessions, 1..=SESSIONS_MAX)?;
        for (name, seconds) in [
            ("--seconds", self.seconds),
            ("--keep-alive", self.keep_alive),
            ("--standby-check", self.standby_check),
        ] {
            within(name, seconds, 0.1..=3600.0)?;
        }
        Ok(())
    }
}

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, a node that cannot be started; logins that are refused, sessions that are lost.
pub fn run(args: &IdleArgs) -> anyhow::Result<()> {
    args.check()?;
    let provenance = Provenance::with_node();
    let (resident_bytes_empty, cpu_percent_empty) = empty_node()?;
    let node = start_node(args.sessions + args.sessions / 8 + 64)?;
    if !args.no_pin {
        pin(CORES.1);
    }
    let intervals = Intervals {
        keep_alive: nanos_of(args.keep_alive),
        standby_check: nanos_of(args.standby_check),
        standby_percent: args.standby_percent,
    };
    let mut herd = Herd::new(node.login, args.sessions, intervals)?;
    let began = clock::now();
    herd.log_in(|open| show("logged in", open, args.sessions))?;
    let login = clock::now().since(began);
    herd.live(clock::now() + SETTLE, |_| {})?;
    let (before, cpu, start) = (herd.counts(), node.cpu()?, clock::now());
    herd.live(start + nanos_of(args.seconds), |left_s| show("seconds left", left_s, 0))?;
    let (after, cpu, took) = (herd.counts(), node.cpu()?.since(cpu), clock::now().since(start));
    let text = node.metrics().context("the node's metrics cannot be had")?;
    let resident_bytes = node.resident_bytes()?;
    let keep_alives = after.keep_alives - before.keep_alives;
    let report = Report {
        sessions: args.sessions,
        sessions_at_node: metric(&text, "diskstream_sessions").unwrap_or(0),
        memory_bytes_each: over(
            resident_bytes.saturating_sub(resident_bytes_empty),
            args.sessions.into(),
            1,
        ),
        accounted_bytes_each: session_cost_bytes(),
        resident_bytes,
        resident_bytes_empty,
        cpu_percent: percent(cpu, took),
        cpu_percent_empty,
        cpu_us_per_keep_alive: round(over(cpu.used_ns, keep_alives, 9) / 1e3, 2),
        cpu_wait_s: over(cpu.waited_ns, 1_000_000_000, 3),
        seconds: over(took.0, 1_000_000_000, 3),
        keep_alives,
        keep_alives_per_s: round(over(keep_alives, took.0, 12) * 1e9, 1),
        unanswered: after.unanswered - before.unanswered,
        lost: after.lost,
        login_s: over(login.0, 1_000_000_000, 3),
        logins_per_s: round(over(args.sessions.into(), login.0, 12) * 1e9, 0),
        login_repeats: after.repeats,
        keep_alive_s: args.keep_alive,
        standby_percent: args.standby_percent,
        standby_check_s: args.standby_check,
        provenance,
    };
    print(&report, args.json)?;
    ensure!(
        report.lost == 0 && report.sessions_at_node == u64::from(report.sessions),
        "the node has {} of {} sessions, and ended {}",
        report.sessions_at_node,
        report.sessions,
        report.lost
    );
    Ok(())
}

/// Resident bytes and processor share of a node without sessions and with hardly any room for some.
fn empty_node() -> anyhow::Result<(u64, f64)> {
    let node = start_node(SESSIONS_FEW)?;
    std::thread::sleep(SETTLE.as_duration());
    let (before, start) = (node.cpu()?, clock::now());
    std::thread::sleep(SETTLE.as_duration());
    let cpu = percent(node.cpu()?.since(before), clock::now().since(start));
    Ok((node.resident_bytes()?, cpu))
}

fn start_node(sessions: u32) -> anyhow::Result<NodeProcess> {
    let image = image::make(&image::folder()?, 1, IMAGE_BYTES)?;
    let sessions = sessions.to_string();
    // Huge pages would be counted whole, whatever is used of them.
    let mut flags = vec![
        "--login-port",
        "0",
        "--io-ports",
        "0",
        "--http",
        "127.0.0.1:0",
        "--boot-limit",
        "0",
        "--cache",
        "64M",
        "--huge-pages",
        "off",
        "--sessions",
        &sessions,
    ];
    let core = CORES.0.to_string();
    // One shard in any case: its bound is what --sessions means.
    flags.extend(["--cores", &core]);
    let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
    NodeProcess::start(&image, &flags)
}

fn show(what: &str, count: u32, of: u32) {
    if std::io::stderr().is_terminal() {
        let all = if of > 0 { format!(" of {of}") } else { String::new() };
        let _ = write!(std::io::stderr(), "\r{what}: {count}{all}        ");
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr());
    }
    report::print(report, json, |out| table(report, out))
}

fn table(r: &Report, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{} idle sessions, {} % of them standbys; keep-alives every {} s, of standbys every {} s; {} s",
        r.sessions, r.standby_percent, r.keep_alive_s, r.standby_check_s, r.seconds
    )?;
    writeln!(
        out,
        "  memory         {:>10} bytes each of the process ({} by the shard's account); {} bytes resident, {} without sessions",
        r.memory_bytes_each, r.accounted_bytes_each, r.resident_bytes, r.resident_bytes_empty
    )?;
    writeln!(
        out,
        "  processor      {:>10} % of a core ({} % without sessions), {} µs per keep-alive; others had it for {} s meanwhile",
        r.cpu_percent, r.cpu_percent_empty, r.cpu_us_per_keep_alive, r.cpu_wait_s
    )?;
    writeln!(
        out,
        "  keep-alives    {:>10}, {} a second; {} not answered; {} sessions lost, {} at the node",
        r.keep_alives, r.keep_alives_per_s, r.unanswered, r.lost, r.sessions_at_node
    )?;
    writeln!(
        out,
        "  logins         {:>10} s for all, {} a second, {} repeats",
        r.login_s, r.logins_per_s, r.login_repeats
    )?;
    writeln!(out, "{}", r.provenance)
}

fn percent(cpu: CpuTime, took: Nanos) -> f64 {
    round(over(cpu.used_ns, took.0, 9) * 100.0, 3)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn over(part: u64, whole: u64, decimals: i32) -> f64 {
    round(part as f64 / whole.max(1) as f64, decimals)
}
