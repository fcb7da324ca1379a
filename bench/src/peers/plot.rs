//! Pictures: the table as bars, for each load a group with one for each server (the shorter the better); latencies under each load;
//! throughput over connections.

use std::fmt::Write as _;
use std::path::Path;

use super::figures::Cell;
use super::loads::{Load, Measure};
use super::report::{PeersReport, is_ours, middle};
use crate::plot::{self, Chart, Curve, INK, Scale, begin, cumulated, latencies, text};

/// Width of the picture, where bars begin and end, height of a bar and of a group's title.
const WIDTH: f64 = 900.0;
const BARS: (f64, f64) = (190.0, 800.0);
const BAR: f64 = 18.0;
const TITLE: f64 = 34.0;
/// Colours of our bars and of the others': told apart by those who see red and green alike.
const COLOURS: (&str, &str) = ("#0b5fa5", "#d9a441");
/// Loads that differ only by their connections.
const GROWING: [(&str, [Load; 2]); 2] = [
    ("throughput-over-devices.svg", [Load::Small64, Load::Small500]),
    ("throughput-over-devices-deep.svg", [Load::Small64Deep, Load::Small500Deep]),
];

/// Draws into this folder, which is made.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(folder: &Path, report: &PeersReport) -> anyhow::Result<()> {
    plot::make_folder(folder)?;
    plot::write(folder, "table.svg", &bars(report))?;
    for load in Load::ALL {
        let cells = report.servers.iter().filter(|cell| cell.load == Some(load));
        let cells: Vec<_> = cells.filter(|cell| !cell.runs.is_empty()).collect();
        if cells.is_empty() {
            continue;
        }
        let curve = |cell: &&Cell| {
            cumulated(cell.server.as_str(), cell.runs.iter().filter_map(|run| run.latency.as_ref()))
        };
        let (connections, depth, size, _) = load.shape();
        let how =
            cells[0].rate.map_or(String::new(), |rate| format!(", open loop of {rate} reads/s"));
        let title = format!("{connections} x {depth} reads of {} KiB{how}", size >> 10);
        let chart = latencies(title, cells.iter().map(curve).collect());
        plot::write(folder, &format!("latency-{}.svg", load.name()), &chart.svg())?;
    }
    for (name, loads) in GROWING {
        if let Some(chart) = throughput(report, loads) {
            plot::write(folder, name, &chart.svg())?;
        }
    }
    Ok(())
}

/// Reads per second over connections; none unless both loads were measured.
fn throughput(report: &PeersReport, loads: [Load; 2]) -> Option<Chart> {
    let of = |load| report.servers.iter().filter(move |cell| cell.load == Some(load));
    let point = |cell: &Cell| {
        let connections = u32::try_from(cell.shape.0).ok()?;
        Some((f64::from(connections), cell.median(|run| run.reads_per_s)?))
    };
    let curve = |few: &Cell| {
        let many = of(loads[1]).find(|cell| cell.server == few.server);
        let points = [Some(few), many].into_iter().flatten().filter_map(point).collect();
        Curve { name: few.server.clone(), points }
    };
    let curves: Vec<Curve> = of(loads[0]).map(curve).collect();
    let (_, depth, size, _) = loads[0].shape();
    curves.iter().any(|curve| curve.points.len() > 1).then(|| Chart {
        title: format!(
            "Random reads of {} KiB, {depth} outstanding on each connection",
            size >> 10
        ),
        across: "connections, or devices of our node".to_owned(),
        scale: Scale::Powers,
        up: "reads per second, server on one core".to_owned(),
        marks: true,
        curves,
    })
}

/// The table.
fn bars(report: &PeersReport) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for load in Load::ALL {
        let cells = report.servers.iter().filter(|cell| cell.load == Some(load));
        let bars: Vec<_> = cells.filter_map(|cell| Some((cell, middle(cell)?))).collect();
        if bars.is_empty() {
            continue;
        }
        let (connections, depth, size, _) = load.shape();
        let unit = match load.measure() {
            Measure::CpuUsPerRead => "µs of the server's processor per read",
            Measure::CpuSPerGib => "s of the server's processor per GiB",
            Measure::P99Us => "µs that 99 of 100 reads stay below, open loop at half load",
        };
        let title = format!("{connections} x {depth} reads of {} KiB: {unit}", size >> 10);
        text(&mut body, 10.0, y + TITLE - 12.0, "start", INK, &title);
        y += TITLE;
        let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (cell, value) in bars {
            bar(&mut body, y, cell, value, most);
            y += BAR;
        }
    }
    let mut out = begin(WIDTH, y + 10.0);
    out.push_str(&body);
    out.push_str("</svg>\n");
    out
}

fn bar(out: &mut String, y: f64, cell: &Cell, value: f64, most: f64) {
    let (from, to) = BARS;
    let length = (to - from) * (value / most).clamp(0.0, 1.0);
    let colour = if is_ours(&cell.server) { COLOURS.0 } else { COLOURS.1 };
    text(out, from - 8.0, y + BAR - 5.0, "end", INK, &cell.server);
    let _ = writeln!(
        out,
        "<rect x=\"{from}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        y + 2.0,
        BAR - 4.0
    );
    let held = if cell.held == Some(false) { " (does not hold the rate)" } else { "" };
    let words =
        if value < 10.0 { format!("{value:.2}{held}") } else { format!("{value:.0}{held}") };
    // Words of a long bar stand in it.
    let inside = length > (to - from) * 0.7;
    let (x, anchor) =
        if inside { (from + length - 6.0, "end") } else { (from + length + 6.0, "start") };
    let ink = if inside && is_ours(&cell.server) { "#ffffff" } else { INK };
    text(out, x, y + BAR - 5.0, anchor, ink, &words);
}
