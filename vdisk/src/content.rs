//! What an image's bytes must be: the content id, and a hash for each 64 KiB of it.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB. A block of 64 KiB that starts at a multiple of
//! 64 KiB is a whole subtree, so its *chaining value* can be computed alone, in any order and on
//! any core, and the chaining values combine to the root, which is the hash of the whole:
//!
//! ```text
//!                 root = content id = `b3sum IMAGE`
//!                /                 \
//!             merge                merge
//!            /     \              /     \
//!        block 0  block 1     block 2  block 3 (may be short)
//! ```
//!
//! Keeping the chaining values makes every block checkable on its own, against the content id that
//! devices were told at login. A chaining value depends on the block's place in the image, so a
//! right block read from a wrong offset is caught too.
use crate::geometry::{VERIFY_BLOCK_BYTES, bytes, index};
use blake3::hazmat::{
    HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use std::fmt;

/// The BLAKE3 root of an image's content. Two copies are identical when their ids are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The first eight bytes, big-endian: the generation that each read names.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let (first, _) = self.0.split_first_chunk::<8>().expect("32 bytes hold 8");
        u64::from_be_bytes(*first)
    }

    /// The content id of bytes in memory.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }
}

impl fmt::Display for ContentId {
    /// Lower-case hexadecimal, as `b3sum` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// What a check of bytes against their block hashes found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "bytes that were not found to match must not be served"]
pub enum Verdict {
    /// The bytes are those of the image.
    Match,
    /// They are not: the file was changed in place, or the disk or memory is at fault.
    Mismatch {
        /// The first 64 KiB block that differs.
        block: u32,
    },
    /// The question cannot be answered.
    Unverifiable(Unverifiable),
}

impl Verdict {
    /// Whether the bytes may be served.
    #[must_use]
    pub fn is_match(self) -> bool {
        self == Self::Match
    }
}

/// Why bytes cannot be checked. Each is the caller's error: block hashes exist per 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverifiable {
    /// The range does not start at a multiple of [`VERIFY_BLOCK_BYTES`].
    #[error("the range does not start on a 64 KiB block of the image")]
    StartsInsideABlock,
    /// The range ends neither at a multiple of [`VERIFY_BLOCK_BYTES`] nor at the image's end.
    /// Cache blocks smaller than 64 KiB always run into this.
    #[error("the range ends inside a 64 KiB block; cache blocks must be 64 KiB or a multiple")]
    EndsInsideABlock,
    /// The range reaches past the end of the image, or is empty.
    #[error("the range is empty or reaches past the end of the image")]
    OutsideTheImage,
}

/// The chaining value of one 64 KiB block.
pub(crate) type BlockHash = [u8; 32];

/// The hashes of an image's 64 KiB blocks, and what they add up to.
///
/// An image of one block is its own root: there the one entry is the content id itself.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockHashes {
    size_bytes: u64,
    hashes: Box<[BlockHash]>,
    content_id: ContentId,
}

impl BlockHashes {
    /// Whether a cache of this block size can have its blocks checked: 64 KiB or a multiple.
    #[must_use]
    pub const fn can_verify(cache_block_bytes: u64) -> bool {
        cache_block_bytes != 0 && cache_block_bytes.is_multiple_of(VERIFY_BLOCK_BYTES)
    }

    /// How many blocks an image has; the last may be short.
    #[must_use]
    pub const fn count_for(size_bytes: u64) -> u64 {
        size_bytes.div_ceil(VERIFY_BLOCK_BYTES)
    }

    /// Puts the hashes of all blocks together. The content id follows from them.
    ///
    /// # Panics
    /// When the count does not fit the size: a broken invariant of the caller.
    #[must_use]
    pub(crate) fn from_hashes(size_bytes: u64, hashes: Vec<BlockHash>) -> Self {
        assert!(size_bytes > 0, "an empty image is refused before it is hashed");
        assert_eq!(bytes(hashes.len()), Self::count_for(size_bytes), "one hash per block");
        let content_id = match hashes.as_slice() {
            [only] => ContentId(*only),
            many => root(many, size_bytes),
        };
        Self { size_bytes, hashes: hashes.into_boxed_slice(), content_id }
    }

    /// Hashes bytes in memory on this thread. For tests and small images.
    ///
    /// # Panics
    /// When `content` is empty.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let size_bytes = bytes(content.len());
        let blocks = content.chunks(index(VERIFY_BLOCK_BYTES)).zip(0..);
        let hashes = blocks.map(|(block, i)| hash_block(size_bytes, i, block)).collect();
        Self::from_hashes(size_bytes, hashes)
    }

    /// The hash of the whole.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        self.content_id
    }

    /// Size of the image in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Never: an image has at least one block. Here because `len` is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(crate) fn as_slice(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Checks the image's bytes from `offset` on: whole blocks, any number of them, the last one
    /// short where the image ends (so: without the zeroes that pad a frame). 14 to 20 µs per
    /// block on one core; allocates nothing.
    pub fn verify(&self, offset: u64, content: &[u8]) -> Verdict {
        if !offset.is_multiple_of(VERIFY_BLOCK_BYTES) {
            return Verdict::Unverifiable(Unverifiable::StartsInsideABlock);
        }
        let end = offset.saturating_add(bytes(content.len()));
        if content.is_empty() || end > self.size_bytes {
            return Verdict::Unverifiable(Unverifiable::OutsideTheImage);
        }
        if !end.is_multiple_of(VERIFY_BLOCK_BYTES) && end != self.size_bytes {
            return Verdict::Unverifiable(Unverifiable::EndsInsideABlock);
        }
        let first = offset / VERIFY_BLOCK_BYTES;
        for (block, i) in content.chunks(index(VERIFY_BLOCK_BYTES)).zip(first..) {
            if hash_block(self.size_bytes, i, block) != self.hashes[index(i)] {
                let block = u32::try_from(i).expect("MAX_IMAGE_BYTES bounds the block's index");
                return Verdict::Mismatch { block };
            }
        }
        Verdict::Match
    }
}

impl fmt::Debug for BlockHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockHashes")
            .field("size_bytes", &self.size_bytes)
            .field("blocks", &self.hashes.len())
            .field("content_id", &self.content_id)
            .finish()
    }
}

/// The chaining value of one block; for an image of a single block, its root.
pub(crate) fn hash_block(size_bytes: u64, block_index: u64, block: &[u8]) -> BlockHash {
    if size_bytes <= VERIFY_BLOCK_BYTES {
        return *blake3::hash(block).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(block_index * VERIFY_BLOCK_BYTES);
    hasher.update(block);
    hasher.finalize_non_root()
}

/// The root over at least two blocks. Recursion is as deep as the tree: 28 levels at most.
fn root(hashes: &[BlockHash], size_bytes: u64) -> ContentId {
    let left_bytes = left_subtree_len(size_bytes);
    let (left, right) = hashes.split_at(index(left_bytes / VERIFY_BLOCK_BYTES));
    let left = subtree(left, left_bytes);
    let right = subtree(right, size_bytes - left_bytes);
    ContentId(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn subtree(hashes: &[BlockHash], size_bytes: u64) -> BlockHash {
    if let [only] = hashes {
        return *only;
    }
    let left_bytes = left_subtree_len(size_bytes);
    let (left, right) = hashes.split_at(index(left_bytes / VERIFY_BLOCK_BYTES));
    let left = subtree(left, left_bytes);
    let right = subtree(right, size_bytes - left_bytes);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests;
