//! What `hit-rate` tells.

use std::io::{self, Write};

use serde::Serialize;

use super::{CACHE_PERCENT, HitRateArgs, OURS, policies};
use crate::report::{self, Provenance, round};

/// One policy on one workload in one cache.
#[derive(Debug, Serialize)]
pub struct Cell {
    workload: &'static str,
    /// Frames in percent of the working set.
    cache_percent: usize,
    policy: &'static str,
    /// Different blocks that devices ask for, in the last run.
    working_set_blocks: usize,
    /// Mean over the seeds of: hits of devices ÷ lookups of devices.
    hit_rate: f64,
    /// The lowest of any seed.
    hit_rate_min: f64,
    /// The highest.
    hit_rate_max: f64,
}

impl Cell {
    /// Of the rates of all seeds.
    pub fn new(
        workload: &'static str,
        cache_percent: usize,
        policy: &'static str,
        working_set_blocks: usize,
        rates: &[f64],
    ) -> Cell {
        Cell {
            workload,
            cache_percent,
            policy,
            working_set_blocks,
            hit_rate: mean(rates),
            hit_rate_min: rates.iter().copied().fold(1.0, f64::min),
            hit_rate_max: rates.iter().copied().fold(0.0, f64::max),
        }
    }
}

/// Ours ÷ others, where they were asked the same.
#[derive(Debug, Serialize)]
struct Ratio {
    workload: &'static str,
    cache_percent: usize,
    ours_over_lru: f64,
    /// Ours ÷ the best of all policies that do not know the future.
    ours_over_best_other: f64,
    best_other: &'static str,
}

/// The report. Keys of the JSON object are the fields' names.
#[derive(Debug, Serialize)]
pub struct HitRateReport {
    /// Hit rate on the boots of a fleet with a scan, cache at 25 % of the working set: ours ÷ LRU.
    ours_over_lru_trace_scan_25: Option<f64>,
    ratios: Vec<Ratio>,
    cells: Vec<Cell>,
    seeds: u64,
    block_bytes: u64,
    trace: String,
    provenance: Provenance,
}

/// The workload and the size that the specification names.
const NAMED: (&str, usize) = ("fleet+scan", 25);

impl HitRateReport {
    /// Of all cells.
    pub fn new(cells: Vec<Cell>, args: &HitRateArgs, provenance: Provenance) -> HitRateReport {
        let groups = || cells.chunks(1 + policies::NAMES.len());
        let ratios: Vec<Ratio> = groups().map(ratio).collect();
        let named = ratios.iter().find(|r| (r.workload, r.cache_percent) == NAMED);
        HitRateReport {
            ours_over_lru_trace_scan_25: named.map(|ratio| ratio.ours_over_lru),
            ratios,
            cells,
            seeds: args.seeds,
            block_bytes: args.block,
            trace: args.trace.display().to_string(),
            provenance,
        }
    }

    /// Prints a table, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "hits in % of the devices' lookups, mean of {} seeds (± half the spread)",
            self.seeds
        )?;
        write!(out, "{:<20} {:>5} {:>12}", "workload", "cache", OURS)?;
        for name in policies::NAMES {
            write!(out, " {name:>12}")?;
        }
        writeln!(out, "  ours ÷ LRU")?;
        let groups = self.cells.chunks(1 + policies::NAMES.len());
        for (cells, ratio) in groups.zip(&self.ratios) {
            if ratio.cache_percent == CACHE_PERCENT[0] {
                let blocks = cells[0].working_set_blocks;
                writeln!(out, "{} ({blocks} blocks)", ratio.workload)?;
            }
            write!(out, "{:<20} {:>3} %", "", ratio.cache_percent)?;
            for cell in cells {
                let half = (cell.hit_rate_max - cell.hit_rate_min) * 50.0;
                write!(out, " {:>6.2} ±{half:>4.2}", cell.hit_rate * 100.0)?;
            }
            writeln!(out, "  {:>6.3}", ratio.ours_over_lru)?;
        }
        writeln!(out, "blocks of {} bytes | {}", self.block_bytes, self.provenance)
    }
}

/// Of the cells of one workload and size: ours first, the one that knows the future last.
fn ratio(cells: &[Cell]) -> Ratio {
    let (ours, others) = cells.split_first().expect("ours");
    let others = &others[..others.len() - 1];
    let lru = others.iter().find(|cell| cell.policy == "lru").expect("among the names");
    let best = others.iter().max_by(|a, b| a.hit_rate.total_cmp(&b.hit_rate)).expect("some");
    let over = |other: &Cell| round(ours.hit_rate / other.hit_rate, 4);
    Ratio {
        workload: ours.workload,
        cache_percent: ours.cache_percent,
        ours_over_lru: over(lru),
        ours_over_best_other: over(best),
        best_other: best.policy,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of seeds")]
fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len() as f64
}
