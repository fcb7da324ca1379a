//! The warm standby: opened, kept, lost; hedges and promotions.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use std::net::SocketAddr;

use diskstream_device::session::{Channel, Event, MoveCause, StandbyEnd, State};
use diskstream_wire::{
    BusyReason, CloseReason, LoginKind, MoveReason, Nanos, Notice, NoticeReason, ReadErrorCode,
    SessionRole,
};
use session_support::node::{Image, Reads};
use session_support::{Fate, Packet, World, ms, node_addr};

const IMAGE: usize = 4 << 20;

fn standby(world: &World) -> Option<SocketAddr> {
    world.session.status(world.now).standby.map(|standby| standby.node)
}

fn serving(world: &World) -> Option<SocketAddr> {
    world.session.status(world.now).node
}

/// Opened, with a standby, and with some reads behind it.
fn warm(nodes: usize) -> World {
    let mut world = World::new(nodes, IMAGE);
    world.open();
    world.run_until(Nanos::from_secs(2), |w| standby(w).is_some());
    for i in 0..10 {
        world.read(i * 4096, 4096, ms(100));
    }
    world.run_for(ms(50));
    world
}

fn moves(world: &World) -> Vec<(SocketAddr, SocketAddr, MoveCause)> {
    let moved = world.events.iter().filter_map(|event| match event {
        Event::Moved { from, to, cause, .. } => Some((*from, *to, *cause)),
        _ => None,
    });
    moved.collect()
}

fn lost(world: &World) -> Vec<StandbyEnd> {
    let lost = world.events.iter().filter_map(|event| match event {
        Event::StandbyLost { why, .. } => Some(*why),
        _ => None,
    });
    lost.collect()
}

/// One read of a unit that holds data every `every`, until `time` is over; gives the longest.
fn steady(world: &mut World, every: Nanos, time: Nanos) -> Nanos {
    let until = world.now + time;
    let mut open: Vec<(u64, u64, Nanos)> = Vec::new();
    let (mut next, mut unit, mut longest) = (world.now, 0u64, Nanos::ZERO);
    while world.now < until || !open.is_empty() {
        if world.now >= next && world.now < until {
            unit = (unit + 1) % 1000;
            open.push((world.start_read(unit * 4096, 4096), unit * 4096, world.now));
            next = next + every;
        }
        let wake = if world.now < until { next } else { world.now + ms(1) };
        let before = world.now;
        world.step(wake);
        assert!(world.now.since(before) <= every.max(ms(1)));
        let done: Vec<_> =
            open.extract_if(.., |(token, ..)| world.result_of(*token).is_some()).collect();
        for (token, offset, started) in done {
            longest = longest.max(world.now.since(started));
            world.finish_read(token, offset, ms(1));
        }
        assert!(
            world.now < until + Nanos::from_secs(20),
            "reads do not end: {:?} {:?}",
            open,
            world.session.status(world.now)
        );
    }
    longest
}

#[test]
fn a_standby_is_opened_at_the_second_node_by_ticket_and_kept() {
    let mut world = World::new(3, IMAGE);
    world.open();
    let opened = world.now;
    world.run_until(ms(600), |w| standby(w).is_some());
    assert_eq!(standby(&world), Some(node_addr(2)), "the first of the list that does not serve");
    assert!(world.now.since(opened) < ms(510));
    let start = world.node(2).last_service.clone().unwrap();
    assert_eq!(start.0.login_kind, LoginKind::Standby);
    assert_eq!(start.1, world.node(2).ticket);
    assert!(world.node(3).sessions.is_empty());
    world.run_for(Nanos::from_secs(100));
    let roles: Vec<_> = world.node(2).keep_alives.iter().map(|keep| keep.role).collect();
    assert!((8..=15).contains(&roles.len()), "one each 10 s: {}", roles.len());
    assert!(roles.iter().all(|&role| role == SessionRole::Standby));
    assert!(world.node(1).keep_alives.iter().all(|keep| keep.role == SessionRole::Serving));
    assert!(world.node(2).reads_seen.is_empty(), "it is no load");
    let counters = world.session.counters();
    assert_eq!((counters.logins, counters.standbys_opened, counters.moves), (1, 1, 0));
}

