//! Blocks that reads of this shard wait for: loaded by this shard, or by another one.

use diskstream_wire::time::Nanos;

use super::DiskRead;
use super::jobs::List;
use crate::cache::{BlockKey, LoadTicket};

/// Who loads a block.
#[derive(Debug)]
pub(super) enum Loader {
    /// This shard. The frame's bytes are in place up to `reading`; the disk read under way brings the next `wanted`.
    Us { ticket: LoadTicket, reading: usize, wanted: u32, asked: Nanos },
    /// Another shard of this node, which sends a message when it is done.
    Other,
}

impl Loader {
    /// The disk is asked only now.
    pub(super) fn asked_at(&mut self, now: Nanos) {
        if let Loader::Us { asked, .. } = self {
            *asked = now;
        }
    }
}

/// A block on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: BlockKey,
    pub(super) vdisk: u32,
    pub(super) loader: Loader,
    pub(super) started: Nanos,
    /// Jobs that wait, the oldest first.
    pub(super) waiters: List,
    /// The deadline has passed: whoever waited was told, whoever comes is told at once.
    pub(super) overdue: bool,
    /// When the next of its waiters is due for `ReadPending`.
    pub(super) pending_due: Nanos,
    /// A disk read that waits for its store's turn.
    pub(super) queued: Option<DiskRead>,
    /// Nobody has asked for it yet. Changed by [`Flights`] alone, which counts these.
    early: bool,
}

impl Flight {
    /// A block that another shard loads, until we know better.
    pub(super) fn new(key: BlockKey, vdisk: u32, now: Nanos) -> Flight {
        Flight {
            key,
            vdisk,
            loader: Loader::Other,
            started: now,
            waiters: List::EMPTY,
            overdue: false,
            pending_due: Nanos::NEVER,
            queued: None,
            early: false,
        }
    }

    /// Nobody has asked for it yet.
    pub(super) fn is_early(&self) -> bool {
        self.early
    }
}

/// The flights of a shard: a slab whose used slots are listed densely with their keys, so that finding a key is a walk
/// over at most [`super::Limits::flights_max`] × 16 bytes. Only misses walk.
#[derive(Debug)]
pub(super) struct Flights {
    slots: Vec<Slot>,
    free: Vec<u16>,
    used: Vec<(BlockKey, u16)>,
    /// Those that nobody has asked for.
    early: usize,
}

#[derive(Debug)]
struct Slot {
    /// Counts the slot's uses, so that a token of an earlier one is recognised.
    serial: u32,
    flight: Option<Flight>,
}

impl Flights {
    pub(super) fn new(count: u16) -> Flights {
        Flights {
            slots: (0..count).map(|_| Slot { serial: 0, flight: None }).collect(),
            free: (0..count).rev().collect(),
            used: Vec::with_capacity(usize::from(count)),
            early: 0,
        }
    }

    /// Flights that nobody has asked for.
    pub(super) fn early(&self) -> usize {
        self.early
    }

    /// Nobody has asked for this one.
    pub(super) fn begin_early(&mut self, index: u32) {
        self.get_mut(index).early = true;
        self.early += 1;
    }

    /// Somebody asks for it now; true when nobody had.
    pub(super) fn want(&mut self, index: u32) -> bool {
        let was_early = std::mem::replace(&mut self.get_mut(index).early, false);
        self.early -= usize::from(was_early);
        was_early
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a slot for a block that has none.
    pub(super) fn add(&mut self, flight: Flight) -> u32 {
        debug_assert!(self.find(flight.key).is_none(), "one flight for each block");
        let slot = self.free.pop().expect("the caller asked is_full");
        self.used.push((flight.key, slot));
        let entry = &mut self.slots[usize::from(slot)];
        entry.serial = entry.serial.wrapping_add(1);
        entry.flight = Some(flight);
        u32::from(slot)
    }

    pub(super) fn remove(&mut self, index: u32) -> Flight {
        let slot = u16::try_from(index).expect("slots are numbered by u16");
        let at = self.used.iter().position(|&(_, used)| used == slot).expect("a used slot");
        self.used.swap_remove(at);
        self.free.push(slot);
        let flight = self.slots[usize::from(slot)].flight.take();
        let flight = flight.expect("a used slot has its flight");
        self.early -= usize::from(flight.early);
        flight
    }

    pub(super) fn find(&self, key: BlockKey) -> Option<u32> {
        self.used.iter().find(|(used, _)| *used == key).map(|&(_, slot)| u32::from(slot))
    }

    pub(super) fn get(&self, index: u32) -> &Flight {
        self.slots[index as usize].flight.as_ref().expect("a used slot has its flight")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Flight {
        self.slots[index as usize].flight.as_mut().expect("a used slot has its flight")
    }

    /// The flight's name on a disk read.
    pub(super) fn token(&self, index: u32) -> u64 {
        u64::from(self.slots[index as usize].serial) << 32 | u64::from(index)
    }

    /// The flight of a token.
    ///
    /// # Panics
    /// When the token is none of a flight under way: a completion that belongs to nobody is a broken invariant.
    pub(super) fn of_token(&self, token: u64) -> u32 {
        let index = u32::try_from(token & 0xffff_ffff).expect("32 bits");
        let slot = self.slots.get(index as usize).expect("a disk token names a flight");
        let serial = u32::try_from(token >> 32).expect("32 bits");
        assert!(slot.serial == serial && slot.flight.is_some(), "a disk read is done once");
        index
    }

    /// The flights at this moment; the `n`th, for walks that change them.
    pub(super) fn nth(&self, n: usize) -> Option<u32> {
        self.used.get(n).map(|&(_, slot)| u32::from(slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Flight)> {
        self.used.iter().map(|&(_, slot)| (u32::from(slot), self.get(u32::from(slot))))
    }
}
