//! What nodes know of each other: for now the truth, at once.

use std::sync::Arc;

use diskstream_node::view::{DrainState, FarmView, HeldVersion, Load, PeerState, PeerView};

use crate::hosts::{node_login, node_name, vdisk_name};
use crate::world::World;

impl World {
    /// Tells every node that runs what the others are.
    pub(crate) fn publish_views(&mut self) {
        let peers: Vec<PeerView> = (0..self.specs.len()).map(|n| self.peer_view(n)).collect();
        for node in 0..self.specs.len() {
            let Some(n) = self.node(node) else { continue };
            let others = peers.iter().enumerate().filter(|(peer, _)| *peer != node);
            let peers = others.map(|(_, peer)| peer.clone()).collect();
            n.shared().view.publish(FarmView { peers });
        }
    }

    fn peer_view(&self, node: usize) -> PeerView {
        let (spec, running) = (&self.specs[node], self.node(node));
        let eligible = |vdisk: usize| {
            let entry = running.and_then(|n| n.shared().vdisks()?.get(vdisk));
            entry.is_some_and(|entry| entry.is_eligible())
        };
        let versions = spec.contents.iter().enumerate().map(|(vdisk, image)| HeldVersion {
            vdisk: vdisk_name(vdisk),
            content_id: image.content_id(),
            eligible: eligible(vdisk),
            sessions: 0,
        });
        let drain = if self.drains(node) { DrainState::Stopping } else { DrainState::Serving };
        PeerView {
            name: node_name(spec.identity),
            login: node_login(node),
            rating: self.options.rating_of(node),
            state: if running.is_some() { PeerState::Up } else { PeerState::Down },
            drain,
            load: Load::default(),
            reported: self.now,
            versions: versions.collect(),
            placed: Arc::default(),
        }
    }
}
