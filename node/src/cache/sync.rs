//! What the cache takes from the outside to work across threads. Under `cfg(loom)` it is the model checker's instead.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use std::thread::yield_now;

    use std::sync::atomic::Ordering::SeqCst;

    use crossbeam_queue::ArrayQueue;

    /// Stores so that later `SeqCst` loads of this thread come after it for everybody who uses `SeqCst` too.
    #[inline]
    pub(crate) fn store_before_loads(word: &AtomicU32, value: u32) {
        word.store(value, SeqCst);
    }

    /// Nothing: the compare-exchange before it is `SeqCst`, and so are the loads after it.
    pub(crate) fn fence_of_evictions() {}

    /// Planted mistakes are for the model checker.
    #[inline]
    pub(crate) fn planted(_: super::Mistake) -> bool {
        false
    }

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

    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering::{Relaxed, SeqCst};

    use loom::sync::Mutex;
    use loom::sync::atomic::fence;

    use super::Mistake;

    /// The checker takes `SeqCst` accesses for `AcqRel` ones, which says less than the language; fences it knows in full.
    pub(crate) fn store_before_loads(word: &AtomicU32, value: u32) {
        word.store(value, Relaxed);
        if !planted(Mistake::AnnounceRelaxed) {
            fence(SeqCst);
        }
    }

    /// See the other [`store_before_loads`].
    pub(crate) fn fence_of_evictions() {
        fence(SeqCst);
    }

    thread_local! {
        /// All threads of a model run on the thread of its test.
        static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    pub(crate) fn plant(mistake: Option<Mistake>) {
        PLANTED.set(mistake);
    }

    pub(crate) fn planted(mistake: Mistake) -> bool {
        PLANTED.get() == Some(mistake)
    }

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

/// Mistakes that a model can make on purpose, to prove that the checker would see them. In the real thing there are none.
#[cfg_attr(not(loom), expect(dead_code, reason = "only a model makes them"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// A shard's count may become visible after it looked at the frame.
    AnnounceRelaxed,
    /// A frame is evicted without a look at the counts after the step to `Evicting`.
    EvictWithoutLook,
    /// A shard believes the key that it saw before its count was visible.
    KeyNotReread,
    /// What was read under a pin may still be going on when it is seen to be gone.
    UnpinRelaxed,
    /// A block can be found before its bytes.
    PublishRelaxed,
    /// An insertion claims its bucket as it is, not as it was when it was looked through.
    ClaimAfterAnOldScan,
    /// Whoever waits does not look whether the load has ended meanwhile.
    WaitWithoutLook,
}

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
