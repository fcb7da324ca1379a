//! The peers: their states and ages, and what their datagrams cost.

use std::sync::Arc;

use diskstream_ring::clock;

use super::sample::as_float;
use super::{Labels, Samples, Source};
use crate::peers::{PeerCounters, PeerRefusal, PeerStatus, RefusedBy};
use crate::view::PeerState;

/// How to ask for the status of every peer.
pub type PeerStatusSource = Box<dyn Fn() -> Arc<[PeerStatus]> + Send + Sync>;

/// How to ask which nodes refuse this one.
pub type RefusedBySource = Box<dyn Fn() -> Arc<[RefusedBy]> + Send + Sync>;

/// The other nodes of the farm, as this one sees them.
pub struct PeerSource {
    /// What the machine counts.
    pub counters: Arc<PeerCounters>,
    /// The peers; [`crate::peers::PeerHandle::status_source`] gives it.
    pub status: PeerStatusSource,
    /// Who refuses this node; [`crate::peers::PeerHandle::refused_by_source`] gives it.
    pub refused_by: RefusedBySource,
}

impl Source for PeerSource {
    fn collect(&self, samples: &mut Samples) {
        for metric in PeerCounters::METRICS {
            samples.counter(
                metric.name,
                metric.help,
                Vec::new(),
                (metric.get)(&self.counters).get(),
            );
        }
        let help = "Datagrams on the peers' port that had no effect, by reason.";
        for reason in PeerRefusal::ALL {
            let labels = vec![("reason", reason.label().into())];
            let count = self.counters.refused(reason);
            samples.counter("peer_datagrams_refused_total", help, labels, count);
        }
        let help = "Nodes that will not have this one for a peer, see `diskstream-node status`; more than 0 wants a person.";
        let refusing = as_float((self.refused_by)().len() as u64);
        samples.gauge("refused_by_peers", help, Vec::new(), refusing);
        for status in (self.status)().iter() {
            peer(samples, status);
        }
    }
}

fn peer(samples: &mut Samples, status: &PeerStatus) {
    let view = &status.view;
    let labels = || -> Labels { vec![("peer", view.name.clone().into())] };
    let help = "1 for the state that a peer is in: up, unknown or down.";
    for state in PeerState::ALL {
        let mut labels = labels();
        labels.push(("state", state.label().into()));
        samples.gauge("peer_state", help, labels, f64::from(u8::from(view.state == state)));
    }
    let mut gauge = |name, help, value: f64| samples.gauge(name, help, labels(), value);
    gauge("peer_sessions", "Sessions of a peer, by its last report.", view.load.sessions.into());
    gauge(
        "peer_standby_sessions",
        "Standby sessions of a peer, by its last report.",
        view.load.standbys.into(),
    );
    gauge("peer_rating", "Power rating of a peer.", f64::from(view.rating) / 100.0);
    gauge(
        "peer_draining",
        "1 while a peer takes no devices because it is in maintenance or stops.",
        f64::from(u8::from(view.drain != crate::view::DrainState::Serving)),
    );
    gauge(
        "peer_inventory_current",
        "1 while the versions known of a peer are those of its last report.",
        f64::from(u8::from(status.inventory_is_current)),
    );
    let now = clock::now();
    let seconds = |since| as_float(now.since(since).as_millis()) / 1e3;
    gauge(
        "peer_state_age_seconds",
        "For how long a peer has been in its state.",
        seconds(status.since),
    );
    // None until the first one: an age since the host's start would look like a fault.
    if let Some(heard) = status.heard {
        gauge(
            "peer_heard_age_seconds",
            "Since the last authentic datagram of a peer.",
            seconds(heard),
        );
    }
    if view.reported.0 != 0 {
        gauge(
            "peer_report_age_seconds",
            "Since the last report of a peer.",
            seconds(view.reported),
        );
    }
}
