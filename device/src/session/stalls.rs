//! How long callers waited: what people ask after a move.

use std::net::SocketAddr;

use diskstream_wire::Nanos;

use super::event::MoveCause;

/// Upper ends of the histogram's buckets in milliseconds; the last bucket has none.
pub const STALL_BUCKETS_MS: [u64; 14] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// How long reads took, from the caller's call to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stalls {
    /// Reads by time, each in one bucket.
    pub counts: [u64; STALL_BUCKETS_MS.len() + 1],
    /// The longest since the start.
    pub longest: Nanos,
}

impl Stalls {
    /// A read took this long.
    #[inline]
    pub fn record(&mut self, time: Nanos) {
        // Nearly all reads end in the first bucket.
        let bucket = STALL_BUCKETS_MS.iter().position(|&ms| time <= Nanos::from_millis(ms));
        self.counts[bucket.unwrap_or(STALL_BUCKETS_MS.len())] += 1;
        self.longest = self.longest.max(time);
    }
}

/// The last change of node.
#[derive(Clone, Copy, Debug)]
pub struct LastMove {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub cause: MoveCause,
    /// How long the oldest read had waited.
    pub stall: Nanos,
    pub at: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_read_is_in_the_bucket_of_its_time() {
        let mut stalls = Stalls::default();
        for us in [10, 1000, 1001, 250_000, 40_000_000] {
            stalls.record(Nanos::from_micros(us));
        }
        let mut expected = [0; STALL_BUCKETS_MS.len() + 1];
        expected[0] = 2;
        expected[1] = 1;
        expected[8] = 1;
        expected[14] = 1;
        assert_eq!(stalls.counts, expected);
        assert_eq!(stalls.longest, Nanos::from_secs(40));
    }
}
