//! How many fragments may be in flight on one path.
//!
//! Slow start from 10 (RFC 6928) with HyStart++'s way out of it (RFC 9406: the fastest answer of a round trip is slower by
//! 4 to 16 ms than that of the round before); then additive increase and a decrease by 0.7, which is what CUBIC does
//! where round trips are short (RFC 9438, 4.3). All devices run the same, so they share a link fairly. Loss counts once
//! per round trip. Above it all stands what the granted receive buffer holds, and what the node allows.
//!
//! A loss that was none (an answer to the earlier sending arrives after all) is undone, as in RFC 4015: a node or device
//! that did not run for some milliseconds says nothing about the path.
//!
//! The window grows only while it is used: a device that asks for little earns no burst.

use diskstream_wire::{FragmentSize, Nanos};

use super::limits::{
    WINDOW_FRAGMENTS_FIRST, WINDOW_FRAGMENTS_FLOOR, WINDOW_FRAGMENTS_MIN, receive_bytes,
};

/// Fixed point: the window counts in 1/1024 of a fragment.
const ONE: u64 = 1024;
/// Additive increase per round trip: 3 (1 − 0.7) / (1 + 0.7) fragments (RFC 9438, 4.3).
const INCREASE: u64 = 542;
/// Bounds of the rise in round trip that ends slow start (RFC 9406, 4.3).
const RISE_BOUNDS: (Nanos, Nanos) = (Nanos::from_millis(4), Nanos::from_millis(16));

/// The congestion window of one path.
#[derive(Clone, Debug)]
pub struct Window {
    /// In 1/1024 fragments.
    size: u64,
    /// Slow start ends here; in 1/1024 fragments.
    threshold: u64,
    /// What receive buffer and node allow, in fragments.
    ceiling: u32,
    /// Losses before this belong to the loss that was counted already.
    recovered_at: Nanos,
    /// Size and threshold before the last decrease, until something else is known.
    undo: Option<(u64, u64)>,
    /// The last decrease was for silence, not for a loss.
    was_silence: bool,
    round_ends: Nanos,
    round_least: Nanos,
    round_before: Nanos,
}

impl Window {
    pub fn new(ceiling: u32) -> Window {
        Window {
            size: u64::from(WINDOW_FRAGMENTS_FIRST) * ONE,
            threshold: u64::MAX,
            ceiling: ceiling.max(WINDOW_FRAGMENTS_MIN),
            recovered_at: Nanos::ZERO,
            undo: None,
            was_silence: false,
            round_ends: Nanos::ZERO,
            round_least: Nanos::NEVER,
            round_before: Nanos::NEVER,
        }
    }

    /// What a receive buffer of `buffer_bytes` holds of such datagrams.
    pub fn receive_ceiling(buffer_bytes: u32, size: FragmentSize) -> u32 {
        buffer_bytes / receive_bytes(size)
    }

