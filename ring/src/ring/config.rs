//! Sizes of a ring, as sums, and what can go wrong at its start.

use std::io;

use diskstream_wire::time::Nanos;

use crate::errno::Errno;
use crate::features::Features;
use crate::send::SEGMENTS_MAX;
use crate::wake::Waker;
use crate::zero_copy::ZeroCopy;

/// Wake-ups to other rings that may be under way at once; more of them write to the eventfd instead. Guessed: the
/// number of shards of a large host.
pub(crate) const MESSAGES: u16 = 64;
/// Receives kept armed for each socket when the kernel has no multishot receive. Guessed: a burst of requests.
pub(crate) const SINGLE_RECEIVES: u16 = 32;
/// What the kernel allows: entries of a submission queue, of a completion queue, of a buffer ring.
const ENTRIES_MAX: u32 = 32_768;
const COMPLETIONS_MAX: u32 = 65_536;
const BUFFERS_MAX: u16 = 32_768;

/// How to make a ring. Everything is allocated at once, and nothing later.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue at least; raised to what the other numbers need.
    pub entries: u32,
    /// Entries of the completion queue at least; raised likewise.
    pub completions: u32,
    /// Receive buffers, shared by all sockets: 1 to 32,768.
    pub recv_buffers: u16,
    /// Payload bytes of each. A longer datagram is dropped, and a longer train loses what does not fit.
    pub recv_buffer_bytes: u32,
    /// Sends under way at once.
    pub sends: u16,
    /// Disk reads under way at once.
    pub reads: u16,
    /// Sockets at once.
    pub sockets: u16,
    /// Files at once.
    pub files: u16,
    /// Whether sends leave straight from the arena; needs [`crate::Arena::with_headers`].
    pub zero_copy: ZeroCopy,
    /// Pins of plans that may wait at once for the network to let go of their bytes; past that, sends are copied.
    pub zero_copy_pins_max: u32,
    /// How long a turn that has to wait polls the cards' queues in the kernel first, in microseconds (NAPI busy polling); 0: not.
    pub busy_poll_us: u32,
    /// How long a turn that has to wait looks for completions before it sleeps; zero: not. Costs a core what it saves in latency.
    pub spin: Nanos,
    /// Features to use if the kernel has them; all, unless a twin is to be exercised.
    pub permit: Features,
    /// The waker to listen to, when other threads needed it before the ring was made; else the ring makes one.
    pub waker: Option<Waker>,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: 0,
            completions: 0,
            recv_buffers: 256,
            recv_buffer_bytes: 8192,
            sends: 128,
            reads: 64,
            sockets: 8,
            files: 64,
            zero_copy: ZeroCopy::Off,
            zero_copy_pins_max: 4096,
            busy_poll_us: 0,
            spin: Nanos::ZERO,
            permit: Features::ALL,
            waker: None,
        }
    }
}

/// Entries of both queues, and how they are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the submission queue.
    pub(crate) entries: u32,
    /// Of the completion queue.
    pub(crate) completions: u32,
    /// Submission entries that sends and reads must leave to the ring itself.
    pub(crate) reserved_entries: u32,
    /// Completion entries that sends and reads must leave.
    pub(crate) reserved_completions: u32,
    /// Receives armed for each socket.
    pub(crate) receives_each: u16,
}

