//! The image that all nodes of a world hold: bytes in memory, with holes.

use std::sync::Arc;

use diskstream_vdisk::{BlockHashes, FlatMap, FlatMapBuilder};
use diskstream_wire::ContentId;
use diskstream_wire::limits::UNIT_BYTES;

use crate::random::Random;

/// Content, its map and its hashes.
#[derive(Clone)]
pub struct SimImage {
    /// The bytes, filled up with zeros to a whole unit.
    pub padded: Arc<Vec<u8>>,
    /// Bytes of the image proper.
    pub size: usize,
    /// Where data lies.
    pub map: Arc<FlatMap>,
    /// What it hashes to.
    pub hashes: Arc<BlockHashes>,
}

impl SimImage {
    /// An image of `size` bytes: random content with holes of whole units, and units of zeros that are no holes.
    #[must_use]
    pub fn new(size: usize, random: &mut Random) -> SimImage {
        let units = size.div_ceil(UNIT_BYTES);
        let mut padded = vec![0u8; units * UNIT_BYTES];
        let mut map = FlatMapBuilder::new(size as u64);
        let mut unit = 0;
        while unit < units {
            let run = (random.index(40) + 1).min(units - unit);
            let range = unit * UNIT_BYTES..((unit + run) * UNIT_BYTES).min(size);
            match random.below(10) {
                0 | 1 => {}                                              // a hole
                2 => map.add_data(range.start as u64..range.end as u64), // zeros that the file holds
                _ => {
                    for word in padded[range.clone()].chunks_mut(8) {
                        word.copy_from_slice(&random.bits().to_le_bytes()[..word.len()]);
                    }
                    map.add_data(range.start as u64..range.end as u64);
                }
            }
            unit += run;
        }
        let hashes = Arc::new(BlockHashes::of(&padded[..size]));
        let map = Arc::new(map.finish());
        SimImage { padded: Arc::new(padded), size, map, hashes }
    }

    /// The same image, but for one byte of its data.
    ///
    /// # Panics
    /// When the image holds nothing but zeros.
    #[must_use]
    pub fn with_one_byte_changed(&self, random: &mut Random) -> SimImage {
        let mut padded = self.padded.to_vec();
        let first = random.index(self.size);
        let at = (first..self.size).chain(0..first).find(|&at| padded[at] != 0);
        padded[at.expect("an image has data")] ^= 1;
        let hashes = Arc::new(BlockHashes::of(&padded[..self.size]));
        SimImage { padded: Arc::new(padded), hashes, ..self.clone() }
    }

    /// What it is, as nodes and devices name it.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        ContentId(self.hashes.content_id().0)
    }
}
