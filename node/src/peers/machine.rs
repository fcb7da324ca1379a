//! The machine: who is who, what is due, what is to be sent.

mod handshake;
mod judge;
mod peer;
mod receive;
mod send;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_wire::limits::CONTROL_BYTES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{Endpoint, canonical};

use super::config::{OwnReport, PeerConfig};
use super::counters::{PeerCounters, PeerRefusal};
use super::inventory::OwnInventory;
use super::limits::{
    COMPLAIN_EVERY, COPIES_MAX, EVENTS_MAX, HELLO_BACKOFF, PAUSE, PEERS_MAX, REFUSED_FOR,
    STRANGERS_MAX, STRANGERS_PER_SECOND, TURN_EVERY,
};
use super::membership::Membership;
use super::seal::Envelope;
use super::session::{Bucket, Challenge};
use super::status::{PeerEvent, PeerStatus, RefusedBy};
use crate::shard::random::Random;
use crate::trust::Keys;
use crate::view::FarmView;
use peer::Peer;

/// The peers of a node, as a machine: no clock, no socket, no randomness but its seed's.
pub struct Peers {
    config: PeerConfig,
    envelope: Envelope,
    random: Random,
    counters: Arc<PeerCounters>,
    /// This life of this node; never 0.
    incarnation: u64,
    membership: Membership,
    /// The library was called, so that its members are to be looked at.
    members_moved: bool,
    peers: Vec<Peer>,
    /// Place in `peers` of each incarnation with a session.
    by_incarnation: BTreeMap<u64, usize>,
    strangers: VecDeque<Stranger>,
    stranger_bucket: Bucket,
    /// Apart from the strangers': recorded datagrams of former lives cause nudges, and are without number.
    nudge_bucket: Bucket,
    /// Who said hello, and the highest number of its hellos; the last one to speak is at the back.
    greeters: VecDeque<(u64, u64)>,
    own: OwnReport,
    inventory: OwnInventory,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    copies: VecDeque<Copy>,
    /// No datagram to anybody without a session had a higher number.
    sequence: u64,
    events: VecDeque<PeerEvent>,
    /// Whom was complained about, and when: a node that is refused comes again and again.
    complaints: VecDeque<(SocketAddr, Nanos)>,
    /// Who will not have this node.
    refused_by: Vec<RefusedBy>,
    changed: bool,
    last_turn: Nanos,
    due: Nanos,
    paused_at: Option<Nanos>,
    left: bool,
}

/// Somebody who is not known yet, and the challenge that was put to it.
struct Stranger {
    addr: SocketAddr,
    challenge: Challenge,
}

/// The second copy of a membership datagram.
struct Copy {
    due: Nanos,
    to: u64,
    data: Vec<u8>,
}

impl Peers {
    /// A node that just started. Of more than [`PEERS_MAX`] configured peers the first are taken.
    ///
    /// # Panics
    /// When the name is empty or longer than 32 bytes: the farm file was checked.
    #[must_use]
    pub fn new(config: PeerConfig, keys: &Keys, now: Nanos) -> Peers {
        assert!((1..=32).contains(&config.name.len()), "names of nodes have 1 to 32 bytes");
        let mut random = Random::new(config.seed);
        let incarnation = random.u64().max(1);
        let mut membership_seed = [0; 32];
        random.fill(&mut membership_seed);
        let bind = config.bind;
        let known = if bind.ip().is_unspecified() { Endpoint::NONE } else { bind.into() };
        let peers = config.peers.iter().take(PEERS_MAX);
        let peers = peers.map(|p| Peer::configured(p.clone(), now)).collect();
        Peers {
            envelope: Envelope::new(keys),
            random,
            counters: Arc::default(),
            incarnation,
            membership: Membership::new(incarnation, known, membership_seed),
            members_moved: false,
            peers,
            by_incarnation: BTreeMap::new(),
            strangers: VecDeque::new(),
            stranger_bucket: Bucket::full(STRANGERS_PER_SECOND, now),
            nudge_bucket: Bucket::full(STRANGERS_PER_SECOND, now),
            greeters: VecDeque::new(),
            own: OwnReport::default(),
            inventory: OwnInventory::new(Vec::new()),
            out: VecDeque::new(),
            copies: VecDeque::new(),
            sequence: 0,
            events: VecDeque::new(),
            complaints: VecDeque::new(),
            refused_by: Vec::new(),
            changed: true,
            last_turn: now,
            due: now + TURN_EVERY,
            paused_at: None,
            left: false,
            config,
        }
    }

    /// What it counts; stays valid.
    #[must_use]
    pub fn counters(&self) -> Arc<PeerCounters> {
        Arc::clone(&self.counters)
    }

    /// Takes a datagram.
    pub fn handle(&mut self, from: SocketAddr, bytes: &[u8], now: Nanos) {
        self.begin_turn(now);
        self.counters.datagrams_in.inc();
        self.counters.bytes_in.add(bytes.len() as u64);
        let mut copy = [0; CONTROL_BYTES_MAX];
        let taken = match copy.get_mut(..bytes.len()) {
            None => Err(PeerRefusal::Size),
            Some(copy) => {
                copy.copy_from_slice(bytes);
                let opened = self.envelope.open(copy).map(<[u8]>::len);
                // The opened bytes lie behind header and nonce.
                opened.and_then(|length| {
                    let from = canonical(from);
                    let start = diskstream_wire::PeerSealed::BYTES;
                    self.receive(from, &copy[start..start + length], now)
                })
            }
        };
        if let Err(reason) = taken {
            self.counters.refuse(reason);
        }
        self.end_turn(now);
    }

