//! One measurement of one server under a load: our node, the bare responder, or another server of disk images.

use std::sync::atomic::AtomicBool;

use anyhow::{bail, ensure};
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
use crate::fleet::{Check, Job, Tally};
use crate::net::Namespace;
use crate::node_process::{CpuTime, NodeProcess};
use crate::peers::servers::{Protocol, Server};
use crate::peers::{connect_iscsi, connect_nbd};
use crate::read::{self, RAMP, ReadArgs, nanos_of};
use crate::report::round;

/// UDP payload of a datagram that fills an IPv4 packet of 1500 bytes.
pub const PAYLOAD_BYTES: usize = 1472;

/// What one measurement found.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Reads that ended within the window, whole and right.
    pub reads: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Reads per second.
    pub reads_per_s: f64,
    /// 2^20 delivered bytes per second.
    pub mib_per_s: f64,
    /// Processor time of the server per read.
    pub cpu_us_per_read: f64,
    /// The same per 2^30 delivered bytes.
    pub cpu_s_per_gib: f64,
    /// Processor time of the server per second: 1 is a whole core.
    pub cpu_share: f64,
    /// Time for which the server was ready to run while others had the processor; none: not known of servers of others.
    pub cpu_wait_s: Option<f64>,
    /// Processor time of the clients' thread per second.
    pub clients_cpu_share: f64,
    /// Time for which that was ready to run while others had its core.
    pub clients_cpu_wait_s: f64,
    /// Latency of half of the reads at most.
    pub p50_us: f64,
    /// Of 99 in 100.
    pub p99_us: f64,
    /// Requests that were sent again because something was lost, of a stream none.
    pub repeats: u64,
    /// All latencies in nanoseconds, for the plots.
    #[serde(skip)]
    pub latency: Histogram<u64>,
}

impl Side {
    /// For what part of the window server and clients were ready to run while others had their cores, the mean of the two.
    #[must_use]
    pub fn waited(&self) -> f64 {
        (self.cpu_wait_s.unwrap_or(0.0) + self.clients_cpu_wait_s) / 2.0 / self.seconds
    }
}

/// An edge of a window: when it was, and what server and clients had had of the processor by then.
type Edge = (Nanos, CpuTime, CpuTime);

fn edge(server: CpuTime) -> anyhow::Result<Edge> {
    Ok((clock::now(), server, CpuTime::of_this_thread()?))
}

/// A load, and from where it comes.
#[derive(Clone, Copy, Debug)]
pub struct Measuring<'a> {
    /// The flags.
    pub args: &'a FloorArgs,
    /// What is read.
    pub load: &'a Load,
    /// The clients' network; none: where this program runs.
    pub clients: Option<&'a Namespace>,
}

