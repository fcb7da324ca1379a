//! How two incarnations meet: a hello with a challenge, answers that echo it.
//!
//! Only an echo of a challenge that is open changes anything, so a recorded hello or answer has no effect. It proves that the
//! address to which the challenge went leads to an incarnation; the address that it comes from proves nothing, and is not looked at. A
//! hello costs one answer of its own length, at a bounded rate; a repeated one costs nothing.

use std::net::SocketAddr;

use diskstream_wire::time::Nanos;
use diskstream_wire::{PeerHead, PeerHello, PeerVerdict};

use super::super::counters::PeerRefusal;
use super::super::limits::{
    GREET_AFTER_SILENCE, GREETERS_MAX, HELLO_BACKOFF, HELLO_REPLY_EVERY, NAME_HELD_FOR, PEERS_MAX,
    STRANGERS_MAX,
};
use super::super::session::{Challenge, Window};
use super::super::status::{PeerEvent, RefusedBy};
use super::peer::{Peer, Session};
use super::{Peers, Stranger};

/// Whose challenge an answer echoes.
enum Echoed {
    Peer(usize),
    Stranger(usize),
}

impl Peers {
    pub(super) fn hello(
        &mut self,
        from: SocketAddr,
        head: &PeerHead,
        body: &[u8],
        now: Nanos,
    ) -> Result<(), PeerRefusal> {
        let (hello, _) = PeerHello::decode(body).ok_or(PeerRefusal::Malformed)?;
        let name = readable(&hello)?;
        if hello.challenge == 0 || head.receiver != 0 {
            return Err(PeerRefusal::Malformed);
        }
        self.counters.hellos_in.inc();
        if !self.is_news(head) {
            return Err(PeerRefusal::Replay);
        }
        let n = self.named(name);
        let verdict = self.verdict(n, name, head.sender, from, now);
        let due = match n {
            Some(n) if verdict == PeerVerdict::Welcome && self.peers[n].addr == from => {
                let peer = &mut self.peers[n];
                let due = peer.replied.is_none_or(|at| now.since(at) >= HELLO_REPLY_EVERY);
                if due {
                    peer.replied = Some(now);
                }
                due
            }
            _ => self.stranger_bucket.take(now),
        };
        if !due {
            return Err(PeerRefusal::Rate);
        }
        let challenge = match verdict {
            PeerVerdict::Welcome => self.challenge_for(n, head.sender, from, now),
            // Refused, but asked to prove that it lives: the log names nobody because of a replayed hello.
            _ => self.stranger_challenge(from, now),
        };
        self.hello_reply_to(from, n, head.sender, (hello.challenge, challenge, verdict));
        match verdict {
            PeerVerdict::Welcome => Ok(()),
            PeerVerdict::Full => Err(PeerRefusal::Full),
            _ => Err(PeerRefusal::NameTaken),
        }
    }

    pub(super) fn hello_reply(
        &mut self,
        head: &PeerHead,
        body: &[u8],
        now: Nanos,
    ) -> Result<(), PeerRefusal> {
        let (reply, _) = PeerHello::decode(body).ok_or(PeerRefusal::Malformed)?;
        let name = readable(&reply)?;
        if head.receiver != self.incarnation {
            return Err(PeerRefusal::Receiver);
        }
        let Some(echoed) = self.echoed(reply.echo, now) else {
            return self.late_echo(head, now);
        };
        // Where the challenge went, and so where the incarnation is: whoever relays its answer does not take its place.
        let at = self.close(&echoed);
        let known = self.named(name);
        let verdict = self.verdict(known, name, head.sender, at, now);
        if verdict != PeerVerdict::Welcome || reply.verdict != PeerVerdict::Welcome {
            if reply.challenge != 0 {
                // It is to know, too, that this node lives.
                self.hello_reply_to(at, None, head.sender, (reply.challenge, 0, verdict));
            }
            return Err(self.refuse(verdict, (known, name), reply.verdict, at, now));
        }
        let n = self.place(&echoed, known, name, at, now);
        self.peers[n].learn(reply.login, reply.rating, at);
        self.meet(n, head, at, now);
        if reply.challenge != 0 {
            let answer = (reply.challenge, 0, PeerVerdict::Welcome);
            self.hello_reply_to(at, Some(n), head.sender, answer);
        }
        if let Some(seen) = reply.seen.socket_addr() {
            self.learn_own_addr(seen, now);
        }
        let met = self.peers[n].incarnation().is_some_and(|known| known == head.sender);
        if met && self.peers[n].member.is_none() {
            self.announce(n, now);
        }
        Ok(())
    }

