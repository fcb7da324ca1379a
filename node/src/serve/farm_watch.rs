//! The other nodes, as far as the control loop cares: static ones, and copies that differ.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_wire::Nanos;

use crate::metrics::{Samples, Source};
use crate::settings::Settings;
use crate::shard::NodeShared;
use crate::status::{Difference, differing, short};
use crate::view::{DrainState, FarmView, HeldVersion, Load, PeerState, PeerView};

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
