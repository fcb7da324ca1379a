//! Placement as a shard does it: what it knows of farm, view and itself goes into [`crate::placement`], what comes out goes
//! to the device.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::time::Nanos;
use diskstream_wire::{BusyReason, ContentId, LoginKind, Mac, NodeEntry, RejectReason};

use super::limits::{BOOT_PAUSE_MS, DRAINING_PAUSE_MS, EXPECTED_HALVED_EVERY};
use super::login::{CHANGED, Refused};
use super::{Asked, Mutation, Shard};
use crate::farm::{Affinity, Vdisk};
use crate::placement::{
    Candidates, NoPlace, Node, NodeList, Own, PeerFacts, Placed, Wanted, steady,
};
use crate::view::{DrainState, FarmView, PeerState, PeerView};

/// What a device that comes in asks for.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub(super) mac: Mac,
    /// Index of its vDisk.
    pub(super) vdisk: u32,
    pub(super) kind: LoginKind,
    /// It takes a boot slot.
    pub(super) boots: bool,
    /// The content that its ticket names.
    pub(super) running: Option<ContentId>,
}

/// Where it goes.
pub(super) struct Place {
    pub(super) content_id: ContentId,
    pub(super) placed: Placed,
    pub(super) nodes: NodeList,
    pub(super) pinned: bool,
    pub(super) why: &'static str,
}

impl Shard {
    /// The view of the farm; after a pause every peer in it counts as unknown until there is a newer one.
    pub(super) fn farm_view(&mut self) -> Arc<FarmView> {
        let view = Arc::clone(self.view.look(&self.shared.view));
        if self.distrusted_view.is_some_and(|version| version != self.view.version()) {
            self.distrusted_view = None;
        }
        view
    }

    /// The node and the list for a device that comes in.
    pub(super) fn place(
        &mut self,
        question: &Question,
        asked: &Asked,
        now: Nanos,
    ) -> Result<Place, Refused> {
        let view = self.farm_view();
        let farm = Arc::clone(&self.shared.farm);
        let index = question.vdisk as usize;
        let vdisk = &farm.vdisks[index];
        let Some(content_id) = self.content_for(question, vdisk, &view) else {
            return Err(self.nobody(question, None));
        };
        if let Some(pinned) = vdisk.pinned {
            return self.place_pinned(question, content_id, pinned, &view, asked, now);
        }
        let device = asked.from.ip();
        let boot = question.boots;
        let wanted = Wanted { vdisk: &vdisk.name, content_id, affinity: vdisk.affinity, boot };
        let own = self.own_candidate(question, content_id, asked, now);
        let found = Candidates::of(&view, Some(own), &wanted, |p| self.facts(p, index, device));
        // A standby is wanted at the node that was asked: elsewhere it might meet the session that it is to stand by for.
        let here = question.kind == LoginKind::Standby
            && own.drain == DrainState::Serving
            && own.holds
            && !own.boot_full
            && (own.near || vdisk.affinity != Affinity::Fixed);
        let random = &mut self.random;
        let placed = match here {
            true => Ok(standing_by(&own)),
            false => found.choose(&mut || random.u64()),
        };
        let placed = placed.map_err(|none| self.no_place(none, question, Some(content_id)))?;
        let random = &mut self.random;
        let nodes = found.list(Some(placed.node), &mut || random.u64());
        self.expect(placed, question, &view, now);
        let why = match (placed.node, placed.eligible) {
            (_, 0) => "no node is known to be up with this content; this one may be",
            _ if here => "a standby stays where it asks",
            (_, 1) => "the only eligible node",
            _ if placed.far => "the less busy of two; none in the device's subnet had room",
            _ => "the less busy of two",
        };
        Ok(Place { content_id, placed, nodes, pinned: false, why })
    }

    /// The content that a device must find: its ticket's while it runs, the farm file's, this node's own, or what most hold.
    fn content_for(
        &self,
        question: &Question,
        vdisk: &Vdisk,
        view: &FarmView,
    ) -> Option<ContentId> {
        let own = self.shared.vdisk(question.vdisk);
        if let Some(pinned) = vdisk.pinned.filter(|&node| node != self.shared.own_node) {
            let name = &self.shared.farm.nodes[pinned].name;
            let peer = view.peers.iter().find(|peer| peer.name == *name);
            let versions = peer.map_or(&[][..], |peer| &peer.versions);
            let held = versions.iter().find(|v| v.eligible && v.vdisk == vdisk.name);
            let held = || held.map(|v| v.content_id);
            return question.running.or(vdisk.content_id).or_else(held);
        }
        let here = (own.is_eligible() && self.shared.own.drain() == DrainState::Serving)
            .then_some(own.content_id);
        let held = || crate::placement::most_held(view, &vdisk.name);
        // A node that leaves still knows best what its devices run from.
        let leaving = || own.is_eligible().then_some(own.content_id);
        question.running.or(vdisk.content_id).or(here).or_else(held).or_else(leaving)
    }

