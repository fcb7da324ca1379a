//! A node that is told to stop: notices both ways until they are acknowledged, marks, successors, the end.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use diskstream_node::shard::Input;
use diskstream_wire::{
    BusyReason, CloseReason, Endpoint, LoginKind, Message, Nanos, NodeEntry, Notice, NoticeAck,
    NoticeReason, SessionClose, node_entries,
};

use shard_support::device::Device;
use shard_support::{BLOCK, Mail, Setup, UNIT, World, addr};

fn successor() -> NodeEntry {
    NodeEntry { login: Endpoint::from(addr("10.0.0.2:6910")), rating: 100, ..Default::default() }
}

fn drain(world: &mut World, seconds: u64, successors: &[NodeEntry]) {
    let deadline = world.now + Nanos::from_secs(seconds);
    for shard in 0..world.shards.len() {
        world.step(shard, Input::Drain { deadline, successors });
    }
    world.run();
}

fn notice(mail: &Mail) -> (Notice, Vec<NodeEntry>) {
    let decoded = mail.decode();
    let Message::Notice(notice) = decoded.message else { panic!("{:?}", decoded.message) };
    let mut nodes = Vec::new();
    node_entries(decoded.tail, notice.node_count, |entry| nodes.push(entry));
    (notice, nodes)
}

fn close(world: &mut World, device: &Device) {
    let close = SessionClose {
        tag: device.tag,
        session: device.session,
        reason: CloseReason::Moved,
        ..Default::default()
    };
    device.ask(world, |buf, _| close.encode(buf));
}

