//! Which blocks boots read, in the order of first use, so that the next boots find them in memory.
//!
//! Shards note, a thread of the control side collects. Only sessions of devices that start count, and only in their first minute. All boots
//! of that time are one record: a thousand devices that start together read the same.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use diskstream_vdisk::WARM_BLOCKS_MAX;
use diskstream_wire::time::Nanos;

/// How long after its session's begin a device counts as starting. Guessed: a boot from a local SSD takes half a minute; later reads are
/// those of whatever its user does.
pub(super) const BOOT_FOR: Nanos = Nanos::from_secs(60);

/// What boots of one vDisk read since the last collection.
#[derive(Debug)]
pub struct Recorder {
    /// One bit for each block that is in `order`.
    seen: Box<[AtomicU64]>,
    order: Box<[AtomicU32]>,
    /// Blocks noted; may run past the end of `order`.
    noted: AtomicU32,
    /// When the first one was noted, in nanoseconds; 0: none was.
    began: AtomicU64,
}

impl Recorder {
    /// A recorder for a vDisk of so many blocks. Takes a bit for each, and 64 KiB.
    #[must_use]
    pub fn new(blocks: u64) -> Recorder {
        let words =
            usize::try_from(blocks.div_ceil(64)).expect("a bit for each block of an image fits");
        Recorder {
            seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
            order: (0..WARM_BLOCKS_MAX).map(|_| AtomicU32::new(0)).collect(),
            noted: AtomicU32::new(0),
            began: AtomicU64::new(0),
        }
    }

    /// A device that starts reads a block. Costs one read of a shared word, but for the first time.
    #[inline]
    pub(super) fn note(&self, block: u64, now: Nanos) {
        let Some(word) = usize::try_from(block / 64).ok().and_then(|at| self.seen.get(at)) else {
            return;
        };
        if word.load(Relaxed) >> (block % 64) & 1 == 0 {
            self.note_first(block, word, now);
        }
    }

    #[cold]
    fn note_first(&self, block: u64, word: &AtomicU64, now: Nanos) {
        let (bit, Ok(block)) = (1 << (block % 64), u32::try_from(block)) else { return };
        // A full record stops here: its bits say only what is in it.
        if self.noted.load(Relaxed) as usize >= self.order.len()
            || word.fetch_or(bit, Relaxed) & bit != 0
        {
            return;
        }
        if self.began.load(Relaxed) == 0 {
            self.began.store(now.0.max(1), Relaxed);
        }
        let at = self.noted.fetch_add(1, Relaxed);
        if let Some(slot) = self.order.get(at as usize) {
            slot.store(block, Relaxed);
        }
    }

    /// The blocks of a record that has gone on for a boot's time, or, with `all`, of what there is. The next one begins. What shards note at
    /// the same moment may be lost: a record is a hint.
    #[must_use]
    pub fn collect(&self, now: Nanos, all: bool) -> Option<Vec<u32>> {
        let began = Nanos(self.began.load(Relaxed));
        if began == Nanos::ZERO || !(all || now.since(began) >= BOOT_FOR) {
            return None;
        }
        let count = (self.noted.load(Relaxed) as usize).min(self.order.len());
        let blocks = self.order[..count].iter().map(|block| block.load(Relaxed)).collect();
        self.seen.iter().for_each(|word| word.store(0, Relaxed));
        self.began.store(0, Relaxed);
        self.noted.store(0, Relaxed);
        Some(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_each_block_once_in_order_and_begins_anew() {
        let recorder = Recorder::new(1000);
        assert_eq!(recorder.collect(Nanos::from_secs(100), true), None);
        for block in [7, 3, 7, 999, 3, 1024, u64::MAX] {
            recorder.note(block, Nanos::from_secs(5));
        }
        assert_eq!(recorder.collect(Nanos::from_secs(64), false), None, "boots still go on");
        assert_eq!(recorder.collect(Nanos::from_secs(65), false), Some(vec![7, 3, 999]));
        assert_eq!(recorder.collect(Nanos::from_secs(200), true), None);
        recorder.note(3, Nanos::from_secs(300));
        assert_eq!(recorder.collect(Nanos::from_secs(300), true), Some(vec![3]));
    }

    #[test]
    fn a_record_is_bounded() {
        let recorder = Recorder::new(1 << 20);
        let most = WARM_BLOCKS_MAX as u64;
        (0..most + 500).for_each(|block| recorder.note(block, Nanos(1)));
        assert_eq!(
            recorder.collect(Nanos(2), true).map(|blocks| blocks.len()),
            Some(WARM_BLOCKS_MAX)
        );
    }
}
