//! Waiting without sleeping: in the kernel, on a card's queue, or here, on the completion queue.

use io_uring::types::{Napi, NapiTracking};

use super::{Completions, Ring, RingError};
use crate::clock;
use diskstream_wire::time::Nanos;

impl Ring {
    /// Asks the kernel to poll the cards' queues of this ring's sockets when it waits. Which queues they are it learns from
    /// what arrives; a loopback or a veth has none, and nothing is polled.
    pub(super) fn register_busy_poll(&mut self, micros: u32) {
        if micros == 0 {
            return;
        }
        let mut napi = Napi::new()
            .set_busy_poll_timeout(micros)
            .set_prefer_busy_poll(true)
            .set_tracking(NapiTracking::Dynamic);
        match self.queues.submitter().register_napi(&mut napi) {
            Ok(()) => self.busy_polls = true,
            Err(error) => tracing::warn!(
                micros,
                "the ring does not busy-poll ({error}): waits sleep; remedy: Linux 6.9 with CONFIG_NET_RX_BUSY_POLL"
            ),
        }
    }

    /// Whether the kernel took the wish to busy-poll.
    #[must_use]
    pub fn busy_polls(&self) -> bool {
        self.busy_polls
    }

    /// Submits what is queued and looks for completions until there are some, or the time set for it is over or it is `until`;
    /// gives how many it reaped. What another thread or an interrupt completed is in the queue; for what this thread has to complete itself
    /// the kernel sets a mark in shared memory. So looking costs no system call.
    pub(super) fn spin(&mut self, until: Nanos, done: &mut Completions) -> Result<u32, RingError> {
        let mut reaped = 0;
        if self.queues.has_queued() {
            reaped = self.enter(0, None, done)?;
            self.sends_submitted(None);
        }
        let end = until.earlier(clock::now() + self.spin);
        while reaped == 0 {
            if self.queues.has_completions() {
                reaped = self.reap_ready(done);
            } else if self.queues.work_waits() {
                reaped = self.enter(0, None, done)?;
            } else if clock::now() >= end {
                break;
            } else {
                std::hint::spin_loop();
            }
        }
        self.stats.spins_hit += u64::from(reaped > 0);
        Ok(reaped)
    }
}
