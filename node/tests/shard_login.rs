//! Login with every answer, sessions with every end.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use diskstream_node::shard::{Limits, SocketRole, VdiskEntry};
use diskstream_node::trust::DeviceKey;
use diskstream_wire::limits::READ_BYTES_MAX;
use diskstream_wire::{
    BusyReason, Capabilities, CloseReason, ContentId, ExtentEntry, ExtentsRequest, FragmentSize,
    HandshakeReply, ImageMode, KeepAlive, LoginKind, Mac, Message, Nanos, PathProbe, ReadErrorCode,
    RejectReason, SessionClose, VdiskInfoRequest, WriteCacheType,
};
use std::sync::Arc;

use shard_support::device::Device;
use shard_support::{BLOCK, Mail, Setup, UNIT, World, addr, image};

const FARM: &str = r#"
[farm]
name = "test"
key_file = "farm.key"
epoch = 3
accept_mac_alone = true

[[node]]
name = "a"
address = "10.0.0.1"
stores = ["images"]
power = 2.0

[[node]]
name = "b"
address = "10.0.0.2"
stores = ["images"]

[[store]]
name = "images"
path = "/images"

[[vdisk]]
name = "debian"
store = "images"
file = "debian.img"

[[device]]
mac = "02:00:00:00:00:01"
name = "one"
vdisk = "debian"

[[device]]
mac = "02:00:00:00:00:02"
name = "two"
vdisk = "debian"
enabled = false

[[device]]
mac = "02:00:00:00:00:03"
name = "three"

[[device]]
mac = "02:00:00:00:00:04"
name = "four"
vdisk = "debian"
key = "0101010101010101010101010101010101010101010101010101010101010101"
"#;

fn farm() -> World {
    World::new(Setup { farm: Some(FARM), ..Setup::default() })
}

fn rejected(mail: &Mail) -> RejectReason {
    let Message::LoginReject(reject) = mail.message() else { panic!("{:?}", mail.message()) };
    assert!(reject.text.as_str().len() > 20, "says why and what to do");
    reject.reason
}

fn busy(mail: &Mail) -> (BusyReason, u32) {
    let Message::LoginBusy(busy) = mail.message() else { panic!("{:?}", mail.message()) };
    (busy.reason, busy.wait_ms)
}

#[test]
fn the_whole_login_tells_everything() {
    let mut world = farm();
    let mut device = Device::new(1);
    let transfer = device.login(&mut world);
    assert_eq!(transfer.node.socket_addr(), Some(addr("10.0.0.1:6910")));
    assert_eq!(transfer.vdisk.as_str(), "debian");
    assert_eq!(transfer.device_name.as_str(), "one");
    assert_eq!(transfer.size_bytes, 1 << 20);
    assert_eq!(transfer.content_id, world.shared.vdisk(0).content_id);
    assert_eq!((transfer.vdisk_count, transfer.node_count), (1, 2));
    assert_eq!(transfer.ticket_seconds, 7 * 24 * 3600);
    device.get_io_port(&mut world);
    let Message::LoginComplete(complete) = device.try_start(&mut world).message() else { panic!() };
    assert_eq!((complete.keep_alive_ms, complete.expiry_ms), (30_000, 100_000));
    assert_eq!(world.counters(0).sessions_started.get(), 0, "not before the tag came back");

    let info = VdiskInfoRequest { tag: device.tag, session: device.session, ..Default::default() };
    let mail = device.ask(&mut world, |buf, _| info.encode(buf));
    let Message::VdiskInfo(info) = mail[0].message() else { panic!("{mail:?}") };
    assert_eq!((info.size_bytes, info.block_bytes), (1 << 20, BLOCK as u32));
    assert_eq!((info.vdisk.as_str(), info.image_mode), ("debian", ImageMode::Standard));
    assert_eq!((info.write_cache, info.version), (WriteCacheType::Ram, 0));
    assert_eq!(world.counters(0).sessions_started.get(), 1);
    assert_eq!(world.event("session_started"), 1);

    let reply = device.shake_hands(&mut world);
    let expected = HandshakeReply {
        ticket_bytes: device.ticket.len() as u16,
        ticket_seconds: 7 * 24 * 3600,
        tag: device.tag,
        window: 4096,
        datagram_bytes: 1452,
        accepted: 1,
        capabilities: Capabilities::OURS,
        read_bytes_max: READ_BYTES_MAX as u32,
        reads_max: 16,
        unix_seconds: 1_800_000_000,
        ..Default::default()
    };
    assert_eq!(reply, expected);
    assert_eq!(device.shake_hands(&mut world), expected, "a repeat changes nothing");
    device.read_right(&mut world, 0, UNIT);
    world.assert_at_rest();
}

