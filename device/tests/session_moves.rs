//! From node to node: notices, draining marks, dead nodes, restarts, and all nodes gone.

mod session_support;

use diskstream_device::session::{Channel, Event, MoveCause, ReadError, State};
use diskstream_wire::{CloseReason, Nanos, NoticeAck, ReadErrorCode};
use session_support::node::Reads;
use session_support::{Fate, Packet, World, config, ms, node_addr};

const IMAGE: usize = 4 << 20;

fn opened(nodes: usize) -> World {
    let mut world = World::new(nodes, IMAGE);
    world.open();
    for i in 0..10 {
        world.read(i * 4096, 4096, ms(100));
    }
    world
}

fn serving(world: &World) -> Option<std::net::SocketAddr> {
    world.session.status(world.now).node
}

fn moved(world: &World, cause: MoveCause) -> usize {
    world.count_events(|e| matches!(e, Event::Moved { cause: c, .. } if *c == cause))
}

/// Reads back to back until `time` is over; gives the longest.
fn keep_reading(world: &mut World, time: Nanos) -> Nanos {
    let until = world.now + time;
    let mut longest = Nanos::ZERO;
    let mut at = 0;
    while world.now < until {
        at = (at + 4096) % (IMAGE as u64);
        longest = longest.max(world.read(at, 4096, Nanos::from_secs(10)));
        world.run_for(ms(1));
    }
    longest
}

#[test]
fn a_notice_moves_the_device_without_a_stall() {
    for blocked in [None, Some(6902), Some(6905)] {
        let mut world = opened(3);
        // One of the two ways of the notice is blocked by a firewall.
        world.set_network(move |packet, _| {
            let notice = packet.kind() == diskstream_wire::Notice::KIND;
            if notice && Some(packet.to.port()) == blocked { Fate::Drop } else { Fate::Deliver }
        });
        let notices = world.node(1).notices(5, &[node_addr(3)]);
        world.node(1).draining = true;
        for packet in notices {
            world.transmit(packet);
        }
        let longest = keep_reading(&mut world, ms(300));
        assert!(longest < ms(2), "{longest:?}");
        assert_eq!(serving(&world), Some(node_addr(3)), "the named successor");
        let acks = world.node(1).acks.clone();
        assert!(!acks.is_empty() && acks.iter().all(|&sequence| sequence == 5));
        assert_eq!(world.node(1).closed, [CloseReason::Moved]);
        assert!(world.node(1).sessions.is_empty());
        assert_eq!(world.session.counters().moves, 1);
        assert_eq!(world.session.counters().reconnects, 1);
        assert_eq!(moved(&world, MoveCause::Notice), 1);
    }
}

#[test]
fn the_draining_mark_alone_moves_an_active_device() {
    let mut world = opened(2);
    world.node(1).draining = true;
    let longest = keep_reading(&mut world, ms(300));
    assert!(longest < ms(2), "{longest:?}");
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert_eq!(moved(&world, MoveCause::Draining), 1);
}

#[test]
fn a_large_read_in_flight_survives_the_move() {
    let mut world = opened(2);
    world.delay = Nanos::from_micros(500);
    let token = world.start_read(0, IMAGE);
    world.run_for(ms(5));
    world.node(1).draining = true;
    world.finish_read(token, 0, Nanos::from_secs(5));
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert_eq!(world.session.counters().sum_mismatches, 0);
}

#[test]
fn successors_outside_the_sealed_list_are_not_asked() {
    let mut world = opened(2);
    let stranger = "10.66.0.1:6910".parse().unwrap();
    world.record = true;
    world.node(1).draining = true;
    for packet in world.nodes[0].notices(1, &[stranger]) {
        world.transmit(packet);
    }
    keep_reading(&mut world, ms(200));
    assert!(world.sent.iter().all(|packet| packet.to != stranger));
    assert_eq!(serving(&world), Some(node_addr(2)));
}

