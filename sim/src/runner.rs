//! Many worlds on many threads, and what failed in words.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

thread_local! {
    static RUNNING: Cell<(Option<&'static str>, u64)> = const { Cell::new((None, 0)) };
}

/// Notes what this thread is about to run: a scenario or a drawn world, and its seed.
pub fn set_running(scenario: Option<&'static str>, seed: u64) {
    RUNNING.set((scenario, seed));
}

/// What this thread runs.
#[must_use]
pub fn running() -> (Option<&'static str>, u64) {
    RUNNING.get()
}

/// Runs a world; its failure as text.
///
/// # Errors
/// The words of the judge, or of the invariant, that spoke.
pub fn attempt<T>(world: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    std::panic::catch_unwind(world).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned())
    })
}

/// As many threads as there are cores.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Calls `job` for each seed from `first`, on so many threads, until it is told to stop. Gives how many.
pub fn for_seeds(
    threads: usize,
    first: u64,
    goes_on: impl Fn(u64) -> bool + Sync,
    job: impl Fn(u64) + Sync,
) -> u64 {
    let next = AtomicU64::new(first);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if !goes_on(seed) {
                        break;
                    }
                    job(seed);
                    done.fetch_add(1, Relaxed);
                }
            });
        }
    });
    done.into_inner()
}

/// Failures of many worlds, by seed.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Vec<(u64, String)>>);

impl Failures {
    /// Notes one.
    ///
    /// # Panics
    /// When another holder panicked, which none does.
    pub fn add(&self, seed: u64, words: String) {
        self.0.lock().expect("no holder panics").push((seed, words));
    }

    /// All of them, in order.
    ///
    /// # Panics
    /// As [`Failures::add`].
    #[must_use]
    pub fn into_sorted(self) -> Vec<(u64, String)> {
        let mut failures = self.0.into_inner().expect("no holder panicked");
        failures.sort();
        failures
    }
}

/// The commit that is running, for a failure report.
#[must_use]
pub fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output.ok().filter(|o| o.status.success()).map_or_else(
        || "unknown".to_owned(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}
