//! Several measurements of the same thing.

use std::fmt;

use serde::Serialize;

use crate::report::round;

/// The middle of several figures, and how far they lie apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the middle two of an even number.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// All, in the order in which they were measured.
    pub each: Vec<f64>,
}

impl Spread {
    /// Of these figures, rounded to so many decimals; none of none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>, decimals: i32) -> Option<Spread> {
        let each: Vec<f64> = figures.into_iter().collect();
        let mut sorted = each.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let median = middle(&sorted)?;
        let each = each.into_iter().map(|figure| round(figure, decimals)).collect();
        let [median, least, most] = [median, least, most].map(|figure| round(figure, decimals));
        Some(Spread { median, least, most, each })
    }
}

impl fmt::Display for Spread {
    /// The middle, and the ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} – {})", self.median, self.least, self.most)
    }
}

/// The middle one, as it is; the mean of the middle two of an even number; none of none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    let even = sorted.len().is_multiple_of(2);
    Some(if even { f64::midpoint(sorted[half - 1], upper) } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_found_and_the_order_kept() {
        let spread = Spread::of([3.0, 1.0, 2.04], 1).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        assert_eq!(spread.each, [3.0, 1.0, 2.0]);
        assert!((Spread::of([1.0, 2.0], 2).unwrap().median - 1.5).abs() < 1e-9);
        assert_eq!(Spread::of([], 1), None);
        assert_eq!(spread.to_string(), "2 (1 – 3)");
        assert_eq!(median([]), None);
        assert!((median([1.0, 4.0, 2.0, 9.04]).unwrap() - 3.0).abs() < 1e-9);
    }
}
