//! Each planted mistake is seen: by an invariant, or by what a device gets. `--features mutations` switches them on.
#![cfg(feature = "mutations")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use diskstream_node::shard::Mutation;
use diskstream_node::view::{DrainState, PeerView};
use diskstream_wire::{LoginKind, Message};

use shard_support::device::Device;
use shard_support::{Setup, UNIT, World, addr};

fn planted(mutation: Mutation) -> World {
    let mut world = World::new(Setup::default());
    let shards = std::mem::take(&mut world.shards);
    world.shards = shards.into_iter().map(|shard| shard.with_mutation(Some(mutation))).collect();
    world
}

/// What a faithful node does in each of these is asserted by the tests of its own subject.
fn is_seen(scene: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(scene)).is_err()
}

#[test]
fn unpinning_twice_is_seen() {
    assert!(is_seen(|| {
        let mut world = planted(Mutation::UnpinTwice);
        Device::new(1).connect(&mut world).read_right(&mut world, 0, UNIT);
    }));
}

#[test]
fn a_foreign_tag_is_seen() {
    let mut world = planted(Mutation::AcceptForeignTag);
    let device = Device::new(1).connect(&mut world);
    let mut forger = Device { tag: device.tag ^ 1, ..device };
    let read = forger.read_message(0, UNIT);
    forger.send_read(&mut world, &read);
    world.run();
    assert!(matches!(world.mail[0].message(), Message::ReadData(_)), "bytes for a forger");
}

#[test]
fn an_answer_before_the_cookie_is_seen() {
    let mut world = planted(Mutation::AnswerBeforeCookie);
    let spoofed = Device { at: addr("198.51.100.7:53"), ..Device::new(1) };
    let mail = spoofed.ask_login(&mut world, |buf, d| d.login_start().encode(buf));
    assert!(mail[0].bytes.len() > diskstream_wire::LoginStart::BYTES, "more than it paid for");
}

#[test]
fn a_forgotten_waiter_is_seen() {
    assert!(is_seen(|| {
        let mut world = planted(Mutation::ForgetWaiter);
        Device::new(1).connect(&mut world).read(&mut world, 0, UNIT);
    }));
}

#[test]
fn a_forgotten_promotion_is_seen() {
    assert!(is_seen(|| {
        let mut world = planted(Mutation::ForgetPromoted);
        let standby = Device { kind: LoginKind::Standby, ..Device::new(1) };
        standby.connect_as(&mut world).read(&mut world, 0, UNIT);
    }));
}

#[test]
fn a_leaving_successor_is_seen() {
    let mut world = planted(Mutation::NameLeaving);
    let leaving = DrainState::Maintenance;
    let peer = PeerView { drain: leaving, ..world.peer("b", "10.0.0.2:6910", 0) };
    world.publish(&[peer]);
    let device = Device::new(1).connect(&mut world);
    world.drain(DrainState::Stopping, 15);
    let mail = world.mail_for(device.at);
    assert!(matches!(mail[0].message(), Message::Notice(n) if n.node_count == 1), "{mail:?}");
}
