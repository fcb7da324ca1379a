//! Networks of a run's own: namespaces for nodes and fleet, joined by a bridge, or by a relay that loses and delays.
//!
//! ```text
//! without loss and delay:  node 1 ─ veth ─┐             with them:  node 1 ─ tun ─┐
//!                          node 2 ─ veth ─┼─ bridge                 node 2 ─ tun ─┼─ relay (process)
//!                           fleet ─ veth ─┘                          fleet ─ tun ─┘
//! ```
//!
//! Namespaces have no names: they are gone with the processes in them, however these end. Addresses are the nodes' own, so
//! tickets and node lists hold what devices can reach, and everything passes: logins, reads, notices, peers, ICMP.

mod lan;
mod namespace;
pub mod relay;

pub use lan::{Impairment, Lan, LanCounts, address as lan_address};
pub use namespace::{Namespace, may_make_namespaces};
