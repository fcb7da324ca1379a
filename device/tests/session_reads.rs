//! Reads: loss, repeats, reordering, corruption, and every answer that is not data.

mod session_support;

use diskstream_device::session::{Channel, Event, Extent, ReadError, RefusedReason, State, limits};
use diskstream_wire::{FragmentSize, Message, Nanos, Read, ReadData, ReadErrorCode, decode};
use session_support::node::Reads;
use session_support::{Fate, World, config, ms};

const IMAGE: usize = 4 << 20;

fn opened() -> World {
    let mut world = World::new(1, IMAGE);
    world.open();
    world
}

#[test]
fn reads_of_many_shapes_bring_the_images_bytes() {
    let mut world = opened();
    for (offset, length) in
        [(0, 4096), (4096, 8192), (60 * 1024, 64 * 1024), (0, IMAGE), (IMAGE - 4096, 4096)]
    {
        world.read(offset as u64, length, ms(500));
    }
    let counters = *world.session.counters();
    assert_eq!((counters.reads, counters.retries, counters.fragments_late), (5, 0, 0));
    assert!(counters.zero_units > 0);
    assert_eq!(counters.read_bytes, (4096 + 8192 + 65_536 + IMAGE + 4096) as u64);
}

#[test]
fn the_last_unit_of_an_odd_image_is_filled_up_with_zeros() {
    let mut world = World::new(1, 10 * 4096 + 700);
    world.open();
    world.read(10 * 4096, 4096, ms(100));
    let token = world.start_read(11 * 4096, 4096);
    world.run_until(ms(100), |w| w.result_of(token).is_some());
    assert_eq!(world.result_of(token).unwrap().1, Err(ReadError::OutOfRange));
}

#[test]
fn reads_before_the_login_wait_for_it() {
    let mut world = World::new(1, IMAGE);
    let token = world.start_read(8192, 131_072);
    let outside = world.start_read(IMAGE as u64 * 2, 4096);
    world.finish_read(token, 8192, ms(200));
    world.run_until(ms(200), |w| w.result_of(outside).is_some());
    assert_eq!(world.result_of(outside).unwrap().1, Err(ReadError::OutOfRange));
}

#[test]
fn what_is_not_whole_units_is_refused_with_its_buffer() {
    let mut world = opened();
    let now = world.now;
    for (offset, length) in [(0, 0), (0, 4095), (1, 4096), (512, 4096)] {
        let refused = world.session.read(1, offset, vec![0; length], now).unwrap_err();
        assert_eq!(refused.reason, RefusedReason::Misaligned);
        assert_eq!(refused.buffer.len(), length);
    }
    for token in 0..limits::READS_MAX as u64 {
        world.session.read(token, 0, vec![0; 4096], now).unwrap();
    }
    let refused = world.session.read(1, 0, vec![0; 4096], now).unwrap_err();
    assert_eq!(refused.reason, RefusedReason::Full);
    world.run_until(Nanos::from_secs(2), |w| w.session.reads_outstanding() == 0);
    assert_eq!(world.session.counters().reads, limits::READS_MAX as u64);
}

#[test]
fn any_one_fragment_lost_is_asked_for_again_alone() {
    for lost in 0..24u64 {
        let mut world = opened();
        world.read(2 << 20, 1 << 20, ms(100));
        let mut seen = 0;
        world.set_network(move |packet, _| {
            if packet.kind() != ReadData::KIND {
                return Fate::Deliver;
            }
            seen += 1;
            if seen == lost + 1 { Fate::Drop } else { Fate::Deliver }
        });
        let before = world.node(1).reads_seen.len();
        // 32 KiB of one cache block: 24 fragments, some of which are zero marks.
        let time = world.read(65_536, 32_768, ms(100));
        let asked = &world.nodes[0].reads_seen[before..];
        if asked.len() > 1 {
            assert_eq!(asked.len(), 2, "one repeat");
            assert_eq!(asked[1].wanted.count_ones(), 1, "only the hole");
            assert_eq!(asked[1].request_id, asked[0].request_id);
            assert_eq!((asked[0].attempt, asked[1].attempt), (0, 1));
            assert!(time < ms(3), "a hole is found by the reorder tolerance: {time:?}");
            assert_eq!(world.session.counters().retries, 1);
        }
    }
}

