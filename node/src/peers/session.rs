//! What makes a recorded datagram powerless: incarnations, sequence numbers in a window, challenges.

use diskstream_wire::time::Nanos;

use super::limits::CHALLENGE_FOR;

/// Numbers below the highest one that are still told apart. Derived: a bit each in one word; a second of the busiest peer.
const WINDOW: u64 = 128;

/// Which sequence numbers came already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    highest: u64,
    /// Bit n: `highest` − n came.
    seen: u128,
}

impl Window {
    /// Everything up to `highest` counts as seen.
    pub(super) fn starting_at(highest: u64) -> Window {
        Window { highest, seen: u128::MAX }
    }

    /// Whether the number comes for the first time; notes that it came.
    pub(super) fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead >= WINDOW { 0 } else { self.seen << ahead };
            self.seen |= 1;
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= WINDOW || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// A random number that somebody is to echo: proof that an incarnation lives now. It is good once, and not drawn anew while
/// it is open, so that a replayed hello cannot put another in its place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Challenge {
    open: Option<(u64, Nanos)>,
}

impl Challenge {
    /// The open challenge, or a new one of `fresh`.
    pub(super) fn get(&mut self, now: Nanos, fresh: impl FnOnce() -> u64) -> u64 {
        match self.open {
            // The last second is not begun: the answer needs time, too.
            Some((number, drawn)) if now.since(drawn) + Nanos::from_secs(1) < CHALLENGE_FOR => {
                number
            }
            _ => {
                let number = fresh().max(1);
                self.open = Some((number, now));
                number
            }
        }
    }

    /// Whether `echo` answers the open challenge.
    pub(super) fn is_answered_by(&self, echo: u64, now: Nanos) -> bool {
        self.open.is_some_and(|(number, drawn)| number == echo && now.since(drawn) <= CHALLENGE_FOR)
    }

    /// No echo answers it any more.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}

/// So many in a second, and as many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    per_second: u64,
    /// In thousandths.
    tokens: u64,
    filled: Nanos,
}

impl Bucket {
    pub(super) fn full(per_second: u64, now: Nanos) -> Bucket {
        Bucket { per_second, tokens: per_second * 1000, filled: now }
    }

    pub(super) fn take(&mut self, now: Nanos) -> bool {
        let passed_ms = now.since(self.filled).as_millis();
        if passed_ms > 0 {
            let more = passed_ms.saturating_mul(self.per_second);
            self.tokens = self.tokens.saturating_add(more).min(self.per_second * 1000);
            self.filled = self.filled + Nanos::from_millis(passed_ms);
        }
        if self.tokens < 1000 {
            return false;
        }
        self.tokens -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_number_is_accepted_once_in_any_order() {
        let mut window = Window::starting_at(1000);
        assert!(!window.accept(1000) && !window.accept(1) && !window.accept(900));
        let mut seen = HashSet::new();
        // A walk that goes forward with jumps back, up to the window's width and past it.
        for step in 0u64..5000 {
            let sequence = 2001 + step * 3 - step * step % 120;
            assert_eq!(window.accept(sequence), seen.insert(sequence), "{sequence}");
        }
        let highest = *seen.iter().max().unwrap();
        assert!(!window.accept(highest - WINDOW), "too old to tell");
        assert!(window.accept(highest + 10 * WINDOW) && !window.accept(highest + 1));
        assert!(window.accept(u64::MAX) && !window.accept(u64::MAX));
    }

    #[test]
    fn a_challenge_stays_while_it_is_open_and_is_good_once() {
        let mut challenge = Challenge::default();
        let at = Nanos::from_secs;
        assert_eq!(challenge.get(at(10), || 7), 7);
        assert_eq!(challenge.get(at(13), || 8), 7, "a replayed hello changes nothing");
        assert!(challenge.is_answered_by(7, at(15)) && !challenge.is_answered_by(8, at(11)));
        assert!(!challenge.is_answered_by(7, at(16)), "too late");
        assert_eq!(challenge.get(at(14), || 9), 9, "too little time is left for the old one");
        challenge.close();
        assert!(!challenge.is_answered_by(9, at(14)));
        assert!(!Challenge::default().is_answered_by(0, at(0)));
    }

    #[test]
    fn a_bucket_fills_at_its_rate() {
        let mut bucket = Bucket::full(10, Nanos::ZERO);
        assert_eq!((0..100).filter(|_| bucket.take(Nanos::ZERO)).count(), 10);
        let taken = (0..1000).filter(|ms| bucket.take(Nanos::from_millis(*ms))).count();
        assert_eq!(taken, 9);
    }
}
