//! The one place in this program that reads a clock.

use std::time::Instant;

/// The present moment. Chores measure and bound real programs, so their time is the machine's.
#[expect(
    clippy::disallowed_methods,
    reason = "chores wait for real programs; no state machine lives here"
)]
pub fn now() -> Instant {
    Instant::now()
}
