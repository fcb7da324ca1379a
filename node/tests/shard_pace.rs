//! A shard that may send only so fast: what is over the pace waits, in turn, and nothing is lost.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use diskstream_wire::{Flags, FragmentSize, KeepAlive, Message, Nanos};

use shard_support::device::Device;
use shard_support::{Setup, UNIT, World};

#[test]
fn what_is_over_the_pace_waits_and_all_of_it_comes() {
    // 10 MB in a second: 64 KiB leave at once, and then 10 KB in each millisecond.
    let mut world = World::new(Setup { pace: Some(10_000_000), ..Setup::default() });
    let mut device =
        Device { fragment_size: FragmentSize::B1376, ..Device::new(1) }.connect(&mut world);
    device.read_right(&mut world, 0, UNIT);
    world.pass(Nanos::from_millis(100));
    let reads: Vec<_> = (0..4)
        .flat_map(|_| [0, 15 * UNIT])
        .map(|at| device.read_message(at as u64, UNIT))
        .collect();
    let big: Vec<_> = (0..3).map(|_| device.read_message(0, 15 * UNIT)).collect();
    for read in big.iter().chain(&reads) {
        device.send_read(&mut world, read);
    }
    world.run();
    let first = world.mail_for(device.at);
    let wanted: u64 =
        big.iter().chain(&reads).map(|read| u64::from(read.wanted.count_ones())).sum();
    assert!((first.len() as u64) < wanted, "{} of {wanted} at once", first.len());
    assert!(world.counters(0).turns_paced.get() > 0);
    // A keep-alive is answered at once, and says that reads wait: its answer is no sign that they are lost.
    assert!(is_queued(&mut world, &device));
    // Time passes, and each due moment brings something.
    let mut came = first.len() as u64;
    let began = world.now;
    while came < wanted {
        let due = world.shards[0].next_deadline();
        assert!(due > world.now && due < world.now + Nanos::from_millis(50), "a wait that ends");
        world.pass(due.since(world.now));
        let more = world.mail_for(device.at).len() as u64;
        assert!(more > 0, "a due moment is one at which something may be sent");
        came += more;
    }
    let bytes = wanted * 1452;
    let least = Nanos((bytes - 3 * 65_536) * 100);
    assert!(world.now.since(began) >= least, "{:?} for {bytes} bytes", world.now.since(began));
    assert!(!is_queued(&mut world, &device));
    world.assert_at_rest();
}

/// What the answer to a keep-alive says.
fn is_queued(world: &mut World, device: &Device) -> bool {
    let mail = device.ask(world, |buf, d| {
        KeepAlive { tag: d.tag, session: d.session, ..KeepAlive::default() }.encode(buf)
    });
    let Message::KeepAliveReply(m) = mail[0].message() else { panic!("{:?}", mail[0]) };
    m.flags.has(Flags::QUEUED)
}
