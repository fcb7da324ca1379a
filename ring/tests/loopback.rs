//! UDP through the ring and back, in every combination of features, against a plain socket's view of the same traffic.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use common::{V4, V6, add, config, ring, turn_until};
use diskstream_ring::{Completion, Features, LocalAddr, Received, Ring, SendPlan, SocketConfig};

/// A train of `segments` recognizable datagrams; arena bytes alternate with scratch.
fn train(
    ring_arena: &diskstream_ring::Arena,
    segments: usize,
    segment_bytes: usize,
) -> Box<SendPlan> {
    let mut plan = SendPlan::new();
    // SAFETY: the test's only arena user; nothing is in flight yet.
    let bytes = unsafe { ring_arena.bytes_mut(0, 1 << 20) };
    for segment in 0..segments {
        let header = u64::try_from(segment).unwrap().to_be_bytes();
        let offset = segment * 8192;
        let data = segment_bytes - header.len();
        bytes[offset..offset + data].fill(u8::try_from(segment + 1).unwrap());
        plan.push_scratch(&header).unwrap();
        plan.push_arena(offset, data).unwrap();
        plan.push_pin(u64::try_from(offset).unwrap()).unwrap();
    }
    plan.segment_bytes = u16::try_from(segment_bytes).unwrap();
    plan.token = 77;
    plan
}

fn check_segment(segment: &[u8], segment_bytes: usize, seen: &mut Vec<u64>) {
    assert_eq!(segment.len(), segment_bytes);
    let (header, data) = segment.split_first_chunk::<8>().unwrap();
    let number = u64::from_be_bytes(*header);
    assert!(data.iter().all(|byte| u64::from(*byte) == number + 1));
    seen.push(number);
}

/// Sends a train from one socket of a ring to another and checks every byte.
fn exchange(permit: Features, addr: &str, gro: bool, packet_info: bool, connect: bool) {
    let arena = common::arena(1 << 20);
    let config_ring = diskstream_ring::RingConfig { permit, ..common::small() };
    let mut ring = Ring::new(&config_ring, Some(arena.clone())).unwrap();
    let (_, to) = add(&mut ring, &SocketConfig { gro, packet_info, ..config(addr) });
    let connect = connect.then_some(to);
    let (sender, from) = add(&mut ring, &SocketConfig { connect, ..config(addr) });
    let (segments, segment_bytes) = (40, 1452);
    let mut plan = train(&arena, segments, segment_bytes);
    plan.peer = to;
    plan.local = packet_info.then_some(LocalAddr::new(from.ip()));
    ring.send(sender, plan).unwrap();

    #[derive(Default)]
    struct State {
        seen: Vec<u64>,
        trains: usize,
        sent: bool,
    }
    let mut state = State::default();
    let each = |ring: &mut Ring, state: &mut State, completion| match completion {
        Completion::Received(received) => {
            let datagram = ring.datagram(&received);
            assert_eq!(datagram.from, from);
            assert_eq!(datagram.local.map(|local| local.ip), packet_info.then_some(to.ip()));
            assert_eq!(datagram.interface != 0, packet_info);
            state.trains += 1;
            for segment in datagram.segments() {
                check_segment(segment, segment_bytes, &mut state.seen);
            }
            ring.recycle(received);
        }
        Completion::Sent { socket, plan, result } => {
            assert_eq!((socket, plan.token, plan.pins().len()), (sender, 77, segments));
            assert_eq!(result, Ok(u32::try_from(segments * segment_bytes).unwrap()));
            state.sent = true;
        }
        other => panic!("{other:?}"),
    };
    turn_until(&mut ring, &mut state, each, |state| state.sent && state.seen.len() == segments);
    state.seen.sort_unstable();
    assert!(state.seen.iter().copied().eq(0..40));
    let features = ring.features();
    // A loopback keeps a segmented send in one piece up to a socket that takes trains.
    if gro && features.gro && features.gso {
        assert!(state.trains < segments, "trains arrive joined");
    } else if !features.gro || !gro {
        assert_eq!(state.trains, segments);
    }
    let stats = ring.stats();
    assert_eq!(stats.datagrams_received, 40);
    assert_eq!(stats.datagrams_sent, 40);
    assert_eq!(stats.bytes_sent, stats.bytes_received);
    assert_eq!((stats.overflows, stats.receives_truncated), (0, 0));
    assert_eq!((ring.buffers_outstanding(), ring.sends_outstanding()), (0, 0));
}

#[test]
fn every_combination_of_twins() {
    let without_gso = Features { gso: false, ..Features::ALL };
    let without_gro = Features { gro: false, ..Features::ALL };
    let single = Features { multishot_receive: false, ..Features::ALL };
    let plain_files = Features { registered_files: false, ..Features::ALL };
    let interrupting = Features { defer_taskrun: false, ..Features::ALL };
    for permit in [
        Features::ALL,
        Features::NONE,
        without_gso,
        without_gro,
        without_gso.and(without_gro),
        single,
        single.and(without_gso),
        plain_files,
        interrupting,
    ] {
        for addr in [V4, V6] {
            for gro in [true, false] {
                exchange(permit, addr, gro, false, false);
                exchange(permit, addr, gro, true, false);
            }
            exchange(permit, addr, true, false, true);
        }
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut ring = ring(Features::ALL);
    // The whole of 127/8 is this host.
    let (server, bound) =
        add(&mut ring, &SocketConfig { packet_info: true, ..config("0.0.0.0:0") });
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(common::PATIENCE.as_duration())).unwrap();
    client.send_to(b"who are you", ("127.0.0.77", bound.port())).unwrap();
    let each = |ring: &mut Ring, answered: &mut bool, completion| match completion {
        Completion::Received(received) => {
            let datagram = ring.datagram(&received);
            let mut plan = SendPlan::new();
            plan.push_scratch(datagram.payload).unwrap();
            (plan.peer, plan.local) = (datagram.from, datagram.local);
            ring.send(server, plan).unwrap();
            ring.recycle(received);
        }
        Completion::Sent { result, .. } => {
            assert_eq!(result, Ok(11));
            *answered = true;
        }
        other => panic!("{other:?}"),
    };
    turn_until(&mut ring, &mut false, each, |answered| *answered);
    let mut buffer = [0; 64];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"who are you");
    assert_eq!(from.to_string(), format!("127.0.0.77:{}", bound.port()));
}

