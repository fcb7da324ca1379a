//! Round-trip estimates (RFC 6298) and the time-outs that follow from them.

use diskstream_wire::Nanos;

use super::limits::{RTO_SLACK_MIN, RTT_ASSUMED};

/// A smoothed round trip and its variation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    measured: bool,
    smoothed: Nanos,
    variation: Nanos,
}

impl Rtt {
    /// Takes a sample. Repeated requests must be told apart by their attempt before (Karn's rule).
    pub fn sample(&mut self, rtt: Nanos) {
        if !self.measured {
            *self = Rtt { measured: true, smoothed: rtt, variation: Nanos(rtt.0 / 2) };
            return;
        }
        let error = self.smoothed.0.abs_diff(rtt.0);
        self.variation = Nanos(self.variation.0 - self.variation.0 / 4 + error / 4);
        self.smoothed = Nanos(self.smoothed.0 - self.smoothed.0 / 8 + rtt.0 / 8);
    }

    /// SRTT; an assumption until something was measured.
    pub fn smoothed(&self) -> Nanos {
        if self.measured { self.smoothed } else { RTT_ASSUMED }
    }

    /// RTTVAR.
    pub fn variation(&self) -> Nanos {
        if self.measured { self.variation } else { Nanos(RTT_ASSUMED.0 / 2) }
    }

    /// After this long without any answer, a request is asked for again.
    pub fn timeout(&self) -> Nanos {
        self.smoothed() + Nanos(self.variation().0.saturating_mul(4).max(RTO_SLACK_MIN.0))
    }

    /// SRTT + 4 × RTTVAR without any floor: an answer that takes longer is late, whatever the reason.
    pub fn bare_timeout(&self) -> Nanos {
        self.smoothed() + Nanos(self.variation().0.saturating_mul(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_round_trip_ends_at_the_floor() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(Nanos::from_micros(100));
        }
        assert_eq!(rtt.smoothed().as_micros(), 100);
        assert!(rtt.timeout() >= Nanos::from_millis(12) && rtt.timeout() < Nanos::from_millis(13));
    }

    #[test]
    fn jitter_widens_the_timeout() {
        let mut rtt = Rtt::default();
        for i in 0..100u64 {
            rtt.sample(Nanos::from_millis(10 + (i * 7) % 20));
        }
        assert!(rtt.timeout() > Nanos::from_millis(30), "{:?}", rtt.timeout());
    }
}
