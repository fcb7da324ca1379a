//! What one measurement gives, and several of the same.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::loads::{Load, Measure};
use crate::fleet::Tally;
use crate::read::Pattern;
use crate::report::round;
use crate::spread::median;

/// A server holds the rate of an open loop when it answers at least this share of what is due: the rest is a window's edges.
const HELD: f64 = 0.98;

/// Figures of a window.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Reads per second.
    pub reads_per_s: f64,
    /// 2^20 bytes per second.
    pub mib_per_s: f64,
    /// Latencies in microseconds: half of the reads, 99 of 100, 999 of 1000 stay below. In an open loop from when reads were due.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The server's processor time per read in microseconds: all its threads and processes.
    pub cpu_us_per_read: f64,
    /// The same per 2^30 bytes, in seconds.
    pub cpu_s_per_gib: f64,
    /// Cores that the server used.
    pub server_cores: f64,
    /// Cores that the client's thread used: near 1, it may be what limits the rate. In an open loop it waits without sleep.
    pub client_cores: f64,
    /// Reads of an open loop that were never asked for, because too many were waiting.
    pub skipped: u64,
    /// Reads of an open loop that were not answered some seconds after the window.
    pub unfinished: u64,
    /// Requests of AoE that were lost and asked again.
    pub asked_again: u64,
    /// All latencies in nanoseconds, for pictures.
    #[serde(skip)]
    pub latency: Option<Histogram<u64>>,
}

/// Figures of a tally. `cpu` is the server's and the client's processor time in nanoseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
pub fn figures(tally: &Tally, seconds: f64, size: u64, cpu: (u64, u64)) -> Figures {
    let reads = tally.reads.max(1) as f64;
    let bytes = reads * size as f64;
    let percentile = |q| round(tally.latency.value_at_quantile(q) as f64 / 1e3, 1);
    let (server, client) = (cpu.0 as f64 / 1e9, cpu.1 as f64 / 1e9);
    Figures {
        reads_per_s: round(tally.reads as f64 / seconds, 1),
        mib_per_s: round(tally.reads as f64 * size as f64 / seconds / f64::from(1 << 20), 1),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        cpu_us_per_read: round(server * 1e6 / reads, 3),
        cpu_s_per_gib: round(server / (bytes / f64::from(1 << 30)), 4),
        server_cores: round(server / seconds, 3),
        client_cores: round(client / seconds, 3),
        skipped: tally.skipped,
        unfinished: tally.unfinished,
        asked_again: 0,
        latency: Some(tally.latency.clone()),
    }
}

impl Figures {
    /// The one that a ratio is made of.
    #[must_use]
    pub fn of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::CpuUsPerRead => self.cpu_us_per_read,
            Measure::CpuSPerGib => self.cpu_s_per_gib,
            Measure::P99Us => self.p99_us,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0} reads/s {:>7.2} µs/read {:>7.3} s/GiB, p50 {:>8.1} p99 {:>9.1} µs, cores {:.2} + {:.2}",
            self.reads_per_s,
            self.cpu_us_per_read,
            self.cpu_s_per_gib,
            self.p50_us,
            self.p99_us,
            self.server_cores,
            self.client_cores
        )
    }
}

/// All measurements of a server under a load.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// The load; none where it has no name.
    pub load: Option<Load>,
    /// The server.
    pub server: String,
    /// Connections, reads outstanding on each, bytes of a read, and where reads go.
    pub shape: (usize, usize, u64, Pattern),
    /// Reads per second of an open loop.
    pub rate: Option<u32>,
    /// Whether the server answered at this rate in every round.
    pub held: Option<bool>,
    /// One for each round that went well.
    pub runs: Vec<Figures>,
    /// Why the others did not.
    pub failures: Vec<String>,
}

impl Cell {
    /// One without measurements.
    #[must_use]
    pub fn new(load: Load, server: &str, rate: Option<u32>) -> Cell {
        Cell {
            load: Some(load),
            server: server.to_owned(),
            shape: load.shape(),
            rate,
            held: None,
            runs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A server that could not be started: there will be no measurements.
    #[must_use]
    pub fn failed(load: Option<Load>, server: &str, error: &anyhow::Error) -> Cell {
        let failures = vec![format!("{error:#}")];
        Cell { load, failures, ..Cell::new(Load::Small64, server, None) }
    }

    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, load: Load, server: &str) -> bool {
        self.load == Some(load) && self.server == server
    }

    /// Judges whether an open loop's rate was held.
    pub fn judge(&mut self) {
        let Some(rate) = self.rate.filter(|_| !self.runs.is_empty()) else { return };
        let least = f64::from(rate) * HELD;
        let held = |run: &Figures| run.reads_per_s >= least && run.skipped + run.unfinished == 0;
        self.held = Some(self.runs.iter().all(held));
    }

    /// One figure of all runs.
    pub fn each(&self, figure: impl Fn(&Figures) -> f64) -> impl Iterator<Item = f64> {
        self.runs.iter().map(figure)
    }

    /// The middle of one figure; none without runs.
    #[must_use]
    pub fn median(&self, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        median(self.each(figure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_when_nothing_is_left_over() {
        let run =
            |reads_per_s, unfinished| Figures { reads_per_s, unfinished, ..Figures::default() };
        for (runs, held) in [
            (vec![run(990.0, 0), run(1010.0, 0)], Some(true)),
            (vec![run(1000.0, 0), run(970.0, 0)], Some(false)),
            (vec![run(1000.0, 1)], Some(false)),
            (vec![], None),
        ] {
            let mut cell = Cell { runs, ..Cell::new(Load::Half, "x", Some(1000)) };
            cell.judge();
            assert_eq!(cell.held, held, "{cell:?}");
        }
    }
}
