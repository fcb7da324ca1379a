//! The other nodes of the farm: who lives, how busy they are, what they hold. The protocol is in `docs/peers.md`.
//!
//! [`Peers`] is the machine: datagrams and the time go in, datagrams, the next deadline and a [`crate::view::FarmView`] come
//! out. It reads no clock and draws nothing but from its seed. [`PeerThread`] drives it on a socket; the simulator does so too.
//!
//! | part | does |
//! |---|---|
//! | `seal` | what travels is sealed with a key of the farm |
//! | `session` | incarnations, sequence numbers and challenges: a recorded datagram has no effect |
//! | `membership` | SWIM, by the library `foca` |
//! | `inventory` | which versions a node holds, and their digest |
//! | `machine` | who is who, reports, states |
//! | `thread` | the socket |

mod config;
mod counters;
mod inventory;
pub mod limits;
mod machine;
mod membership;
mod seal;
mod session;
mod status;
mod thread;

pub use config::{OwnReport, PeerAddress, PeerConfig};
pub use counters::{PeerCounters, PeerMetric, PeerRefusal};
pub use inventory::{OwnVersion, digest};
pub use machine::Peers;
pub use status::{PeerEvent, PeerStatus, RefusedBy, StateChange, Why};
pub use thread::{PeerHandle, PeerThread};
