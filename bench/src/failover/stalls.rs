//! The arithmetic of stalls: per device the longest time from a read's scheduled moment to its last byte, before and after the
//! event, and percentiles over devices.

use diskstream_device::driver::Member;
use diskstream_wire::Nanos;

/// Width of the bins of the time series.
pub const BIN: Nanos = Nanos::from_millis(50);

/// What is kept of the reads of a run.
#[derive(Clone, Debug)]
pub struct Stalls {
    opens: Nanos,
    event: Nanos,
    before: Vec<Nanos>,
    after: Vec<Nanos>,
    /// When each device's last read was completed, and the longest such gap after the event.
    last: Vec<Nanos>,
    gaps: Vec<Nanos>,
    bins: Vec<Bin>,
}

/// 50 ms of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Reads completed.
    pub reads: u32,
    /// The longest stall among them.
    pub stall: Nanos,
    /// Devices that moved.
    pub moves: u32,
}

/// Percentiles over devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The longest stall of any device.
    pub max: Nanos,
    /// 99 of 100 devices had none longer.
    pub p99: Nanos,
    /// Half of them.
    pub p50: Nanos,
}

impl Stalls {
    /// Nothing read yet. Reads that end before `opens` do not count; what ends from `event` on is the event's.
    #[must_use]
    pub fn new(devices: usize, opens: Nanos, event: Nanos, closes: Nanos) -> Stalls {
        let bins = usize::try_from(closes.since(opens).0.div_ceil(BIN.0)).expect("days of bins");
        Stalls {
            opens,
            event,
            before: vec![Nanos::ZERO; devices],
            after: vec![Nanos::ZERO; devices],
            last: vec![Nanos::ZERO; devices],
            gaps: vec![Nanos::ZERO; devices],
            bins: vec![Bin::default(); bins],
        }
    }

    /// A read that was scheduled for then has ended now. One that was asked for before the event and ends after it belongs
    /// to the event, with its whole time.
    pub fn ended(&mut self, member: Member, scheduled: Nanos, now: Nanos) {
        if now < self.opens {
            return;
        }
        let stall = now.since(scheduled);
        let longest =
            if now < self.event { &mut self.before[member] } else { &mut self.after[member] };
        *longest = stall.max(*longest);
        if now >= self.event && self.last[member] != Nanos::ZERO {
            self.gaps[member] = self.gaps[member].max(now.since(self.last[member]));
        }
        self.last[member] = now;
        if let Some(bin) = self.bin(now) {
            bin.reads += 1;
            bin.stall = bin.stall.max(stall);
        }
    }

    /// A read that had not ended when nobody waited for it any longer: its stall is at least that long.
    pub fn never_ended(&mut self, member: Member, scheduled: Nanos, now: Nanos) {
        let longest = &mut self.after[member];
        *longest = now.since(scheduled).max(*longest);
        self.gaps[member] = self.gaps[member].max(now.since(self.last[member].max(self.opens)));
    }

    /// A device went to another node.
    pub fn moved(&mut self, now: Nanos) {
        if let Some(bin) = self.bin(now) {
            bin.moves += 1;
        }
    }

    fn bin(&mut self, now: Nanos) -> Option<&mut Bin> {
        let index = usize::try_from(now.since(self.opens).0 / BIN.0).ok()?;
        self.bins.get_mut(index).filter(|_| now >= self.opens)
    }

    /// The time series.
    #[must_use]
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// After the event.
    #[must_use]
    pub fn after(&self) -> Figures {
        Figures::of(&self.after)
    }

    /// Before the event.
    #[must_use]
    pub fn before(&self) -> Figures {
        Figures::of(&self.before)
    }

    /// Longest time between two completed reads of a device, the later of them after the event.
    #[must_use]
    pub fn gap_max(&self) -> Nanos {
        self.gaps.iter().copied().max().unwrap_or_default()
    }
}

