//! Opening an image: refuse by name, map, hash or trust the sidecar, then make sure that nothing
//! changed meanwhile.
use crate::content::BlockHashes;
use crate::direct::DataFile;
use crate::error::OpenError;
use crate::formats::{ForeignFormat, Format, raw};
use crate::geometry::{MAX_IMAGE_BYTES, SECTOR_BYTES};
use crate::hashing::{self, HashFailure};
use crate::identity::{Identity, Stamp};
use crate::map::FlatMap;
use crate::sidecar::{self, RehashReason, SidecarWrite};
use crate::sys;
use crate::vdisk::{HashSource, Vdisk, WriterAtOpen};
use crate::watch::{Writers, writers_of};
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// What to do with the sidecar `IMAGE.b3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarUse {
    /// Trust a fresh one; write one after hashing.
    #[default]
    ReadWrite,
    /// Trust a fresh one; never write.
    ReadOnly,
    /// Look at none; hash, then write one: `--rehash`.
    Rewrite,
    /// Look at none, write none.
    Off,
}

impl SidecarUse {
    fn reads(self) -> bool {
        matches!(self, Self::ReadWrite | Self::ReadOnly)
    }

    fn writes(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Rewrite)
    }
}

/// How to open an image. `OpenOptions::default()` suits a node.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// The image's format, as configured.
    pub format: Format,
    /// What to do with the sidecar.
    pub sidecar: SidecarUse,
    /// Threads that hash, at most [`crate::MAX_HASH_THREADS`]; `None`: as many as the process may
    /// run at once.
    pub hash_threads: Option<NonZeroUsize>,
    /// Open the file for direct I/O as well, where the file system can.
    pub direct_io: bool,
    /// Serve a file as raw although it is recognised as another format.
    pub allow_foreign_content: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: Format::Raw,
            sidecar: SidecarUse::ReadWrite,
            hash_threads: None,
            direct_io: true,
            allow_foreign_content: false,
        }
    }
}

/// Reports (done, total) bytes of hashing; breaking cancels.
pub(crate) type Progress<'p> = &'p mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// What tests bend.
pub(crate) struct Hooks<'h> {
    /// See [`sidecar::RACY_SECS`].
    pub racy_secs: i64,
    /// Called before each step of writing the sidecar; an error there is a crash at that point.
    pub before_write: &'h mut dyn FnMut(sidecar::WriteStep) -> io::Result<()>,
}

/// Everything that `Vdisk::open` does.
pub(crate) fn open(
    path: &Path,
    options: &OpenOptions,
    progress: Progress<'_>,
    hooks: &mut Hooks<'_>,
) -> Result<Vdisk, OpenError> {
    let (file, identity) = open_image(path)?;
    check_size(path, identity.size_bytes)?;
    if !options.allow_foreign_content {
        check_content(path, &file, identity.size_bytes)?;
    }
    if !identity.size_bytes.is_multiple_of(SECTOR_BYTES) {
        let path = path.to_owned();
        return Err(OpenError::OddSize { path, size_bytes: identity.size_bytes });
    }
    let writer_at_open = probe_writer(path, &file, &identity);
    let map = match options.format {
        Format::Raw => raw::map(&file, identity.size_bytes).map_err(|failure| OpenError::Map {
            path: path.to_owned(),
            offset: failure.offset,
            source: failure.source,
        })?,
    };
    let opening = Opening { path, file: &file, identity, map: &map, options };
    let (hashes, source) = opening.hashes(progress, hooks)?;
    opening.check_unchanged()?;
    let files = [DataFile::new(path, file, options.direct_io)];
    Ok(Vdisk::new(path.to_owned(), files, identity, map, hashes, source, writer_at_open))
}

/// Opens the file and refuses everything that is not one.
pub(crate) fn open_image(path: &Path) -> Result<(File, Identity), OpenError> {
    // Non-blocking: opening a pipe for reading would otherwise wait for a writer, for ever. It
    // changes nothing for files.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|source| OpenError::from_open(path.to_owned(), source))?;
    let metadata =
        file.metadata().map_err(|source| OpenError::Other { path: path.to_owned(), source })?;
    check_type(path, &metadata)?;
    // io_uring takes the flag on a file seriously: on a file system whose reads cannot be tried
    // without blocking, it fails them with EAGAIN instead of handing them to a worker.
    sys::set_blocking(&file)
        .map_err(|source| OpenError::Other { path: path.to_owned(), source })?;
    Ok((file, Identity::of(&metadata)))
}

fn check_type(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    let path = path.to_owned();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(OpenError::Directory { path })
    } else if kind.is_block_device() {
        Err(OpenError::BlockDevice { path })
    } else if kind.is_char_device() {
        Err(OpenError::OtherType { path, found: "character device" })
    } else if kind.is_fifo() {
        Err(OpenError::OtherType { path, found: "pipe" })
    } else {
        Err(OpenError::OtherType { path, found: "special file" })
    }
}

fn check_size(path: &Path, size_bytes: u64) -> Result<(), OpenError> {
    let path = || path.to_owned();
    if size_bytes == 0 {
        Err(OpenError::Empty { path: path() })
    } else if size_bytes > MAX_IMAGE_BYTES {
        Err(OpenError::TooLarge { path: path(), size_bytes })
    } else {
        Ok(())
    }
}