#[test]
fn forged_notices_move_nobody() {
    let mut world = opened(2);
    for mut packet in world.nodes[0].notices(1, &[node_addr(2)]) {
        let now = world.now;
        let mut elsewhere = packet.clone();
        elsewhere.from.set_ip([10, 9, 9, 9].into());
        world.session.handle_datagram(Channel::Notice, elsewhere.from, &elsewhere.bytes, now);
        packet.bytes[9] ^= 1;
        world.session.handle_datagram(Channel::Notice, packet.from, &packet.bytes, now);
    }
    keep_reading(&mut world, ms(100));
    assert_eq!(serving(&world), Some(node_addr(1)));
    assert!(world.node(1).acks.is_empty());
    assert_eq!(world.session.counters().foreign, 4);
}

#[test]
fn the_only_node_draining_is_read_from_until_it_stops_and_found_when_it_returns() {
    let mut world = opened(1);
    world.node(1).draining = true;
    for packet in world.nodes[0].notices(1, &[]) {
        world.transmit(packet);
    }
    let longest = keep_reading(&mut world, Nanos::from_secs(1));
    assert!(longest < ms(2));
    world.node(1).down = true;
    let token = world.start_read(0, 4096);
    world.run_for(Nanos::from_secs(20));
    assert!(world.result_of(token).is_none());
    world.node(1).restart();
    world.finish_read(token, 0, Nanos::from_secs(2));
}

/// One node that says it is going, while the only other one is down: the device looks for another in vain.
fn nowhere_to_go(keep_alive_ms: u32) -> World {
    let mut world = World::new(2, IMAGE);
    world.node(1).keep_alive_ms = keep_alive_ms;
    world.node(2).down = true;
    world.open();
    world.read(4096, 4096, ms(100));
    world.node(1).draining = true;
    for packet in world.nodes[0].notices(1, &[]) {
        world.transmit(packet);
    }
    world.run_for(ms(500));
    assert_eq!(world.session.state(), State::Moving);
    world
}

#[test]
fn a_node_that_goes_no_more_is_not_left_when_another_appears() {
    for reads in [true, false] {
        let mut world = nowhere_to_go(2000);
        // The operator ends the maintenance; one reply tells, be it to a read or to a keep-alive.
        world.node(1).draining = false;
        if reads {
            world.read(8192, 4096, ms(100));
        } else {
            world.run_for(Nanos::from_secs(4));
        }
        assert_eq!(world.session.state(), State::Streaming, "reads: {reads}");
        assert_eq!(world.session.counters().moves_averted, 1);
        world.node(2).restart();
        keep_reading(&mut world, Nanos::from_secs(5));
        assert_eq!(serving(&world), Some(node_addr(1)));
        assert_eq!(world.session.counters().moves, 0);
        // Its next maintenance counts like the first.
        world.node(1).draining = true;
        keep_reading(&mut world, ms(300));
        assert_eq!(serving(&world), Some(node_addr(2)));
    }
}

#[test]
fn what_a_node_answers_after_its_mark_to_what_was_asked_before_takes_nothing_back() {
    let mut world = World::new(2, IMAGE);
    world.node(2).down = true;
    world.open();
    world.read(4096, 4096, ms(100));
    world.set_network(|packet: &Packet, _| {
        let late = packet.to_device() && packet.kind() == diskstream_wire::ReadData::KIND;
        if late { Fate::Late(ms(8)) } else { Fate::Deliver }
    });
    let token = world.start_read(8192, 4096);
    world.run_for(ms(1));
    // The answer without the mark is on its way; the notice overtakes it.
    world.node(1).draining = true;
    for packet in world.nodes[0].notices(1, &[]) {
        world.transmit(packet);
    }
    world.finish_read(token, 8192, ms(20));
    assert_eq!(world.session.state(), State::Moving);
    assert_eq!(world.session.counters().retries, 0, "it is the first answer that came");
}

#[test]
fn a_dead_node_is_left_within_a_quarter_of_a_second() {
    let mut world = opened(2);
    world.node(1).down = true;
    let time = world.read(65_536, 4096, Nanos::from_secs(2));
    assert!(time > ms(160), "eight probes, 20 ms apart: {time:?}");
    assert!(time < ms(250), "{time:?}");
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert_eq!(moved(&world, MoveCause::NodeSilent), 1);
    let counters = world.session.counters();
    assert!(counters.probes >= 8 && counters.probes <= 12, "{}", counters.probes);
    assert!(keep_reading(&mut world, ms(100)) < ms(2));
}

