//! Whether devices are to be moved so that the nodes of a farm are evenly loaded, how many, and where to: pure arithmetic
//! over the view of the farm.
//!
//! Off by default, and held back by the guards that PVS has, because a move that nobody needs is a risk that nobody takes:
//! a node says nothing while few devices are there to gain from it, while many are still booting (they move the averages
//! themselves), and never for a vDisk with subnet affinity, where placement and rebalance would pull at the same devices
//! from both ends until the farm does nothing else.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::{ContentId, Nanos, NodeEntry};

use crate::farm::Affinity;
use crate::shard::NodeShared;
use crate::view::{DrainState, FarmView, PeerState};

/// Sessions above the fair share, in percent of it, from which devices are moved (PVS's default).
pub const TRIGGER_PERCENT: u32 = 25;
/// After devices were told to move nothing more is moved for this long: until the last one has gone and the peers have told their new
/// loads. Derived: a device is asked for 15 s at most, and a report is up to a second old. Without it a command that is given
/// twice moves everybody (found by the simulator).
pub const SETTLE: Nanos = Nanos::from_secs(16);
/// What an operator may choose (PVS's range).
pub const TRIGGER_RANGE: (u32, u32) = (5, 5000);
/// Sessions of the vDisk below which a node, and below which the nodes on average, are left alone (PVS).
pub const DEVICES_MIN: u32 = 5;
/// Devices still booting, in percent of a node's, above which it is left alone (PVS).
pub const BOOTING_PERCENT_MAX: u32 = 20;

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether nodes rebalance by themselves.
    pub enabled: bool,
    /// Sessions above the fair share, in percent of it, from which they do.
    pub trigger_percent: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { enabled: false, trigger_percent: TRIGGER_PERCENT }
    }
}

/// This node, as the plan needs it.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Power rating in hundredths.
    pub rating: u16,
    /// Whether it takes devices.
    pub drain: DrainState,
    /// Sessions of the vDisk that it serves.
    pub sessions: u32,
    /// Sessions of all vDisks that it serves.
    pub sessions_of_all: u32,
    /// Devices that are booting.
    pub booting: u32,
}

/// The vDisk whose devices may be moved.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its bytes are.
    pub content_id: ContentId,
    /// Whether its devices are served from their own subnet.
    pub affinity: Affinity,
    /// Whether one node alone may serve it.
    pub pinned: bool,
}

/// How many of the devices that were told to move are to go to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The node.
    pub node: NodeEntry,
    /// So many devices.
    pub devices: u32,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sessions to move.
    pub count: u32,
    /// Where to. The shares add up to at least `count`.
    pub successors: Vec<Share>,
}

/// Why nothing is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The operator did not switch it on.
    Off,
    /// One node alone may serve the vDisk.
    Pinned,
    /// The vDisk has subnet affinity.
    Affinity,
    /// This node takes no devices itself: its devices move anyway.
    Leaving,
    /// Devices that were told to move are on their way.
    Underway {
        /// So long until they have arrived, and their new nodes have told so.
        wait: Nanos,
    },
    /// No other node that is up takes devices and holds the content.
    NoOtherNode,
    /// The node serves fewer than [`DEVICES_MIN`].
    FewDevices {
        /// So many.
        sessions: u32,
    },
    /// The nodes serve fewer than [`DEVICES_MIN`] on average.
    FewOnAverage {
        /// So many in all.
        sessions: u32,
        /// Of so many nodes.
        nodes: u32,
    },
    /// More than [`BOOTING_PERCENT_MAX`] of the node's devices are still booting.
    Booting {
        /// So many of them.
        booting: u32,
        /// Of so many.
        sessions: u32,
    },
    /// The node serves no more than its fair share and what is tolerated.
    Balanced {
        /// So many.
        sessions: u32,
        /// Of which so many would be fair.
        fair: u32,
    },
}

impl Skip {
    /// A stable label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Skip::Off => "off",
            Skip::Pinned => "pinned",
            Skip::Affinity => "subnet_affinity",
            Skip::Leaving => "leaving",
            Skip::Underway { .. } => "underway",
            Skip::NoOtherNode => "no_other_node",
            Skip::FewDevices { .. } => "few_devices",
            Skip::FewOnAverage { .. } => "few_on_average",
            Skip::Booting { .. } => "booting",
            Skip::Balanced { .. } => "balanced",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Off => f.write_str(
                "rebalance is off: switch it on in the farm file, or ask for it by command",
            ),
            Skip::Pinned => f.write_str("the vDisk is pinned to one node"),
            Skip::Affinity => f.write_str(
                "the vDisk has subnet affinity, which must never be combined with rebalance",
            ),
            Skip::Leaving => f.write_str("this node takes no devices: its devices move anyway"),
            Skip::Underway { wait } => write!(
                f,
                "devices that were told to move are on their way: ask again in {} s",
                wait.as_millis().div_ceil(1_000)
            ),
            Skip::NoOtherNode => {
                f.write_str("no other node is up, takes devices and holds the identical content")
            }
            Skip::FewDevices { sessions } => {
                write!(f, "this node serves {sessions} devices; below {DEVICES_MIN} none is moved")
            }
            Skip::FewOnAverage { sessions, nodes } => write!(
                f,
                "{nodes} nodes serve {sessions} devices together; below {DEVICES_MIN} a node none is moved"
            ),
            Skip::Booting { booting, sessions } => write!(
                f,
                "{booting} of {sessions} devices are still booting; above {BOOTING_PERCENT_MAX} % none is moved"
            ),
            Skip::Balanced { sessions, fair } => {
                write!(f, "this node serves {sessions} devices, of which {fair} are its fair share")
            }
        }
    }
}

