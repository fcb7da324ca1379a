//! The report of a run of `failover`. Keys of the JSON object are the fields' names.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::args::Mode;
use super::forgery::Forged;
use crate::net::relay::RelayCounts;
use crate::report::{self, Provenance};

/// Figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What happened.
    pub mode: Mode,
    /// Devices.
    pub devices: usize,
    /// Nodes.
    pub nodes: usize,
    /// Length of the measurement; what happened, happened in its middle.
    pub seconds: f64,
    /// How nodes and devices are connected.
    pub network: &'static str,
    /// Share of datagrams that the relay lost, in each direction.
    pub loss: f64,
    /// It delayed each by up to this.
    pub jitter_ms: u32,
    /// A packet filter dropped notices to the devices' notice port.
    pub block_notice_port: bool,
    /// How many it dropped.
    pub notices_blocked: Option<u64>,
    /// Datagrams that the relay lost beside those it was told to lose: must be 0, or the run says nothing.
    pub relay_drops: u64,
    /// What the relay did; none: there was none.
    pub relay: Option<RelayCounts>,
    /// Datagrams that full receive buffers of nodes and devices lost; none: not told on loopback.
    pub socket_drops: Option<u64>,
    /// What became of datagrams for a killed node: "filtered" (silence) or "delivered" (ICMP port unreachable).
    pub refusals: Option<&'static str>,
    /// Whether the nodes had the image in their caches before: "warm" or "cold".
    pub caches: &'static str,
    /// Devices did not read.
    pub idle: bool,
    /// Reads per second that were due, all devices together.
    pub rate: u64,
    /// Bytes of a read.
    pub size: u64,
    /// How devices came to be on node 1.
    pub placement: Placement,
    /// Reads that ended well.
    pub reads: u64,
    /// Reads that failed or never ended.
    pub reads_failed: u64,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// Bytes that are not the image's; every byte of every read is compared.
    pub wrong_bytes: u64,
    /// Devices that left a node that something happened to.
    pub devices_moved: usize,
    /// Moves away from a node that nothing had happened to.
    pub unneeded_moves: u64,
    /// From the event until every device was served elsewhere; none: one never was.
    pub all_moved_ms: Option<f64>,
    /// The longest stall after the event: from a read's scheduled time to its last byte. Over the whole run where
    /// nothing happens.
    pub stall_ms_max: f64,
    /// 99 of 100 devices had no longer one.
    pub stall_ms_p99: f64,
    /// Half of the devices.
    pub stall_ms_p50: f64,
    /// The longest before the event, in a window of the same length; the same as `stall_ms_max` where nothing happens.
    pub baseline_stall_ms_max: f64,
    /// Median over devices of their longest before the event.
    pub baseline_stall_ms_p50: f64,
    /// The longest time between two completed reads of a device, the later of them after the event.
    pub gap_ms_max: f64,
    /// Reads that were also asked at the standby.
    pub hedged_reads: u64,
    /// The same in percent of reads.
    pub hedged_percent: f64,
    /// What forged datagrams came to; none: none were.
    pub forged: Option<Forged>,
    /// Devices that are, or have their standby, at a node whose image differs; none: there is no such node.
    pub devices_at_odd_node: Option<usize>,
    /// For how long all nodes were gone; none: they never were.
    pub gone_seconds: Option<u32>,
    /// Reads that were due during such an outage and not asked for.
    pub reads_skipped: u64,
    /// From the moment when the first node was back until every device had a read answered.
    pub all_reading_ms: Option<f64>,
    /// Moves by cause.
    pub moves_by_cause: BTreeMap<&'static str, u64>,
    /// Receives of the fleet that found no buffer: its loop fell behind.
    pub fleet_receives_starved: u64,
    /// The fleet's calls of `io_uring_enter`.
    pub fleet_enters: u64,
    /// What the devices' own counters say of the measurement, summed over all of them; those that stayed 0 are left out.
    pub device_counters: BTreeMap<String, u64>,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Probes of silent nodes.
    pub probes: u64,
    /// From the event until the stopped node's process had ended.
    pub node_exit_ms: Option<f64>,
    /// Devices that had moved by then.
    pub moved_before_exit: Option<usize>,
    /// The event was later than planned by this.
    pub event_late_ms: Option<f64>,
    /// Processor time of each node from the beginning of the measurement on, all threads; a node that ends during it is
    /// counted up to then.
    pub node_cpu_s: Vec<f64>,
    /// Time for which it was ready to run while others had the processor.
    pub node_cpu_wait_s: Vec<f64>,
    /// Processor time of the fleet's thread.
    pub fleet_cpu_s: f64,
    /// Time for which it was ready to run while others had the processor: what is in every stall and not the farm's.
    pub fleet_cpu_wait_s: f64,
    /// Whether nodes and fleet had a core each.
    pub pinned: bool,
    /// Seed of image, offsets, losses and delays.
    pub seed: u64,
    /// Where the figures come from.
    pub provenance: Provenance,
}

