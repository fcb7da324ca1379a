//! A node's talk with its peers in the world: the real machine, driven as its thread drives it.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_node::peers::{OwnReport, PeerAddress, PeerConfig, Peers};
use diskstream_node::shard::NodeShared;
use diskstream_node::view::{HeldVersion, Load};
use diskstream_wire::Nanos;

use crate::hosts::{PEER_PORT, node_ip, node_login, node_name};
use crate::network::Datagram;
use crate::node::NodeSpec;
use crate::options::Options;

/// The machine and where it hears.
pub struct SimPeers {
    machine: Peers,
    from: SocketAddr,
}

impl SimPeers {
    /// A node that knows the others from the farm's file.
    #[must_use]
    pub fn start(
        spec: &NodeSpec,
        options: &Options,
        shared: &NodeShared,
        seed: [u8; 32],
        now: Nanos,
    ) -> SimPeers {
        let from = SocketAddr::new(node_ip(spec.number), PEER_PORT);
        let others = (0..options.nodes).filter(|&n| n != spec.identity);
        let peers = others.map(|n| PeerAddress {
            name: Some(node_name(n)),
            addr: SocketAddr::new(node_ip(n), PEER_PORT),
            login: Some(node_login(n)),
            rating: Some(options.rating_of(n)),
        });
        let config = PeerConfig {
            name: node_name(spec.identity),
            bind: from,
            login: node_login(spec.number),
            rating: options.rating_of(spec.identity),
            peers: peers.collect(),
            seed,
        };
        let mut peers = SimPeers { machine: Peers::new(config, &shared.keys, now), from };
        peers.machine.set_own(own(shared, now));
        peers
    }

    /// When something happens here by itself.
    #[must_use]
    pub fn next_event(&self) -> Nanos {
        self.machine.next_deadline()
    }

    /// Takes a datagram.
    pub fn receive(
        &mut self,
        datagram: &Datagram,
        shared: &NodeShared,
        now: Nanos,
        sent: &mut Vec<Datagram>,
    ) {
        self.machine.handle(datagram.from, &datagram.bytes, now);
        self.show(shared, sent);
    }

    /// Tells how the node fares, and does what is due.
    pub fn tick(&mut self, shared: &NodeShared, now: Nanos, sent: &mut Vec<Datagram>) {
        self.machine.set_own(own(shared, now));
        self.machine.tick(now);
        self.show(shared, sent);
    }

    /// Says goodbye.
    pub fn leave(&mut self, shared: &NodeShared, now: Nanos, sent: &mut Vec<Datagram>) {
        self.machine.set_own(own(shared, now));
        self.machine.leave(now);
        self.show(shared, sent);
    }

    fn show(&mut self, shared: &NodeShared, sent: &mut Vec<Datagram>) {
        while let Some((to, bytes)) = self.machine.poll_send() {
            sent.push(Datagram { from: self.from, to, bytes });
        }
        if self.machine.take_changed() {
            shared.view.publish(self.machine.view());
        }
        while self.machine.poll_event().is_some() {}
    }
}

/// How a node fares.
fn own(shared: &NodeShared, now: Nanos) -> OwnReport {
    let number = |count: usize| u32::try_from(count).expect("few");
    let held = shared.vdisks().unwrap_or_default().iter().map(|vdisk| HeldVersion {
        vdisk: vdisk.name.clone(),
        content_id: vdisk.content_id,
        eligible: vdisk.is_eligible(),
        sessions: vdisk.sessions.load(Relaxed),
    });
    OwnReport {
        load: Load {
            sessions: shared.own.sessions.load(Relaxed),
            standbys: shared.own.standbys.load(Relaxed),
            boot_slots_in_use: number(shared.boot_slots.in_use(now)),
            boot_limit: number(shared.boot_slots.limit()),
        },
        drain: shared.own.drain(),
        versions: held.collect(),
    }
}
