//! When reads are due: an open loop. Reads are asked for by the clock and not by the answers, so that a stall cannot hide the
//! reads that would have been asked for meanwhile (coordinated omission).

use diskstream_device::driver::Member;
use diskstream_wire::Nanos;

/// Reads at evenly spread times; read `n` belongs to device `n` modulo their number, so each device has a phase of its own.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Nanos,
    end: Nanos,
    per_second: u64,
    devices: u64,
    next: u64,
}

impl Schedule {
    /// `per_second` reads of all devices together, from `start` up to, not including, `end`.
    ///
    /// # Panics
    /// Without devices or reads.
    #[must_use]
    pub fn new(devices: usize, per_second: u64, start: Nanos, end: Nanos) -> Schedule {
        assert!(devices > 0 && per_second > 0, "somebody reads something");
        Schedule { start, end, per_second, devices: devices as u64, next: 0 }
    }

    /// When the next read is due; none when the schedule is over.
    #[must_use]
    pub fn next_at(&self) -> Option<Nanos> {
        // Each time is computed from the start: no error adds up. 128 bits: a day of 20,000 reads/s passes 2^64.
        let offset = u128::from(self.next) * 1_000_000_000 / u128::from(self.per_second);
        let at = self.start + Nanos(u64::try_from(offset).unwrap_or(u64::MAX));
        (at < self.end).then_some(at)
    }

    /// The next read that is due by `now`, with the time for which it was scheduled.
    pub fn due(&mut self, now: Nanos) -> Option<(Member, Nanos)> {
        let at = self.next_at().filter(|&at| at <= now)?;
        let member = usize::try_from(self.next % self.devices).expect("below the devices' number");
        self.next += 1;
        Some((member, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn reads_are_spread_evenly_over_time_and_devices() {
        let mut schedule = Schedule::new(4, 20_000, Nanos(MS), Nanos(2 * MS));
        let all: Vec<_> = std::iter::from_fn(|| schedule.due(Nanos::NEVER)).collect();
        // 20 reads fall into the millisecond, 50 µs apart.
        assert_eq!(all.len(), 20);
        for (n, &(member, at)) in all.iter().enumerate() {
            assert_eq!((member, at), (n % 4, Nanos(MS + n as u64 * 50_000)));
        }
        assert_eq!((schedule.next, schedule.next_at()), (20, None));
    }

    #[test]
    fn the_rate_does_not_depend_on_the_devices() {
        for devices in [1, 250, 1000, 4000] {
            let mut schedule = Schedule::new(devices, 20_000, Nanos::ZERO, Nanos::from_secs(1));
            assert_eq!(std::iter::from_fn(|| schedule.due(Nanos::NEVER)).count(), 20_000);
        }
    }

    #[test]
    fn a_late_turn_gets_every_read_that_it_missed_with_its_own_time() {
        let mut schedule = Schedule::new(10, 1000, Nanos::ZERO, Nanos::from_secs(10));
        assert!(schedule.due(Nanos::ZERO).is_some());
        assert!(schedule.due(Nanos(MS - 1)).is_none());
        // The loop was held up for half a second.
        let late: Vec<_> = std::iter::from_fn(|| schedule.due(Nanos(500 * MS))).collect();
        assert_eq!(late.len(), 500);
        assert_eq!(late[0].1, Nanos(MS));
        assert_eq!(late[499].1, Nanos(500 * MS));
    }

    #[test]
    fn rounding_does_not_add_up() {
        // 30,000 a second do not divide a nanosecond's second evenly.
        let mut schedule = Schedule::new(3, 30_000, Nanos::ZERO, Nanos::from_secs(100));
        let last = std::iter::from_fn(|| schedule.due(Nanos::NEVER)).last().unwrap();
        assert_eq!(schedule.next, 3_000_000);
        assert!(Nanos::from_secs(100).since(last.1) < Nanos(33_400));
    }
}
