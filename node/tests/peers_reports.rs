//! What nodes tell each other: load, drain state, and what they hold.

mod peers_support;

use std::sync::atomic::Ordering::Relaxed;

use diskstream_node::peers::OwnReport;
use diskstream_node::view::{DrainState, HeldVersion, Load, PeerView};
use diskstream_wire::ContentId;
use diskstream_wire::time::Nanos;
use peers_support::World;

fn held(count: usize) -> Vec<HeldVersion> {
    let one = |n: usize| HeldVersion {
        vdisk: format!("vdisk-{n:04}"),
        content_id: ContentId([u8::try_from(n % 250).expect("below 250"); 32]),
        eligible: true,
        sessions: 0,
    };
    (0..count).map(one).collect()
}

fn peer(world: &mut World, n: usize, other: &str) -> PeerView {
    let view = world.machine(n).view();
    view.peers.into_iter().find(|peer| peer.name == other).expect("it is a peer")
}

#[test]
fn load_rating_and_login_arrive_with_each_report_and_reset_what_was_placed() {
    let mut world = World::farm(1, 2);
    world.settle();
    let load = Load { sessions: 7, standbys: 3, boot_slots_in_use: 2, boot_limit: 500 };
    world.set_own(1, OwnReport { load, ..OwnReport::default() });
    let before = peer(&mut world, 0, "node-1");
    before.placed.store(5, Relaxed);
    world.run_for(Nanos::from_millis(1300));
    let after = peer(&mut world, 0, "node-1");
    assert_eq!(after.load, load);
    assert_eq!((after.placed.load(Relaxed), before.placed.load(Relaxed)), (0, 0));
    assert!(after.reported > before.reported);
    assert_eq!((after.rating, after.login), (100, peers_support::login(1)));
}

#[test]
fn a_drain_is_told_at_once_also_when_a_datagram_is_lost() {
    let mut world = World::farm(2, 16);
    world.settle();
    world.run_for(Nanos::from_secs(3));
    let own = |drain| OwnReport { drain, ..OwnReport::default() };
    let told = |drain| {
        move |world: &World| {
            let machines = world.nodes.iter().skip(1).filter_map(|node| node.machine.as_ref());
            !machines.into_iter().all(|machine| {
                machine.view().peers.iter().any(|p| p.name == "node-0" && p.drain == drain)
            })
        }
    };
    world.set_own(0, own(DrainState::Maintenance));
    let took = world.run_while(Nanos::from_secs(2), told(DrainState::Maintenance));
    assert!(took.is_some_and(|took| took <= Nanos::from_millis(10)), "{took:?}");
    world.loss_percent = 20;
    world.set_own(0, own(DrainState::Serving));
    let took = world.run_while(Nanos::from_secs(4), told(DrainState::Serving));
    assert!(took.is_some_and(|took| took <= Nanos::from_millis(1500)), "{took:?}");
}

#[test]
fn inventories_of_every_size_arrive_also_over_a_bad_network() {
    for (count, loss) in [(1, 0), (11, 0), (300, 0), (300, 20), (1024, 5)] {
        let mut world = World::farm(3, 2);
        world.settle();
        world.loss_percent = loss;
        world.jitter = Nanos::from_millis(20);
        world.set_own(1, OwnReport { versions: held(count), ..OwnReport::default() });
        let came = |world: &World| {
            let machine = world.nodes[0].machine.as_ref().expect("it runs");
            machine.view().peers[0].versions.len() != count
        };
        let took = world.run_while(Nanos::from_secs(30), came);
        assert!(took.is_some(), "{count} versions at {loss} % loss");
        let versions = peer(&mut world, 0, "node-1").versions;
        assert_eq!(*versions, *held(count));
    }
}

#[test]
fn a_version_that_loses_its_eligibility_is_known_within_a_round_trip_or_two() {
    let mut world = World::farm(4, 2);
    world.settle();
    let mut own = OwnReport { versions: held(3), ..OwnReport::default() };
    world.set_own(1, own.clone());
    world.run_for(Nanos::from_secs(2));
    let view = peer(&mut world, 0, "node-1");
    assert!(view.holds("vdisk-0002", ContentId([2; 32])));
    assert!(!view.holds("vdisk-0002", ContentId([3; 32])));
    own.versions[2].eligible = false;
    world.set_own(1, own.clone());
    world.run_for(Nanos::from_millis(10));
    assert!(!peer(&mut world, 0, "node-1").holds("vdisk-0002", ContentId([2; 32])));
    // Who uses it is not part of what it is: no inventory travels for that.
    let parts = world.machine(1).counters().inventories_out.get();
    own.versions[0].sessions = 9;
    world.set_own(1, own);
    world.run_for(Nanos::from_secs(2));
    assert_eq!(peer(&mut world, 0, "node-1").versions[0].sessions, 9);
    assert_eq!(world.machine(1).counters().inventories_out.get(), parts);
}
