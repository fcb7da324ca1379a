//! Why a device may move: what befell the node that it left. The judge of moves asks here.
//!
//! A slow disk, lost datagrams and an attacker off the path are no causes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use diskstream_device::session::MoveCause;
use diskstream_wire::Nanos;

use crate::device::Moved;
use crate::hosts::{node_at, node_ip};

/// For so long after a blow silence may be blamed on it. Derived: eight probes of 20 ms and the longest time-out before
/// them (1 s); then as long again for an answer that was on its way.
const SILENCE_AFTER: Nanos = Nanos::from_secs(3);

#[derive(Clone, Copy, Debug, Default)]
struct NodeCauses {
    /// Down, draining, or its store is bad: since when, until it is over.
    ongoing: Option<Nanos>,
    /// When something was last wrong with it.
    last: Option<Nanos>,
}

/// What befell whom.
#[derive(Debug)]
pub struct Causes {
    nodes: Vec<NodeCauses>,
    /// Cuts on the way, and when they ended.
    cuts: BTreeMap<(IpAddr, IpAddr), Option<Nanos>>,
}

impl Causes {
    /// Nothing befell these nodes.
    #[must_use]
    pub fn new(nodes: usize) -> Causes {
        Causes { nodes: vec![NodeCauses::default(); nodes], cuts: BTreeMap::new() }
    }

    /// Something is wrong with a node from now on, or not any more.
    pub fn node(&mut self, node: usize, wrong: bool, now: Nanos) {
        let causes = &mut self.nodes[node];
        causes.last = Some(now);
        causes.ongoing = if wrong { causes.ongoing.or(Some(now)) } else { None };
    }

    /// Something is wrong with a node until then.
    pub fn node_until(&mut self, node: usize, until: Nanos) {
        let last = &mut self.nodes[node].last;
        *last = Some(last.map_or(until, |last| last.max(until)));
    }

    /// Nothing gets from one host to another, or again.
    pub fn cut(&mut self, from: IpAddr, to: IpAddr, cut: bool, now: Nanos) {
        self.cuts.insert((from, to), if cut { None } else { Some(now) });
    }

    /// All cuts end.
    pub fn heal_cuts(&mut self, now: Nanos) {
        self.cuts.values_mut().for_each(|ended| {
            ended.get_or_insert(now);
        });
    }

    /// Whether the world gave a device a cause to move.
    #[must_use]
    pub fn justify(&self, device: IpAddr, moved: &Moved) -> bool {
        let Some(node) = node_at(moved.from.ip()) else { return false };
        let Some(causes) = self.nodes.get(node) else { return false };
        if causes.ongoing.is_some() {
            return true;
        }
        let silence = moved.cause == MoveCause::NodeSilent;
        let oldest = if silence { moved.at.since(SILENCE_AFTER) } else { moved.since.since(SLACK) };
        let host = node_ip(node);
        let cut = [(device, host), (host, device)].iter().any(|way| match self.cuts.get(way) {
            Some(None) => true,
            Some(Some(ended)) => *ended >= oldest,
            None => false,
        });
        cut || causes.last.is_some_and(|last| last >= oldest)
    }
}

/// A session may be older than its use: a standby at a node that restarted is looked at every 10 s, and may be promoted just
/// before. Derived: those 10 s, their jitter, and a login.
const SLACK: Nanos = Nanos::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::{device_ip, node_login};

    #[test]
    fn silence_needs_a_recent_cause() {
        let mut causes = Causes::new(2);
        let at = Nanos::from_secs(100);
        let moved = |cause, at| Moved {
            at,
            from: node_login(0),
            to: node_login(1),
            cause,
            since: Nanos::from_secs(50),
        };
        let device = device_ip(0);
        let silent = moved(MoveCause::NodeSilent, at);
        assert!(!causes.justify(device, &silent));
        causes.node(1, true, at);
        assert!(!causes.justify(device, &silent), "the other node's fate is no cause");
        causes.node(0, true, Nanos::from_secs(60));
        assert!(causes.justify(device, &silent));
        causes.node(0, false, Nanos::from_secs(90));
        assert!(!causes.justify(device, &silent), "it has been well for 10 s");
        assert!(causes.justify(device, &moved(MoveCause::UnknownSession, at)));
        causes.cut(node_ip(0), device_ip(1), true, at);
        assert!(!causes.justify(device, &silent), "another device's way is cut");
        assert!(causes.justify(device_ip(1), &silent));
    }
}
