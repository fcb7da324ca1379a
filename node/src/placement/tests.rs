//! Who is eligible, in which order, and how evenly devices spread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::view::{HeldVersion, Load};

const CONTENT: ContentId = ContentId([7; 32]);
const NEAR: PeerFacts = PeerFacts { near: true, may_hold: true, trusted: true };
const FAR: PeerFacts = PeerFacts { near: false, may_hold: true, trusted: true };

fn login(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    ([10, 0, high, low], 6910).into()
}

fn held(content_id: ContentId) -> Arc<[HeldVersion]> {
    let vdisk = "debian".to_owned();
    Arc::new([HeldVersion { vdisk, content_id, eligible: true, sessions: 0 }])
}

fn peer(n: u16, rating: u16, sessions: u32) -> PeerView {
    PeerView {
        state: PeerState::Up,
        load: Load { sessions, ..Load::default() },
        versions: held(CONTENT),
        ..PeerView::unknown(&format!("n{n}"), login(n), rating)
    }
}

fn own(n: u16, rating: u16, sessions: u32) -> Own {
    Own {
        entry: NodeEntry { login: login(n).into(), rating, ..NodeEntry::default() },
        drain: DrainState::Serving,
        holds: true,
        near: false,
        sessions,
        boot_full: false,
    }
}

fn wanted(affinity: Affinity) -> Wanted<'static> {
    Wanted { vdisk: "debian", content_id: CONTENT, affinity, boot: true }
}

fn choose(
    view: &FarmView,
    own: Own,
    wanted: &Wanted<'_>,
    facts: impl Fn(&PeerView) -> PeerFacts,
    seed: u64,
) -> Result<Placed, NoPlace> {
    Candidates::of(view, Some(own), wanted, facts).choose(&mut steady(seed))
}

/// Where 300 devices go, by node; all of them see the same view.
fn picks(
    view: &FarmView,
    own: Own,
    wanted: &Wanted<'_>,
    facts: impl Fn(&PeerView) -> PeerFacts,
) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for seed in 0..300 {
        let node = choose(view, own, wanted, &facts, seed).expect("a place").node;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes.sort_by_key(|node| match node {
        Node::Own => 0,
        Node::Peer(n) => n + 1,
    });
    nodes
}

#[test]
fn only_up_serving_identical_nodes_are_chosen() {
    let peers = vec![
        peer(1, 100, 0),
        PeerView { state: PeerState::Unknown, ..peer(2, 100, 0) },
        PeerView { state: PeerState::Down, ..peer(3, 100, 0) },
        PeerView { drain: DrainState::Maintenance, ..peer(4, 100, 0) },
        PeerView { versions: held(ContentId([8; 32])), ..peer(5, 100, 0) },
        PeerView { versions: Arc::new([]), ..peer(6, 100, 0) },
    ];
    let view = FarmView { peers };
    let any = wanted(Affinity::None);
    assert_eq!(picks(&view, own(9, 100, 0), &any, |_| FAR), [Node::Own, Node::Peer(0)]);
    let without = Own { holds: false, ..own(9, 100, 0) };
    assert_eq!(picks(&view, without, &any, |_| FAR), [Node::Peer(0)]);
    let leaving = Own { drain: DrainState::Stopping, ..own(9, 100, 0) };
    assert_eq!(picks(&view, leaving, &any, |_| FAR), [Node::Peer(0)]);
    // One changed byte: nobody has it. Those that said nothing yet are better than nobody.
    let other = Wanted { content_id: ContentId([9; 32]), ..any };
    let found = Candidates::of(&view, Some(leaving), &other, |_| FAR);
    assert!(!found.any_eligible());
    let placed = found.choose(&mut steady(1)).expect("one that may be");
    assert_eq!((placed.node, placed.eligible), (Node::Peer(5), 0));
    let none = |_: &PeerView| PeerFacts { near: false, may_hold: false, trusted: true };
    let without = Own { holds: false, ..leaving };
    assert_eq!(choose(&view, without, &other, none, 1), Err(NoPlace::Nobody));
}

