//! Where each unit of the disk lives: two levels, so that an untouched or a wholly discarded stretch costs 16 bytes.
//!
//! Bounds (derived): 16 bytes for each 512 KiB of the disk from the start (32 KiB per GiB), and 512 more for each such
//! group that holds different entries: at most 0.1 % of the disk's size, whatever is written or discarded.

/// Units of one group: 512 KiB.
pub const GROUP_UNITS: u64 = 128;
const GROUP_UNITS_USIZE: usize = 128;
/// Slots that an entry can name: 31 bits, less the two values that mean something else.
pub const SLOTS_MAX: u32 = (1 << 31) - 2;

/// Where a unit lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Never written: the image under the cache has it.
    Base,
    /// Zeroed or discarded: no storage.
    Zero,
    /// This slot of the slab.
    Ram(u32),
    /// This slot of the overflow file.
    File(u32),
}

const BASE: u32 = 0;
const ZERO: u32 = 1;
const FIRST_SLOT: u32 = 2;
const FILE_BIT: u32 = 1 << 31;

impl Entry {
    fn pack(self) -> u32 {
        match self {
            Self::Base => BASE,
            Self::Zero => ZERO,
            Self::Ram(slot) => slot + FIRST_SLOT,
            Self::File(slot) => (slot + FIRST_SLOT) | FILE_BIT,
        }
    }

    fn unpack(word: u32) -> Self {
        match word {
            BASE => Self::Base,
            ZERO => Self::Zero,
            word if word & FILE_BIT != 0 => Self::File((word & !FILE_BIT) - FIRST_SLOT),
            word => Self::Ram(word - FIRST_SLOT),
        }
    }
}

enum Group {
    Base,
    Zero,
    Mixed(Box<[u32; GROUP_UNITS_USIZE]>),
}

pub struct Table {
    groups: Vec<Group>,
}

impl Table {
    pub fn new(units: u64) -> Self {
        let count =
            usize::try_from(units.div_ceil(GROUP_UNITS)).expect("a disk's groups fit memory");
        Self { groups: (0..count).map(|_| Group::Base).collect() }
    }

    pub fn get(&self, unit: u64) -> Entry {
        let (group, index) = split(unit);
        match &self.groups[group] {
            Group::Base => Entry::Base,
            Group::Zero => Entry::Zero,
            Group::Mixed(words) => Entry::unpack(words[index]),
        }
    }

    pub fn set(&mut self, unit: u64, entry: Entry) {
        let (group, index) = split(unit);
        let group = &mut self.groups[group];
        let uniform = match (&mut *group, entry) {
            (Group::Base, Entry::Base) | (Group::Zero, Entry::Zero) => return,
            (Group::Base, _) => BASE,
            (Group::Zero, _) => ZERO,
            (Group::Mixed(words), _) => {
                words[index] = entry.pack();
                return;
            }
        };
        let mut words = Box::new([uniform; GROUP_UNITS_USIZE]);
        words[index] = entry.pack();
        *group = Group::Mixed(words);
    }

    /// Makes the whole group that begins at `unit` zero and reports the entries that held storage.
    pub fn zero_group(&mut self, unit: u64, mut held: impl FnMut(Entry)) {
        let (group, index) = split(unit);
        assert_eq!(index, 0, "groups begin at multiples of their size");
        if let Group::Mixed(words) = std::mem::replace(&mut self.groups[group], Group::Zero) {
            words.iter().map(|word| Entry::unpack(*word)).for_each(&mut held);
        }
    }

    /// If the group of `unit` is uniform: its entry, and the first unit after the group.
    pub fn uniform(&self, unit: u64) -> Option<(Entry, u64)> {
        let (group, _) = split(unit);
        let end = (unit / GROUP_UNITS + 1) * GROUP_UNITS;
        match &self.groups[group] {
            Group::Base => Some((Entry::Base, end)),
            Group::Zero => Some((Entry::Zero, end)),
            Group::Mixed(_) => None,
        }
    }
}

fn split(unit: u64) -> (usize, usize) {
    let group =
        usize::try_from(unit / GROUP_UNITS).expect("units are checked against the disk's size");
    (group, usize::try_from(unit % GROUP_UNITS).expect("less than a group"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_packing_and_groups() {
        let mut table = Table::new(300);
        let entries = [Entry::Ram(0), Entry::Ram(SLOTS_MAX - 1), Entry::File(0), Entry::Zero];
        let entries = [&entries[..], &[Entry::File(SLOTS_MAX - 1), Entry::Base]].concat();
        for (unit, entry) in (127..).zip(&entries) {
            table.set(unit, *entry);
        }
        for (unit, entry) in (127..).zip(&entries) {
            assert_eq!(table.get(unit), *entry);
        }
        assert_eq!(table.get(0), Entry::Base);
        assert_eq!(table.uniform(256), Some((Entry::Base, 384)));
        assert_eq!(table.uniform(128), None);
        let mut held = Vec::new();
        table.zero_group(128, |entry| held.push(entry));
        assert_eq!(held.iter().filter(|e| matches!(e, Entry::Ram(_) | Entry::File(_))).count(), 3);
        assert_eq!(table.get(129), Entry::Zero);
        assert_eq!(table.uniform(255), Some((Entry::Zero, 256)));
    }
}
