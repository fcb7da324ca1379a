//! Waiting for SIGTERM and SIGINT on the main thread.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// The signals that end a device; blocked in all threads, waited for by one.
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks them. Threads that are started later inherit this.
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the pointer is to a sigset_t that the call fills in; the standard library has no signals.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset initialised it; it fails only for a bad address.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: `set` is an initialised, exclusively borrowed set, and the signal exists.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialised and outlives the call; the old mask is not asked for.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(Signals { set })
    }

    /// The signal that came within `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<i32> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the set and the timespec are initialised and outlive the call; no details of the signal are asked for.
        let signal = unsafe {
            libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const timeout)
        };
        (signal > 0).then_some(signal)
    }
}
