//! Where a device goes: pure functions over the view of the farm, this node's own state, and random numbers from outside.
//!
//! A node is **eligible** when it is up, takes devices, and holds the identical content. Among the eligible ones decide, in
//! this order: a free boot slot (for boots), subnet affinity, and sessions ÷ power rating. Of the last, *the better of two
//! random choices* is taken, drawn by rating: reports are up to a second old, and if every login node took the one that
//! looks least busy, all of them would send that second's devices to the same node. A single random choice would not herd
//! but leaves a spread that grows with the square root of the load; with two, the fullest node is above the average by
//! little more than a constant (Mitzenmacher 1996), and stale numbers do no more harm than making the second choice useless.
//! Rejected: asking the chosen node first. It costs a round trip in every login, and the login then depends on it.
//!
//! The same order gives the lists that tickets, transfers and notices carry.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::{ContentId, NodeEntry};

use crate::farm::{Affinity, FARM_NODES_MAX};
use crate::view::{DrainState, FarmView, PeerState, PeerView};

/// A list of nodes for a device, the best first; no node twice.
#[derive(Clone, Copy, Debug)]
pub struct NodeList {
    entries: [NodeEntry; NODES_MAX],
    count: usize,
}

impl NodeList {
    /// The empty list.
    #[must_use]
    pub fn new() -> NodeList {
        NodeList { entries: [NodeEntry::default(); NODES_MAX], count: 0 }
    }

    /// Appends a node that is not in the list, while there is room.
    pub fn push(&mut self, entry: NodeEntry) {
        let known = self.as_slice().iter().any(|known| known.login == entry.login);
        if self.count < NODES_MAX && !known && entry.login.socket_addr().is_some() {
            self.entries[self.count] = entry;
            self.count += 1;
        }
    }

    /// The nodes.
    #[must_use]
    pub fn as_slice(&self) -> &[NodeEntry] {
        &self.entries[..self.count]
    }

    /// Writes the list as a message's tail; gives the bytes.
    ///
    /// # Panics
    /// When `out` is shorter than the list.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        assert!(
            out.len() >= self.count * NodeEntry::BYTES,
            "the caller made room for a whole list"
        );
        let entries = out.chunks_exact_mut(NodeEntry::BYTES);
        entries.zip(self.as_slice()).for_each(|(bytes, entry)| entry.encode(bytes));
        self.count * NodeEntry::BYTES
    }

    /// How many nodes, as messages say it.
    ///
    /// # Panics
    /// Never: 16 fit a byte.
    #[must_use]
    pub fn count(&self) -> u8 {
        u8::try_from(self.count).expect("NODES_MAX fits a byte")
    }
}

impl Default for NodeList {
    fn default() -> NodeList {
        NodeList::new()
    }
}

/// What a device needs.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Name of its vDisk.
    pub vdisk: &'a str,
    /// The content that it must find there.
    pub content_id: ContentId,
    /// Whether it is to be near.
    pub affinity: Affinity,
    /// Whether it takes a boot slot.
    pub boot: bool,
}

/// This node, as a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// As it stands in lists; its power rating too.
    pub entry: NodeEntry,
    /// Whether it takes devices.
    pub drain: DrainState,
    /// Whether it holds the wanted content, and serves it.
    pub holds: bool,
    /// Whether it is in the device's subnet.
    pub near: bool,
    /// Sessions that it serves, and devices that are on their way to it.
    pub sessions: u32,
    /// Whether all its boot slots are taken.
    pub boot_full: bool,
}

/// What the farm says about a peer that the view does not.
#[derive(Clone, Copy, Debug)]
pub struct PeerFacts {
    /// Whether it is in the device's subnet.
    pub near: bool,
    /// Whether it may hold the vDisk, as long as it did not say what it holds.
    pub may_hold: bool,
    /// Whether what the view says of its state can be believed: not after a pause, until there is a newer view.
    pub trusted: bool,
}

/// Which node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// This one.
    Own,
    /// The peer with this index in the view.
    Peer(usize),
}

