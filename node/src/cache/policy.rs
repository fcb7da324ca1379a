//! Which frame to reuse: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), approximated.
//!
//! A new block enters the *small* queue (a twentieth of the frames). Leaving it, a block that was used in at least two epochs
//! moves to the *main* queue, any other is evicted and remembered in the *ghost* table; a block that comes back while it is
//! remembered enters the main queue at once. So a scan flows through the small queue and leaves the boot set alone.
//!
//! A ready frame is in exactly one of the two queues, also when the index has forgotten it; only one that is to be kept is in
//! none. Queues hold frame numbers and
//! are taken from by whichever shard needs a frame; what makes an eviction safe is the frame's word alone.

use std::sync::atomic::Ordering::Relaxed;

use super::frame::{Frame, Purpose};
use super::pins::PinTables;
use super::sync::{AtomicU32, AtomicU64, Fifo};

/// Frames looked at before the cache calls itself full. Guessed: at some 20 ns each well below a disk read; in the second
/// half uses no longer count, so only a row of pinned frames this long makes a spurious "full".
const TRIES_MAX: usize = 512;
/// One in so many frames is for newcomers. The paper has ten. Measured with `diskstream-bench hit-rate`: in a cache of a quarter of the
/// working set, boots beside a scan hit 94.8 % instead of 92.7, and 93.2 instead of 91.2 where the scan is four times as fast; caches of a
/// tenth lose one or two points.
const SMALL_SHARE: usize = 20;
/// Epochs during which the whole cache is replaced once by misses. The small queue lasts for six of them.
const EPOCHS_PER_TURNOVER: usize = 128;
/// Turnovers of the cache for which an evicted newcomer is remembered. The paper has one. Measured like [`SMALL_SHARE`]: a fast scan
/// makes turnovers short, and with two of them 93.2 % hit instead of 91.4.
const GHOST_TURNOVERS: usize = 2;
/// Uses (in different epochs) that take a block from the small queue to the main one. From the paper.
const PROMOTE_USES: u8 = 2;

pub(super) struct Policy {
    small: Fifo,
    main: Fifo,
    small_target: usize,
    tries: usize,
    /// `fingerprint:32 | eviction number:32`, direct-mapped by hash; a collision forgets the older.
    ghost: Box<[AtomicU64]>,
    ghost_age_max: u32,
    loads_per_epoch: u64,
    /// Read by every hit, written once per epoch: on a line of its own.
    epoch: Lonely<AtomicU32>,
    counts: Lonely<Counts>,
}

#[repr(align(64))]
struct Lonely<T>(T);

/// Written on misses only.
struct Counts {
    loads: AtomicU64,
    evictions: AtomicU64,
    promotions: AtomicU64,
    ghost_hits: AtomicU64,
    ahead: AtomicU64,
    ahead_used: AtomicU64,
    ahead_wasted: AtomicU64,
    kept: AtomicU64,
}

/// What the policy did so far, and holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PolicyStats {
    pub(super) small: usize,
    pub(super) main: usize,
    pub(super) loads: u64,
    pub(super) evictions: u64,
    pub(super) promotions: u64,
    pub(super) ghost_hits: u64,
    pub(super) ahead: u64,
    pub(super) ahead_used: u64,
    pub(super) ahead_wasted: u64,
    pub(super) kept: u64,
}

impl Policy {
    /// For as many frames as can hold a block.
    pub(super) fn new(frames: usize) -> Policy {
        let ghosts = (frames * GHOST_TURNOVERS).next_power_of_two();
        Policy {
            small: Fifo::new(frames),
            main: Fifo::new(frames),
            small_target: (frames / SMALL_SHARE).max(1),
            // Each frame is met often enough to lose its uses and then to be taken regardless: (4 + 1) in each half.
            tries: (frames * 10).min(TRIES_MAX),
            ghost: (0..ghosts).map(|_| AtomicU64::new(0)).collect(),
            ghost_age_max: u32::try_from(frames * GHOST_TURNOVERS).unwrap_or(u32::MAX),
            loads_per_epoch: (frames / EPOCHS_PER_TURNOVER).max(1) as u64,
            epoch: Lonely(AtomicU32::new(1)),
            counts: Lonely(Counts {
                loads: AtomicU64::new(0),
                evictions: AtomicU64::new(0),
                promotions: AtomicU64::new(0),
                ghost_hits: AtomicU64::new(0),
                ahead: AtomicU64::new(0),
                ahead_used: AtomicU64::new(0),
                ahead_wasted: AtomicU64::new(0),
                kept: AtomicU64::new(0),
            }),
        }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.0.load(Relaxed)
    }

    /// Starts the next epoch. Two threads may do so at once and it advances once: no harm.
    pub(super) fn advance_epoch(&self) {
        self.epoch.0.store(self.epoch().wrapping_add(1), Relaxed);
    }

