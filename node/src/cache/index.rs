//! From key to frame: a fixed table of buckets, each one cache line, and a list of frames behind those that overflow.
//!
//! ```text
//!   bucket: | version:32 | first:32 | entry | entry | entry | entry | entry | entry | entry |     entry: fingerprint:32 | frame+1:32
//!                             │
//!                             └──> frame ── next ──> frame ── next ──> none                       next: one word for each frame
//! ```
//!
//! Lookups read the entries, follow the list where there is one, and ask the frames; they never write here and never look at the
//! version, because a frame's own pin and key decide what is a hit. A list that changes under a lookup's eyes may lead it astray or hide a
//! block from it: then it finds nothing, or a block that it may well have, and an insertion looks again. Changes claim the bucket by
//! making the version odd, with a compare-exchange from the even version at which they scanned it: so an insertion knows that no other
//! insertion of its key happened since its scan. Between claim and release lie a few stores, and no hit ever waits for them.
//!
//! Seven entries for one or two frames on average: a bucket overflows for about 1 key in 2,000 (Poisson with mean 2: P(n > 7) = 0.0011;
//! with mean 1: 10⁻⁵). Those few must be found all the same: blocks that are kept never make room, so a bucket without an overflow would
//! shut out the eighth for ever. Two buckets for each key would do the same for most keys and not for all, at a second line for each miss.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::sync::{self, AtomicU32, AtomicU64, Mistake, Relax};

/// Entries in a bucket's own line. In models one, so that a second frame makes a list.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 7 };
/// Frames in a bucket's list at most, so that whoever makes keys collide makes no lookup long. Derived: 7 + 25 frames meet in one of a
/// million buckets by chance with a probability of 10⁻²² (Poisson, mean 2). Past it a ready entry gives way: it is found no more, and ages
/// out.
const LIST_MAX: usize = if cfg!(loom) { 1 } else { 25 };
/// One version in a link word.
const VERSION: u64 = 1 << 32;

#[repr(align(64))]
struct Bucket {
    /// `version:32 | first of the list, plus one:32`. Version even: open. Odd: somebody changes the entries or the list.
    link: AtomicU64,
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
    /// Line and list are full of entries that may not give way; nothing was changed.
    Crowded,
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
    mask: u64,
    /// For each frame that is in a list the one behind it, plus one. Written under the claim of the list's bucket.
    next: Box<[AtomicU32]>,
}

fn entry(hash: u64, frame: u32) -> u64 {
    (hash & !0xffff_ffff) | (u64::from(frame) + 1)
}

/// The frame of an entry, or the first of a link word's list; none for the empty one.
fn frame_of(entry: u64) -> Option<u32> {
    name_of(entry).checked_sub(1)
}

fn name_of(entry: u64) -> u32 {
    u32::try_from(entry & 0xffff_ffff).expect("32 bits")
}

impl Index {
    /// A table for `frames` frames.
    pub(super) fn new(frames: usize) -> Index {
        Index::with_buckets(frames.div_ceil(2).next_power_of_two(), frames)
    }

    fn with_buckets(count: usize, frames: usize) -> Index {
        let buckets = (0..count)
            .map(|_| Bucket {
                link: AtomicU64::new(0),
                entries: std::array::from_fn(|_| AtomicU64::new(0)),
            })
            .collect();
        let next = (0..frames).map(|_| AtomicU32::new(0)).collect();
        Index { buckets, mask: count as u64 - 1, next }
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
        let bucket = self.bucket(hash);
        bucket
            .entries
            .iter()
            .map(|slot| slot.load(Acquire))
            .filter(move |&found| (found ^ hash) >> 32 == 0)
            .filter_map(frame_of)
            .chain(self.listed(bucket))
    }