#[test]
fn the_farm_decides_who_may_log_in() {
    let mut world = farm();
    let cases = [
        (9, RejectReason::UnknownDevice),
        (2, RejectReason::Disabled),
        (3, RejectReason::NoVdiskAssigned),
        (4, RejectReason::BadProof),
    ];
    for (n, reason) in cases {
        assert_eq!(rejected(&Device::new(n).try_login(&mut world)), reason);
    }
    assert_eq!(world.event("login_refused"), 4);
    let mut other = Device { vdisk: "windows".to_owned(), ..Device::new(1) };
    assert_eq!(rejected(&other.try_login(&mut world)), RejectReason::NoVdiskAssigned);
    let key = |byte| Some(DeviceKey::new([byte; 32]));
    let mut wrong = Device { key: key(2), ..Device::new(4) };
    assert_eq!(rejected(&wrong.try_login(&mut world)), RejectReason::BadProof);
    let right = Device { key: key(1), ..Device::new(4) }.connect(&mut world);
    // The ticket alone is not the device.
    let mut thief = Device { key: key(2), at: addr("10.9.9.9:1000"), ..right.clone() };
    assert_eq!(rejected(&thief.try_start(&mut world)), RejectReason::BadProof);
    thief.key = None;
    assert_eq!(rejected(&thief.try_start(&mut world)), RejectReason::BadProof);
    let c = world.counters(0);
    assert_eq!((c.logins_unknown_device.get(), c.logins_disabled.get()), (1, 1));
    assert_eq!((c.logins_no_vdisk_assigned.get(), c.logins_bad_proof.get()), (2, 4));
    assert_eq!(c.logins_transferred.get(), 1);
}

/// A device whose session has begun, and that boots.
fn begin(world: &mut World, n: u8) -> Device {
    let mut device = Device::new(n);
    device.login(world);
    device.get_io_port(world);
    let mail = device.try_start(world);
    assert!(matches!(mail.message(), Message::LoginComplete(_)), "{:?}", mail.message());
    device
}

