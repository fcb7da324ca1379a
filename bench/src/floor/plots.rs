//! What the comparison looks like.

use std::fs;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;

use super::compare::{Comparison, Comparisons};
use super::side::Side;
use crate::plot::{Chart, Curve};

/// Points of a curve of latencies, in 1,000; the last is 99.9 %.
const STEPS: u32 = 1000;

/// Draws into this folder, which is made.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(folder: &Path, all: &Comparisons) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for comparison in &all.loads {
        let name = format!("latency-{}.svg", comparison.load.name);
        write(&folder.join(name), &latencies(comparison))?;
    }
    write(&folder.join("throughput-over-devices.svg"), &throughput(all))
}

/// Writes a chart.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, chart: &Chart) -> anyhow::Result<()> {
    fs::write(path, chart.svg()).with_context(|| format!("writing {}", path.display()))
}

/// Share of the reads that took at most so long.
fn latencies(comparison: &Comparison) -> Chart {
    let load = &comparison.load;
    let side = |name: &str, of: fn(&super::compare::Round) -> &Side| {
        let mut all = Histogram::<u64>::new(3).expect("three digits are allowed");
        for round in &comparison.rounds {
            all.add(&of(round).latency).expect("a histogram that grows takes all values");
        }
        Curve { name: name.to_owned(), points: cumulated(&all) }
    };
    Chart {
        title: format!(
            "Latency: {} devices, {} reads of {} bytes outstanding each",
            load.devices, load.depth, load.size
        ),
        across: "microseconds".to_owned(),
        up: "share of reads".to_owned(),
        marks: false,
        curves: vec![side("node", |r| &r.node), side("bare responder", |r| &r.responder)],
    }
}

/// Latency in microseconds, and the share of reads that it took at most, up to 99.9 %.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run, far below 2^53")]
pub fn cumulated(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    let point = |step| {
        let share = f64::from(step) / f64::from(STEPS);
        (latency.value_at_quantile(share) as f64 / 1e3, share)
    };
    (1..STEPS).map(point).collect()
}

/// Reads per second under the loads of 4 KiB, which differ by their devices.
fn throughput(all: &Comparisons) -> Chart {
    let curve = |name: &str, of: fn(&super::compare::Round) -> f64| {
        let mut points: Vec<_> = all
            .loads
            .iter()
            .filter(|comparison| comparison.load.size == 4096)
            .filter_map(|comparison| {
                let rates = crate::spread::Spread::of(comparison.rounds.iter().map(of), 1)?;
                Some((f64::from(comparison.load.devices), rates.median))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: name.to_owned(), points }
    };
    Chart {
        title: "Random reads of 4 KiB, server on one core".to_owned(),
        across: "devices (one: 32 reads outstanding; else one each)".to_owned(),
        up: "reads/s".to_owned(),
        marks: true,
        curves: vec![
            curve("node", |round| round.node.reads_per_s),
            curve("bare responder", |round| round.responder.reads_per_s),
        ],
    }
}
