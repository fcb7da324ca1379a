//! A boot as it was recorded: what one device read, and when.
//!
//! The file has a line for each read, `time_ms,offset,length`, in order of time. A machine that boots asks for the next thing when
//! it has the one before and has thought about it. So the time between two lines is taken as **think time after the answer**: a
//! device asks for a line's bytes that long after all bytes of the line before it have arrived. (The recorded gap also holds the time
//! that the recorded disk took, so a replay at the speed of the boot is never quicker than that was.) Lines with the same time were
//! asked for together, and are asked for together here.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use diskstream_device::session::limits::{READ_CALL_BYTES_MAX, READS_MAX};
use diskstream_wire::Nanos;
use diskstream_wire::limits::UNIT_BYTES;

/// The first line.
const HEAD: &str = "time_ms,offset,length";
/// Bytes of a trace at most: some two million lines. Guessed; the boot that is shipped has 879 lines in 20 KB.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// No vDisk ends later.
const OFFSET_MAX: u64 = 1 << 50;
/// Reads that a device asks for together at most: it takes no more at once.
const TOGETHER_MAX: usize = READS_MAX;
const UNIT: u64 = UNIT_BYTES as u64;

/// One read as a device asks for it: whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: usize,
}

/// Reads that are asked for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Time from the last answer of the step before (from the login for the first one).
    pub think: Nanos,
    /// Which reads.
    pub reads: Range<usize>,
}

/// A boot.
#[derive(Clone, Debug)]
pub struct Trace {
    /// All reads, in order.
    pub reads: Vec<Read>,
    /// How they follow each other.
    pub steps: Vec<Step>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line is no read; with the line's number.
    pub fn load(path: &Path) -> anyhow::Result<Trace> {
        let file =
            fs::File::open(path).with_context(|| format!("opening --trace {}", path.display()))?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("reading --trace {}", path.display()))?;
        ensure!(
            text.len() as u64 <= FILE_BYTES_MAX,
            "--trace {}: longer than {} MiB; a boot is some thousand lines",
            path.display(),
            FILE_BYTES_MAX >> 20
        );
        Trace::parse(&text).with_context(|| format!("--trace {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Trace> {
        let mut lines = text.lines();
        ensure!(lines.next().is_some_and(|head| head.trim() == HEAD), "line 1 must be `{HEAD}`");
        let mut trace = Trace { reads: Vec::new(), steps: Vec::new() };
        let mut before = Nanos::ZERO;
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = number + 2;
            let Some((time, offset, length)) = fields(line) else {
                bail!("line {number} is no `{HEAD}`: {line}");
            };
            ensure!(time >= before, "line {number} is earlier than the line before it");
            ensure!(length > 0, "line {number} reads nothing");
            let end = offset.checked_add(length).filter(|&end| end <= OFFSET_MAX);
            let Some(end) = end else { bail!("line {number} ends beyond any vDisk") };
            trace.push(time.since(before), offset, end);
            before = time;
        }
        ensure!(!trace.reads.is_empty(), "it has no reads");
        Ok(trace)
    }

    /// Adds a line: in whole units, and in as many reads as a device needs for it.
    fn push(&mut self, gap: Nanos, offset: u64, end: u64) {
        let end = end.next_multiple_of(UNIT);
        let mut at = offset / UNIT * UNIT;
        let mut gap = gap;
        while at < end {
            let length = (end - at).min(READ_CALL_BYTES_MAX as u64);
            let index = self.reads.len();
            let length = usize::try_from(length).expect("at most 32 MiB");
            self.reads.push(Read { offset: at, length });
            at += length as u64;
            match self.steps.last_mut() {
                Some(step) if gap == Nanos::ZERO && step.reads.len() < TOGETHER_MAX => {
                    step.reads.end += 1;
                }
                _ => self.steps.push(Step { think: gap, reads: index..index + 1 }),
            }
            gap = Nanos::ZERO;
        }
    }

