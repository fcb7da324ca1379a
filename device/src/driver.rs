//! Moves the datagrams of one or many sessions on one ring. It decides nothing and knows no message.
//!
//! ```text
//! turn:  trains of sessions that changed → one io_uring_enter → segments to their sessions → due ticks → events
//! ```
//!
//! * [`Fleet`]: the loop's body, for one thread with any number of sessions. The load generator runs thousands.
//! * [`DeviceThread`] and [`Handle`]: one session on a thread of its own, for the block-device front ends.

mod deadlines;
mod fleet;
mod handle;
mod log;
mod sockets;
mod thread;

pub use fleet::{DriverStats, Fleet, FleetConfig, Member};
pub use handle::Handle;
pub use sockets::Ports;
pub use thread::{DeviceThread, Opened};

use diskstream_ring::ring::RingError;
use diskstream_ring::udp::SocketError;

use crate::session::ConfigError;

/// Why a driver cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A setting of a session.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket.
    #[error("{source}; a device uses {ports}")]
    Socket {
        /// The ports wanted.
        ports: Ports,
        /// What went wrong.
        source: SocketError,
    },
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The thread or its eventfd.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