/// How much is known about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Up, serving, with the identical content.
    Eligible,
    /// Not heard of, or suspected: perhaps.
    Unknown,
    /// Down, or leaving: not now, but it holds the content, or may.
    Away,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    node: Node,
    standing: Standing,
    near: bool,
    full: bool,
    sessions: u32,
    rating: u16,
    /// Already in the list.
    used: bool,
}

const NOBODY: Candidate = Candidate {
    node: Node::Own,
    standing: Standing::Unknown,
    near: false,
    full: false,
    sessions: 0,
    rating: 1,
    used: true,
};

/// Candidates at most: the farm.
const CANDIDATES_MAX: usize = FARM_NODES_MAX + 1;

/// The nodes that could serve a device. Lives on the stack: a login allocates nothing.
pub struct Candidates<'a> {
    view: &'a FarmView,
    own: Option<Own>,
    affinity: Affinity,
    list: [Candidate; CANDIDATES_MAX],
    count: usize,
    /// Eligible ones that fixed affinity forbids.
    far: usize,
}

/// Why no node can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All eligible nodes have as many booting devices as they may: later.
    BootSlots,
    /// Nodes are eligible, but none in the device's subnet, and its vDisk insists on that.
    Subnet,
    /// No node is eligible, and none is even unknown.
    Nobody,
}

/// Where a device goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// There.
    pub node: Node,
    /// Nodes that were eligible; 0: the chosen one is not known to be.
    pub eligible: usize,
    /// It is outside the device's subnet although the vDisk prefers to be near.
    pub far: bool,
    /// Sessions that it serves, as far as is known.
    pub sessions: u32,
    /// Its power rating in hundredths.
    pub rating: u16,
}

