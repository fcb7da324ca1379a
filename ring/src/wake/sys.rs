//! The eventfd behind a waker.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Blocking on purpose: a ring's read of a non-blocking descriptor fails at once instead of waiting.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to the counter. It never blocks: that takes 2^64 wake-ups without one being reaped.
pub(super) fn add_one(event: &OwnedFd) {
    // SAFETY: the descriptor is open for the borrow; ManuallyDrop keeps the borrowed file from closing it.
    let file = unsafe { File::from_raw_fd(event.as_raw_fd()) };
    let mut file = std::mem::ManuallyDrop::new(file);
    loop {
        match file.write(&1_u64.to_ne_bytes()) {
            Ok(8) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => panic!("an eventfd takes eight bytes: {other:?}"),
        }
    }
}
