//! How latencies are shown: for each time the share of the reads that took no longer. And how pictures come into a folder.

use std::fs;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;

use super::{Chart, Curve, Scale};

/// Points of a curve, in 1,000; the last is 99.9 %: beyond that single reads draw the line.
const STEPS: u32 = 1000;

/// A picture of latencies. Curves come from [`cumulated`].
#[must_use]
pub fn latencies(title: impl Into<String>, curves: Vec<Curve>) -> Chart {
    Chart {
        title: title.into(),
        across: "latency in microseconds".to_owned(),
        scale: Scale::Powers,
        up: "share of reads that took no longer, up to 99.9 %".to_owned(),
        marks: false,
        curves,
    }
}

/// A curve: latency in microseconds, and the share of the reads of all these histograms (of nanoseconds) that took no longer.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run, far below 2^53")]
pub fn cumulated<'a>(
    name: impl Into<String>,
    histograms: impl IntoIterator<Item = &'a Histogram<u64>>,
) -> Curve {
    let mut all = Histogram::<u64>::new(3).expect("three digits are allowed");
    for histogram in histograms {
        all.add(histogram).expect("a histogram that grows takes all values");
    }
    let point = |step| {
        let share = f64::from(step) / f64::from(STEPS);
        (all.value_at_quantile(share) as f64 / 1e3, share)
    };
    let points = if all.is_empty() { Vec::new() } else { (1..STEPS).map(point).collect() };
    Curve { name: name.into(), points }
}

/// Makes the folder of `--plots`, for [`write()`].
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making --plots {}", folder.display()))
}

/// Writes a picture.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, name: &str, svg: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_from_the_shortest_to_almost_all() {
        let mut some = Histogram::<u64>::new(3).unwrap();
        let mut others = Histogram::<u64>::new(3).unwrap();
        (1..=500u64).for_each(|n| some.record(n * 1000).unwrap());
        (501..=1000u64).for_each(|n| others.record(n * 1000).unwrap());
        let points = cumulated("both", [&some, &others]).points;
        assert_eq!(points.len(), 999);
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1));
        let (time, share) = points[499];
        assert!((time - 500.0).abs() < 1.0 && (share - 0.5).abs() < 1e-9, "{time} {share}");
        assert!(cumulated("none", []).points.is_empty());
    }
}