#[test]
fn the_ticket_of_the_handshake_is_the_one_that_it_shows() {
    let mut world = World::new(2, IMAGE);
    let ticket = b"it had a session".to_vec();
    world.node(1).handshake_ticket = ticket.clone();
    world.node(2).ticket = ticket;
    world.open();
    assert_eq!(world.node(1).last_service.clone().unwrap().1, world.node(1).ticket);
    world.run_until(ms(600), |w| standby(w).is_some());
    assert_eq!(standby(&world), Some(node_addr(2)), "the login's ticket would be refused there");
}

#[test]
fn no_standby_where_there_can_be_none() {
    let mut world = World::new(1, IMAGE);
    world.open();
    world.run_for(Nanos::from_secs(60));
    assert_eq!(standby(&world), None);

    let mut world = World::new(2, IMAGE);
    world.node(1).pinned = true;
    world.open();
    world.run_for(Nanos::from_secs(60));
    assert_eq!(standby(&world), None);
    assert!(world.session.status(world.now).pinned);
    assert!(world.node(2).sessions.is_empty());
}

#[test]
fn a_second_node_that_is_busy_or_refuses_disturbs_nothing_and_is_asked_again() {
    let mut world = World::new(2, IMAGE);
    world.node(2).busy = Some((5000, BusyReason::Draining));
    world.open();
    for _ in 0..20 {
        world.run_for(ms(500));
        assert!(world.read(0, 65_536, ms(100)) < ms(5));
    }
    assert_eq!(standby(&world), None);
    assert_eq!(world.count_events(|e| matches!(e, Event::Busy { .. })), 0);
    assert_eq!(world.count_events(|e| matches!(e, Event::StandbyRefused { .. })), 1, "told once");
    world.node(2).busy = None;
    world.run_for(Nanos::from_secs(45));
    assert_eq!(standby(&world), Some(node_addr(2)));

    let mut world = World::new(2, IMAGE);
    world.node(2).reject_service = Some(diskstream_wire::RejectReason::TicketExpired);
    world.open();
    world.run_for(Nanos::from_secs(30));
    assert_eq!(standby(&world), None);
    // The ticket is as good as before: the only node that disliked it does not decide.
    assert!(world.session.status(world.now).ticket_age_s.is_some());
    assert_eq!(world.session.counters().logins, 1);
}

#[test]
fn where_no_second_node_answers_it_is_sought_patiently_and_for_ever() {
    let mut world = World::new(3, IMAGE);
    world.node(2).down = true;
    world.node(3).down = true;
    world.open();
    world.run_for(Nanos::from_secs(600));
    world.record = true;
    world.run_for(Nanos::from_secs(600));
    let asked = world
        .sent
        .iter()
        .filter(|packet| !packet.to_device() && packet.to.ip() != node_addr(1).ip())
        .count();
    assert!((30..=60).contains(&asked), "two nodes, each 30 s: {asked}");
    world.node(3).down = false;
    world.run_for(Nanos::from_secs(40));
    assert_eq!(standby(&world), Some(node_addr(3)));
}

