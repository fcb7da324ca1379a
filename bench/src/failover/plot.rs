//! A plot of a run as SVG: reads per second over time, the event, and the longest stall of each moment.

use super::report::Series;
use crate::plot::{Axis, GRID, begin, line, number, polyline, text};

/// Size of the picture, and of the margins: left, right, top, bottom.
const SIZE: (f64, f64) = (900.0, 420.0);
const MARGINS: (f64, f64, f64, f64) = (76.0, 76.0, 46.0, 52.0);
/// Colours of reads, stalls and the event: told apart by those who see red and green alike.
const COLOURS: (&str, &str, &str) = ("#0b5fa5", "#d98200", "#444444");

/// The picture.
#[must_use]
pub fn svg(title: &str, series: &Series) -> String {
    let ((width, height), (left, right, top, bottom)) = (SIZE, MARGINS);
    #[expect(clippy::cast_precision_loss, reason = "bins and milliseconds, far below 2^53")]
    let (bins, bin_s) = (series.reads.len() as f64, series.bin_ms as f64 / 1000.0);
    let rates: Vec<f64> = series.reads.iter().map(|&reads| f64::from(reads) / bin_s).collect();
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let time = Axis::new(bins * bin_s, left, width - right);
    let rate = Axis::new(most(&rates), height - bottom, top);
    let stall = Axis::new(most(&series.stall_ms_max), height - bottom, top);
    let mut out = begin(width, height);
    text(&mut out, width / 2.0, 24.0, "middle", COLOURS.2, title);
    for tick in time.ticks() {
        let x = time.at(tick);
        line(&mut out, (x, top), (x, height - bottom), GRID);
        text(&mut out, x, height - bottom + 18.0, "middle", COLOURS.2, &number(tick));
    }
    text(&mut out, width / 2.0, height - 12.0, "middle", COLOURS.2, "seconds");
    for tick in rate.ticks() {
        let y = rate.at(tick);
        line(&mut out, (left, y), (width - right, y), GRID);
        text(&mut out, left - 8.0, y + 4.0, "end", COLOURS.0, &number(tick));
    }
    for tick in stall.ticks() {
        let y = stall.at(tick);
        text(&mut out, width - right + 8.0, y + 4.0, "start", COLOURS.1, &number(tick));
    }
    text(&mut out, left, top - 8.0, "middle", COLOURS.0, "reads/s");
    text(&mut out, width - right, top - 8.0, "middle", COLOURS.1, "longest stall, ms");
    if let Some(event_ms) = series.event_ms {
        let x = time.at(event_ms / 1000.0);
        line(&mut out, (x, top), (x, height - bottom), COLOURS.2);
        text(&mut out, x + 4.0, top + 12.0, "start", COLOURS.2, "event");
    }
    steps(&mut out, &time, &stall, &series.stall_ms_max, bin_s, COLOURS.1);
    steps(&mut out, &time, &rate, &rates, bin_s, COLOURS.0);
    out.push_str("</svg>\n");
    out
}

/// A curve that keeps each bin's value over the bin's width.
fn steps(out: &mut String, time: &Axis, axis: &Axis, values: &[f64], bin_s: f64, colour: &str) {
    let mut points = Vec::with_capacity(2 * values.len());
    let mut at = 0.0;
    for &value in values {
        let y = axis.at(value);
        points.push((time.at(at), y));
        at += bin_s;
        points.push((time.at(at), y));
    }
    polyline(out, points, colour);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bin_and_the_event_are_drawn_and_nothing_lies_outside() {
        let series = Series {
            bin_ms: 50,
            event_ms: Some(1000.0),
            reads: (0..40).map(|n| if n == 20 { 0 } else { 1000 }).collect(),
            stall_ms_max: (0..40).map(|n| if n == 21 { 63.5 } else { 0.5 }).collect(),
            moves: vec![0; 40],
        };
        let svg = svg("kill: a < b", &series);
        assert!(
            svg.contains("kill: a &lt; b") && svg.contains(">event<") && svg.contains("reads/s")
        );
        let curves: Vec<_> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(curves.len(), 2);
        for curve in curves {
            let points = curve.split("points=\"").nth(1).unwrap().trim_end_matches("\"/>");
            assert_eq!(points.split(' ').count(), 80);
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((76.0..=824.1).contains(&x) && (45.9..=368.1).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn a_run_without_reads_has_a_picture_too() {
        let series = Series {
            bin_ms: 50,
            event_ms: None,
            reads: vec![0; 20],
            stall_ms_max: vec![0.0; 20],
            moves: vec![0; 20],
        };
        let svg = svg("idle", &series);
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains(">event<"));
    }
}
