//! The farm as this node sees it, as `diskstream-node status` shows it.
//!
//! Built from two sources and nothing else: what this node serves ([`NodeShared`]), and what the thread of the peers knows of the
//! others ([`Seen`]).

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::ContentId;
use diskstream_wire::time::Nanos;
use serde::{Deserialize, Serialize};

use crate::shard::{NodeShared, VdiskEntry};
use crate::view::{FarmView, Load, PeerState, PeerView};

/// The farm as one node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node that says this.
    pub node: NodeStatus,
    /// The others, by name.
    pub peers: Vec<PeerStatus>,
    /// The vDisks that this node or a peer knows, by name: who holds what.
    pub vdisks: Vec<VdiskStatus>,
    /// A sentence for each copy that differs from the reference, naming both.
    pub differences: Vec<String>,
    /// A sentence for whatever else wants a person: the cause, and what to do.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A node about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it took its first login.
    pub uptime_seconds: u64,
    /// `serving`, `maintenance` or `stopping`.
    pub drain: String,
    /// Where devices log in.
    pub login: String,
    /// Where its shards serve.
    pub io: Vec<String>,
    /// Where it hears peers; none: it has none.
    pub peer_port: Option<String>,
    /// Power rating: 1 is the usual node.
    pub power: f64,
    /// How busy it is.
    #[serde(flatten)]
    pub load: LoadStatus,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Sessions that it serves.
    pub sessions: u32,
    /// Sessions for which it stands by.
    pub standbys: u32,
    /// Devices that are booting.
    pub boot_slots_in_use: u32,
    /// How many may at once; 0: any number.
    pub boot_limit: u32,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `up`, `unknown` or `down`.
    pub state: String,
    /// Seconds since it is.
    pub since_seconds: u64,
    /// Why it is.
    pub why: String,
    /// Where it hears its peers; none: it is not spoken to.
    pub peer_address: Option<String>,
    /// Where devices log in there.
    pub login: String,
    /// Power rating: 1 is the usual node.
    pub power: f64,
    /// `serving`, `maintenance` or `stopping`, by its last report.
    pub drain: String,
    /// Seconds since its last report; none: it never reported.
    pub reported_seconds_ago: Option<f64>,
    /// How busy it was then.
    #[serde(flatten)]
    pub load: LoadStatus,
}

/// A vDisk, and who holds which content of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdiskStatus {
    /// Its name.
    pub name: String,
    /// What the others are compared with: this node's copy; where it has none, the copy that most peers hold.
    pub content_id: Option<String>,
    /// The only node that may serve it, so that its devices have no failover; none: any that holds it.
    pub pinned_to: Option<String>,
    /// How much of it is in this node's cache for good; none: it is not pinned there.
    #[serde(default)]
    pub cache_pinned: Option<CachePinned>,
    /// Who holds what: this node first, then peers by name.
    pub holders: Vec<HolderStatus>,
}

/// A vDisk that stays in a node's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePinned {
    /// Cache blocks of it.
    pub blocks: u32,
    /// Of these, the ones that are there, or hold nothing but zeros.
    pub loaded: u32,
    /// Those that the store did not give so far; they are tried again.
    pub missing: u32,
}

/// One node's copy of a vDisk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// The node.
    pub node: String,
    /// What its copy holds.
    pub content_id: String,
    /// Whether it takes devices there.
    pub eligible: bool,
    /// Whether that is the reference's content.
    pub same: bool,
    /// Sessions of the vDisk there, by the last report; this node's own as of now.
    pub sessions: u32,
    /// State of the node that holds it: this one is always `up`.
    pub node_state: String,
}

impl From<Load> for LoadStatus {
    fn from(load: Load) -> LoadStatus {
        LoadStatus {
            sessions: load.sessions,
            standbys: load.standbys,
            boot_slots_in_use: load.boot_slots_in_use,
            boot_limit: load.boot_limit,
        }
    }
}

