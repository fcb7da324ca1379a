//! Bytes from anywhere: counted by reason, no answer where none is due, never more bytes than were paid for.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::net::SocketAddr;

use diskstream_node::shard::SocketRole;
use diskstream_wire::{Flags, Kind, LoginKind, Message, Nanos, decode};
use proptest::prelude::*;

use shard_support::device::Device;
use shard_support::{Setup, UNIT, World, addr};

/// Sends bytes to both sockets from an address; gives what came back.
fn throw(world: &mut World, from: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
    for socket in [SocketRole::Login, SocketRole::Io] {
        world.datagram(0, socket, from, bytes);
    }
    world.run();
    world.mail_for(from).into_iter().map(|mail| mail.bytes).collect()
}

fn refusals(world: &World) -> u64 {
    let c = world.counters(0);
    let metrics = diskstream_node::shard::METRICS.iter();
    let refusals = metrics.filter(|metric| metric.name == "refusals_total");
    refusals
        .map(|metric| match metric.get {
            diskstream_node::shard::Get::Value(get) => get(&c).get(),
            diskstream_node::shard::Get::Histogram(_) => 0,
        })
        .sum()
}

/// One datagram of every kind that a device sends, as its own session would.
fn every_request(device: &mut Device) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut push = |write: &dyn Fn(&mut [u8]) -> usize| {
        let mut buf = [0; 1400];
        let length = write(&mut buf);
        out.push(buf[..length].to_vec());
    };
    let read = device.read_message(0, UNIT);
    let (tag, session, generation) = (device.tag, device.session, device.generation);
    push(&|buf| device.login_port_request().encode(buf));
    push(&|buf| device.login_start().encode_with_tail(&device.ticket, buf));
    push(&|buf| {
        diskstream_wire::IoPortRequest { mac: device.mac, ..Default::default() }.encode(buf)
    });
    push(&|buf| device.start().encode_with_tail(&device.ticket, buf));
    push(&|buf| device.handshake().encode(buf));
    push(&|buf| read.encode(buf));
    push(&|buf| {
        diskstream_wire::VdiskInfoRequest { tag, session, ..Default::default() }.encode(buf)
    });
    push(&|buf| diskstream_wire::KeepAlive { tag, session, ..Default::default() }.encode(buf));
    push(&|buf| {
        diskstream_wire::ExtentsRequest {
            tag,
            session,
            generation,
            length: 4096,
            ..Default::default()
        }
        .encode(buf)
    });
    push(&|buf| {
        let probe_bytes = 48;
        diskstream_wire::PathProbe { tag, session, probe_bytes, ..Default::default() }.encode(buf)
    });
    push(&|buf| diskstream_wire::NoticeAck { tag, session, ..Default::default() }.encode(buf));
    push(&|buf| diskstream_wire::SessionClose { tag, session, ..Default::default() }.encode(buf));
    out
}

#[test]
fn truncated_damaged_and_foreign_bytes_are_counted_and_not_answered() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    let stranger = addr("192.0.2.1:999");
    for request in every_request(&mut device) {
        let before = refusals(&world);
        for length in 0..request.len() {
            assert!(throw(&mut world, stranger, &request[..length]).is_empty(), "cut to {length}");
        }
        assert_eq!(refusals(&world) - before, 2 * request.len() as u64);
        for (at, value) in [(0, 0), (2, 9), (3, 0xee), (6, 0xff)] {
            let mut damaged = request.clone();
            damaged[at] = value;
            assert!(throw(&mut world, stranger, &damaged).is_empty());
        }
    }
    let c = world.counters(0);
    for counter in [
        &c.refused_too_short,
        &c.refused_bad_magic,
        &c.refused_unsupported_version,
        &c.refused_unknown_kind,
        &c.refused_bad_length,
    ] {
        assert!(counter.get() > 0);
    }
    // What nodes send is nothing to say to a node.
    for kind in [Kind::ReadData, Kind::LoginTransfer, Kind::Notice] {
        let mut bytes = vec![0; kind.bytes()];
        let length = bytes.len();
        diskstream_wire::header::Header::store(
            kind.code(),
            Flags::NONE,
            length,
            device.tag,
            &mut bytes,
        );
        assert!(throw(&mut world, device.at, &bytes).is_empty());
    }
    assert_eq!(c.refused_not_ours.get(), 6);
    device.read_right(&mut world, 0, UNIT);
}