    /// This node as a candidate for a device.
    fn own_candidate(
        &self,
        question: &Question,
        content_id: ContentId,
        asked: &Asked,
        now: Nanos,
    ) -> Own {
        let entry = self.shared.vdisk(question.vdisk);
        let own = &self.shared.own;
        let slots = &self.shared.boot_slots;
        Own {
            drain: if self.drain.is_some() { DrainState::Stopping } else { own.drain() },
            holds: entry.is_eligible() && entry.content_id == content_id,
            sessions: own.sessions.load(Relaxed).saturating_add(own.expected.load(Relaxed)),
            boot_full: question.boots && !slots.has_room(question.mac, now),
            ..self.own_in_lists(question.vdisk as usize, asked.from.ip(), asked)
        }
    }

    /// This node as lists name it.
    fn own_in_lists(&self, vdisk: usize, device: IpAddr, asked: &Asked) -> Own {
        let farm = &self.shared.farm;
        let node = farm.nodes.get(self.shared.own_node);
        let rating = node.map_or(100, |own| own.rating);
        let shared = self.shared.vdisks().and_then(|vdisks| vdisks.get(vdisk));
        Own {
            entry: NodeEntry { login: self.own_login(asked), rating, ..Default::default() },
            drain: self.shared.own.drain(),
            holds: shared.is_some_and(|entry| entry.is_eligible()),
            near: node.and_then(|own| own.subnet).is_some_and(|subnet| subnet.contains(device)),
            sessions: 0,
            boot_full: false,
        }
    }

    /// What the farm file says of a peer.
    fn facts(&self, peer: &PeerView, vdisk: usize, device: IpAddr) -> PeerFacts {
        let farm = &self.shared.farm;
        let vdisk = &farm.vdisks[vdisk];
        let node = farm.node(&peer.name);
        let subnet = node.and_then(|node| node.subnet);
        PeerFacts {
            near: vdisk.affinity != Affinity::None
                && subnet.is_some_and(|subnet| subnet.contains(device)),
            may_hold: node.is_none_or(|node| node.stores.contains(&vdisk.store)),
            trusted: self.distrusted_view.is_none(),
        }
    }

    /// A vDisk that one node alone may serve: that node, and no other in the list.
    fn place_pinned(
        &mut self,
        question: &Question,
        content_id: ContentId,
        pinned: usize,
        view: &FarmView,
        asked: &Asked,
        now: Nanos,
    ) -> Result<Place, Refused> {
        let node = &self.shared.farm.nodes[pinned];
        let text = "The vDisk is pinned to one node, and that node does not take devices now: start it, or unpin the vDisk";
        let away = |shard: &Shard| {
            shard.counters.place_refused_pinned.inc();
            Refused::Rejected(RejectReason::NoEligibleNode, text)
        };
        let mut nodes = NodeList::new();
        let peer = view.peers.iter().position(|peer| peer.name == node.name);
        let own = self.own_candidate(question, content_id, asked, now);
        let (here, at) = if pinned == self.shared.own_node {
            if own.drain != DrainState::Serving {
                self.counters.place_refused_draining.inc();
                return Err(Refused::Busy(BusyReason::Draining, DRAINING_PAUSE_MS));
            }
            if !own.holds {
                return Err(self.nobody(question, Some(content_id)));
            }
            if own.boot_full {
                self.counters.place_refused_boot_slots.inc();
                return Err(Refused::Busy(BusyReason::BootLimit, BOOT_PAUSE_MS));
            }
            nodes.push(own.entry);
            (own.sessions, Node::Own)
        } else {
            let Some(index) = peer else { return Err(away(self)) };
            let peer = &view.peers[index];
            if peer.state == PeerState::Down || peer.drain != DrainState::Serving {
                return Err(away(self));
            }
            nodes.push(peer.entry());
            (peer.load.sessions, Node::Peer(index))
        };
        let rating = node.rating;
        let placed = Placed { node: at, eligible: 1, far: false, sessions: here, rating };
        self.expect(placed, question, view, now);
        Ok(Place { content_id, placed, nodes, pinned: true, why: "the vDisk is pinned to it" })
    }

    /// Remembers that a device is on its way, so that the next login counts it, and counts the decision.
    fn expect(&mut self, placed: Placed, question: &Question, view: &FarmView, now: Nanos) {
        let standby = question.kind == LoginKind::Standby;
        let own = &self.shared.own;
        if now >= self.expected_due {
            own.expected.store(own.expected.load(Relaxed) / 2, Relaxed);
            self.expected_due = now + EXPECTED_HALVED_EVERY;
        }
        let c = &self.counters;
        match (placed.node, placed.eligible) {
            (Node::Peer(_), 0) => c.placed_unknown.inc(),
            (Node::Peer(_), _) => c.placed_elsewhere.inc(),
            (Node::Own, _) => c.placed_here.inc(),
        }
        if placed.far {
            c.placed_far.inc();
        }
        if !standby {
            let of_node = match placed.node {
                Node::Own => &own.expected,
                Node::Peer(index) => &view.peers[index].placed,
            };
            of_node.fetch_add(1, Relaxed);
        }
    }