#[test]
fn a_lost_request_is_sent_again_after_the_timeout() {
    let mut world = opened();
    for i in 0..20 {
        world.read(i * 4096, 4096, ms(100));
    }
    let mut lost = false;
    world.set_network(move |packet, _| {
        if packet.kind() == Read::KIND && !std::mem::replace(&mut lost, true) {
            return Fate::Drop;
        }
        Fate::Deliver
    });
    let time = world.read(1 << 20, 4096, ms(100));
    assert!(time >= ms(10) && time < ms(20), "{time:?}");
}

#[test]
fn repeats_and_reordering_cost_nothing_but_a_count() {
    let mut world = opened();
    let mut state = 1u64;
    world.set_network(move |packet, _| {
        if packet.kind() != ReadData::KIND {
            return Fate::Deliver;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match state >> 61 {
            0..=2 => Fate::Twice,
            3..=5 => Fate::Late(Nanos::from_micros(300)),
            _ => Fate::Deliver,
        }
    });
    world.read(0, IMAGE, Nanos::from_secs(1));
    let counters = *world.session.counters();
    assert!(counters.fragments_late > 100);
    assert_eq!(counters.retries, 0, "within the reorder tolerance nothing is asked again");
    assert_eq!(counters.sum_mismatches, 0);
}

#[test]
fn a_spoilt_unit_is_asked_for_again_and_never_handed_over() {
    let mut world = opened();
    let mut state = 7u64;
    world.set_network(move |packet, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if packet.kind() == ReadData::KIND && state >> 60 == 0 {
            return Fate::Spoil(76 + usize::try_from(state % 1300).unwrap());
        }
        Fate::Deliver
    });
    world.read(0, IMAGE, Nanos::from_secs(2));
    assert!(world.session.counters().sum_mismatches > 50);
}

#[test]
fn any_spoilt_byte_anywhere_never_gives_wrong_bytes() {
    let mut world = opened();
    let mut state = 3u64;
    world.set_network(move |packet, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Only towards the device: the scripted node takes what a device sends at its word.
        if packet.to_device() && state >> 60 == 0 {
            return Fate::Spoil(usize::try_from(state % 2000).unwrap());
        }
        Fate::Deliver
    });
    for i in 0..40 {
        world.read(i * 65_536, 65_536, Nanos::from_secs(30));
    }
}

#[test]
fn heavy_loss_both_ways_still_completes_every_read_without_a_move() {
    for seed in 1..6u64 {
        let mut world = opened();
        let mut state = seed;
        world.set_network(move |_, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let jitter = Nanos::from_micros((state >> 20) % 20_000);
            if (state >> 33).is_multiple_of(20) { Fate::Drop } else { Fate::Late(jitter) }
        });
        for i in 0..60 {
            world.read(i * 4096, 4096, Nanos::from_secs(5));
        }
        world.read(1 << 20, 1 << 20, Nanos::from_secs(60));
        assert_eq!(world.session.counters().moves, 0, "seed {seed}");
    }
}

#[test]
fn pending_stops_repeats_and_forbids_a_move() {
    let mut world = opened();
    world.read(0, 4096, ms(100));
    world.node(1).reads = Reads::Slow(Nanos::from_secs(2));
    let before = world.node(1).reads_seen.len();
    let started = world.now;
    let token = world.start_read(65_536, 4096);
    world.run_for(ms(1900));
    assert_eq!(world.session.state(), State::Streaming);
    world.finish_read(token, 65_536, ms(500));
    assert!(world.now.since(started) < ms(2300));
    let asked = world.node(1).reads_seen.len() - before;
    assert!((2..=9).contains(&asked), "{asked} requests in two seconds");
    assert!(world.session.counters().pending >= 1);
    assert_eq!(world.session.counters().moves, 0);
    // A pending read does not keep the window from others.
    world.node(1).reads = Reads::Answer;
    assert!(world.read(1 << 20, 1 << 20, ms(500)) < ms(100));
}

