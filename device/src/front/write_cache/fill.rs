//! How full a write cache is: read by status and keep-alives without its lock, logged when it matters.
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Fill levels in percent that are logged when they are passed upwards.
const THRESHOLDS: [u8; 2] = [80, 95];
/// A threshold is armed again when the fill has fallen this many points below it, so that it does not chatter.
const REARM_POINTS: u8 = 5;

/// Gauges of one write cache.
///
/// Relaxed throughout: each value is exact, the set may be from neighbouring moments, nothing is published through it.
#[derive(Debug, Default)]
pub struct Fill {
    pub(super) ram_bytes: AtomicU64,
    pub(super) ram_capacity_bytes: AtomicU64,
    pub(super) overflow_bytes: AtomicU64,
    pub(super) overflow_capacity_bytes: AtomicU64,
    pub(super) writes_refused: AtomicU64,
    pub(super) overflow_errors: AtomicU64,
    refusing: AtomicBool,
    overflowing: AtomicBool,
    short_of_memory: AtomicBool,
    /// The highest threshold passed, as an index plus one.
    level: AtomicU8,
}

/// [`Fill`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FillSnapshot {
    /// Written units in RAM, in bytes.
    pub ram_bytes: u64,
    /// What RAM may hold.
    pub ram_capacity_bytes: u64,
    /// Written units in the overflow file, in bytes.
    pub overflow_bytes: u64,
    /// What the overflow file's file system had free at start; 0 without one. An estimate: others write there too.
    pub overflow_capacity_bytes: u64,
    /// Writes that failed with `ENOSPC`.
    pub writes_refused: u64,
    /// Reads, writes and syncs of the overflow file that failed otherwise.
    pub overflow_errors: u64,
}

impl FillSnapshot {
    /// Bytes of written units.
    pub fn used_bytes(&self) -> u64 {
        self.ram_bytes + self.overflow_bytes
    }

    /// What can be held.
    pub fn capacity_bytes(&self) -> u64 {
        self.ram_capacity_bytes + self.overflow_capacity_bytes
    }

    /// 0 to 100.
    pub fn percent(&self) -> u8 {
        let used = u128::from(self.used_bytes()) * 100;
        let percent = used / u128::from(self.capacity_bytes().max(1));
        u8::try_from(percent.min(100)).expect("at most 100")
    }
}

impl FillSnapshot {
    /// For `status`: bytes, counts, and the fill in percent.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "used_bytes": self.used_bytes(),
            "capacity_bytes": self.capacity_bytes(),
            "percent": self.percent(),
            "ram_bytes": self.ram_bytes,
            "ram_capacity_bytes": self.ram_capacity_bytes,
            "overflow_bytes": self.overflow_bytes,
            "overflow_capacity_bytes": self.overflow_capacity_bytes,
            "writes_refused_total": self.writes_refused,
            "overflow_errors_total": self.overflow_errors,
        })
    }
}

impl Fill {
    /// The values now.
    pub fn snapshot(&self) -> FillSnapshot {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        FillSnapshot {
            ram_bytes: load(&self.ram_bytes),
            ram_capacity_bytes: load(&self.ram_capacity_bytes),
            overflow_bytes: load(&self.overflow_bytes),
            overflow_capacity_bytes: load(&self.overflow_capacity_bytes),
            writes_refused: load(&self.writes_refused),
            overflow_errors: load(&self.overflow_errors),
        }
    }

    pub(super) fn set_capacity(&self, ram_bytes: u64, overflow_bytes: u64) {
        self.ram_capacity_bytes.store(ram_bytes, Ordering::Relaxed);
        self.overflow_capacity_bytes.store(overflow_bytes, Ordering::Relaxed);
    }

    /// Takes new values, and logs what they pass. Called under the cache's lock.
    pub(super) fn update(&self, ram_bytes: u64, overflow_bytes: u64) {
        let before = (self.ram_bytes.swap(ram_bytes, Ordering::Relaxed), {
            self.overflow_bytes.swap(overflow_bytes, Ordering::Relaxed)
        });
        if before == (ram_bytes, overflow_bytes) {
            return;
        }
        let snapshot = self.snapshot();
        let percent = snapshot.percent();
        let level = self.level.load(Ordering::Relaxed);
        let reached = THRESHOLDS.iter().filter(|threshold| percent >= **threshold).count();
        let held = THRESHOLDS
            .iter()
            .filter(|threshold| percent >= threshold.saturating_sub(REARM_POINTS))
            .count();
        let reached = u8::try_from(reached).expect("two thresholds");
        if reached > level {
            tracing::warn!(
                percent,
                used_bytes = snapshot.used_bytes(),
                capacity_bytes = snapshot.capacity_bytes(),
                "the write cache is filling up; when it is full, writes fail with ENOSPC: \
                 reboot the device or give it a larger --write-cache"
            );
            self.level.store(reached, Ordering::Relaxed);
        } else if usize::from(level) > held {
            self.level.store(u8::try_from(held).expect("two thresholds"), Ordering::Relaxed);
            self.refusing.store(false, Ordering::Relaxed);
        }
        if overflow_bytes > 0 && !self.overflowing.swap(true, Ordering::Relaxed) {
            tracing::info!(
                ram_bytes,
                "the write cache's RAM is full; new units go to the overflow file"
            );
        }
    }

    /// Counts a refused write; the first of a run is logged.
    pub(super) fn refuse(&self, why: &dyn std::fmt::Display) {
        self.writes_refused.fetch_add(1, Ordering::Relaxed);
        if !self.refusing.swap(true, Ordering::Relaxed) {
            let snapshot = self.snapshot();
            tracing::error!(
                ram_bytes = snapshot.ram_bytes,
                overflow_bytes = snapshot.overflow_bytes,
                "the write cache is full ({why}): writes of new units fail with ENOSPC, reads go on; \
                 reboot the device or give it a larger --write-cache"
            );
        }
    }

    /// The system had no memory although the declared size is not used; logged once.
    pub(super) fn memory_refused(&self, error: &dyn std::fmt::Display) {
        if !self.short_of_memory.swap(true, Ordering::Relaxed) {
            tracing::error!(
                ram_bytes = self.ram_bytes.load(Ordering::Relaxed),
                "the system has no memory for the write cache ({error}) before its declared size is reached; \
                 declare less RAM for --write-cache"
            );
        }
    }

    /// Counts and logs a failure of the overflow file that is not a lack of space.
    pub(super) fn overflow_failed(&self, error: &dyn std::fmt::Display) {
        self.overflow_errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            "the write cache's overflow file failed: {error}; check its disk, then reboot the device"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_rise_once_and_rearm_below() {
        let fill = Fill::default();
        fill.set_capacity(1000, 0);
        let level = || fill.level.load(Ordering::Relaxed);
        for (used, expected) in
            [(790, 0), (800, 1), (780, 1), (949, 1), (960, 2), (910, 2), (890, 1), (740, 0)]
        {
            fill.update(used, 0);
            assert_eq!(level(), expected, "at {used}");
        }
        fill.refuse(&"test");
        fill.update(2000, 0);
        let snapshot = fill.snapshot();
        assert_eq!((snapshot.percent(), snapshot.writes_refused), (100, 1));
        assert_eq!(snapshot.json()["writes_refused_total"], 1);
    }
}
