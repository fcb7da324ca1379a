//! Who is booting here: a bounded number of slots, shared by all shards through atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use diskstream_wire::Mac;
use diskstream_wire::time::Nanos;

use super::limits::BOOT_SLOT_FOR;

/// The boot limit's slots. One is taken when a boot's session begins and freed by its handshake, by its end, or by itself after
/// [`super::limits::BOOT_SLOT_FOR`].
///
/// A slot is one word: the second in which it expires (from the shards' clock) and a hash of the MAC, so that a repeated
/// login finds its own slot. Two MACs with the same 32 bits share a slot, which harms nobody. Nothing is published
/// through these words, so `Relaxed` is enough; a taken slot is won by compare-exchange.
#[derive(Debug)]
pub struct BootSlots {
    slots: Box<[AtomicU64]>,
}

fn word(expiry_seconds: u64, mac: Mac) -> u64 {
    // Seconds since boot fit 32 bits for 136 years. `| 1` keeps a slot's hash from being 0, which means free.
    let hash = crc32c::crc32c(&mac.0) | 1;
    (expiry_seconds.min(u64::from(u32::MAX)) << 32) | u64::from(hash)
}

fn is_free(slot: u64, now_seconds: u64) -> bool {
    slot >> 32 <= now_seconds
}

fn same_mac(slot: u64, wanted: u64) -> bool {
    slot & 0xffff_ffff == wanted & 0xffff_ffff
}

impl BootSlots {
    /// `limit` devices may boot at once; 0 switches the limit off.
    #[must_use]
    pub fn new(limit: u32) -> BootSlots {
        BootSlots { slots: (0..limit).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many devices may boot at once; 0: any number.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.slots.len()
    }

    /// Slots that are taken.
    #[must_use]
    pub fn in_use(&self, now: Nanos) -> usize {
        let now_seconds = now.0 / 1_000_000_000;
        self.slots.iter().filter(|slot| !is_free(slot.load(Relaxed), now_seconds)).count()
    }

    /// Whether a device could take a slot now, or has one.
    #[must_use]
    pub fn has_room(&self, mac: Mac, now: Nanos) -> bool {
        let now_seconds = now.0 / 1_000_000_000;
        let wanted = word(0, mac);
        self.slots.is_empty()
            || self.slots.iter().any(|slot| {
                let seen = slot.load(Relaxed);
                is_free(seen, now_seconds) || same_mac(seen, wanted)
            })
    }

    /// Takes a slot for a device, or finds the one that it has; false when all are taken.
    #[must_use]
    pub fn take(&self, mac: Mac, now: Nanos) -> bool {
        if self.slots.is_empty() {
            return true;
        }
        let now_seconds = now.0 / 1_000_000_000;
        let wanted = word(now_seconds + BOOT_SLOT_FOR.0 / 1_000_000_000, mac);
        let mine = |slot: u64| same_mac(slot, wanted) && !is_free(slot, now_seconds);
        if self.slots.iter().any(|slot| mine(slot.load(Relaxed))) {
            return true;
        }
        self.slots.iter().any(|slot| {
            let seen = slot.load(Relaxed);
            is_free(seen, now_seconds)
                && slot.compare_exchange(seen, wanted, Relaxed, Relaxed).is_ok()
        })
    }

    /// Frees the slot of a device, if it has one.
    pub fn free(&self, mac: Mac) {
        let wanted = word(0, mac);
        for slot in &self.slots {
            let seen = slot.load(Relaxed);
            if seen != 0 && same_mac(seen, wanted) {
                // Lost to somebody who took an expired slot: then it is not ours any more.
                let _lost = slot.compare_exchange(seen, 0, Relaxed, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    #[test]
    fn slots_are_bounded_found_again_freed_and_expire() {
        let slots = BootSlots::new(2);
        let now = Nanos::from_secs(1000);
        assert!(slots.take(mac(1), now) && slots.take(mac(2), now));
        assert!(!slots.take(mac(3), now) && !slots.has_room(mac(3), now));
        assert!(slots.has_room(mac(2), now), "it has one");
        assert!(slots.take(mac(1), now), "a repeat finds its own slot");
        assert_eq!(slots.in_use(now), 2);
        slots.free(mac(1));
        slots.free(mac(9));
        assert!(slots.has_room(mac(3), now));
        assert!(slots.take(mac(3), now));
        assert!(!slots.take(mac(4), now + Nanos::from_secs(59)));
        assert!(slots.take(mac(4), now + Nanos::from_secs(60)));
    }

    #[test]
    fn no_limit_takes_everybody() {
        let slots = BootSlots::new(0);
        assert!((0..100).all(|n| slots.take(mac(n), Nanos::ZERO)));
        assert_eq!((slots.limit(), slots.in_use(Nanos::ZERO)), (0, 0));
    }
}
