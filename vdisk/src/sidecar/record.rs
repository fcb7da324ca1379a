//! The sidecar's bytes. Pure.
//!
//! ```text
//! offset  bytes  field         all integers little-endian
//!      0      8  magic         "DSKSB3\r\n" (ours; the line end shows a text-mode copy)
//!      8      4  version       1
//!     12      4  block_bytes   65536
//!     16      8  size_bytes    of the image
//!     24      8  inode
//!     32      8  mtime_secs    signed
//!     40      8  ctime_secs    signed
//!     48      8  hashed_secs   signed; the file system's clock when hashing began
//!     56      4  mtime_nanos
//!     60      4  ctime_nanos
//!     64      4  hashed_nanos
//!     68      4  reserved      0
//!     72     32  content_id
//!    104     32  checksum      BLAKE3 of bytes 0..104 and of everything from 136 on
//!    136   32·n  hashes        one chaining value per 64 KiB block, n = ⌈size_bytes / 65536⌉
//! ```
use super::{Damage, Stale};
use crate::content::{BlockHash, BlockHashes};
use crate::geometry::{VERIFY_BLOCK_BYTES, bytes};
use crate::identity::{Identity, Stamp};

const MAGIC: [u8; 8] = *b"DSKSB3\r\n";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 104;
pub(super) const HEADER_BYTES: usize = 136;
const HASH_BYTES: usize = 32;

/// The image, as a sidecar remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The image's state. Device and link count are not kept: the one may differ after a reboot,
    /// the other moves the change time.
    pub identity: Identity,
    /// The file system's clock when hashing began.
    pub hashed_at: Stamp,
}

impl Record {
    /// Whether an image in the state `now` is the one that was hashed. Pure.
    pub fn judge(&self, now: &Identity, racy_secs: i64) -> Result<(), Stale> {
        let then = &self.identity;
        if then.size_bytes != now.size_bytes {
            Err(Stale::Size)
        } else if then.inode != now.inode {
            Err(Stale::Inode)
        } else if then.mtime != now.mtime {
            Err(Stale::Mtime)
        } else if then.ctime != now.ctime {
            Err(Stale::Ctime)
        } else if self.is_racy(racy_secs) {
            Err(Stale::Racy)
        } else {
            Ok(())
        }
    }

    /// Whether the image changed so shortly before hashing that a later write could bear the
    /// same stamp. The modification time is not asked: programs set it at will.
    pub fn is_racy(&self, racy_secs: i64) -> bool {
        !self.identity.ctime.is_before_by_secs(self.hashed_at, racy_secs)
    }

    /// How long the sidecar of an image is.
    pub fn encoded_bytes(size_bytes: u64) -> u64 {
        bytes(HEADER_BYTES) + bytes(HASH_BYTES) * BlockHashes::count_for(size_bytes)
    }

    /// The sidecar's header and body. The body is borrowed: it may be large.
    pub fn encode<'h>(&self, hashes: &'h BlockHashes) -> ([u8; HEADER_BYTES], &'h [u8]) {
        let body = hashes.as_slice().as_flattened();
        let block_bytes = u32::try_from(VERIFY_BLOCK_BYTES).expect("64 KiB fits");
        let Identity { inode, size_bytes, mtime, ctime, .. } = self.identity;
        let mut header = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            header[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&block_bytes.to_le_bytes());
        put(&size_bytes.to_le_bytes());
        put(&inode.to_le_bytes());
        put(&mtime.secs.to_le_bytes());
        put(&ctime.secs.to_le_bytes());
        put(&self.hashed_at.secs.to_le_bytes());
        put(&mtime.nanos.to_le_bytes());
        put(&ctime.nanos.to_le_bytes());
        put(&self.hashed_at.nanos.to_le_bytes());
        put(&0_u32.to_le_bytes());
        put(&hashes.content_id().0);
        assert_eq!(at, CHECKSUM_AT, "the layout above");
        let sum = checksum(&header[..CHECKSUM_AT], body);
        header[CHECKSUM_AT..].copy_from_slice(&sum);
        (header, body)
    }

    /// The image's size that a header names, if it is one. Not checked against anything.
    pub fn size_named(header: &[u8; HEADER_BYTES]) -> Option<u64> {
        (header[..8] == MAGIC && u32_at(header, 8) == VERSION).then(|| u64_at(header, 16))
    }

    /// Reads the bytes of a sidecar that should belong to an image of `size_bytes`. Whatever they
    /// are, the answer is a record or a reason; nothing is allocated by a length found in them.
    pub fn decode(encoded: &[u8], size_bytes: u64) -> Result<(Self, BlockHashes), Damage> {
        let (header, body) = encoded
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| length_damage(bytes(encoded.len()), size_bytes))?;
        if header[..8] != MAGIC {
            return Err(Damage::Magic);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        if checksum(&header[..CHECKSUM_AT], body) != header[CHECKSUM_AT..] {
            return Err(Damage::Checksum);
        }
        if u64::from(u32_at(header, 12)) != VERIFY_BLOCK_BYTES {
            return Err(Damage::Field("block_bytes"));
        }
        if u32_at(header, 68) != 0 {
            return Err(Damage::Field("reserved"));
        }
        let record = Self {
            identity: Identity {
                dev: 0,
                inode: u64_at(header, 24),
                size_bytes: u64_at(header, 16),
                mtime: stamp(header, 32, 56, "mtime_nanos")?,
                ctime: stamp(header, 40, 60, "ctime_nanos")?,
                links: 0,
            },
            hashed_at: stamp(header, 48, 64, "hashed_nanos")?,
        };
        let size_named = record.identity.size_bytes;
        if size_named == 0 || size_named > crate::MAX_IMAGE_BYTES {
            return Err(Damage::Field("size_bytes"));
        }
        if bytes(encoded.len()) != Self::encoded_bytes(size_named) {
            return Err(length_damage(bytes(encoded.len()), size_named));
        }
        let (hashes, rest) = body.as_chunks::<HASH_BYTES>();
        assert!(rest.is_empty(), "the length was just checked");
        let hashes: Vec<BlockHash> = hashes.to_vec();
        let hashes = BlockHashes::from_hashes(size_named, hashes);
        if hashes.content_id().0 != header[72..CHECKSUM_AT] {
            return Err(Damage::Root);
        }
        Ok((record, hashes))
    }
}

fn length_damage(found_bytes: u64, size_bytes: u64) -> Damage {
    Damage::Length { found_bytes, expected_bytes: Record::encoded_bytes(size_bytes) }
}

fn checksum(fields: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields);
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("callers name fields of the layout above")
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(field(header, at))
}

fn u64_at(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(field(header, at))
}

fn stamp(
    header: &[u8; HEADER_BYTES],
    secs_at: usize,
    nanos_at: usize,
    name: &'static str,
) -> Result<Stamp, Damage> {
    let nanos = u32_at(header, nanos_at);
    if nanos >= 1_000_000_000 {
        return Err(Damage::Field(name));
    }
    Ok(Stamp { secs: i64::from_le_bytes(field(header, secs_at)), nanos })
}