#[test]
fn the_less_busy_of_two_by_rating() {
    let view = FarmView { peers: vec![peer(1, 200, 150)] };
    let go = |sessions| choose(&view, own(9, 100, sessions), &wanted(Affinity::None), |_| FAR, 5);
    assert_eq!(go(74).expect("a place").node, Node::Own);
    assert_eq!(go(76).expect("a place").node, Node::Peer(0));
    // Whoever was sent there since the last report counts.
    view.peers[0].placed.store(4, Relaxed);
    assert_eq!(go(76).expect("a place").node, Node::Own);
}

#[test]
fn affinity_prefers_or_insists() {
    let view = FarmView { peers: vec![peer(1, 100, 900), peer(2, 100, 0)] };
    let first_near = |p: &PeerView| if p.name == "n1" { NEAR } else { FAR };
    let place = |affinity, own: Own| choose(&view, own, &wanted(affinity), first_near, 3);
    assert_eq!(place(Affinity::None, own(9, 100, 0)).map(|p| p.far), Ok(false));
    let best = place(Affinity::BestEffort, own(9, 100, 0)).expect("a place");
    assert_eq!((best.node, best.far), (Node::Peer(0), false), "near, however busy");
    let none_near = |_: &PeerView| FAR;
    let best = choose(&view, own(9, 100, 0), &wanted(Affinity::BestEffort), none_near, 3);
    assert!(best.expect("anywhere").far);
    assert_eq!(
        choose(&view, own(9, 100, 0), &wanted(Affinity::Fixed), none_near, 3),
        Err(NoPlace::Subnet)
    );
    assert_eq!(place(Affinity::Fixed, own(9, 100, 0)).expect("near").node, Node::Peer(0));
    // The list too stays inside, the standby first of all.
    let found = Candidates::of(&view, Some(own(9, 100, 0)), &wanted(Affinity::Fixed), first_near);
    let list = found.list(Some(Node::Peer(0)), &mut steady(1));
    assert_eq!(list.as_slice(), [view.peers[0].entry()]);
}

#[test]
fn full_boot_slots_come_last_and_only_then_it_is_later() {
    let full = Load { boot_slots_in_use: 5, boot_limit: 5, ..Load::default() };
    let view =
        FarmView { peers: vec![PeerView { load: full, ..peer(1, 100, 0) }, peer(2, 100, 50)] };
    let any = wanted(Affinity::None);
    let busy = Own { boot_full: true, ..own(9, 100, 0) };
    assert_eq!(picks(&view, busy, &any, |_| FAR), [Node::Peer(1)]);
    let near = |p: &PeerView| if p.name == "n1" { NEAR } else { FAR };
    let placed = choose(&view, busy, &wanted(Affinity::BestEffort), near, 1).expect("a place");
    assert_eq!((placed.node, placed.far), (Node::Peer(1), true), "a free slot before nearness");
    assert_eq!(choose(&view, busy, &wanted(Affinity::Fixed), near, 1), Err(NoPlace::BootSlots));
    // Whoever goes on needs no slot.
    let going_on = Wanted { boot: false, ..any };
    assert_eq!(picks(&view, busy, &going_on, |_| FAR), [Node::Own, Node::Peer(0)]);
    // Those on their way count as booting.
    let view = FarmView {
        peers: vec![PeerView { load: Load { boot_slots_in_use: 3, ..full }, ..peer(1, 100, 0) }],
    };
    assert!(choose(&view, busy, &any, |_| FAR, 1).is_ok());
    view.peers[0].placed.store(2, Relaxed);
    assert_eq!(choose(&view, busy, &any, |_| FAR, 1), Err(NoPlace::BootSlots));
}