#[test]
fn a_standby_that_dies_drains_or_forgets_is_replaced() {
    let mut world = warm(3);
    world.node(2).down = true;
    world.run_for(Nanos::from_secs(15));
    assert_eq!(standby(&world), Some(node_addr(3)));
    assert_eq!(lost(&world), [StandbyEnd::Silent]);
    world.node(3).sessions.clear();
    world.run_for(Nanos::from_secs(16));
    assert_eq!(standby(&world), Some(node_addr(3)), "again");
    assert_eq!(lost(&world), [StandbyEnd::Silent, StandbyEnd::Gone]);
    world.node(2).down = false;
    let notices = world.node(3).notices(9, &[]);
    world.node(3).draining = true;
    notices.into_iter().for_each(|packet| world.transmit(packet));
    world.run_for(Nanos::from_secs(2));
    assert_eq!(standby(&world), Some(node_addr(2)));
    assert_eq!(world.node(3).acks, [9, 9], "its notice is acknowledged, both ways");
    assert_eq!(world.node(3).closed, [CloseReason::Moved]);
    assert_eq!(world.session.counters().moves, 0);
    assert_eq!(serving(&world), Some(node_addr(1)));
}

#[test]
fn a_standby_with_another_content_is_never_used() {
    let mut world = World::new(2, IMAGE);
    world.node(2).image = Image::new(IMAGE - 4096);
    world.open();
    world.run_for(Nanos::from_secs(20));
    assert_eq!(standby(&world), None);
    world.node(1).down = true;
    let token = world.start_read(0, 4096);
    world.run_for(Nanos::from_secs(20));
    assert!(world.result_of(token).is_none(), "held rather than read elsewhere");
    assert!(world.node(2).reads_seen.is_empty());

    // It had the content when it was opened.
    let mut world = warm(2);
    world.node(2).image = Image::new(IMAGE - 4096);
    world.node(2).reads = Reads::Fail(ReadErrorCode::WrongGeneration);
    world.node(1).reads = Reads::Ignore;
    let token = world.start_read(4096, 4096);
    world.run_for(ms(500));
    assert!(world.result_of(token).is_none());
    assert!(lost(&world).contains(&StandbyEnd::WrongContent));
    assert_eq!(serving(&world), Some(node_addr(1)));
}

#[test]
fn a_notice_promotes_the_standby_it_names_and_no_other() {
    for (successors, to) in
        [(vec![], 2), (vec![node_addr(2), node_addr(3)], 2), (vec![node_addr(3)], 3)]
    {
        let mut world = warm(3);
        let reconnects = world.session.counters().reconnects;
        for packet in world.node(1).notices(1, &successors) {
            world.transmit(packet);
        }
        world.node(1).draining = true;
        assert!(steady(&mut world, ms(1), ms(200)) < ms(2));
        assert_eq!(serving(&world), Some(node_addr(to)));
        assert_eq!(moves(&world), [(node_addr(1), node_addr(to), MoveCause::Notice)]);
        let logins = world.session.counters().reconnects - reconnects;
        assert_eq!(logins, u64::from(to == 3), "a promotion needs no login");
        assert_eq!(world.node(1).closed, [CloseReason::Moved]);
        let role = world.node(to).last_keep_alive.map(|keep| keep.role);
        assert!(role.is_none_or(|role| role == SessionRole::Serving));
        assert_eq!(role.is_some(), to == 2, "a promotion is told at once");
    }
}

#[test]
fn the_status_names_the_causes_of_moves_and_counts_what_a_standby_costs() {
    let mut world = warm(2);
    world.run_for(Nanos::from_secs(25));
    // Sent to the standby: one to begin with, then one in ten seconds or so.
    let checks = world.node(2).keep_alives.len() as u64;
    assert!(checks >= 3);
    assert_eq!(world.session.counters().standby_checks, checks);
    world.node(1).down = true;
    world.read(0, 4096, Nanos::from_secs(1));
    world.run_for(ms(500));
    let told = serde_json::to_value(world.session.status(world.now)).unwrap();
    let causes = told["counters"]["moves_by_cause"].as_object().unwrap();
    let mut labels: Vec<&str> = causes.keys().map(String::as_str).collect();
    let mut known: Vec<&str> = MoveCause::ALL.iter().map(|cause| cause.label()).collect();
    labels.sort_unstable();
    known.sort_unstable();
    assert_eq!(labels, known);
    let moved: Vec<_> = causes.iter().filter(|(_, count)| **count != 0).collect();
    assert_eq!(moved, [(&"node_silent".to_owned(), &serde_json::json!(1))]);
    // As node 2 counts them: one more went out when node 1 fell silent, and none as a standby since the move.
    let as_standby = |role| role == SessionRole::Standby;
    let checks = world.node(2).keep_alives.iter().filter(|k| as_standby(k.role)).count();
    assert_eq!(told["counters"]["standby_checks"], checks);
}

