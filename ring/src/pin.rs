//! Threads on cores.

use core_affinity::CoreId;

/// Why a thread could not be pinned.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PinError {
    /// The process may not run on this core, or it does not exist.
    #[error(
        "core {core} is not available to this process; it may run on {available:?} (see taskset, cgroup cpusets)"
    )]
    NotAvailable {
        /// The core asked for.
        core: usize,
        /// The cores the process may run on.
        available: Vec<usize>,
    },
    /// The kernel refused for another reason.
    #[error(
        "the kernel refused to pin the thread to core {core}; see the process's seccomp and cgroup limits"
    )]
    Refused {
        /// The core asked for.
        core: usize,
    },
}

/// The cores that this thread may run on, ascending. After [`pin_current_thread`] that is one: list first, then pin.
#[must_use]
pub fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Gives the calling thread the lowest priority, for good: for what is left to do at a program's end. Giving pinned memory back takes tens
/// of milliseconds for each 100 MiB, during which others on the core would wait.
pub fn give_way() {
    // SAFETY: `setpriority(PRIO_PROCESS, 0, nice)` takes plain numbers, and changes the calling thread. Lowering it is always allowed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Binds the calling thread to `core`.
///
/// # Errors
/// When the core does not exist or the process may not use it. Which cores are allowed is asked of the *calling
/// thread*, which may be narrower than the process when it was pinned before.
pub fn pin_current_thread(core: usize) -> Result<(), PinError> {
    // Outside the kernel's fixed-size set, the crate would index past its end.
    let representable = core < usize::try_from(libc::CPU_SETSIZE).expect("a positive constant");
    if representable && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    let available = cores();
    if available.contains(&core) {
        return Err(PinError::Refused { core });
    }
    Err(PinError::NotAvailable { core, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_lists() {
        std::thread::spawn(|| {
            let all = cores();
            let last = *all.last().expect("a thread runs somewhere");
            pin_current_thread(last).unwrap();
            assert_eq!(cores(), [last]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn names_the_cores_that_exist() {
        for core in [1023, 1024, usize::MAX] {
            let error = pin_current_thread(core).unwrap_err();
            assert!(
                matches!(&error, PinError::NotAvailable { available, .. } if !available.is_empty())
            );
            assert!(error.to_string().contains(&core.to_string()));
        }
    }
}
