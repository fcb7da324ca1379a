//! Processor time that other guests of the host had while this machine wanted it.
//!
//! A virtual machine that is not running does not know: its kernel charges such time to whoever had the processor, so a server seems
//! to cost more. `/proc/stat` tells how much there was (`steal`, proc_stat(5)). Here it came in spells of a minute and more, up to a
//! quarter of all time, and moved a ratio of 0.65 to 1.5.

use std::fs;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;

use crate::report::round;

/// What a round may have lost and count all the same. Measured: without neighbours rounds lie between 0 and 2 %.
const QUIET: f64 = 0.03;
/// `USER_HZ`, the unit of `/proc/stat` on every machine that we build for.
const TICKS_PER_S: f64 = 100.0;

/// A moment, and what had been stolen from all processors by then.
#[derive(Clone, Copy, Debug)]
pub struct Steal {
    at: Nanos,
    ticks: u64,
    processors: u32,
}

impl Steal {
    /// Now.
    ///
    /// # Errors
    /// When `/proc/stat` is not there, or not what it was.
    pub fn now() -> anyhow::Result<Steal> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let (ticks, processors) = parse(&text).context("/proc/stat has no line of processors")?;
        Ok(Steal { at: clock::now(), ticks, processors })
    }

    /// The part of all processors' time that was stolen since.
    ///
    /// # Errors
    /// As [`Steal::now`].
    #[expect(clippy::cast_precision_loss, reason = "ticks of some minutes")]
    pub fn share_since(self) -> anyhow::Result<f64> {
        let now = Steal::now()?;
        let seconds = now.at.since(self.at).as_duration().as_secs_f64();
        let whole = seconds * TICKS_PER_S * f64::from(self.processors);
        let stolen = now.ticks.saturating_sub(self.ticks) as f64;
        Ok(round(stolen / whole.max(1.0), 3))
    }
}

/// Stolen ticks of all processors, and how many processors there are.
fn parse(stat: &str) -> Option<(u64, u32)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = all.split_whitespace().nth(7)?.parse().ok()?;
    let lines = stat.lines().skip(1).take_while(|line| line.starts_with("cpu"));
    Some((ticks, u32::try_from(lines.count()).ok()?))
}

/// Rounds that count, and rounds that the neighbours disturbed.
#[derive(Debug)]
pub struct Rounds<T> {
    /// As many as were wanted: those with the least stolen, in the order in which they were measured.
    pub kept: Vec<T>,
    /// The others, each of which was measured again.
    pub disturbed: Vec<T>,
}

/// Measures `wanted` rounds, and for each that lost more than a few per cent another one, at most as many again. Which rounds count
/// is decided by what was stolen alone, never by what they found. `one` measures the round of this number; `stolen` reads it from one.
///
/// # Errors
/// The first of a round.
pub fn rounds<T>(
    wanted: u32,
    mut one: impl FnMut(u32) -> anyhow::Result<T>,
    stolen: impl Fn(&T) -> f64,
) -> anyhow::Result<Rounds<T>> {
    let wanted_rounds = wanted as usize;
    let mut all: Vec<T> = Vec::with_capacity(wanted_rounds);
    let (mut number, mut quiet) = (0, 0);
    while quiet < wanted && number < 2 * wanted {
        let round = one(number)?;
        quiet += u32::from(stolen(&round) <= QUIET);
        all.push(round);
        number += 1;
    }
    let mut by_stolen: Vec<usize> = (0..all.len()).collect();
    by_stolen.sort_by(|&a, &b| stolen(&all[a]).total_cmp(&stolen(&all[b])));
    let counts: Vec<bool> =
        (0..all.len()).map(|n| by_stolen[..wanted_rounds].contains(&n)).collect();
    let (mut kept, mut disturbed) = (Vec::new(), Vec::new());
    for (round, counts) in all.into_iter().zip(counts) {
        if counts { kept.push(round) } else { disturbed.push(round) }
    }
    Ok(Rounds { kept, disturbed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_all_processors_is_read() {
        let stat = "cpu  5 2 1 25 8 0 2 186653 0 0\ncpu0 1 1 1 1 1 0 1 9 0 0\ncpu1 1 1 1 1 1 0 1 9 0 0\nintr 1 2\n";
        assert_eq!(parse(stat), Some((186_653, 2)));
        assert_eq!(parse("cpu  5 2\n"), None);
        assert_eq!(parse(""), None);
        assert!(Steal::now().unwrap().share_since().unwrap() >= 0.0);
    }

    #[test]
    fn what_counts_is_what_was_disturbed_least() {
        let stolen = [0.0, 0.25, 0.01, 0.3, 0.02, 0.0];
        let run = |wanted| rounds(wanted, |n| Ok(stolen[n as usize]), |&s| s).unwrap();
        assert_eq!((run(1).kept, run(1).disturbed), (vec![0.0], vec![]));
        let three = run(3);
        assert_eq!((three.kept, three.disturbed), (vec![0.0, 0.01, 0.02], vec![0.25, 0.3]));
        // Never quiet: the best of twice as many, with its share in the report.
        let noisy = rounds(2, |n| Ok([0.5, 0.2, 0.4, 0.3][n as usize]), |&s| s).unwrap();
        assert_eq!((noisy.kept, noisy.disturbed), (vec![0.2, 0.3], vec![0.5, 0.4]));
    }
}