#[test]
fn what_a_draining_node_was_asked_it_still_answers() {
    let mut world = warm(2);
    world.node(1).reads = Reads::Slow(ms(60));
    let token = world.start_read(4096, 4096);
    world.run_for(ms(5));
    for packet in world.node(1).notices(1, &[]) {
        world.transmit(packet);
    }
    world.run_for(ms(1));
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert!(world.node(1).closed.is_empty(), "something is awaited there");
    world.read(8192, 4096, ms(5));
    // What times out is asked at the new node; nothing is asked twice before that.
    world.finish_read(token, 4096, ms(60));
    world.run_for(ms(100));
    assert_eq!(world.node(1).closed, [CloseReason::Moved]);
}

#[test]
fn a_dead_node_costs_no_login_and_no_long_stall() {
    let mut world = warm(2);
    world.node(1).down = true;
    let longest = steady(&mut world, ms(1), Nanos::from_secs(1));
    assert!(longest < ms(80), "{longest:?}");
    assert_eq!(moves(&world), [(node_addr(1), node_addr(2), MoveCause::NodeSilent)]);
    let counters = world.session.counters();
    assert_eq!((counters.promotions, counters.reconnects), (1, 0));
    assert!(counters.hedged_reads > 0 && counters.hedges_won > 0);
    let told = world.node(2).keep_alives.iter().find(|keep| keep.role == SessionRole::Serving);
    assert_eq!(told.unwrap().moved, MoveReason::NodeSilent, "the node counts why");
    let last = world.session.status(world.now).last_move.unwrap();
    assert_eq!((last.from, last.to), (node_addr(1), node_addr(2)));
    assert!(last.stall_ms < 60, "hedges had ended the stall before: {}", last.stall_ms);
    // The node that was lost is a standby once it is back, and stays one.
    world.node(1).restart();
    world.run_for(Nanos::from_secs(45));
    assert_eq!(standby(&world), Some(node_addr(1)));
    world.run_for(Nanos::from_secs(60));
    assert_eq!(moves(&world).len(), 1);
}

#[test]
fn the_first_reads_after_a_death_are_hedged_after_twenty_milliseconds() {
    let mut world = warm(2);
    world.node(1).down = true;
    let time = world.read(4096, 4096, ms(100));
    assert!(time >= ms(19) && time < ms(26), "{time:?}");
    assert_eq!(world.session.counters().hedged_reads, 1);
    let flags = world.node(2).reads_seen[0].flags;
    assert!(flags.has(diskstream_wire::Flags::HEDGED));
}

#[test]
fn at_five_silent_probes_nothing_moves_and_at_six_it_does() {
    for (silent_ms, moved) in [(230, 0), (380, 1)] {
        let mut world = warm(2);
        let cut = world.now;
        world.set_network(move |packet, now| {
            let first = [packet.from, packet.to].iter().any(|a| a.ip() == node_addr(1).ip());
            let cut = first && now.since(cut) < ms(silent_ms);
            if cut { Fate::Drop } else { Fate::Deliver }
        });
        let longest = steady(&mut world, ms(5), ms(800));
        assert!(longest < ms(90), "{longest:?}");
        assert_eq!(world.session.counters().moves, moved, "silent for {silent_ms} ms");
        if moved == 0 {
            let probes = world.session.counters().probes;
            assert!((5..=6).contains(&probes), "{probes}");
        }
    }
}

