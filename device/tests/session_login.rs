//! Login: the order of the steps, and what follows from every answer.

mod session_support;

use diskstream_device::session::{Event, MoveCause, SessionConfig, State};
use diskstream_wire::{BusyReason, Capabilities, Flags, LoginKind, Nanos, Read, RejectReason};
use session_support::{Fate, Image, World, config, mac, ms, node_addr};

const IMAGE: usize = 1 << 20;

#[test]
fn the_steps_come_in_pvs_order() {
    let mut world = World::new(2, IMAGE);
    world.record = true;
    world.open();
    assert_eq!(world.kinds_sent(), [0x01, 0x03, 0x07, 0x09, 0x0b, 0x20, 0x0d]);
    let first_read = world.sent.iter().find(|p| p.kind() == Read::KIND).unwrap();
    let (read, _) = Read::decode(&first_read.bytes).unwrap();
    assert!(read.flags.has(Flags::SINGLE) && read.length == 512);
    let handshake = world.node(1).last_handshake.unwrap();
    assert_eq!(handshake.notice_port, 6902);
    assert_eq!(handshake.datagram_bytes, 1472);
    assert_eq!(handshake.capabilities, Capabilities::OURS);
    assert_eq!(world.session.state(), State::Streaming);
    let status = world.session.status(world.now);
    assert_eq!(status.node, Some(node_addr(1)));
    assert_eq!(status.vdisk, "debian");
    assert_eq!(status.device_name, "lab-17");
    assert_eq!(status.size_bytes, IMAGE as u64);
    assert_eq!(status.eligible_nodes, 2);
    assert_eq!(world.session.counters().logins, 1);
}

#[test]
fn a_login_node_may_transfer_to_another_node() {
    let mut world = World::new(2, IMAGE);
    world.node(1).transfer_to = Some(node_addr(2));
    world.open();
    assert_eq!(world.session.status(world.now).node, Some(node_addr(2)));
    assert!(world.node(1).sessions.is_empty());
    world.read(0, 65_536, ms(100));
}

#[test]
fn every_datagram_of_a_login_may_be_lost_once() {
    for lost in 0..14 {
        let mut world = World::new(1, IMAGE);
        let mut seen = 0;
        world.set_network(move |_, _| {
            seen += 1;
            if seen == lost + 1 { Fate::Drop } else { Fate::Deliver }
        });
        world.run_until(ms(400), |w| w.session.disk().is_some());
        world.read(0, 4096, ms(100));
    }
}

#[test]
fn half_of_everything_lost_still_leads_to_an_open_session() {
    for seed in 0..20u64 {
        let mut world = World::new(2, IMAGE);
        let mut state = seed * 2_654_435_761 + 1;
        world.set_network(move |_, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if state >> 63 == 0 { Fate::Drop } else { Fate::Deliver }
        });
        world.run_until(Nanos::from_secs(120), |w| w.session.disk().is_some());
    }
}

#[test]
fn proofs_bind_the_cookie_and_the_ticket() {
    let key = [0x42; 32];
    let mut settings = config(1);
    settings.device_key = Some(key);
    settings.vdisk = Some("debian".to_owned());
    let mut world = World::with_config(settings, 1, IMAGE);
    world.open();
    let (start, tail) = world.node(1).last_start.clone().unwrap();
    assert!(tail.is_empty());
    assert_eq!(start.login_kind, LoginKind::Boot);
    assert_eq!(start.vdisk.as_str(), "debian");
    let proof = |bound: &[u8], nonce: &[u8]| {
        let text = [bound, nonce, &mac().0].concat();
        *blake3::keyed_hash(&key, &text).as_bytes()
    };
    assert_eq!(start.proof, proof(&start.cookie, &start.device_nonce));
    let (service, ticket) = world.node(1).last_service.clone().unwrap();
    let bound = [&ticket[..], &service.former_tag.to_le_bytes()].concat();
    assert_eq!(service.proof, proof(&bound, &service.device_nonce));
    assert_ne!(start.device_nonce, service.device_nonce);
}

