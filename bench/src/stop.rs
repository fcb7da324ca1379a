//! Told to end: runs that hold what would outlive them (servers that put themselves into the background, files) end in good order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A switch that SIGTERM and SIGINT set from now on. A second signal ends the process at once, for those who cannot wait.
///
/// # Errors
/// When the system does not let us listen.
pub fn on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the switch off and only sets it.
        let second = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop));
        second
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("listening for signals")?;
    }
    Ok(stop)
}

/// Goes on unless the switch is set.
///
/// # Errors
/// When it is.
pub fn go_on(stop: &AtomicBool) -> anyhow::Result<()> {
    ensure!(!stop.load(Ordering::Relaxed), "told to end");
    Ok(())
}