/// A report with its time series, for files.
#[derive(Debug, Serialize)]
pub struct Full<'a> {
    /// The figures.
    #[serde(flatten)]
    pub report: &'a Report,
    /// The series.
    pub series: &'a Series,
}

/// What happened in each bin, from the beginning of the measurement on.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Width of a bin.
    pub bin_ms: u64,
    /// When it happened; none: nothing did.
    pub event_ms: Option<f64>,
    /// Reads completed.
    pub reads: Vec<u32>,
    /// The longest stall among them.
    pub stall_ms_max: Vec<f64>,
    /// Devices that moved.
    pub moves: Vec<u32>,
}

/// How devices came to be where they were.
#[derive(Debug, Serialize)]
pub struct Placement {
    /// In words.
    pub how: String,
    /// Devices that node 1 served before the measurement.
    pub on_node_1: usize,
    /// Devices that had a warm standby before the measurement.
    pub with_standby: usize,
    /// All of them were on node 1, and had a standby where there is a second node.
    pub as_wanted: bool,
}

impl Report {
    /// Prints a table, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let known = |figure: Option<f64>, unit: &str| {
            figure.map_or("unknown".to_owned(), |figure| format!("{figure} {unit}"))
        };
        writeln!(
            out,
            "{}: {} devices, {} nodes, {} reads/s of {} bytes for {} s, {}",
            self.mode.name(),
            self.devices,
            self.nodes,
            if self.idle { 0 } else { self.rate },
            self.size,
            self.seconds,
            self.network
        )?;
        writeln!(
            out,
            "  longest stall  {:>10} ms; 99 % of devices {} ms, half {} ms; before the event {} ms",
            self.stall_ms_max, self.stall_ms_p99, self.stall_ms_p50, self.baseline_stall_ms_max
        )?;
        writeln!(
            out,
            "  moved          {:>10} devices, all after {}; {} moves without need",
            self.devices_moved,
            known(self.all_moved_ms, "ms"),
            self.unneeded_moves
        )?;
        writeln!(
            out,
            "  reads          {:>10}; {} failed, {} wrong bytes; {} % hedged",
            self.reads, self.reads_failed, self.wrong_bytes, self.hedged_percent
        )?;
        writeln!(
            out,
            "  begun with     {:>10} devices on node 1, {} with a standby",
            self.placement.on_node_1, self.placement.with_standby
        )?;
        writeln!(
            out,
            "  others         had the processor for {} s while the fleet, for {:?} s while the nodes could have run",
            self.fleet_cpu_wait_s, self.node_cpu_wait_s
        )?;
        writeln!(out, "  {}", self.provenance)?;
        writeln!(out, "{}", self.verdict())
    }

    /// What is to be thought of it, in a line.
    #[must_use]
    pub fn verdict(&self) -> String {
        if let Some(fault) = self.fault() {
            return format!("FAILED: {fault}");
        }
        match self.mode {
            Mode::None => format!(
                "nothing happened: longest stall {} ms, {} moves without need",
                self.stall_ms_max, self.unneeded_moves
            ),
            mode => format!(
                "{}: no device noticed more than {} ms; every byte was right",
                mode.name(),
                self.stall_ms_max
            ),
        }
    }

    /// What must never be, whatever happened; none: nothing of that kind was seen.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.wrong_bytes > 0 {
            return Some(format!("{} bytes are not the image's", self.wrong_bytes));
        }
        if self.reads_failed > 0 {
            let reason = self.first_failure.as_deref().unwrap_or("unknown");
            return Some(format!("{} reads failed; the first: {reason}", self.reads_failed));
        }
        if self.relay_drops > 0 {
            return Some(format!(
                "the relay lost {} datagrams beside those it was told to lose: the figures say nothing",
                self.relay_drops
            ));
        }
        if self.reads == 0 && !self.idle {
            return Some("no read ended; give more --seconds".to_owned());
        }
        if let Some(odd) = self.devices_at_odd_node.filter(|&devices| devices > 0) {
            return Some(format!("{odd} devices use a node whose image differs"));
        }
        if let Some(fault) = self.forged.and_then(|forged| forged.fault()) {
            return Some(fault);
        }
        if self.gone_seconds.is_some() {
            let some_wait = self.all_reading_ms.is_none();
            return some_wait
                .then(|| "not every device read again when nodes were back".to_owned());
        }
        (self.mode != Mode::None && self.nodes > 1 && self.all_moved_ms.is_none())
            .then(|| format!("{} of {} devices moved", self.devices_moved, self.devices))
    }
}