#[test]
fn a_standby_that_dies_together_with_the_primary_is_no_place_to_go() {
    let mut world = warm(3);
    world.node(1).down = true;
    world.node(2).down = true;
    let time = world.read(4096, 4096, Nanos::from_secs(2));
    assert!(time < ms(500), "the third node is found by ticket: {time:?}");
    assert_eq!(serving(&world), Some(node_addr(3)));

    let mut world = warm(2);
    world.node(1).down = true;
    world.node(2).down = true;
    let token = world.start_read(4096, 4096);
    world.run_for(Nanos::from_secs(30));
    assert_eq!(world.session.state(), State::Holding);
    assert_eq!(moves(&world).len(), 0);
    // Either that comes back is gone on with: here the standby, which still knows its session.
    world.node(2).down = false;
    world.finish_read(token, 4096, Nanos::from_millis(1300));
    assert_eq!(serving(&world), Some(node_addr(2)));
}

#[test]
fn a_slow_disk_is_not_hedged() {
    let mut world = warm(2);
    world.node(1).reads = Reads::Slow(Nanos::from_secs(2));
    steady(&mut world, ms(50), Nanos::from_secs(30));
    let counters = world.session.counters();
    assert_eq!(counters.moves, 0);
    assert_eq!(counters.hedged_reads, 0);
    assert!(counters.pending > 100);
}

#[test]
fn datagrams_of_strangers_move_and_hedge_nothing() {
    let mut world = warm(2);
    let mut packets = world.node(1).notices(1, &[]);
    packets.extend(world.node(2).notices(1, &[]));
    for i in 0..10_000u64 {
        let packet = &packets[usize::try_from(i).unwrap() % packets.len()];
        let (mut from, mut bytes) = (packet.from, packet.bytes.clone());
        if i % 2 == 0 {
            from.set_ip([10, 9, 9, 9].into());
        } else {
            bytes[8 + usize::try_from(i % 8).unwrap()] ^= 1 << (i % 7);
        }
        let now = world.now;
        let channel = if i % 3 == 0 { Channel::Io } else { Channel::Notice };
        world.session.handle_datagram(channel, from, &bytes, now);
    }
    steady(&mut world, ms(10), Nanos::from_secs(1));
    let counters = world.session.counters();
    assert_eq!((counters.moves, counters.hedges, counters.notices), (0, 0, 0));
    assert_eq!(counters.foreign, 10_000);
    assert_eq!((serving(&world), standby(&world)), (Some(node_addr(1)), Some(node_addr(2))));
}

#[test]
fn an_old_node_that_answers_late_is_heard_and_changes_nothing() {
    let mut world = warm(2);
    let cut = world.now;
    // Node 1 is paused for a second: what it was sent it answers afterwards.
    world.set_network(move |packet: &Packet, now| {
        let paused = packet.to.ip() == node_addr(1).ip() && now.since(cut) < Nanos::from_secs(1);
        if paused { Fate::Late(Nanos::from_secs(1)) } else { Fate::Deliver }
    });
    let longest = steady(&mut world, ms(2), Nanos::from_secs(3));
    assert!(longest < ms(80), "{longest:?}");
    assert_eq!(moves(&world).len(), 1, "and none back");
    assert_eq!(serving(&world), Some(node_addr(2)));
}

#[test]
fn when_both_answer_each_read_ends_once() {
    let mut world = warm(2);
    let cut = world.now;
    // Node 1's answers are late by 40 ms for a while: every read is hedged as far as the budget goes, and answered twice.
    world.set_network(move |packet: &Packet, now| {
        let late = packet.from.ip() == node_addr(1).ip() && now.since(cut) < ms(400);
        if late { Fate::Late(ms(40)) } else { Fate::Deliver }
    });
    steady(&mut world, ms(5), ms(800));
    let counters = *world.session.counters();
    assert!(counters.hedged_reads >= 1 && counters.hedges_won >= 1);
    assert!(counters.fragments_late > 0, "the slower answers came too");
    assert_eq!(counters.moves, 0);
    let mut tokens: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::ReadDone { token, .. } => Some(*token),
            _ => None,
        })
        .collect();
    let all = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), all);
}

