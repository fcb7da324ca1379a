//! Curves over one axis, with their names beside them.

use std::fmt::Write as _;

use super::{Axis, COLOURS, GRID, INK, begin, line, number, polyline, text};

/// Size of the picture, and of the margins: left, right (names stand there), top, bottom.
const SIZE: (f64, f64) = (940.0, 440.0);
const MARGINS: (f64, f64, f64, f64) = (76.0, 220.0, 62.0, 52.0);

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What stands beside it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// How the lower axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In equal steps from zero.
    Linear,
    /// By powers of ten: values are positive.
    Powers,
}

/// A picture of several curves.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// What the lower axis shows, and its unit.
    pub across: String,
    /// How it is divided.
    pub scale: Scale,
    /// What the left axis shows, and its unit.
    pub up: String,
    /// Mark each point: there are few, and each was measured.
    pub marks: bool,
    /// Curves. Those with the same name have the same colour; beyond as many names as there are colours they share them.
    pub curves: Vec<Curve>,
}

/// The lower axis: by powers of ten, from the first to the last.
struct Powers {
    first: i32,
    last: i32,
    from: f64,
    to: f64,
}

impl Powers {
    /// Around all values.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Powers {
        let (least, most) = values.fold((1e15, 1e-6), |(least, most): (f64, f64), value| {
            (least.min(value), most.max(value))
        });
        let (first, last) = (tenth_power(least.min(most)), tenth_power(most));
        let exact = (most / 10f64.powi(last) - 1.0).abs() < 1e-9 && last > first;
        Powers { first, last: if exact { last } else { last + 1 }, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let steps = f64::from(self.last - self.first);
        let share = (value.max(1e-9).log10() - f64::from(self.first)) / steps;
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        (self.first..=self.last).map(|power| 10f64.powi(power))
    }
}

impl Chart {
    /// The picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let ((width, height), (left, right, top, bottom)) = (SIZE, MARGINS);
        let across = Across::new(self.scale, self.points().map(|(x, _)| x), left, width - right);
        let most = self.points().map(|(_, y)| y).fold(0.0, f64::max);
        let up = Axis::new(most, height - bottom, top);
        let mut out = begin(width, height);
        text(&mut out, f64::midpoint(left, width - right), 24.0, "middle", INK, &self.title);
        for tick in across.ticks() {
            let x = across.at(tick);
            line(&mut out, (x, top), (x, height - bottom), GRID);
            text(&mut out, x, height - bottom + 18.0, "middle", INK, &number(tick));
        }
        let middle = f64::midpoint(left, width - right);
        text(&mut out, middle, height - 12.0, "middle", INK, &self.across);
        for tick in up.ticks() {
            let y = up.at(tick);
            line(&mut out, (left, y), (width - right, y), GRID);
            text(&mut out, left - 8.0, y + 4.0, "end", INK, &number(tick));
        }
        text(&mut out, 10.0, top - 14.0, "start", INK, &self.up);
        let mut names: Vec<&str> = Vec::new();
        for curve in &self.curves {
            let known = names.iter().position(|name| *name == curve.name);
            let index = known.unwrap_or(names.len());
            let colour = COLOURS[index % COLOURS.len()];
            let places = curve.points.iter().map(|&(x, y)| (across.at(x), up.at(y)));
            polyline(&mut out, places.clone(), colour);
            if self.marks {
                for (x, y) in places {
                    let _ = writeln!(
                        out,
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                    );
                }
            }
            if known.is_some() {
                continue;
            }
            names.push(&curve.name);
            let place = 16.0 * f64::from(u32::try_from(index).unwrap_or(u32::MAX));
            text(&mut out, width - right + 12.0, top + 12.0 + place, "start", colour, &curve.name);
        }
        out.push_str("</svg>\n");
        out
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.curves.iter().flat_map(|curve| curve.points.iter().copied())
    }
}

/// The lower axis.
enum Across {
    Linear(Axis),
    Powers(Powers),
}

impl Across {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Across {
        match scale {
            Scale::Linear => Across::Linear(Axis::new(values.fold(0.0, f64::max), from, to)),
            Scale::Powers => Across::Powers(Powers::new(values, from, to)),
        }
    }

    fn at(&self, value: f64) -> f64 {
        match self {
            Across::Linear(axis) => axis.at(value),
            Across::Powers(powers) => powers.at(value),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match self {
            Across::Linear(axis) => axis.ticks().collect(),
            Across::Powers(powers) => powers.ticks().collect(),
        }
    }
}

/// The largest power of ten that is not above the value.
fn tenth_power(value: f64) -> i32 {
    (-6..=15).rev().find(|&power| 10f64.powi(power) <= value * 1.000_000_001).unwrap_or(-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "a < b".to_owned(),
            across: "µs".to_owned(),
            scale: Scale::Powers,
            up: "share".to_owned(),
            marks: true,
            curves: vec![
                Curve { name: "node".to_owned(), points: points.to_vec() },
                Curve { name: "none".to_owned(), points: Vec::new() },
            ],
        }
    }

    #[test]
    fn all_points_are_marked_inside_the_frame() {
        let svg = chart(&[(1.0, 0.0), (64.0, 20.5), (500.0, 7.0)]).svg();
        assert!(svg.contains("a &lt; b") && svg.contains(">node<"), "{svg}");
        let marks = svg.lines().filter(|line| line.starts_with("<circle"));
        let places: Vec<(f64, f64)> = marks
            .map(|mark| {
                let of = |key: &str| {
                    let rest = mark.split(key).nth(1).unwrap();
                    rest.split('"').next().unwrap().parse().unwrap()
                };
                (of("cx=\""), of("cy=\""))
            })
            .collect();
        assert_eq!(places.len(), 3);
        for (x, y) in &places {
            assert!((75.9..=720.1).contains(x) && (61.9..=388.1).contains(y), "{places:?}");
        }
        assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0), "{places:?}");
    }

    #[test]
    fn curves_of_one_name_share_colour_and_label() {
        let mut chart = chart(&[(1.0, 1.0)]);
        chart.scale = Scale::Linear;
        chart.curves.push(Curve { name: "node".to_owned(), points: vec![(0.0, 2.0)] });
        let svg = chart.svg();
        assert_eq!(svg.matches(">node<").count(), 1, "{svg}");
        let marks: Vec<_> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        assert_eq!(marks.len(), 2);
        assert!(marks.iter().all(|mark| mark.contains(COLOURS[0])), "{marks:?}");
        assert!(marks[1].contains("cx=\"76.0\""), "zero is at the left end: {marks:?}");
    }

    #[test]
    fn powers_of_ten_frame_the_values() {
        let ticks = |values: &[f64]| -> Vec<f64> {
            Powers::new(values.iter().copied(), 0.0, 1.0).ticks().collect()
        };
        assert_eq!(ticks(&[1.0, 500.0]), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(ticks(&[12.0, 100.0]), [10.0, 100.0]);
        assert_eq!(ticks(&[100.0]), [100.0, 1000.0]);
    }

    #[test]
    fn a_chart_of_nothing_is_a_picture_too() {
        let svg = chart(&[]).svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