#[test]
fn refusals_of_a_connected_peer_are_reported_and_receiving_goes_on() {
    for permit in [Features::ALL, Features::NONE] {
        let mut ring = ring(permit);
        let gone = std::net::UdpSocket::bind(V4).unwrap();
        let to = gone.local_addr().unwrap();
        let (socket, from) = add(&mut ring, &SocketConfig { connect: Some(to), ..config(V4) });
        drop(gone);
        let mut plan = SendPlan::new();
        plan.push_scratch(b"anybody?").unwrap();
        ring.send(socket, plan).unwrap();
        let each = |_: &mut Ring, refused: &mut bool, completion| match completion {
            Completion::SocketError { socket: at, error } => {
                assert_eq!((at, error), (socket, diskstream_ring::Errno::ECONNREFUSED));
                *refused = true;
            }
            Completion::Sent { result, .. } => *refused |= result.is_err(),
            other => panic!("{other:?}"),
        };
        turn_until(&mut ring, &mut false, each, |refused| *refused);
        let back = std::net::UdpSocket::bind(to).unwrap();
        back.send_to(b"here", from).unwrap();
        let each = |ring: &mut Ring, seen: &mut bool, completion| {
            if let Completion::Received(received) = completion {
                assert_eq!(ring.datagram(&received).payload, b"here");
                ring.recycle(received);
                *seen = true;
            }
        };
        turn_until(&mut ring, &mut false, each, |seen| *seen);
    }
}

#[test]
fn too_long_a_datagram_is_dropped_and_counted() {
    for permit in [Features::ALL, Features::NONE] {
        let tiny =
            diskstream_ring::RingConfig { recv_buffer_bytes: 100, permit, ..common::small() };
        let mut ring = Ring::new(&tiny, None).unwrap();
        let (_, to) = add(&mut ring, &config(V4));
        let client = std::net::UdpSocket::bind(V4).unwrap();
        client.send_to(&[1; 101], to).unwrap();
        client.send_to(&[2; 100], to).unwrap();
        client.send_to(&[], to).unwrap();
        let mut lengths = Vec::new();
        let each = |ring: &mut Ring, lengths: &mut Vec<usize>, completion| {
            let Completion::Received(received) = completion else { panic!("{completion:?}") };
            lengths.push(ring.datagram(&received).payload.len());
            ring.recycle(received);
        };
        turn_until(&mut ring, &mut lengths, each, |lengths| lengths.len() == 2);
        assert_eq!(lengths, [100, 0]);
        assert_eq!(ring.stats().receives_truncated, 1);
        assert_eq!(ring.buffers_outstanding(), 0);
    }
}

#[test]
fn a_train_cut_off_keeps_its_whole_datagrams() {
    let arena = common::arena(1 << 20);
    let tiny = diskstream_ring::RingConfig { recv_buffer_bytes: 3000, ..common::small() };
    let mut ring = Ring::new(&tiny, Some(arena.clone())).unwrap();
    if !ring.features().gro || !ring.features().gso {
        eprintln!("SKIPPED: needs GSO and GRO");
        return;
    }
    let (_, to) = add(&mut ring, &SocketConfig { gro: true, ..config(V4) });
    let (sender, _) = add(&mut ring, &config(V4));
    let mut plan = train(&arena, 10, 700);
    plan.peer = to;
    ring.send(sender, plan).unwrap();
    let mut seen = Vec::new();
    let each = |ring: &mut Ring, seen: &mut Vec<u64>, completion| {
        if let Completion::Received(received) = completion {
            for segment in ring.datagram(&received).segments() {
                check_segment(segment, 700, seen);
            }
            ring.recycle(received);
        }
    };
    turn_until(&mut ring, &mut seen, each, |seen| !seen.is_empty());
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(ring.stats().receives_truncated, 1);
}

#[test]
#[should_panic(expected = "another ring")]
fn a_buffer_is_not_given_back_to_another_ring() {
    let (mut one, mut other) = (ring(Features::ALL), ring(Features::ALL));
    let (_, to) = add(&mut one, &config(V4));
    std::net::UdpSocket::bind(V4).unwrap().send_to(b"x", to).unwrap();
    let mut held: Option<Received> = None;
    let each = |_: &mut Ring, held: &mut Option<Received>, completion| {
        if let Completion::Received(received) = completion {
            *held = Some(received);
        }
    };
    turn_until(&mut one, &mut held, each, Option::is_some);
    other.recycle(held.unwrap());
}
