//! The report of `storm`. Keys of the JSON object are the fields' names.

use std::io::{self, Write};

use diskstream_wire::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::{Kind, Switch, WarmUp};
use super::drive::{Boot, Outcome};
use crate::fleet::Check;
use crate::report::round;

/// Moments of a run at which the boots that are over are told.
const MOMENTS: u64 = 10;

/// What the node counted over the run. None of it is known of a node that this run did not start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NodeFigures {
    /// Bytes that the node read from its disk.
    pub disk_bytes: u64,
    /// Reads that it did for that.
    pub disk_reads: u64,
    /// Lookups of blocks that were in the cache.
    pub hits: u64,
    /// Lookups that began a disk read.
    pub misses: u64,
    /// Lookups that found one under way.
    pub coalesced: u64,
    /// Answers that a read must come back.
    pub busy: u64,
    /// Answers that a read waits for the disk.
    pub pending: u64,
    /// Blocks that were loaded in the background because earlier boots read them.
    pub listed_blocks: u64,
    /// Processor time, all threads.
    pub cpu_s: f64,
    /// Time for which it was ready to run while others had the processor.
    pub cpu_wait_s: f64,
}

/// Disk bytes against what they were for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// Disk bytes ÷ bytes of the cache blocks touched, each once: 1 when every block is read once.
    pub disk_over_unique: f64,
    /// Disk bytes ÷ bytes of the units asked for, each once: what whole blocks and reading ahead cost.
    pub disk_over_requested: f64,
}

/// Figures of one storm.
#[derive(Clone, Debug, Serialize)]
pub struct Storm {
    /// Whether the node read ahead; none: not this run's node.
    pub read_ahead: Option<Switch>,
    /// What the node knew of earlier boots; none: not this run's node.
    pub warm_up: Option<WarmUp>,
    /// Bytes that the node read from its disk.
    pub disk_bytes: Option<u64>,
    /// Bytes of the cache blocks that the trace touches, each once.
    pub unique_bytes: u64,
    /// Bytes of the 4 KiB units that it asks for, each once.
    pub requested_bytes: u64,
    /// From the first device's start to the last device's last read, logins included.
    pub last_boot_s: f64,
    /// 99 of 100 reads took no longer, from asking to the last byte.
    pub p99_us: f64,
    /// Boots that did not come to their end.
    pub failed: u64,
    /// What the disk bytes were for.
    pub ratios: Option<Ratios>,
    /// A device's time from its start to its last read: half of them took no longer.
    pub boot_p50_s: f64,
    /// 90 of 100.
    pub boot_p90_s: f64,
    /// 99 of 100.
    pub boot_p99_s: f64,
    /// From the first device's start until the last one's vDisk could be read.
    pub last_login_s: f64,
    /// Half of the reads took no longer.
    pub p50_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Reads that ended well.
    pub reads: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Bytes that devices received.
    pub bytes: u64,
    /// 2^20 bytes per second, over the whole run.
    pub mib_per_s: f64,
    /// Bytes that are not the image's.
    pub wrong_bytes: u64,
    /// How they were looked for.
    pub check: Check,
    /// Times that a node told a device to come later.
    pub told_to_wait: u64,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Times that a device left its node or logged in anew.
    pub moves: u64,
    /// What the node counted.
    pub node: Option<NodeFigures>,
    /// The node's share of one core over the run.
    pub node_busy: Option<f64>,
    /// The share of its core that the devices' thread had.
    pub fleet_busy: f64,
    /// The share of the time that it was ready to run while others had its core.
    pub fleet_waited: f64,
    /// Bytes of a cache block.
    pub block_bytes: u64,
    /// Seconds from the first device's start, and boots over by then.
    pub boots_over_time: Vec<(f64, usize)>,
    /// When each device's boot was over, from the first device's start, in order; for pictures.
    #[serde(skip)]
    pub ends: Vec<Nanos>,
    /// All latencies; for pictures.
    #[serde(skip)]
    pub latency: Histogram<u64>,
    /// Why the first boot failed.
    pub first_failure: Option<String>,
}

