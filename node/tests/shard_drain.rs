//! A node that is told to stop: notices both ways until they are acknowledged, marks, successors, the end.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_node::rebalance::Share;
use diskstream_node::shard::{Input, Limits};
use diskstream_node::view::{DrainState, PeerState, PeerView};
use diskstream_wire::{
    BusyReason, CloseReason, Endpoint, LoginKind, Message, Nanos, NodeEntry, Notice, NoticeAck,
    NoticeReason, ReadErrorCode, SessionClose, node_entries,
};

use shard_support::device::Device;
use shard_support::{BLOCK, Mail, Setup, UNIT, World, addr};

fn successor() -> NodeEntry {
    NodeEntry { login: Endpoint::from(addr("10.0.0.2:6910")), rating: 100, ..Default::default() }
}

/// A node that is up and holds the same, which devices can go to.
fn with_successor(world: &World) {
    world.publish(&[world.peer("b", "10.0.0.2:6910", 0)]);
}

fn drain(world: &mut World, seconds: u64) {
    world.drain(DrainState::Stopping, seconds);
}

fn drain_by(world: &mut World, state: DrainState, time: Nanos) {
    let deadline = world.now + time;
    for index in 0..world.shards.len() {
        world.step(index, Input::Drain { state, deadline });
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
    with_successor(&world);
    drain(&mut world, 15);
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
fn a_bad_block_takes_a_vdisk_out_of_service_unless_it_is_the_last_copy() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    let entry = Arc::clone(world.shared.vdisk(0));
    world.image[5 * BLOCK] ^= 1;
    entry.last_copy.store(true, Relaxed);
    let bad = |world: &mut World, device: &mut Device| device.read(world, 5 * BLOCK as u64, UNIT);
    assert_eq!(bad(&mut world, &mut device).errors, [ReadErrorCode::StoreError]);
    world.pass(Nanos::from_secs(2));
    assert!(entry.is_eligible() && entry.damaged.load(Relaxed));
    assert_eq!(world.counters(0).notices_sent.get(), 0, "nobody is told to go nowhere");
    device.read_right(&mut world, 0, UNIT);
    // There is a sound copy elsewhere.
    entry.last_copy.store(false, Relaxed);
    assert_eq!(bad(&mut world, &mut device).errors, [ReadErrorCode::StoreError]);
    assert!(!entry.is_eligible());
    world.pass(Nanos::from_secs(2));
    let told = world.counters(0).notices_sent.get();
    assert!(told > 0);
    world.mail.clear();
    // It is gone, and this node takes devices again: nobody is told to leave any more.
    entry.eligible.store(true, Relaxed);
    world.pass(Nanos::from_secs(2));
    world.mail.clear();
    let told = world.counters(0).notices_sent.get();
    world.pass(Nanos::from_secs(10));
    assert_eq!(world.counters(0).notices_sent.get(), told);
    assert!(!device.read_right(&mut world, 0, UNIT).draining);
}

#[test]
fn reads_go_on_with_a_mark_until_everybody_has_left() {
    let mut world = World::new(Setup::default());
    let mut one = Device::new(1).connect(&mut world);
    let two = Device::new(2).connect(&mut world);
    assert!(!one.read_right(&mut world, 0, UNIT).draining);
    with_successor(&world);
    drain(&mut world, 15);
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
    drain(&mut world, 2);
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
    drain(&mut world, 15);
    let mail = Device::new(1).try_login(&mut world);
    let Message::LoginBusy(busy) = mail.message() else { panic!("{mail:?}") };
    assert_eq!(busy.reason, BusyReason::Draining);
    let mail = early.try_start(&mut world);
    assert!(matches!(mail.message(), Message::LoginBusy(b) if b.reason == BusyReason::Draining));
    // A successor turned up.
    with_successor(&world);
    drain(&mut world, 15);
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
    drain(&mut world, 15);
    assert!(world.shards.iter().all(|shard| shard.drained()));
    assert_eq!(world.event("drain_started") + world.event("drain_finished"), 4);
}

#[test]
fn devices_are_told_one_after_the_other_and_marked_when_they_are() {
    let mut world = World::new(Setup::default());
    let mut devices: Vec<_> = (1..=60).map(|n| Device::new(n).connect(&mut world)).collect();
    with_successor(&world);
    drain(&mut world, 15);
    let mut told = vec![false; devices.len()];
    for part in 1..=6 {
        for (device, told) in devices.iter().zip(&mut told) {
            *told |= !world.mail_for(device.at).is_empty();
        }
        assert_eq!(told.iter().filter(|&&told| told).count(), 10 * part);
        for (device, &told) in devices.iter_mut().zip(&told) {
            assert_eq!(device.read_right(&mut world, 0, UNIT).draining, told);
        }
        world.mail.clear();
        world.pass(Nanos::from_millis(5));
    }
    // A deadline that is near is kept: half of the time is for telling.
    let mut world = World::new(Setup::default());
    let devices: Vec<_> = (1..=60).map(|n| Device::new(n).connect(&mut world)).collect();
    with_successor(&world);
    drain_by(&mut world, DrainState::Stopping, Nanos::from_millis(20));
    (0..10).for_each(|_| world.pass(Nanos::from_millis(1)));
    assert!(devices.iter().all(|device| !world.mail_for(device.at).is_empty()));
}

#[test]
fn a_stop_after_maintenance_takes_no_mark_back() {
    let mut world = World::new(Setup::default());
    let mut devices: Vec<_> = (1..=60).map(|n| Device::new(n).connect(&mut world)).collect();
    with_successor(&world);
    world.drain(DrainState::Maintenance, 15);
    (0..8).for_each(|_| world.pass(Nanos::from_millis(5)));
    let mut marked = |world: &mut World| {
        devices.iter_mut().map(|d| d.read_right(world, 0, UNIT)).filter(|r| r.draining).count()
    };
    assert_eq!(marked(&mut world), 60);
    world.drain(DrainState::Stopping, 15);
    assert_eq!(marked(&mut world), 60);
    assert_eq!(world.counters(0).notices_expired.get(), 0, "they are told the new reason");
}

#[test]
fn many_notices_wait_for_plans_and_none_is_forgotten() {
    let mut world = World::new(Setup::default());
    let devices: Vec<_> = (1..=60).map(|n| Device::new(n).connect(&mut world)).collect();
    world.sends_run = false;
    with_successor(&world);
    drain_by(&mut world, DrainState::Maintenance, Nanos::from_millis(10));
    assert_eq!(world.mail.len(), 34, "half of the plans are the reads'");
    world.complete_sends();
    world.sends_run = true;
    (0..4).for_each(|_| world.pass(Nanos::from_millis(5)));
    for device in &devices {
        assert_eq!(world.mail_for(device.at).len(), 1, "{}", device.mac);
    }
    assert_eq!(world.counters(0).sends_no_plan.get(), 0);
}

/// Device `n` of thousands.
fn one_of_many(n: u32) -> Device {
    let [_, a, b, c] = n.to_be_bytes();
    Device {
        mac: diskstream_wire::Mac([2, 7, 0, a, b, c]),
        at: std::net::SocketAddr::from(([10, 7, b, c], 6905)),
        nonce: [b ^ c; 16],
        ..Device::new(1)
    }
}

#[test]
fn four_thousand_notices_leave_room_for_reads() {
    const DEVICES: u32 = 4000;
    let limits = Limits { sessions_max: 4096, ..Limits::default() };
    let mut world = World::new(Setup { limits, boot_limit: 0, ..Setup::default() });
    let mut reader = Device::new(200).connect(&mut world);
    reader.read_right(&mut world, 0, UNIT);
    for n in 0..DEVICES {
        let mut device = one_of_many(n);
        device.connect_quietly(&mut world);
    }
    let peers: Vec<_> =
        (2..10).map(|n| world.peer(&format!("n{n}"), &format!("10.0.0.{n}:6910"), 0)).collect();
    world.publish(&peers);
    let state = DrainState::Stopping;
    let deadline = world.now + Nanos::from_secs(15);
    world.mail.clear();
    world.step(0, Input::Drain { state, deadline });
    let c = world.counters(0);
    let (mut turns, mut most) = (0u64, 0);
    // Turn by turn, as on a ring: each may tell a few, and answers a read in the same turn. 2,000 devices a second are told for the
    // first time; nobody answers, so that many are told again meanwhile.
    let began = world.now;
    while world.now.since(began) < Nanos::from_millis(2100) {
        let before = c.notices_sent.get();
        let read = reader.read_message(0, UNIT);
        reader.send_read(&mut world, &read);
        world.turn();
        most = most.max(c.notices_sent.get() - before);
        let mail = world.mail_for(reader.at);
        assert!(reader.assemble(&read, &mail).complete, "turn {turns} served no read");
        turns += 1;
        world.now = world.now + Nanos::from_millis(1);
    }
    let told: std::collections::BTreeSet<_> =
        world.mail.iter().filter(|mail| mail.to.port() == 6902).map(|mail| mail.to).collect();
    assert!(told.len() as u32 >= DEVICES, "{} of {DEVICES} told", told.len());
    println!("{DEVICES} devices told in {turns} turns, at most {most} datagrams in one");
    assert!(most <= 64, "{most} datagrams in one turn");
    // They name all successors, in an order of their own.
    let mut firsts = std::collections::BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for mail in world.mail.iter().filter(|mail| mail.to.port() == 6902) {
        let (_, nodes) = notice(mail);
        assert_eq!(nodes.len(), peers.len());
        if !seen.insert(mail.to) {
            continue;
        }
        *firsts.entry(format!("{:?}", nodes[0].login)).or_insert(0u32) += 1;
    }
    assert!(firsts.len() == 8 && firsts.values().all(|n| (400..600).contains(n)), "{firsts:?}");
    // Nobody moves: at the deadline all are told that it is over, a few in each turn too.
    world.mail.clear();
    world.now = deadline;
    world.run();
    assert!(world.shards[0].drained());
    let told = world.mail.iter().filter(|m| matches!(m.message(), Message::SessionClosed(_)));
    assert_eq!(told.count() as u32, DEVICES + 1);
    assert_eq!(c.notices_expired.get(), u64::from(DEVICES) + 1);
}

#[test]
fn a_repeated_notice_names_the_same_order() {
    let mut world = World::new(Setup::default());
    let device = Device::new(1).connect(&mut world);
    let peers: Vec<_> =
        (2..10).map(|n| world.peer(&format!("n{n}"), &format!("10.0.0.{n}:6910"), 0)).collect();
    world.publish(&peers);
    drain(&mut world, 15);
    let (_, first) = notice(&world.mail_for(device.at)[0]);
    world.pass(Nanos::from_millis(50));
    assert_eq!(notice(&world.mail_for(device.at)[0]).1, first);
    // One of them went down, another holds other bytes by now, a third leaves too: they are named no more.
    let mut later = peers.clone();
    later[0].state = PeerState::Down;
    later[1].versions = Arc::new([]);
    later[2].drain = DrainState::Maintenance;
    later[3].state = PeerState::Unknown;
    world.publish(&later);
    world.pass(Nanos::from_millis(100));
    let (_, rest) = notice(&world.mail_for(device.at)[0]);
    assert_eq!(rest.len(), 4);
    let left: Vec<_> = later[4..].iter().map(PeerView::entry).collect();
    assert!(rest.iter().all(|entry| left.contains(entry)));
    // Better one that may be there than none.
    later.iter_mut().for_each(|peer| peer.state = PeerState::Unknown);
    world.publish(&later);
    world.pass(Nanos::from_millis(200));
    assert_eq!(notice(&world.mail_for(device.at)[0]).1.len(), 7);
}

#[test]
fn standbys_are_told_but_hold_nothing_up() {
    let mut world = World::new(Setup::default());
    with_successor(&world);
    let serving = Device::new(1).connect(&mut world);
    let standby = Device { kind: LoginKind::Standby, ..Device::new(2) }.connect_as(&mut world);
    drain(&mut world, 15);
    assert_eq!(notice(&world.mail_for(standby.at)[0]).0.reason, NoticeReason::Stopping);
    close(&mut world, &serving);
    world.run();
    assert!(world.shards[0].drained(), "nobody reads here any more");
    let last = world.mail_for(standby.at).last().expect("told").message();
    assert!(matches!(last, Message::SessionClosed(_)), "{last:?}");
    assert_eq!(world.counters(0).notices_expired.get(), 2);
}

#[test]
fn maintenance_keeps_those_who_stay_and_ends_with_resume() {
    let mut world = World::new(Setup::default());
    with_successor(&world);
    let mut stays = Device::new(1).connect(&mut world);
    let moves = Device::new(2).connect(&mut world);
    world.drain(DrainState::Maintenance, 15);
    assert_eq!(world.shared.own.drain(), DrainState::Maintenance);
    close(&mut world, &moves);
    // Logins are answered, and lead elsewhere.
    assert_eq!(Device::new(3).login(&mut world).node, successor().login);
    world.mail.clear();
    assert!(matches!(stays.try_start(&mut world).message(), Message::LoginBusy(_)));
    (0..20).for_each(|_| world.pass(Nanos::from_secs(1)));
    assert!(!world.shards[0].drained() && world.event("drain_finished") == 1);
    assert!(world.events.iter().any(|e| {
        e.to_string().contains("1 devices had not moved at the deadline: 02:00:00:00:00:01;")
    }));
    assert!(world.event("drain_progress") >= 10, "once a second");
    assert!(stays.read_right(&mut world, 0, UNIT).draining, "still served");
    world.mail.clear();
    world.step(0, Input::Resume);
    world.run();
    assert_eq!(world.shared.own.drain(), DrainState::Serving);
    assert!(!stays.read_right(&mut world, 0, UNIT).draining);
    world.pass(Nanos::from_secs(5));
    assert!(world.mail.is_empty(), "no more notices: {:?}", world.mail);
    assert_eq!((world.event("resumed"), world.counters(0).draining.get()), (1, 0));
    Device::new(4).connect(&mut world);
    // A stop is for good, also out of maintenance.
    world.drain(DrainState::Maintenance, 15);
    drain(&mut world, 15);
    world.drain(DrainState::Maintenance, 1);
    world.step(0, Input::Resume);
    world.pass(Nanos::from_secs(14));
    assert_eq!(world.shared.own.drain(), DrainState::Stopping);
    assert!(!world.shards[0].drained());
    world.pass(Nanos::from_secs(1));
    assert!(world.shards[0].drained());
    assert_eq!(world.counters(0).sessions_closed_drained.get(), 2);
}

#[test]
fn the_end_of_maintenance_keeps_nobody_at_a_vdisk_that_was_changed() {
    let mut world = World::new(Setup::default());
    with_successor(&world);
    let device = Device::new(1).connect(&mut world);
    world.drain(DrainState::Maintenance, 15);
    world.step(0, Input::VdiskChanged { vdisk: 0 });
    world.mail.clear();
    world.step(0, Input::Resume);
    world.run();
    world.pass(Nanos::from_millis(1));
    let told = notice(world.mail_for(device.at).first().expect("told")).0.reason;
    assert_eq!(told, NoticeReason::VdiskIneligible);
}

#[test]
fn a_drain_whose_patience_is_taken_away_tells_those_who_are_left() {
    let mut world = World::new(Setup::default());
    with_successor(&world);
    let device = Device::new(1).connect(&mut world);
    drain(&mut world, 600);
    world.pass(Nanos::from_secs(5));
    assert!(!world.shards[0].drained());
    drain(&mut world, 0);
    world.run();
    let last = world.mail_for(device.at).last().expect("told").message();
    assert!(matches!(last, Message::SessionClosed(_)), "{last:?}");
    assert!(world.shards[0].drained());
}

#[test]
fn two_seconds_are_enough_where_nobody_can_go_anywhere() {
    let mut world = World::new(Setup::default());
    let _stays = Device::new(1).connect(&mut world);
    drain(&mut world, 15);
    world.pass(Nanos::from_millis(1999));
    assert!(!world.shards[0].drained());
    world.pass(Nanos::from_millis(1));
    assert!(world.shards[0].drained());
    // With a successor, even one that may be down, the deadline is the operator's.
    let mut world = World::new(Setup::default());
    let unknown = PeerView { state: PeerState::Unknown, ..world.peer("b", "10.0.0.2:6910", 0) };
    world.publish(&[unknown]);
    let _stays = Device::new(1).connect(&mut world);
    drain(&mut world, 15);
    world.pass(Nanos::from_millis(14_999));
    assert!(!world.shards[0].drained());
    world.pass(Nanos::from_millis(1));
    assert!(world.shards[0].drained());
}

fn rebalance(world: &mut World, count: u32, successors: &[Share]) {
    world.step(0, Input::Rebalance { vdisk: 0, count, successors });
    world.run();
}

#[test]
fn the_longest_idle_make_room_and_are_then_left_alone() {
    let mut world = World::new(Setup::default());
    with_successor(&world);
    let mut devices: Vec<_> = (1..=8).map(|n| Device::new(n).connect(&mut world)).collect();
    world.pass(Nanos::from_secs(20));
    devices[..5].iter_mut().for_each(|device| drop(device.read_right(&mut world, 0, UNIT)));
    world.pass(Nanos::from_millis(100));
    let share = Share { node: successor(), devices: 3 };
    rebalance(&mut world, 3, &[share]);
    let c = world.counters(0);
    assert_eq!(c.rebalance_told.get(), 3);
    for device in &devices[5..] {
        let (said, nodes) = notice(&world.mail_for(device.at)[0]);
        assert_eq!((said.reason, nodes), (NoticeReason::Rebalance, vec![successor()]));
        assert_eq!(said.deadline_ms, 15_000);
    }
    world.mail.retain(|mail| mail.to.port() != 6902);
    assert!(world.mail.is_empty(), "the others are not told: {:?}", world.mail);
    // There is time: the mark would make them move at once.
    assert!(!devices[5].read_right(&mut world, 0, UNIT).draining);
    // Told again within ten minutes: others, and when there are none, nobody.
    rebalance(&mut world, 6, &[share]);
    assert_eq!(c.rebalance_told.get(), 3 + 5);
    rebalance(&mut world, 8, &[share]);
    assert_eq!(c.rebalance_told.get(), 8);
    // After a while it is given up.
    world.pass(Nanos::from_secs(15));
    assert_eq!(c.notices_expired.get(), 8);
    world.mail.clear();
    world.pass(Nanos::from_secs(30));
    assert!(world.mail.is_empty());
    // Then some may be asked again; and a drain, or nobody with room, ends it.
    for _ in 0..20 {
        world.pass(Nanos::from_secs(30));
        devices.iter_mut().for_each(|device| drop(device.read_right(&mut world, 0, UNIT)));
    }
    rebalance(&mut world, 1, &[share]);
    assert_eq!(c.rebalance_told.get(), 9);
    world.step(0, Input::Resume);
    assert_eq!(c.notices_expired.get(), 9);
    world.publish(&[]);
    world.mail.clear();
    rebalance(&mut world, 1, &[share]);
    world.mail.retain(|mail| mail.message().kind() == diskstream_wire::Kind::Notice);
    assert!(world.mail.is_empty(), "nobody has room any more: it stays");
    assert_eq!(c.notices_expired.get(), 9, "and never heard of it");
}

#[test]
fn room_is_filled_in_proportion() {
    let mut world = World::new(Setup {
        limits: Limits { sessions_max: 256, ..Limits::default() },
        boot_limit: 0,
        ..Setup::default()
    });
    world.publish(&[world.peer("b", "10.0.0.2:6910", 0), world.peer("c", "10.0.0.3:6910", 0)]);
    for n in 0..200 {
        one_of_many(n).connect_quietly(&mut world);
    }
    let node =
        |at: &str| NodeEntry { login: Endpoint::from(addr(at)), rating: 100, ..Default::default() };
    let shares = [
        Share { node: node("10.0.0.2:6910"), devices: 150 },
        Share { node: node("10.0.0.3:6910"), devices: 50 },
    ];
    world.mail.clear();
    rebalance(&mut world, 200, &shares);
    let at_port = world.mail.iter().filter(|mail| mail.to.port() == 6902);
    let first = at_port.filter(|mail| notice(mail).1[0] == shares[0].node).count();
    // A standard deviation is 6.
    assert!((125..175).contains(&first), "{first}");
}

#[test]
fn a_node_ends_while_its_disk_is_still_reading() {
    let mut world = World::new(Setup::default());
    world.disk_runs = false;
    let mut device = Device::new(1).connect(&mut world);
    let read = device.read_message(0, UNIT);
    device.send_read(&mut world, &read);
    world.run();
    drain(&mut world, 2);
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
