//! Which blocks boots read, in the order of first use, so that the next boots find them in memory.
//!
//! Shards note, a thread of the control side collects. Only sessions of devices that start count, and only in their first minute. All boots
//! of that time are one record, however they overlap: a thousand devices that start together read the same, and one that starts a
//! little later would leave a record of its own with nothing but its end in it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use diskstream_vdisk::WARM_BLOCKS_MAX;
use diskstream_wire::time::Nanos;

/// How long after its session's begin a device counts as starting. Guessed: a boot from a local SSD takes half a minute; later reads are
/// those of whatever its user does.
pub(super) const BOOT_FOR: Nanos = Nanos::from_secs(60);
/// A record is closed at this age even if devices still start. Guessed: where one always does, all that was learned would be lost with
/// the node.
const RECORD_FOR: Nanos = Nanos::from_secs(600);

/// What boots of one vDisk read since the last collection.
#[derive(Debug)]
pub struct Recorder {
    /// One bit for each block that is in `order`.
    seen: Box<[AtomicU64]>,
    order: Box<[AtomicU32]>,
    /// Blocks noted; may run past the end of `order`.
    noted: AtomicU32,
    /// When the record began, in nanoseconds; 0: nobody has read.
    began: AtomicU64,
    /// When the last of its boots has had its minute.
    until: AtomicU64,
    /// When the first session came of which the record has all: one that did not begin before it. 0: there is none.
    whole: AtomicU64,
    /// When the record before it was closed.
    closed: AtomicU64,
}