#[test]
fn boots_are_limited_and_those_who_go_on_are_not() {
    let mut world = World::new(Setup { boot_limit: 2, ..Setup::default() });
    let veteran = Device::new(8).connect(&mut world);
    let mut early = Device::new(9);
    early.login(&mut world);
    assert_eq!(world.shared.boot_slots.in_use(world.now), 0, "a login may lead elsewhere");
    let mut one = begin(&mut world, 1);
    one.try_start(&mut world);
    one.try_login(&mut world);
    begin(&mut world, 2);
    assert_eq!(world.shared.boot_slots.in_use(world.now), 2, "repeats take no second one");
    assert_eq!(
        busy(&early.try_start(&mut world)).0,
        BusyReason::BootLimit,
        "the slots went meanwhile"
    );
    let mut three = Device::new(3);
    let (reason, wait_ms) = busy(&three.try_login(&mut world));
    assert_eq!(reason, BusyReason::BootLimit);
    assert!((7_500..=12_500).contains(&wait_ms), "{wait_ms}");
    let waits: std::collections::BTreeSet<_> =
        (0..8).map(|_| busy(&three.try_login(&mut world)).1).collect();
    assert!(waits.len() > 4, "jittered");

    // A claim to reconnect is nothing without a ticket, nor with another's.
    three.kind = LoginKind::Reconnect;
    assert_eq!(busy(&three.try_login(&mut world)).0, BusyReason::BootLimit);
    three.ticket = one.ticket.clone();
    assert_eq!(busy(&three.try_login(&mut world)).0, BusyReason::BootLimit);
    three.ticket = vec![1; 300];
    assert_eq!(busy(&three.try_login(&mut world)).0, BusyReason::BootLimit);
    // Nor with its own, if that was given for a boot: neither at the login nor at the I/O port, for whatever it claims.
    for kind in [LoginKind::Reconnect, LoginKind::Standby, LoginKind::Other(9)] {
        let mut claims = Device { kind, ..early.clone() };
        assert_eq!(busy(&claims.try_login(&mut world)).0, BusyReason::BootLimit);
        assert_eq!(busy(&claims.try_start(&mut world)).0, BusyReason::BootLimit, "{kind}");
    }
    // With one that it was given in a session it is exempt, whatever the slots; so is a standby.
    let mut again = Device { kind: LoginKind::Reconnect, nonce: [76; 16], ..veteran };
    again.login(&mut world);
    assert!(matches!(again.try_start(&mut world).message(), Message::LoginComplete(_)));
    again.kind = LoginKind::Standby;
    again.nonce = [77; 16];
    again.login(&mut world);
    assert!(matches!(again.try_start(&mut world).message(), Message::LoginComplete(_)));
    let c = world.counters(0);
    assert_eq!((c.logins_reconnected.get(), c.logins_standby.get()), (1, 1));
    assert_eq!((c.sessions_unproven.get(), world.shared.boot_slots.in_use(world.now)), (0, 2));

    // The handshake frees a slot.
    one.shake_hands(&mut world);
    let three = begin(&mut world, 3);
    let mut four = Device::new(4);
    assert_eq!(busy(&four.try_login(&mut world)).0, BusyReason::BootLimit);
    // So does the end of a session that nobody confirmed: the second's, while the third reads as a boot loader does.
    let info = VdiskInfoRequest { tag: three.tag, session: three.session, ..Default::default() };
    three.ask(&mut world, |buf, _| info.encode(buf));
    world.pass(Nanos::from_secs(12));
    assert_eq!(world.shared.boot_slots.in_use(world.now), 1);
    begin(&mut world, 4);
    // And a minute, whatever the device does.
    world.pass(Nanos::from_secs(48));
    assert_eq!(world.shared.boot_slots.in_use(world.now), 0);
}

#[test]
fn a_node_that_hashes_its_images_says_wait() {
    let mut world = World::new(Setup { ready: false, ..Setup::default() });
    let mut device = Device::new(1);
    assert_eq!(busy(&device.try_login(&mut world)).0, BusyReason::Starting);
    assert_eq!(busy(&device.try_start(&mut world)).0, BusyReason::Starting);
    assert_eq!(world.counters(0).logins_busy_starting.get(), 2);
}

#[test]
fn logins_of_other_versions_times_and_addresses_are_refused() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1);
    let new = |d: &Device| diskstream_wire::LoginPortRequest {
        version_min: 2,
        version_max: 9,
        ..d.login_port_request()
    };
    let mail = device.ask_login(&mut world, |buf, d| new(d).encode(buf));
    assert_eq!(rejected(&mail[0]), RejectReason::ProtocolTooOld);

    device.get_cookie(&mut world);
    let start = device.login_start();
    let send = |world: &mut World, from: Device, start: diskstream_wire::LoginStart| {
        rejected(&from.ask_login(world, |buf, _| start.encode(buf))[0])
    };
    let older = diskstream_wire::LoginStart { version: 0, ..start };
    assert_eq!(send(&mut world, device.clone(), older), RejectReason::ProtocolTooOld);
    let elsewhere = Device { at: addr("10.0.1.1:7000"), ..device.clone() };
    assert_eq!(send(&mut world, elsewhere, start), RejectReason::BadProof);
    let other_mac = diskstream_wire::LoginStart { mac: Mac([1; 6]), ..start };
    assert_eq!(send(&mut world, device.clone(), other_mac), RejectReason::BadProof);
    world.pass(Nanos::from_secs(61));
    assert_eq!(send(&mut world, device.clone(), start), RejectReason::BadProof);
    assert_eq!(world.counters(0).refused_bad_cookie.get(), 3);
}

