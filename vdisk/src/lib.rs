//! What a vDisk is: an image file, where its bytes lie, and what they must be.
//!
//! ```text
//!            Vdisk::open(path)
//!   refuse by name ── map holes ── sidecar fresh? ──yes──> ready
//!   (OpenError)       (FlatMap)         │no
//!                                       └─> hash in parallel ─> write sidecar ─> ready
//! ```
//!
//! An open [`Vdisk`] answers three questions and moves no data:
//!
//! * *Where does this range lie?* [`ImageMap`]: in a file, or nowhere (zeroes).
//! * *Are these the right bytes?* [`BlockHashes::verify`]: a block read from the disk is checked
//!   against its BLAKE3 subtree before anyone is served from it. This is what makes every other
//!   check here an early warning and not a safety net: a file changed in place, a lying sidecar or
//!   a rotten disk costs availability, never correctness.
//! * *Did somebody touch the file?* [`Watch`]: named, polled, no hidden thread.
//!
//! The content id is the BLAKE3 hash of the image's bytes, exactly what `b3sum IMAGE` prints; its
//! first eight bytes are the generation that travels in every read.
//!
//! Pure parts (the map, the content hashes, the sidecar's codec and judgement) make no system call; what
//! needs one goes through `sys.rs`, the only file of this crate with unsafe code.
#![deny(unsafe_code)]

mod content;
mod direct;
mod error;
mod formats;
mod geometry;
mod hashing;
mod identity;
mod map;
mod open;
mod scrub;
mod sidecar;
#[expect(unsafe_code, reason = "system calls that std does not offer; each block says why")]
mod sys;
mod vdisk;
mod warm;
mod watch;

pub use content::{BlockHashes, ContentId, Unverifiable, Verdict};
pub use direct::{DataFile, DirectAlignment};
pub use error::OpenError;
pub use formats::{ForeignFormat, Format};
pub use geometry::{MAX_IMAGE_BYTES, SECTOR_BYTES, UNIT_BYTES, VERIFY_BLOCK_BYTES};
pub use hashing::MAX_HASH_THREADS;
pub use identity::{Identity, Stamp};
pub use map::{Extent, FlatMap, FlatMapBuilder, ImageMap, Place};
pub use open::{OpenOptions, SidecarUse};
pub use scrub::{SCRUB_PIECE_BYTES, Scrub, ScrubError, ScrubFound};
pub use sidecar::{Damage, RehashReason, SidecarWrite, Stale, WriteStep};
pub use vdisk::{HashSource, Vdisk, WriterAtOpen};
pub use warm::{WARM_BLOCKS_MAX, WarmError, WarmList};
pub use watch::{Change, Content, Watch, Writer, Writers, writers_of};
