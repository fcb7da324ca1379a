//! The one place of this benchmark that reads a clock.
use std::time::{Duration, Instant};

/// Time that `work` takes.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
