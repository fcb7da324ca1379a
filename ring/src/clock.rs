//! The only clock readers of the project; everything else is told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use diskstream_wire::time::Nanos;

/// Time since boot, suspension included (`CLOCK_BOOTTIME`): a host that was paused must notice that it was.
///
/// A vDSO call, no system call. One reading per turn of an event loop is the rule.
#[must_use]
pub fn now() -> Nanos {
    read(libc::CLOCK_BOOTTIME)
}

fn read(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusively borrowed timespec that outlives the call; the standard library reads neither
    // a boot-time clock nor a thread's.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert!(result == 0, "both clocks exist since Linux 2.6.39");
    let seconds = u64::try_from(time.tv_sec).expect("such times are not negative");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// Processor time that the calling thread has had. A system call, 0.2 to 0.3 µs: for trials, not for every turn.
#[must_use]
pub fn thread_cpu() -> Nanos {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Seconds since 1970 (`CLOCK_REALTIME`), for ticket lifetimes and file names; zero on a host whose clock is before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one place that reads clocks")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_goes_forward() {
        let first = now();
        let second = now();
        assert!(first.0 > 0);
        assert!(second >= first);
    }

    #[test]
    fn a_thread_that_works_has_had_processor_time() {
        let before = thread_cpu();
        while thread_cpu() == before {
            std::hint::spin_loop();
        }
        assert!(thread_cpu() > before);
    }

    #[test]
    fn wall_clock_is_plausible() {
        // 2023-11-14, before this was written.
        assert!(unix_seconds() > 1_700_000_000);
    }
}
