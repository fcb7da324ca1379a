//! One registration for all rings.
//!
//! Pinning an arena's pages takes time for each GiB, and counts against the locked-memory limit each time. So the first
//! ring has them pinned once, by a ring that does nothing else, and all rings clone that table (Linux 6.12; 2 µs instead
//! of 8.5 ms for 64 MiB, measured). It must be a ring without `SINGLE_ISSUER`: one of those lends to its own thread only
//! (`EEXIST`, measured).

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use io_uring::{IoUring, Submitter};

use super::Arena;

/// Made when first asked; none where the kernel refuses, and then every ring registers for itself.
#[derive(Default)]
pub(super) struct Donor(OnceLock<Option<IoUring>>);

impl Donor {
    /// True when `ring` has the arena's pieces now.
    pub(super) fn lend(&self, arena: &Arena, ring: &Submitter<'_>) -> bool {
        let donor = self.0.get_or_init(|| {
            let donor = IoUring::builder().dontfork().build(1).ok()?;
            let pieces: Vec<_> = arena.pieces().collect();
            // SAFETY: the pieces are inside the arena's mapping, and the arena owns this donor and drops it first.
            unsafe { donor.submitter().register_buffers(&pieces) }.ok()?;
            Some(donor)
        });
        // Before Linux 6.12 this is EINVAL.
        donor.as_ref().is_some_and(|donor| ring.register_buffers_clone(donor.as_raw_fd()).is_ok())
    }
}

impl Drop for Donor {
    fn drop(&mut self) {
        if let Some(Some(donor)) = self.0.get() {
            // Here, and not by a thread of the kernel's that has everybody else's priority. What was registered can be given back.
            let _ = donor.submitter().unregister_buffers();
        }
    }
}

impl fmt::Debug for Donor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Donor").field(&self.0.get().map(Option::is_some)).finish()
    }
}
