//! Random numbers from an injected seed: unguessable to whoever has not the seed, repeatable for whoever has.

/// A generator over keyed BLAKE3 in counter mode.
pub(crate) struct Random {
    key: [u8; 32],
    counter: u64,
    block: [u8; 64],
    used: usize,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Random {
        Random { key: seed, counter: 0, block: [0; 64], used: 64 }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.block.len() {
                let mut hasher = blake3::Hasher::new_keyed(&self.key);
                hasher.update(&self.counter.to_le_bytes());
                hasher.finalize_xof().fill(&mut self.block);
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            // What was handed out is forgotten.
            self.block[self.used] = 0;
            self.used += 1;
        }
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// `middle` with a jitter of a quarter to both sides.
    pub(crate) fn around(&mut self, middle: u32) -> u32 {
        let low = middle - middle / 4;
        let width = u64::from(middle / 2) + 1;
        low + u32::try_from(self.u64() % width).expect("less than a u32 of width")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_for_a_seed_and_stays_in_its_jitter() {
        let (mut a, mut b) = (Random::new([7; 32]), Random::new([7; 32]));
        let mut c = Random::new([8; 32]);
        let first: Vec<u64> = (0..40).map(|_| a.u64()).collect();
        assert!(first.iter().all(|&n| n == b.u64()) && first.iter().any(|&n| n != c.u64()));
        for _ in 0..1000 {
            assert!((7_500..=12_500).contains(&a.around(10_000)));
        }
        assert_eq!(a.around(0), 0);
    }
}
