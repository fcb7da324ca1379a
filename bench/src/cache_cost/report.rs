//! What `cache-cost` tells.

use std::io::{self, Write};

use serde::Serialize;

use super::CacheCostArgs;
use crate::report::{self, Provenance, round};

/// One step's cost.
#[derive(Debug, Serialize)]
pub struct Cost {
    step: &'static str,
    /// Cores that do it at once.
    threads: usize,
    /// Nanoseconds per operation and thread: the median of the rounds.
    ns: f64,
    /// The lowest.
    ns_min: f64,
    /// The highest.
    ns_max: f64,
}

impl Cost {
    /// Of all rounds.
    pub fn new(step: &'static str, threads: usize, mut ns: Vec<f64>) -> Cost {
        ns.sort_by(f64::total_cmp);
        let at = |index: usize| round(ns[index], 2);
        Cost { step, threads, ns: at(ns.len() / 2), ns_min: at(0), ns_max: at(ns.len() - 1) }
    }
}

/// The report. Keys of the JSON object are the fields' names.
#[derive(Debug, Serialize)]
pub struct CostReport {
    costs: Vec<Cost>,
    rounds: usize,
    operations: u64,
    frames: usize,
    provenance: Provenance,
}

impl CostReport {
    /// Of all steps.
    pub fn new(costs: Vec<Cost>, args: &CacheCostArgs, provenance: Provenance) -> CostReport {
        let CacheCostArgs { rounds, operations, frames, .. } = *args;
        CostReport { costs, rounds, operations, frames, provenance }
    }

    /// Prints a table, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<62} {:>7} {:>9} {:>17}", "step", "threads", "ns", "lowest to highest")?;
        for cost in &self.costs {
            let Cost { step, threads, ns, ns_min, ns_max } = cost;
            writeln!(out, "{step:<62} {threads:>7} {ns:>9.1} {ns_min:>8.1} to {ns_max:>5.1}")?;
        }
        writeln!(
            out,
            "{} rounds of {} operations, {} frames | {}",
            self.rounds, self.operations, self.frames, self.provenance
        )
    }
}
