//! The open file under a vDisk: past the page cache where that works, through it where not.
use crate::identity::Identity;
use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What direct reads of a file must be aligned to. At the end of the file the length asked for is
/// rounded up; the kernel answers with a short read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of the buffer's address, in bytes; a power of two.
    pub memory_bytes: u32,
    /// Of the offset and the length, in bytes; a power of two.
    pub offset_bytes: u32,
}

/// One file of a vDisk, open for reading.
#[derive(Debug)]
pub struct DataFile {
    buffered: File,
    direct: Option<(File, DirectAlignment)>,
}

impl DataFile {
    /// Wraps an open image and opens its direct twin, if asked and possible. Never fails: without
    /// direct I/O the buffered file serves, and one log line says why.
    pub(crate) fn new(path: &Path, buffered: File, want_direct: bool) -> Self {
        if !want_direct {
            return Self { buffered, direct: None };
        }
        let direct = match open_direct(&buffered) {
            Ok(direct) => Some(direct),
            Err(error) => {
                tracing::warn!(?path, %error, "no direct I/O on this file: reads go through the page cache");
                None
            }
        };
        Self { buffered, direct }
    }

    /// The file to read from: the direct one where there is one. Check [`DataFile::alignment`].
    #[must_use]
    pub fn file(&self) -> &File {
        self.direct.as_ref().map_or(&self.buffered, |(file, _)| file)
    }

    /// What reads from [`DataFile::file`] must be aligned to; `None` when it is buffered.
    #[must_use]
    pub fn alignment(&self) -> Option<DirectAlignment> {
        self.direct.as_ref().map(|(_, alignment)| *alignment)
    }

    /// The same file through the page cache; reads may have any alignment.
    #[must_use]
    pub fn buffered(&self) -> &File {
        &self.buffered
    }

    /// Identity and state of the open file, asked now.
    ///
    /// # Errors
    /// What `fstat` answers, such as ESTALE when a file server forgot the file.
    pub fn identity(&self) -> io::Result<Identity> {
        Identity::of_file(&self.buffered)
    }
}

fn open_direct(buffered: &File) -> io::Result<(File, DirectAlignment)> {
    let Some((memory_bytes, offset_bytes)) = sys::direct_alignment(buffered)? else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "statx reports no alignment for direct I/O (STATX_DIOALIGN)",
        ));
    };
    // By way of /proc, so that it is the same file even if the path names another one by now.
    let same = format!("/proc/self/fd/{}", buffered.as_raw_fd());
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(same)?;
    Ok((file, DirectAlignment { memory_bytes, offset_bytes }))
}