impl<'a> Candidates<'a> {
    /// Everybody who could serve a device; `facts` says what the farm knows of a peer. Without `own` this node is no
    /// candidate.
    pub fn of(
        view: &'a FarmView,
        own: Option<Own>,
        wanted: &Wanted<'_>,
        facts: impl Fn(&PeerView) -> PeerFacts,
    ) -> Candidates<'a> {
        let mut candidates = Candidates {
            view,
            own,
            affinity: wanted.affinity,
            list: [NOBODY; CANDIDATES_MAX],
            count: 0,
            far: 0,
        };
        if let Some(own) = own.filter(|own| own.drain == DrainState::Serving && own.holds) {
            candidates.add(Candidate {
                node: Node::Own,
                standing: Standing::Eligible,
                near: own.near,
                full: wanted.boot && own.boot_full,
                sessions: own.sessions,
                rating: own.entry.rating,
                used: false,
            });
        }
        for (index, peer) in view.peers.iter().enumerate().take(FARM_NODES_MAX) {
            if let Some(candidate) = candidate(index, peer, wanted, &facts) {
                candidates.add(candidate);
            }
        }
        candidates
    }

    fn add(&mut self, candidate: Candidate) {
        if self.affinity == Affinity::Fixed && !candidate.near {
            self.far += usize::from(candidate.standing == Standing::Eligible);
            return;
        }
        self.list[self.count] = candidate;
        self.count += 1;
    }

    fn eligible(&self) -> impl Iterator<Item = &Candidate> {
        self.list[..self.count].iter().filter(|c| c.standing == Standing::Eligible)
    }

    /// Whether a node is eligible.
    #[must_use]
    pub fn any_eligible(&self) -> bool {
        self.eligible().next().is_some()
    }

    /// Chooses a node for a device that comes in.
    ///
    /// Only when none is eligible, one that may be (it was not heard of yet) is named: the device finds out, and has a list
    /// to go on with. To send it away would be worse.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose(&self, random: &mut impl FnMut() -> u64) -> Result<Placed, NoPlace> {
        let eligible = self.eligible().count();
        let chosen = if eligible > 0 {
            if self.eligible().all(|c| c.full) {
                return Err(NoPlace::BootSlots);
            }
            self.better_of_two(Standing::Eligible, true, random)
        } else if self.far > 0 {
            return Err(NoPlace::Subnet);
        } else {
            let here = |c: &Candidate| c.standing != Standing::Away;
            self.draw(random, |c| here(c) && (c.near || !self.any_near()))
                .or_else(|| self.draw(random, here))
        };
        let Some(at) = chosen else { return Err(NoPlace::Nobody) };
        let chosen = &self.list[at];
        Ok(Placed {
            node: chosen.node,
            eligible,
            far: self.affinity != Affinity::None && !chosen.near,
            sessions: chosen.sessions,
            rating: chosen.rating,
        })
    }

    fn any_near(&self) -> bool {
        self.affinity != Affinity::None && self.list[..self.count].iter().any(|c| c.near)
    }

    /// The list for a device that goes to `first`, or that is served there: that node, its best standby, the other eligible
    /// ones in random order weighted by rating, those that are unknown, and last those that are down or leaving, this node
    /// among them. (A ticket outlives a drain or a restart by days; who knows only the one node whose disk is bad would take
    /// its word for the whole farm's, and fail a read that others can serve when they return.)
    pub fn list(mut self, first: Option<Node>, random: &mut impl FnMut() -> u64) -> NodeList {
        let mut list = NodeList::new();
        if let Some(first) = first {
            self.list[..self.count]
                .iter_mut()
                .filter(|c| c.node == first)
                .for_each(|c| c.used = true);
            list.push(self.entry(first));
        }
        if let Some(standby) = self.better_of_two(Standing::Eligible, false, random) {
            self.take(standby, &mut list);
        }
        self.rest(Standing::Eligible, &mut list, random);
        self.rest(Standing::Unknown, &mut list, random);
        self.rest(Standing::Away, &mut list, random);
        let stays = |own: &Own| own.holds && (own.near || self.affinity != Affinity::Fixed);
        if let Some(own) = self.own.filter(stays) {
            list.push(own.entry);
        }
        list
    }

    /// The list of a notice: the eligible nodes in random order weighted by rating, another for each device, so that they
    /// spread; those that are unknown only if there is no other.
    pub fn successors(mut self, random: &mut impl FnMut() -> u64) -> NodeList {
        let mut list = NodeList::new();
        self.rest(Standing::Eligible, &mut list, random);
        if list.as_slice().is_empty() {
            self.rest(Standing::Unknown, &mut list, random);
        }
        list
    }

    /// Whether a node is among the eligible ones.
    #[must_use]
    pub fn is_eligible(&self, node: &NodeEntry) -> bool {
        self.eligible().any(|c| self.entry(c.node).login == node.login)
    }

    /// Whether [`Candidates::successors`] would name nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list[..self.count].iter().all(|c| c.standing == Standing::Away)
    }

    /// Appends all of one standing in weighted random order, the near ones first where that matters.
    fn rest(&mut self, standing: Standing, list: &mut NodeList, random: &mut impl FnMut() -> u64) {
        for near in [true, false] {
            while list.as_slice().len() < NODES_MAX {
                let of_tier = |c: &Candidate| {
                    let ordered = self.affinity != Affinity::None;
                    c.standing == standing && (!ordered || c.near == near)
                };
                let Some(next) = self.draw(random, of_tier) else { break };
                self.take(next, list);
            }
        }
    }

    fn take(&mut self, at: usize, list: &mut NodeList) {
        self.list[at].used = true;
        list.push(self.entry(self.list[at].node));
    }

    fn entry(&self, node: Node) -> NodeEntry {
        match node {
            Node::Own => self.own.map_or(NodeEntry::default(), |own| own.entry),
            Node::Peer(index) => self.view.peers[index].entry(),
        }
    }

    /// The less busy of two random ones of the best tier.
    fn better_of_two(
        &self,
        standing: Standing,
        slots_matter: bool,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let tier = |c: &Candidate| {
            let far = self.affinity != Affinity::None && !c.near;
            (slots_matter && c.full, far)
        };
        let open = |c: &Candidate| c.standing == standing && !c.used;
        let best = self.list[..self.count].iter().filter(|c| open(c)).map(tier).min()?;
        let fits = |c: &Candidate| open(c) && tier(c) == best;
        let one = self.draw(random, fits)?;
        let node = self.list[one].node;
        let Some(other) = self.draw(random, |c| fits(c) && c.node != node) else {
            return Some(one);
        };
        // (sessions + 1) ÷ rating: the load with this device, so that an empty strong node comes before an empty weak one.
        let load = |at: usize, by: usize| {
            let (a, b) = (&self.list[at], &self.list[by]);
            (u64::from(a.sessions) + 1) * u64::from(b.rating.max(1))
        };
        Some(if load(other, one) < load(one, other) { other } else { one })
    }

    /// One of those that fit and are not used, with a probability in proportion to its rating.
    fn draw(
        &self,
        random: &mut impl FnMut() -> u64,
        fits: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        let open = || {
            let all = self.list[..self.count].iter().enumerate();
            all.filter(|(_, c)| !c.used && fits(c))
        };
        let total: u64 = open().map(|(_, c)| u64::from(c.rating.max(1))).sum();
        // No choice needs no random number, and the modulo's bias is below 2^-40.
        let mut left = random().checked_rem(total)?;
        for (at, candidate) in open() {
            match left.checked_sub(u64::from(candidate.rating.max(1))) {
                Some(rest) => left = rest,
                None => return Some(at),
            }
        }
        None
    }
}

