//! An open vDisk: what the rest of the software holds on to.
use crate::content::{BlockHashes, ContentId};
use crate::direct::DataFile;
use crate::error::OpenError;
use crate::geometry::UNIT_BYTES;
use crate::identity::Identity;
use crate::map::FlatMap;
use crate::open::{self, Hooks, OpenOptions};
use crate::sidecar::{self, RehashReason, SidecarWrite};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a vDisk's block hashes came from.
#[derive(Debug)]
pub enum HashSource {
    /// From the sidecar, whose image is in the state that it was hashed in.
    Sidecar,
    /// The image was read and hashed.
    Hashed {
        /// Why the sidecar did not do.
        why: RehashReason,
        /// Whether there is one now.
        sidecar: SidecarWrite,
    },
}

/// Whether somebody had the image open for writing when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterAtOpen {
    /// Nobody on this host.
    None,
    /// Somebody; a warning was logged.
    Present,
    /// The kernel would not say: the file belongs to another user, or its file system has no
    /// leases.
    Unknown,
}

/// An open, read-only image. Immutable: to notice that the file was changed, see [`crate::Watch`].
#[derive(Debug)]
pub struct Vdisk {
    path: PathBuf,
    files: [DataFile; 1],
    identity: Identity,
    map: Arc<FlatMap>,
    hashes: Arc<BlockHashes>,
    hash_source: HashSource,
    writer_at_open: WriterAtOpen,
}

impl Vdisk {
    /// Opens an image, hashing it if its sidecar does not do. Blocks for as long as that takes.
    ///
    /// # Errors
    /// Every defect by name: see [`OpenError`].
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, OpenError> {
        Self::open_with_progress(path, options, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`Vdisk::open`]; while the image is hashed, `progress` is called on this thread with
    /// (done, total) bytes, about every 4 MiB, and cancels by breaking.
    ///
    /// # Errors
    /// Every defect by name: see [`OpenError`].
    pub fn open_with_progress(
        path: impl AsRef<Path>,
        options: &OpenOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self, OpenError> {
        let mut hooks = Hooks { racy_secs: sidecar::RACY_SECS, before_write: &mut |_| Ok(()) };
        open::open(path.as_ref(), options, progress, &mut hooks)
    }

    pub(crate) fn new(
        path: PathBuf,
        files: [DataFile; 1],
        identity: Identity,
        map: FlatMap,
        hashes: BlockHashes,
        hash_source: HashSource,
        writer_at_open: WriterAtOpen,
    ) -> Self {
        let (map, hashes) = (Arc::new(map), Arc::new(hashes));
        Self { path, files, identity, map, hashes, hash_source, writer_at_open }
    }

    /// The path as given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the image in bytes: a multiple of 512, at least one sector.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    /// Number of 4 KiB units; the last may be partial.
    #[must_use]
    pub fn units(&self) -> u32 {
        u32::try_from(self.size_bytes().div_ceil(UNIT_BYTES)).expect("bounded by MAX_IMAGE_BYTES")
    }

    /// What `b3sum IMAGE` prints.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        self.hashes.content_id()
    }

    /// What every read names: the first eight bytes of the content id, big-endian.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.content_id().generation()
    }

    /// The hashes that blocks from the disk are checked against.
    #[must_use]
    pub fn block_hashes(&self) -> &BlockHashes {
        &self.hashes
    }

    /// The same, to keep beyond this value: block hashes of a large image take megabytes.
    #[must_use]
    pub fn block_hashes_shared(&self) -> Arc<BlockHashes> {
        Arc::clone(&self.hashes)
    }

    /// Where the bytes lie, to keep beyond this value.
    #[must_use]
    pub fn map_shared(&self) -> Arc<FlatMap> {
        Arc::clone(&self.map)
    }

    /// Where the bytes lie.
    #[must_use]
    pub fn map(&self) -> &FlatMap {
        &self.map
    }

    /// The files that the map names by index; one for a raw image.
    #[must_use]
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// Identity and state of the image when it was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where the hashes came from.
    #[must_use]
    pub fn hash_source(&self) -> &HashSource {
        &self.hash_source
    }

    /// Whether somebody had the image open for writing.
    #[must_use]
    pub fn writer_at_open(&self) -> WriterAtOpen {
        self.writer_at_open
    }
}

#[cfg(test)]
mod tests;
