//! An open loop: reads are asked for by the clock and not by the answers, so that a stall cannot hide the reads that would have
//! been asked for meanwhile (coordinated omission).
//!
//! Arrivals are a Poisson process: what many machines that know nothing of each other make together. Each arrival belongs to a
//! member (a device, a connection) chosen at random. A member that has as many reads outstanding as it may keeps further ones
//! in its queue; their latency counts from their arrival. No clock in here: time is an argument.

use std::collections::VecDeque;

use diskstream_wire::Nanos;

use crate::random::Random;

/// Reads that wait in all queues together: 16 MiB of them. Guessed: at 100,000 reads/s a member of twice the load of the server
/// gets there after 20 s. Beyond it reads are skipped and counted.
const QUEUED_MAX: usize = 1 << 20;
/// Between arrivals that are nearer than this, whoever drives the loop does not sleep: waking up takes as long. Guessed; waking
/// a halted virtual processor takes some 50 µs.
const SPIN: Nanos = Nanos::from_micros(100);

/// Reads that are due, and members that take them.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    random: Random,
    gap_ns: f64,
    /// The next arrival, in nanoseconds since the process began.
    next: f64,
    begins: Nanos,
    stopped: bool,
    depth: usize,
    members: Vec<Waiting>,
    queued: usize,
    skipped: u64,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    outstanding: usize,
    queue: VecDeque<Nanos>,
}

impl OpenLoop {
    /// `per_second` reads of all members together from `begins` on, at most `depth` of a member outstanding.
    ///
    /// # Panics
    /// Without members, reads or depth.
    #[must_use]
    pub fn new(
        members: usize,
        depth: usize,
        per_second: u32,
        begins: Nanos,
        seed: u64,
    ) -> OpenLoop {
        assert!(members > 0 && depth > 0 && per_second > 0, "somebody reads something");
        let mut all = OpenLoop {
            random: Random::new(seed),
            gap_ns: 1e9 / f64::from(per_second),
            next: 0.0,
            begins,
            stopped: false,
            depth,
            members: vec![Waiting::default(); members],
            queued: 0,
            skipped: 0,
        };
        all.advance();
        all
    }

    /// When the next read arrives; never after [`OpenLoop::stop`].
    #[must_use]
    pub fn next_at(&self) -> Nanos {
        if self.stopped {
            return Nanos::NEVER;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a sum of positive gaps; a run is over long before 2^53 ns"
        )]
        let since = Nanos(self.next as u64);
        self.begins + since
    }

    /// How long whoever drives this may sleep; none: not at all.
    #[must_use]
    pub fn rest(&self, now: Nanos) -> Option<Nanos> {
        let rest = self.next_at().since(now);
        (rest > SPIN).then_some(rest)
    }

    /// A read that arrived by `now` and whose member has room for it, with the time of its arrival. Those without room are queued.
    pub fn due(&mut self, now: Nanos) -> Option<(usize, Nanos)> {
        loop {
            let at = self.next_at();
            if at > now {
                return None;
            }
            self.advance();
            let index = usize::try_from(self.random.below(self.members.len() as u64))
                .expect("below the members' number");
            let member = &mut self.members[index];
            if member.outstanding < self.depth {
                member.outstanding += 1;
                return Some((index, at));
            }
            if self.queued < QUEUED_MAX {
                self.queued += 1;
                member.queue.push_back(at);
            } else {
                self.skipped += 1;
            }
        }
    }

    /// A member's read has ended. The next one of its queue, if there is one, takes the place.
    ///
    /// # Panics
    /// When none was outstanding.
    pub fn ended(&mut self, index: usize) -> Option<Nanos> {
        let member = &mut self.members[index];
        let next = member.queue.pop_front();
        if next.is_some() {
            self.queued -= 1;
        } else {
            member.outstanding = member.outstanding.checked_sub(1).expect("a read ends once");
        }
        next
    }

    /// No more reads arrive; those that wait are still to be asked for.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// When the reads that wait in queues arrived.
    pub fn waiting(&self) -> impl Iterator<Item = Nanos> {
        self.members.iter().flat_map(|member| member.queue.iter().copied())
    }

    /// Reads that arrived and were never asked for, because the queues were full.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn advance(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "53 bits of chance are plenty")]
        let unit = ((self.random.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        // `unit` is above 0 and at most 1: the gap is finite and not negative.
        self.next += -unit.ln() * self.gap_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_poisson_at_the_rate_and_spread_over_members() {
        let mut open = OpenLoop::new(10, usize::MAX, 50_000, Nanos::from_secs(3), 7);
        let mut by_member = [0u32; 10];
        let (mut last, mut gaps) = (Nanos::from_secs(3), Vec::new());
        while let Some((member, at)) = open.due(Nanos::from_secs(5)) {
            by_member[member] += 1;
            gaps.push(f64::from(u32::try_from(at.since(last).0).unwrap()));
            last = at;
        }
        let count = gaps.len();
        // 100,000 expected; the standard deviation of a Poisson count is its root, 316.
        assert!((98_400..101_600).contains(&count), "{count}");
        assert!(by_member.iter().all(|n| (9_500..10_500).contains(n)), "{by_member:?}");
        // Of exponential gaps, 1 in e is longer than the mean; paced ones would all be equal.
        let longer = gaps.iter().filter(|&&gap| gap > 20_000.0).count();
        assert!((36_000..37_600).contains(&longer), "{longer}");
    }

    #[test]
    fn a_read_without_room_waits_and_keeps_its_time() {
        let mut open = OpenLoop::new(1, 2, 1000, Nanos::ZERO, 1);
        let late = Nanos::from_millis(100);
        let asked: Vec<_> = std::iter::from_fn(|| open.due(late)).collect();
        assert_eq!(asked.len(), 2, "the depth");
        let waiting = open.waiting().count();
        assert!(waiting > 50, "{waiting}");
        open.stop();
        assert_eq!(open.next_at(), Nanos::NEVER);
        let mut last = asked[1].1;
        for _ in 0..waiting {
            let next = open.ended(0).unwrap();
            assert!(next > last && next <= late, "in the order of arrival, at its own time");
            last = next;
        }
        assert_eq!((open.ended(0), open.ended(0), open.waiting().count()), (None, None, 0));
        assert_eq!(open.skipped(), 0);
    }

    #[test]
    fn queues_are_bounded_and_what_does_not_fit_is_counted() {
        let mut open = OpenLoop::new(3, 1, 4_000_000, Nanos::ZERO, 1);
        while open.due(Nanos::from_secs(1)).is_some() {}
        assert_eq!(open.waiting().count(), QUEUED_MAX);
        assert!(open.skipped() > 2_900_000, "{}", open.skipped());
    }

    #[test]
    fn nobody_sleeps_between_near_arrivals() {
        let busy = OpenLoop::new(1, 1, 1_000_000, Nanos::ZERO, 1);
        assert_eq!(busy.rest(Nanos::ZERO), None);
        let idle = OpenLoop::new(1, 1, 1, Nanos::ZERO, 1);
        assert_eq!(idle.rest(Nanos::ZERO), Some(idle.next_at()));
    }
}
