//! System calls that the standard library does not offer.
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// Bytes that an unprivileged writer may still write on `file`'s file system.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let mut answer = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `answer` has room for one statvfs, which is
    // all that the call writes. The standard library has no call for free space.
    let result = unsafe { libc::fstatvfs(file.as_raw_fd(), answer.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the whole structure (POSIX fstatvfs).
    let answer = unsafe { answer.assume_init() };
    Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
}