fn candidate(
    index: usize,
    peer: &PeerView,
    wanted: &Wanted<'_>,
    facts: impl Fn(&PeerView) -> PeerFacts,
) -> Option<Candidate> {
    let facts = facts(peer);
    let away = peer.state == PeerState::Down || peer.drain != DrainState::Serving;
    let standing = if away {
        let perhaps = peer.versions.is_empty() && facts.may_hold;
        if !(perhaps || peer.holds(wanted.vdisk, wanted.content_id)) {
            return None;
        }
        Standing::Away
    } else if peer.holds(wanted.vdisk, wanted.content_id) {
        let up = peer.state == PeerState::Up && facts.trusted;
        if up { Standing::Eligible } else { Standing::Unknown }
    } else if peer.versions.is_empty() && facts.may_hold {
        Standing::Unknown
    } else {
        return None;
    };
    let placed = peer.placed.load(Relaxed);
    let slots = peer.load.boot_limit;
    Some(Candidate {
        node: Node::Peer(index),
        standing,
        near: facts.near,
        full: wanted.boot
            && slots != 0
            && peer.load.boot_slots_in_use.saturating_add(placed) >= slots,
        sessions: peer.load.sessions.saturating_add(placed),
        rating: peer.rating,
        used: false,
    })
}

/// Different contents under one name that are told apart when this node has none itself. Guessed: a farm in the middle of an
/// update has two.
const CONTENTS_MAX: usize = 8;

/// The content that most nodes hold that are up and serve it under this name; of equally many the smaller one, so that all
/// login nodes agree.
#[must_use]
pub fn most_held(view: &FarmView, vdisk: &str) -> Option<ContentId> {
    let mut found = [(ContentId::default(), 0u32); CONTENTS_MAX];
    let serving = |p: &&PeerView| p.state == PeerState::Up && p.drain == DrainState::Serving;
    for peer in view.peers.iter().filter(serving) {
        for held in peer.versions.iter().filter(|v| v.eligible && v.vdisk == vdisk) {
            let slot = found.iter_mut().find(|(id, count)| *count == 0 || *id == held.content_id);
            if let Some((id, count)) = slot {
                (*id, *count) = (held.content_id, *count + 1);
            }
        }
    }
    let known = found.iter().filter(|(_, count)| *count > 0);
    known.max_by_key(|(id, count)| (*count, std::cmp::Reverse(*id))).map(|(id, _)| *id)
}

/// Random numbers that are the same for the same device, so that a notice that is sent again names the same order.
pub fn steady(mut seed: u64) -> impl FnMut() -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014): the seed is a session's tag, which is random already.
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