    /// The frames of a bucket's list. Not more than there can be, also when it changes meanwhile.
    #[inline]
    fn listed(&self, bucket: &Bucket) -> impl Iterator<Item = u32> {
        let mut before = None;
        let mut left = LIST_MAX;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            before = match before {
                None => frame_of(bucket.link.load(Acquire)),
                Some(frame) => self.after(frame).checked_sub(1),
            };
            before
        })
    }

    fn after(&self, frame: u32) -> u32 {
        self.next[frame as usize].load(Acquire)
    }

    /// Enters `frame` unless `same` says that a frame of the bucket holds the key already. `begin` runs while the entry
    /// is certain to be made and before anybody can find it. In a crowded bucket the entry for which `victim` gives the
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
            let link = bucket.link.load(Acquire);
            if self.candidates(hash).any(&same) {
                return Insertion::Exists;
            }
            // The scan loaded with `Acquire`: had it seen anything newer than `link`, this would fail.
            let Some(mut claim) = self.claim(bucket, link) else {
                relax.wait();
                continue;
            };
            let done = match claim.room(victim) {
                Some(place) => {
                    begin();
                    claim.put(place, hash, frame);
                    Insertion::Done
                }
                None => Insertion::Crowded,
            };
            claim.end();
            return done;
        }
    }

    /// Removes the entry that names `frame`, if there is one.
    pub(super) fn remove(&self, hash: u64, frame: u32) {
        let bucket = self.bucket(hash);
        let mut relax = Relax::new();
        loop {
            let Some(mut claim) = self.claim(bucket, bucket.link.load(Relaxed)) else {
                relax.wait();
                continue;
            };
            claim.remove(frame);
            claim.end();
            return;
        }
    }

    /// The right to change a bucket that is as it was when its word was read.
    fn claim<'a>(&'a self, bucket: &'a Bucket, link: u64) -> Option<Claim<'a>> {
        let link = if sync::planted(Mistake::ClaimAfterAnOldScan) {
            bucket.link.load(Relaxed)
        } else {
            link
        };
        let open = link & VERSION == 0;
        let claimed =
            open && bucket.link.compare_exchange(link, link | VERSION, Acquire, Relaxed).is_ok();
        claimed.then_some(Claim { index: self, bucket, link })
    }

    /// Every entry: bucket number and frame. For invariant checks.
    #[cfg(all(test, not(loom)))]
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        self.buckets.iter().zip(0u64..).flat_map(|(bucket, at)| {
            let line = bucket.entries.iter().filter_map(|slot| frame_of(slot.load(Acquire)));
            line.chain(self.listed(bucket)).map(move |frame| (at, frame))
        })
    }

    /// The bucket number of a hash.
    #[cfg(all(test, not(loom)))]
    pub(super) fn home(&self, hash: u64) -> u64 {
        hash & self.mask
    }

    /// Frames that lists hold.
    #[cfg(all(test, not(loom)))]
    pub(super) fn listed_frames(&self) -> usize {
        self.buckets.iter().map(|bucket| self.listed(bucket).count()).sum()
    }
}

/// The right to change one bucket, until [`Claim::end`].
struct Claim<'a> {
    index: &'a Index,
    bucket: &'a Bucket,
    /// The bucket's word as it was before the claim, but for the list's first frame, which may be another one by now.
    link: u64,
}

/// Where an entry is put.
#[derive(Clone, Copy)]
enum Place<'a> {
    Slot(&'a AtomicU64),
    /// In front of the list.
    List,
}

