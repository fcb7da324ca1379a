//! The two queues shared with the kernel, split once and kept for the ring's whole life.
//!
//! `io_uring::IoUring::split` borrows, and only a kept `Submitter` remembers the registered ring descriptor. So the
//! `IoUring` lives in its own allocation, which never moves, and the halves borrow from there; this type owns both, never
//! lends the `IoUring` itself, and ends the borrows before it frees the allocation.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

use super::Full;
use crate::errno::Errno;

/// Neither `Send` nor `Sync`: the kernel takes a single issuer, the thread that made the ring.
pub(crate) struct Queues {
    /// Borrow `uring`, hence dropped by hand before it.
    submission: ManuallyDrop<SubmissionQueue<'static>>,
    completion: ManuallyDrop<CompletionQueue<'static>>,
    submitter: Submitter<'static>,
    /// From `Box::into_raw`; freed in `drop` and nowhere else.
    uring: NonNull<IoUring>,
    fd: RawFd,
    fd_registered: bool,
}

/// What a submission did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entered {
    /// Entries that the kernel took.
    pub(crate) submitted: u32,
    /// The completion queue was full, and the kernel keeps completions aside.
    pub(crate) overflowed: bool,
}

impl Queues {
    /// A ring with at least that many entries; `deferred` asks for `DEFER_TASKRUN`.
    pub(crate) fn new(entries: u32, completions: u32, deferred: bool) -> io::Result<Queues> {
        let uring = build(entries, completions, deferred)?;
        if !uring.params().is_feature_ext_arg() {
            // Linux 5.11: a wait with a deadline.
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let fd = uring.as_raw_fd();
        let uring = NonNull::from(Box::leak(Box::new(uring)));
        // SAFETY: `uring` points to the allocation made above, which nothing else refers to. The borrow is called 'static,
        // but what it lends stays private to this value, whose `drop` ends it before the allocation is freed.
        let lent: &'static mut IoUring = unsafe { &mut *uring.as_ptr() };
        let (mut submitter, submission, completion) = lent.split();
        // A table of 16 for each thread; with more rings than that the plain descriptor serves.
        let fd_registered = submitter.register_ring_fd().is_ok();
        Ok(Queues {
            submission: ManuallyDrop::new(submission),
            completion: ManuallyDrop::new(completion),
            submitter,
            uring,
            fd,
            fd_registered,
        })
    }

    /// For registrations.
    pub(crate) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    /// Entries that can be queued before the next [`Queues::enter`].
    pub(crate) fn room(&self) -> usize {
        self.submission.capacity() - self.submission.len()
    }

    /// True when entries wait for the next [`Queues::enter`].
    pub(crate) fn has_queued(&self) -> bool {
        !self.submission.is_empty()
    }

    /// True when there is something to [pop](Queues::pop).
    pub(crate) fn has_completions(&mut self) -> bool {
        self.completion.sync();
        !self.completion.is_empty()
    }

    pub(crate) fn completion_capacity(&self) -> usize {
        self.completion.capacity()
    }

    /// Queues an entry for the next [`Queues::enter`].
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing was queued.
    ///
    /// # Safety
    /// Everything the entry points to must stay valid, in place and untouched until the terminal completion of the
    /// operation, even if the owner of the ring goes away.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), Full> {
        // SAFETY: passed on to the caller, word for word.
        unsafe { self.submission.push(entry) }.map_err(|_| Full)
    }

    /// One system call: submits what is queued, runs deferred completion work, and waits for `wanted` completions or
    /// the end of `patience`. Interruption and expiry are not errors.
    pub(crate) fn enter(
        &mut self,
        wanted: u32,
        patience: Option<Duration>,
    ) -> Result<Entered, Errno> {
        self.submission.sync();
        let queued = u32::try_from(self.submission.len()).expect("queues are bounded by 32 bits");
        let timespec = patience.map(Timespec::from);
        let args = SubmitArgs::new();
        let args = match &timespec {
            Some(timespec) => args.timespec(timespec),
            None => args,
        };
        // Always with GETEVENTS: without it the kernel runs no deferred work.
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: `args` is the argument structure that EXT_ARG announces; it and the time it points to outlive the call.
        // Each queued entry's pointers are valid by the contract of `push`.
        let result = unsafe { self.submitter.enter(queued, wanted, flags.bits(), Some(&args)) };
        self.submission.sync();
        self.completion.sync();
        let overflowed = self.submission.cq_overflow();
        match result {
            Ok(submitted) => {
                let submitted = u32::try_from(submitted).expect("no more than was queued");
                Ok(Entered { submitted, overflowed })
            }
            Err(error) => match Errno::of(&error) {
                Errno(libc::EINTR | libc::ETIME) => Ok(Entered { submitted: 0, overflowed }),
                // The kernel is short of memory, or wants completions reaped first: try again in the next turn.
                Errno(libc::EAGAIN | libc::EBUSY) => Ok(Entered { submitted: 0, overflowed }),
                errno => Err(errno),
            },
        }
    }

    /// The kernel has more to do for this ring than it did in the last call, or has got more to do since.
    pub(crate) fn work_waits(&self) -> bool {
        self.submission.taskrun()
    }

    /// The oldest completion.
    pub(crate) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.completion.next()
    }

    /// Gives reaped entries back to the kernel, and looks for new ones.
    pub(crate) fn sync_completions(&mut self) {
        self.completion.sync();
    }

    /// Cancels everything that can be cancelled, waiting for it at most `patience`.
    pub(crate) fn cancel_all(&self, patience: Duration) -> io::Result<()> {
        self.submitter.register_sync_cancel(Some(Timespec::from(patience)), CancelBuilder::any())
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        if self.fd_registered {
            // Frees the thread's slot; the ring goes away either way.
            let _ = self.submitter.unregister_ring_fd();
        }
        // SAFETY: dropped once, here, and not used afterwards; the `IoUring` it borrows is still there.
        unsafe { ManuallyDrop::drop(&mut self.submission) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.completion) };
        // SAFETY: the pointer came from a leaked box in `new` and is freed nowhere else. The queues' borrows just ended;
        // the submitter, a bundle of references without a destructor, is not used any more.
        drop(unsafe { Box::from_raw(self.uring.as_ptr()) });
    }
}

/// Asks for the best set of flags, then for less.
fn build(entries: u32, completions: u32, deferred: bool) -> io::Result<IoUring> {
    let mut attempts = 0;
    loop {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).dontfork();
        if attempts < 3 {
            builder.setup_submit_all();
        }
        if deferred && attempts < 2 {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else if attempts < 3 {
            builder.setup_coop_taskrun();
        }
        if attempts < 3 {
            builder.setup_taskrun_flag();
        }
        if attempts < 1 {
            builder.setup_no_sqarray();
        }
        match builder.build(entries) {
            // Unknown flags are EINVAL: 6.6 brought NO_SQARRAY, 6.1 DEFER_TASKRUN, 5.19 COOP_TASKRUN and TASKRUN_FLAG, 5.18 SUBMIT_ALL.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && attempts < 3 => {
                attempts += 1;
            }
            other => return other,
        }
    }
}