#[test]
fn a_session_is_its_devices_alone() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    let requests = every_request(&mut device);
    let of_session = requests.iter().filter(|bytes| {
        let kind = decode(bytes).unwrap().message.kind();
        !matches!(
            kind,
            Kind::LoginPortRequest | Kind::LoginStart | Kind::IoPortRequest | Kind::IoServiceStart
        )
    });
    let (mut tags, mut addresses) = (0, 0);
    for request in of_session {
        let silent = decode(request).unwrap().message.kind() == Kind::NoticeAck;
        // The right tag from a wrong address; a wrong tag from the right one; an index that is nobody's.
        let elsewhere = SocketAddr::new(device.at.ip(), 1);
        let answers = throw(&mut world, elsewhere, request);
        assert_unknown(request, &answers, silent);
        addresses += 1;
        let mut forged = request.clone();
        forged[15] ^= 1;
        let answers = throw(&mut world, device.at, &forged);
        assert_unknown(&forged, &answers, silent);
        tags += 1;
        let mut nobody = request.clone();
        if decode(request).unwrap().message.kind() != Kind::LoginStart {
            nobody[32..36].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
            let answers = throw(&mut world, device.at, &nobody);
            assert_unknown(&nobody, &answers, silent);
        }
    }
    let c = world.counters(0);
    assert_eq!((c.refused_wrong_tag.get(), c.refused_wrong_address.get()), (tags, addresses));
    assert_eq!(c.refused_unknown_session.get(), tags);
    device.read_right(&mut world, 0, UNIT);
}

/// At most one answer: "unknown", echoing the tag, no longer than the question.
fn assert_unknown(request: &[u8], answers: &[Vec<u8>], silent: bool) {
    if silent {
        return assert!(answers.is_empty());
    }
    let [answer] = answers else { panic!("one answer, not {answers:?}") };
    let Message::UnknownSession(unknown) = decode(answer).unwrap().message else {
        panic!("{answer:?}")
    };
    assert_eq!(unknown.tag.to_be_bytes(), request[8..16]);
    assert_eq!(unknown.session.to_be_bytes(), request[32..36]);
    assert!(answer.len() <= request.len());
}

#[test]
fn an_unknown_session_echoes_the_request() {
    let mut world = World::new(Setup::default());
    let mut stale = Device { tag: 77, session: 5, ..Device::new(1) };
    let read = stale.read_message(0, UNIT);
    stale.send_read(&mut world, &read);
    world.run();
    let mail = world.mail_for(stale.at);
    let Message::UnknownSession(unknown) = mail[0].message() else { panic!("{mail:?}") };
    assert_eq!((unknown.request_id, unknown.tag, unknown.session), (read.request_id, 77, 5));
}

/// Everything that a stranger can say before it has proved its address earns at most as many bytes.
#[test]
fn nothing_larger_than_its_request_goes_to_an_address_that_proved_nothing() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1);
    device.login(&mut world);
    let ticket = device.ticket.clone();
    let spoofed = addr("198.51.100.7:53");
    for kind in [LoginKind::Boot, LoginKind::Reconnect, LoginKind::Standby, LoginKind::Other(9)] {
        for n in 1..30 {
            let mut liar = Device { at: spoofed, kind, nonce: [n; 16], ..device.clone() };
            liar.ticket.clone_from(&ticket);
            liar.session = u32::from(n);
            for request in every_request(&mut liar) {
                let paid = request.len();
                for socket in [SocketRole::Login, SocketRole::Io] {
                    world.datagram(0, socket, spoofed, &request);
                    world.run();
                    let earned: usize = world.mail_for(spoofed).iter().map(|m| m.bytes.len()).sum();
                    assert!(earned <= paid, "{:?}: {earned} > {paid}", decode(&request));
                }
            }
        }
    }
    assert!(world.shards[0].sessions().count() <= 4);
    // The device whose ticket it was is not harmed.
    device.nonce = [200; 16];
    device.try_start(&mut world);
    assert_eq!(device.shake_hands(&mut world).accepted, 1);
    world.pass(Nanos::from_secs(12));
    assert_eq!(world.shards[0].sessions().count(), 1);
}