impl Sizes {
    pub(crate) fn of(config: &RingConfig, features: Features) -> Result<Sizes, RingError> {
        if config.recv_buffers == 0 || config.recv_buffers > BUFFERS_MAX {
            return Err(RingError::Config {
                what: "recv_buffers",
                least: 1,
                most: BUFFERS_MAX.into(),
            });
        }
        if config.recv_buffer_bytes == 0 || config.recv_buffer_bytes > 1 << 20 {
            return Err(RingError::Config { what: "recv_buffer_bytes", least: 1, most: 1 << 20 });
        }
        let multishot = features.multishot_receive && features.buffer_ring;
        let receives_each = if multishot {
            1
        } else {
            (config.recv_buffers / config.sockets.max(1)).clamp(1, SINGLE_RECEIVES)
        };
        let sockets = u32::from(config.sockets);
        let clients = u32::from(config.sends) + u32::from(config.reads);
        // One whole plan without segmentation must fit into an empty ring.
        let plan = u32::try_from(SEGMENTS_MAX).expect("64");
        // Receives to arm + a cancellation for each socket + the eventfd's read.
        let reserved_entries = sockets * u32::from(receives_each) + sockets + 1;
        let entries = reserved_entries + clients + u32::from(MESSAGES) + plan;
        // A datagram in every buffer + for each socket the end of its receive and of a cancellation + the eventfd's read
        // + one message from another ring (more are not sent before it is reaped) + messages of our own + a second completion
        // for each send that leaves without a copy.
        let notifications = u32::from(config.sends);
        let reserved_completions =
            u32::from(config.recv_buffers) + 2 * sockets + 2 + u32::from(MESSAGES) + notifications;
        let completions = reserved_completions + clients + plan;
        let entries = entries.max(config.entries).next_power_of_two();
        let completions = completions.max(config.completions).max(entries).next_power_of_two();
        if entries > ENTRIES_MAX || completions > COMPLETIONS_MAX {
            return Err(RingError::TooLarge { entries, completions });
        }
        Ok(Sizes { entries, completions, reserved_entries, reserved_completions, receives_each })
    }
}

/// Why a ring cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A number of the configuration is out of its range.
    #[error("ring configuration: {what} must be {least} to {most}")]
    Config {
        /// The field.
        what: &'static str,
        /// Its smallest value.
        least: u32,
        /// Its largest value.
        most: u32,
    },
    /// The sums exceed what the kernel allows.
    #[error(
        "the ring would need {entries} submission and {completions} completion entries; the kernel allows \
             {ENTRIES_MAX} and {COMPLETIONS_MAX}: lower sends, reads or recv_buffers"
    )]
    TooLarge {
        /// Submission entries needed.
        entries: u32,
        /// Completion entries needed.
        completions: u32,
    },
    /// The kernel makes no ring.
    #[error("cannot set up io_uring: {source}; {remedy}")]
    Setup {
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A resource of the ring cannot be made.
    #[error("cannot {what}: {source}")]
    Resource {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// All slots for sockets or files are taken.
    #[error("the ring has room for {capacity} {what} and all are in use")]
    TableFull {
        /// Sockets or files.
        what: &'static str,
        /// How many the ring was made for.
        capacity: u16,
    },
    /// The kernel refused a turn. The ring is of no further use.
    #[error("io_uring_enter failed: {0}")]
    Enter(Errno),
}

impl RingError {
    pub(crate) fn setup(source: io::Error) -> RingError {
        let remedy = match source.raw_os_error() {
            Some(libc::EPERM) => {
                "it is switched off for this user: sysctl kernel.io_uring_disabled=0 (or 1, and join \
                 kernel.io_uring_group), and see the container's seccomp profile"
            }
            Some(libc::ENOSYS) => "Linux 5.11 or later with CONFIG_IO_URING is needed",
            Some(libc::ENOMEM) => "raise LimitMEMLOCK (ulimit -l), or lower the number of entries",
            Some(libc::EMFILE | libc::ENFILE) => "raise LimitNOFILE (ulimit -n)",
            _ => "see io_uring_setup(2)",
        };
        RingError::Setup { source, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_hold_everything() {
        let config = RingConfig::default();
        for features in [Features::ALL, Features::NONE] {
            let sizes = Sizes::of(&config, features).unwrap();
            let clients = u32::from(config.sends) + u32::from(config.reads);
            assert!(sizes.entries >= sizes.reserved_entries + clients);
            assert!(sizes.completions >= sizes.reserved_completions + clients);
            assert!(sizes.completions >= sizes.entries);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_range() {
        let none = RingConfig { recv_buffers: 0, ..RingConfig::default() };
        let text = Sizes::of(&none, Features::ALL).unwrap_err().to_string();
        assert!(text.contains("recv_buffers must be 1 to 32768"), "{text}");
        let huge = RingConfig { sends: u16::MAX, reads: u16::MAX, ..RingConfig::default() };
        assert!(matches!(Sizes::of(&huge, Features::ALL), Err(RingError::TooLarge { .. })));
    }
}