#[test]
fn lists_name_the_chosen_the_standby_the_rest_the_unknown_and_the_leaving() {
    let mut peers: Vec<PeerView> = (1..=5).map(|n| peer(n, 100, u32::from(n) * 100)).collect();
    peers.push(PeerView { state: PeerState::Unknown, ..peer(6, 100, 0) });
    peers.push(PeerView { versions: Arc::new([]), ..peer(7, 100, 0) });
    peers.push(PeerView { state: PeerState::Down, ..peer(8, 100, 0) });
    let view = FarmView { peers };
    let leaving = Own { drain: DrainState::Stopping, ..own(9, 100, 0) };
    let any = wanted(Affinity::None);
    let mut standbys = [0u32; 8];
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..1000 {
        let found = Candidates::of(&view, Some(leaving), &any, |_| FAR);
        let list = found.list(Some(Node::Peer(2)), &mut steady(seed));
        let at: Vec<usize> = list
            .as_slice()
            .iter()
            .map(|entry| view.peers.iter().position(|p| p.entry() == *entry).unwrap_or(9))
            .collect();
        assert_eq!((at.len(), at[0], at[7], at[8]), (9, 2, 7, 9), "the one that is down: {at:?}");
        assert!(at[1..5].iter().all(|&n| n < 5) && at[5..7].iter().all(|&n| n == 5 || n == 6));
        standbys[at[1]] += 1;
        orders.insert(at);
    }
    // The better of two: the busiest never, the least busy in half of the draws.
    assert_eq!(standbys[4], 0);
    assert!((430..570).contains(&standbys[0]), "{standbys:?}");
    assert!(orders.len() > 20);
    let notice = Candidates::of(&view, None, &any, |_| FAR).successors(&mut steady(1));
    assert_eq!(notice.count(), 5, "no unknown one while others are up");
    let unknown = FarmView { peers: view.peers[5..].to_vec() };
    let notice = Candidates::of(&unknown, None, &any, |_| FAR).successors(&mut steady(1));
    assert_eq!(notice.count(), 2);
}

#[test]
fn a_list_holds_sixteen_of_many() {
    let view = FarmView { peers: (1..=300).map(|n| peer(n, 100, 0)).collect() };
    let found = Candidates::of(&view, Some(own(999, 100, 0)), &wanted(Affinity::None), |_| FAR);
    let list = found.list(Some(Node::Own), &mut steady(1));
    assert_eq!((list.count(), list.as_slice()[0].login), (16, login(999).into()));
}

#[test]
fn successors_spread_by_rating() {
    let view = FarmView { peers: vec![peer(1, 100, 0), peer(2, 200, 0), peer(3, 100, 0)] };
    let mut firsts = [0u32; 3];
    for seed in 0..4000 {
        let found = Candidates::of(&view, None, &wanted(Affinity::None), |_| FAR);
        let list = found.successors(&mut steady(seed));
        assert_eq!(list.count(), 3);
        let first = view.peers.iter().position(|p| p.entry() == list.as_slice()[0]);
        firsts[first.expect("a peer")] += 1;
    }
    // Standard deviations are 27 and 32.
    assert!(firsts[0].abs_diff(1000) < 130 && firsts[1].abs_diff(2000) < 160, "{firsts:?}");
}

#[test]
fn the_content_that_most_hold() {
    let (a, b) = (ContentId([1; 32]), ContentId([2; 32]));
    let of = |ids: &[ContentId]| {
        let peers =
            ids.iter().zip(1..).map(|(&id, n)| PeerView { versions: held(id), ..peer(n, 100, 0) });
        FarmView { peers: peers.collect() }
    };
    assert_eq!(most_held(&of(&[]), "debian"), None);
    assert_eq!(most_held(&of(&[a, b, b]), "debian"), Some(b));
    assert_eq!(most_held(&of(&[b, a]), "debian"), Some(a), "all nodes answer alike");
    assert_eq!(most_held(&of(&[b, a]), "windows"), None);
    let mut view = of(&[a, a, b]);
    view.peers[0].state = PeerState::Unknown;
    view.peers[1].drain = DrainState::Maintenance;
    assert_eq!(most_held(&view, "debian"), Some(b));
}

