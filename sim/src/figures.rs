//! What is measured: stalls, moves, hedges.

use diskstream_wire::Nanos;
use serde::Serialize;

/// How long reads took: the longest, and how many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// The longest.
    pub longest: Nanos,
    /// How many.
    pub reads: u64,
}

impl Stalls {
    /// Counts a read.
    pub fn record(&mut self, took: Nanos) {
        self.longest = self.longest.max(took);
        self.reads += 1;
    }
}

/// What a world came to since its last mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Devices in the world.
    pub devices: usize,
    /// Reads that gave the right bytes; there are no others, or a judge had spoken.
    pub reads: u64,
    /// The longest wait of any device for a read, in milliseconds.
    pub stall_ms_max: f64,
    /// The same of all but the worst hundredth of the devices.
    pub stall_ms_p99: f64,
    /// The same of the median device.
    pub stall_ms_p50: f64,
    /// Moves to another node, or new sessions at the same.
    pub moves: u64,
    /// Devices that moved.
    pub devices_moved: usize,
    /// Moves without a cause in the world.
    pub unneeded_moves: u64,
    /// Milliseconds from the mark to the last move.
    pub all_moved_ms: f64,
    /// Milliseconds from the mark until every device had completed a read.
    pub all_reading_ms: f64,
    /// Reads that the standby was asked as well.
    pub hedged_reads: u64,
    /// Hedged reads in a million.
    pub hedged_ppm: u64,
    /// Reads that failed, where the scenario allows that.
    pub reads_failed: usize,
    /// Most sessions that any node held at once.
    pub sessions_peak: u64,
    /// Datagrams that devices sent in their worst 100 ms, for each read that they waited for or planned in that time (or for
    /// each device, where those are more).
    pub datagrams_per_read_peak: f64,
    /// Most logins that one node was asked for within a second, repeats included.
    pub logins_per_s_peak: u64,
}

impl Figures {
    /// Of each figure the worse.
    #[must_use]
    pub fn worse(&self, other: &Figures) -> Figures {
        Figures {
            devices: self.devices.max(other.devices),
            reads: self.reads.max(other.reads),
            stall_ms_max: self.stall_ms_max.max(other.stall_ms_max),
            stall_ms_p99: self.stall_ms_p99.max(other.stall_ms_p99),
            stall_ms_p50: self.stall_ms_p50.max(other.stall_ms_p50),
            moves: self.moves.max(other.moves),
            devices_moved: self.devices_moved.max(other.devices_moved),
            unneeded_moves: self.unneeded_moves.max(other.unneeded_moves),
            all_moved_ms: self.all_moved_ms.max(other.all_moved_ms),
            all_reading_ms: self.all_reading_ms.max(other.all_reading_ms),
            hedged_reads: self.hedged_reads.max(other.hedged_reads),
            hedged_ppm: self.hedged_ppm.max(other.hedged_ppm),
            reads_failed: self.reads_failed.max(other.reads_failed),
            sessions_peak: self.sessions_peak.max(other.sessions_peak),
            datagrams_per_read_peak: self
                .datagrams_per_read_peak
                .max(other.datagrams_per_read_peak),
            logins_per_s_peak: self.logins_per_s_peak.max(other.logins_per_s_peak),
        }
    }

    /// Hedged reads in percent.
    #[must_use]
    pub fn hedged_percent(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let ppm = self.hedged_ppm as f64;
        ppm / 10_000.0
    }
}

/// Milliseconds for people.
#[must_use]
pub fn ms(time: Nanos) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let micros = time.as_micros() as f64;
    micros / 1000.0
}

/// The value below which `percent` of the sorted values lie.
#[must_use]
pub fn percentile(sorted: &[Nanos], percent: usize) -> Nanos {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Nanos> = (1..=200).map(Nanos).collect();
        assert_eq!(percentile(&sorted, 50), Nanos(100));
        assert_eq!(percentile(&sorted, 99), Nanos(198));
        assert_eq!(percentile(&sorted, 100), Nanos(200));
        assert_eq!(percentile(&[], 99), Nanos::ZERO);
    }
}