#[test]
fn idle_devices_too_are_told_both_ways_until_they_acknowledge() {
    let mut world = World::new(Setup::default());
    let idle = Device::new(1).connect(&mut world);
    let notice_port = addr("10.0.1.1:6902");
    drain(&mut world, 15, &[successor()]);
    assert!(!world.shards[0].drained() && world.shards[0].draining());
    for to in [idle.at, notice_port] {
        let mail = world.mail_for(to);
        let (said, nodes) = notice(&mail[0]);
        assert_eq!((said.tag, said.reason), (idle.tag, NoticeReason::Stopping));
        assert_eq!((said.deadline_ms, nodes), (15_000, vec![successor()]));
        assert_eq!(mail.len(), 1);
    }
    // Again and again, more and more slowly.
    let mut times = Vec::new();
    for ms in 0..3000 {
        world.pass(Nanos::from_millis(1));
        if !world.mail_for(notice_port).is_empty() {
            times.push(ms + 1);
            assert_eq!(world.mail_for(idle.at).len(), 1);
        }
    }
    assert_eq!(times, [50, 150, 350, 750, 1550, 2350]);
    let wrong =
        NoticeAck { tag: idle.tag, session: idle.session, sequence: 99, ..Default::default() };
    assert!(idle.ask(&mut world, |buf, _| wrong.encode(buf)).is_empty());
    let right = NoticeAck { sequence: 1, ..wrong };
    let from_port = Device { at: notice_port, ..idle.clone() };
    assert!(from_port.ask(&mut world, |buf, _| right.encode(buf)).is_empty());
    assert_eq!(world.counters(0).notices_acked.get(), 1);
    world.pass(Nanos::from_secs(2));
    assert!(world.mail.is_empty(), "acknowledged");
    close(&mut world, &idle);
    world.run();
    assert!(world.shards[0].drained());
    assert_eq!(world.event("drain_finished"), 1);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn reads_go_on_with_a_mark_until_everybody_has_left() {
    let mut world = World::new(Setup::default());
    let mut one = Device::new(1).connect(&mut world);
    let two = Device::new(2).connect(&mut world);
    assert!(!one.read_right(&mut world, 0, UNIT).draining);
    drain(&mut world, 15, &[successor()]);
    world.mail.clear();
    for n in 0..8 {
        let reply = one.read_right(&mut world, n * BLOCK as u64, BLOCK);
        assert!(reply.draining);
    }
    close(&mut world, &one);
    assert!(!world.shards[0].drained());
    close(&mut world, &two);
    world.run();
    assert!(world.shards[0].drained());
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn the_deadline_ends_it_for_those_who_stay() {
    let mut world = World::new(Setup::default());
    let stays = Device::new(1).connect(&mut world);
    let mut unconfirmed = Device::new(2);
    unconfirmed.login(&mut world);
    unconfirmed.try_start(&mut world);
    drain(&mut world, 2, &[]);
    assert_eq!(world.shards[0].sessions().count(), 1, "who never confirmed is forgotten");
    assert_eq!(world.mail_for(unconfirmed.at).len(), 0);
    world.pass(Nanos::from_millis(1999));
    assert!(!world.shards[0].drained());
    world.mail.clear();
    world.pass(Nanos::from_millis(1));
    assert!(world.shards[0].drained());
    let mail = world.mail_for(stays.at);
    let last = mail.last().expect("told").message();
    let Message::SessionClosed(closed) = last else { panic!("{last:?}") };
    assert_eq!((closed.tag, closed.reason), (stays.tag, CloseReason::EndedByNode));
    assert_eq!(world.counters(0).sessions_closed_drained.get(), 1);
    world.mail.clear();
    world.assert_at_rest();
}

#[test]
fn newcomers_go_to_a_successor_or_wait() {
    let mut world = World::new(Setup { boot_limit: 1, ..Setup::default() });
    let mut early = Device::new(3);
    early.login(&mut world);
    let _stays = Device::new(1);
    drain(&mut world, 15, &[]);
    let mail = Device::new(1).try_login(&mut world);
    let Message::LoginBusy(busy) = mail.message() else { panic!("{mail:?}") };
    assert_eq!(busy.reason, BusyReason::Draining);
    let mail = early.try_start(&mut world);
    assert!(matches!(mail.message(), Message::LoginBusy(b) if b.reason == BusyReason::Draining));
    // A successor turned up.
    drain(&mut world, 15, &[successor()]);
    let mut device = Device::new(1);
    let transfer = device.login(&mut world);
    assert_eq!(transfer.node, successor().login);
    assert_eq!(transfer.node_count, 2, "the node itself comes last: its ticket outlives the drain");
    device.kind = LoginKind::Reconnect;
    device.login(&mut world);
    assert_eq!(world.counters(0).draining.get(), 1);
}

#[test]
fn nobody_there_means_done_at_once() {
    let mut world = World::new(Setup { shards: 2, ..Setup::default() });
    assert_eq!(world.shards[0].next_deadline(), Nanos::NEVER);
    drain(&mut world, 15, &[]);
    assert!(world.shards.iter().all(|shard| shard.drained()));
    assert_eq!(world.event("drain_started") + world.event("drain_finished"), 4);
}

#[test]
fn many_notices_wait_for_plans_and_none_is_forgotten() {
    let mut world = World::new(Setup::default());
    let devices: Vec<_> = (1..=60).map(|n| Device::new(n).connect(&mut world)).collect();
    world.sends_run = false;
    drain(&mut world, 15, &[successor()]);
    assert_eq!(world.mail.len(), 64, "as many as there are plans");
    world.complete_sends();
    world.sends_run = true;
    world.pass(Nanos::from_millis(1));
    for device in &devices {
        assert_eq!(world.mail_for(device.at).len(), 1, "{}", device.mac);
    }
    assert_eq!(world.counters(0).sends_no_plan.get(), 0);
}

#[test]
fn a_node_ends_while_its_disk_is_still_reading() {
    let mut world = World::new(Setup::default());
    world.disk_runs = false;
    let mut device = Device::new(1).connect(&mut world);
    let read = device.read_message(0, UNIT);
    device.send_read(&mut world, &read);
    world.run();
    drain(&mut world, 2, &[]);
    world.pass(Nanos::from_secs(3));
    assert!(world.shards[0].drained());
    assert_eq!(world.disk.len(), 1, "the disk is slower than the drain");
    drop(world);

    // A node that is stopped at once, with replies queued.
    let mut world = World::new(Setup::default());
    world.sends_run = false;
    let mut device = Device::new(1).connect(&mut world);
    let read = device.read_message(0, UNIT);
    device.send_read(&mut world, &read);
    drop(world);
}