    /// Somebody named another life of this node, or is not known: perhaps one of both restarted. Greeting it finds out.
    pub(super) fn nudge(&mut self, from: SocketAddr, n: Option<usize>, now: Nanos) {
        match n {
            Some(n) => {
                let peer = &mut self.peers[n];
                if peer.nudged.is_none_or(|at| now.since(at) >= HELLO_BACKOFF.0) {
                    peer.nudged = Some(now);
                    self.send_hello(n, now);
                }
            }
            None if self.nudge_bucket.take(now) => {
                let challenge = self.stranger_challenge(from, now);
                self.hello_to(from, challenge);
            }
            None => self.counters.refuse(PeerRefusal::Rate),
        }
    }

    /// Whether a hello is newer than every other of its sender. One that was recorded is not, and takes nothing of what is
    /// there for strangers: its source can be forged, its number cannot.
    fn is_news(&mut self, head: &PeerHead) -> bool {
        let known = self.greeters.iter().position(|(sender, _)| *sender == head.sender);
        if let Some((_, highest)) = known.map(|n| self.greeters[n])
            && head.sequence <= highest
        {
            return false;
        }
        match known {
            Some(n) => _ = self.greeters.remove(n),
            None if self.greeters.len() >= GREETERS_MAX => _ = self.greeters.pop_front(),
            None => {}
        }
        self.greeters.push_back((head.sender, head.sequence));
        true
    }

    /// Whether a node may be the peer of this name.
    fn verdict(
        &self,
        n: Option<usize>,
        name: &str,
        incarnation: u64,
        from: SocketAddr,
        now: Nanos,
    ) -> PeerVerdict {
        if name == self.config.name {
            return PeerVerdict::NameTaken;
        }
        let Some(peer) = n.map(|n| &self.peers[n]) else {
            // Whoever answers at an address without a name takes that place.
            let free = self.peers.len() < PEERS_MAX
                || self.peers.iter().any(|peer| peer.addr == from && peer.name.is_none());
            return if free { PeerVerdict::Welcome } else { PeerVerdict::Full };
        };
        // Two processes cannot have one address: there, another incarnation is the same node, restarted.
        let other = peer.incarnation().is_some_and(|known| known != incarnation);
        if other && peer.addr != from && peer.silent_for(now) < NAME_HELD_FOR {
            return PeerVerdict::NameTaken;
        }
        PeerVerdict::Welcome
    }

    /// Tells the log of a node that lives, and that this one will not have, or that will not have this one.
    fn refuse(
        &mut self,
        ours: PeerVerdict,
        (known, name): (Option<usize>, &str),
        theirs: PeerVerdict,
        from: SocketAddr,
        now: Nanos,
    ) -> PeerRefusal {
        let name = name.to_owned();
        // Also a node with this one's own name will not have it.
        let verdict = if known.is_none() && ours == PeerVerdict::NameTaken { ours } else { theirs };
        if verdict != PeerVerdict::Welcome {
            self.note_refusal(RefusedBy { name: name.clone(), addr: from, verdict, at: now });
        }
        let event = match (ours, known) {
            (PeerVerdict::Welcome, _) => PeerEvent::RefusedBy { name, addr: from, verdict: theirs },
            (PeerVerdict::Full, _) => PeerEvent::Full { addr: from },
            (_, None) => PeerEvent::OwnNameTaken { addr: from },
            (_, Some(n)) => PeerEvent::NameTaken { name, addr: from, holder: self.peers[n].addr },
        };
        self.complain(from, event, now);
        if ours == PeerVerdict::Full { PeerRefusal::Full } else { PeerRefusal::NameTaken }
    }