#[test]
fn a_vdisk_that_changed_takes_nobody() {
    let mut world = World::new(Setup::default());
    let mut inside = Device::new(1).connect(&mut world);
    let mut between = Device::new(2);
    between.login(&mut world);
    world.step(0, diskstream_node::shard::Input::VdiskChanged { vdisk: 0 });
    world.step(0, diskstream_node::shard::Input::VdiskChanged { vdisk: 7 });
    world.run();
    let notices = world.mail_for(inside.at);
    assert!(matches!(notices[0].message(), Message::Notice(_)));
    assert_eq!(world.mail_for(addr("10.0.1.1:6902")).len(), 1, "and at the notice port");
    assert_eq!(world.event("vdisk_ineligible"), 1);
    assert_eq!(rejected(&Device::new(3).try_login(&mut world)), RejectReason::VersionMissing);
    assert_eq!(rejected(&between.try_start(&mut world)), RejectReason::VersionMissing);
    assert!(inside.read_right(&mut world, 0, UNIT).draining, "hashes vouch for what is read");
}

#[test]
fn without_hashes_a_changed_file_is_not_read_any_more() {
    let mut world = World::new(Setup { hashes: false, ..Setup::default() });
    let mut device = Device::new(1).connect(&mut world);
    device.read_right(&mut world, 0, UNIT);
    world.step(0, diskstream_node::shard::Input::VdiskChanged { vdisk: 0 });
    world.run();
    device.read_right(&mut world, 0, BLOCK);
    let reply = device.read(&mut world, BLOCK as u64, UNIT);
    assert_eq!((reply.errors, reply.fragments), (vec![ReadErrorCode::StoreError], 0));
    world.assert_at_rest();
}

#[test]
fn a_start_needs_a_good_ticket_for_this_content_at_this_shard() {
    let mut world = World::new(Setup { shards: 2, ..Setup::default() });
    let mut device = Device::on_shard(&world, 0, 1);
    device.login(&mut world);
    device.get_io_port(&mut world);
    assert_eq!(device.shard, 0);

    let mut wrong_port = Device { shard: 1, ..device.clone() };
    assert_eq!(rejected(&wrong_port.try_start(&mut world)), RejectReason::BadProof);
    let mut none = Device { ticket: Vec::new(), ..device.clone() };
    assert_eq!(rejected(&none.try_start(&mut world)), RejectReason::BadProof);
    let mut damaged = device.clone();
    damaged.ticket[100] ^= 1;
    assert_eq!(rejected(&damaged.try_start(&mut world)), RejectReason::TicketExpired);
    let mut other = Device { ticket: device.ticket.clone(), ..Device::on_shard(&world, 0, 20) };
    assert_eq!(rejected(&other.try_start(&mut world)), RejectReason::BadProof);
    let mut named = Device { vdisk: "other".to_owned(), ..device.clone() };
    assert_eq!(rejected(&named.try_start(&mut world)), RejectReason::NoVdiskAssigned);

    let long_after = Nanos::from_secs(8 * 24 * 3600 + 1);
    world.pass(long_after);
    assert_eq!(rejected(&device.clone().try_start(&mut world)), RejectReason::TicketExpired);
    assert_eq!(world.shards[0].sessions().count(), 0);

    // Another node of the farm, with another version under the same name.
    let mut newer = World::new(Setup { image: image(BLOCK), shards: 2, ..Setup::default() });
    assert_eq!(rejected(&device.try_start(&mut newer)), RejectReason::VersionPending);
    // And one without it.
    let mut empty = World::new(Setup { ready: false, shards: 2, ..Setup::default() });
    let entry = world.shared.vdisk(0);
    let entry = VdiskEntry::new("other", ContentId([1; 32]), Arc::clone(&entry.map), None);
    assert!(empty.shared.vdisks.set(vec![Arc::new(entry)]).is_ok());
    assert_eq!(rejected(&device.try_start(&mut empty)), RejectReason::VersionMissing);
}

