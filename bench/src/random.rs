//! A small seeded generator: the same seed gives the same run.

/// xorshift64*: quick, and good enough to choose offsets and losses (Vigna, "An experimental exploration of Marsaglia's
/// xorshift generators, scrambled", 2016). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed; every seed gives a usable one.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        // A state of zero would stay zero; the odd constant (2^64 divided by the golden ratio) spreads small seeds.
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no division, a bias below 2^-32 for the bounds used here.
        u64::try_from((u128::from(self.bits()) * u128::from(bound)) >> 64)
            .expect("the high half fits")
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "53 bits of chance are plenty")]
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_meets_its_probability() {
        let mut random = Random::new(7);
        let hits = (0..100_000).filter(|_| random.chance(0.02)).count();
        assert!((1_700..2_300).contains(&hits), "{hits} of 100,000 at 2 %");
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut random = Random::new(3);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[usize::try_from(random.below(10)).unwrap()] = true;
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(random.below(0), 0);
    }
}
