//! A bounded queue from many threads to the owner of a ring.
//!
//! Pushing to an owner that is awake costs no system call: it looks into its inbox in every turn anyway. Only an owner
//! that said it might sleep is woken, and once.
//!
//! ```text
//! owner                                 sender
//!   each turn:                            push
//!     pop all                             fence
//!     may_sleep:  asleep ← true           if asleep: wake (the waker makes many one)
//!                 fence
//!                 empty? else stay awake
//!     turn (waits only if may_sleep)
//!     awake:      asleep ← false
//! ```
//!
//! Only the owner writes `asleep`. The two fences are the store-load pair that makes it safe: of "the owner sees the item" and "the sender sees the owner
//! asleep", at least one is true. The loom model below searches all interleavings for a lost wake-up.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::ring::Ring;
use crate::sync::{AtomicBool, Ordering, fence};
use crate::wake::Waker;

/// Makes an inbox for `capacity` items, whose owner sleeps in the ring that `waker` wakes.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn inbox<T: Send>(capacity: usize, waker: Waker) -> (Sender<T>, Inbox<T>) {
    let shared =
        Arc::new(Shared { queue: ArrayQueue::new(capacity), doorbell: Doorbell::new(), waker });
    (Sender { shared: Arc::clone(&shared) }, Inbox { shared })
}

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    doorbell: Doorbell,
    waker: Waker,
}

/// The sending end; clone one for each thread.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send> Sender<T> {
    /// Appends an item, and wakes the owner if it sleeps.
    ///
    /// # Errors
    /// The item, when the inbox is full: try later, count, or refuse upstream.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.shared.queue.push(item)?;
        if self.shared.doorbell.must_wake() {
            self.shared.waker.wake();
        }
        Ok(())
    }

    /// As [`Sender::push`], from a thread with a ring: the wake-up travels with that ring's next turn.
    ///
    /// # Errors
    /// The item, when the inbox is full.
    pub fn push_by(&self, ring: &mut Ring, item: T) -> Result<(), T> {
        self.shared.queue.push(item)?;
        if self.shared.doorbell.must_wake() {
            ring.wake(&self.shared.waker);
        }
        Ok(())
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Inbox<T> {
    /// The oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Call before a turn that may wait. False means there is work: do not wait. True arms the wake-up; call
    /// [`Inbox::awake`] when the turn is over. With several inboxes, ask every one: `a.may_sleep() & b.may_sleep()`.
    #[must_use = "a turn may only wait when this is true"]
    pub fn may_sleep(&mut self) -> bool {
        self.shared.doorbell.lie_down(|| self.shared.queue.is_empty())
    }

    /// Call after a turn that was allowed to wait: senders need not wake any more.
    pub fn awake(&mut self) {
        self.shared.doorbell.get_up();
    }

    /// Items that wait; momentary.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// True when no item waits; momentary.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// Items that can wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.queue.capacity()
    }

    /// Another sending end.
    #[must_use]
    pub fn sender(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

/// Who is asleep. Knows nothing of queues or rings, so that the model can try it with its own.
#[derive(Debug)]
struct Doorbell {
    asleep: AtomicBool,
}

impl Doorbell {
    fn new() -> Doorbell {
        Doorbell { asleep: AtomicBool::new(false) }
    }

    /// Sender, after its push.
    fn must_wake(&self) -> bool {
        // Pairs with the fence in `lie_down`.
        fence(Ordering::SeqCst);
        // A load only: the line stays shared between senders, and a late one cannot undo what the owner says next.
        self.asleep.load(Ordering::Relaxed)
    }

    /// Owner: true when it may wait.
    fn lie_down(&self, empty: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `must_wake`.
        fence(Ordering::SeqCst);
        let empty = empty();
        if !empty {
            self.get_up();
        }
        empty
    }

    fn get_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod tests;
