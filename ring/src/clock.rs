//! The only clock readers of the project; everything else is told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use diskstream_wire::time::Nanos;

/// Time since boot, suspension included (`CLOCK_BOOTTIME`): a host that was paused must notice that it was.
///
/// A vDSO call, no system call. One reading per turn of an event loop is the rule.
#[must_use]
pub fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusively borrowed timespec that outlives the call; the standard library reads no
    // boot-time clock.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert!(result == 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    let seconds = u64::try_from(time.tv_sec).expect("time since boot is not negative");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
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
    fn wall_clock_is_plausible() {
        // 2023-11-14, before this was written.
        assert!(unix_seconds() > 1_700_000_000);
    }
}