#[test]
fn tables_are_bounded() {
    let limits = Limits { sessions_max: 3, plans: 64, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    for n in 1..=3 {
        Device::new(n).connect(&mut world);
    }
    let mut four = Device::new(4);
    four.login(&mut world);
    assert_eq!(rejected(&four.try_start(&mut world)), RejectReason::NoRoom);
    // Silence makes room.
    world.pass(Nanos::from_secs(101));
    assert!(matches!(four.try_start(&mut world).message(), Message::LoginComplete(_)));
    assert_eq!(world.counters(0).sessions_closed_expired.get(), 3);
    assert_eq!(world.event("session_ended"), 3);
}

#[test]
fn a_device_that_reads_gets_the_place_of_the_standby_heard_of_longest_ago() {
    let limits = Limits { sessions_max: 4, plans: 64, ..Limits::default() };
    let mut world = World::new(Setup { limits, ..Setup::default() });
    let standby = |n| Device { kind: LoginKind::Standby, ..Device::new(n) };
    let mut standbys: Vec<Device> = Vec::new();
    for n in 1..=3 {
        standbys.push(standby(n).connect_as(&mut world));
        world.pass(Nanos::from_secs(1));
    }
    // The first one has spoken since.
    standbys[0].shake_hands(&mut world);
    let mut fourth = standby(4);
    fourth.login(&mut world);
    assert_eq!(
        rejected(&fourth.try_start(&mut world)),
        RejectReason::NoRoom,
        "never for a standby"
    );
    assert_eq!(world.counters(0).sessions_closed_evicted.get(), 0);
    world.mail.clear();
    // A start that nobody confirms displaces nobody; with the tag's echo the place is needed.
    for (n, goes) in [(5, 1), (6, 2), (7, 0)] {
        let mut comes = begin(&mut world, n);
        let evicted = world.counters(0).sessions_closed_evicted.get();
        comes.shake_hands(&mut world);
        assert_eq!(world.counters(0).sessions_closed_evicted.get(), evicted + 1);
        let mail = world.mail_for(standbys[goes].at);
        let Message::SessionClosed(closed) = mail[0].message() else { panic!("{mail:?}") };
        assert_eq!((closed.tag, closed.reason), (standbys[goes].tag, CloseReason::EndedByNode));
    }
    // Whoever reads displaces nobody who reads.
    let mut last = begin(&mut world, 8);
    last.shake_hands(&mut world);
    let mut one_more = Device::new(9);
    one_more.login(&mut world);
    assert_eq!(rejected(&one_more.try_start(&mut world)), RejectReason::NoRoom);
    assert_eq!(world.counters(0).sessions_closed_evicted.get(), 3);
}

#[test]
fn the_same_mac_at_two_addresses_is_refused_while_the_first_is_alive() {
    let mut world = World::new(Setup::default());
    let mut first = Device::new(1).connect(&mut world);
    let mut second = Device { at: addr("10.0.1.99:6905"), nonce: [99; 16], ..Device::new(1) };
    second.login(&mut world);
    assert_eq!(rejected(&second.try_start(&mut world)), RejectReason::DuplicateDevice);
    assert_eq!(world.event("duplicate_device"), 1);
    first.read_right(&mut world, 0, UNIT);
    world.pass(Nanos::from_secs(5));
    assert!(matches!(second.try_start(&mut world).message(), Message::LoginComplete(_)));
    first.read_right(&mut world, 0, UNIT);
    // The first has spoken since: it stays, and the second learns so at its next word.
    let mail = second.ask(&mut world, |buf, d| d.handshake().encode(buf));
    assert!(matches!(mail[0].message(), Message::UnknownSession(_)));
    first.read_right(&mut world, 0, UNIT);
    world.pass(Nanos::from_secs(6));
    second.try_start(&mut world);
    assert_eq!(second.shake_hands(&mut world).accepted, 1);
    let read = first.read_message(0, UNIT);
    first.send_read(&mut world, &read);
    world.run();
    assert!(matches!(world.mail_for(first.at)[0].message(), Message::UnknownSession(_)));
    assert_eq!(world.counters(0).sessions_closed_replaced.get(), 1);
}

#[test]
fn a_device_whose_address_changed_takes_its_session_over_at_once() {
    let mut world = World::new(Setup::default());
    let first = Device::new(1).connect(&mut world);
    let elsewhere = addr("10.0.1.200:6905");
    let moved = |former_tag| Device {
        at: elsewhere,
        nonce: [9; 16],
        kind: LoginKind::Reconnect,
        former_tag,
        ..first.clone()
    };
    for wrong in [0, first.tag ^ 1] {
        assert_eq!(rejected(&moved(wrong).try_start(&mut world)), RejectReason::DuplicateDevice);
    }
    let mut again = moved(first.tag);
    let mail = again.try_start(&mut world);
    assert!(matches!(mail.message(), Message::LoginComplete(_)), "{:?}", mail.message());
    // Whoever only recorded the start has not displaced anybody: the new tag has not come back yet.
    first.clone().read_right(&mut world, 0, UNIT);
    assert_eq!(world.counters(0).sessions_readdressed.get(), 0);
    assert_eq!(again.shake_hands(&mut world).accepted, 1);
    again.read_right(&mut world, 0, UNIT);
    let c = world.counters(0);
    assert_eq!((c.sessions_readdressed.get(), c.sessions_closed_replaced.get()), (1, 1));
    assert_eq!(world.shards[0].sessions().count(), 1);
}

#[test]
fn a_repeated_or_replayed_start_displaces_nothing() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1);
    device.login(&mut world);
    device.get_io_port(&mut world);
    device.try_start(&mut world);
    let before = (device.session, device.tag);
    device.try_start(&mut world);
    assert_eq!((device.session, device.tag), before, "a lost answer is given again");
    device.shake_hands(&mut world);
    // The same bytes again, long after; even from the device's own address they make nothing new.
    let mut replay = device.clone();
    replay.try_start(&mut world);
    assert_eq!((replay.session, replay.tag), before);
    // A start with a fresh nonce from that address: somebody who has the ticket, but never sees the answer.
    for n in 0..10 {
        let mut forged = Device { nonce: [n + 50; 16], ..device.clone() };
        forged.try_start(&mut world);
        assert_ne!(forged.tag, device.tag);
        device.read_right(&mut world, 0, UNIT);
    }
    assert_eq!(world.shards[0].sessions().count(), 5, "one, and four that nobody confirmed");
    world.pass(Nanos::from_secs(12));
    assert_eq!(world.shards[0].sessions().count(), 1);
    device.read_right(&mut world, 0, UNIT);
    // The device itself, started again at its address: it echoes its tag, and the old session ends.
    let mut restarted = Device { nonce: [77; 16], ..device.clone() };
    restarted.try_start(&mut world);
    restarted.shake_hands(&mut world);
    assert_eq!(world.shards[0].sessions().count(), 1);
    restarted.read_right(&mut world, 0, UNIT);
    world.assert_at_rest();
}