#[test]
fn a_dead_first_server_delays_little() {
    let mut world = World::new(3, IMAGE);
    world.node(1).down = true;
    world.run_until(ms(200), |w| w.session.disk().is_some());
    assert_eq!(world.session.status(world.now).node, Some(node_addr(2)));
}

#[test]
fn busy_is_waited_out_and_told() {
    let mut world = World::new(1, IMAGE);
    world.node(1).busy = Some((10_000, BusyReason::BootLimit));
    world.record = true;
    world.run_for(Nanos::from_secs(9));
    assert_eq!(world.kinds_sent().len(), 1, "not to be repeated sooner");
    let busy = |e: &Event| matches!(e, Event::Busy { wait, reason: BusyReason::BootLimit, .. } if *wait == Nanos::from_secs(10));
    assert_eq!(world.count_events(busy), 1);
    world.node(1).busy = None;
    world.run_until(Nanos::from_secs(6), |w| w.session.disk().is_some());
}

#[test]
fn every_rejection_is_reported_with_its_text_and_retried_slowly() {
    for &(reason, _, label) in RejectReason::ALL {
        let mut world = World::new(1, IMAGE);
        world.node(1).reject = Some(reason);
        world.record = true;
        world.run_for(Nanos::from_millis(1900));
        let told = |e: &Event| {
            matches!(e, Event::Rejected { reason: r, text, node }
                if *r == reason && text.as_str() == "because the test says so" && *node == node_addr(1))
        };
        assert_eq!(world.count_events(told), 1, "{label}");
        assert_eq!(world.session.state(), State::LoggingIn);
        world.run_for(Nanos::from_secs(60));
        let told = world.count_events(told);
        assert!((4..=40).contains(&told), "{label}: told {told} times in a minute");
        world.node(1).reject = None;
        world.run_until(Nanos::from_secs(15), |w| w.session.disk().is_some());
    }
}

#[test]
fn a_device_whose_address_changed_is_in_again_soon_after_the_node_forgets_the_old_one() {
    let mut world = World::new(1, IMAGE);
    world.open();
    // From its new address the node knows no session of it; the old one counts as alive for five seconds.
    world.node(1).restart();
    world.node(1).reject = Some(RejectReason::DuplicateDevice);
    world.node(1).reject_service = Some(RejectReason::DuplicateDevice);
    let token = world.start_read(0, 4096);
    world.run_for(Nanos::from_secs(5));
    let refused = world.session.counters().rejects;
    assert!((3..=12).contains(&refused), "not asked all the time: {refused}");
    world.node(1).reject = None;
    world.node(1).reject_service = None;
    // A second and a quarter, and the pause between two rounds.
    world.finish_read(token, 0, Nanos::from_millis(2300));
}

#[test]
fn a_duplicate_that_never_had_a_session_waits_for_a_person() {
    let mut world = World::new(1, IMAGE);
    world.node(1).reject = Some(RejectReason::DuplicateDevice);
    world.run_for(Nanos::from_millis(9900));
    assert_eq!(world.session.counters().rejects, 1);
}

#[test]
fn another_server_takes_the_device_that_the_first_rejects() {
    let mut world = World::new(2, IMAGE);
    world.node(1).reject = Some(RejectReason::NoRoom);
    world.run_until(ms(200), |w| w.session.disk().is_some());
    assert_eq!(world.session.status(world.now).node, Some(node_addr(2)));
}