#[test]
fn rebalancing_devices_go_within_two_seconds_and_not_all_at_once() {
    let mut times = Vec::new();
    for seed in 0..20u8 {
        let mut world = World::with_seed(2, IMAGE, seed);
        world.open();
        world.run_until(Nanos::from_secs(2), |w| standby(w).is_some());
        let mut notices = world.node(1).notices(1, &[]);
        for packet in &mut notices {
            let (mut notice, _) = Notice::decode(&packet.bytes).unwrap();
            notice.reason = NoticeReason::Rebalance;
            notice.encode(&mut packet.bytes);
        }
        let told = world.now;
        notices.into_iter().for_each(|packet| world.transmit(packet));
        world.run_until(ms(2100), |w| serving(w) == Some(node_addr(2)));
        times.push(world.now.since(told).as_millis());
        assert_eq!(moves(&world).len(), 1);
    }
    times.sort_unstable();
    assert!(times[19] - times[0] > 800, "{times:?}");
}

#[test]
fn a_range_that_the_store_refuses_is_read_at_the_standby_at_once() {
    let mut world = warm(2);
    world.node(1).reads = Reads::Fail(ReadErrorCode::StoreError);
    let time = world.read(0, 4096, ms(100));
    assert!(time < ms(20), "{time:?}");
    assert_eq!((serving(&world), world.session.counters().moves), (Some(node_addr(1)), 0));
    world.read(4096, 4096, ms(100));
    world.read(8192, 4096, ms(100));
    world.run_for(ms(100));
    assert_eq!(
        moves(&world),
        [(node_addr(1), node_addr(2), MoveCause::StoreErrors)],
        "three are enough"
    );
}

#[test]
fn a_range_that_the_store_is_late_with_is_read_at_the_standby_too() {
    let mut world = warm(2);
    world.node(1).reads = Reads::Fail(ReadErrorCode::StoreTimeout);
    let time = world.read(0, 4096, ms(100));
    assert!(time < ms(20), "{time:?}");
    assert_eq!(world.session.counters().moves, 0);
}

/// Logged in while only one node was known; a second one joins the farm.
fn joined_later() -> World {
    let mut world = World::with_config(session_support::config(1), 2, IMAGE);
    for number in [1, 2] {
        world.node(number).list = vec![node_addr(1)];
        world.node(number).keep_alive_ms = 1000;
    }
    world.open();
    world.run_for(Nanos::from_secs(5));
    assert_eq!(standby(&world), None);
    world
}

#[test]
fn a_node_that_joins_later_becomes_the_standby() {
    let mut world = joined_later();
    for number in [1, 2] {
        world.node(number).list = vec![node_addr(1), node_addr(2)];
    }
    world.run_until(Nanos::from_secs(5), |w| standby(w) == Some(node_addr(2)));
    let told = world.node(1).keep_alives.len();
    world.run_for(Nanos::from_secs(3));
    let known = world.node(1).keep_alives[told..].iter().map(|m| m.nodes_digest);
    let all = [node_addr(1), node_addr(2)].into_iter().map(Into::into);
    let digest = diskstream_wire::nodes_digest(all);
    assert!(known.into_iter().all(|known| known == digest), "it is told once");
    world.node(1).down = true;
    world.read(0, 4096, Nanos::from_secs(1));
    world.run_until(Nanos::from_secs(1), |w| serving(w) == Some(node_addr(2)));
}