#[test]
fn keep_alives_keep_tell_and_renew() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    let keep_alive = |d: &Device, sequence, ticket_age_s| KeepAlive {
        tag: d.tag,
        session: d.session,
        sequence,
        retries: 10 * u64::from(sequence),
        srtt_us: 250,
        write_cache_used_bytes: 77,
        ticket_age_s,
        ..Default::default()
    };
    for sequence in 1..=20 {
        world.pass(Nanos::from_secs(30));
        let mail = device.ask(&mut world, |buf, d| keep_alive(d, sequence, 60).encode(buf));
        let Message::KeepAliveReply(reply) = mail[0].message() else { panic!("{mail:?}") };
        assert_eq!((reply.sequence, reply.ticket_bytes), (sequence, 0));
        assert_eq!(reply.unix_seconds, 1_800_000_000 + u64::from(sequence) * 30);
    }
    assert_eq!(world.counters(0).device_retries.get(), 200);
    let view = world.shards[0].sessions().next().expect("it lives");
    assert_eq!((view.figures.srtt_us, view.figures.write_cache_used_bytes), (250, 77));
    for age in [u32::MAX, 24 * 3600] {
        let mail = device.ask(&mut world, |buf, d| keep_alive(d, 21, age).encode(buf));
        let Message::KeepAliveReply(reply) = mail[0].message() else { panic!("{mail:?}") };
        assert_eq!(reply.ticket_seconds, 7 * 24 * 3600);
        let ticket = mail[0].decode().tail.to_vec();
        assert_eq!(ticket.len(), usize::from(reply.ticket_bytes));
        assert_ne!(ticket, device.ticket);
        device.ticket = ticket;
    }
    device.kind = LoginKind::Reconnect;
    device.login(&mut world);
    assert_eq!(world.counters(0).logins_reconnected.get(), 1);
}

