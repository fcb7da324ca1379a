//! Pictures of storms: boots over time, and how long reads took.

use std::path::Path;

use super::report::Storm;
use super::summary::Report;
use crate::plot::{self, Chart, Curve, Scale, cumulated, latencies};

/// Writes `boots.svg` and `latency.svg`.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    plot::make_folder(folder)?;
    let one = std::slice::from_ref(&report.storm);
    let storms = if report.rounds.is_empty() { one } else { &report.rounds };
    let devices = report.settings.devices;
    let boots = Chart {
        title: format!("{devices} devices boot from one image: boots that are over"),
        across: "seconds".to_owned(),
        scale: Scale::Linear,
        up: "boots".to_owned(),
        marks: false,
        curves: storms.iter().map(boots).collect(),
    };
    plot::write(folder, "boots.svg", &boots.svg())?;
    let mut names: Vec<String> = storms.iter().map(name_of).collect();
    names.sort();
    names.dedup();
    // Storms of one kind are one curve: single ones would hide each other.
    let latency = |name: &String| {
        let of_kind = storms.iter().filter(|storm| name_of(storm) == *name);
        cumulated(name.as_str(), of_kind.map(|storm| &storm.latency))
    };
    let title = format!("{devices} devices boot from one image");
    let latency = latencies(title, names.iter().map(latency).collect());
    plot::write(folder, "latency.svg", &latency.svg())
}

fn name_of(storm: &Storm) -> String {
    storm.kind().map_or("boots".to_owned(), |kind| kind.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn boots(storm: &Storm) -> Curve {
    let ended = storm.ends.iter().enumerate();
    let points = ended.map(|(n, end)| (end.0 as f64 / 1e9, (n + 1) as f64));
    let points = std::iter::once((0.0, 0.0)).chain(points).collect();
    Curve { name: name_of(storm), points }
}
