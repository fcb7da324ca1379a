//! Room for datagram headers inside the arena's pieces.
//!
//! A send that the kernel does not copy names one registered buffer, and so its headers must lie in the same piece as the
//! blocks. Each piece therefore keeps an area for each ring, which no block may use, at its beginning: the kernel charges a
//! fragment for all that is before it in its huge page (`ring/zero_copy.rs`), and a header is many fragments.
//!
//! ```text
//! piece   | area 0 | … | area n-1 | frames …                               |
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::PIECE_BYTES;

/// Bytes of one ring's area in each piece: 64 sends with 1 KiB of headers each.
pub const AREA_BYTES: usize = 64 * 1024;
/// Areas at most, hence rings that send without a copy: as many as a node has shards.
pub const AREAS_MAX: u16 = 64;
/// A piece gives up at most this part of itself; a shorter one keeps no areas. Guessed.
const PART_MAX: usize = 16;

/// Where the areas are, and which of them rings have.
#[derive(Debug, Default)]
pub(super) struct Headers {
    areas: u16,
    claimed: AtomicU64,
}

impl Headers {
    pub(super) fn new(areas: u16) -> Headers {
        Headers { areas: areas.min(AREAS_MAX), claimed: AtomicU64::new(0) }
    }

    /// The part of piece `piece` of an arena of `len` bytes that blocks may not use.
    pub(super) fn reserved(&self, len: usize, piece: usize) -> Range<usize> {
        let start = piece * PIECE_BYTES;
        let end = len.min(start + PIECE_BYTES);
        let bytes = usize::from(self.areas) * AREA_BYTES;
        let fits = start < end && bytes * PART_MAX <= end - start;
        if fits { start..start + bytes } else { start..start }
    }

    /// Where an area begins in a piece; `None` where that piece has none.
    pub(super) fn area(&self, len: usize, piece: usize, area: u16) -> Option<usize> {
        let reserved = self.reserved(len, piece);
        (area < self.areas && !reserved.is_empty())
            .then(|| reserved.start + usize::from(area) * AREA_BYTES)
    }

    /// An area that no other ring has.
    pub(super) fn claim(&self) -> Option<u16> {
        let mut claimed = self.claimed.load(Ordering::Relaxed);
        loop {
            let free = u16::try_from(claimed.trailing_ones()).expect("64 at most");
            if free >= self.areas {
                return None;
            }
            // Acquire: pairs with the release of whoever had it; its sends are over.
            match self.claimed.compare_exchange_weak(
                claimed,
                claimed | 1 << free,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(free),
                Err(now) => claimed = now,
            }
        }
    }

    pub(super) fn release(&self, area: u16) {
        // Release: pairs with the acquire of the next claim.
        let before = self.claimed.fetch_and(!(1 << area), Ordering::Release);
        assert!(before & (1 << area) != 0, "an area is given back once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_lie_at_the_beginning_of_each_piece_and_apart() {
        let headers = Headers::new(3);
        let len = PIECE_BYTES + (8 << 20);
        for piece in 0..2 {
            let reserved = headers.reserved(len, piece);
            assert_eq!(reserved.start, [0, PIECE_BYTES][piece]);
            assert_eq!(reserved.len(), 3 * AREA_BYTES);
            let starts: Vec<_> =
                (0..3).map(|area| headers.area(len, piece, area).unwrap()).collect();
            assert_eq!(headers.area(len, piece, 3), None);
            assert_eq!(starts, reserved.step_by(AREA_BYTES).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_small_piece_keeps_its_bytes() {
        let headers = Headers::new(3);
        assert!(headers.reserved(1 << 20, 0).is_empty());
        assert_eq!(headers.area(1 << 20, 0, 0), None);
        assert!(Headers::default().reserved(1 << 30, 0).is_empty());
    }

    #[test]
    fn an_area_has_one_owner() {
        let headers = Headers::new(2);
        assert_eq!((headers.claim(), headers.claim(), headers.claim()), (Some(0), Some(1), None));
        headers.release(0);
        assert_eq!(headers.claim(), Some(0));
        assert_eq!(Headers::new(u16::MAX).areas, AREAS_MAX);
    }
}
