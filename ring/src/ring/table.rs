//! The sockets and files that a ring works with, named by slot and generation.

use super::op::Key;

/// A fixed number of entries. A slot is freed only when the kernel has no operation left on it.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Box<[Option<T>]>,
    generations: Box<[u32]>,
}

impl<T> Table<T> {
    pub(crate) fn new(count: u16) -> Table<T> {
        let slots = (0..count).map(|_| None).collect();
        Table { slots, generations: vec![1; usize::from(count)].into_boxed_slice() }
    }

    /// Where the next entry goes.
    pub(crate) fn vacant(&self) -> Option<Key> {
        let index = self.slots.iter().position(Option::is_none)?;
        let generation = self.generations[index];
        Some(Key { index: u16::try_from(index).expect("made from a 16-bit count"), generation })
    }

    /// Fills a slot found by [`Table::vacant`].
    pub(crate) fn put(&mut self, key: Key, value: T) {
        let slot = &mut self.slots[key.index()];
        assert!(slot.is_none(), "the slot is taken");
        *slot = Some(value);
    }

    /// The key of whatever is in a slot.
    pub(crate) fn key(&self, index: u16) -> Option<Key> {
        self.slots[usize::from(index)].as_ref()?;
        Some(Key { index, generation: self.generations[usize::from(index)] })
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let current = self.generations.get(key.index()).is_some_and(|now| *now == key.generation);
        if current { self.slots[key.index()].as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let current = self.generations.get(key.index()).is_some_and(|now| *now == key.generation);
        if current { self.slots[key.index()].as_mut() } else { None }
    }

    /// Frees a slot; its key means nothing from here on.
    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let generation = &mut self.generations[key.index()];
        *generation = generation.wrapping_add(1);
        self.slots[key.index()].take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_survive_their_entry() {
        let mut table = Table::new(1);
        let first = table.vacant().unwrap();
        table.put(first, 'a');
        assert!(table.vacant().is_none());
        assert_eq!(table.take(first), Some('a'));
        assert_eq!(table.take(first), None);
        let second = table.vacant().unwrap();
        table.put(second, 'b');
        assert_eq!((table.get(first), table.get(second)), (None, Some(&'b')));
        assert_eq!(table.get_mut(first), None);
        assert!(!table.is_empty());
        assert_eq!(table.key(0), Some(second));
        assert_eq!(table.get(Key { index: 9, generation: 1 }), None);
    }
}