impl Figures {
    /// Of the longest stall of each device.
    #[must_use]
    pub fn of(longest: &[Nanos]) -> Figures {
        let mut sorted = longest.to_vec();
        sorted.sort_unstable();
        Figures {
            max: sorted.last().copied().unwrap_or_default(),
            p99: nearest_rank(&sorted, 99),
            p50: nearest_rank(&sorted, 50),
        }
    }
}

/// The smallest value that at least `percent` of a hundred do not exceed (nearest rank: always one that was measured).
fn nearest_rank(sorted: &[Nanos], percent: usize) -> Nanos {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    /// Opens at 1 s, event at 2 s, closes at 3 s.
    fn stalls(devices: usize) -> Stalls {
        Stalls::new(devices, ms(1000), ms(2000), ms(3000))
    }

    #[test]
    fn a_stall_counts_from_the_scheduled_time_wherever_it_was_issued() {
        let mut s = stalls(2);
        // Scheduled long before the event, ended after: the event's, whole.
        s.ended(0, ms(1900), ms(2300));
        // Reads that came due during the stall and were all answered at once at its end.
        for due in [1950, 2000, 2100, 2200] {
            s.ended(0, ms(due), ms(2300));
        }
        s.ended(1, ms(2400), ms(2401));
        assert_eq!(s.after(), Figures { max: ms(400), p99: ms(400), p50: ms(1) });
        assert_eq!(s.before().max, Nanos::ZERO);
    }

    #[test]
    fn the_window_before_the_event_is_apart_and_the_ramp_does_not_count() {
        let mut s = stalls(1);
        s.ended(0, ms(100), ms(900));
        assert_eq!((s.before().max, s.after().max), (Nanos::ZERO, Nanos::ZERO));
        s.ended(0, ms(990), ms(1005));
        s.ended(0, ms(1980), ms(1999));
        s.ended(0, ms(2000), ms(2003));
        assert_eq!((s.before().max, s.after().max), (ms(19), ms(3)));
    }

    #[test]
    fn a_read_that_never_ends_is_as_long_as_it_was_waited_for() {
        let mut s = stalls(1);
        s.ended(0, ms(1998), ms(1999));
        s.never_ended(0, ms(2010), ms(8000));
        assert_eq!(s.after().max, ms(5990));
        assert_eq!(s.gap_max(), ms(6001));
    }

    #[test]
    fn gaps_span_the_event() {
        let mut s = stalls(2);
        s.ended(0, ms(1100), ms(1101));
        s.ended(0, ms(1990), ms(1991));
        assert_eq!(s.gap_max(), Nanos::ZERO, "gaps before the event are not its");
        s.ended(0, ms(2200), ms(2250));
        s.ended(1, ms(2400), ms(2401));
        assert_eq!(s.gap_max(), ms(259));
    }

    #[test]
    fn percentiles_are_by_nearest_rank_over_devices() {
        let of = |n: u64| Figures::of(&(1..=n).map(ms).collect::<Vec<_>>());
        assert_eq!(of(100), Figures { max: ms(100), p99: ms(99), p50: ms(50) });
        assert_eq!(of(1000), Figures { max: ms(1000), p99: ms(990), p50: ms(500) });
        assert_eq!(of(1), Figures { max: ms(1), p99: ms(1), p50: ms(1) });
        assert_eq!(of(3), Figures { max: ms(3), p99: ms(3), p50: ms(2) });
        assert_eq!(Figures::of(&[]), Figures::default());
    }

    #[test]
    fn bins_hold_what_ended_in_them() {
        let mut s = stalls(1);
        s.ended(0, ms(900), ms(999));
        s.ended(0, ms(990), ms(1000));
        s.ended(0, ms(1049), ms(1049));
        s.ended(0, ms(1049), ms(1050));
        s.moved(ms(1051));
        s.ended(0, ms(1000), ms(4000));
        assert_eq!(s.bins().len(), 40);
        assert_eq!(s.bins()[0], Bin { reads: 2, stall: ms(10), moves: 0 });
        assert_eq!(s.bins()[1], Bin { reads: 1, stall: ms(1), moves: 1 });
        assert_eq!(s.bins().iter().map(|b| b.reads).sum::<u32>(), 3, "the last came after the end");
    }
}
