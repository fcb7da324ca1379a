//! One peer as the machine keeps it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use diskstream_wire::Endpoint;
use diskstream_wire::time::Nanos;

use super::super::config::PeerAddress;
use super::super::inventory::{self, Assembly};
use super::super::limits::{GREET_AFTER_SILENCE, HELLO_BACKOFF};
use super::super::membership::MemberState;
use super::super::session::{Challenge, Window};
use super::super::status::{PeerStatus, Why};
use crate::view::{DrainState, HeldVersion, Load, PeerState, PeerView};

/// The pair of this node's incarnation and one of a peer's.
pub(super) struct Session {
    /// The peer's.
    pub(super) incarnation: u64,
    /// What came of it.
    pub(super) window: Window,
    /// Number of the last datagram sent.
    pub(super) sequence: u64,
}

pub(super) struct Peer {
    /// What the operator said of it; none: it joined.
    pub(super) configured: Option<PeerAddress>,
    /// None: known by its address only.
    pub(super) name: Option<String>,
    pub(super) addr: SocketAddr,
    pub(super) login: Option<SocketAddr>,
    pub(super) rating: u16,
    /// None: it never answered a challenge.
    pub(super) session: Option<Session>,
    pub(super) challenge: Challenge,
    pub(super) hello_due: Nanos,
    pub(super) hello_backoff: Nanos,
    /// When a hello of it was answered last, and when a lost one was greeted.
    pub(super) replied: Option<Nanos>,
    pub(super) nudged: Option<Nanos>,
    pub(super) heard: Option<Nanos>,
    /// It answered a challenge since this node was last paused.
    pub(super) trusted: bool,
    /// What the membership library thinks of its incarnation.
    pub(super) member: Option<MemberState>,
    /// It was down, for this reason, and has not come back: the library forgets in the end.
    pub(super) gone: Option<Why>,
    pub(super) announced: Option<Nanos>,
    pub(super) report_due: Nanos,
    /// How many of the urgent reports were sent.
    pub(super) urgent: usize,
    pub(super) reported: Option<Nanos>,
    pub(super) report_sequence: u64,
    pub(super) load: Load,
    pub(super) drain: DrainState,
    pub(super) digest: [u8; 16],
    pub(super) versions: Arc<[HeldVersion]>,
    pub(super) assembly: Option<Assembly>,
    pub(super) inventory_sent: Option<Nanos>,
    pub(super) placed: Arc<AtomicU32>,
    pub(super) state: PeerState,
    pub(super) why: Why,
    pub(super) since: Nanos,
}

impl Peer {
    pub(super) fn new(addr: SocketAddr, name: Option<String>, now: Nanos) -> Peer {
        Peer {
            configured: None,
            name,
            addr,
            login: None,
            rating: 100,
            session: None,
            challenge: Challenge::default(),
            hello_due: now,
            hello_backoff: HELLO_BACKOFF.0,
            replied: None,
            nudged: None,
            heard: None,
            trusted: false,
            member: None,
            gone: None,
            announced: None,
            report_due: now,
            urgent: usize::MAX,
            reported: None,
            report_sequence: 0,
            load: Load::default(),
            drain: DrainState::Serving,
            digest: inventory::digest(&[]),
            versions: Arc::new([]),
            assembly: None,
            inventory_sent: None,
            placed: Arc::default(),
            state: PeerState::Unknown,
            why: Why::NeverHeard,
            since: now,
        }
    }

    pub(super) fn configured(address: PeerAddress, now: Nanos) -> Peer {
        Peer {
            login: address.login,
            rating: address.rating.unwrap_or(100).max(1),
            configured: Some(address.clone()),
            ..Peer::new(address.addr, address.name, now)
        }
    }

    /// Its name, or its address while that is not known.
    pub(super) fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.addr.to_string())
    }

    pub(super) fn incarnation(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.incarnation)
    }

    pub(super) fn silent_for(&self, now: Nanos) -> Nanos {
        self.heard.map_or(Nanos::NEVER, |heard| now.since(heard))
    }

    /// What it says about itself counts where the operator said nothing.
    pub(super) fn learn(&mut self, login: Endpoint, rating: u16, from: SocketAddr) {
        if self.configured.as_ref().is_none_or(|c| c.login.is_none()) && login.port != 0 {
            // It may not know its own address; then it is the one that it speaks from.
            let here = SocketAddr::new(from.ip(), login.port);
            self.login = Some(login.socket_addr().unwrap_or(here));
        }
        if self.configured.as_ref().is_none_or(|c| c.rating.is_none()) {
            self.rating = rating.max(1);
        }
    }

    /// Whether it is to be greeted: it was never met, is down, silent, or has not answered since a pause.
    pub(super) fn wants_hello(&self, now: Nanos) -> bool {
        self.session.is_none()
            || !self.trusted
            || self.state == PeerState::Down
            || self.silent_for(now) >= GREET_AFTER_SILENCE
    }

    /// Whether reports go there.
    pub(super) fn wants_report(&self) -> bool {
        self.session.is_some() && self.member != Some(MemberState::Down) && self.gone.is_none()
    }

    /// As the shards see it; none while it is not known what it is.
    pub(super) fn view(&self) -> Option<PeerView> {
        Some(PeerView {
            name: self.name.clone()?,
            login: self.login?,
            rating: self.rating,
            state: self.state,
            drain: self.drain,
            load: self.load,
            reported: self.reported.unwrap_or_default(),
            versions: Arc::clone(&self.versions),
            placed: Arc::clone(&self.placed),
        })
    }

    /// For people.
    pub(super) fn status(&self) -> PeerStatus {
        let view = self.view().unwrap_or_else(|| PeerView {
            name: self.called(),
            login: self.login.unwrap_or(self.addr),
            rating: self.rating,
            state: self.state,
            drain: self.drain,
            load: self.load,
            reported: Nanos::ZERO,
            versions: Arc::new([]),
            placed: Arc::clone(&self.placed),
        });
        PeerStatus {
            view,
            addr: self.addr,
            why: self.why,
            since: self.since,
            heard: self.heard,
            inventory_is_current: self.assembly.is_none(),
        }
    }
}
