//! What the cache takes from the outside to work across threads. Under `cfg(loom)` it is the model checker's instead.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use std::thread::yield_now;

    use crossbeam_queue::ArrayQueue;

    /// A bounded queue of frame numbers with many producers and consumers.
    pub(crate) struct Fifo(ArrayQueue<u32>);

    impl Fifo {
        pub(crate) fn new(capacity: usize) -> Fifo {
            Fifo(ArrayQueue::new(capacity))
        }

        pub(crate) fn push(&self, frame: u32) {
            self.0.push(frame).expect("a frame is in one queue at a time, and each holds them all");
        }

        pub(crate) fn pop(&self) -> Option<u32> {
            self.0.pop()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len()
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use loom::thread::yield_now;

    use std::collections::VecDeque;

    use loom::sync::Mutex;

    /// The queue as the checker sees it: its hand-over orders memory, as `crossbeam_queue` documents; its insides are
    /// not what is being checked.
    pub(crate) struct Fifo(Mutex<VecDeque<u32>>);

    impl Fifo {
        pub(crate) fn new(capacity: usize) -> Fifo {
            Fifo(Mutex::new(VecDeque::with_capacity(capacity)))
        }

        pub(crate) fn push(&self, frame: u32) {
            let mut queue = self.0.lock().expect("no model thread panics while it holds this");
            assert!(queue.len() < queue.capacity(), "a frame is in one queue at a time");
            queue.push_back(frame);
        }

        pub(crate) fn pop(&self) -> Option<u32> {
            self.0.lock().expect("no model thread panics while it holds this").pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().expect("no model thread panics while it holds this").len()
        }
    }
}

pub(crate) use imp::*;

/// Waits for another thread that is between two stores: spins, then yields in case that thread lost its core.
pub(crate) struct Relax(u32);

impl Relax {
    /// Guessed: some hundred nanoseconds of spinning, longer than the two stores take.
    const SPINS: u32 = 64;

    pub(crate) fn new() -> Relax {
        Relax(0)
    }

    pub(crate) fn wait(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < Self::SPINS && !cfg!(loom) {
            spin_loop();
        } else {
            yield_now();
        }
    }
}
