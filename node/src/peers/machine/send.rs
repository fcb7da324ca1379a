//! What goes out: hellos, reports, membership, inventories, good-byes.

use std::net::SocketAddr;

use diskstream_wire::layout::Field;
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    PEER_REPORT_SESSIONS_MAX, PeerHead, PeerHello, PeerInventory, PeerInventoryRequest, PeerKind,
    PeerReport, PeerVerdict, Text,
};

use super::super::limits::{
    COPIES_MAX, COPY_AFTER, HELLO_BACKOFF, OUT_MAX, PEERS_MAX, REPORT_EVERY, RUMOUR_FOR,
    URGENT_REPORTS,
};
use super::peer::Peer;
use super::{Copy, Peers};

impl Peers {
    /// Hellos, reports and second copies whose time has come.
    pub(super) fn send_due(&mut self, now: Nanos) {
        while self.copies.front().is_some_and(|copy| copy.due <= now) {
            let copy = self.copies.pop_front().expect("there is one at the front");
            if let Some(&n) = self.by_incarnation.get(&copy.to) {
                self.send_to_peer(n, PeerKind::Membership, &copy.data);
            }
        }
        for n in 0..self.peers.len() {
            if self.peers[n].wants_hello(now) && self.peers[n].hello_due <= now {
                self.greet(n, now);
            }
            if self.peers[n].wants_report() && self.peers[n].report_due <= now {
                self.report(n, now);
            }
        }
        self.forget_rumours(now);
    }

    /// Says hello, and sets when to say it again.
    fn greet(&mut self, n: usize, now: Nanos) {
        let backoff = self.peers[n].hello_backoff;
        let jittered = self.random.around(u32::try_from(backoff.as_millis()).unwrap_or(u32::MAX));
        let peer = &mut self.peers[n];
        peer.hello_due = now + Nanos::from_millis(u64::from(jittered));
        peer.hello_backoff = Nanos(backoff.0 * 2).earlier(HELLO_BACKOFF.1);
        self.send_hello(n, now);
    }

    pub(super) fn send_hello(&mut self, n: usize, now: Nanos) {
        let random = &mut self.random;
        let challenge = self.peers[n].challenge.get(now, || random.u64());
        let addr = self.peers[n].addr;
        self.hello_to(addr, challenge);
    }

    /// A hello to an address, whoever is there. Hellos have one row of numbers for everybody, so that a receiver can tell those
    /// that were recorded.
    pub(super) fn hello_to(&mut self, to: SocketAddr, challenge: u64) {
        self.counters.hellos_out.inc();
        let head = PeerHead { kind: PeerKind::Hello, sequence: self.number(None), ..self.head() };
        let hello = PeerHello { challenge, ..self.own_hello(to) };
        self.send_record(to, &head, PeerHello::BYTES, |out| hello.encode(out));
    }

    /// The answer to a hello or a challenge; `n` is the peer that it goes to, if it is one.
    pub(super) fn hello_reply_to(
        &mut self,
        to: SocketAddr,
        n: Option<usize>,
        receiver: u64,
        (echo, challenge, verdict): (u64, u64, PeerVerdict),
    ) {
        let sequence = self.number(n);
        let head = PeerHead { kind: PeerKind::HelloReply, receiver, sequence, ..self.head() };
        let reply = PeerHello { challenge, echo, verdict, ..self.own_hello(to) };
        self.send_record(to, &head, PeerHello::BYTES, |out| reply.encode(out));
    }

    fn own_hello(&self, to: SocketAddr) -> PeerHello {
        PeerHello {
            name: Text::new(&self.config.name),
            login: self.config.login.into(),
            seen: to.into(),
            rating: self.config.rating,
            ..PeerHello::default()
        }
    }

    fn report(&mut self, n: usize, now: Nanos) {
        let every = u32::try_from(REPORT_EVERY.as_millis()).expect("a constant of a second");
        let jittered = Nanos::from_millis(u64::from(self.random.around(every)));
        let peer = &mut self.peers[n];
        let wait = URGENT_REPORTS.get(peer.urgent).copied().unwrap_or(jittered);
        peer.urgent = peer.urgent.saturating_add(1);
        peer.report_due = now + wait;
        let versions = &self.inventory.versions;
        let report = PeerReport {
            digest: self.inventory.digest,
            sessions: self.own.load.sessions,
            standbys: self.own.load.standbys,
            boot_slots_in_use: self.own.load.boot_slots_in_use,
            boot_limit: self.own.load.boot_limit,
            login: self.config.login.into(),
            rating: self.config.rating,
            versions: u16::try_from(versions.len()).expect("VERSIONS_MAX bounds them"),
            drain: self.own.drain as u8,
            ..PeerReport::default()
        };
        let mut body = vec![0; PeerReport::BYTES];
        report.encode(&mut body);
        // Trailing zeros say nothing.
        let told = versions.iter().take(PEER_REPORT_SESSIONS_MAX);
        let told = told.map(|version| version.sessions).collect::<Vec<_>>();
        let used = told.iter().rposition(|&sessions| sessions != 0).map_or(0, |last| last + 1);
        body.extend(told[..used].iter().flat_map(|sessions| sessions.to_be_bytes()));
        self.counters.reports_out.inc();
        self.send_to_peer(n, PeerKind::Report, &body);
    }

