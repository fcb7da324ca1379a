//! Pictures of what was measured, as SVG: what all plots share.

mod chart;
mod latency;

use std::fmt::Write as _;

pub use chart::{Chart, Curve, Scale};
pub use latency::{cumulated, latencies, make_folder, write};

/// Grid lines of each axis, about.
const TICKS: f64 = 6.0;
/// Colour of words and frames.
pub const INK: &str = "#444444";
/// Colour of grid lines.
pub const GRID: &str = "#dddddd";
/// Colours of curves: told apart by those who see red and green alike (Okabe and Ito's, darkened).
pub const COLOURS: [&str; 8] =
    ["#0b5fa5", "#d98200", "#00795a", "#b4487f", "#5b3f9e", "#7a6a00", "#2fa3d6", "#222222"];

/// An axis: from zero to the upper end, which lies at `to`.
pub struct Axis {
    end: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From zero to `most` or a little more, in round steps.
    #[must_use]
    pub fn new(most: f64, from: f64, to: f64) -> Axis {
        let step = round_step(most.max(1e-9) / TICKS);
        Axis { end: (most / step).ceil().max(1.0) * step, step, from, to }
    }

    /// Where a value lies.
    #[must_use]
    pub fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.end).min(1.0)
    }

    /// Values of its grid lines.
    pub fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (step, end) = (self.step, self.end);
        (0..100).map(move |n| f64::from(n) * step).take_while(move |&tick| tick <= end + step / 2.0)
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= least * 0.999_999);
    step.unwrap_or(10.0) * power
}

/// Begins a picture of this size.
#[must_use]
pub fn begin(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// A straight line.
pub fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

/// Words; `anchor` is `start`, `middle` or `end`.
pub fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}

/// A curve through these points.
pub fn polyline(out: &mut String, points: impl IntoIterator<Item = (f64, f64)>, colour: &str) {
    let mut list = String::new();
    for (x, y) in points {
        let _ = write!(list, "{x:.1},{y:.1} ");
    }
    let _ = writeln!(
        out,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\" points=\"{}\"/>",
        list.trim_end()
    );
}

/// A tick's label, without digits that say nothing.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_ticks_cover_the_values() {
        for (least, step) in [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (3300.0, 5000.0), (0.07, 0.1)] {
            assert!((round_step(least) / step - 1.0).abs() < 1e-9, "{least}");
        }
        let axis = Axis::new(19_000.0, 300.0, 40.0);
        let ticks: Vec<_> = axis.ticks().collect();
        assert!((3..=8).contains(&ticks.len()), "{ticks:?}");
        assert!((axis.at(0.0) - 300.0).abs() < 1e-9 && axis.at(19_000.0) >= 40.0);
    }
}
