//! What a peer is: from what the membership library thinks, and from what this node heard itself.

use diskstream_wire::time::Nanos;

use super::super::limits::{
    ANNOUNCE_AGAIN, REPORT_FRESH_FOR, SUSPECT_SILENCE, UNKNOWN_AFTER_PAUSE,
};
use super::super::membership::{Identity, MemberState};
use super::super::status::{PeerEvent, StateChange, Why};
use super::Peers;
use super::peer::Peer;
use crate::view::PeerState;

impl Peers {
    pub(super) fn judge_all(&mut self, now: Nanos) {
        for n in 0..self.peers.len() {
            let peer = &self.peers[n];
            let (state, why) = judge(peer, self.paused_at, now);
            if (state, why) == (peer.state, peer.why) {
                continue;
            }
            let from = peer.state;
            let event = StateChange {
                name: peer.called(),
                addr: peer.addr,
                from,
                to: state,
                why,
                lasted: now.since(peer.since),
            };
            let peer = &mut self.peers[n];
            (peer.state, peer.why) = (state, why);
            if state != from {
                peer.since = now;
                self.counters.state_changes.inc();
                self.changed = true;
                self.event(PeerEvent::State(event));
            }
        }
    }

    /// Carries what the library thinks over to the peers, and tells it of those whom it lacks.
    pub(super) fn look_at_members(&mut self, now: Nanos) {
        for peer in &mut self.peers {
            peer.member = None;
        }
        for (identity, state) in self.membership.members() {
            if let Some(&n) = self.by_incarnation.get(&identity.incarnation) {
                self.peers[n].member = Some(state);
            }
        }
        for n in 0..self.peers.len() {
            let peer = &mut self.peers[n];
            match peer.member {
                Some(MemberState::Down) => _ = peer.gone.get_or_insert(Why::Silent),
                Some(_) => peer.gone = None,
                None => {}
            }
            let again = peer.announced.is_none_or(|at| now.since(at) >= ANNOUNCE_AGAIN);
            let speaks = peer.trusted && peer.silent_for(now) < SUSPECT_SILENCE;
            if self.left || !again || !speaks || peer.gone == Some(Why::Left) {
                continue;
            }
            match peer.member {
                // It speaks, so it is to come back. Where both were declared dead, each has come back under an identity that the
                // other has not heard of: nobody is left through whom it could, so both are said.
                Some(MemberState::Down) => {
                    self.tell_down(n, now);
                    if !self.membership.is_connected() {
                        self.announce(n, now);
                    }
                }
                None => self.announce(n, now),
                Some(_) if !self.membership.is_connected() => self.announce(n, now),
                Some(_) => {}
            }
        }
    }

    fn tell_down(&mut self, n: usize, now: Nanos) {
        let peer = &mut self.peers[n];
        let Some(incarnation) = peer.incarnation() else { return };
        peer.announced = Some(now);
        self.membership.tell_down(incarnation);
        self.send_membership(now);
    }

    /// Makes a peer that speaks a member.
    pub(super) fn announce(&mut self, n: usize, now: Nanos) {
        let peer = &mut self.peers[n];
        let Some(incarnation) = peer.incarnation() else { return };
        peer.announced = Some(now);
        let to = Identity { incarnation, addr: peer.addr.into(), renewal: 0 };
        if !self.membership.announce(to, now) {
            self.counters.membership_errors.inc();
        }
        self.send_membership(now);
    }
}

fn judge(peer: &Peer, paused_at: Option<Nanos>, now: Nanos) -> (PeerState, Why) {
    if peer.session.is_none() {
        return (PeerState::Unknown, Why::NeverHeard);
    }
    if !peer.trusted && paused_at.is_some_and(|at| now.since(at) < UNKNOWN_AFTER_PAUSE) {
        return (PeerState::Unknown, Why::Paused);
    }
    match (peer.member, peer.gone) {
        (Some(MemberState::Down), why) => (PeerState::Down, why.unwrap_or(Why::Silent)),
        (None, Some(why)) => (PeerState::Down, why),
        (None, None) => (PeerState::Unknown, Why::Joining),
        // What this node hears itself outweighs a suspicion: a lost probe is no silence.
        (Some(MemberState::Suspect), _) if peer.silent_for(now) >= SUSPECT_SILENCE => {
            (PeerState::Unknown, Why::Suspected)
        }
        _ if peer.reported.is_some_and(|at| now.since(at) < REPORT_FRESH_FOR) => {
            (PeerState::Up, Why::Reports)
        }
        _ => (PeerState::Unknown, Why::NoReport),
    }
}
