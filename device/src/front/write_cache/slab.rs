//! RAM for written units: segments of 1 MiB, taken when they are needed, up to the declared size, and kept.
use std::collections::TryReserveError;

/// Units of one segment: 1 MiB. Large enough that the allocator maps it by itself, small enough that a device with
/// little memory pays for what it wrote.
const SEGMENT_UNITS: u32 = 256;
const UNIT: usize = 4096;

/// Why no slot was to be had.
#[derive(Debug)]
pub enum SlabFull {
    /// The declared size is used.
    Declared,
    /// The system has no memory, although the declared size is not used.
    System(TryReserveError),
}

pub struct Slab {
    segments: Vec<Box<[u8]>>,
    /// Slots given back, taken first.
    free: Vec<u32>,
    /// Slots handed out at least once.
    next: u32,
    capacity: u32,
}

impl Slab {
    /// A slab of at most `capacity` units.
    pub fn new(capacity: u32) -> Self {
        Self { segments: Vec::new(), free: Vec::new(), next: 0, capacity }
    }

    /// Takes a slot; its content means nothing.
    pub fn allocate(&mut self) -> Result<u32, SlabFull> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.next == self.capacity {
            return Err(SlabFull::Declared);
        }
        if self.next.is_multiple_of(SEGMENT_UNITS) {
            self.grow().map_err(SlabFull::System)?;
        }
        let slot = self.next;
        self.next += 1;
        Ok(slot)
    }

    fn grow(&mut self) -> Result<(), TryReserveError> {
        let units = SEGMENT_UNITS.min(self.capacity - self.next);
        let bytes = UNIT * usize::try_from(units).expect("32 bits fit");
        let mut segment = Vec::new();
        segment.try_reserve_exact(bytes)?;
        segment.resize(bytes, 0);
        self.segments.push(segment.into_boxed_slice());
        Ok(())
    }

    pub fn release(&mut self, slot: u32) {
        debug_assert!(slot < self.next, "only slots that were handed out come back");
        self.free.push(slot);
    }

    pub fn used_units(&self) -> u64 {
        u64::from(self.next) - self.free.len() as u64
    }

    pub fn unit(&self, slot: u32) -> &[u8] {
        let (segment, at) = split(slot);
        &self.segments[segment][at..at + UNIT]
    }

    pub fn unit_mut(&mut self, slot: u32) -> &mut [u8] {
        let (segment, at) = split(slot);
        &mut self.segments[segment][at..at + UNIT]
    }
}

fn split(slot: u32) -> (usize, usize) {
    let segment = usize::try_from(slot / SEGMENT_UNITS).expect("32 bits fit");
    let index = usize::try_from(slot % SEGMENT_UNITS).expect("32 bits fit");
    (segment, index * UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_bounded_and_come_back() {
        let mut slab = Slab::new(300);
        let slots: Vec<u32> = (0..300).map(|_| slab.allocate().unwrap()).collect();
        for slot in &slots {
            slab.unit_mut(*slot).fill(u8::try_from(slot % 251).unwrap());
        }
        assert!(slots.iter().all(|s| slab.unit(*s)[4095] == u8::try_from(s % 251).unwrap()));
        assert!(matches!(slab.allocate(), Err(SlabFull::Declared)));
        slab.release(17);
        assert_eq!(slab.used_units(), 299);
        assert_eq!(slab.allocate().unwrap(), 17);
    }
}