fn bytes_of_some_kind() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(Kind::ALL);
    let fields = prop::collection::vec(any::<u8>(), 0..300);
    (kinds, fields, any::<u16>(), 0u32..4, any::<bool>()).prop_map(
        |(kind, fields, flags, session, fits)| {
            let mut bytes = vec![0; kind.bytes().max(36) + fields.len() % 64];
            let room = bytes.len() - 32;
            let take = fields.len().min(room);
            bytes[32..32 + take].copy_from_slice(&fields[..take]);
            let length = if fits { bytes.len() } else { bytes.len() - take.min(8) };
            diskstream_wire::header::Header::store(
                kind.code(),
                Flags(flags),
                length,
                0,
                &mut bytes,
            );
            bytes[32..36].copy_from_slice(&session.to_be_bytes());
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bytes, and any values in well-formed messages, from strangers and with a session's own tag and address: nobody
    /// panics, every invariant holds, and a device beside them reads what it should.
    #[test]
    fn any_bytes_leave_the_node_whole(
        raw in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..256), 0..8),
        shaped in prop::collection::vec((bytes_of_some_kind(), any::<bool>()), 0..24),
        slow_disk in any::<bool>(),
    ) {
        let mut world = World::new(Setup { frames: 2, ..Setup::default() });
        let mut honest = Device::new(1).connect(&mut world);
        let insider = Device::new(2).connect(&mut world);
        world.disk_runs = !slow_disk;
        for bytes in &raw {
            throw(&mut world, addr("192.0.2.1:999"), bytes);
        }
        for (bytes, inside) in &shaped {
            let mut bytes = bytes.clone();
            if *inside {
                bytes[8..16].copy_from_slice(&insider.tag.to_be_bytes());
                bytes[32..36].copy_from_slice(&insider.session.to_be_bytes());
            }
            world.datagram(0, SocketRole::Io, insider.at, &bytes);
            world.datagram(0, SocketRole::Login, insider.at, &bytes);
            world.pass(Nanos::from_millis(3));
        }
        world.disk_runs = true;
        world.run();
        world.mail.clear();
        honest.read_right(&mut world, 3 * 65_536 - 4096, 2 * UNIT);
        world.assert_at_rest();
    }

    /// Valid reads in any order, with any repeats, disk order, faults and closings: each gets its bytes or a typed answer,
    /// and nothing leaks.
    #[test]
    fn any_history_of_reads_comes_to_rest(
        steps in prop::collection::vec((0u8..10, 0u64..15, 1usize..17, any::<u64>()), 1..60),
        size in prop::sample::select(vec![1u8, 2, 3, 4]),
        frames in 1usize..6,
    ) {
        let size = diskstream_wire::FragmentSize::from_code(size);
        let mut world = World::new(Setup { shards: 2, frames, ..Setup::default() });
        let device = |world: &mut World, shard| {
            let new = Device::on_shard(world, shard, 1);
            Device { fragment_size: size, ..new }.connect(world)
        };
        let mut devices = [device(&mut world, 0), device(&mut world, 1)];
        world.disk_runs = false;
        world.messages_run = false;
        let mut reads = Vec::new();
        for (action, offset, units, pick) in steps {
            let shard = (pick % 2) as usize;
            match action {
                0..=4 => {
                    let offset = offset * 65_536 / 2 * 2 + (pick >> 8) % 16 * 4096;
                    let length = (units * UNIT).min(world.image.len() - offset as usize);
                    let mut read = devices[shard].read_message(offset, length);
                    read.wanted &= pick | 1 << (pick % 4);
                    if read.wanted & size.all(length) == 0 || length == 0 {
                        continue;
                    }
                    devices[shard].send_read(&mut world, &read);
                    reads.push((shard, read));
                }
                5 => if let Some(&(shard, read)) = reads.get(pick as usize % reads.len().max(1)) {
                    let again = diskstream_wire::Read { flags: Flags::AGAIN, attempt: 1, ..read };
                    devices[shard].send_read(&mut world, &again);
                },
                6 => if let Some((shard, read)) = world.disk.pop_back() {
                    world.answer(shard, &read);
                },
                7 => if let Some((shard, message)) = world.messages.pop_front() {
                    world.step(shard, diskstream_node::shard::Input::FromShard(message));
                },
                8 => world.fail_disk(5),
                _ => world.pass(Nanos::from_millis(offset * 100)),
            }
            world.turn();
        }
        world.disk_runs = true;
        world.messages_run = true;
        world.run();
        for (shard, read) in &reads {
            let own: Vec<_> = world
                .mail
                .iter()
                .filter(|mail| mail.to == devices[*shard].at && answers(mail, read.request_id))
                .cloned()
                .collect();
            prop_assert!(!own.is_empty(), "silence for {:?}", read);
        }
        world.mail.clear();
        for device in &mut devices {
            device.read_right(&mut world, 0, 16 * UNIT);
        }
        world.assert_at_rest();
    }
}

fn answers(mail: &shard_support::Mail, request_id: u64) -> bool {
    match mail.message() {
        Message::ReadData(m) => m.request_id == request_id,
        Message::ReadZero(m) => m.request_id == request_id,
        Message::ReadPending(m) => m.request_id == request_id,
        Message::ReadBusy(m) => m.request_id == request_id,
        Message::ReadError(m) => m.request_id == request_id,
        _ => false,
    }
}