/// What only the control loop knows about its own node.
#[derive(Clone, Debug, Default)]
pub struct OwnFacts {
    /// Its name.
    pub name: String,
    /// Power rating in hundredths.
    pub rating: u16,
    /// When it took its first login.
    pub since: Nanos,
    /// Where it hears peers.
    pub peer_port: Option<String>,
    /// Where its shards serve.
    pub io: Vec<String>,
}

/// A peer, and what the view of the shards does not say about it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As the shards see it.
    pub view: PeerView,
    /// Since when it is in its state.
    pub since: Nanos,
    /// Why it is.
    pub why: String,
    /// Where it hears its peers; none: it is not spoken to.
    pub peer_address: Option<SocketAddr>,
}

impl From<&crate::peers::PeerStatus> for Seen {
    fn from(status: &crate::peers::PeerStatus) -> Seen {
        Seen {
            view: status.view.clone(),
            since: status.since,
            why: status.why.text().to_owned(),
            peer_address: Some(status.addr),
        }
    }
}

impl Status {
    /// What this node sees now.
    #[must_use]
    pub fn of(
        own: &OwnFacts,
        shared: &NodeShared,
        mut seen: Vec<Seen>,
        problems: Vec<String>,
        now: Nanos,
    ) -> Status {
        seen.sort_by(|a, b| a.view.name.cmp(&b.view.name));
        let peers: Vec<&PeerView> = seen.iter().map(|seen| &seen.view).collect();
        let mut vdisks = vdisks(&own.name, shared.vdisks().unwrap_or_default(), &peers);
        for vdisk in &mut vdisks {
            let of_farm = shared.farm.vdisk(&vdisk.name).and_then(|(_, of_farm)| of_farm.pinned);
            vdisk.pinned_to = of_farm.map(|node| shared.farm.nodes[node].name.clone());
        }
        Status {
            node: node(own, shared, now),
            differences: differences(&own.name, &vdisks),
            vdisks,
            problems,
            peers: seen.iter().map(|seen| peer_status(seen, now)).collect(),
        }
    }
}

fn node(own: &OwnFacts, shared: &NodeShared, now: Nanos) -> NodeStatus {
    NodeStatus {
        name: own.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: now.since(own.since).as_millis() / 1000,
        drain: shared.own.drain().label().to_owned(),
        login: shared.login_endpoint.to_string(),
        io: own.io.clone(),
        peer_port: own.peer_port.clone(),
        power: f64::from(own.rating) / 100.0,
        load: own_load(shared, now),
    }
}

/// How busy this node is.
#[must_use]
pub fn own_load(shared: &NodeShared, now: Nanos) -> LoadStatus {
    LoadStatus {
        sessions: shared.own.sessions.load(Relaxed),
        standbys: shared.own.standbys.load(Relaxed),
        boot_slots_in_use: u32::try_from(shared.boot_slots.in_use(now)).unwrap_or(u32::MAX),
        boot_limit: u32::try_from(shared.boot_slots.limit()).unwrap_or(u32::MAX),
    }
}

fn peer_status(seen: &Seen, now: Nanos) -> PeerStatus {
    let peer = &seen.view;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a report's age")]
    let seconds = |ago: Nanos| ago.as_millis() as f64 / 1e3;
    PeerStatus {
        name: peer.name.clone(),
        state: peer.state.label().to_owned(),
        since_seconds: now.since(seen.since).as_millis() / 1000,
        why: seen.why.clone(),
        peer_address: seen.peer_address.map(|addr| addr.to_string()),
        login: peer.login.to_string(),
        power: f64::from(peer.rating) / 100.0,
        drain: peer.drain.label().to_owned(),
        reported_seconds_ago: (peer.reported != Nanos::ZERO)
            .then(|| seconds(now.since(peer.reported))),
        load: peer.load.into(),
    }
}

/// Every vDisk that somebody knows.
fn vdisks(
    own: &str,
    entries: &[std::sync::Arc<VdiskEntry>],
    peers: &[&PeerView],
) -> Vec<VdiskStatus> {
    let known = peers.iter().flat_map(|peer| peer.versions.iter().map(|held| held.vdisk.as_str()));
    let mut names: Vec<&str> =
        entries.iter().map(|entry| entry.name.as_str()).chain(known).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| vdisk(own, name, entries, peers)).collect()
}

