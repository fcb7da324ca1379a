//! Which run goes on, and how long the rest takes, on standard error.

use std::io::Write as _;

use diskstream_wire::Nanos;

/// What a run takes beside its measurement until one has told: processes, logins, warm caches, the ramp. Measured: 4 to 9 s with
/// 250 devices.
const BESIDE: Nanos = Nanos::from_secs(8);

/// Counts runs and their time.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Runs in all, and those that are over.
    runs: u32,
    over: u32,
    /// Seconds of measurement that are still to come.
    left: Nanos,
    /// What the runs that are over took beside theirs.
    beside: Nanos,
}

impl Progress {
    /// Runs of these many seconds of measurement each.
    #[must_use]
    pub fn new(runs: impl IntoIterator<Item = u32>) -> Progress {
        let mut progress = Progress { runs: 0, over: 0, left: Nanos::ZERO, beside: Nanos::ZERO };
        for seconds in runs {
            progress.runs += 1;
            progress.left = progress.left + Nanos::from_secs(seconds.into());
        }
        progress
    }

    /// Says which run begins.
    pub fn begins(&self, what: &str) {
        let _ = writeln!(std::io::stderr(), "{}", self.line(what));
    }

    /// A run is over that took so long.
    pub fn ended(&mut self, seconds: u32, took: Nanos) {
        let planned = Nanos::from_secs(seconds.into());
        self.over += 1;
        self.left = self.left.since(planned);
        self.beside = self.beside + took.since(planned);
    }

    fn line(&self, what: &str) -> String {
        let left = self.remaining().as_millis().div_ceil(1000);
        let (minutes, seconds) = (left / 60, left % 60);
        format!("[{}/{}] {what}; about {minutes} min {seconds:02} s left", self.over + 1, self.runs)
    }

    /// What is left to measure, and beside each measurement what those before took.
    fn remaining(&self) -> Nanos {
        let each =
            if self.over == 0 { BESIDE } else { Nanos(self.beside.0 / u64::from(self.over)) };
        let runs = u64::from(self.runs.saturating_sub(self.over));
        Nanos(self.left.0.saturating_add(each.0.saturating_mul(runs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_told_by_what_runs_took_so_far() {
        let mut progress = Progress::new([10, 10, 60]);
        assert_eq!(progress.line("kill"), "[1/3] kill; about 1 min 44 s left");
        progress.ended(10, Nanos::from_secs(15));
        assert_eq!(progress.line("stop"), "[2/3] stop; about 1 min 20 s left");
        // A run that broke off took less than it was to measure.
        progress.ended(10, Nanos::from_secs(1));
        progress.ended(60, Nanos::from_secs(70));
        assert_eq!(progress.remaining(), Nanos::ZERO);
    }
}