#[test]
fn answers_with_a_wrong_number_or_from_elsewhere_are_nothing() {
    // Every answer arrives first from an address that was not asked, then with a wrong transaction number.
    let mut world = World::new(1, IMAGE);
    world.set_network(
        |packet, _| if packet.to_device() { Fate::Late(ms(20)) } else { Fate::Deliver },
    );
    let mut forged = 0;
    for _ in 0..400 {
        if world.session.disk().is_some() {
            break;
        }
        let target = world.now + ms(1);
        world.record = true;
        world.sent.clear();
        while world.step(target) {}
        let answers: Vec<_> = world.sent.iter().filter(|p| p.to_device()).cloned().collect();
        for packet in answers {
            let channel = diskstream_device::session::Channel::Io;
            let mut stranger = packet.from;
            stranger.set_ip([10, 9, 9, 9].into());
            let before = *world.session.counters();
            world.session.handle_datagram(channel, stranger, &packet.bytes, world.now);
            let mut bytes = packet.bytes.clone();
            bytes[15] ^= 1;
            world.session.handle_datagram(channel, packet.from, &bytes, world.now);
            assert_eq!(
                world.session.counters().foreign,
                before.foreign + 2,
                "kind {:#x}",
                packet.kind()
            );
            forged += 2;
        }
    }
    assert!(world.session.disk().is_some());
    assert!(forged >= 14, "each of the seven answers was forged: {forged}");
}

#[test]
fn an_io_service_outside_the_list_is_not_used() {
    let mut world = World::new(1, IMAGE);
    world.node(1).io_port = Some("10.66.66.66:6911".parse().unwrap());
    world.run_for(Nanos::from_secs(3));
    assert!(world.session.disk().is_none());
    assert!(world.session.counters().implausible > 0);
    assert!(world.node(1).last_service.is_none());
}

#[test]
fn a_refused_ticket_leads_to_a_full_login() {
    for reason in [RejectReason::BadProof, RejectReason::TicketExpired] {
        let mut world = World::new(2, IMAGE);
        world.open();
        world.read(0, 4096, ms(100));
        // Node 1 dies; node 2 does not take the ticket the first time.
        world.node(1).down = true;
        world.node(2).ticket = b"sealed with another key".to_vec();
        let token = world.start_read(65_536, 4096);
        world.finish_read(token, 65_536, Nanos::from_secs(2));
        assert_eq!(world.session.status(world.now).node, Some(node_addr(2)));
        assert_eq!(world.session.counters().rejects, 1, "{reason}");
        assert_eq!(world.count_events(|e| matches!(e, Event::Rejected { .. })), 0);
        let (start, _) = world.node(2).last_start.clone().unwrap();
        assert_eq!(start.ticket_bytes, 0);
        let _ = reason;
    }
}

#[test]
fn another_content_is_never_gone_on_with() {
    let mut world = World::new(2, IMAGE);
    world.open();
    world.read(0, 4096, ms(100));
    world.node(2).image = Image::new(IMAGE + 4096);
    world.node(1).down = true;
    let token = world.start_read(4096, 4096);
    world.run_for(Nanos::from_secs(30));
    assert!(world.result_of(token).is_none(), "held");
    assert_eq!(world.session.state(), State::Holding);
    let told = |e: &Event| matches!(e, Event::WrongContent { node, offered: Some(_), .. } if *node == node_addr(2));
    assert!(world.count_events(told) >= 1);
    assert!(world.count_events(told) < 12, "not told all the time");
    // The first node comes back with what the device reads.
    world.node(1).restart();
    world.finish_read(token, 4096, Nanos::from_secs(5));
    let moved = |e: &Event| {
        matches!(e, Event::Moved { cause: MoveCause::NodeSilent | MoveCause::UnknownSession, .. })
    };
    assert!(world.count_events(moved) >= 1);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let bad = [
        (SessionConfig::new(vec![], mac()), "0 servers"),
        (SessionConfig::new(vec!["10.0.0.1:0".parse().unwrap()], mac()), "10.0.0.1:0"),
        (SessionConfig { request_bytes: 5000, ..config(1) }, "5000"),
        (SessionConfig { mtu: 900, ..config(1) }, "900"),
        (SessionConfig { mac: diskstream_wire::Mac::default(), ..config(1) }, "MAC"),
    ];
    for (settings, part) in bad {
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    config(32).check().unwrap();
}
