//! Pictures of runs of `read`: how long reads took, and what more devices bring.

use std::path::Path;

use super::Pattern;
use crate::plot::{self, Chart, Curve, Scale, cumulated, latencies};
use crate::report::Report;

/// Draws into this folder, which is made.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(folder: &Path, reports: &[Report]) -> anyhow::Result<()> {
    plot::make_folder(folder)?;
    let Some(first) = reports.first() else { return Ok(()) };
    let where_to = match first.pattern {
        Pattern::Rand => "Random reads",
        Pattern::Seq => "Reads in order",
    };
    let what = format!(
        "{where_to} of {} KiB, {} outstanding each, MTU {}",
        first.size >> 10,
        first.depth,
        first.mtu
    );
    let curve =
        |report: &Report| cumulated(format!("{} devices", report.devices), [&report.latency]);
    let chart = latencies(what.as_str(), reports.iter().map(curve).collect());
    plot::write(folder, "latency.svg", &chart.svg())?;
    if reports.len() > 1 {
        plot::write(folder, "throughput-over-devices.svg", &throughput(&what, reports).svg())?;
    }
    Ok(())
}

fn throughput(what: &str, reports: &[Report]) -> Chart {
    let mut points: Vec<_> = reports.iter().map(|r| (f64::from(r.devices), r.mib_per_s)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Chart {
        title: what.to_owned(),
        across: "devices".to_owned(),
        scale: Scale::Powers,
        up: "MiB per second".to_owned(),
        marks: true,
        curves: vec![Curve { name: "all devices together".to_owned(), points }],
    }
}
