//! The sidecar `IMAGE.b3`: block hashes kept beside the image, so that a node that starts again
//! does not read 40 GiB first.
//!
//! # What is trusted, and what that risks
//!
//! A sidecar is believed when the image still has the size, inode, modification time and change
//! time that it was hashed with. Programs cannot set the change time, so whoever changes the image
//! through the file system moves it. What slips through: bytes changed underneath the file system
//! (a disk that rots, a write to the block device), and a file server that keeps bad time. Those
//! cannot lead to wrong bytes being served, because every block read from the disk is checked
//! against its hash; they lead to blocks that cannot be read. [`SidecarUse::Rewrite`] hashes again
//! whatever the sidecar says.
//!
//! The change time moves for harmless reasons too (chmod, rename, a new hard link): then the image
//! is hashed once more.
//!
//! A sidecar is never a secret and never an authority: who may write to the directory may replace
//! the image as well.
//!
//! [`SidecarUse::Rewrite`]: crate::SidecarUse::Rewrite
mod record;
mod store;

pub(crate) use record::Record;
#[cfg(test)]
pub(crate) use store::remove_leftovers;
pub(crate) use store::{file_system_clock, load, load_any, save, with_suffix, write_beside};

use std::fmt;
use std::io;

/// A change time proves nothing when the image was changed less than this before hashing began: a
/// later write can carry the same stamp ("racily clean", as in git's index). 2 s is the coarsest
/// stamp of any file system that Linux writes (FAT); most are below 10 ms.
pub(crate) const RACY_SECS: i64 = 2;

/// Why an image had to be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RehashReason {
    /// The options say not to look at a sidecar.
    #[error("asked to")]
    Asked,
    /// There is none.
    #[error("it has no sidecar")]
    NoSidecar,
    /// There is one that cannot be read.
    #[error("its sidecar cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// There is one, and its bytes are not those of a sidecar of this version.
    #[error("its sidecar is damaged: {0}")]
    Damaged(#[source] Damage),
    /// There is a sound one, of the image in another state.
    #[error("its sidecar is stale: {0}")]
    Stale(#[source] Stale),
}

/// What is wrong with the bytes of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Another length than an image of this size gives.
    #[error("it is {found_bytes} bytes long where this image's has {expected_bytes}")]
    Length {
        /// Length found.
        found_bytes: u64,
        /// Length that follows from the image's size.
        expected_bytes: u64,
    },
    /// Not a sidecar at all.
    #[error("it does not start like a sidecar")]
    Magic,
    /// Written by another version of this software.
    #[error("its layout has version {0}, unknown here")]
    Version(u32),
    /// The checksum over header and hashes differs.
    #[error("its checksum does not match")]
    Checksum,
    /// A field holds what no writer writes.
    #[error("its field `{0}` is invalid")]
    Field(&'static str),
    /// The hashes do not add up to the content id that it names.
    #[error("its block hashes do not add up to its content id")]
    Root,
}

/// In what the image differs from what a sidecar was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stale {
    /// Another size.
    #[error("the image had another size")]
    Size,
    /// Another file: copied, restored or replaced.
    #[error("the image is another file (inode) by now")]
    Inode,
    /// Written since.
    #[error("the image was modified since")]
    Mtime,
    /// Content or attributes changed since.
    #[error("the image's content or attributes changed since")]
    Ctime,
    /// Changed so shortly before hashing that the change time cannot tell.
    #[error("the image had changed just before it was hashed")]
    Racy,
}

/// What became of the sidecar after hashing.
#[derive(Debug)]
#[non_exhaustive]
pub enum SidecarWrite {
    /// It is on the disk.
    Written,
    /// The options say not to write one.
    NotAsked,
    /// The image changed less than two seconds before it was hashed: nothing was written, since a
    /// sidecar could not be trusted.
    TooFresh,
    /// It could not be written; a warning was logged.
    Failed {
        /// What failed.
        step: WriteStep,
        /// Why.
        source: io::Error,
    },
}

/// The steps of writing a sidecar, in the order in which they must happen.
///
/// 1. *Create* a temporary file in the same directory, under a name that nobody else uses: a
///    rename is atomic only within a file system, and two nodes may hash the same image at once.
/// 2. *Write* everything into it. Were it written in place, a crash would leave half a sidecar
///    where a good old one was.
/// 3. *Sync* the file. Renamed first, a power cut could leave the new name on an empty file. (The
///    checksum would catch that, at the price of hashing again.)
/// 4. *Rename* over the old one: readers see the old or the new, nothing between.
/// 5. *Sync* the directory. Without it a power cut may bring the old sidecar back, which is then
///    stale and hashes again: the one step whose loss costs only time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    /// 1.
    CreateTemporary,
    /// 2.
    WriteTemporary,
    /// 3.
    SyncTemporary,
    /// 4.
    Rename,
    /// 5.
    SyncDirectory,
}

impl fmt::Display for WriteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateTemporary => "creating a temporary file",
            Self::WriteTemporary => "writing the temporary file",
            Self::SyncTemporary => "syncing the temporary file",
            Self::Rename => "renaming it into place",
            Self::SyncDirectory => "syncing the directory",
        })
    }
}

#[cfg(test)]
mod tests;