#[test]
fn busy_is_asked_again_after_the_wait_and_not_before() {
    let mut world = opened();
    world.node(1).reads = Reads::Busy(50);
    let time = world.read(0, 4096, ms(200));
    assert!(time >= ms(50) && time < ms(80), "{time:?}");
    assert_eq!(world.session.counters().busy, 1);
    assert_eq!(world.session.counters().retries, 0);
}

#[test]
fn a_store_error_of_the_only_node_reaches_the_reader() {
    let mut world = opened();
    world.node(1).reads = Reads::Fail(ReadErrorCode::StoreError);
    let token = world.start_read(0, 131_072);
    world.run_until(ms(500), |w| w.result_of(token).is_some());
    assert_eq!(world.result_of(token).unwrap().1, Err(ReadError::Store));
    assert_eq!(world.session.counters().reads_failed, 1);
    world.node(1).reads = Reads::Answer;
    world.read(0, 131_072, ms(100));
}

#[test]
fn a_store_that_takes_too_long_is_held_for_and_never_an_error() {
    let mut world = opened();
    world.node(1).reads = Reads::Fail(ReadErrorCode::StoreTimeout);
    let token = world.start_read(0, 131_072);
    world.run_for(ms(30_000));
    assert!(world.result_of(token).is_none(), "the read is held");
    world.node(1).reads = Reads::Answer;
    world.run_until(ms(2_000), |w| w.result_of(token).is_some());
    assert_eq!(world.result_of(token).unwrap().1, Ok(()));
    assert_eq!(world.session.counters().reads_failed, 0);
}

#[test]
fn extents_are_told_and_asked_for_again_when_lost() {
    let mut world = opened();
    let mut lost = false;
    world.set_network(move |packet, _| {
        if packet.kind() == diskstream_wire::Extents::KIND && !std::mem::replace(&mut lost, true) {
            return Fate::Drop;
        }
        Fate::Deliver
    });
    let now = world.now;
    world.session.extents(77, 0, 65_536, now).unwrap();
    assert_eq!(world.session.extents(78, 1, 4096, now), Err(RefusedReason::Misaligned));
    world.run_until(ms(200), |w| w.count_events(|e| matches!(e, Event::ExtentsDone { .. })) == 1);
    let Some(Event::ExtentsDone { token: 77, offset: 0, result: Ok(runs) }) =
        world.events.iter().find(|e| matches!(e, Event::ExtentsDone { .. }))
    else {
        panic!("{:?}", world.event_names());
    };
    assert_eq!(runs.len(), 8);
    assert_eq!(runs[3], Extent { length: 4096, zero: true });
    assert_eq!(runs[4], Extent { length: 4096, zero: false });
}

#[test]
fn jumbo_fragments_are_used_where_the_path_carries_them() {
    let mut settings = config(1);
    settings.mtu = 9000;
    for (path_bytes, size) in
        [(8972, FragmentSize::B8192), (4300, FragmentSize::B4096), (1472, FragmentSize::B1376)]
    {
        let mut world = World::with_config(settings.clone(), 1, IMAGE);
        world.node(1).path_bytes = path_bytes;
        world.open();
        world.run_for(Nanos::from_secs(2));
        assert_eq!(world.session.status(world.now).fragment_bytes, size.bytes());
        world.read(0, IMAGE, Nanos::from_secs(1));
        // An odd number of units: the last fragment of 8192 holds one.
        world.read(4096 * 5, 4096 * 7, Nanos::from_secs(1));
        assert_eq!(world.node(1).reads_seen.last().unwrap().fragment_size, size);
    }
}