#[test]
fn probes_come_back_as_long_as_they_went_and_open_larger_fragments() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    let probe = |world: &mut World, d: &Device, says: u16, bytes: usize| {
        let probe = PathProbe {
            tag: d.tag,
            session: d.session,
            sequence: 5,
            probe_bytes: says,
            ..Default::default()
        };
        let mut buf = vec![0; bytes];
        probe.encode(&mut buf);
        world.datagram(0, SocketRole::Io, d.at, &buf);
        world.run();
        world.mail_for(d.at)
    };
    assert!(probe(&mut world, &device, 100, 200).is_empty());
    assert!(probe(&mut world, &device, 9000, 9000).is_empty());
    assert_eq!(world.counters(0).refused_bad_value.get(), 2);
    device.fragment_size = FragmentSize::B8192;
    assert_eq!(device.read(&mut world, 0, BLOCK).errors, [ReadErrorCode::NotNegotiated]);
    for bytes in [48u16, 1452, 4172, 8268] {
        let mail = probe(&mut world, &device, bytes, usize::from(bytes));
        let Message::PathProbeReply(reply) = mail[0].message() else { panic!("{mail:?}") };
        assert_eq!((reply.probe_bytes, reply.sequence), (bytes, 5));
        assert_eq!(mail[0].bytes.len(), usize::from(bytes));
    }
    device.read_right(&mut world, 0, BLOCK);
}

