//! System calls that std does not offer.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel end the process that `command` starts when the thread that starts it ends, however that comes about.
pub fn end_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: `prctl(PR_SET_PDEATHSIG, signal)` takes plain numbers, and touches only the calling process.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one async-signal-safe system call, allocates nothing and
    // takes no lock (`last_os_error` reads errno). Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(ask) };
}