#[test]
fn a_path_that_shrinks_falls_back_and_goes_on() {
    let mut settings = config(1);
    settings.mtu = 9000;
    let mut world = World::with_config(settings, 1, IMAGE);
    world.node(1).path_bytes = 8972;
    world.open();
    world.run_for(Nanos::from_secs(1));
    world.read(0, 1 << 20, ms(500));
    // From now on only small datagrams come through; keep-alives and zero marks do.
    world.node(1).path_bytes = 1472;
    let token = world.start_read(1 << 20, 1 << 20);
    world.finish_read(token, 1 << 20, Nanos::from_secs(3));
    assert_eq!(world.session.status(world.now).fragment_bytes, 1376);
    assert_eq!(world.session.counters().size_fallbacks, 1);
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn a_node_that_takes_its_time_is_no_narrow_path() {
    let mut world = World::with_config(config(1), 1, IMAGE);
    world.open();
    world.read(0, 1 << 20, ms(500));
    // Keep-alives are answered, and probes; reads wait for others'.
    world.node(1).reads = Reads::Ignore;
    let token = world.start_read(1 << 20, 1 << 20);
    world.run_for(Nanos::from_secs(4));
    world.node(1).reads = Reads::Answer;
    world.finish_read(token, 1 << 20, Nanos::from_secs(3));
    assert_eq!(world.session.counters().size_fallbacks, 0);
    assert_eq!(world.session.status(world.now).fragment_bytes, 1376);
}

#[test]
fn a_path_that_loses_data_and_lets_probes_pass_is_served_with_smaller_fragments() {
    let mut settings = config(1);
    settings.mtu = 9000;
    let mut world = World::with_config(settings, 1, IMAGE);
    world.node(1).path_bytes = 8972;
    // As where a card's offload spoils long trains, and single datagrams of the same size pass.
    world.network = Box::new(|packet, _| {
        let data = packet.to_device() && packet.kind() == ReadData::KIND;
        if data && packet.bytes.len() > 8000 { Fate::Drop } else { Fate::Deliver }
    });
    world.open();
    world.run_for(Nanos::from_secs(1));
    assert_eq!(world.session.status(world.now).fragment_bytes, 8192);
    let token = world.start_read(0, 16_384);
    // One unit in such a fragment is short enough to pass, and proves nothing.
    let mut small = 0;
    while world.result_of(token).is_none() {
        assert!(world.now < Nanos::from_secs(10), "the long read is never answered");
        world.read(2 << 20, 4096, Nanos::from_secs(1));
        small += 1;
        world.run_for(ms(50));
    }
    assert!(small > 50, "{small}");
    world.finish_read(token, 0, ms(1));
    world.read(1 << 20, 1 << 20, Nanos::from_secs(1));
    assert_eq!(world.session.status(world.now).fragment_bytes, 1376);
    assert_eq!(world.session.counters().size_fallbacks, 1);
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn what_waits_for_its_turn_at_the_node_is_not_asked_for_twice() {
    let mut world = opened();
    world.read(0, 1 << 20, ms(500));
    // Longer than any time-out that was learnt; answers to keep-alives overtake what waits.
    world.node(1).reads = Reads::Queued(ms(400));
    let keep_alives = world.node(1).keep_alives.len();
    let tokens: Vec<_> = (0..8).map(|n| (world.start_read(n * 65_536, 32_768), n)).collect();
    for (token, n) in tokens {
        world.finish_read(token, n * 65_536, Nanos::from_secs(2));
    }
    assert_eq!(world.session.counters().retries, 0);
    assert_eq!(world.session.counters().size_fallbacks, 0);
    let asked = world.node(1).keep_alives.len() - keep_alives;
    // Ever more seldom: thousands of devices wait at a node that has a long queue.
    assert!((1..12).contains(&asked), "{asked}");
}

#[test]
fn a_node_that_dies_while_reads_are_queued_there_is_left_soon_on_a_lossy_path_too() {
    let mut world = World::new(2, IMAGE);
    world.open();
    world.read(0, 1 << 20, ms(500));
    world.run_for(Nanos::from_secs(1));
    let mut left = 1;
    // A hole: from here on what is late is asked again at once, without the answer to a keep-alive.
    world.set_network(move |packet, _| {
        let hole = packet.to_device() && packet.kind() == ReadData::KIND && left > 0;
        left -= u32::from(hole);
        if hole { Fate::Drop } else { Fate::Deliver }
    });
    world.read(0, 32_768, ms(500));
    world.node(1).reads = Reads::Queued(Nanos::from_secs(20));
    let token = world.start_read(1 << 20, 32_768);
    world.run_for(ms(100));
    world.node(1).down = true;
    let after = world.start_read(2 << 20, 32_768);
    world.finish_read(token, 1 << 20, Nanos::from_secs(2));
    world.finish_read(after, 2 << 20, Nanos::from_secs(2));
    world.run_for(Nanos::from_secs(2));
    assert_eq!(world.session.counters().moves, 1);
}

#[test]
fn a_lost_end_of_an_answer_costs_a_keep_alive_and_no_time_out() {
    let mut world = opened();
    world.read(0, 1 << 20, ms(500));
    let mut left = 1;
    world.set_network(move |packet, _| {
        let last = packet.to_device() && packet.kind() == ReadData::KIND && {
            let Message::ReadData(m) = decode(&packet.bytes).unwrap().message else { panic!() };
            m.offset + u64::from(m.data_bytes) == 255 * 4096 + 32_768
        };
        let lost = last && left > 0;
        left -= u32::from(lost);
        if lost { Fate::Drop } else { Fate::Deliver }
    });
    // The last of its eight units is no hole.
    let token = world.start_read(255 * 4096, 32_768);
    world.finish_read(token, 255 * 4096, ms(8));
    assert_eq!(world.session.counters().retries, 1);
}

#[test]
fn the_window_opens_from_ten_and_stays_below_the_receive_buffer() {
    let mut settings = config(1);
    settings.receive_buffer_bytes = 212_992;
    let mut world = World::with_config(settings, 1, 16 << 20);
    world.open();
    assert_eq!(world.session.status(world.now).window_fragments, 10);
    world.delay = ms(2);
    let token = world.start_read(0, 16 << 20);
    let mut most = 0;
    world.run_until(Nanos::from_secs(20), |w| {
        most = most.max(w.session.status(w.now).window_fragments);
        w.result_of(token).is_some()
    });
    assert_eq!(most, 92);
    assert_eq!(world.session.counters().retries, 0);
}

#[test]
fn a_node_that_did_not_run_for_a_while_costs_no_window() {
    let mut world = World::new(1, 64 << 20);
    world.open();
    world.delay = Nanos::from_micros(100);
    world.read(0, 8 << 20, Nanos::from_secs(5));
    let before = world.session.status(world.now).window_fragments;
    assert!(before > 500, "{before}");
    // For 25 ms everything towards the device waits: longer than a time-out, and nothing is lost.
    let until = world.now + ms(25);
    world.set_network(move |packet, now| {
        if packet.to_device() && now < until { Fate::Late(until.since(now)) } else { Fate::Deliver }
    });
    world.read(8 << 20, 4 << 20, Nanos::from_secs(5));
    let counters = *world.session.counters();
    assert!(counters.probes > 0, "the time-out came");
    assert_eq!(counters.retries, 0, "nothing shows a loss");
    let after = world.session.status(world.now).window_fragments;
    assert!(after >= before * 9 / 10, "{before} fragments before, {after} after");
}

#[test]
fn a_round_trip_that_grew_beyond_the_timeout_is_learnt_from_late_answers() {
    let mut world = World::new(1, 64 << 20);
    world.open();
    world.delay = Nanos::from_micros(100);
    world.read(0, 1 << 20, Nanos::from_secs(5));
    assert_eq!(world.session.counters().retries, 0);
    // From now on a crowd of devices keeps the node busy: every answer comes after the time-out of some 12 ms.
    world.set_network(
        |packet, _| {
            if packet.to_device() { Fate::Late(ms(60)) } else { Fate::Deliver }
        },
    );
    for unit in 0..50 {
        world.read(unit * 4096, 4096, Nanos::from_secs(5));
    }
    let counters = *world.session.counters();
    assert!(counters.probes > 0, "the first time-outs came too early");
    assert!(counters.probes <= 8, "{} probes for 50 reads", counters.probes);
    assert_eq!(counters.retries, 0, "what waits in a queue is not asked for again");
    assert_eq!(counters.moves, 0);
}

#[test]
fn the_nodes_allowance_bounds_the_window() {
    let mut world = World::new(1, IMAGE);
    world.node(1).window = 30;
    world.open();
    world.delay = ms(1);
    world.read(0, IMAGE, Nanos::from_secs(10));
    assert!(world.session.status(world.now).window_fragments <= 30);
}

#[test]
fn keep_alives_carry_the_figures_and_bring_a_ticket() {
    let mut world = opened();
    world.session.set_write_cache_figures(1234, 1 << 30);
    world.read(0, 4096, ms(100));
    world.node(1).ticket = b"a fresher ticket".to_vec();
    world.run_for(Nanos::from_secs(40));
    let keep_alive = world.node(1).last_keep_alive.unwrap();
    assert_eq!(keep_alive.reads, 1);
    assert_eq!(keep_alive.write_cache_used_bytes, 1234);
    assert_eq!(keep_alive.write_cache_bytes, 1 << 30);
    assert!(keep_alive.srtt_us > 50 && keep_alive.srtt_us < 1000, "{}", keep_alive.srtt_us);
    assert_eq!(world.session.counters().probes, 0);
    // Half of the ticket's seven days later it asks for another.
    world.run_for(Nanos::from_secs(4 * 86_400));
    assert!(world.session.status(world.now).ticket_age_s.unwrap() < 86_400);
    assert_eq!(world.session.counters().moves, 0);
}

#[test]
fn foreign_tags_and_sources_change_nothing() {
    let mut world = opened();
    world.record = true;
    world.set_network(|packet, _| {
        if packet.kind() == ReadData::KIND { Fate::Late(ms(5)) } else { Fate::Deliver }
    });
    let token = world.start_read(0, 8192);
    world.run_for(ms(4));
    let answers: Vec<_> =
        world.sent.iter().filter(|p| p.kind() == ReadData::KIND).cloned().collect();
    assert_eq!(answers.len(), 6);
    for packet in answers {
        let mut bytes = packet.bytes.clone();
        bytes[100] ^= 0xff;
        let mut stranger = packet.from;
        stranger.set_port(9999);
        let now = world.now;
        world.session.handle_datagram(Channel::Io, stranger, &bytes, now);
        bytes[12] ^= 0xff;
        world.session.handle_datagram(Channel::Io, packet.from, &bytes, now);
    }
    assert_eq!(world.session.counters().foreign, 12);
    world.finish_read(token, 0, ms(100));
    assert_eq!(world.session.counters().sum_mismatches, 0);
}

#[test]
fn detaching_tells_the_node_and_fails_what_is_outstanding() {
    let mut world = opened();
    world.node(1).reads = Reads::Ignore;
    let token = world.start_read(0, 4096);
    world.run_for(ms(1));
    let now = world.now;
    world.session.detach(now);
    world.run_until(ms(100), |w| w.session.state() == State::Closed);
    assert_eq!(world.result_of(token).unwrap().1, Err(ReadError::Closed));
    assert_eq!(world.node(1).closed, [diskstream_wire::CloseReason::Detached]);
    assert_eq!(world.count_events(|e| matches!(e, Event::Closed)), 1);
    let refused = world.session.read(1, 0, vec![0; 4096], now).unwrap_err();
    assert_eq!(refused.reason, RefusedReason::Closed);
    assert_eq!(world.session.next_deadline(), Nanos::NEVER);
}

#[test]
fn detaching_from_a_dead_node_ends_too() {
    let mut world = opened();
    world.node(1).down = true;
    let now = world.now;
    world.session.detach(now);
    world.run_until(Nanos::from_secs(1), |w| w.session.state() == State::Closed);
}