#[test]
fn extents_follow_the_map() {
    let u = UNIT as u64;
    let data = Some(vec![0..u, 3 * u..10 * u, 100 * u..101 * u]);
    let mut content = image(150 * UNIT + 512);
    content[UNIT..3 * UNIT].fill(0);
    content[10 * UNIT..100 * UNIT].fill(0);
    content[101 * UNIT..].fill(0);
    let mut world = World::new(Setup { image: content, data, ..Setup::default() });
    let device = Device::new(1).connect(&mut world);
    let ask = |world: &mut World, offset, length, change: u64| {
        let request = ExtentsRequest {
            tag: device.tag,
            session: device.session,
            request_id: 8,
            generation: device.generation ^ change,
            offset,
            length,
            ..Default::default()
        };
        device.ask(world, |buf, _| request.encode(buf))
    };
    let entries = |mail: &Mail| -> Vec<(u64, u8)> {
        let decoded = mail.decode();
        let Message::Extents(extents) = decoded.message else { panic!("{mail:?}") };
        let mut tail = decoded.tail;
        let mut out = Vec::new();
        for _ in 0..extents.count {
            let (entry, rest) = ExtentEntry::decode(tail).expect("as many as it says");
            out.push((entry.length / u, entry.zero));
            tail = rest;
        }
        out
    };
    let all = ask(&mut world, 0, 151 * u, 0);
    assert_eq!(entries(&all[0]), [(1, 0), (2, 1), (7, 0), (90, 1), (1, 0), (50, 1)]);
    let some = ask(&mut world, 2 * u, 4 * u, 0);
    assert_eq!(entries(&some[0]), [(1, 1), (3, 0)]);
    for (offset, length, change, code) in [
        (0, 152 * u, 0, ReadErrorCode::OutOfRange),
        (0, 0, 0, ReadErrorCode::OutOfRange),
        (512, u, 0, ReadErrorCode::OutOfRange),
        (u64::MAX - 4095, u, 0, ReadErrorCode::OutOfRange),
        (0, u, 1, ReadErrorCode::WrongGeneration),
    ] {
        let mail = ask(&mut world, offset, length, change);
        let Message::ReadError(error) = mail[0].message() else { panic!("{mail:?}") };
        assert_eq!((error.code, error.request_id), (code, 8));
    }
}

#[test]
fn many_extents_come_in_parts_that_follow_each_other() {
    let u = UNIT as u64;
    let bytes = 300 * UNIT;
    let data = (0..150).map(|n| 2 * n * u..(2 * n + 1) * u).collect();
    let mut content = image(bytes);
    content.chunks_mut(UNIT).skip(1).step_by(2).for_each(|unit| unit.fill(0));
    let mut world = World::new(Setup { image: content, data: Some(data), ..Setup::default() });
    let device = Device::new(1).connect(&mut world);
    let (mut at, mut answers) = (0, 0);
    while at < bytes as u64 {
        let request = ExtentsRequest {
            tag: device.tag,
            session: device.session,
            generation: device.generation,
            offset: at,
            length: bytes as u64 - at,
            ..Default::default()
        };
        let mail = device.ask(&mut world, |buf, _| request.encode(buf));
        let decoded = mail[0].decode();
        for bytes in decoded.tail.chunks(ExtentEntry::BYTES) {
            let (entry, _) = ExtentEntry::decode(bytes).expect("whole entries");
            assert_eq!((entry.length, u64::from(entry.zero)), (u, at / u % 2));
            at += entry.length;
        }
        answers += 1;
    }
    assert_eq!(answers, 5);
}

#[test]
fn a_device_that_leaves_is_gone_with_all_it_waited_for() {
    let mut world = World::new(Setup::default());
    let mut device = Device::new(1).connect(&mut world);
    world.disk_runs = false;
    world.sends_run = false;
    let reads: Vec<_> = (0..3).map(|n| device.read_message(n * BLOCK as u64, UNIT)).collect();
    reads.iter().for_each(|read| device.send_read(&mut world, read));
    world.run();
    let close = SessionClose {
        tag: device.tag,
        session: device.session,
        reason: CloseReason::Moved,
        ..Default::default()
    };
    let mail = device.ask(&mut world, |buf, _| close.encode(buf));
    let Message::SessionClosed(closed) = mail[0].message() else { panic!("{mail:?}") };
    assert_eq!((closed.session, closed.reason), (device.session, CloseReason::Moved));
    world.answer_disk();
    world.run();
    assert!(world.mail.is_empty(), "nothing for nobody");
    let again = device.ask(&mut world, |buf, _| close.encode(buf));
    assert!(matches!(again[0].message(), Message::UnknownSession(_)));
    world.complete_sends();
    assert_eq!(world.counters(0).sessions_closed_moved.get(), 1);
    world.assert_at_rest();
}
