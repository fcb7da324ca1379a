//! How fast a shard sends: a token bucket, so that a fleet's burst does not overflow a queue behind this host.
//!
//! The card sends what it is given as fast as its link is. Where a switch's way on to the devices is slower (a rack's uplink,
//! many nodes that send to one port), what does not fit its queue is lost, and each loss costs a device a round trip and more.
//! The bucket fills with the configured rate and holds [`Pace::burst`] bytes; a session's turn may overdraw it, and the next
//! one waits until it is level again. Which session is next is for the round to decide (`serve.rs`), so the rate is shared
//! as fairly as everything else.

use diskstream_wire::time::Nanos;

/// Time whose bytes may leave at once. Derived: the kernel wakes a thread up to 50 µs late (timer slack), and what would have been
/// sent meanwhile must not be lost.
const BURST: Nanos = Nanos::from_micros(200);
/// Bytes that may always leave at once: one send, or a slow pace would never send any. Derived: the largest send.
const BURST_BYTES_MIN: u64 = 64 * 1024;

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes in a second; `None`: no bound.
    rate: Option<u64>,
    /// What may leave now; below zero after a turn that sent more.
    tokens: i64,
    filled: Nanos,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Pace {
        // A rate of nothing would never end a read.
        let rate = bytes_per_second.map(|rate| rate.max(1));
        Pace { rate, tokens: 0, filled: Nanos::ZERO }
    }

    /// Bytes that the bucket holds.
    fn burst(rate: u64) -> u64 {
        over(rate, BURST).max(BURST_BYTES_MIN)
    }

    /// Fills the bucket for the time that has passed.
    pub(super) fn fill(&mut self, now: Nanos) {
        let Some(rate) = self.rate else { return };
        let burst = i64::try_from(Pace::burst(rate)).unwrap_or(i64::MAX);
        let added = over(rate, now.since(self.filled));
        if added > 0 || self.filled == Nanos::ZERO {
            // Only for whole bytes, or many short turns would add nothing.
            self.filled = now;
            let added = i64::try_from(added).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_add(added).min(burst);
        }
    }

    /// Whether a session may take its turn now.
    pub(super) fn may_send(&self) -> bool {
        self.rate.is_none() || self.tokens > 0
    }

    /// That many bytes have left.
    pub(super) fn sent(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.tokens = self.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// When the next turn may be taken, after one that might not. Half a burst later than level, so that a wake-up is worth it.
    pub(super) fn due(&self) -> Nanos {
        let Some(rate) = self.rate else { return Nanos::ZERO };
        let missing = u64::try_from(1 - self.tokens.min(0)).unwrap_or(u64::MAX);
        let wanted = u128::from(missing) + u128::from(over(rate, BURST) / 4);
        let wait = wanted * 1_000_000_000 / u128::from(rate);
        self.filled + Nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// Bytes at a rate in a time.
fn over(rate: u64, time: Nanos) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(time.0) / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