/// What a storm is made from, beside its outcome.
#[derive(Debug)]
pub struct Costs {
    /// How the node was set up; none: not this run's node.
    pub kind: Option<Kind>,
    /// What the node counted.
    pub node: Option<NodeFigures>,
    /// Length of the run.
    pub elapsed: Nanos,
    /// Processor time of the devices' thread, and time that it waited for the processor.
    pub fleet_ns: (u64, u64),
    /// How bytes were checked.
    pub check: Check,
    /// Unique blocks and units, in bytes.
    pub unique: (u64, u64),
}

impl Storm {
    /// Figures from what was counted.
    #[must_use]
    pub fn new(outcome: Outcome, costs: &Costs) -> Storm {
        let ended = |boot: &Boot| boot.ended;
        let mut ends: Vec<Nanos> = outcome.boots.iter().filter_map(ended).collect();
        ends.sort_unstable();
        let took = |boot: &Boot| Some(boot.ended?.since(boot.started));
        let mut times: Vec<Nanos> = outcome.boots.iter().filter_map(took).collect();
        times.sort_unstable();
        let last = ends.last().copied().unwrap_or_default();
        let login = outcome.boots.iter().filter_map(|boot| boot.opened).max();
        let us = |q: f64| figure(outcome.latency.value_at_quantile(q), 1e3, 1);
        let (unique_bytes, requested_bytes) = costs.unique;
        let share = |ns: u64| round(over(ns, costs.elapsed.0), 3);
        Storm {
            read_ahead: costs.kind.map(|kind| kind.read_ahead),
            warm_up: costs.kind.map(|kind| kind.warm_up),
            disk_bytes: costs.node.map(|node| node.disk_bytes),
            unique_bytes,
            requested_bytes,
            last_boot_s: figure(last.0, 1e9, 3),
            p99_us: us(0.99),
            failed: (outcome.boots.len() - ends.len()) as u64,
            ratios: costs.node.map(|node| Ratios {
                disk_over_unique: round(over(node.disk_bytes, unique_bytes), 4),
                disk_over_requested: round(over(node.disk_bytes, requested_bytes), 4),
            }),
            boot_p50_s: figure(quantile(&times, 50).0, 1e9, 3),
            boot_p90_s: figure(quantile(&times, 90).0, 1e9, 3),
            boot_p99_s: figure(quantile(&times, 99).0, 1e9, 3),
            last_login_s: figure(login.unwrap_or_default().0, 1e9, 3),
            p50_us: us(0.5),
            p999_us: us(0.999),
            max_us: figure(outcome.latency.max(), 1e3, 1),
            reads: outcome.reads,
            reads_failed: outcome.reads_failed,
            bytes: outcome.bytes,
            mib_per_s: round(over(outcome.bytes, last.0) * 1e9 / f64::from(1 << 20), 1),
            wrong_bytes: outcome.wrong_bytes,
            check: costs.check,
            told_to_wait: outcome.told_to_wait,
            retries: outcome.retries,
            moves: outcome.moves,
            node: costs.node,
            node_busy: costs
                .node
                .map(|node| round(node.cpu_s / figure(costs.elapsed.0, 1e9, 9), 3)),
            fleet_busy: share(costs.fleet_ns.0),
            fleet_waited: share(costs.fleet_ns.1),
            block_bytes: outcome.block_bytes,
            boots_over_time: over_time(&ends),
            ends,
            latency: outcome.latency,
            first_failure: outcome.first_failure,
        }
    }

