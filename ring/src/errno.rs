//! The kernel's reason for a failed operation, as a plain value.

use std::fmt;
use std::io;

/// An `errno` value, positive. `Copy` and comparable, so that pure code and the simulator can carry it; printed with
/// the system's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(pub i32);

impl Errno {
    /// A full send buffer or queue: try later.
    pub const EAGAIN: Errno = Errno(libc::EAGAIN);
    /// The operation was cancelled because its socket or ring goes away.
    pub const ECANCELED: Errno = Errno(libc::ECANCELED);
    /// The datagram is longer than the path allows.
    pub const EMSGSIZE: Errno = Errno(libc::EMSGSIZE);
    /// Nobody listens at the peer (connected sockets only).
    pub const ECONNREFUSED: Errno = Errno(libc::ECONNREFUSED);
    /// The medium or the device failed; on a segmented send: the interface cannot checksum.
    pub const EIO: Errno = Errno(libc::EIO);
    /// A malformed request, such as an unaligned direct read.
    pub const EINVAL: Errno = Errno(libc::EINVAL);

    /// The number behind an I/O error; `EIO` for one that the system did not cause.
    #[must_use]
    pub fn of(error: &io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// True when nothing is wrong but a full queue: the caller drops or retries, and counts.
    #[must_use]
    pub fn is_throttle(self) -> bool {
        matches!(self.0, libc::EAGAIN | libc::ENOBUFS | libc::EBUSY)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}
