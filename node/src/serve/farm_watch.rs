//! The other nodes, as far as the control loop cares: static ones, and copies that differ.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use diskstream_wire::Nanos;

use crate::metrics::{Samples, Source};
use crate::peers::{PeerAddress, PeerConfig, PeerHandle, PeerThread};
use crate::running::RunningNode;
use crate::settings::Settings;
use crate::shard::NodeShared;
use crate::status::{Difference, Seen, differing, short};
use crate::view::{DrainState, FarmView, HeldVersion, Load, PeerState, PeerView};

/// Starts to speak to the other nodes; none where there are none to speak to.
pub(super) fn start_peers(
    settings: &Settings,
    node: &RunningNode,
) -> anyhow::Result<Option<PeerHandle>> {
    let Some(port) = settings.peer_port else { return Ok(None) };
    let shared = node.shared();
    let (farm, login) = (&shared.farm, shared.login_endpoint);
    let Some(own) = farm.nodes.get(shared.own_node) else { return Ok(None) };
    if login.ip().is_unspecified() {
        bail!(
            "--listen {}: other nodes have to tell devices where this one is; add --advertise ADDRESS",
            login.ip()
        );
    }
    let of_farm = |node: &crate::farm::Node| PeerAddress {
        name: Some(node.name.clone()),
        addr: SocketAddr::new(node.address, node.peer_port),
        login: Some(node.login()),
        rating: Some(node.rating),
    };
    let others = farm.nodes.iter().filter(|node| node.name != own.name).map(of_farm);
    let joined = settings.join.iter().map(|&addr| PeerAddress {
        name: None,
        addr,
        login: None,
        rating: None,
    });
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow!("the kernel gives no random bytes: {e}"))?;
    let config = PeerConfig {
        name: own.name.clone(),
        bind: SocketAddr::new(settings.listen, port),
        login,
        rating: own.rating,
        peers: others.chain(joined).collect(),
        seed,
    };
    let handle = PeerThread::start(config, Arc::clone(shared)).context("--peer-port")?;
    Ok(Some(handle))
}

/// Whether the peers' port can be had: to be said before an hour of hashing. It is bound for good when there is something to say.
pub(super) fn try_peer_port(settings: &Settings) -> anyhow::Result<()> {
    let Some(port) = settings.peer_port.filter(|port| *port != 0) else { return Ok(()) };
    let place = SocketAddr::new(settings.listen, port);
    let tried = UdpSocket::bind(place);
    tried.map(drop).with_context(|| format!("--peer-port {place} (another node? see `ss -lunp`)"))
}

/// The other nodes, for `status`.
pub(super) fn seen(peers: Option<&PeerHandle>, node: &RunningNode, began: Nanos) -> Vec<Seen> {
    if let Some(peers) = peers {
        return peers.status().iter().map(Seen::from).collect();
    }
    let view = node.shared().view.get();
    let named = |peer: &PeerView| Seen {
        view: peer.clone(),
        since: began,
        why: "it is named by --peers, and never heard of".to_owned(),
        peer_address: None,
    };
    view.peers.iter().map(named).collect()
}

/// Nodes that `--peers` names are never heard of: they are unknown for good, and believed to hold what this node holds, because the
/// operator said so. They stand in the lists that devices get, and no login is handed to them.
pub(super) fn publish_static_peers(settings: &Settings, shared: &NodeShared) {
    let peers = settings.static_peers();
    if peers.is_empty() {
        return;
    }
    let held = |entry: &Arc<crate::shard::VdiskEntry>| HeldVersion {
        vdisk: entry.name.clone(),
        content_id: entry.content_id,
        eligible: true,
        sessions: 0,
    };
    let versions: Arc<[HeldVersion]> =
        shared.vdisks().unwrap_or_default().iter().map(held).collect();
    let view = |&login: &SocketAddr| PeerView {
        name: login.to_string(),
        login,
        rating: 100,
        state: PeerState::Unknown,
        drain: DrainState::Serving,
        load: Load::default(),
        reported: Nanos::ZERO,
        versions: Arc::clone(&versions),
        placed: Arc::default(),
    };
    shared.view.publish(FarmView { peers: peers.iter().map(view).collect() });
}

/// Says once of each differing copy that it differs, and once that it does no longer.
#[derive(Debug, Default)]
pub(super) struct Differences(HashSet<Difference>);

impl Differences {
    /// Compares with the present view.
    pub(super) fn look(&mut self, shared: &NodeShared) {
        let present: HashSet<Difference> =
            differing(shared.vdisks().unwrap_or_default(), &shared.view.get())
                .into_iter()
                .collect();
        for new in present.difference(&self.0) {
            tracing::warn!(
                "{} holds another version of {}: {} instead of {}; no device moves between it and this node. Copy the image, \
                 or give the newer one a name of its own",
                new.peer,
                new.vdisk,
                short(&new.there.to_string()),
                short(&new.here.to_string())
            );
        }
        for gone in self.0.difference(&present) {
            tracing::info!("{} no longer differs in {}, or is no longer up", gone.peer, gone.vdisk);
        }
        self.0 = present;
    }
}

/// For each vDisk how many up peers hold another content.
pub(super) struct VersionsSource(pub(super) Arc<NodeShared>);

impl Source for VersionsSource {
    fn collect(&self, samples: &mut Samples) {
        let entries = self.0.vdisks().unwrap_or_default();
        let differing = differing(entries, &self.0.view.get());
        for entry in entries {
            let count = differing.iter().filter(|d| d.vdisk == entry.name).count();
            #[expect(clippy::cast_precision_loss, reason = "at most 255 peers")]
            let value = count as f64;
            let help = "Peers that are up and hold another content of the vDisk than this node.";
            let labels = vec![("vdisk", entry.name.clone().into())];
            samples.gauge("versions_differ", help, labels, value);
        }
    }
}