/// A farm whose nodes all answer logins, each with reports about the others that are as old as the round.
struct Farm {
    ratings: Vec<u16>,
    sessions: Vec<u32>,
    views: Vec<FarmView>,
}

impl Farm {
    fn new(ratings: &[u16]) -> Farm {
        let count = ratings.len();
        Farm {
            ratings: ratings.to_vec(),
            sessions: vec![0; count],
            views: (0..count).map(|_| FarmView::default()).collect(),
        }
    }

    fn report(&mut self) {
        for me in 0..self.ratings.len() {
            let others = (0..self.ratings.len()).filter(|&n| n != me);
            let peers = others.map(|n| PeerView {
                placed: Arc::new(AtomicU32::new(0)),
                ..peer(u16::try_from(n).expect("few"), self.ratings[n], self.sessions[n])
            });
            self.views[me] = FarmView { peers: peers.collect() };
        }
    }

    /// A login at a node; `counted`: with the node's own placements since the report.
    fn login(&mut self, at: usize, seed: u64, counted: bool) {
        let id = u16::try_from(at).expect("few");
        let own = own(id, self.ratings[at], self.sessions[at]);
        let view = &self.views[at];
        let placed = choose(view, own, &wanted(Affinity::None), |_| FAR, seed).expect("a place");
        let node = match placed.node {
            Node::Own => at,
            Node::Peer(n) => {
                if counted {
                    view.peers[n].placed.fetch_add(1, Relaxed);
                }
                n + usize::from(n >= at)
            }
        };
        self.sessions[node] += 1;
    }

    /// The largest excess over the fair share, in percent of it.
    fn excess(&self) -> u32 {
        let total: u32 = self.sessions.iter().sum();
        let ratings: u32 = self.ratings.iter().map(|&r| u32::from(r)).sum();
        let fair = |n: usize| total * u32::from(self.ratings[n]) / ratings;
        let over = |n: usize| self.sessions[n].saturating_sub(fair(n)) * 100 / fair(n);
        (0..self.sessions.len()).map(over).max().unwrap_or(0)
    }
}

#[test]
fn a_thousand_logins_within_one_report_interval_spread_by_rating() {
    // Measured: 0, 1, 0 and 22 %. In the last farm one node is to take more than half, and is drawn less often than that.
    let farms =
        [(&[100, 200][..], 5), (&[100; 4], 5), (&[100, 100], 5), (&[50, 100, 200, 400], 30)];
    for (ratings, bound) in farms {
        let mut worst = 0;
        for seed in 0..20 {
            let mut farm = Farm::new(ratings);
            farm.report();
            for n in 0..1000u64 {
                farm.login(
                    usize::try_from(n).expect("small") % ratings.len(),
                    (seed << 32) + n,
                    true,
                );
            }
            worst = worst.max(farm.excess());
        }
        println!("{ratings:?}: at most {worst} % above the fair share");
        assert!(worst <= bound, "{ratings:?}: {worst} %");
        // All through one login node, which sees its own placements: closer still.
        let mut farm = Farm::new(ratings);
        farm.report();
        (0..1000).for_each(|n| farm.login(0, n, true));
        assert!(farm.excess() <= bound, "{ratings:?}: {:?}", farm.sessions);
    }
}

#[test]
fn without_own_placements_stale_reports_would_herd() {
    // What the count of own placements is for: the same logins without it pile up on whom the report showed empty.
    let mut farm = Farm::new(&[100, 100, 100, 100]);
    farm.sessions = vec![300, 300, 300, 0];
    farm.report();
    (0..1000).for_each(|n| farm.login(0, n, false));
    let herded = farm.excess();
    let mut farm = Farm::new(&[100, 100, 100, 100]);
    farm.sessions = vec![300, 300, 300, 0];
    farm.report();
    (0..1000).for_each(|n| farm.login(0, n, true));
    assert!(farm.excess() <= 5 && herded > 15, "{} and {herded}", farm.excess());
}