impl Measuring<'_> {
    /// Does something on the clients' core and in their network.
    fn at_clients<T: Send>(
        &self,
        action: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        on_core(self.args.no_pin, || {
            self.clients.map_or(Ok(()), Namespace::enter)?;
            action()
        })
    }

    /// Of our node.
    ///
    /// # Errors
    /// When it cannot be reached, reads fail or bytes are wrong.
    pub fn node(&self, node: &NodeProcess) -> anyhow::Result<Side> {
        let read = read_args(self.args, self.load);
        let measured = self.at_clients(|| read::measure(&read, Some(node), false))?;
        measured.judge()?;
        let cpu = measured.node_cpu().expect("the node is this run's own");
        let (reads, seconds) = (measured.tally.reads, measured.seconds());
        let repeats = measured.retries();
        let side = self.side(reads, seconds, cpu, measured.fleet_cpu(), measured.tally.latency);
        Ok(Side { repeats, cpu_wait_s: Some(seconds_of(cpu.waited_ns)), ..side })
    }

    /// Of the bare responder.
    ///
    /// # Errors
    /// When it does not answer, or bytes are wrong.
    pub fn responder(&self, responder: &ResponderProcess) -> anyhow::Result<Side> {
        let Measuring { args, load, .. } = *self;
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
        let (tally, edges) = self.at_clients(|| {
            let mut edges = Vec::with_capacity(2);
            let tally = client::run(job, || {
                edges.push(edge(responder.cpu()?)?);
                Ok(())
            })?;
            Ok((tally, edges))
        })?;
        ensure!(tally.wrong_bytes == 0, "{} bytes are not the image's", tally.wrong_bytes);
        let (side, server) = self.between(&edges, tally.reads, tally.latency)?;
        let cpu_wait_s = Some(seconds_of(server.waited_ns));
        Ok(Side { repeats: tally.repeats, cpu_wait_s, ..side })
    }

    /// Of a server of others.
    ///
    /// # Errors
    /// When it cannot be reached or breaks its protocol, bytes are wrong, or `stop` is set.
    pub fn peer(&self, server: &Server, stop: &AtomicBool) -> anyhow::Result<Side> {
        let (tally, edges) = self.at_clients(|| {
            let mut edges = Vec::with_capacity(2);
            let note = || {
                let cpu = CpuTime { used_ns: server.process.cpu_ns()?, waited_ns: 0 };
                edges.push(edge(cpu)?);
                Ok(())
            };
            let connections = self.load.devices as usize;
            let tally = match server.peer.protocol() {
                Protocol::Nbd => connect_nbd(server, connections)?.run(self.job(), stop, note),
                Protocol::Iscsi => connect_iscsi(server, connections)?.run(self.job(), stop, note),
                Protocol::Aoe => bail!("{} is no stream peer", server.peer.name()),
            }?;
            Ok((tally, edges))
        })?;
        let Tally { reads, failed, wrong_bytes, latency, first_failure, .. } = tally;
        if let Some(reason) = first_failure {
            bail!("{failed} reads failed; the first: {reason}");
        }
        ensure!(wrong_bytes == 0, "{wrong_bytes} bytes are not the image's");
        ensure!(reads > 0, "no read ended within the window; give more --seconds");
        Ok(self.between(&edges, reads, latency)?.0)
    }

    fn job(&self) -> Job {
        let Measuring { args, load, .. } = *self;
        Job {
            devices: load.devices as usize,
            depth: load.depth as usize,
            rate: None,
            size: usize::try_from(load.size).expect("at most 1 MiB"),
            offsets: load.offsets(args.seed, args.image_bytes),
            check: if args.verify { Check::EveryByte } else { Check::Stamps },
            seed: args.seed,
            ramp: RAMP,
            window: nanos_of(args.seconds),
        }
    }

    /// Figures between two edges, and the server's processor time.
    fn between(
        &self,
        edges: &[Edge],
        reads: u64,
        latency: Histogram<u64>,
    ) -> anyhow::Result<(Side, CpuTime)> {
        let [begin, end] = edges else { bail!("the window did not open and close") };
        let (server, clients) = (end.1.since(begin.1), end.2.since(begin.2));
        let seconds = seconds_of(end.0.since(begin.0).0);
        Ok((self.side(reads, seconds, server, clients, latency), server))
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    fn side(
        &self,
        reads: u64,
        seconds: f64,
        server: CpuTime,
        clients: CpuTime,
        latency: Histogram<u64>,
    ) -> Side {
        let (used, count) = (seconds_of(server.used_ns), reads.max(1) as f64);
        let gib = count * self.load.size as f64 / f64::from(1 << 30);
        let at = |q: f64| round(latency.value_at_quantile(q) as f64 / 1e3, 1);
        Side {
            reads,
            seconds: round(seconds, 3),
            reads_per_s: round(reads as f64 / seconds, 1),
            mib_per_s: round(
                reads as f64 * (self.load.size as f64 / f64::from(1 << 20)) / seconds,
                1,
            ),
            cpu_us_per_read: round(used * 1e6 / count, 4),
            cpu_s_per_gib: round(used / gib, 5),
            cpu_share: round(used / seconds, 3),
            cpu_wait_s: None,
            clients_cpu_share: round(seconds_of(clients.used_ns) / seconds, 3),
            clients_cpu_wait_s: round(seconds_of(clients.waited_ns), 4),
            p50_us: at(0.5),
            p99_us: at(0.99),
            repeats: 0,
            latency,
        }
    }
}

/// As flags of `read`.
#[must_use]
pub fn read_args(args: &FloorArgs, load: &Load) -> ReadArgs {
    let mut read = load.read_args(args.seed, args.image_bytes, args.seconds, 1500);
    (read.no_pin, read.verify) = (args.no_pin, args.verify);
    read
}

#[expect(clippy::cast_precision_loss, reason = "some seconds")]
fn seconds_of(ns: u64) -> f64 {
    ns as f64 / 1e9
}