fn vdisk(
    own: &str,
    name: &str,
    entries: &[std::sync::Arc<VdiskEntry>],
    peers: &[&PeerView],
) -> VdiskStatus {
    // A vDisk without an image here has no content.
    let here = entries.iter().find(|e| e.name == name && e.content_id != ContentId::default());
    let there: Vec<_> = peers
        .iter()
        .flat_map(|peer| peer.versions.iter().map(move |held| (*peer, held)))
        .filter(|(_, held)| held.vdisk == name)
        .collect();
    let most = || {
        let count = |id| there.iter().filter(|(_, held)| held.content_id == id).count();
        // The greater id among equally frequent ones, so that every node names the same.
        there.iter().map(|(_, held)| held.content_id).max_by_key(|&id| (count(id), id.0))
    };
    let reference = here.map(|entry| entry.content_id).or_else(most);
    let mut holders: Vec<HolderStatus> = here
        .map(|entry| HolderStatus {
            node: own.to_owned(),
            content_id: entry.content_id.to_string(),
            eligible: entry.is_eligible(),
            same: true,
            sessions: entry.sessions.load(Relaxed),
            node_state: PeerState::Up.label().to_owned(),
        })
        .into_iter()
        .collect();
    holders.extend(there.iter().map(|(peer, held)| HolderStatus {
        node: peer.name.clone(),
        content_id: held.content_id.to_string(),
        eligible: held.eligible,
        same: Some(held.content_id) == reference,
        sessions: held.sessions,
        node_state: peer.state.label().to_owned(),
    }));
    let content_id = reference.map(|id| id.to_string());
    let cache_pinned = here.filter(|entry| entry.kept).map(|entry| CachePinned {
        blocks: entry.feed.blocks(),
        loaded: entry.feed.done(),
        missing: entry.feed.missing(),
    });
    VdiskStatus { name: name.to_owned(), content_id, pinned_to: None, cache_pinned, holders }
}

/// Sentences for people, about nodes that are not down.
fn differences(own: &str, vdisks: &[VdiskStatus]) -> Vec<String> {
    let down = PeerState::Down.label();
    let mut said = Vec::new();
    for vdisk in vdisks {
        let Some(reference) = &vdisk.content_id else { continue };
        for holder in &vdisk.holders {
            if !holder.same && holder.node_state != down {
                said.push(format!(
                    "{} holds another version of {}: {} instead of {}; no device moves between it and {own}",
                    holder.node,
                    vdisk.name,
                    short(&holder.content_id),
                    short(reference)
                ));
            } else if !holder.eligible && holder.node_state != down {
                said.push(format!(
                    "{} takes no devices for {}: its file is missing or was changed",
                    holder.node, vdisk.name
                ));
            }
        }
    }
    said
}

/// Enough of a content id to tell two apart.
#[must_use]
pub fn short(content_id: &str) -> String {
    let first: String = content_id.chars().take(12).collect();
    first + "..."
}

/// Names of the vDisks of which an up peer holds another content than this node, with that peer.
#[must_use]
pub fn differing(entries: &[std::sync::Arc<VdiskEntry>], view: &FarmView) -> Vec<Difference> {
    let mut found = Vec::new();
    for peer in view.peers.iter().filter(|peer| peer.state == PeerState::Up) {
        for held in peer.versions.iter() {
            let here = entries.iter().find(|entry| entry.name == held.vdisk);
            let Some(here) = here.filter(|entry| entry.content_id != ContentId::default()) else {
                continue;
            };
            if here.content_id != held.content_id {
                found.push(Difference {
                    vdisk: held.vdisk.clone(),
                    peer: peer.name.clone(),
                    here: here.content_id,
                    there: held.content_id,
                });
            }
        }
    }
    found
}

/// A peer's copy that is not this node's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Difference {
    /// The vDisk.
    pub vdisk: String,
    /// The peer.
    pub peer: String,
    /// What this node holds.
    pub here: ContentId,
    /// What the peer holds.
    pub there: ContentId,
}

#[cfg(test)]
mod tests;
