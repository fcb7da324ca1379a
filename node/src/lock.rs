//! The locks of a node, which count: a test shows that shards take none while they serve hits.
//!
//! A lock that nobody contends for makes no system call and so leaves no other trace. In builds with debug assertions each thread counts
//! what it locks, or tries to; in others this is `std::sync::Mutex` and nothing more. `cargo xtask tidy` holds the crate to it.

use std::sync::{LockResult, MutexGuard, TryLockResult};

/// A [`std::sync::Mutex`] whose acquisitions are counted in debug builds.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Around a value.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    /// As the standard one.
    ///
    /// # Errors
    /// When a thread panicked while it held the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        count::one();
        self.0.lock()
    }

    /// As the standard one. Counts also when it is taken: it writes to what others read.
    ///
    /// # Errors
    /// When it is held, or a thread panicked while it held the lock.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        count::one();
        self.0.try_lock()
    }
}

pub use count::acquisitions;

#[cfg(debug_assertions)]
mod count {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// Each thread that ever locked something: its name, and how often it did.
    static THREADS: std::sync::Mutex<Vec<(String, Arc<AtomicU64>)>> =
        std::sync::Mutex::new(Vec::new());

    thread_local! {
        static OWN: Arc<AtomicU64> = enter();
    }

    fn enter() -> Arc<AtomicU64> {
        let own = Arc::new(AtomicU64::new(0));
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        THREADS.lock().expect("nothing panics under it").push((name, Arc::clone(&own)));
        own
    }

    pub(super) fn one() {
        // A thread that is ending has no count any more.
        let _ = OWN.try_with(|own| own.fetch_add(1, Relaxed));
    }

    /// What all threads whose name begins so have locked since the start; none in builds that do not count.
    #[must_use]
    pub fn acquisitions(name: &str) -> Option<u64> {
        let threads = THREADS.lock().expect("nothing panics under it");
        let named = threads.iter().filter(|(thread, _)| thread.starts_with(name));
        Some(named.map(|(_, count)| count.load(Relaxed)).sum())
    }
}

#[cfg(not(debug_assertions))]
mod count {
    #[inline]
    pub(super) fn one() {}

    /// What all threads whose name begins so have locked since the start; none in builds that do not count.
    #[must_use]
    pub fn acquisitions(_: &str) -> Option<u64> {
        None
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_nobody_contends_for_is_counted_for_its_thread() {
        static WORD: Mutex<u8> = Mutex::new(0);
        let named = std::thread::Builder::new().name("locker-7".to_owned());
        let thread = named.spawn(|| {
            let held = WORD.lock().expect("nobody panics");
            assert!(WORD.try_lock().is_err(), "it is held");
            drop(held);
        });
        thread.expect("a thread").join().expect("it ends well");
        assert_eq!(acquisitions("locker-"), Some(2));
        assert_eq!(acquisitions("another"), Some(0));
    }
}
