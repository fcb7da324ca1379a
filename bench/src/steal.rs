//! Processor time that other guests of the host had while this machine wanted it.
//!
//! A virtual machine that is not running does not know: its kernel charges such time to whoever had the processor, so a server seems
//! to cost more. `/proc/stat` tells how much there was (`steal`, proc_stat(5)). Here it came in spells of a minute and more, up to a
//! quarter of all time, and moved a ratio of 0.65 to 1.5.

use std::collections::VecDeque;
use std::fs;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;

use crate::report::round;

/// What a round may have lost and count all the same. Measured: without neighbours rounds lose between 0 and 2 % to other guests; and to other
/// processes, when nothing else was to run, 1 to 3 % (19 of 20 of 129 rounds; half of them below 1.5).
pub const QUIET: f64 = 0.03;
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

/// Rounds that count, and rounds that others disturbed.
#[derive(Debug)]
pub struct Rounds<T> {
    /// One of each number: that which lost the least, in the order in which they were measured.
    pub kept: Vec<T>,
    /// The others, each of which was measured again.
    pub disturbed: Vec<T>,
}

/// Measures the rounds 0 to `wanted`, and those that lost more than a few per cent again, at most as many again in all. Which round of a number
/// counts is decided by what it lost alone, never by what it found; so what alternates from number to number does so in what counts.
/// `one` measures the round of this number; `lost` reads from one what part of its time others had.
///
/// # Errors
/// The first of a round.
pub fn rounds<T>(
    wanted: u32,
    mut one: impl FnMut(u32) -> anyhow::Result<T>,
    lost: impl Fn(&T) -> f64,
) -> anyhow::Result<Rounds<T>> {
    let most = 2 * wanted as usize;
    let mut all: Vec<(u32, T)> = Vec::with_capacity(most);
    // Repeats come last: what disturbs does so for a minute and more.
    let mut numbers: VecDeque<u32> = (0..wanted).collect();
    while let Some(number) = numbers.pop_front().filter(|_| all.len() < most) {
        let round = one(number)?;
        if lost(&round) > QUIET {
            numbers.push_back(number);
        }
        all.push((number, round));
    }
    let least = |number: u32| {
        let same = (0..all.len()).filter(|&n| all[n].0 == number);
        same.min_by(|&a, &b| lost(&all[a].1).total_cmp(&lost(&all[b].1)))
    };
    let count: Vec<usize> = (0..wanted).filter_map(least).collect();
    let (mut kept, mut disturbed) = (Vec::new(), Vec::new());
    for (n, (_, round)) in all.into_iter().enumerate() {
        if count.contains(&n) { kept.push(round) } else { disturbed.push(round) }
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

    /// Runs rounds that lose as much as is told, and tells which numbers were measured.
    fn run(wanted: u32, lost: &[f64]) -> (Rounds<(u32, f64)>, Vec<u32>) {
        let mut numbers = Vec::new();
        let one = |number| {
            numbers.push(number);
            Ok((number, lost[numbers.len() - 1]))
        };
        let rounds = rounds(wanted, one, |&(_, lost)| lost).unwrap();
        (rounds, numbers)
    }

    #[test]
    fn a_round_measured_again_takes_the_place_of_the_same_number() {
        let (one, _) = run(1, &[0.0]);
        assert_eq!((one.kept, one.disturbed), (vec![(0, 0.0)], vec![]));
        let (three, numbers) = run(3, &[0.0, 0.25, 0.01, 0.3, 0.02]);
        assert_eq!(numbers, [0, 1, 2, 1, 1]);
        assert_eq!(three.kept, [(0, 0.0), (2, 0.01), (1, 0.02)]);
        assert_eq!(three.disturbed, [(1, 0.25), (1, 0.3)]);
    }

    #[test]
    fn where_it_is_never_quiet_the_least_disturbed_of_each_number_counts() {
        let (noisy, numbers) = run(2, &[0.5, 0.2, 0.4, 0.3]);
        assert_eq!(numbers, [0, 1, 0, 1]);
        assert_eq!(noisy.kept, [(1, 0.2), (0, 0.4)]);
        assert_eq!(noisy.disturbed, [(0, 0.5), (1, 0.3)]);
    }
}
