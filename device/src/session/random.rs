//! Unpredictable numbers from a seed: keyed BLAKE3 in counter mode. Deterministic, so the simulator can replay it.

use diskstream_wire::Nanos;

/// Bytes drawn at once. Derived: 32 request ids for one call of the hash.
const BLOCK_BYTES: usize = 256;

/// A stream of unpredictable bytes.
pub struct Random {
    key: [u8; 32],
    drawn: u64,
    block: [u8; BLOCK_BYTES],
    used: usize,
}

impl Random {
    pub fn new(seed: [u8; 32]) -> Random {
        Random { key: seed, drawn: 0, block: [0; BLOCK_BYTES], used: BLOCK_BYTES }
    }

    pub fn u64(&mut self) -> u64 {
        if self.used + 8 > BLOCK_BYTES {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            hasher.update(&self.drawn.to_le_bytes());
            hasher.finalize_xof().fill(&mut self.block);
            self.drawn += 1;
            self.used = 0;
        }
        let mut raw = [0u8; 8];
        raw.copy_from_slice(&self.block[self.used..self.used + 8]);
        self.used += 8;
        u64::from_le_bytes(raw)
    }

    /// A number that is not zero: zero means "none" in tags and ids.
    pub fn id(&mut self) -> u64 {
        self.u64().max(1)
    }

    pub fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0u8; 16];
        nonce[..8].copy_from_slice(&self.u64().to_le_bytes());
        nonce[8..].copy_from_slice(&self.u64().to_le_bytes());
        nonce
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: Nanos) -> Nanos {
        Nanos(self.u64() % bound.0.max(1))
    }

    /// Between 75 % and 125 % of `wait`, so that many devices do not act at once.
    pub fn jitter(&mut self, wait: Nanos) -> Nanos {
        let half = wait.0 / 2;
        let share = self.u64() % (half + 1);
        Nanos((wait.0 - half / 2).saturating_add(share))
    }

    /// `wait` and up to a quarter more: never sooner than a peer asked for.
    pub fn later(&mut self, wait: Nanos) -> Nanos {
        Nanos(wait.0.saturating_add(self.u64() % (wait.0 / 4 + 1)))
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").field("drawn", &self.drawn).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_others() {
        let draw = |seed| {
            let mut random = Random::new([seed; 32]);
            (0..100).map(|_| random.u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut all = draw(3);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100);
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let mut random = Random::new([7; 32]);
        let wait = Nanos::from_millis(100);
        for _ in 0..1000 {
            let jittered = random.jitter(wait);
            assert!(jittered >= Nanos::from_millis(75) && jittered <= Nanos::from_millis(125));
            let later = random.later(wait);
            assert!(later >= wait && later <= Nanos::from_millis(125));
        }
        assert_eq!(random.jitter(Nanos::ZERO), Nanos::ZERO);
    }
}
