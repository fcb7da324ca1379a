//! Why an image cannot be opened. One variant per defect, each with the path, the cause and the
//! remedy; [`OpenError::label`] is its stable name for counters and scripts.
use crate::formats::ForeignFormat;
use crate::geometry::MAX_IMAGE_BYTES;
use crate::watch::Writers;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A block device.
    #[error(
        "{path:?} is a block device: it has no change time, so nothing would notice when its \
         content changes; copy it to a file: dd if={path:?} of=IMAGE bs=4M conv=sparse"
    )]
    BlockDevice {
        /// The path as given.
        path: PathBuf,
    },
    /// The progress callback asked to stop.
    #[error("{path:?}: hashing was cancelled after {done_bytes} bytes; nothing was kept")]
    Cancelled {
        /// The path as given.
        path: PathBuf,
        /// Bytes hashed until then.
        done_bytes: u64,
    },
    /// Size, times or identity of the file differ before and after hashing.
    #[error(
        "{path:?} was changed while it was being hashed ({what}), so there is no single content \
         to serve; let whatever writes it finish, then open it again{writers}"
    )]
    ChangedWhileHashing {
        /// The path as given.
        path: PathBuf,
        /// What differed.
        what: &'static str,
        /// Who has it open for writing, as far as /proc tells.
        writers: Writers,
    },
    /// A directory.
    #[error("{path:?} is a directory; name the image file inside it")]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// A file of no bytes.
    #[error("{path:?} is empty; was the copy or `truncate -s SIZE {path:?}` forgotten?")]
    Empty {
        /// The path as given.
        path: PathBuf,
    },
    /// The content is recognised as something other than the configured format.
    #[error(
        "{path:?} is configured as raw but holds {found}; {}; to serve these bytes as they are, \
         allow foreign content explicitly", found.remedy()
    )]
    ForeignFormat {
        /// The path as given.
        path: PathBuf,
        /// What it was recognised as.
        found: ForeignFormat,
    },
    /// Where the holes lie could not be found out.
    #[error(
        "{path:?}: finding its holes failed at offset {offset}; check the file system and disk"
    )]
    Map {
        /// The path as given.
        path: PathBuf,
        /// Offset in bytes of the failed question.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// No such file, or a directory on the way to it is missing.
    #[error("{path:?} does not exist; check the spelling, and that its file system is mounted")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The size is not a whole number of 512-byte sectors.
    #[error(
        "{path:?} has an odd size: {size_bytes} bytes is not a multiple of 512, so it was cut \
         short or is not a disk image; copy it again, or pad it: truncate -s %512 {path:?}"
    )]
    OddSize {
        /// The path as given.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// Opening or asking about the file failed for another reason.
    #[error("{path:?} cannot be opened; see the cause")]
    Other {
        /// The path as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A pipe, socket or character device.
    #[error("{path:?} is a {found}, not a file; name an image file")]
    OtherType {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No permission to read the file, or to search a directory on the way.
    #[error(
        "{path:?} cannot be read: permission denied; let the node's user read the file and search \
         the directories above it, e.g. setfacl -m u:USER:r {path:?}"
    )]
    PermissionDenied {
        /// The path as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Reading failed.
    #[error(
        "{path:?}: reading {len} bytes at offset {offset} failed; check the disk (dmesg), then \
         restore the image from a good copy"
    )]
    Read {
        /// The path as given.
        path: PathBuf,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// More bytes than this software can address.
    #[error("{path:?} is too large: {size_bytes} bytes, and the limit is {MAX_IMAGE_BYTES}")]
    TooLarge {
        /// The path as given.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
}

impl OpenError {
    /// A stable name, fit for a counter's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::BlockDevice { .. } => "block_device",
            Self::Cancelled { .. } => "cancelled",
            Self::ChangedWhileHashing { .. } => "changed_while_hashing",
            Self::Directory { .. } => "directory",
            Self::Empty { .. } => "empty",
            Self::ForeignFormat { .. } => "foreign_format",
            Self::Map { .. } => "map",
            Self::Missing { .. } => "missing",
            Self::OddSize { .. } => "odd_size",
            Self::Other { .. } => "other",
            Self::OtherType { .. } => "other_type",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::Read { .. } => "read",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// The defect behind a failed `open`.
    pub(crate) fn from_open(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path, source },
            // What open(2) answers for a socket, and for a device file without a driver.
            _ if source.raw_os_error() == Some(libc::ENXIO) => {
                Self::OtherType { path, found: "socket or device without a driver" }
            }
            _ => Self::Other { path, source },
        }
    }
}
