//! Work of sessions that is not on its way yet: replies that are queued, and parts of reads that wait for a block.
//!
//! One slab for the whole shard, with intrusive lists, so that a session costs two list heads and nothing is allocated
//! after start. A job is in its session's list (link [`SESSION`]) and, while it waits, in its flight's (link [`FLIGHT`]).

use diskstream_wire::FragmentSize;
use diskstream_wire::ReadErrorCode;
use diskstream_wire::time::Nanos;

use crate::cache::Pin;

/// No index.
pub(super) const NONE: u32 = u32::MAX;
/// The link of the session's list.
pub(super) const SESSION: usize = 0;
/// The link of the flight's list.
pub(super) const FLIGHT: usize = 1;

/// A doubly linked list of jobs through one of their links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: List = List { head: NONE, tail: NONE };

    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NONE, next: NONE };

/// What a job is to become.
#[derive(Debug)]
pub(super) enum Work {
    /// Fragments of one cache block; of two where a fragment of two units lies across their border.
    Data(Data),
    /// A zero mark for these units of the read.
    Zero(u16),
    /// A sign of life.
    Pending {
        waited_ms: u32,
    },
    Busy {
        wait_ms: u32,
    },
    Error {
        length: u32,
        code: ReadErrorCode,
    },
}

/// Fragments that a read wants of one block, or one fragment of two blocks.
#[derive(Debug)]
pub(super) struct Data {
    /// The fragments still to be sent.
    pub(super) wanted: u64,
    /// The block of the first wanted byte; none while it is waited for.
    pub(super) pin: Option<Pin>,
    /// The next block, where the fragment reaches into it.
    pub(super) second: Option<Pin>,
    /// Bytes of the whole read.
    pub(super) length: u32,
    pub(super) size: FragmentSize,
    /// Needs two blocks.
    pub(super) straddles: bool,
    /// A read in single-read mode: one fragment of exactly `length` bytes.
    pub(super) single: bool,
    /// `ReadPending` was sent for it.
    pub(super) pended: bool,
}

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    links: [Link; 2],
    pub(super) session: u32,
    /// The flight that it waits for, or [`NONE`].
    pub(super) flight: u32,
    pub(super) request_id: u64,
    pub(super) arrived: Nanos,
    /// The read's first byte.
    pub(super) offset: u64,
    pub(super) attempt: u8,
    pub(super) work: Work,
}

impl Job {
    /// Whether it lacks a block, and so is among those of its session that wait.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.work, Work::Data(data)
            if data.pin.is_none() || (data.straddles && data.second.is_none()))
    }

    /// Fragments that it still has to send.
    pub(super) fn fragments(&self) -> u32 {
        match &self.work {
            Work::Data(data) => data.wanted.count_ones(),
            _ => 0,
        }
    }
}

/// What a new job starts from.
#[derive(Debug)]
pub(super) struct NewJob {
    pub(super) session: u32,
    pub(super) request_id: u64,
    pub(super) arrived: Nanos,
    pub(super) offset: u64,
    pub(super) attempt: u8,
    pub(super) work: Work,
}

/// The slab.
#[derive(Debug)]
pub(super) struct Jobs {
    /// Has its final size from the start, but a slot is written for the first time when its first job comes.
    slots: Vec<Option<Job>>,
    free: Vec<u32>,
    count: usize,
}

impl Jobs {
    pub(super) fn new(count: usize) -> Jobs {
        assert!(u32::try_from(count).is_ok(), "Limits::check bounds sessions and their jobs");
        Jobs { slots: Vec::with_capacity(count), free: Vec::with_capacity(count), count }
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_use() == self.count
    }

