//! What 64 nodes cost each: bytes counted exactly; processor time measured by
//! `cargo test --release -p diskstream-node --test peers_cost -- --ignored --nocapture`.

mod peers_support;

use diskstream_node::peers::OwnReport;
use diskstream_node::view::HeldVersion;
use diskstream_wire::ContentId;
use diskstream_wire::time::Nanos;
use peers_support::World;

const NODES: usize = 64;

fn farm() -> World {
    let mut world = World::farm(1, NODES);
    let held = |n: u8| HeldVersion {
        vdisk: format!("vdisk-{n}"),
        content_id: ContentId([n; 32]),
        eligible: true,
        sessions: 10,
    };
    for n in 0..NODES {
        let versions = (0..20).map(held).collect();
        world.set_own(n, OwnReport { versions, ..OwnReport::default() });
    }
    world.settle();
    world.run_for(Nanos::from_secs(3));
    world
}

/// Bits that one node sends in a second, UDP and IPv4 headers included.
fn bits_per_node_and_second(world: &World, seconds: u64) -> u64 {
    (world.bytes + 28 * world.datagrams) * 8 / NODES as u64 / seconds
}

#[test]
fn sixty_four_nodes_cost_each_far_less_than_a_megabit() {
    let mut world = farm();
    (world.bytes, world.datagrams) = (0, 0);
    world.run_for(Nanos::from_secs(10));
    let calm = bits_per_node_and_second(&world, 10);
    let datagrams = world.datagrams / NODES as u64 / 10;
    (world.bytes, world.datagrams) = (0, 0);
    world.crash(0);
    world.run_for(Nanos::from_secs(5));
    let lost = bits_per_node_and_second(&world, 5);
    println!(
        "64 nodes: {calm} bit/s and {datagrams} datagrams/s sent by each; {lost} bit/s while one is lost"
    );
    assert!(calm < 250_000 && lost < 500_000, "{calm} and {lost} bit/s");
    assert!((1..NODES).all(|n| world.sees(n, 0, diskstream_node::view::PeerState::Down)));
}

/// What this thread had of a processor: others on the machine do not count.
fn processor_time() -> Nanos {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split_whitespace().next().expect("three numbers");
    Nanos(first.parse().expect("nanoseconds"))
}

#[test]
#[ignore = "a measurement: run it alone, with --release"]
fn processor_time_of_sixty_four_nodes() {
    let mut world = farm();
    (world.bytes, world.datagrams) = (0, 0);
    let (start, seconds) = (processor_time(), 60);
    world.run_for(Nanos::from_secs(seconds));
    let took = processor_time().since(start);
    let per_node = took.0 as f64 / 1e9 / seconds as f64 / NODES as f64 * 100.0;
    println!(
        "{seconds} s of {NODES} nodes took {} ms of processor time, the simulated network included: {per_node:.3} % of a core and {} bit/s each, {} datagrams in all",
        took.as_millis(),
        bits_per_node_and_second(&world, seconds),
        world.datagrams
    );
    assert!(per_node < 1.0);
}