    fn note_refusal(&mut self, refusal: RefusedBy) {
        let known = self.refused_by.iter().position(|known| known.addr == refusal.addr);
        match known {
            Some(n) => self.refused_by[n] = refusal,
            None if self.refused_by.len() < PEERS_MAX => {
                self.refused_by.push(refusal);
                self.changed = true;
            }
            None => {}
        }
    }

    /// The challenge for whoever said hello; 0 when it is met already.
    fn challenge_for(
        &mut self,
        n: Option<usize>,
        incarnation: u64,
        from: SocketAddr,
        now: Nanos,
    ) -> u64 {
        let at_home = n.filter(|&n| self.peers[n].addr == from);
        // The challenge of a peer goes to its own address only.
        let Some(n) = at_home else { return self.stranger_challenge(from, now) };
        let peer = &mut self.peers[n];
        if peer.trusted && peer.incarnation() == Some(incarnation) {
            return 0;
        }
        let random = &mut self.random;
        peer.challenge.get(now, || random.u64())
    }

    fn stranger_challenge(&mut self, addr: SocketAddr, now: Nanos) -> u64 {
        let random = &mut self.random;
        if let Some(known) = self.strangers.iter_mut().find(|s| s.addr == addr) {
            return known.challenge.get(now, || random.u64());
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.pop_front();
        }
        let mut challenge = Challenge::default();
        let number = challenge.get(now, || random.u64());
        self.strangers.push_back(Stranger { addr, challenge });
        number
    }

    fn echoed(&self, echo: u64, now: Nanos) -> Option<Echoed> {
        let peer = self.peers.iter().position(|p| p.challenge.is_answered_by(echo, now));
        let stranger = || self.strangers.iter().position(|s| s.challenge.is_answered_by(echo, now));
        peer.map(Echoed::Peer).or_else(|| stranger().map(Echoed::Stranger))
    }

    /// Closes the challenge, and says where it went.
    fn close(&mut self, echoed: &Echoed) -> SocketAddr {
        match *echoed {
            Echoed::Peer(n) => {
                self.peers[n].challenge.close();
                self.peers[n].addr
            }
            Echoed::Stranger(n) => {
                self.strangers[n].challenge.close();
                self.strangers[n].addr
            }
        }
    }

    /// An answer to a challenge that another one answered before, as happens when both sides greet at once; or a replay.
    fn late_echo(&mut self, head: &PeerHead, now: Nanos) -> Result<(), PeerRefusal> {
        let Some(&n) = self.by_incarnation.get(&head.sender) else {
            return Err(PeerRefusal::Challenge);
        };
        let session = self.peers[n].session.as_mut().expect("indexed by its session");
        if !session.window.accept(head.sequence) {
            return Err(PeerRefusal::Replay);
        }
        self.heard(n, now);
        Ok(())
    }