    /// Takes a slot; gives the work back when there is none.
    pub(super) fn add(&mut self, new: NewJob) -> Result<u32, Work> {
        if self.is_full() {
            return Err(new.work);
        }
        let NewJob { session, request_id, arrived, offset, attempt, work } = new;
        let links = [UNLINKED; 2];
        let job = Job { links, session, flight: NONE, request_id, arrived, offset, attempt, work };
        // The last one given back first: its memory is still near.
        let Some(index) = self.free.pop() else {
            self.slots.push(Some(job));
            return Ok(u32::try_from(self.slots.len() - 1).expect("bounded by the count"));
        };
        self.slots[index as usize] = Some(job);
        Ok(index)
    }

    /// Takes a job out. It is in no list any more.
    pub(super) fn remove(&mut self, index: u32) -> Job {
        let job = self.slots[index as usize].take().expect("a listed job exists");
        self.free.push(index);
        job
    }

    /// Empties the slab without giving pins back: the shard ends.
    pub(super) fn forget_all(&mut self) {
        for job in &mut self.slots {
            std::mem::forget(job.take());
        }
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Job {
        self.slots[index as usize].as_ref().expect("a listed job exists")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Job {
        self.slots[index as usize].as_mut().expect("a listed job exists")
    }

    pub(super) fn push<const LINK: usize>(&mut self, list: &mut List, index: u32) {
        let tail = list.tail;
        self.get_mut(index).links[LINK] = Link { prev: tail, next: NONE };
        match tail {
            NONE => list.head = index,
            tail => self.get_mut(tail).links[LINK].next = index,
        }
        list.tail = index;
    }

    pub(super) fn unlink<const LINK: usize>(&mut self, list: &mut List, index: u32) {
        let Link { prev, next } = self.get(index).links[LINK];
        match prev {
            NONE => {
                assert!(list.head == index, "the job is in this list");
                list.head = next;
            }
            prev => self.get_mut(prev).links[LINK].next = next,
        }
        match next {
            NONE => {
                assert!(list.tail == index, "the job is in this list");
                list.tail = prev;
            }
            next => self.get_mut(next).links[LINK].prev = prev,
        }
        self.get_mut(index).links[LINK] = UNLINKED;
    }

    /// The job behind `index` in its list, or [`NONE`].
    #[inline]
    pub(super) fn next<const LINK: usize>(&self, index: u32) -> u32 {
        self.get(index).links[LINK].next
    }

    /// The jobs of a list, in order.
    pub(super) fn iter<const LINK: usize>(&self, list: List) -> impl Iterator<Item = u32> {
        let mut at = list.head;
        std::iter::from_fn(move || {
            let index = at;
            if index == NONE {
                return None;
            }
            at = self.next::<LINK>(index);
            Some(index)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(request_id: u64) -> NewJob {
        let work = Work::Zero(1);
        NewJob { session: 0, request_id, arrived: Nanos::ZERO, offset: 0, attempt: 0, work }
    }

    #[test]
    fn lists_keep_their_order_through_any_unlink() {
        let mut jobs = Jobs::new(4);
        let mut list = List::EMPTY;
        let all: Vec<u32> = (0..4).map(|n| jobs.add(job(n)).unwrap()).collect();
        assert!(jobs.is_full() && jobs.add(job(9)).is_err());
        for &index in &all {
            jobs.push::<SESSION>(&mut list, index);
        }
        let order = |jobs: &Jobs, list| -> Vec<u64> {
            jobs.iter::<SESSION>(list).map(|i| jobs.get(i).request_id).collect()
        };
        assert_eq!(order(&jobs, list), [0, 1, 2, 3]);
        jobs.unlink::<SESSION>(&mut list, all[1]);
        jobs.unlink::<SESSION>(&mut list, all[3]);
        assert_eq!(order(&jobs, list), [0, 2]);
        jobs.unlink::<SESSION>(&mut list, all[0]);
        jobs.push::<SESSION>(&mut list, all[3]);
        assert_eq!(order(&jobs, list), [2, 3]);
        for &index in &all {
            jobs.remove(index);
        }
        assert_eq!(jobs.in_use(), 0);
    }
}