    pub(super) fn request_inventory(&mut self, n: usize) {
        let Some(assembly) = &self.peers[n].assembly else { return };
        let mut body = [0; PeerInventoryRequest::BYTES];
        assembly.request().encode(&mut body);
        self.send_to_peer(n, PeerKind::InventoryRequest, &body);
    }

    pub(super) fn send_inventory(&mut self, n: usize, wanted: u128) {
        let parts: Vec<_> = self.inventory.parts(wanted).collect();
        for (head, tail) in parts {
            let mut body = vec![0; PeerInventory::BYTES];
            head.encode(&mut body);
            body.extend_from_slice(&tail);
            self.counters.inventories_out.inc();
            self.send_to_peer(n, PeerKind::Inventory, &body);
        }
    }

    /// Tells everybody twice that this node stops: there is no later to repeat it in.
    pub(super) fn send_leave(&mut self) {
        for _ in 0..2 {
            for n in 0..self.peers.len() {
                self.send_to_peer(n, PeerKind::Leave, &[]);
            }
        }
    }

    /// What the membership library wants sent. Who is not met yet is greeted instead; the library tries again.
    pub(super) fn send_membership(&mut self, now: Nanos) {
        while let Some((to, data)) = self.membership.poll_send() {
            self.members_moved = true;
            if let Some(&n) = self.by_incarnation.get(&to.incarnation) {
                self.counters.membership_out.inc();
                self.send_to_peer(n, PeerKind::Membership, &data);
                if self.copies.len() < COPIES_MAX {
                    let due = now + COPY_AFTER;
                    self.copies.push_back(Copy { due, to: to.incarnation, data });
                }
                continue;
            }
            let Some(addr) = to.addr.socket_addr() else { continue };
            let known = self.peers.iter().any(|peer| peer.addr == addr);
            if !known && self.peers.len() < PEERS_MAX {
                self.peers.push(Peer::new(addr, None, now));
            }
        }
    }

    /// Peers that others spoke of but that never answered.
    fn forget_rumours(&mut self, now: Nanos) {
        let before = self.peers.len();
        self.peers.retain(|peer| {
            peer.name.is_some() || peer.configured.is_some() || now.since(peer.since) < RUMOUR_FOR
        });
        if self.peers.len() != before {
            self.index();
        }
    }

    /// Sends to a peer that was met; else nothing happens.
    pub(super) fn send_to_peer(&mut self, n: usize, kind: PeerKind, body: &[u8]) {
        let Some(receiver) = self.peers[n].incarnation() else { return };
        let sequence = self.number(Some(n));
        let addr = self.peers[n].addr;
        let head = PeerHead { kind, receiver, sequence, ..self.head() };
        self.send_record(addr, &head, body.len(), |out| out.copy_from_slice(body));
    }

    fn head(&self) -> PeerHead {
        PeerHead { sender: self.incarnation, ..PeerHead::default() }
    }

    /// The next number: of the session, or higher than any that somebody without one was sent.
    fn number(&mut self, n: Option<usize>) -> u64 {
        let session = n.and_then(|n| self.peers[n].session.as_mut());
        let last = session.map_or(&mut self.sequence, |session| &mut session.sequence);
        *last += 1;
        *last
    }

    fn send_record(
        &mut self,
        to: SocketAddr,
        head: &PeerHead,
        bytes: usize,
        body: impl FnOnce(&mut [u8]),
    ) {
        if self.out.len() >= OUT_MAX {
            self.counters.not_sent.inc();
            return;
        }
        let mut inner = vec![0; PeerHead::BYTES + bytes];
        head.encode(&mut inner);
        body(&mut inner[PeerHead::BYTES..]);
        let mut nonce = [0; <[u8; 24]>::BYTES];
        self.random.fill(&mut nonce);
        let sealed = self.envelope.seal(nonce, &inner);
        self.out.push_back((to, sealed));
    }
}
