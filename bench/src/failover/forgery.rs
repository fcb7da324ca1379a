//! The stranger of a run (see [`crate::forge`]), and what its datagrams changed: nothing, or the run failed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use diskstream_ring::clock;
use diskstream_wire::limits::{LOGIN_PORT, PEER_PORTS};
use serde::Serialize;
use signal_hook::consts::SIGTERM;

use super::args::FailoverArgs;
use crate::fleet::Devices;
use crate::forge::{Plan, Sent};
use crate::net::{Lan, Namespace, lan_address};
use crate::node_process::{NodeProcess, metric_sum};
use crate::report::round;
use crate::sys;

/// Hosts of the network that nobody is: sources of datagrams that pretend nothing.
const NOBODIES: std::ops::Range<usize> = 200..240;
/// Datagrams that may get lost on their way or be counted by nobody, in a hundred. Guessed: full receive buffers of a busy machine.
const MISSING_PERCENT_MAX: f64 = 5.0;

/// The stranger's process.
#[derive(Debug)]
pub struct Stranger {
    child: Child,
    handle: OwnedFd,
    input: ChildStdin,
    out: BufReader<ChildStdout>,
}

/// What forged datagrams came to. Keys of the report's `forged`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forged {
    /// What was sent.
    #[serde(flatten)]
    pub sent: Sent,
    /// How many of those that were to be sent were not.
    pub not_sent: u64,
    /// What the nodes refused, their peers' sockets included, while it was sent.
    pub refused_by_nodes: u64,
    /// What the devices refused; also what nodes answered to forgeries in their name.
    pub refused_by_devices: u64,
    /// ICMP errors that the hosts' kernels received.
    pub errors_received: u64,
    /// Share of what was sent to nodes, devices and kernels and is in none of these, in percent.
    pub missing_percent: f64,
    /// Sessions that ended at a node, and moves of devices, those to the same node included.
    pub sessions_lost: u64,
}

impl Forged {
    /// What must not be; none: nothing of that kind was seen.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Forged { not_sent, missing_percent, sessions_lost, .. } = self;
        if *sessions_lost > 0 {
            return Some(format!("{sessions_lost} sessions ended while datagrams were forged"));
        }
        if *not_sent > 0 {
            return Some(format!(
                "{not_sent} forged datagrams were not sent in time: give more --seconds"
            ));
        }
        (*missing_percent > MISSING_PERCENT_MAX).then(|| {
            format!("{missing_percent} % of the forged datagrams were refused by nobody: did they arrive?")
        })
    }
}

/// Counters that only grow, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    by_nodes: u64,
    by_devices: u64,
    errors: u64,
    sessions_ended: u64,
    moves: u64,
}

impl Seen {
    /// As it is now.
    ///
    /// # Errors
    /// When a node or the kernel does not tell.
    pub fn now(nodes: &[NodeProcess], devices: &Devices, lan: &Lan) -> anyhow::Result<Seen> {
        let mut seen = Seen { errors: lan.icmp_errors()?, ..Seen::default() };
        for node in nodes {
            let text = node.metrics().context("a node does not tell its metrics")?;
            // A login with a bad cookie is in both tables.
            seen.by_nodes += metric_sum(&text, "diskstream_refusals_total", |labels| {
                !labels.contains("bad_cookie")
            });
            seen.by_nodes += metric_sum(&text, "diskstream_peer_datagrams_refused_total", |_| true);
            seen.by_nodes += metric_sum(&text, "diskstream_logins_total", |labels| {
                !["transferred", "reconnected", "standby"].iter().any(|well| labels.contains(well))
            });
            // A login that was begun and given up was no session.
            seen.sessions_ended += metric_sum(&text, "diskstream_sessions_ended_total", |labels| {
                !labels.contains("unconfirmed")
            });
        }
        for member in 0..devices.fleet().len() {
            let counters = devices.fleet().session(member).counters();
            seen.by_devices += counters.foreign + counters.malformed + counters.implausible;
            seen.moves += counters.moves;
        }
        Ok(seen)
    }

    /// What became of `sent` since `before`.
    #[must_use]
    pub fn since(&self, before: &Seen, wanted: u64, sent: Sent) -> Forged {
        let refused_by_nodes = self.by_nodes - before.by_nodes;
        let refused_by_devices = self.by_devices - before.by_devices;
        let errors_received = self.errors - before.errors;
        let missing = sent.to_nodes.saturating_sub(refused_by_nodes)
            + sent.to_devices.saturating_sub(refused_by_devices)
            + sent.icmp.saturating_sub(errors_received);
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let missing_percent = round(missing as f64 * 100.0 / sent.sent.max(1) as f64, 3);
        let sessions_lost =
            self.sessions_ended - before.sessions_ended + (self.moves - before.moves);
        Forged {
            sent,
            not_sent: wanted.saturating_sub(sent.sent),
            refused_by_nodes,
            refused_by_devices,
            errors_received,
            missing_percent,
            sessions_lost,
        }
    }
}

