//! Blocks of a vDisk that are loaded in the background: those of earlier boots when its first device comes, or all of a vDisk that is
//! to stay in the cache. One list for all shards, each takes what comes next; single flight sees to it that a block that a device
//! asks for meanwhile is loaded once.
//!
//! A list is gone through in passes. What a pass leaves - a store gave an error, another load of the same block failed - is looked
//! at again by the next one, after a pause that grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use diskstream_wire::time::Nanos;

use super::early::Early;
use super::{NodeShared, Outbox, Shard, ShardMessage, VdiskEntry};
use crate::cache::BlockKey;

/// Background loads of a store by one shard at once. Guessed: 1 MiB of 64 KiB blocks, which keeps a fast disk busy and makes a miss
/// wait for 5 ms behind them on one of 200 MiB/s.
const FLIGHTS_AT_ONCE: usize = 16;
/// Blocks looked at in one turn: most of a list may be in the cache already. Guessed: some 10 µs.
const LOOKS_PER_TURN: usize = 64;
/// When to look again at a list that found no frame. Guessed: some sends take so long to come home.
const FRAMES_AFTER: Nanos = Nanos::from_millis(100);
/// When to look again at a vDisk that takes no devices now. Guessed: nobody waits for it.
const ELIGIBLE_AFTER: Nanos = Nanos::from_secs(1);
/// Pause after the first pass in seconds; each further one is twice as long, up to so many times. Guessed: a path to a store that is
/// switched over comes back within seconds; a bad sector is there in a minute, too.
const PASS_PAUSE: (u64, u32) = (1, 6);
/// Passes over what boots read: it is a hint. What is to stay is looked for until it is there.
const HINT_PASSES: u32 = 3;
/// In the place of the next place: the pass is over. No list is so long.
const OVER: u32 = u32::MAX;

/// What to load.
#[derive(Debug, Default)]
enum Order {
    #[default]
    Nothing,
    /// Every block up to this one.
    All(u32),
    /// These blocks, in this order.
    These(Box<[u32]>),
}

/// The list of a vDisk, and how far it is. Written seldom, by whichever shard takes from it.
#[derive(Debug, Default)]
pub struct Feed {
    order: Order,
    started: AtomicBool,
    /// The place that the pass under way has reached, or [`OVER`].
    next: AtomicU32,
    /// Passes that are over.
    passes: AtomicU32,
    /// When the next pass begins, once this one is over.
    again_at: AtomicU64,
    /// One bit for each place whose block is, or was, in the cache.
    settled: Box<[AtomicU64]>,
    /// How many these are.
    done: AtomicU32,
}

/// What comes next of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// This block, at this place. It is nobody else's in this pass.
    Block { place: u32, block: u32 },
    /// A pass is over; the next one begins then.
    Pass(Nanos),
    /// Nothing.
    Over,
}

impl Feed {
    /// All of so many blocks, at once.
    #[must_use]
    pub fn all(blocks: u32) -> Feed {
        let feed = Feed::new(Order::All(blocks), blocks);
        feed.start();
        feed
    }

    /// These blocks, once the vDisk's first device comes.
    ///
    /// # Panics
    /// At 4 billion blocks.
    #[must_use]
    pub fn of(blocks: Box<[u32]>) -> Feed {
        let count = u32::try_from(blocks.len()).expect("lists are bounded");
        Feed::new(Order::These(blocks), count)
    }

    fn new(order: Order, blocks: u32) -> Feed {
        assert!(blocks < OVER, "lists are bounded");
        let settled = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Feed { order, settled, ..Feed::default() }
    }

    /// From here on the blocks are loaded. True for whoever began that.
    pub fn start(&self) -> bool {
        // Read first: this is asked for every session that begins.
        self.blocks() > 0 && !self.started.load(Relaxed) && !self.started.swap(true, Relaxed)
    }

