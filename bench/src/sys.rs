//! System calls that std does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Makes the kernel end the process that `command` starts when the thread that starts it ends, however that comes about.
pub fn end_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: `prctl(PR_SET_PDEATHSIG, signal)` takes plain numbers, and touches only the calling process.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one async-signal-safe system call, allocates nothing and
    // takes no lock (`last_os_error` reads errno). Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(ask) };
}

/// A handle of a process: unlike its number it never comes to mean another one.
pub fn open_process(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_open(pid, flags)` takes plain numbers and gives a new descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })
}

/// Sends a signal to the process of a handle.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (fd, info) = (process.as_raw_fd(), ptr::null::<libc::siginfo_t>());
    // SAFETY: `pidfd_send_signal(pidfd, signal, info, flags)` with no info; `process` is open for the call.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A copy of another process's file descriptor, which stays open when that process ends. Allowed where tracing is: for
/// one's own children.
pub fn duplicate_of(process: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_getfd(pidfd, fd, flags)` takes plain numbers; `process` is open for the call.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// What a system call gave: a new descriptor, or -1 with errno set.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Raises the soft limit of open files to `wanted` where the hard one allows; gives the soft limit then.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, exclusively borrowed rlimit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        // SAFETY: `limit` is a valid rlimit that outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}