/// Whether this node has devices to give, how many, and to whom.
///
/// # Errors
/// Why none.
pub fn plan(
    view: &FarmView,
    own: &Own,
    vdisk: &Subject<'_>,
    settings: &Settings,
) -> Result<Plan, Skip> {
    guard(own, vdisk, settings)?;
    let others = || {
        view.peers.iter().filter(|peer| {
            peer.state == PeerState::Up
                && peer.drain == DrainState::Serving
                && peer.holds(vdisk.name, vdisk.content_id)
        })
    };
    let served = |peer: &crate::view::PeerView| -> u64 {
        let of_vdisk = peer.versions.iter().find(|v| v.eligible && v.vdisk == vdisk.name);
        let placed = peer.placed.load(Relaxed);
        of_vdisk.map_or(0, |v| u64::from(v.sessions)) + u64::from(placed)
    };
    let nodes = 1 + others().count() as u64;
    if nodes == 1 {
        return Err(Skip::NoOtherNode);
    }
    let own_rating = u64::from(own.rating.max(1));
    let ratings = own_rating + others().map(|peer| u64::from(peer.rating.max(1))).sum::<u64>();
    let sessions = u64::from(own.sessions);
    let total = sessions + others().map(served).sum::<u64>();
    if total < u64::from(DEVICES_MIN) * nodes {
        return Err(Skip::FewOnAverage { sessions: narrow(total), nodes: narrow(nodes) });
    }
    let fair = (total * own_rating).div_ceil(ratings);
    let tolerated = total * own_rating * (100 + u64::from(settings.trigger_percent));
    if sessions * ratings * 100 <= tolerated {
        return Err(Skip::Balanced { sessions: own.sessions, fair: narrow(fair) });
    }
    let successors: Vec<Share> = others()
        .map(|peer| {
            let its = total * u64::from(peer.rating.max(1)) / ratings;
            Share { node: peer.entry(), devices: narrow(its.saturating_sub(served(peer))) }
        })
        .filter(|share| share.devices > 0)
        .collect();
    let room = successors.iter().map(|share| u64::from(share.devices)).sum::<u64>();
    let count = narrow((sessions - fair).min(room));
    if count == 0 {
        return Err(Skip::Balanced { sessions: own.sessions, fair: narrow(fair) });
    }
    Ok(Plan { count, successors })
}

/// The plan for a vDisk of this node as it is now.
///
/// # Errors
/// Why none; no reason at all: the vDisk is not served here.
pub fn decide(
    shared: &NodeShared,
    index: usize,
    settings: &Settings,
    now: Nanos,
) -> Result<Plan, Option<Skip>> {
    let entry = &shared.vdisks().unwrap_or_default()[index];
    let vdisk = &shared.farm.vdisks[index];
    if !entry.is_eligible() {
        return Err(None);
    }
    let told = shared.own.rebalanced_at.load(Relaxed);
    let settled = Nanos(told) + SETTLE;
    if told != 0 && now < settled {
        return Err(Some(Skip::Underway { wait: settled.since(now) }));
    }
    let own = Own {
        rating: shared.farm.nodes[shared.own_node].rating,
        drain: shared.own.drain(),
        sessions: entry.sessions.load(Relaxed),
        sessions_of_all: shared.own.sessions.load(Relaxed),
        booting: u32::try_from(shared.boot_slots.in_use(now)).unwrap_or(u32::MAX),
    };
    let subject = Subject {
        name: &entry.name,
        content_id: entry.content_id,
        affinity: vdisk.affinity,
        pinned: vdisk.pinned.is_some(),
    };
    plan(&shared.view.get(), &own, &subject, settings).map_err(Some)
}

/// Notes that devices are told to move as [`decide`] said: the next plan waits for them.
pub fn begin(shared: &NodeShared, now: Nanos) {
    shared.own.rebalanced_at.store(now.0.max(1), Relaxed);
}

/// Splits a count in proportion to what each shard serves.
#[must_use]
pub fn split(count: u32, serving: &[u64]) -> Vec<u32> {
    let total = serving.iter().sum::<u64>().max(1);
    let mut before = 0;
    let mut given = 0;
    let share = |of: &u64| {
        before += of;
        let until = u32::try_from(u64::from(count) * before / total).unwrap_or(count);
        let share = until - given;
        given = until;
        share
    };
    serving.iter().map(share).collect()
}

/// What holds a node back whatever the others do.
fn guard(own: &Own, vdisk: &Subject<'_>, settings: &Settings) -> Result<(), Skip> {
    if !settings.enabled {
        return Err(Skip::Off);
    }
    if vdisk.pinned {
        return Err(Skip::Pinned);
    }
    if vdisk.affinity != Affinity::None {
        return Err(Skip::Affinity);
    }
    if own.drain != DrainState::Serving {
        return Err(Skip::Leaving);
    }
    if own.sessions < DEVICES_MIN {
        return Err(Skip::FewDevices { sessions: own.sessions });
    }
    let sessions = own.sessions_of_all.max(own.sessions);
    if u64::from(own.booting) * 100 > u64::from(sessions) * u64::from(BOOTING_PERCENT_MAX) {
        return Err(Skip::Booting { booting: own.booting, sessions });
    }
    Ok(())
}

/// A count of sessions: sums of a farm's `u32` fit one unless somebody lies.
fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
