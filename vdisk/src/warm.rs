//! What boots read of an image: `IMAGE.warm`, a list of blocks in the order of their first use, so that the next boot finds them in
//! memory.
//!
//! Only ever a hint: a list that is lost, damaged or of another content costs a slower boot, never a wrong byte, since what it
//! leads to is read and checked like everything else. So it is replaced whole, by the same steps as the sidecar
//! ([`crate::WriteStep`]), and thrown away when anything about it is odd.
//!
//! ```text
//! offset  bytes  field         all integers little-endian
//!      0      8  magic         "DSKWARM\n" (ours)
//!      8      4  version       1
//!     12      4  block_bytes   what the numbers count
//!     16     32  content_id    of the image
//!     48      4  count         n, at most 16384
//!     52     32  checksum      BLAKE3 of bytes 0..52 and of everything from 84 on
//!     84    8·n  blocks        number of the block: 4, weight: 4
//! ```
use crate::content::ContentId;
use crate::sidecar::{WriteStep, with_suffix, write_beside};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAGIC: [u8; 8] = *b"DSKWARM\n";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 52;
const HEADER_BYTES: usize = 84;
const ENTRY_BYTES: usize = 8;
const SUFFIX: &str = ".warm";

/// Blocks of a list at most: 1 GiB of 64 KiB blocks. Derived: a Windows boot to the desktop reads some hundred MiB.
pub const WARM_BLOCKS_MAX: usize = 16_384;
/// A block's weight at most: so many boots without it, and it is forgotten. Guessed: a version lives for weeks, and its devices boot
/// daily; what a week of boots has not read is not worth reading ahead.
const WEIGHT_MAX: u32 = 8;

/// What boots read of one content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmList {
    /// Block and weight, in the order of first use.
    blocks: Vec<(u32, u32)>,
}

/// Why a list was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is not a list, or not a whole one.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It was made by another version of this software.
    #[error("its layout has version {0}, unknown here")]
    Version(u32),
    /// It is of other bytes: the image was replaced since.
    #[error("it belongs to another content")]
    Foreign,
    /// It counts in blocks of another size: `--block` was changed since.
    #[error("it counts blocks of {0} bytes")]
    BlockBytes(u32),
}