/// Recognised formats come before the odd size: "this is gzip" explains more than "this is odd".
fn check_content(path: &Path, file: &File, size_bytes: u64) -> Result<(), OpenError> {
    let path = path.to_owned();
    match ForeignFormat::recognise_file(file, size_bytes) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => Err(OpenError::ForeignFormat { path, found }),
        Err(source) => Err(OpenError::Read { path, offset: 0, len: SECTOR_BYTES, source }),
    }
}

/// Asks whether somebody has the image open for writing right now, and warns if so: a machine that
/// still runs from the image is the commonest reason for "changed while being hashed".
fn probe_writer(path: &Path, file: &File, identity: &Identity) -> WriterAtOpen {
    match crate::watch::has_writer(file) {
        None => WriterAtOpen::Unknown,
        Some(false) => WriterAtOpen::None,
        Some(true) => {
            let writers = Writers(writers_of(identity));
            tracing::warn!(
                ?path,
                "the image is open for writing{writers}; what it serves must not change"
            );
            WriterAtOpen::Present
        }
    }
}

/// An image that passed the first checks.
struct Opening<'o> {
    path: &'o Path,
    file: &'o File,
    identity: Identity,
    map: &'o FlatMap,
    options: &'o OpenOptions,
}

impl Opening<'_> {
    /// From the sidecar when it may be trusted, by hashing when not.
    fn hashes(
        &self,
        progress: Progress<'_>,
        hooks: &mut Hooks<'_>,
    ) -> Result<(BlockHashes, HashSource), OpenError> {
        let path = self.path;
        let why = if self.options.sidecar.reads() {
            match sidecar::load(path, &self.identity, hooks.racy_secs) {
                Ok(hashes) => {
                    let content_id = hashes.content_id();
                    tracing::info!(?path, %content_id, "content id taken from the sidecar");
                    return Ok((hashes, HashSource::Sidecar));
                }
                Err(why) => why,
            }
        } else {
            RehashReason::Asked
        };
        tracing::info!(?path, size_bytes = self.identity.size_bytes, "hashing the image: {why}");
        // The file system's clock, read before the first byte is: see `sidecar::RACY_SECS`.
        let started = self.options.sidecar.writes().then(|| sidecar::file_system_clock(path));
        let threads = self.options.hash_threads.unwrap_or_else(hashing::default_threads);
        let hashes = hashing::hash(self.file, self.map, threads, progress)
            .map_err(|failure| self.hash_error(failure))?;
        // Before anything is kept: a sidecar of an image that changed would be a lie.
        self.check_unchanged()?;
        tracing::info!(?path, content_id = %hashes.content_id(), "hashed the image");
        let sidecar = self.keep(&hashes, started, hooks);
        Ok((hashes, HashSource::Hashed { why, sidecar }))
    }

    /// Writes the sidecar. A failure costs the next open a hash, so it is one warning.
    fn keep(
        &self,
        hashes: &BlockHashes,
        started: Option<io::Result<Stamp>>,
        hooks: &mut Hooks<'_>,
    ) -> SidecarWrite {
        let outcome = match started {
            None => return SidecarWrite::NotAsked,
            Some(Err(source)) => {
                SidecarWrite::Failed { step: sidecar::WriteStep::CreateTemporary, source }
            }
            Some(Ok(hashed_at)) => {
                let record = sidecar::Record { identity: self.identity, hashed_at };
                sidecar::save(self.path, &record, hashes, hooks)
            }
        };
        let path = self.path;
        match &outcome {
            SidecarWrite::Failed { step, source } => tracing::warn!(
                ?path, error = %source,
                "the sidecar could not be written ({step}): every open will hash the image again; \
                 let the node's user write to the directory, or turn the sidecar off"
            ),
            SidecarWrite::TooFresh => tracing::info!(
                ?path,
                "the image changed within {} s before it was hashed, so its change time proves \
                 nothing yet: no sidecar is kept, and the next open hashes again",
                hooks.racy_secs
            ),
            SidecarWrite::Written | SidecarWrite::NotAsked => {}
        }
        outcome
    }

    /// Refuses when the file is not in the state that it was opened in.
    fn check_unchanged(&self) -> Result<(), OpenError> {
        let now = Identity::of_file(self.file)
            .map_err(|source| OpenError::Other { path: self.path.to_owned(), source })?;
        let before = &self.identity;
        if now.size_bytes != before.size_bytes {
            Err(self.changed("its size differs"))
        } else if now.mtime != before.mtime {
            Err(self.changed("its modification time moved"))
        } else if now.ctime != before.ctime {
            Err(self.changed("its change time moved"))
        } else {
            Ok(())
        }
    }

    fn changed(&self, what: &'static str) -> OpenError {
        let writers = Writers(writers_of(&self.identity));
        OpenError::ChangedWhileHashing { path: self.path.to_owned(), what, writers }
    }

    fn hash_error(&self, failure: HashFailure) -> OpenError {
        let path = self.path.to_owned();
        match failure {
            HashFailure::Cancelled { done_bytes } => OpenError::Cancelled { path, done_bytes },
            HashFailure::Read { offset, len, source } => {
                OpenError::Read { path, offset, len, source }
            }
            HashFailure::Shrunk { .. } => self.changed("it became shorter"),
        }
    }
}