    /// Its think times divided by `speed`.
    #[must_use]
    pub fn at_speed(mut self, speed: f64) -> Trace {
        for step in &mut self.steps {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a time of some seconds divided by a positive number; `as` saturates"
            )]
            let think = (step.think.0 as f64 / speed) as u64;
            step.think = Nanos(think);
        }
        self
    }

    /// All think times together: a boot takes at least as long.
    #[must_use]
    pub fn think(&self) -> Nanos {
        self.steps.iter().fold(Nanos::ZERO, |sum, step| sum + step.think)
    }

    /// Bytes that a device reads, repeats included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|read| read.length as u64).sum()
    }

    /// End of the last byte that is read: the vDisk must have as many.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.reads.iter().map(|read| read.offset + read.length as u64).max().unwrap_or(0)
    }

    /// Bytes of the blocks of this size that it touches, each counted once; the image's last block may be short.
    #[must_use]
    pub fn unique_bytes(&self, block: u64, image_bytes: u64) -> u64 {
        let touched = |read: &Read| {
            let last = read.offset + read.length as u64 - 1;
            read.offset / block..=last / block
        };
        let blocks: BTreeSet<u64> = self.reads.iter().flat_map(touched).collect();
        blocks.iter().map(|index| block.min(image_bytes.saturating_sub(index * block))).sum()
    }
}

/// Time, offset and length of a line.
fn fields(line: &str) -> Option<(Nanos, u64, u64)> {
    let mut fields = line.split(',').map(str::trim);
    let time_ms: f64 = fields.next()?.parse().ok()?;
    let (offset, length) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let sound = fields.next().is_none() && (0.0..1e9).contains(&time_ms);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below 10^15 and not negative, as the filter says"
    )]
    sound.then(|| (Nanos((time_ms * 1e6).round() as u64), offset, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> Result<Trace, String> {
        Trace::parse(&format!("{HEAD}\n{lines}")).map_err(|e| e.to_string())
    }

    #[test]
    fn gaps_are_think_times_and_equal_times_go_together() {
        let trace = parse("2,0,4096\n2,8192,4096\n5.5,4096,4096\n\n5.5,65536,4096\n").unwrap();
        let thinks: Vec<_> = trace.steps.iter().map(|s| (s.think.0, s.reads.clone())).collect();
        assert_eq!(thinks, [(2_000_000, 0..2), (3_500_000, 2..4)]);
        assert_eq!(trace.think(), Nanos(5_500_000));
        assert_eq!(trace.at_speed(2.0).think(), Nanos(2_750_000));
    }

    #[test]
    fn reads_are_whole_units_no_longer_than_a_device_takes() {
        let trace = parse("0,100,1\n1,4095,2\n2,4096,67108865\n").unwrap();
        let lengths: Vec<_> = trace.reads.iter().map(|r| (r.offset, r.length)).collect();
        let long = READ_CALL_BYTES_MAX;
        let rest = [(4096, long), (4096 + long as u64, long), (4096 + 2 * long as u64, 4096)];
        assert_eq!(lengths, [&[(0, 4096), (0, 8192)][..], &rest].concat());
        assert_eq!(trace.steps.last().unwrap().reads, 2..5);
        assert_eq!(trace.end(), 4096 + (64 << 20) + 4096);
    }

    #[test]
    fn a_block_counts_once_and_the_last_one_is_as_long_as_the_image_lets_it() {
        let trace = parse("0,0,4096\n1,4096,8192\n2,61440,8192\n3,196608,4096\n").unwrap();
        assert_eq!(trace.unique_bytes(4096, 1 << 20), 6 * 4096);
        assert_eq!(trace.unique_bytes(65_536, 1 << 20), 3 * 65_536);
        assert_eq!(trace.unique_bytes(65_536, 200_704), 2 * 65_536 + 4096);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for (lines, words) in [
            ("", "no reads"),
            ("0,0\n", "line 2"),
            ("0,0,4096\nx,0,4096\n", "line 3"),
            ("0,0,4096,1\n", "line 2"),
            ("NaN,0,4096\n", "line 2"),
            ("-1,0,4096\n", "line 2"),
            ("0,0,4096\n5,0,0\n", "line 3 reads nothing"),
            ("5,0,4096\n4,0,4096\n", "line 3 is earlier"),
            ("5,18446744073709551615,4096\n", "line 2 ends beyond"),
            ("5,0,1125899906842625\n", "line 2 ends beyond"),
        ] {
            let error = parse(lines).unwrap_err();
            assert!(error.contains(words), "{lines:?} gave: {error}");
        }
        assert!(Trace::parse("offset\n").unwrap_err().to_string().contains("line 1"));
    }
}
