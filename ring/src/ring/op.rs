//! Who owns what the kernel works on.
//!
//! **The kernel owns an operation's memory from the moment its entry is queued until its terminal completion.** So
//! everything an entry points to (the plan with its header bytes, `msghdr`, `iovec`s, control messages, the eventfd's
//! eight bytes) lies in a slab slot or a boxed buffer of the ring, is written before the entry is queued, is not moved,
//! and is not reused before the terminal completion. An operation cannot be dropped: nobody holds a handle to one.
//! Terminal is a completion without `F_MORE`.
//!
//! An entry's `user_data` says what it is:
//!
//! ```text
//! 63     56 55      48 47            16 15        0
//! | class  |    0     |  generation    |   index   |
//! ```
//!
//! The generation of a slot rises when it is released, so a second completion for an operation, or one for an operation
//! that never was, is an assertion failure instead of somebody else's data.

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// Multishot receive; index: socket.
    Receive = 1,
    /// Single receive; index: receive buffer.
    ReceiveOne = 2,
    /// One message of a send; index: send slot.
    Send = 3,
    /// Disk read; index: read slot.
    Read = 4,
    /// Read of this ring's eventfd; no index.
    Bell = 5,
    /// Message to another ring; index: message slot.
    Message = 6,
    /// Message from another ring. The sender wrote it, so neither index nor generation mean anything here.
    Messaged = 7,
    /// Cancellation of a socket's receives; index: socket.
    Cancel = 8,
}

/// A slot and the use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u16,
    pub(crate) generation: u32,
}

impl Key {
    pub(crate) const NONE: Key = Key { index: 0, generation: 0 };

    pub(crate) fn index(self) -> usize {
        usize::from(self.index)
    }
}

/// The `user_data` of an operation.
pub(crate) const fn tag(class: Class, key: Key) -> u64 {
    ((class as u64) << 56) | ((key.generation as u64) << 16) | key.index as u64
}

/// The one place that reads `user_data`.
///
/// # Panics
/// For bits that [`tag`] never makes.
pub(crate) fn classify(user_data: u64) -> (Class, Key) {
    let [class, zero, g3, g2, g1, g0, i1, i0] = user_data.to_be_bytes();
    let class = match class {
        1 => Class::Receive,
        2 => Class::ReceiveOne,
        3 => Class::Send,
        4 => Class::Read,
        5 => Class::Bell,
        6 => Class::Message,
        7 => Class::Messaged,
        8 => Class::Cancel,
        _ => panic!("a completion for nothing that was queued: user_data {user_data:#x}"),
    };
    assert!(zero == 0, "a completion for nothing that was queued: user_data {user_data:#x}");
    let generation = u32::from_be_bytes([g3, g2, g1, g0]);
    (class, Key { index: u16::from_be_bytes([i1, i0]), generation })
}

/// A fixed number of slots. Values stay in place, for the kernel's pointers, and are reused, not remade.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Box<[Slot<T>]>,
    /// A stack, so that the warmest slot is used next.
    free: Vec<u16>,
}

#[derive(Debug)]
#[repr(C)]
struct Slot<T> {
    generation: u32,
    busy: bool,
    value: T,
}

impl<T> Slab<T> {
    pub(crate) fn new(count: u16, make: impl Fn() -> T) -> Slab<T> {
        let slots =
            (0..count).map(|_| Slot { generation: 1, busy: false, value: make() }).collect();
        Slab { slots, free: (0..count).rev().collect() }
    }

    /// A free slot, now busy; its value is what the last user left.
    pub(crate) fn claim(&mut self) -> Option<Key> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        assert!(!slot.busy, "a slot of the free list is in use");
        slot.busy = true;
        Some(Key { index, generation: slot.generation })
    }

    /// The value of a busy slot.
    ///
    /// # Panics
    /// For a key that was released.
    pub(crate) fn get_mut(&mut self, key: Key) -> &mut T {
        let slot = &mut self.slots[key.index()];
        assert!(slot.busy && slot.generation == key.generation, "stale key {key:?}");
        &mut slot.value
    }

    /// Ends the use of a slot.
    ///
    /// # Panics
    /// For a key that was released.
    pub(crate) fn release(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        assert!(slot.busy && slot.generation == key.generation, "stale key {key:?}");
        slot.busy = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("made of a u16")
    }

    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Class; 8] = [
        Class::Receive,
        Class::ReceiveOne,
        Class::Send,
        Class::Read,
        Class::Bell,
        Class::Message,
        Class::Messaged,
        Class::Cancel,
    ];

    #[test]
    fn tags_round_trip() {
        for class in CLASSES {
            for generation in [0, 1, u32::MAX] {
                for index in [0, 1, u16::MAX] {
                    let key = Key { index, generation };
                    assert_eq!(classify(tag(class, key)), (class, key));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "nothing that was queued")]
    fn foreign_tags_abort() {
        classify(u64::MAX);
    }

    #[test]
    fn slots_are_exhausted_and_reused() {
        let mut slab = Slab::new(2, || 0);
        let (a, b) = (slab.claim().unwrap(), slab.claim().unwrap());
        assert_ne!(a.index, b.index);
        assert!(slab.claim().is_none() && slab.is_full());
        *slab.get_mut(a) = 7;
        slab.release(a);
        assert_eq!(slab.in_use(), 1);
        let again = slab.claim().unwrap();
        assert_eq!(again.index, a.index);
        assert_ne!(again, a);
        assert_eq!(*slab.get_mut(again), 7);
    }

    #[test]
    #[should_panic(expected = "stale key")]
    fn a_second_completion_aborts() {
        let mut slab = Slab::new(1, || ());
        let key = slab.claim().unwrap();
        slab.release(key);
        slab.release(key);
    }

    #[test]
    #[should_panic(expected = "stale key")]
    fn a_stale_key_does_not_reach_the_next_user() {
        let mut slab = Slab::new(1, || ());
        let key = slab.claim().unwrap();
        slab.release(key);
        slab.claim().unwrap();
        slab.get_mut(key);
    }
}
