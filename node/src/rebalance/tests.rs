//! Each guard by itself, and that a plan evens the load out without overshooting.

use std::sync::Arc;

use super::*;
use crate::view::{HeldVersion, PeerView};

const CONTENT: ContentId = ContentId([7; 32]);
const ON: Settings = Settings { enabled: true, trigger_percent: TRIGGER_PERCENT };

fn peer(n: u8, rating: u16, sessions: u32) -> PeerView {
    let held =
        HeldVersion { vdisk: "debian".to_owned(), content_id: CONTENT, eligible: true, sessions };
    PeerView {
        name: format!("n{n}"),
        login: ([10, 0, 0, n], 6910).into(),
        rating,
        state: PeerState::Up,
        drain: DrainState::Serving,
        versions: Arc::new([held]),
        ..PeerView::unknown("", ([10, 0, 0, n], 6910).into(), rating)
    }
}

fn own(sessions: u32) -> Own {
    Own { rating: 100, drain: DrainState::Serving, sessions, sessions_of_all: sessions, booting: 0 }
}

fn debian() -> Subject<'static> {
    Subject { name: "debian", content_id: CONTENT, affinity: Affinity::None, pinned: false }
}

fn farm(peers: &[PeerView]) -> FarmView {
    FarmView { peers: peers.to_vec() }
}

#[test]
fn each_guard_holds_back() {
    let view = farm(&[peer(2, 100, 0)]);
    let say = |own: &Own, vdisk: &Subject<'_>, settings: &Settings| {
        let skip = plan(&view, own, vdisk, settings).expect_err("held back");
        assert!(skip.to_string().len() > 20);
        skip.label()
    };
    let many = own(100);
    assert!(plan(&view, &many, &debian(), &ON).is_ok());
    assert_eq!(say(&many, &debian(), &Settings::default()), "off");
    assert_eq!(say(&many, &Subject { pinned: true, ..debian() }, &ON), "pinned");
    for affinity in [Affinity::BestEffort, Affinity::Fixed] {
        assert_eq!(say(&many, &Subject { affinity, ..debian() }, &ON), "subnet_affinity");
    }
    let leaving = Own { drain: DrainState::Maintenance, ..many };
    assert_eq!(say(&leaving, &debian(), &ON), "leaving");
    assert_eq!(say(&own(4), &debian(), &ON), "few_devices");
    assert_eq!(say(&own(9), &debian(), &ON), "few_on_average");
    assert!(plan(&view, &own(10), &debian(), &ON).is_ok());
    assert_eq!(say(&Own { booting: 21, ..many }, &debian(), &ON), "booting");
    assert!(plan(&view, &Own { booting: 20, ..many }, &debian(), &ON).is_ok());
}

#[test]
fn only_nodes_that_can_take_them_count() {
    let gone = PeerView { state: PeerState::Unknown, ..peer(2, 100, 0) };
    let leaving = PeerView { drain: DrainState::Stopping, ..peer(3, 100, 0) };
    let other = Subject { content_id: ContentId([8; 32]), ..debian() };
    assert_eq!(plan(&farm(&[gone, leaving]), &own(50), &debian(), &ON), Err(Skip::NoOtherNode));
    assert_eq!(plan(&farm(&[peer(2, 100, 0)]), &own(50), &other, &ON), Err(Skip::NoOtherNode));
}

#[test]
fn the_trigger_is_over_the_fair_share() {
    // 200 devices on two equal nodes: fair are 100, tolerated 125.
    let at = |own_sessions: u32, trigger_percent| {
        let settings = Settings { enabled: true, trigger_percent };
        let view = farm(&[peer(2, 100, 200 - own_sessions)]);
        plan(&view, &own(own_sessions), &debian(), &settings)
    };
    assert_eq!(at(125, 25), Err(Skip::Balanced { sessions: 125, fair: 100 }));
    let moved = at(126, 25).expect("over the trigger");
    assert_eq!((moved.count, moved.successors[0].devices), (26, 26));
    assert_eq!(at(110, 5).expect("a finer trigger").count, 10);
    assert!(at(90, 5).is_err());
}

#[test]
fn ratings_and_placements_under_way_are_counted_in() {
    // 400 devices; ratings 100 (own), 200, 100: fair are 100, 200, 100.
    let view = farm(&[peer(2, 200, 50), peer(3, 100, 90)]);
    let moved = plan(&view, &own(260), &debian(), &ON).expect("far over");
    assert_eq!(moved.count, 160);
    let shares: Vec<u32> = moved.successors.iter().map(|share| share.devices).collect();
    assert_eq!(shares, [150, 10]);
    // Whoever was sent there since its last report counts.
    view.peers[0].placed.store(60, Relaxed);
    let moved = plan(&view, &own(260), &debian(), &ON).expect("still over");
    let shares: Vec<u32> = moved.successors.iter().map(|share| share.devices).collect();
    assert_eq!((moved.count, shares), (145, vec![120, 25]));
}

#[test]
fn no_plan_overshoots() {
    let mut seed = 1u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut plans = 0;
    for _ in 0..20_000 {
        let small = |n: u64| u32::try_from(n).expect("small");
        let peers: Vec<PeerView> = (0..next(6))
            .map(|n| {
                peer(
                    2 + u8::try_from(n).expect("few"),
                    1 + u16::try_from(next(400)).expect("few"),
                    small(next(300)),
                )
            })
            .collect();
        let own =
            Own { rating: 1 + u16::try_from(next(400)).expect("few"), ..own(small(next(600))) };
        let Ok(moved) = plan(&farm(&peers), &own, &debian(), &ON) else { continue };
        plans += 1;
        let served: u32 = peers.iter().map(|p| p.versions[0].sessions).sum();
        let total = u64::from(own.sessions + served);
        let ratings: u64 =
            u64::from(own.rating) + peers.iter().map(|p| u64::from(p.rating)).sum::<u64>();
        let left = u64::from(own.sessions - moved.count);
        assert!(left * ratings >= total * u64::from(own.rating), "not below the fair share");
        assert!(moved.count > 0 && moved.count <= moved.successors.iter().map(|s| s.devices).sum());
        for share in &moved.successors {
            let peer = peers.iter().find(|p| p.entry() == share.node).expect("one of them");
            let after = u64::from(peer.versions[0].sessions + share.devices);
            assert!(after * ratings <= total * u64::from(peer.rating), "not above its fair share");
        }
    }
    assert!(plans > 1000, "{plans}");
}
