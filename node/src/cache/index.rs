//! From key to frame: a fixed table of buckets, each one cache line.
//!
//! A bucket is a version word and seven entries `fingerprint:32 | frame+1:32`. Lookups read the entries and ask the frames;
//! they never write here and never look at the version, because a frame's own pin and key decide what is a hit. Changes
//! claim the bucket by making the version odd, with a compare-exchange from the even version at which they scanned it: so
//! an insertion knows that no other insertion of its key happened since its scan. Between claim and release lie two or
//! three stores, and no hit ever waits for them.
//!
//! Seven entries for one or two frames on average: a bucket overflows for about 1 key in 2,000 (Poisson with mean 2:
//! P(n > 7) = 0.0011; with mean 1: 10⁻⁵), and then a ready entry gives way (it is found no more, and ages out).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::sync::{AtomicU64, Relax};

const ENTRIES: usize = 7;

#[repr(align(64))]
struct Bucket {
    /// Even: open. Odd: somebody changes the entries.
    version: AtomicU64,
    entries: [AtomicU64; ENTRIES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

/// How an insertion ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Insertion {
    /// The frame is in.
    Done,
    /// The key has a frame already; nothing was changed.
    Exists,
    /// The bucket is full of entries that may not give way; nothing was changed.
    Crowded,
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
    mask: u64,
}

fn entry(hash: u64, frame: u32) -> u64 {
    (hash & !0xffff_ffff) | (u64::from(frame) + 1)
}

/// The frame of an entry; none for the empty one.
fn frame_of(entry: u64) -> Option<u32> {
    u32::try_from(entry & 0xffff_ffff).expect("32 bits").checked_sub(1)
}

impl Index {
    /// A table for `frames` frames.
    pub(super) fn new(frames: usize) -> Index {
        let count = frames.div_ceil(2).next_power_of_two();
        let buckets = (0..count)
            .map(|_| Bucket {
                version: AtomicU64::new(0),
                entries: std::array::from_fn(|_| AtomicU64::new(0)),
            })
            .collect();
        Index { buckets, mask: count as u64 - 1 }
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        let at = usize::try_from(hash & self.mask).expect("the table is indexed by usize");
        &self.buckets[at]
    }

    /// Asks for the line that [`Index::candidates`] will read.
    #[inline]
    pub(super) fn foresee(&self, hash: u64) {
        diskstream_ring::prefetch(self.bucket(hash));
    }

    /// Frames that may hold the key of this hash, at this moment.
    #[inline]
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.bucket(hash)
            .entries
            .iter()
            .map(|slot| slot.load(Acquire))
            .filter(move |&found| (found ^ hash) >> 32 == 0)
            .filter_map(frame_of)
    }

    /// Enters `frame` unless `same` says that a frame of the bucket holds the key already. `begin` runs while the entry
    /// is certain to be made and before anybody can find it. In a full bucket the entry for which `victim` gives the
    /// smallest number gives way.
    pub(super) fn insert(
        &self,
        hash: u64,
        frame: u32,
        same: impl Fn(u32) -> bool,
        victim: impl Fn(u32) -> Option<u8>,
        begin: impl FnOnce(),
    ) -> Insertion {
        let bucket = self.bucket(hash);
        let mut relax = Relax::new();
        loop {
            let version = bucket.version.load(Acquire);
            if version % 2 == 1 {
                relax.wait();
                continue;
            }
            if self.candidates(hash).any(&same) {
                return Insertion::Exists;
            }
            let Some(slot) = bucket.room(&victim) else { return Insertion::Crowded };
            // The scan loaded with `Acquire`: had it seen anything newer than `version`, this would fail.
            if bucket.claim(version) {
                begin();
                slot.store(entry(hash, frame), Release);
                bucket.version.store(version + 2, Release);
                return Insertion::Done;
            }
        }
    }

    /// Removes the entry that names `frame`, if there is one.
    pub(super) fn remove(&self, hash: u64, frame: u32) {
        let bucket = self.bucket(hash);
        let mut relax = Relax::new();
        loop {
            let version = bucket.version.load(Relaxed);
            if version % 2 == 1 || !bucket.claim(version) {
                relax.wait();
                continue;
            }
            for slot in &bucket.entries {
                if frame_of(slot.load(Relaxed)) == Some(frame) {
                    slot.store(0, Release);
                }
            }
            bucket.version.store(version + 2, Release);
            return;
        }
    }

    /// Every entry: bucket number and frame. For invariant checks.
    #[cfg(all(test, not(loom)))]
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        self.buckets.iter().zip(0u64..).flat_map(|(bucket, at)| {
            bucket.entries.iter().filter_map(move |slot| Some((at, frame_of(slot.load(Acquire))?)))
        })
    }

    /// The bucket number of a hash.
    #[cfg(all(test, not(loom)))]
    pub(super) fn home(&self, hash: u64) -> u64 {
        hash & self.mask
    }
}

impl Bucket {
    /// Where to put another entry.
    fn room(&self, victim: impl Fn(u32) -> Option<u8>) -> Option<&AtomicU64> {
        let mut best = None;
        for slot in &self.entries {
            let Some(frame) = frame_of(slot.load(Acquire)) else { return Some(slot) };
            if let Some(worth) = victim(frame)
                && best.is_none_or(|(least, _)| worth < least)
            {
                best = Some((worth, slot));
            }
        }
        best.map(|(_, slot)| slot)
    }

    fn claim(&self, version: u64) -> bool {
        self.version.compare_exchange(version, version + 1, Acquire, Relaxed).is_ok()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn put(index: &Index, hash: u64, frame: u32) -> Insertion {
        index.insert(hash, frame, |_| false, |_| None, || {})
    }

    #[test]
    fn holds_seven_to_a_bucket_and_lets_the_least_give_way() {
        let index = Index::new(1);
        for frame in 0..7 {
            assert_eq!(put(&index, u64::from(frame) << 32, frame), Insertion::Done);
        }
        assert_eq!(put(&index, 9 << 32, 9), Insertion::Crowded);
        let worth = |frame: u32| (frame != 3).then_some(if frame == 5 { 0 } else { 2 });
        assert_eq!(index.insert(9 << 32, 9, |_| false, worth, || {}), Insertion::Done);
        assert_eq!(index.candidates(5 << 32).count(), 0);
        assert_eq!(index.candidates(9 << 32).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn removes_by_frame_only() {
        let index = Index::new(1);
        put(&index, 1 << 32, 0);
        index.remove(1 << 32, 1);
        assert_eq!(index.candidates(1 << 32).collect::<Vec<_>>(), [0]);
        index.remove(1 << 32, 0);
        assert_eq!(index.entries().count(), 0);
    }

    #[test]
    fn an_existing_key_is_not_entered_twice() {
        let index = Index::new(4);
        put(&index, 8, 2);
        let mut begun = false;
        let second = index.insert(8, 3, |frame| frame == 2, |_| None, || begun = true);
        assert_eq!((second, begun), (Insertion::Exists, false));
    }
}
