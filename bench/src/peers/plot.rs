//! The table as a picture: for each load a group of bars, one for each server; the shorter the better.

use std::fmt::Write as _;

use super::figures::Cell;
use super::loads::{Load, Measure};
use super::report::{PeersReport, is_ours, middle};

/// Width of the picture, where bars begin and end, height of a bar and of a group's title.
const WIDTH: f64 = 900.0;
const BARS: (f64, f64) = (190.0, 800.0);
const BAR: f64 = 18.0;
const TITLE: f64 = 34.0;
/// Colours of our bars, of the others', of words: told apart by those who see red and green alike.
const COLOURS: (&str, &str, &str) = ("#0b5fa5", "#d9a441", "#333333");

/// The picture.
#[must_use]
pub fn svg(report: &PeersReport) -> String {
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
        text(&mut body, (10.0, y + TITLE - 12.0), "start", &title);
        y += TITLE;
        let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (cell, value) in bars {
            bar(&mut body, y, cell, value, most);
            y += BAR;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        y + 10.0
    )
}

fn bar(out: &mut String, y: f64, cell: &Cell, value: f64, most: f64) {
    let (from, to) = BARS;
    let length = (to - from) * (value / most).clamp(0.0, 1.0);
    let colour = if is_ours(&cell.server) { COLOURS.0 } else { COLOURS.1 };
    text(out, (from - 8.0, y + BAR - 5.0), "end", &cell.server);
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
    text(out, (x, y + BAR - 5.0), anchor, &words);
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let (x, y) = at;
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{}\">{words}</text>",
        COLOURS.2
    );
}
