//! The table of requests on the wire. A request's slot is in its id, so an answer finds it without a search.

use std::collections::VecDeque;

use diskstream_wire::Nanos;

use super::limits::{REQUEST_SLOT_BITS, REQUESTS_MAX};
use super::random::Random;
use super::request::{Phase, Request};

const SLOT_MASK: u64 = (1 << REQUEST_SLOT_BITS) - 1;

/// All requests.
#[derive(Debug)]
pub struct Requests {
    slots: Vec<Request>,
    free: Vec<u16>,
    /// Slots in phase `Queued`, in the order in which they are sent.
    queue: VecDeque<u16>,
    /// Slots of which a copy shall be asked at the standby, in the order in which they are sent.
    hedges: VecDeque<u16>,
    /// No slot is due before this. A lower bound: it is exact after [`Requests::settle`].
    earliest: Nanos,
}

impl Requests {
    pub fn new() -> Requests {
        Requests {
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            hedges: VecDeque::new(),
            earliest: Nanos::NEVER,
        }
    }

    /// Whether another request can be made.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < REQUESTS_MAX
    }

    /// Makes a request with a fresh id.
    pub fn add(&mut self, mut request: Request, random: &mut Random) -> u16 {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                assert!(self.slots.len() < REQUESTS_MAX, "the caller checked for room");
                self.slots.push(Request::default());
                u16::try_from(self.slots.len() - 1).expect("REQUESTS_MAX fits 16 bits")
            }
        };
        request.id = (random.u64() & !SLOT_MASK) | u64::from(slot);
        self.slots[usize::from(slot)] = request;
        slot
    }

    /// The slot of an answer; none when its request is over or never was.
    #[inline]
    pub fn find(&self, id: u64) -> Option<u16> {
        let slot = u16::try_from(id & SLOT_MASK).expect("ten bits");
        let request = self.slots.get(usize::from(slot))?;
        (request.id == id && request.phase != Phase::Free).then_some(slot)
    }

    #[inline]
    pub fn get(&self, slot: u16) -> &Request {
        &self.slots[usize::from(slot)]
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u16) -> &mut Request {
        &mut self.slots[usize::from(slot)]
    }

    /// Frees a slot.
    pub fn remove(&mut self, slot: u16) {
        let request = &mut self.slots[usize::from(slot)];
        assert!(request.phase != Phase::Free, "a request ends once");
        if request.phase == Phase::Queued {
            self.queue.retain(|&queued| queued != slot);
        }
        if request.hedge_queued {
            self.hedges.retain(|&queued| queued != slot);
        }
        request.phase = Phase::Free;
        request.id = 0;
        self.free.push(slot);
    }

    /// Puts a request into the queue of those to be sent.
    pub fn enqueue(&mut self, slot: u16) {
        let request = &mut self.slots[usize::from(slot)];
        if request.phase != Phase::Queued {
            request.phase = Phase::Queued;
            request.due = Nanos::NEVER;
            self.queue.push_back(slot);
        }
    }

    /// Takes a request out of the queue of those to be sent, as one that is asked elsewhere already.
    pub fn unqueue(&mut self, slot: u16) {
        let request = &mut self.slots[usize::from(slot)];
        assert_eq!(request.phase, Phase::Queued);
        request.phase = Phase::Asked;
        self.queue.retain(|&queued| queued != slot);
    }

    /// Puts a request into the queue of those of which a copy shall be sent.
    pub fn enqueue_hedge(&mut self, slot: u16) {
        let request = &mut self.slots[usize::from(slot)];
        if !std::mem::replace(&mut request.hedge_queued, true) {
            self.hedges.push_back(slot);
        }
    }

    /// The next request of which a copy shall be sent.
    pub fn next_hedge(&self) -> Option<u16> {
        self.hedges.front().copied()
    }

    /// Takes the next one out of the queue of copies.
    pub fn pop_hedge(&mut self) {
        if let Some(slot) = self.hedges.pop_front() {
            self.slots[usize::from(slot)].hedge_queued = false;
        }
    }

    /// Sets when to look whether a request wants a copy.
    #[inline]
    pub fn set_hedge_at(&mut self, slot: u16, at: Nanos) {
        self.slots[usize::from(slot)].hedge_at = at;
        self.earliest = self.earliest.earlier(at);
    }

    /// The next request to be sent.
    pub fn next_queued(&self) -> Option<u16> {
        self.queue.front().copied()
    }

    /// Takes the next request to be sent out of the queue.
    pub fn pop_queued(&mut self) {
        self.queue.pop_front();
    }

    /// Sets when a request is due.
    #[inline]
    pub fn set_due(&mut self, slot: u16, due: Nanos) {
        self.slots[usize::from(slot)].due = due;
        self.earliest = self.earliest.earlier(due);
    }

    /// No request is due before this.
    pub fn earliest(&self) -> Nanos {
        self.earliest
    }

    /// Makes the next tick look at every request.
    pub fn look_soon(&mut self, now: Nanos) {
        self.earliest = self.earliest.earlier(now);
    }

    /// Computes the earliest due time anew.
    pub fn settle(&mut self) {
        let due = self.live().map(|(_, r)| r.due.earlier(r.hedge_at));
        self.earliest = due.min().unwrap_or(Nanos::NEVER);
    }

    /// Slots ever used.
    pub fn capacity(&self) -> u16 {
        u16::try_from(self.slots.len()).expect("REQUESTS_MAX fits 16 bits")
    }

    /// Requests outstanding.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The live requests.
    pub fn live(&self) -> impl Iterator<Item = (u16, &Request)> {
        (0u16..).zip(&self.slots).filter(|(_, r)| r.phase != Phase::Free)
    }

    /// What must hold between calls.
    pub fn check_invariants(&self) {
        let mut queued = vec![0u32; self.slots.len()];
        self.queue.iter().for_each(|&slot| queued[usize::from(slot)] += 1);
        let mut copies = vec![0u32; self.slots.len()];
        self.hedges.iter().for_each(|&slot| copies[usize::from(slot)] += 1);
        for (slot, request) in (0u16..).zip(&self.slots) {
            let wants = request.phase != Phase::Free && request.hedge_queued;
            assert_eq!(copies[usize::from(slot)], u32::from(wants));
            assert_eq!(queued[usize::from(slot)], u32::from(request.phase == Phase::Queued));
            if request.phase == Phase::Free {
                continue;
            }
            assert_eq!(request.id & SLOT_MASK, u64::from(slot));
            assert!(!request.is_complete(), "a complete request is freed at once");
            assert_eq!(request.outstanding & request.received, 0);
            assert_eq!(request.outstanding & !request.all(), 0);
            assert_eq!(request.hedge.outstanding & request.received, 0);
            assert_eq!(request.hedge.outstanding & !request.all(), 0);
            assert!(request.due >= self.earliest, "the earliest deadline is a lower bound");
            assert!(request.hedge_at >= self.earliest, "that of copies too");
            assert!(
                !request.is_hedged() || request.hedge_at != Nanos::NEVER,
                "a copy ends some time"
            );
            if request.phase == Phase::Asked {
                assert!(request.outstanding != 0, "an asked request expects something");
                assert!(request.due != Nanos::NEVER, "an asked request ends some time");
            }
            if matches!(request.phase, Phase::Queued | Phase::Waiting) {
                assert!(
                    request.outstanding == 0,
                    "nothing is expected of a request that is not out"
                );
            }
        }
    }
}
