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

/// Keeps the process's memory resident: what is mapped now at once, what is mapped later from its first touch on.
///
/// The two calls differ on purpose. Pages of the program must be in memory before they are needed, because they may
/// live on the disk that this process serves. Later mappings are anonymous (buffers, stacks): filling them at once would
/// cost two megabytes for each thread and gain nothing.
///
/// The limit is lifted first. Under a finite one, later allocations would fail when they reach it, which is worse than
/// not being locked; so without the right to lift it nothing is locked.
pub(super) fn lock_memory() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: setrlimit reads one rlimit through a pointer that is valid for the call and keeps nothing of it. The
    // standard library has no call for it.
    let lifted = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    if lifted != 0 {
        return Err(io::Error::last_os_error());
    }
    for flags in [libc::MCL_CURRENT, libc::MCL_FUTURE | libc::MCL_ONFAULT] {
        // SAFETY: mlockall takes flags only, touches no memory of ours, and only changes residency. Without MCL_CURRENT
        // the second call leaves what the first one locked as it is. The standard library has no call for it.
        let locked = unsafe { libc::mlockall(flags) };
        if locked != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Ignores a signal for the rest of the process's life.
pub(super) fn ignore_signal(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context; signal numbers that do not exist
    // give an error. The standard library cannot set dispositions.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}