#[test]
fn an_idle_device_notices_by_its_keep_alive() {
    let mut world = World::new(2, IMAGE);
    for number in [1, 2] {
        world.node(number).keep_alive_ms = 2000;
    }
    world.open();
    world.node(1).down = true;
    world.run_for(Nanos::from_secs(4));
    assert_eq!(serving(&world), Some(node_addr(2)));
}

#[test]
fn a_node_that_was_only_silent_for_a_while_is_kept() {
    let mut world = opened(2);
    let cut = world.now;
    world.set_network(
        move |_, now| {
            if now.since(cut) < ms(120) { Fate::Drop } else { Fate::Deliver }
        },
    );
    let time = world.read(0, 65_536, Nanos::from_secs(1));
    assert!(time < ms(180), "{time:?}");
    assert_eq!(serving(&world), Some(node_addr(1)));
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn a_dead_path_that_answers_first_is_taken_back() {
    let mut world = opened(1);
    let cut = world.now;
    world.set_network(move |_, now| {
        if now.since(cut) < Nanos::from_secs(3) { Fate::Drop } else { Fate::Deliver }
    });
    let token = world.start_read(0, 65_536);
    world.run_for(Nanos::from_secs(2));
    assert_eq!(world.session.state(), State::Holding);
    assert_eq!(world.count_events(|e| matches!(e, Event::Holding { .. })), 1);
    world.finish_read(token, 0, Nanos::from_secs(3));
    assert_eq!(world.count_events(|e| matches!(e, Event::Resumed { .. })), 1);
    let counters = world.session.counters();
    assert_eq!(counters.moves + counters.moves_averted, 1);
}

#[test]
fn a_restarted_node_is_logged_in_at_again_at_once() {
    let mut world = opened(1);
    let (tag, _) = *world.node(1).sessions.values().next().unwrap();
    assert_eq!(world.node(1).last_service.clone().unwrap().0.former_tag, 0);
    world.node(1).restart();
    let time = world.read(65_536, 65_536, Nanos::from_secs(1));
    assert!(time < ms(30), "{time:?}");
    assert_eq!(world.node(1).last_service.clone().unwrap().0.former_tag, tag, "who it was");
    assert_eq!(world.session.counters().unknown_session, 1);
    assert_eq!(moved(&world, MoveCause::UnknownSession), 1);
    assert_eq!(world.session.counters().logins, 1, "by ticket, not from the start");
}

#[test]
fn all_nodes_gone_holds_the_reads_until_one_returns() {
    for returns in [1, 2, 3] {
        let mut world = opened(3);
        for number in [1, 2, 3] {
            world.node(number).down = true;
        }
        let tokens: Vec<_> = (0..20u64).map(|i| (world.start_read(i * 65_536, 8192), i)).collect();
        world.run_for(Nanos::from_secs(600));
        assert_eq!(world.session.state(), State::Holding);
        assert!(tokens.iter().all(|(token, _)| world.result_of(*token).is_none()), "held");
        assert_eq!(world.count_events(|e| matches!(e, Event::Holding { .. })), 1);
        world.node(returns).restart();
        let back = world.now;
        for (token, i) in tokens {
            world.finish_read(token, i * 65_536, Nanos::from_secs(3));
        }
        assert!(world.now.since(back) < Nanos::from_millis(1500), "{:?}", world.now.since(back));
        assert_eq!(serving(&world), Some(node_addr(returns)));
        assert_eq!(world.count_events(|e| matches!(e, Event::Resumed { .. })), 1);
    }
}

#[test]
fn looking_for_nodes_is_paced() {
    let mut world = opened(3);
    for number in [1, 2, 3] {
        world.node(number).down = true;
    }
    let token = world.start_read(0, 4096);
    world.run_for(Nanos::from_secs(10));
    world.record = true;
    world.run_for(Nanos::from_secs(60));
    assert!(world.result_of(token).is_none());
    let sent = world.sent.len();
    // Six asks a round of about a second, and two probe datagrams each half a second.
    assert!(sent < 900, "{sent} datagrams in a minute");
    assert!(sent > 120, "it goes on looking: {sent}");
}

#[test]
fn the_hold_limit_ends_the_waiting() {
    let mut settings = config(1);
    settings.hold_limit = Some(Nanos::from_secs(5));
    let mut world = World::with_config(settings, 1, IMAGE);
    world.open();
    world.node(1).down = true;
    let token = world.start_read(0, 4096);
    world.run_until(Nanos::from_secs(6), |w| w.result_of(token).is_some());
    assert_eq!(world.result_of(token).unwrap().1, Err(ReadError::HoldExpired));
    assert_eq!(world.session.state(), State::Holding, "it goes on looking");
    world.node(1).restart();
    world.run_for(Nanos::from_secs(2));
    world.read(0, 4096, ms(100));
}

#[test]
fn a_failing_store_is_left_after_three_errors_and_other_reads_go_on() {
    let mut world = opened(2);
    world.node(1).reads = Reads::Fail(ReadErrorCode::StoreError);
    let time = world.read(0, 4096, Nanos::from_secs(2));
    assert!(time < ms(400), "{time:?}");
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert_eq!(moved(&world, MoveCause::StoreErrors), 1);
    assert_eq!(world.session.counters().store_errors, 3);
    assert_eq!(world.node(1).closed, [CloseReason::Moved]);
}

#[test]
fn only_when_every_node_says_so_a_read_fails() {
    let mut world = opened(3);
    for number in [1, 2, 3] {
        world.node(number).reads = Reads::Fail(ReadErrorCode::StoreError);
    }
    let token = world.start_read(0, 4096);
    world.run_until(Nanos::from_secs(5), |w| w.result_of(token).is_some());
    assert_eq!(world.result_of(token).unwrap().1, Err(ReadError::Store));

    // With one of them unreachable it is held.
    let mut world = opened(3);
    for number in [1, 2] {
        world.node(number).reads = Reads::Fail(ReadErrorCode::StoreError);
    }
    world.node(3).down = true;
    let token = world.start_read(0, 4096);
    world.run_for(Nanos::from_secs(30));
    assert!(world.result_of(token).is_none(), "{:?}", world.event_names());
    world.node(3).restart();
    world.finish_read(token, 0, Nanos::from_secs(5));
}

#[test]
fn a_node_that_names_another_generation_is_left() {
    let mut world = opened(2);
    world.node(1).reads = Reads::Fail(ReadErrorCode::WrongGeneration);
    world.read(0, 4096, Nanos::from_secs(2));
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert_eq!(moved(&world, MoveCause::WrongContent), 1);
    assert_eq!(world.count_events(|e| matches!(e, Event::WrongContent { .. })), 1);
}

#[test]
fn a_slow_disk_for_thirty_seconds_moves_nobody() {
    let mut world = opened(2);
    world.node(1).reads = Reads::Slow(Nanos::from_secs(2));
    let until = world.now + Nanos::from_secs(30);
    let mut at = 0;
    while world.now < until {
        at += 65_536;
        world.read(at % (IMAGE as u64), 4096, Nanos::from_secs(4));
    }
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn five_percent_loss_and_jitter_for_a_minute_move_nobody() {
    let mut world = opened(2);
    let mut state = 99u64;
    world.set_network(move |_, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let jitter = Nanos::from_micros((state >> 20) % 20_000);
        if (state >> 33).is_multiple_of(20) { Fate::Drop } else { Fate::Late(jitter) }
    });
    keep_reading(&mut world, Nanos::from_secs(60));
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn the_old_node_may_still_answer_what_it_was_asked() {
    let mut world = opened(2);
    // Node 1 answers late and drains: its answers arrive after the device has moved.
    world.set_network(|packet: &Packet, _| {
        let late = packet.from.ip() == node_addr(1).ip()
            && packet.kind() == diskstream_wire::ReadData::KIND;
        if late { Fate::Late(ms(8)) } else { Fate::Deliver }
    });
    let token = world.start_read(0, 1 << 20);
    world.run_for(Nanos::from_micros(300));
    world.node(1).draining = true;
    let notices = world.node(1).notices(1, &[]);
    for packet in notices {
        world.transmit(packet);
    }
    world.finish_read(token, 0, Nanos::from_secs(2));
    assert_eq!(serving(&world), Some(node_addr(2)));
    assert!(world.node(1).acks.contains(&1));
    let _ = NoticeAck::KIND;
}
