//! A time in four bytes, for what is asked about it: how long ago that was, to a sixtieth of a second.

use diskstream_wire::time::Nanos;

/// A time of not more than two years ago, in steps of 2^24 ns (16.8 ms). Only distances mean something: it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u32);

const STEP_BITS: u32 = 24;

impl Moment {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "it wraps, and distances survive that")]
    pub(super) fn at(now: Nanos) -> Moment {
        Moment((now.0 >> STEP_BITS) as u32)
    }

    /// How long ago that was; zero for what is to come.
    #[inline]
    pub(super) fn ago(self, now: Nanos) -> Nanos {
        let steps = Moment::at(now).0.wrapping_sub(self.0);
        if steps > u32::MAX / 2 { Nanos::ZERO } else { Nanos(u64::from(steps) << STEP_BITS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_right_to_a_step_also_across_the_wrap() {
        let wrap = 1u64 << (32 + STEP_BITS);
        for start in [0, 5_000_000_000, wrap - 1, wrap - 3_000_000_000, 7 * wrap] {
            for ago in [0, 1, 20_000_000, 5_000_000_000, 100_000_000_000, 86_400_000_000_000] {
                let got = Moment::at(Nanos(start)).ago(Nanos(start + ago)).0;
                assert!(got.abs_diff(ago) < 1 << STEP_BITS, "{start} {ago} {got}");
            }
            assert_eq!(Moment::at(Nanos(start + 1_000_000_000)).ago(Nanos(start)), Nanos::ZERO);
        }
    }
}
