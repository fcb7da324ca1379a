//! What happens to nodes during a run, at its moment, on a thread of its own: the fleet's loop must not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use diskstream_ring::clock;
use diskstream_wire::Nanos;

/// Moments that the thread tells the loop; 0: not yet.
#[derive(Debug, Default)]
pub struct Told {
    began: AtomicU64,
    returned: AtomicU64,
}

impl Told {
    /// One of the nodes that were all gone takes logins again; the first one counts.
    pub fn node_returned(&self) {
        let now = clock::now().0;
        let _ = self.returned.compare_exchange(0, now, Ordering::Release, Ordering::Relaxed);
    }

    fn moment(cell: &AtomicU64) -> Option<Nanos> {
        let at = cell.load(Ordering::Acquire);
        (at != 0).then_some(Nanos(at))
    }
}

/// A thread that waits for its moment.
#[derive(Debug)]
pub struct Happening {
    thread: JoinHandle<anyhow::Result<()>>,
    told: Arc<Told>,
    /// Dropped to let the thread end: what it holds is held until then.
    run_is_over: mpsc::Sender<()>,
}

impl Happening {
    /// `action` is done at `at`. What it returns is held until [`Happening::end`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn at<H>(
        at: Nanos,
        action: impl FnOnce(&Told) -> anyhow::Result<H> + Send + 'static,
    ) -> anyhow::Result<Happening> {
        let told = Arc::new(Told::default());
        let (run_is_over, over) = mpsc::channel::<()>();
        let shared = Arc::clone(&told);
        let body = move || {
            // Returns early only when the run is over.
            let wait = at.since(clock::now()).as_duration();
            if over.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Disconnected) {
                return Ok(());
            }
            shared.began.store(clock::now().0, Ordering::Release);
            let held = action(&shared)?;
            let _ = over.recv();
            drop(held);
            Ok(())
        };
        let thread = thread::Builder::new()
            .name("happening".to_owned())
            .spawn(body)
            .context("starting a thread")?;
        Ok(Happening { thread, told, run_is_over })
    }

    /// When the action began.
    #[must_use]
    pub fn began(&self) -> Option<Nanos> {
        Told::moment(&self.told.began)
    }

    /// When nodes that were all gone took logins again.
    #[must_use]
    pub fn returned(&self) -> Option<Nanos> {
        Told::moment(&self.told.returned)
    }

    /// True when the action is over before the run is: it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets the thread end.
    ///
    /// # Errors
    /// What kept the action from happening.
    pub fn end(self) -> anyhow::Result<()> {
        drop(self.run_is_over);
        self.thread.join().map_err(|_| anyhow!("the thread of the event panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happens_not_before_its_moment_and_holds_what_it_made() {
        let at = clock::now() + Nanos::from_millis(20);
        let (dropped, see) = mpsc::channel::<()>();
        let (ran, done) = mpsc::channel();
        let happening = Happening::at(at, move |told| {
            told.node_returned();
            let first = told.returned.load(Ordering::Relaxed);
            while clock::now().0 == first {}
            told.node_returned();
            assert_eq!(told.returned.load(Ordering::Relaxed), first);
            ran.send(()).unwrap();
            Ok(dropped)
        })
        .unwrap();
        assert_eq!(happening.began(), None);
        done.recv().unwrap();
        assert!(happening.began().unwrap() >= at);
        assert!(happening.returned() >= happening.began());
        assert_eq!(see.try_recv(), Err(mpsc::TryRecvError::Empty), "it is held");
        happening.end().unwrap();
        assert_eq!(see.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn a_run_that_ends_before_does_not_wait_for_it() {
        let happening = Happening::at(Nanos::NEVER, |_| -> anyhow::Result<()> {
            panic!("its moment never comes")
        });
        happening.unwrap().end().unwrap();
    }
}
