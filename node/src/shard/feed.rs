//! Blocks of a vDisk that are loaded in the background: those of earlier boots when its first device comes, or all of a vDisk that is
//! to stay in the cache. One list for all shards, each takes what comes next; single flight sees to it that a block that a device
//! asks for meanwhile is loaded once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use diskstream_wire::time::Nanos;

use super::early::Early;
use super::{Outbox, Shard};
use crate::cache::BlockKey;

/// Background loads of a shard under way at once. Guessed: 1 MiB of 64 KiB blocks, which keeps a fast disk busy and makes a miss
/// wait for 5 ms behind them on one of 200 MiB/s.
const FLIGHTS_AT_ONCE: usize = 16;
/// Blocks looked at in one turn: most of a list may be in the cache already. Guessed: some 10 µs.
const LOOKS_PER_TURN: usize = 64;
/// When to try again after there was no room.
const AGAIN_AFTER: Nanos = Nanos::from_millis(5);

/// What to load.
#[derive(Debug)]
enum Order {
    /// Every block up to this one.
    All(u32),
    /// These blocks, in this order.
    These(Box<[u32]>),
}

/// The list of a vDisk, and how far it is. Written seldom, by whichever shard takes from it.
#[derive(Debug, Default)]
pub struct Feed {
    order: OnceLock<Order>,
    next: AtomicU32,
    started: AtomicBool,
}

impl Feed {
    /// All of so many blocks, at once.
    #[must_use]
    pub fn all(blocks: u32) -> Feed {
        let feed = Feed::default();
        let _ = feed.order.set(Order::All(blocks));
        feed.start();
        feed
    }

    /// These blocks, once the vDisk's first device comes.
    ///
    /// # Panics
    /// Beyond 4 billion blocks.
    #[must_use]
    pub fn of(blocks: Box<[u32]>) -> Feed {
        assert!(u32::try_from(blocks.len()).is_ok(), "lists are bounded");
        let feed = Feed::default();
        let _ = feed.order.set(Order::These(blocks));
        feed
    }

    /// From here on the blocks are loaded.
    pub fn start(&self) {
        if self.blocks() > 0 && !self.started.load(Relaxed) {
            self.started.store(true, Relaxed);
        }
    }

    /// Blocks of the list.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        match self.order.get() {
            None => 0,
            Some(Order::All(blocks)) => *blocks,
            Some(Order::These(blocks)) => u32::try_from(blocks.len()).unwrap_or(u32::MAX),
        }
    }

    /// Blocks that were looked at so far: loaded, or found to be there.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.next.load(Relaxed).min(self.blocks())
    }

    /// Whether there is something to load.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.started.load(Relaxed) && self.next.load(Relaxed) < self.blocks()
    }

    /// The next block. It is nobody else's then.
    fn take(&self) -> Option<u32> {
        if !self.is_active() {
            return None;
        }
        let at = self.next.fetch_add(1, Relaxed);
        match self.order.get()? {
            Order::All(blocks) => (at < *blocks).then_some(at),
            Order::These(blocks) => blocks.get(at as usize).copied(),
        }
    }
}

impl Shard {
    /// The vDisk has a device: what earlier boots read of it is wanted soon.
    pub(super) fn begin_feed(&mut self, vdisk: u32) {
        let feed = &self.shared.vdisk(vdisk).feed;
        feed.start();
        if feed.is_active() {
            self.feed_due = Nanos::ZERO;
        }
    }

    /// Loads what the lists name, as far as there is room, and says when to look again.
    pub(super) fn feed(&mut self, now: Nanos, out: &mut Outbox) {
        if now < self.feed_due {
            return;
        }
        self.feed_due = Nanos::NEVER;
        if self.drain.is_some() {
            return;
        }
        let count = self.shared.vdisks().map_or(0, <[_]>::len);
        let mut looks = 0;
        for vdisk in (0u32..).take(count) {
            let shared = std::sync::Arc::clone(&self.shared);
            let entry = shared.vdisk(vdisk);
            while entry.feed.is_active() {
                if !entry.is_eligible() {
                    break;
                }
                if self.flights.early() >= FLIGHTS_AT_ONCE || looks == LOOKS_PER_TURN {
                    // What is under way comes back and asks again; what is here already costs nothing but the turn.
                    self.feed_due = if looks == LOOKS_PER_TURN { now } else { now + AGAIN_AFTER };
                    return;
                }
                if !self.room_for_early(vdisk) {
                    self.feed_due = now + AGAIN_AFTER;
                    break;
                }
                let Some(block) = entry.feed.take() else { break };
                looks += 1;
                let key = BlockKey { generation: entry.generation, block: u64::from(block) };
                match self.load_early(vdisk, key, now, out) {
                    Early::Begun => self.counters.ahead_listed.inc(),
                    Early::Needless => {}
                    // No frame at this moment: whoever wants the block will load it.
                    Early::NoRoom => self.counters.ahead_no_room.inc(),
                }
            }
        }
    }

    /// A block that was loaded early has come: there is room for another.
    #[inline]
    pub(super) fn early_arrived(&mut self) {
        if self.feed_due != Nanos::NEVER {
            self.feed_due = Nanos::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_once_in_its_order() {
        let feed = Feed::of(Box::new([5, 3, 9]));
        assert_eq!((feed.is_active(), feed.take()), (false, None), "nobody has come");
        feed.start();
        let taken: Vec<_> = std::iter::from_fn(|| feed.take()).collect();
        assert_eq!(taken, [5, 3, 9]);
        feed.start();
        assert_eq!((feed.is_active(), feed.take(), feed.done()), (false, None, 3));
        assert_eq!(
            std::iter::from_fn({
                let all = Feed::all(3);
                move || all.take()
            })
            .count(),
            3
        );
        let none = Feed::default();
        none.start();
        assert_eq!((none.is_active(), none.take(), none.blocks()), (false, None, 0));
    }
}
