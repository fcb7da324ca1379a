//! Files and block devices read past the page cache, or through it where the file system insists.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::features::Features;

mod sys;

/// What direct reads must be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of memory addresses, in bytes; a power of two.
    pub memory_bytes: u32,
    /// Of file offsets and lengths, in bytes; a power of two.
    pub offset_bytes: u32,
}

impl Alignment {
    /// Where nothing is known: a page, which every direct path takes.
    const PAGE: Alignment = Alignment { memory_bytes: 4096, offset_bytes: 4096 };
    /// Buffered reads take anything.
    const NONE: Alignment = Alignment { memory_bytes: 1, offset_bytes: 1 };
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Neither a regular file nor a block device.
    #[error("{path}: neither a regular file nor a block device", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened or examined.
    #[error("{path}: cannot {what}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// An open file for reads by offset. Rings take it in an `Arc` ([`crate::Ring::add_file`]).
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    path: PathBuf,
    alignment: Alignment,
    direct: bool,
    by_worker: bool,
    len: u64,
}

impl DirectFile {
    /// Opens `path` read-only and with `O_DIRECT`; a file system that refuses that gets the buffered twin and a warning.
    ///
    /// # Errors
    /// When it cannot be opened, or is neither a regular file nor a block device (opening a FIFO would block).
    pub fn open(path: &Path) -> Result<DirectFile, FileError> {
        let fail = |what| move |source| FileError::Io { path: path.to_owned(), what, source };
        let metadata = path.metadata().map_err(fail("examine it"))?;
        if !servable(metadata.file_type()) {
            return Err(FileError::Kind { path: path.to_owned() });
        }
        let file = File::open(path).map_err(fail("open it"))?;
        DirectFile::from_file(file, path)
    }

    /// Takes over an open file, switching it to `O_DIRECT` where that is possible. The flag belongs to the open file
    /// description: a clone of `file` kept elsewhere reads directly too. `path` is for messages only.
    ///
    /// # Errors
    /// When it is neither a regular file nor a block device, or cannot be examined.
    pub fn from_file(file: File, path: &Path) -> Result<DirectFile, FileError> {
        let refused = match sys::direct_alignment(file.as_fd()) {
            _ if !Features::probe().direct_io => Err(io::ErrorKind::Unsupported.into()),
            Ok(Some(alignment)) => sys::set_direct(file.as_fd()).map(|()| alignment),
            Ok(None) => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            // Kernels before 6.1 cannot say; the flag tells whether it works at all.
            Err(_) => sys::set_direct(file.as_fd()).map(|()| Alignment::PAGE),
        };
        let buffered = DirectFile::buffered(file, path)?;
        match refused {
            Ok(alignment) => Ok(DirectFile { direct: true, alignment, ..buffered }),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    "no direct I/O ({error}): reads go through the page cache, which costs memory and a copy; \
                     remedy: keep vDisks on ext4, XFS or a block device"
                );
                Ok(buffered)
            }
        }
    }

    /// Takes over an open file that was not opened with `O_DIRECT`, for reads through the page cache.
    ///
    /// # Errors
    /// As [`DirectFile::from_file`].
    pub fn buffered(file: File, path: &Path) -> Result<DirectFile, FileError> {
        let fail = |what| move |source| FileError::Io { path: path.to_owned(), what, source };
        let metadata = file.metadata().map_err(fail("examine it"))?;
        if !servable(metadata.file_type()) {
            return Err(FileError::Kind { path: path.to_owned() });
        }
        // The length of a block device is where its end is.
        let len = (&file).seek(SeekFrom::End(0)).map_err(fail("find its end"))?;
        let path = path.to_owned();
        let by_worker = sys::may_block(file.as_fd()).map_err(fail("examine its file system"))?;
        Ok(DirectFile { file, path, alignment: Alignment::NONE, direct: false, by_worker, len })
    }

    /// Lets kernel workers read it, for file systems that block whoever asks without being on the list of
    /// [`DirectFile::is_read_by_worker`].
    #[must_use]
    pub fn by_worker(self) -> DirectFile {
        DirectFile { by_worker: true, ..self }
    }

    /// True when a worker of the kernel starts the reads, so that a ring's own thread never waits in them. That costs a change of
    /// threads for each read, and is for file systems that say they never block and do: FUSE waits, not interruptibly, when as many
    /// reads are under way as its daemon's `max_background` (seen with Linux 6.18: `fuse_get_req` below `io_submit_sqes`, for as
    /// long as the daemon hung, and with it all vDisks of the shard).
    #[must_use]
    pub fn is_read_by_worker(&self) -> bool {
        self.by_worker
    }

    /// True when reads bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// What reads must be multiples of.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Bytes, when it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True for a file of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for what needs no ring (leases, metadata).
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for DirectFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for DirectFile {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// True for a file of a file system that may block whoever starts a read; see [`DirectFile::is_read_by_worker`].
///
/// # Errors
/// What `fstatfs` answers.
pub fn may_block(file: BorrowedFd<'_>) -> io::Result<bool> {
    sys::may_block(file)
}

fn servable(kind: std::fs::FileType) -> bool {
    kind.is_file() || kind.is_block_device()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn opens_directly_where_the_file_system_can() {
        let mut temp = tempfile::NamedTempFile::new().unwrap();
        temp.write_all(&[1; 10_000]).unwrap();
        let file = DirectFile::open(temp.path()).unwrap();
        assert_eq!(file.len(), 10_000);
        let Alignment { memory_bytes, offset_bytes } = file.alignment();
        assert!(memory_bytes.is_power_of_two() && offset_bytes.is_power_of_two());
        assert_eq!(file.is_direct(), offset_bytes > 1);
        assert!(!file.is_read_by_worker(), "a local file system");
    }

    #[test]
    fn proc_gets_the_buffered_twin() {
        let file = DirectFile::open(Path::new("/proc/version"));
        // Either it has an end to seek to, and no O_DIRECT, or a clear error.
        match file {
            Ok(file) => assert!(!file.is_direct()),
            Err(error) => assert!(error.to_string().contains("/proc/version")),
        }
    }

    #[test]
    fn refuses_what_is_no_disk() {
        let directory = tempfile::tempdir().unwrap();
        let error = DirectFile::open(directory.path()).unwrap_err();
        assert!(matches!(error, FileError::Kind { .. }));
        let error = DirectFile::open(&directory.path().join("absent")).unwrap_err();
        assert!(error.to_string().contains("absent: cannot examine it"), "{error}");
        assert!(matches!(DirectFile::open(Path::new("/dev/null")), Err(FileError::Kind { .. })));
    }
}