    /// Takes what was sealed in a datagram, for tests that attack with the farm's key in hand.
    #[doc(hidden)]
    pub fn handle_opened(&mut self, from: SocketAddr, inner: &[u8], now: Nanos) {
        self.begin_turn(now);
        if let Err(reason) = self.receive(canonical(from), inner, now) {
            self.counters.refuse(reason);
        }
        self.end_turn(now);
    }

    /// This life of this node, for the same tests.
    #[doc(hidden)]
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Nanos) {
        self.begin_turn(now);
        if !self.left {
            if !self.membership.tick(now) {
                self.counters.membership_errors.inc();
            }
            self.members_moved = true;
            self.send_due(now);
        }
        self.end_turn(now);
    }

    /// The next datagram to send, and where to.
    pub fn poll_send(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (to, bytes) = self.out.pop_front()?;
        self.counters.datagrams_out.inc();
        self.counters.bytes_out.add(bytes.len() as u64);
        Some((to, bytes))
    }

    /// When [`Peers::tick`] is to be called at the latest. A call more than half a second later means that the node was paused.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        self.due
    }

    /// Says how this node fares. A changed drain state or inventory is told to everybody with the next tick.
    pub fn set_own(&mut self, own: OwnReport) {
        let inventory_changed = own.versions != self.own.versions && {
            let new = OwnInventory::new(own.versions.clone());
            let changed = new.digest != self.inventory.digest;
            self.inventory = new;
            changed
        };
        if inventory_changed || own.drain != self.own.drain {
            for peer in &mut self.peers {
                peer.report_due = Nanos::ZERO;
                peer.urgent = 0;
            }
            self.due = self.last_turn;
        }
        self.own = own;
    }

    /// Whether the view changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The farm as this node sees it.
    #[must_use]
    pub fn view(&self) -> FarmView {
        FarmView { peers: self.peers.iter().filter_map(Peer::view).collect() }
    }

    /// The same for people, peers without a name included.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.peers.iter().map(Peer::status).collect()
    }

    /// Nodes that refuse this one, and said so within [`REFUSED_FOR`].
    #[must_use]
    pub fn refused_by(&self) -> &[RefusedBy] {
        &self.refused_by
    }

    /// What happened, the oldest first.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// Says good-bye to all. What it left to send is to be sent; nothing else is done any more.
    pub fn leave(&mut self, now: Nanos) {
        self.begin_turn(now);
        self.send_leave();
        self.end_turn(now);
        self.copies.clear();
        self.left = true;
    }

    fn event(&mut self, event: PeerEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    /// An event about somebody who will cause it again: told once in a while.
    fn complain(&mut self, about: SocketAddr, event: PeerEvent, now: Nanos) {
        self.complaints.retain(|(_, at)| now.since(*at) < COMPLAIN_EVERY);
        let told = self.complaints.iter().any(|(addr, _)| *addr == about);
        if !told && self.complaints.len() < STRANGERS_MAX {
            self.complaints.push_back((about, now));
            self.event(event);
        }
    }

    fn begin_turn(&mut self, now: Nanos) {
        if now.since(self.due) > PAUSE {
            self.pause(now);
        }
    }

    /// This node stood still: what it knew is old, and what came meanwhile may be, too.
    fn pause(&mut self, now: Nanos) {
        let lasted = now.since(self.last_turn);
        self.counters.pauses.inc();
        self.membership.shift(lasted);
        self.copies.clear();
        self.paused_at = Some(now);
        for peer in &mut self.peers {
            peer.trusted = false;
            peer.challenge.close();
            peer.hello_due = now;
            peer.hello_backoff = HELLO_BACKOFF.0;
            peer.report_due = now;
        }
        self.event(PeerEvent::Paused { lasted });
        self.judge_all(now);
    }

    fn end_turn(&mut self, now: Nanos) {
        let known = self.refused_by.len();
        self.refused_by.retain(|refusal| now.since(refusal.at) < REFUSED_FOR);
        self.changed |= self.refused_by.len() != known;
        self.send_membership(now);
        if std::mem::take(&mut self.members_moved) {
            self.look_at_members(now);
        }
        self.judge_all(now);
        self.last_turn = now;
        let dues = self.peers.iter().flat_map(|peer| {
            let hello = peer.wants_hello(now).then_some(peer.hello_due);
            let report = peer.wants_report().then_some(peer.report_due);
            hello.into_iter().chain(report)
        });
        let copies = self.copies.front().map(|copy| copy.due);
        let next = dues.chain(copies).min().unwrap_or(Nanos::NEVER);
        let next = next.earlier(self.membership.next_deadline()).earlier(now + TURN_EVERY);
        // Never in the past: a deadline that was missed is not a pause.
        self.due = next.max(now);
        debug_assert!(self.copies.len() <= COPIES_MAX);
    }

    /// After peers moved places.
    fn index(&mut self) {
        let places = self.peers.iter().enumerate();
        self.by_incarnation =
            places.filter_map(|(n, peer)| Some((peer.incarnation()?, n))).collect();
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.name.as_deref() == Some(name))
    }
}
