//! Pictures of storms: boots over time, and how long reads took.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::report::Storm;
use super::summary::Report;
use crate::plot::{Axis, COLOURS, Chart, Curve, GRID, INK, begin, line, number, polyline, text};

/// Size of the picture of boots, and of its margins: left, right, top, bottom.
const SIZE: (f64, f64) = (900.0, 420.0);
const MARGINS: (f64, f64, f64, f64) = (76.0, 40.0, 46.0, 52.0);

/// Writes `boots.svg` and `latency.svg`.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making --plots {}", folder.display()))?;
    let one = std::slice::from_ref(&report.storm);
    let storms = if report.rounds.is_empty() { one } else { &report.rounds };
    let devices = report.settings.devices;
    let boots = over_time(
        &format!("{devices} devices boot from one image: boots that are over"),
        &curves(storms, boots),
    );
    let latency = Chart {
        title: format!("{devices} devices boot from one image: reads that took no longer"),
        across: "microseconds".to_owned(),
        up: "share of reads".to_owned(),
        marks: false,
        curves: curves(storms, latencies),
    };
    let latency = latency.svg();
    for (name, svg) in [("boots.svg", boots), ("latency.svg", latency)] {
        let path = folder.join(name);
        fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn curves(storms: &[Storm], points: fn(&Storm) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let name = |storm: &Storm| storm.kind().map_or("boots".to_owned(), |kind| kind.to_string());
    storms.iter().map(|storm| Curve { name: name(storm), points: points(storm) }).collect()
}

/// Boots that are over, by seconds.
fn over_time(title: &str, curves: &[Curve]) -> String {
    let ((width, height), (left, right, top, bottom)) = (SIZE, MARGINS);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let across = Axis::new(most(|point| point.0), left, width - right);
    let up = Axis::new(most(|point| point.1), height - bottom, top);
    let mut out = begin(width, height);
    text(&mut out, width / 2.0, 24.0, "middle", INK, title);
    for tick in across.ticks() {
        let x = across.at(tick);
        line(&mut out, (x, top), (x, height - bottom), GRID);
        text(&mut out, x, height - bottom + 18.0, "middle", INK, &number(tick));
    }
    text(&mut out, width / 2.0, height - 12.0, "middle", INK, "seconds");
    for tick in up.ticks() {
        let y = up.at(tick);
        line(&mut out, (left, y), (width - right, y), GRID);
        text(&mut out, left - 8.0, y + 4.0, "end", INK, &number(tick));
    }
    text(&mut out, left, top - 8.0, "middle", INK, "boots");
    let mut below = top + 14.0;
    for (curve, colour) in curves.iter().zip(COLOURS.into_iter().cycle()) {
        let places = curve.points.iter().map(|&(x, y)| (across.at(x), up.at(y)));
        polyline(&mut out, places, colour);
        text(&mut out, left + 10.0, below, "start", colour, &curve.name);
        below += 16.0;
    }
    out.push_str("</svg>\n");
    out
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn boots(storm: &Storm) -> Vec<(f64, f64)> {
    let ended = storm.ends.iter().enumerate();
    let points = ended.map(|(n, end)| (end.0 as f64 / 1e9, (n + 1) as f64));
    std::iter::once((0.0, 0.0)).chain(points).collect()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn latencies(storm: &Storm) -> Vec<(f64, f64)> {
    let all = storm.latency.len().max(1) as f64;
    let mut below = 0;
    let points = storm.latency.iter_recorded().map(|value| {
        below += value.count_since_last_iteration();
        (value.value_iterated_to() as f64 / 1e3, below as f64 / all)
    });
    points.collect()
}