    /// The place of the peer that answered: its own, that of the address that was asked, or a new one.
    fn place(
        &mut self,
        echoed: &Echoed,
        known: Option<usize>,
        name: &str,
        at: SocketAddr,
        now: Nanos,
    ) -> usize {
        let asked = match *echoed {
            Echoed::Peer(n) => Some(n),
            Echoed::Stranger(n) => {
                self.strangers.remove(n);
                self.peers.iter().position(|peer| peer.addr == at && peer.name.is_none())
            }
        };
        let asked_name = asked.map(|n| self.peers[n].name.clone());
        match (asked_name, known) {
            // An address without a name turns out to be a node that is known: its place is not needed.
            (Some(None), Some(known)) => {
                let asked = asked.expect("it has a name or none");
                self.peers.remove(asked);
                self.index();
                if known > asked { known - 1 } else { known }
            }
            (Some(None), None) => {
                let n = asked.expect("it has a name or none");
                self.peers[n].name = Some(name.to_owned());
                if self.peers[n].configured.is_none() {
                    self.event(PeerEvent::Joined { name: name.to_owned(), addr: at });
                }
                n
            }
            (Some(Some(expected)), _) if expected != name => {
                let found = name.to_owned();
                let event = PeerEvent::UnexpectedName { addr: at, expected, found };
                self.complain(at, event, now);
                known.unwrap_or_else(|| self.join(name, at, now))
            }
            (_, Some(known)) => known,
            (_, None) => self.join(name, at, now),
        }
    }

    fn join(&mut self, name: &str, at: SocketAddr, now: Nanos) -> usize {
        self.event(PeerEvent::Joined { name: name.to_owned(), addr: at });
        self.peers.push(Peer::new(at, Some(name.to_owned()), now));
        self.peers.len() - 1
    }

    /// An incarnation proved that it lives, and is taken for this peer.
    fn meet(&mut self, n: usize, head: &PeerHead, at: SocketAddr, now: Nanos) {
        let old = self.peers[n].incarnation();
        let peer = &mut self.peers[n];
        let silent = peer.silent_for(now) >= GREET_AFTER_SILENCE;
        if old == Some(head.sender) {
            let session = peer.session.as_mut().expect("it has an incarnation");
            // Effective already; what matters is that it does not come again.
            let _again = session.window.accept(head.sequence);
        } else {
            let window = Window::starting_at(head.sequence);
            // Above every number that it may have seen, of an answer to its hello for one.
            let sent = peer.session.as_ref().map_or(0, |session| session.sequence);
            let sequence = self.sequence.max(sent);
            let session = Session { incarnation: head.sender, window, sequence };
            peer.session = Some(session);
            (peer.member, peer.gone, peer.reported) = (None, None, None);
            peer.announced = None;
            peer.report_sequence = 0;
            peer.assembly = None;
            peer.drain = crate::view::DrainState::Serving;
            self.counters.handshakes.inc();
        }
        // A node with several addresses may answer at another one than it is spoken to: that alone moves nothing.
        if peer.addr != at && (silent || old != Some(head.sender)) {
            let event = PeerEvent::AddressChanged { name: peer.called(), from: peer.addr, to: at };
            peer.addr = at;
            // What is open was drawn for the former address.
            peer.challenge.close();
            self.counters.address_changes.inc();
            self.event(event);
        }
        let peer = &mut self.peers[n];
        peer.trusted = true;
        // Urgent: the first report may arrive before the echo that makes it welcome.
        peer.report_due = now;
        peer.urgent = 0;
        self.heard(n, now);
        if old != Some(head.sender) {
            self.index();
            if let Some(old) = old {
                self.membership.declare_down(old, now);
            }
        }
        self.refused_by.retain(|refusal| refusal.addr != at);
        self.changed = true;
        self.members_moved = true;
    }

    /// A node bound to every address learns from its peers which one they see.
    fn learn_own_addr(&mut self, seen: SocketAddr, now: Nanos) {
        if self.membership.identity().addr.socket_addr().is_none()
            && !self.membership.set_addr(seen.into(), now)
        {
            self.counters.membership_errors.inc();
        }
    }
}

/// The name in a hello, fit for a log line.
fn readable(hello: &PeerHello) -> Result<&str, PeerRefusal> {
    let name = hello.name.as_str();
    let fit = !name.is_empty() && !name.chars().any(char::is_control);
    if fit { Ok(name) } else { Err(PeerRefusal::Malformed) }
}
