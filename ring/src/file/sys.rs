//! The two calls about direct I/O that the standard library has no word for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Alignment;

/// What direct reads of this file must be aligned to; `None` when it has no direct I/O; an error when the kernel
/// cannot say (before 6.1).
pub(super) fn direct_alignment(file: BorrowedFd<'_>) -> io::Result<Option<Alignment>> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open for the borrow, the path is a static empty C string (AT_EMPTY_PATH means the
    // descriptor itself), and `status` is a writable statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            status.as_mut_ptr(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid statx (integers only), and the kernel overwrote them.
    let status = unsafe { status.assume_init() };
    if status.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let alignment = Alignment {
        memory_bytes: status.stx_dio_mem_align,
        offset_bytes: status.stx_dio_offset_align,
    };
    let sane = alignment.memory_bytes.is_power_of_two() && alignment.offset_bytes.is_power_of_two();
    Ok(sane.then_some(alignment))
}

/// `f_type` of FUSE (`FUSE_SUPER_MAGIC`, linux/magic.h).
const FUSE: libc::c_long = 0x6573_5546;

/// Whether its file system may block whoever starts a read, in spite of `IOCB_NOWAIT`.
pub(super) fn may_block(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open for the borrow, and `status` is a writable statfs.
    if unsafe { libc::fstatfs(file.as_raw_fd(), status.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid statfs (integers only), and the kernel overwrote them.
    Ok(unsafe { status.assume_init() }.f_type == FUSE)
}

/// Sets `O_DIRECT` on the open file description.
pub(super) fn set_direct(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument and touches no memory of ours.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: F_SETFL takes an integer and touches no memory of ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_DIRECT) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
