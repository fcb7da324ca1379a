//! When each machine of a world wants to be called next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use diskstream_wire::Nanos;

/// Deadlines of machines, numbered from 0. An entry of the heap that is not its machine's present deadline is stale.
pub struct Schedule {
    due: Vec<Nanos>,
    heap: BinaryHeap<Reverse<(Nanos, usize)>>,
}

impl Schedule {
    /// So many machines that want nothing yet.
    #[must_use]
    pub fn new(machines: usize) -> Schedule {
        Schedule { due: vec![Nanos::NEVER; machines], heap: BinaryHeap::new() }
    }

    /// Sets when a machine is to be called, instead of what was set before.
    pub fn set(&mut self, machine: usize, at: Nanos) {
        if self.due[machine] == at {
            return;
        }
        self.due[machine] = at;
        if at != Nanos::NEVER {
            self.heap.push(Reverse((at, machine)));
        }
    }

    /// When the first machine is due.
    pub fn first(&mut self) -> Nanos {
        while let Some(&Reverse((at, machine))) = self.heap.peek() {
            if self.due[machine] == at {
                return at;
            }
            self.heap.pop();
        }
        Nanos::NEVER
    }

    /// Takes a machine that is due by `now`; its deadline is to be set again.
    pub fn pop(&mut self, now: Nanos) -> Option<usize> {
        if self.first() > now {
            return None;
        }
        let Reverse((_, machine)) = self.heap.pop()?;
        self.due[machine] = Nanos::NEVER;
        Some(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_deadline_counts() {
        let mut schedule = Schedule::new(3);
        schedule.set(0, Nanos(5));
        schedule.set(1, Nanos(4));
        schedule.set(0, Nanos(9));
        schedule.set(1, Nanos(4));
        assert_eq!(schedule.first(), Nanos(4));
        assert_eq!(schedule.pop(Nanos(8)), Some(1));
        assert_eq!(schedule.pop(Nanos(8)), None, "the old deadline of 0 is stale");
        schedule.set(0, Nanos(5));
        assert_eq!(schedule.pop(Nanos(8)), Some(0));
        assert_eq!(schedule.first(), Nanos::NEVER);
    }
}
