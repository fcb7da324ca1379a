//! System calls that std does not offer. Thin: each returns `io::Result`, owns what it opens, and
//! says what its errors mean.
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns a system call's -1 into the reason.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes `O_NONBLOCK` off a description.
pub(crate) fn set_blocking(file: &File) -> io::Result<()> {
    // SAFETY: passes integers only; the descriptor is open, since `file` is borrowed.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) })?;
    Ok(())
}

/// `lseek` with a question instead of a movement. It moves the description's cursor, which
/// nothing here uses: all reads name their offset. ENXIO means "nothing more of that kind".
fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: passes integers only; the descriptor is open, since `file` is borrowed.
    let found = unsafe { libc::lseek64(file.as_raw_fd(), from, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
}

/// The first offset at or after `from` that holds data.
pub(crate) fn seek_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, libc::SEEK_DATA)
}

/// The first offset at or after `from` that lies in a hole; the end of the file counts as one.
pub(crate) fn seek_hole(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, libc::SEEK_HOLE)
}

/// What direct I/O on this file must be aligned to: (memory, offset and length), in bytes.
/// `None`: the file takes no direct I/O, or the kernel (before 6.1) or file system does not say.
pub(crate) fn direct_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a literal C string, `answer` is a writable statx as the call demands,
    // and the descriptor is open, since `file` is borrowed.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    check(result)?;
    // SAFETY: all bytes were zero before the call, and zero is a valid value of every field.
    let answer = unsafe { answer.assume_init() };
    if answer.stx_mask & libc::STATX_DIOALIGN == 0 || answer.stx_dio_offset_align == 0 {
        return Ok(None);
    }
    Ok(Some((answer.stx_dio_mem_align, answer.stx_dio_offset_align)))
}

/// `preadv2` with `RWF_DONTCACHE`: what this read brings into the page cache leaves with it, what
/// was there stays. EOPNOTSUPP or EINVAL: this kernel (before 6.14) or file system cannot.
pub(crate) fn read_uncached(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: `iov` names exactly `into`, which is borrowed mutably for the whole call; the
    // kernel keeps neither.
    let read =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const iov, 1, offset, libc::RWF_DONTCACHE) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Advises the kernel to drop clean pages of a range from its cache. Only advice: errors are
/// of no consequence and are not reported.
pub(crate) fn drop_cached(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: passes integers only; the descriptor is open, since `file` is borrowed.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// `F_SETSIG` of Linux (`include/uapi/asm-generic/fcntl.h`); libc lacks it for glibc targets.
const F_SETSIG: libc::c_int = 10;

/// Whether somebody has the file open for writing: asked by taking a read lease and giving it
/// back. `Some(true)`: yes. `None`: the kernel will not say (not the file's owner and without
/// CAP_LEASE, or a file system without leases).
///
/// `file` must be a description of its own, opened read-only, and is only good for this.
pub(crate) fn has_writer(file: &File) -> Option<bool> {
    // Breaking a lease raises a signal; SIGIO, the default one, would end the process. SIGURG is
    // ignored unless somebody asks for it, and an ignored signal interrupts no system call.
    // SAFETY: passes integers only; the descriptor is open, since `file` is borrowed.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    check(set).ok()?;
    // SAFETY: as above.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    match check(taken) {
        Ok(_) => {
            // SAFETY: as above.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
            Some(false)
        }
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Some(true),
        Err(_) => None,
    }
}

/// A new inotify instance: non-blocking, closed on exec. EMFILE: the user's limit
/// `fs.inotify.max_user_instances` is reached.
pub(crate) fn inotify() -> io::Result<OwnedFd> {
    // SAFETY: passes integers only.
    let fd = check(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
    // SAFETY: the call has just opened `fd`, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds a watch of `events` on the file that `path` names. ENOSPC: the user's limit
/// `fs.inotify.max_user_watches` is reached.
pub(crate) fn inotify_add(inotify: RawFd, path: &Path, events: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string that outlives the call; the rest are integers, and a closed
    // descriptor would only be refused.
    check(unsafe { libc::inotify_add_watch(inotify, path.as_ptr(), events) })?;
    Ok(())
}

/// Makes a hole in a file: what `fallocate -p` does. For tests.
#[cfg(test)]
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: passes integers only; the descriptor is open, since `file` is borrowed.
    check(unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, len) })?;
    Ok(())
}

/// Waits until a descriptor is readable, at most this long; whether it is. For tests.
#[cfg(test)]
pub(crate) fn await_readable(fd: std::os::fd::BorrowedFd<'_>, timeout_ms: i32) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: passes one writable pollfd and its count; the descriptor is borrowed.
    let ready = unsafe { libc::poll(&raw mut entry, 1, timeout_ms) };
    ready == 1
}
