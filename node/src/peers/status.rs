//! What there is to say about a peer, for `status` and the log.

use std::fmt;
use std::net::SocketAddr;

use diskstream_wire::PeerVerdict;
use diskstream_wire::time::Nanos;

use crate::view::{PeerState, PeerView};

/// Why a peer is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing was heard of it yet.
    NeverHeard,
    /// It answered a challenge but is no member yet.
    Joining,
    /// It is a member and reports.
    Reports,
    /// It is a member, but its last report is too old.
    NoReport,
    /// It answers neither this node's probes nor others', and is silent.
    Suspected,
    /// It answered no probe, and did not speak up.
    Silent,
    /// It said that it stops.
    Left,
    /// This node was paused; the peer was not heard of since.
    Paused,
}

impl Why {
    /// The clause of a sentence.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Why::NeverHeard => "nothing was heard of it yet",
            Why::Joining => "it answered, and is not a member yet",
            Why::Reports => "it answers probes and reports",
            Why::NoReport => "it answers probes, but its reports do not arrive",
            Why::Suspected => "it answers no probes, neither directly nor through others",
            Why::Silent => "it answered no probe in time",
            Why::Left => "it said that it stops",
            Why::Paused => "this node was paused and has not heard of it since",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A peer's state became another one: a line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Its name, or its address while that is not known.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// What it was.
    pub from: PeerState,
    /// What it is.
    pub to: PeerState,
    /// Why.
    pub why: Why,
    /// How long it was `from`.
    pub lasted: Nanos,
}

/// A peer with all that this node knows of it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// As the shards see it.
    pub view: PeerView,
    /// Where it hears its peers.
    pub addr: SocketAddr,
    /// Why it is in its state.
    pub why: Why,
    /// Since when.
    pub since: Nanos,
    /// When an authentic datagram of it came last; none: never.
    pub heard: Option<Nanos>,
    /// Whether the last report's digest is that of [`PeerView::versions`].
    pub inventory_is_current: bool,
}

/// A node that will not have this one for a peer, and said so of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBy {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// Why.
    pub verdict: PeerVerdict,
    /// When it said so last.
    pub at: Nanos,
}

impl fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, addr) = (&self.name, self.addr);
        match self.verdict {
            PeerVerdict::NameTaken => write!(
                f,
                "{name} ({addr}) refuses this node: another live node has the same name. No login is handed to this one; start \
                 one of both with another --name"
            ),
            PeerVerdict::Full => write!(
                f,
                "{name} ({addr}) refuses this node: it knows as many nodes as it can. Take nodes that are gone out of the farm file, \
                 and restart it"
            ),
            verdict => {
                write!(f, "{name} ({addr}) refuses this node: {verdict}; compare their versions")
            }
        }
    }
}

/// What happened, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A peer's state changed.
    State(StateChange),
    /// Another node has this node's own name; whoever has it longer keeps its peers.
    OwnNameTaken {
        /// Where the other one is.
        addr: SocketAddr,
    },
    /// A node wants a name whose bearer is alive elsewhere.
    NameTaken {
        /// The name.
        name: String,
        /// Who wants it.
        addr: SocketAddr,
        /// Who has it.
        holder: SocketAddr,
    },
    /// A peer will not have this node.
    RefusedBy {
        /// Its name.
        name: String,
        /// Where it is.
        addr: SocketAddr,
        /// Why.
        verdict: PeerVerdict,
    },
    /// This node knows as many peers as it can.
    Full {
        /// Who was turned away.
        addr: SocketAddr,
    },
    /// A known peer answers from another address.
    AddressChanged {
        /// Its name.
        name: String,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// Another node answers where a peer was expected.
    UnexpectedName {
        /// Where.
        addr: SocketAddr,
        /// Who was expected there.
        expected: String,
        /// Who answers.
        found: String,
    },
    /// A node that is not in the list became a peer.
    Joined {
        /// Its name.
        name: String,
        /// Where it is.
        addr: SocketAddr,
    },
    /// This node stood still, and every peer is unknown until it is heard again.
    Paused {
        /// For how long.
        lasted: Nanos,
    },
}