    /// How its node was set up; none: not this run's node.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Some(Kind { read_ahead: self.read_ahead?, warm_up: self.warm_up? })
    }

    /// What makes the run's figures worthless, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if let Some(first) = &self.first_failure {
            return Some(format!("{} boots failed; the first: {first}", self.failed));
        }
        (self.wrong_bytes > 0).then(|| format!("{} bytes are not the image's", self.wrong_bytes))
    }

    /// Its part of the table for people.
    ///
    /// # Errors
    /// When the output is gone.
    pub fn table(&self, out: &mut impl Write) -> io::Result<()> {
        match self.kind() {
            Some(kind) => writeln!(out, "{kind}")?,
            None => writeln!(out, "nodes that were running")?,
        }
        writeln!(
            out,
            "  boot           {:>10} s half, {} s 90 %, {} s 99 %; the last was over at {} s, the last login at {} s",
            self.boot_p50_s, self.boot_p90_s, self.boot_p99_s, self.last_boot_s, self.last_login_s
        )?;
        write!(out, "  boots over    ")?;
        for (seconds, boots) in &self.boots_over_time {
            write!(out, " {boots} at {} s;", round(*seconds, 1))?;
        }
        writeln!(out, " {} failed", self.failed)?;
        writeln!(
            out,
            "  a read         {:>10} µs half, {} µs 99 %, {} µs 99.9 %, {} µs longest",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )?;
        writeln!(
            out,
            "  reads          {:>10}, {} failed, {} wrong bytes (checked: {:?}); {} MiB/s; {} requests again, {} moves, \
             {} times told to wait",
            self.reads,
            self.reads_failed,
            self.wrong_bytes,
            self.check,
            self.mib_per_s,
            self.retries,
            self.moves,
            self.told_to_wait
        )?;
        if let (Some(node), Some(ratios)) = (self.node, self.ratios) {
            writeln!(
                out,
                "  disk           {:>10} bytes = {} x the blocks touched ({} bytes), {} x the units asked for ({} bytes)",
                node.disk_bytes,
                ratios.disk_over_unique,
                self.unique_bytes,
                ratios.disk_over_requested,
                self.requested_bytes
            )?;
            writeln!(
                out,
                "  node           {:>10} s of processor, {} of a core; {} hits, {} misses, {} joined a read under way; {} busy, \
                 {} pending; {} blocks loaded in the background",
                node.cpu_s,
                self.node_busy.unwrap_or(0.0),
                node.hits,
                node.misses,
                node.coalesced,
                node.busy,
                node.pending,
                node.listed_blocks
            )?;
        }
        writeln!(
            out,
            "  devices        {:>10} of a core; ready to run while others had it: {}",
            self.fleet_busy, self.fleet_waited
        )
    }
}

/// Boots over at some moments of the run.
fn over_time(ends: &[Nanos]) -> Vec<(f64, usize)> {
    let Some(last) = ends.last() else { return Vec::new() };
    let first = ends.first().copied().unwrap_or_default();
    // What is before the first end says nothing: the moments divide the time between the first and the last.
    let moment = |n: u64| first + Nanos(last.since(first).0 / MOMENTS * n);
    let at = |n: u64| if n == MOMENTS { *last } else { moment(n) };
    let mut told: Vec<(f64, usize)> = (0..=MOMENTS)
        .map(|n| (figure(at(n).0, 1e9, 3), ends.partition_point(|&end| end <= at(n))))
        .collect();
    told.dedup();
    told
}

/// The value that so many of 100 do not pass.
fn quantile(sorted: &[Nanos], percent: usize) -> Nanos {
    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(index).copied().unwrap_or_default()
}

/// A figure in units of `scale`.
#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn figure(value: u64, scale: f64, decimals: i32) -> f64 {
    round(value as f64 / scale, decimals)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn over(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_tell_how_boots_end_and_the_last_one_tells_all() {
        let ends: Vec<Nanos> = (10..=30).map(Nanos::from_millis).collect();
        let told = over_time(&ends);
        assert_eq!((told[0], told[10]), ((0.01, 1), (0.03, 21)));
        assert_eq!(told[5], (0.02, 11));
        assert_eq!(over_time(&ends[..1]), [(0.01, 1)]);
        assert!(over_time(&[]).is_empty());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let times: Vec<Nanos> = (1..=200).map(Nanos).collect();
        assert_eq!([50, 90, 99].map(|q| quantile(&times, q).0), [100, 180, 198]);
        assert_eq!(quantile(&[], 50), Nanos::ZERO);
    }
}