/// What was collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Blocks, in the order of first use.
    pub blocks: Vec<u32>,
    /// At least one boot is in it from its begin to its end: what is not in the record, boots do not read. Otherwise it says
    /// nothing about what is missing.
    pub whole: bool,
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
            until: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }
    }

    /// A device that starts reads, whose session began at `opened`. Costs two reads of shared words, but for its first time.
    #[inline]
    pub(crate) fn boots(&self, opened: Nanos, now: Nanos) {
        let until = (opened + BOOT_FOR).0;
        if self.until.load(Relaxed) < until || self.began.load(Relaxed) == 0 {
            self.boots_first(opened, until, now);
        }
    }

    #[cold]
    fn boots_first(&self, opened: Nanos, until: u64, now: Nanos) {
        self.until.fetch_max(until, Relaxed);
        let _ = self.began.compare_exchange(0, now.0.max(1), Relaxed, Relaxed);
        if opened.0 >= self.closed.load(Relaxed) {
            let _ = self.whole.compare_exchange(0, opened.0.max(1), Relaxed, Relaxed);
        }
    }

    /// A device that starts reads a block. Costs one read of a shared word, but for the first time.
    #[inline]
    pub(crate) fn note(&self, block: u64) {
        let Some(word) = usize::try_from(block / 64).ok().and_then(|at| self.seen.get(at)) else {
            return;
        };
        if word.load(Relaxed) >> (block % 64) & 1 == 0 {
            self.note_first(block, word);
        }
    }

    #[cold]
    fn note_first(&self, block: u64, word: &AtomicU64) {
        let (bit, Ok(block)) = (1 << (block % 64), u32::try_from(block)) else { return };
        // A full record stops here: its bits say only what is in it.
        if self.noted.load(Relaxed) as usize >= self.order.len()
            || word.fetch_or(bit, Relaxed) & bit != 0
        {
            return;
        }
        let at = self.noted.fetch_add(1, Relaxed);
        if let Some(slot) = self.order.get(at as usize) {
            slot.store(block, Relaxed);
        }
    }

    /// The record, once none of its boots is in its minute any more, or it is old; or, with `end`, whatever there is. The next one
    /// begins. What shards note at the same moment may be lost: a record is a hint.
    #[must_use]
    pub fn collect(&self, now: Nanos, end: bool) -> Option<Record> {
        let began = Nanos(self.began.load(Relaxed));
        let over = now >= Nanos(self.until.load(Relaxed)) || now.since(began) >= RECORD_FOR;
        if began == Nanos::ZERO || !(end || over) {
            return None;
        }
        let whole = Nanos(self.whole.load(Relaxed));
        let whole = whole != Nanos::ZERO && now.since(whole) >= BOOT_FOR;
        let count = (self.noted.load(Relaxed) as usize).min(self.order.len());
        let blocks = self.order[..count].iter().map(|block| block.load(Relaxed)).collect();
        self.closed.store(now.0, Relaxed);
        self.seen.iter().for_each(|word| word.store(0, Relaxed));
        self.noted.store(0, Relaxed);
        self.whole.store(0, Relaxed);
        self.began.store(0, Relaxed);
        Some(Record { blocks, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    /// A device whose session began at `opened` reads these.
    fn read(recorder: &Recorder, opened: u64, now: u64, blocks: &[u64]) {
        recorder.boots(at(opened), at(now));
        blocks.iter().for_each(|&block| recorder.note(block));
    }

    fn record(blocks: &[u32], whole: bool) -> Option<Record> {
        Some(Record { blocks: blocks.to_vec(), whole })
    }

    #[test]
    fn notes_each_block_once_in_order_and_begins_anew() {
        let recorder = Recorder::new(1000);
        assert_eq!(recorder.collect(at(100), true), None);
        read(&recorder, 5, 6, &[7, 3, 7, 999, 3, 1024, u64::MAX]);
        assert_eq!(recorder.collect(at(64), false), None, "the boot still goes on");
        assert_eq!(recorder.collect(at(65), false), record(&[7, 3, 999], true));
        assert_eq!(recorder.collect(at(200), true), None);
        read(&recorder, 300, 300, &[3]);
        assert_eq!(recorder.collect(at(310), true), record(&[3], false), "a boot that is cut off");
    }

    #[test]
    fn boots_that_overlap_are_one_record() {
        let recorder = Recorder::new(1000);
        read(&recorder, 0, 1, &[1, 2, 3]);
        read(&recorder, 5, 6, &[1, 2]);
        assert_eq!(recorder.collect(at(60), false), None, "the second one still goes on");
        read(&recorder, 5, 64, &[9]);
        assert_eq!(recorder.collect(at(65), false), record(&[1, 2, 3, 9], true));
    }

    #[test]
    fn devices_that_always_start_do_not_keep_a_record_open_for_ever() {
        let recorder = Recorder::new(1000);
        for n in 0..20 {
            assert_eq!(recorder.collect(at(100 + n * 30), false), None);
            read(&recorder, 100 + n * 30, 100 + n * 30, &[n]);
        }
        let all: Vec<u32> = (0..20).collect();
        assert_eq!(recorder.collect(at(700), false), record(&all, true));
        // Of the last device only the end is in the next record; of one that begins later everything is.
        read(&recorder, 670, 701, &[40]);
        read(&recorder, 710, 711, &[41]);
        assert_eq!(recorder.collect(at(770), false), record(&[40, 41], true));
    }

    #[test]
    fn the_end_of_a_boot_alone_says_nothing_about_what_boots_do_not_read() {
        let recorder = Recorder::new(1000);
        read(&recorder, 100, 101, &[1, 2]);
        assert_eq!(recorder.collect(at(110), true), record(&[1, 2], false));
        read(&recorder, 100, 111, &[3]);
        assert_eq!(recorder.collect(at(160), false), record(&[3], false));
    }

    #[test]
    fn a_record_is_bounded() {
        let recorder = Recorder::new(1 << 20);
        let most = WARM_BLOCKS_MAX as u64;
        recorder.boots(at(1), at(1));
        (0..most + 500).for_each(|block| recorder.note(block));
        assert_eq!(
            recorder.collect(at(2), true).map(|record| record.blocks.len()),
            Some(WARM_BLOCKS_MAX)
        );
    }
}