    pub fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.max(WINDOW_FRAGMENTS_MIN);
    }

    /// The most that receive buffer and node allow.
    pub fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Fragments that may be in flight now.
    pub fn fragments(&self) -> u32 {
        u32::try_from(self.size / ONE).unwrap_or(u32::MAX).clamp(WINDOW_FRAGMENTS_MIN, self.ceiling)
    }

    /// A new or long idle path: begin small, remember nothing of the old one's limit but where it was.
    pub fn restart(&mut self) {
        self.size = self.size.min(u64::from(WINDOW_FRAGMENTS_FIRST) * ONE);
        self.round_least = Nanos::NEVER;
        self.round_before = Nanos::NEVER;
    }

    /// `count` fragments arrived while `in_flight` were outstanding, these included.
    pub fn arrived(&mut self, count: u32, in_flight: u32) {
        let fragments = self.fragments();
        if in_flight.saturating_mul(2) < fragments || fragments >= self.ceiling {
            return;
        }
        let count = u64::from(count);
        if self.size < self.threshold {
            self.size += count * ONE;
        } else {
            self.size += count * INCREASE * ONE / self.size.max(ONE);
        }
    }

    /// A round trip was measured.
    pub fn measured(&mut self, rtt: Nanos, smoothed: Nanos, now: Nanos) {
        if now >= self.round_ends {
            self.round_ends = now + smoothed;
            self.round_before = self.round_least;
            self.round_least = Nanos::NEVER;
        }
        self.round_least = self.round_least.earlier(rtt);
        if self.size < self.threshold && self.round_before != Nanos::NEVER {
            let rise = Nanos((self.round_before.0 / 8).clamp(RISE_BOUNDS.0.0, RISE_BOUNDS.1.0));
            if self.round_least > self.round_before + rise {
                self.threshold = self.size;
            }
        }
    }

    /// Fragments were lost; counts once per round trip.
    pub fn lost(&mut self, sent_at: Nanos, now: Nanos) {
        if sent_at < self.recovered_at {
            return;
        }
        self.recovered_at = now;
        self.was_silence = false;
        self.undo = Some((self.size, self.threshold));
        // No growth either: a window that was smaller for another reason stays so.
        let floor = (u64::from(WINDOW_FRAGMENTS_FLOOR) * ONE).min(self.size);
        self.size = (self.size.min(u64::from(self.ceiling) * ONE) * 7 / 10)
            .max(floor)
            .min(u64::from(self.ceiling) * ONE);
        self.threshold = self.size;
    }

    /// When the window was last decreased.
    pub fn decreased_at(&self) -> Nanos {
        self.recovered_at
    }

    /// What was held for lost at `lost_at` has arrived after all: if it caused the last decrease, that is undone.
    pub fn spurious(&mut self, lost_at: Nanos) {
        if lost_at == self.recovered_at
            && let Some((size, threshold)) = self.undo.take()
        {
            self.size = self.size.max(size);
            self.threshold = threshold;
        }
    }

    /// What was sent at `sent_at` was answered. If the path has fallen silent since, it was slow and nothing else.
    pub fn answered(&mut self, sent_at: Nanos) {
        if self.was_silence && sent_at < self.recovered_at {
            self.spurious(self.recovered_at);
        }
    }

    /// The path fell silent: whatever was known about it is void.
    pub fn silent(&mut self, now: Nanos) {
        self.was_silence = true;
        self.undo = Some((self.size, self.threshold));
        self.threshold = (self.size.min(u64::from(self.ceiling) * ONE) * 7 / 10)
            .max(u64::from(WINDOW_FRAGMENTS_FIRST) * ONE);
        self.size = u64::from(WINDOW_FRAGMENTS_MIN) * ONE;
        self.recovered_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_doubles_each_round_up_to_the_ceiling() {
        let mut window = Window::new(92);
        let mut seen = vec![window.fragments()];
        for _ in 0..6 {
            let flight = window.fragments();
            for _ in 0..flight {
                window.arrived(1, flight);
            }
            seen.push(window.fragments());
        }
        assert_eq!(seen, [10, 20, 40, 80, 92, 92, 92]);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new(1000);
        for _ in 0..1000 {
            window.arrived(1, 3);
        }
        assert_eq!(window.fragments(), 10);
    }

    #[test]
    fn loss_counts_once_per_round_trip_and_growth_is_linear_after_it() {
        let mut window = Window::new(1000);
        for _ in 0..90 {
            window.arrived(1, 100);
        }
        assert_eq!(window.fragments(), 100);
        let now = Nanos::from_millis(5);
        for _ in 0..10 {
            window.lost(Nanos::from_millis(4), now);
        }
        assert_eq!(window.fragments(), 70);
        window.lost(Nanos::from_millis(6), Nanos::from_millis(7));
        assert_eq!(window.fragments(), 49);
        for _ in 0..490 {
            window.arrived(1, 49);
        }
        assert!((53..=55).contains(&window.fragments()), "{}", window.fragments());
    }

    #[test]
    fn a_loss_that_was_none_is_undone_once() {
        let mut window = Window::new(1000);
        for _ in 0..90 {
            window.arrived(1, 100);
        }
        window.lost(Nanos::from_millis(4), Nanos::from_millis(5));
        assert_eq!(window.fragments(), 70);
        window.spurious(Nanos::from_millis(3));
        assert_eq!(window.fragments(), 70, "another loss");
        window.spurious(Nanos::from_millis(5));
        assert_eq!(window.fragments(), 100);
        window.silent(Nanos::from_millis(9));
        window.spurious(Nanos::from_millis(9));
        window.spurious(Nanos::from_millis(9));
        assert_eq!(window.fragments(), 100);
    }

    #[test]
    fn a_rising_round_trip_ends_slow_start() {
        let mut window = Window::new(10_000);
        let mut now = Nanos::ZERO;
        for round in 0..8u64 {
            let rtt = Nanos::from_millis(1 + 3 * round * round);
            let flight = window.fragments();
            for _ in 0..flight {
                window.arrived(1, flight);
                window.measured(rtt, rtt, now);
            }
            now = now + rtt;
        }
        assert!(window.fragments() < 400, "{}", window.fragments());
    }

    #[test]
    fn silence_begins_anew_below_the_first_window() {
        let mut window = Window::new(1000);
        for _ in 0..190 {
            window.arrived(1, 200);
        }
        window.silent(Nanos::from_secs(1));
        assert_eq!(window.fragments(), WINDOW_FRAGMENTS_MIN);
        window.restart();
        assert_eq!(window.fragments(), WINDOW_FRAGMENTS_MIN);
    }

    #[test]
    fn the_default_buffer_holds_what_was_measured() {
        assert_eq!(Window::receive_ceiling(212_992, FragmentSize::B1376), 92);
    }
}