    fn no_place(
        &mut self,
        none: NoPlace,
        question: &Question,
        content_id: Option<ContentId>,
    ) -> Refused {
        match none {
            NoPlace::BootSlots => {
                self.counters.place_refused_boot_slots.inc();
                Refused::Busy(BusyReason::BootLimit, BOOT_PAUSE_MS)
            }
            NoPlace::Subnet => {
                self.counters.place_refused_subnet.inc();
                let text = "The vDisk is served only inside its device's subnet, and no node there takes devices: add one, or relax subnet_affinity";
                Refused::Rejected(RejectReason::NoEligibleNode, text)
            }
            NoPlace::Nobody => self.nobody(question, content_id),
        }
    }

    /// What to say when no node is eligible.
    fn nobody(&mut self, question: &Question, content_id: Option<ContentId>) -> Refused {
        let own = Arc::clone(self.shared.vdisk(question.vdisk));
        if self.drain.is_some() && content_id.is_none_or(|id| own.content_id == id) {
            self.counters.place_refused_draining.inc();
            return Refused::Busy(BusyReason::Draining, DRAINING_PAUSE_MS);
        }
        let view = self.farm_view();
        let held = |peer: &PeerView| {
            peer.state != PeerState::Down
                && peer
                    .versions
                    .iter()
                    .any(|v| v.vdisk == own.name && content_id.is_none_or(|id| v.content_id == id))
        };
        if view.peers.iter().any(held) {
            self.counters.place_refused_none_takes_devices.inc();
            let text = "The nodes that hold this version take no devices now: resume one of them, or start another";
            return Refused::Rejected(RejectReason::NoEligibleNode, text);
        }
        if own.is_here() && content_id.is_some_and(|id| own.content_id != id) {
            self.counters.place_refused_other_version.inc();
            let text = "The nodes hold another version of the vDisk than the one that is wanted: copy that one to a node, or boot again";
            return Refused::Rejected(RejectReason::VersionPending, text);
        }
        self.counters.place_refused_missing.inc();
        Refused::Rejected(RejectReason::VersionMissing, CHANGED)
    }

    /// The list for a device that is served here: for its fresh ticket.
    pub(super) fn list_for_guest(&mut self, session: u32, asked: &Asked) -> NodeList {
        let view = self.farm_view();
        let farm = Arc::clone(&self.shared.farm);
        let (index, device) = self.place_of(session);
        let Some(vdisk) = farm.vdisks.get(index) else { return NodeList::new() };
        let mut own = self.own_in_lists(index, device, asked);
        own.holds = true;
        if vdisk.pinned.is_some() {
            let mut only = NodeList::new();
            only.push(own.entry);
            return only;
        }
        let first = (own.drain == DrainState::Serving && self.drain.is_none()).then_some(Node::Own);
        let wanted = self.wanted_by(session, vdisk);
        let found = Candidates::of(&view, Some(own), &wanted, |p| self.facts(p, index, device));
        let random = &mut self.random;
        found.list(first, &mut || random.u64())
    }

    /// Where a device can go that is to leave: in the same order each time it is told.
    pub(super) fn successors_of(&mut self, session: u32) -> NodeList {
        let seed = self.sessions.get(session).tag;
        if self.mutation == Some(Mutation::NameLeaving) {
            return self.leaving_nodes();
        }
        self.with_successors(session, |found| found.successors(&mut steady(seed)))
            .unwrap_or_default()
    }

    /// The mistake of [`Mutation::NameLeaving`].
    fn leaving_nodes(&mut self) -> NodeList {
        let mut list = NodeList::new();
        let view = self.farm_view();
        let leaving = view.peers.iter().filter(|peer| peer.drain != DrainState::Serving);
        leaving.chain(&view.peers).for_each(|peer| list.push(peer.entry()));
        list
    }

    /// Whether there is a node that a device could go to.
    pub(super) fn has_successor(&mut self, session: u32) -> bool {
        self.with_successors(session, |found| !found.is_empty()).unwrap_or(false)
    }

    pub(super) fn with_successors<T>(
        &mut self,
        session: u32,
        then: impl FnOnce(Candidates<'_>) -> T,
    ) -> Option<T> {
        let view = self.farm_view();
        let farm = Arc::clone(&self.shared.farm);
        let (index, device) = self.place_of(session);
        let vdisk = farm.vdisks.get(index).filter(|vdisk| vdisk.pinned.is_none())?;
        let wanted = self.wanted_by(session, vdisk);
        Some(then(Candidates::of(&view, None, &wanted, |p| self.facts(p, index, device))))
    }

    /// Index of a session's vDisk, and its device's address.
    fn place_of(&self, session: u32) -> (usize, IpAddr) {
        let session = self.sessions.get(session);
        (session.vdisk as usize, session.peer().ip())
    }

    fn wanted_by<'v>(&self, session: u32, vdisk: &'v Vdisk) -> Wanted<'v> {
        let content_id = self.vdisk_of(session).content_id;
        Wanted { vdisk: &vdisk.name, content_id, affinity: vdisk.affinity, boot: false }
    }
}

fn standing_by(own: &Own) -> Placed {
    Placed {
        node: Node::Own,
        eligible: 1,
        far: false,
        sessions: own.sessions,
        rating: own.entry.rating,
    }
}