    /// Blocks of the list.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        match &self.order {
            Order::Nothing => 0,
            Order::All(blocks) => *blocks,
            Order::These(blocks) => u32::try_from(blocks.len()).expect("checked when it was made"),
        }
    }

    /// Those of them that were loaded, or found in the cache, or are nothing but zeros.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.done.load(Relaxed)
    }

    /// Blocks that at least two passes could not load; they are looked at again.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let over = self.next.load(Relaxed) == OVER;
        let tried = over && self.passes.load(Relaxed) > 0;
        if tried { self.blocks() - self.done() } else { 0 }
    }

    /// Whether there is something to load, now or later.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.started.load(Relaxed)
            && self.done.load(Relaxed) < self.blocks()
            && (matches!(self.order, Order::All(_))
                || self.passes.load(Relaxed) + 1 < HINT_PASSES
                || self.next.load(Relaxed) != OVER)
    }

    /// The block at a place is, or was, in the cache.
    pub(super) fn settle(&self, place: u32) {
        let bit = 1 << (place % 64);
        let word = self.settled.get(place as usize / 64);
        let Some(word) = word.filter(|_| place < self.blocks()) else { return };
        if word.fetch_or(bit, Relaxed) & bit == 0 {
            self.done.fetch_add(1, Relaxed);
        }
    }

    fn unsettled_from(&self, place: u32) -> Option<u32> {
        let first = place as usize / 64;
        let words = self.settled.iter().enumerate().skip(first);
        let mut places = words.filter_map(|(at, word)| {
            let before = if at == first { (1 << (place % 64)) - 1 } else { 0 };
            let free = !(word.load(Relaxed) | before);
            let first = u32::try_from(at * 64).ok().filter(|_| free != 0)?;
            Some(first + free.trailing_zeros())
        });
        places.next().filter(|&place| place < self.blocks())
    }

    fn take(&self, now: Nanos) -> Next {
        let mut from = self.next.load(Relaxed);
        while self.is_active() {
            let (to, next) = match self.unsettled_from(from) {
                Some(place) => {
                    let block = match &self.order {
                        Order::These(blocks) => blocks[place as usize],
                        _ => place,
                    };
                    (place + 1, Some(Next::Block { place, block }))
                }
                None if from != OVER => {
                    let (first, most) = PASS_PAUSE;
                    let pause = first << self.passes.load(Relaxed).min(most);
                    self.again_at.store((now + Nanos::from_secs(pause)).0, Relaxed);
                    (OVER, None)
                }
                None => {
                    let again_at = Nanos(self.again_at.load(Relaxed));
                    if now < again_at {
                        return Next::Pass(again_at);
                    }
                    (0, None)
                }
            };
            match self.next.compare_exchange(from, to, Relaxed, Relaxed) {
                Ok(_) => {
                    if from == OVER {
                        self.passes.fetch_add(1, Relaxed);
                    }
                    if let Some(next) = next {
                        return next;
                    }
                    from = to;
                }
                Err(other) => from = other,
            }
        }
        Next::Over
    }
}

/// When a shard looks at the lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feeding {
    due: Nanos,
    /// A list waits until flights end.
    waits: bool,
}

impl Feeding {
    const IDLE: Feeding = Feeding { due: Nanos::NEVER, waits: false };

    /// At once, if there is something to load.
    pub(super) fn begin(shared: &NodeShared) -> Feeding {
        let vdisks = shared.vdisks().unwrap_or_default();
        let active = vdisks.iter().any(|vdisk| vdisk.feed.is_active());
        Feeding { due: if active { Nanos::ZERO } else { Nanos::NEVER }, waits: false }
    }

    pub(super) fn due(&self) -> Nanos {
        self.due
    }

    /// There is something new: look at once.
    pub(super) fn look(&mut self) {
        self.due = Nanos::ZERO;
    }

    /// A flight has ended: there is room for another.
    #[inline]
    pub(super) fn has_room(&mut self) {
        if self.waits {
            self.due = Nanos::ZERO;
        }
    }
}

impl Shard {
    /// The vDisk has a device: what earlier boots read of it is wanted soon. All shards load it.
    pub(super) fn begin_feed(&mut self, vdisk: u32, out: &mut Outbox) {
        if self.shared.vdisk(vdisk).feed.start() {
            let shards = u16::try_from(self.shared.io_endpoints.len()).expect("at most SHARDS_MAX");
            let others = (0..shards).filter(|&shard| shard != self.index);
            out.messages.extend(others.map(|shard| (shard, ShardMessage::ListStarted)));
            self.feeding.look();
        }
    }

    /// Loads what the lists name, as far as there is room, and says when to look again.
    pub(super) fn feed(&mut self, now: Nanos, out: &mut Outbox) {
        if now < self.feeding.due {
            return;
        }
        self.feeding = Feeding::IDLE;
        if self.drain.is_some() {
            // Who resumes looks again.
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut looks = LOOKS_PER_TURN;
        for (vdisk, entry) in (0u32..).zip(shared.vdisks().unwrap_or_default()) {
            if entry.feed.is_active() {
                let due = self.feed_vdisk(vdisk, entry, &mut looks, now, out);
                self.feeding.due = self.feeding.due.earlier(due);
            }
        }
    }

    /// Loads what one list names, and says when to look at it again.
    fn feed_vdisk(
        &mut self,
        vdisk: u32,
        entry: &VdiskEntry,
        looks: &mut usize,
        now: Nanos,
        out: &mut Outbox,
    ) -> Nanos {
        loop {
            if !entry.is_eligible() {
                return now + ELIGIBLE_AFTER;
            }
            let early = usize::from(self.flights.of(entry.store).early);
            if early >= FLIGHTS_AT_ONCE || !self.room_for_early(vdisk) {
                self.feeding.waits = true;
                return Nanos::NEVER;
            }
            if *looks == 0 {
                return now;
            }
            let (place, block) = match entry.feed.take(now) {
                Next::Block { place, block } => (place, block),
                Next::Pass(at) => return at,
                Next::Over => return Nanos::NEVER,
            };
            *looks -= 1;
            let key = BlockKey { generation: entry.generation, block: u64::from(block) };
            match self.load_early(vdisk, key, Some(place), now, out) {
                Early::Begun => self.counters.ahead_listed.inc(),
                Early::Here => entry.feed.settle(place),
                Early::OnItsWay => {}
                Early::NoRoom => {
                    self.counters.ahead_no_room.inc();
                    return now + FRAMES_AFTER;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