impl WarmList {
    /// The blocks, in the order of their first use.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.blocks.iter().map(|&(block, _)| block)
    }

    /// True when nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Takes in what whole boots have read, in the order of first use: it comes first and gains weight; what they have not read loses
    /// some, and is forgotten when none is left. Of too many blocks the lightest are forgotten. Pure.
    pub fn learn(&mut self, read: &[u32]) {
        let old: HashMap<u32, u32> = self.blocks.iter().copied().collect();
        let mut known = HashSet::new();
        let mut blocks: Vec<(u32, u32)> = Vec::with_capacity(read.len() + self.blocks.len());
        for &block in read.iter().filter(|&&block| known.insert(block)) {
            let weight = old.get(&block).copied().unwrap_or(0);
            blocks.push((block, (weight + 1).min(WEIGHT_MAX)));
        }
        let unread =
            self.blocks.iter().filter(|(block, weight)| !known.contains(block) && *weight > 1);
        blocks.extend(unread.map(|&(block, weight)| (block, weight - 1)));
        self.take(blocks);
    }

    /// Takes in what parts of boots have read: it gains weight, and what is new comes last. That something was not read says nothing,
    /// and the order in which parts were read neither. Pure.
    pub fn learn_part(&mut self, read: &[u32]) {
        let mut blocks = std::mem::take(&mut self.blocks);
        let places: HashMap<u32, usize> = blocks.iter().map(|&(block, _)| block).zip(0..).collect();
        let mut known = HashSet::new();
        for &block in read.iter().filter(|&&block| known.insert(block)) {
            match places.get(&block) {
                Some(&place) => blocks[place].1 = (blocks[place].1 + 1).min(WEIGHT_MAX),
                None => blocks.push((block, 1)),
            }
        }
        self.take(blocks);
    }

    /// The list from here on; without the lightest, where they are too many.
    fn take(&mut self, mut blocks: Vec<(u32, u32)>) {
        if blocks.len() > WARM_BLOCKS_MAX {
            let mut weights: Vec<u32> = blocks.iter().map(|&(_, weight)| weight).collect();
            weights.sort_unstable_by(|a, b| b.cmp(a));
            let least = weights[WARM_BLOCKS_MAX - 1];
            let heavier = weights.iter().filter(|&&weight| weight > least).count();
            let mut room = WARM_BLOCKS_MAX - heavier;
            blocks.retain(|&(_, weight)| {
                let stays = weight > least || (weight == least && room > 0);
                room -= usize::from(stays && weight == least);
                stays
            });
        }
        self.blocks = blocks;
    }

    /// The list beside an image; none where there is none.
    ///
    /// # Errors
    /// [`WarmError`], when there is one that is of no use.
    pub fn load(
        image: &Path,
        content_id: ContentId,
        block_bytes: u32,
    ) -> Result<Option<WarmList>, WarmError> {
        // Non-blocking, as a pipe under this name must not hang the node.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(with_suffix(image, SUFFIX));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WarmError::Unreadable(error)),
        };
        if !file.metadata().map_err(WarmError::Unreadable)?.is_file() {
            return Err(WarmError::Unreadable(io::Error::other("it is not a file")));
        }
        // One byte more than the longest, so that a longer one shows.
        let most = HEADER_BYTES + WARM_BLOCKS_MAX * ENTRY_BYTES + 1;
        let mut encoded = Vec::new();
        file.take(most as u64).read_to_end(&mut encoded).map_err(WarmError::Unreadable)?;
        WarmList::decode(&encoded, content_id, block_bytes).map(Some)
    }

    /// Writes the list beside its image, atomically.
    ///
    /// # Errors
    /// The step that failed; the list of before is still there.
    pub fn save(
        &self,
        image: &Path,
        content_id: ContentId,
        block_bytes: u32,
    ) -> Result<(), (WriteStep, io::Error)> {
        let encoded = self.encode(content_id, block_bytes);
        write_beside(image, SUFFIX, &[&encoded], &mut |_| Ok(())).map(drop)
    }

    fn encode(&self, content_id: ContentId, block_bytes: u32) -> Vec<u8> {
        let count = u32::try_from(self.blocks.len()).expect("WARM_BLOCKS_MAX fits");
        let mut encoded = Vec::with_capacity(HEADER_BYTES + self.blocks.len() * ENTRY_BYTES);
        encoded.extend(MAGIC);
        encoded.extend(VERSION.to_le_bytes());
        encoded.extend(block_bytes.to_le_bytes());
        encoded.extend(content_id.0);
        encoded.extend(count.to_le_bytes());
        assert_eq!(encoded.len(), CHECKSUM_AT, "the layout above");
        encoded.extend([0; HEADER_BYTES - CHECKSUM_AT]);
        for (block, weight) in &self.blocks {
            encoded.extend(block.to_le_bytes());
            encoded.extend(weight.to_le_bytes());
        }
        let sum = checksum(&encoded);
        encoded[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum);
        encoded
    }

    /// Reads the bytes of a list. Whatever they are, the answer is a list or a reason.
    fn decode(
        encoded: &[u8],
        content_id: ContentId,
        block_bytes: u32,
    ) -> Result<WarmList, WarmError> {
        let Some((header, body)) = encoded.split_first_chunk::<HEADER_BYTES>() else {
            return Err(WarmError::Damaged("it is too short"));
        };
        if header[..8] != MAGIC {
            return Err(WarmError::Damaged("it does not start like one"));
        }
        let word = |at: usize| {
            let bytes = header[at..at + 4].try_into().expect("four bytes of the header");
            u32::from_le_bytes(bytes)
        };
        if word(8) != VERSION {
            return Err(WarmError::Version(word(8)));
        }
        let (entries, rest) = body.as_chunks::<ENTRY_BYTES>();
        if word(48) as usize != entries.len() || !rest.is_empty() || entries.len() > WARM_BLOCKS_MAX
        {
            return Err(WarmError::Damaged("its length is not what it says"));
        }
        if checksum(encoded) != header[CHECKSUM_AT..] {
            return Err(WarmError::Damaged("its checksum does not match"));
        }
        if header[16..48] != content_id.0 {
            return Err(WarmError::Foreign);
        }
        if word(12) != block_bytes {
            return Err(WarmError::BlockBytes(word(12)));
        }
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("half an entry"));
        let blocks =
            entries.iter().map(|e| (number(&e[..4]), number(&e[4..]).clamp(1, WEIGHT_MAX)));
        Ok(WarmList { blocks: blocks.collect() })
    }
}

fn checksum(encoded: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&encoded[..CHECKSUM_AT]);
    hasher.update(&encoded[HEADER_BYTES..]);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
