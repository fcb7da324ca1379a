//! What the machine of the peers is told.

use std::net::SocketAddr;

use super::inventory::OwnVersion;
use crate::view::{DrainState, Load};

/// Who this node is, and whom it knows from the start.
#[derive(Clone)]
pub struct PeerConfig {
    /// This node's name, at most 32 bytes; no two nodes of a farm share one.
    pub name: String,
    /// Where its peers reach it. An unspecified address: it learns from them what it is; port 0 (tests): any free one.
    pub bind: SocketAddr,
    /// Where it answers logins.
    pub login: SocketAddr,
    /// Its power rating in hundredths.
    pub rating: u16,
    /// The nodes of the farm file, without this one; or the one to join through.
    pub peers: Vec<PeerAddress>,
    /// From the operating system: incarnation, nonces, challenges and jitter come from it. Two starts never share one.
    pub seed: [u8; 32],
}

/// Where a peer is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name; none: whoever answers there.
    pub name: Option<String>,
    /// Where it hears its peers.
    pub addr: SocketAddr,
    /// Where it answers logins; none: it says so itself.
    pub login: Option<SocketAddr>,
    /// Its power rating in hundredths; none: it says so itself.
    pub rating: Option<u16>,
}

/// What this node tells its peers about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnReport {
    /// How busy it is.
    pub load: Load,
    /// Whether it takes devices.
    pub drain: DrainState,
    /// What it holds, in any order.
    pub versions: Vec<OwnVersion>,
}