    /// Takes in a frame that has just become ready.
    pub(super) fn admit(&self, frame: u32, hash: u64, purpose: Purpose) {
        let loads = self.counts.0.loads.fetch_add(1, Relaxed) + 1;
        if loads.is_multiple_of(self.loads_per_epoch) {
            self.advance_epoch();
        }
        match purpose {
            Purpose::Keep => {
                self.counts.0.kept.fetch_add(1, Relaxed);
                return;
            }
            // A guess proves nothing, also where the block was here before.
            Purpose::Ahead => {
                self.counts.0.ahead.fetch_add(1, Relaxed);
                return self.small.push(frame);
            }
            Purpose::Demand => {}
        }
        if self.forget_ghost(hash) {
            self.counts.0.ghost_hits.fetch_add(1, Relaxed);
            self.main.push(frame);
        } else {
            self.small.push(frame);
        }
    }

    /// A block that was read ahead is asked for, for the first time.
    #[cold]
    pub(super) fn ahead_used(&self) {
        self.counts.0.ahead_used.fetch_add(1, Relaxed);
    }

    /// Takes a frame out of its queue and its phase to `Evicting`; none when all that were looked at are pinned.
    pub(super) fn evict(
        &self,
        frames: &[Frame],
        pins: &PinTables,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let mut skip_small = false;
        for attempt in 0..self.tries {
            let regardless = attempt >= self.tries / 2;
            let small_is_due = self.small.len() >= self.small_target;
            let small_first =
                if regardless { attempt % 2 == 0 } else { small_is_due && !skip_small };
            let (from_small, number) = self.pop(small_first)?;
            let frame = &frames[number as usize];
            skip_small = false;
            let promotes = from_small && frame.uses() >= PROMOTE_USES;
            let stays = !from_small && frame.uses() > 0;
            if !regardless && (promotes || stays) {
                self.keep(number, frame, promotes);
            } else if frame.evict(number, pins) {
                self.counts.0.evictions.fetch_add(1, Relaxed);
                if frame.is_untouched() {
                    self.counts.0.ahead_wasted.fetch_add(1, Relaxed);
                } else if from_small {
                    self.remember_ghost(hash_of(number));
                }
                return Some(number);
            } else {
                // Pinned: back to the end of its queue, and look at the other queue next.
                skip_small = from_small;
                let queue = if from_small { &self.small } else { &self.main };
                queue.push(number);
            }
        }
        None
    }

    pub(super) fn stats(&self) -> PolicyStats {
        let counts = &self.counts.0;
        PolicyStats {
            small: self.small.len(),
            main: self.main.len(),
            loads: counts.loads.load(Relaxed),
            evictions: counts.evictions.load(Relaxed),
            promotions: counts.promotions.load(Relaxed),
            ghost_hits: counts.ghost_hits.load(Relaxed),
            ahead: counts.ahead.load(Relaxed),
            ahead_used: counts.ahead_used.load(Relaxed),
            ahead_wasted: counts.ahead_wasted.load(Relaxed),
            kept: counts.kept.load(Relaxed),
        }
    }

    /// The next frame and whether it came from the small queue; none when both are empty.
    fn pop(&self, small_first: bool) -> Option<(bool, u32)> {
        let small = || self.small.pop().map(|number| (true, number));
        let main = || self.main.pop().map(|number| (false, number));
        if small_first { small().or_else(main) } else { main().or_else(small) }
    }

    /// To the end of the main queue: promoted, or with one use less.
    fn keep(&self, number: u32, frame: &Frame, promoted: bool) {
        if promoted {
            self.counts.0.promotions.fetch_add(1, Relaxed);
            frame.set_uses(0);
        } else {
            frame.set_uses(frame.uses().saturating_sub(1));
        }
        self.main.push(number);
    }

    fn ghost(&self, hash: u64) -> &AtomicU64 {
        // Other bits than the index's bucket, so that neighbours there are no neighbours here.
        let at = usize::try_from(hash >> 16).expect("48 bits") & (self.ghost.len() - 1);
        &self.ghost[at]
    }

    fn eviction_number(&self) -> u64 {
        self.counts.0.evictions.load(Relaxed) & 0xffff_ffff
    }

    fn remember_ghost(&self, hash: u64) {
        self.ghost(hash).store((hash & !0xffff_ffff) | self.eviction_number(), Relaxed);
    }

    /// Whether the block was evicted from the small queue within the last [`GHOST_TURNOVERS`]; asks once.
    fn forget_ghost(&self, hash: u64) -> bool {
        let ghost = self.ghost(hash);
        let remembered = ghost.load(Relaxed);
        if remembered == 0 || (remembered ^ hash) >> 32 != 0 {
            return false;
        }
        ghost.store(0, Relaxed);
        let age = self.eviction_number().wrapping_sub(remembered) & 0xffff_ffff;
        age <= u64::from(self.ghost_age_max)
    }
}
