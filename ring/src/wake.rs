//! Waking the thread that waits in a ring's turn.
//!
//! A wake-up is remembered until its ring has reaped it, so one between two turns is not lost, and many collapse into
//! one: only the first makes a system call. From another ring it costs none of its own ([`crate::Ring::wake`]).
//!
//! ```text
//! waker   publish work          ring   reap Woken: pending ← false (acquires)
//!         pending ← true               look for work
//!         if it was false: ring the bell
//! ```
//!
//! A waker that finds `pending` already true published its work before the ring's swap, which therefore sees it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use crate::sync::{AtomicBool, Ordering};

mod sys;

/// Wakes one ring. Clones wake the same one. Made by [`crate::Ring::waker`], or before the ring by [`Waker::new`] and
/// handed to it in its configuration.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pending: Pending,
    event: OwnedFd,
    /// The ring's descriptor while it lives, else -1. Another ring may read it just before it is closed and reused: its
    /// message then fails, and it falls back to the eventfd, or wakes a ring that had no reason to, which is harmless.
    ring: AtomicI32,
}

impl Waker {
    /// A waker that no ring listens to yet; what it is told before one does is not lost.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Waker> {
        let shared =
            Shared { pending: Pending::new(), event: sys::eventfd()?, ring: AtomicI32::new(-1) };
        Ok(Waker { shared: Arc::new(shared) })
    }

    /// Makes the ring's current or next turn return with [`crate::Completion::Woken`]. One system call unless a
    /// wake-up is already under way. What the caller wrote before is visible to the thread that reaps it.
    pub fn wake(&self) {
        if self.shared.pending.raise() {
            self.ring_bell();
        }
    }

    /// True when the caller must ring the bell, one way or another.
    pub(crate) fn raise(&self) -> bool {
        self.shared.pending.raise()
    }

    /// Writes to the eventfd, which every ring listens to.
    pub(crate) fn ring_bell(&self) {
        sys::add_one(&self.shared.event);
    }

    /// The ring has reaped a wake-up; the next one rings again.
    pub(crate) fn lower(&self) {
        self.shared.pending.lower();
    }

    pub(crate) fn event_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    pub(crate) fn set_ring(&self, fd: Option<RawFd>) {
        self.shared.ring.store(fd.unwrap_or(-1), Ordering::Relaxed);
    }

    pub(crate) fn ring_fd(&self) -> Option<RawFd> {
        let fd = self.shared.ring.load(Ordering::Relaxed);
        (fd >= 0).then_some(fd)
    }
}

/// "A wake-up is under way", modelled by loom together with the inbox.
#[derive(Debug)]
pub(crate) struct Pending(AtomicBool);

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending(AtomicBool::new(false))
    }

    /// True for the first since the last [`Pending::lower`].
    pub(crate) fn raise(&self) -> bool {
        // Release: pairs with the swap in `lower`, also for wakers that find it raised (they extend the release
        // sequence with their own release).
        !self.0.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn lower(&self) {
        // Acquire: work published before any `raise` that came earlier is visible from here on. A swap, because a plain
        // store would read nothing and so acquire nothing.
        self.0.swap(false, Ordering::AcqRel);
    }
}