impl<'a> Claim<'a> {
    /// Where to put another entry: in the line, else in the list, else where the least worthy entry was.
    fn room(&mut self, victim: impl Fn(u32) -> Option<u8>) -> Option<Place<'a>> {
        let slots = || self.bucket.entries.iter().map(|slot| (slot, slot.load(Acquire)));
        if let Some((slot, _)) = slots().find(|&(_, entry)| frame_of(entry).is_none()) {
            return Some(Place::Slot(slot));
        }
        if self.list().count() < LIST_MAX {
            return Some(Place::List);
        }
        let in_line = slots().filter_map(|(slot, entry)| Some((frame_of(entry)?, Some(slot))));
        let in_list = self.list().map(|frame| (frame, None));
        let worths =
            in_line.chain(in_list).filter_map(|(frame, slot)| Some((victim(frame)?, frame, slot)));
        let (_, frame, slot) = worths.min_by_key(|&(worth, ..)| worth)?;
        Some(match slot {
            Some(slot) => Place::Slot(slot),
            None => {
                self.remove(frame);
                Place::List
            }
        })
    }

    fn put(&mut self, place: Place<'_>, hash: u64, frame: u32) {
        match place {
            Place::Slot(slot) => slot.store(entry(hash, frame), Release),
            Place::List => {
                self.index.next[frame as usize].store(name_of(self.link), Release);
                self.set_after(None, frame + 1);
            }
        }
    }

    fn remove(&mut self, frame: u32) {
        for slot in &self.bucket.entries {
            if frame_of(slot.load(Relaxed)) == Some(frame) {
                slot.store(0, Release);
                return;
            }
        }
        let mut before = None;
        while let Some(listed) = self.after(before).checked_sub(1) {
            if listed == frame {
                self.set_after(before, self.index.after(frame));
                return;
            }
            before = Some(listed);
        }
    }

    fn list(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(frame_of(self.link), |&frame| self.index.after(frame).checked_sub(1))
    }

    fn after(&self, before: Option<u32>) -> u32 {
        before.map_or(name_of(self.link), |frame| self.index.after(frame))
    }

    /// The link behind a listed frame, or the list's begin. The begin is for others to see at the end.
    fn set_after(&mut self, before: Option<u32>, name: u32) {
        match before {
            Some(frame) => self.index.next[frame as usize].store(name, Release),
            None => self.link = self.link & !0xffff_ffff | u64::from(name),
        }
    }

    fn end(self) {
        self.bucket.link.store(self.link.wrapping_add(2 * VERSION), Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const ALL: u32 = 32;

    fn put(index: &Index, hash: u64, frame: u32) -> Insertion {
        index.insert(hash, frame, |_| false, |_| None, || {})
    }

    /// One bucket with every place taken, by frames that are found by `frame << 32`.
    fn full() -> Index {
        let index = Index::with_buckets(1, 64);
        for frame in 0..ALL {
            assert_eq!(put(&index, u64::from(frame) << 32, frame), Insertion::Done);
        }
        index
    }

    fn finds(index: &Index, frame: u32) -> bool {
        index.candidates(u64::from(frame) << 32).any(|found| found == frame)
    }

    #[test]
    fn what_the_line_does_not_hold_is_found_in_the_list() {
        let index = full();
        assert!((0..ALL).all(|frame| finds(&index, frame)));
        assert_eq!(index.listed_frames(), LIST_MAX);
        assert!(!finds(&index, 40));
        assert_eq!(put(&index, 40 << 32, 40), Insertion::Crowded);
        assert_eq!(index.entries().count(), 32, "nothing was changed");
    }

    #[test]
    fn the_least_gives_way_wherever_it_is() {
        for least in [0, 6, 7, 20, 31] {
            let index = full();
            let worth = |frame: u32| (frame != 3).then_some(if frame == least { 0 } else { 2 });
            assert_eq!(index.insert(40 << 32, 40, |_| false, worth, || {}), Insertion::Done);
            assert!(!finds(&index, least) && finds(&index, 40));
            assert!((0..ALL).filter(|&frame| frame != least).all(|frame| finds(&index, frame)));
        }
    }

    #[test]
    fn a_list_loses_first_last_and_middle() {
        let index = full();
        // The last to come is the first of the list.
        let mut there: Vec<u32> = (0..ALL).collect();
        for gone in [31, 7, 15, 16, 30, 0, 8, 50] {
            index.remove(u64::from(gone) << 32, gone);
            there.retain(|&frame| frame != gone);
            let mut found: Vec<u32> = index.entries().map(|(_, frame)| frame).collect();
            found.sort_unstable();
            assert_eq!(found, there, "after {gone}");
        }
        // A frame that was in the list comes back, into the line's free slot and into the list.
        for again in [7, 31, 15] {
            assert_eq!(put(&index, u64::from(again) << 32, again), Insertion::Done);
            assert!(finds(&index, again));
        }
        assert_eq!(index.entries().count(), there.len() + 3);
    }

    #[test]
    fn removes_by_frame_only() {
        let index = Index::new(2);
        put(&index, 1 << 32, 0);
        index.remove(1 << 32, 1);
        assert_eq!(index.candidates(1 << 32).collect::<Vec<_>>(), [0]);
        index.remove(1 << 32, 0);
        assert_eq!(index.entries().count(), 0);
    }

    #[test]
    fn an_existing_key_is_not_entered_twice() {
        let index = full();
        for there in [2, 20] {
            let mut begun = false;
            let hash = u64::from(there) << 32;
            let second = index.insert(hash, 40, |frame| frame == there, |_| None, || begun = true);
            assert_eq!((second, begun), (Insertion::Exists, false));
        }
    }

    #[test]
    fn versions_wrap_and_leave_the_list_alone() {
        let index = full();
        let last = index.buckets[0].link.load(Relaxed) | (u64::from(u32::MAX) - 1) << 32;
        index.buckets[0].link.store(last, Relaxed);
        index.remove(0, 0);
        assert_eq!(index.buckets[0].link.load(Relaxed) >> 32, 0);
        assert!((1..ALL).all(|frame| finds(&index, frame)));
    }
}