#[test]
fn what_is_lost_around_a_graceful_move_is_asked_at_the_new_node_at_its_time_out() {
    for dies in [false, true] {
        let mut world = warm(2);
        let mut dropped = false;
        world.set_network(move |packet, _| {
            let read = packet.kind() == diskstream_wire::Read::KIND;
            let first = read && packet.to.ip() == node_addr(1).ip() && !dropped;
            dropped |= first;
            if first { Fate::Drop } else { Fate::Deliver }
        });
        let began = world.now;
        let token = world.start_read(4096, 4096);
        world.run_for(ms(2));
        for packet in world.node(1).notices(1, &[]) {
            world.transmit(packet);
        }
        world.run_for(ms(1));
        world.node(1).down = dies;
        world.finish_read(token, 4096, Nanos::from_secs(5));
        let time = world.now.since(began);
        assert!(time < ms(30), "{time:?}");
        assert_eq!(serving(&world), Some(node_addr(2)));
    }
}

#[test]
fn a_standby_that_died_while_the_device_was_cut_off_is_not_kept() {
    for away_ms in (100..3000).step_by(100) {
        let mut world = warm(3);
        let (away, dead) = (world.now, standby(&world).unwrap());
        world.node(2).down = true;
        assert_eq!(dead, node_addr(2));
        world.set_network(
            move |_, now| {
                if now.since(away) < ms(away_ms) { Fate::Drop } else { Fate::Deliver }
            },
        );
        let token = world.start_read(4096, 4096);
        world.finish_read(token, 4096, Nanos::from_secs(9));
        for _ in 0..20 {
            world.run_for(ms(50));
            world.read(8192, 4096, Nanos::from_secs(5));
        }
        world.run_for(Nanos::from_secs(40));
        assert!(standby(&world).is_some_and(|node| node != dead), "away for {away_ms} ms");
    }
}

#[test]
fn two_of_three_nodes_that_die_at_once_cost_less_than_half_a_second() {
    let mut world = warm(3);
    world.node(1).down = true;
    world.node(2).down = true;
    let time = world.read(4096, 4096, Nanos::from_secs(3));
    assert!(time < ms(400), "{time:?}");
}

#[test]
fn the_longest_read_of_a_failover_is_told_to_the_node_that_is_left() {
    let mut world = warm(2);
    world.node(1).down = true;
    let mut longest = 0;
    for unit in 0..40 {
        longest = longest.max(world.read(unit * 4096, 4096, ms(1000)).as_micros());
        world.run_for(ms(10));
    }
    world.run_for(Nanos::from_secs(70));
    let told = world.node(2).keep_alives.iter().map(|k| u64::from(k.read_us_max));
    assert_eq!(told.max(), Some(longest));
    assert_eq!(world.node(2).keep_alives.last().unwrap().read_us_max, 0, "once");
}

#[test]
fn an_order_to_make_room_is_not_carried_out_when_its_time_is_over() {
    let mut world = warm(3);
    world.node(3).down = true;
    let mut packets = world.node(1).notices(7, &[node_addr(3)]);
    for packet in &mut packets {
        let decoded = diskstream_wire::decode(&packet.bytes).unwrap();
        let diskstream_wire::Message::Notice(notice) = decoded.message else { panic!() };
        let notice = Notice { reason: NoticeReason::Rebalance, deadline_ms: 15_000, ..notice };
        let mut bytes = vec![0; 2048];
        let used = notice.encode_with_tail(decoded.tail, &mut bytes);
        bytes.truncate(used);
        packet.bytes = bytes;
    }
    packets.into_iter().for_each(|packet| world.transmit(packet));
    // The standby is not among the successors, and takes no logins anyway.
    world.node(2).busy = Some((300_000, BusyReason::BootLimit));
    world.run_for(Nanos::from_secs(20));
    assert_eq!(world.session.state(), State::Streaming);
    world.node(3).down = false;
    world.run_for(Nanos::from_secs(20));
    assert_eq!((serving(&world), moves(&world).len()), (Some(node_addr(1)), 0));
}