impl Stranger {
    /// Starts it in its namespace. Before the calling thread is pinned: it would inherit the core.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(place: &Namespace) -> anyhow::Result<Stranger> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.arg("lan-forge").stdin(Stdio::piped()).stdout(Stdio::piped());
        place.host(&mut command);
        sys::end_with_parent(&mut command);
        let mut child = command.spawn().context("starting the stranger")?;
        let handle = sys::open_process(child.id()).context("opening the stranger's process")?;
        let input = child.stdin.take().expect("standard input is piped");
        let out = child.stdout.take().expect("standard output is piped");
        Ok(Stranger { child, handle, input, out: BufReader::new(out) })
    }

    /// Tells it everything that is no secret, and waits until it is ready.
    ///
    /// # Errors
    /// When it has ended.
    pub fn prepare(&mut self, args: &FailoverArgs, devices: &Devices) -> anyhow::Result<()> {
        let plan = plan(args, devices)?;
        writeln!(self.input, "{}", serde_json::to_string(&plan)?)?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        ensure!(line.starts_with("ready"), "the stranger did not start; its reason is above");
        Ok(())
    }

    /// Lets it begin.
    ///
    /// # Errors
    /// When it has ended.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        writeln!(self.input).context("the stranger ended by itself")
    }

    /// Ends it, and gives what it sent.
    ///
    /// # Errors
    /// When it failed; its reason is on standard error.
    pub fn end(mut self) -> anyhow::Result<Sent> {
        // It may be through already.
        let _ = sys::signal(self.handle.as_fd(), SIGTERM);
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("what the stranger sent: {line:?}"))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn v4(number: usize) -> Ipv4Addr {
    match lan_address(number) {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("hosts have IPv4 addresses"),
    }
}

fn plan(args: &FailoverArgs, devices: &Devices) -> anyhow::Result<Plan> {
    let fleet = devices.fleet();
    let members = 0..fleet.len();
    let notice_ports: Vec<u16> =
        members.map(|member| fleet.session(member).config().notice_port).collect();
    // The namespace holds the fleet's sockets and no others.
    let table = fs::read_to_string("/proc/thread-self/net/udp").context("listing UDP sockets")?;
    let io_ports: Vec<u16> =
        udp_ports(&table).filter(|port| !notice_ports.contains(port)).collect();
    ensure!(
        io_ports.len() >= fleet.len(),
        "{} UDP sockets are no {} devices",
        io_ports.len(),
        fleet.len()
    );
    let io = fleet.session(0).status(clock::now()).io.context("device 0 has no session")?;
    Ok(Plan {
        nodes: (0..args.nodes).map(v4).collect(),
        login_port: LOGIN_PORT,
        io_port: io.port(),
        peer_port: PEER_PORTS.0,
        devices_at: v4(args.nodes),
        devices: args.devices,
        io_ports,
        notice_ports,
        own: v4(args.nodes + 1),
        nobodies: NOBODIES.map(v4).collect(),
        count: args.forged,
        per_second: args.forged_per_second,
        seed: args.seed,
    })
}

/// Local ports of the kernel's table of UDP sockets (`/proc/net/udp`: `sl local_address ...`, in hexadecimal digits).
fn udp_ports(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        u16::from_str_radix(port, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Sent = Sent { sent: 100, to_devices: 40, to_nodes: 40, icmp: 20, ms: 2 };

    fn seen(by_nodes: u64, by_devices: u64, errors: u64) -> Seen {
        Seen { by_nodes, by_devices, errors, ..Seen::default() }
    }

    #[test]
    fn what_nobody_refused_is_missing_and_too_many_are_a_fault() {
        let before = seen(7, 3, 1);
        // Devices also refuse what nodes answer in their name: that hides no loss elsewhere.
        let all = seen(47, 90, 21).since(&before, 100, SENT);
        assert_eq!((all.missing_percent, all.fault()), (0.0, None));
        let some = seen(44, 43, 19).since(&before, 100, SENT);
        assert_eq!((some.missing_percent, some.fault()), (5.0, None));
        let few = seen(41, 43, 21).since(&before, 100, SENT);
        assert!(few.fault().unwrap().contains("refused by nobody"));
        let late = seen(47, 43, 21).since(&before, 120, SENT);
        assert!(late.not_sent == 20 && late.fault().unwrap().contains("--seconds"));
    }

    #[test]
    fn a_session_that_ends_is_a_fault() {
        let lost =
            Seen { sessions_ended: 1, ..seen(40, 40, 20) }.since(&Seen::default(), 100, SENT);
        assert!(lost.sessions_lost == 1 && lost.fault().unwrap().contains("1 sessions"));
        let moved = Seen { moves: 2, ..seen(40, 40, 20) }.since(&Seen::default(), 100, SENT);
        assert_eq!(moved.sessions_lost, 2);
    }

    #[test]
    fn ports_of_the_kernels_table_are_read() {
        let table = "  sl  local_address rem_address   st\n  10: 00000000:9C40 00000000:0000 07\n 11: 0100007F:1AFF 0:0 07\nx\n";
        assert_eq!(udp_ports(table).collect::<Vec<_>>(), [40_000, 6911]);
    }
}
