//! Where logins lead: by content, subnet, load, boot slots and pin; what a standby counts; a node that was paused.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_node::shard::{Input, VdiskEntry};
use diskstream_node::trust::TicketExpectation;
use diskstream_node::view::{DrainState, HeldVersion, Load, PeerState, PeerView};
use diskstream_wire::{
    BusyReason, CloseReason, ContentId, Flags, KeepAlive, LoginKind, Message, MoveReason, Nanos,
    RejectReason, SessionClose, SessionRole, node_entries, nodes_digest,
};

use shard_support::device::Device;
use shard_support::{Mail, Setup, UNIT, World, addr};

/// Two subnets: the tests' devices are at 10.0.1.n.
fn farm(vdisk_keys: &str) -> &'static str {
    let text = format!(
        r#"
[farm]
name = "test"
key_file = "farm.key"
boot_limit = 2
accept_mac_alone = true
[[node]]
name = "a"
address = "10.0.0.1"
subnet = "10.0.0.0/24"
[[node]]
name = "b"
address = "10.0.1.2"
subnet = "10.0.1.0/24"
[[node]]
name = "c"
address = "10.0.0.3"
subnet = "10.0.0.0/24"
[[store]]
name = "images"
path = "/images"
[[vdisk]]
name = "debian"
store = "images"
file = "debian.img"
{vdisk_keys}
[[device]]
mac = "02:00:00:00:00:01"
name = "one"
vdisk = "debian"
[[device]]
mac = "02:00:00:00:00:02"
name = "two"
vdisk = "debian"
[[device]]
mac = "02:00:00:00:00:03"
name = "three"
vdisk = "debian"
"#
    );
    Box::leak(text.into_boxed_str())
}

fn world(vdisk_keys: &str) -> World {
    World::new(Setup { farm: Some(farm(vdisk_keys)), ..Setup::default() })
}

fn b(world: &World) -> PeerView {
    world.peer("b", "10.0.1.2:6910", 0)
}

fn c(world: &World) -> PeerView {
    world.peer("c", "10.0.0.3:6910", 0)
}

fn with_content(peer: PeerView, content_id: ContentId) -> PeerView {
    let held = HeldVersion { content_id, ..peer.versions[0].clone() };
    PeerView { versions: Arc::new([held]), ..peer }
}

fn rejected(mail: &Mail) -> (RejectReason, String) {
    let Message::LoginReject(reject) = mail.message() else { panic!("{:?}", mail.message()) };
    (reject.reason, reject.text.as_str().to_owned())
}

fn at(n: u8) -> Device {
    Device::new(n)
}

fn goes_to(world: &mut World, device: &mut Device) -> String {
    format!("{:?}", device.login(world).node)
}

const OWN: &str = "10.0.0.1:6910";
const B: &str = "10.0.1.2:6910";

#[test]
fn a_node_without_the_bytes_hands_over() {
    let mut world = world("");
    world.publish(&[b(&world)]);
    let right = world.shared.vdisk(0).content_id;
    world.step(0, Input::VdiskChanged { vdisk: 0 });
    let mut device = at(1);
    let transfer = device.login(&mut world);
    assert_eq!(transfer.node.socket_addr(), Some(addr(B)));
    assert_eq!((transfer.content_id, transfer.node_count), (right, 1));
    assert_eq!((world.counters(0).placed_elsewhere.get(), world.event("login_placed")), (1, 1));
    // Never had it at all: what most hold that are up.
    let mut empty = World::new(Setup { farm: Some(farm("")), ready: false, ..Setup::default() });
    let map = Arc::clone(&world.shared.vdisk(0).map);
    let entry = VdiskEntry::new("debian", ContentId::default(), map, None);
    entry.eligible.store(false, Relaxed);
    assert!(empty.shared.vdisks.set(vec![Arc::new(entry)]).is_ok());
    assert_eq!(rejected(&at(1).try_login(&mut empty)).0, RejectReason::VersionMissing);
    let other = ContentId([9; 32]);
    let peers = [b(&world), c(&world), with_content(world.peer("d", "10.0.0.4:6910", 0), other)];
    empty.publish(&peers);
    let transfer = at(1).login(&mut empty);
    assert_eq!((transfer.content_id, transfer.size_bytes, transfer.node_count), (right, 0, 2));
    // Up, but all in maintenance: nobody is eligible, and that is what is said.
    let away = peers.map(|peer| PeerView { drain: DrainState::Maintenance, ..peer });
    empty.publish(&away);
    let mut again = Device { kind: LoginKind::Reconnect, ticket: device.ticket.clone(), ..at(1) };
    assert_eq!(rejected(&again.try_login(&mut empty)).0, RejectReason::NoEligibleNode);
    let c = empty.counters(0);
    let refused = (c.place_refused_missing.get(), c.place_refused_none_takes_devices.get());
    assert_eq!(refused, (1, 1));
}

#[test]
fn one_changed_byte_is_another_content() {
    let mut world = world("");
    let other = with_content(b(&world), ContentId([1; 32]));
    world.publish(&[other]);
    for _ in 0..8 {
        assert_eq!(at(1).login(&mut world).node_count, 1, "b is not even in the list");
    }
    // A ticket names the content that a running device must find, whatever this node has.
    let mut device = at(1);
    device.login(&mut world);
    let running = world.shared.vdisk(0).content_id;
    world.publish(&[b(&world)]);
    let map = Arc::clone(&world.shared.vdisk(0).map);
    let mut newer = World::new(Setup { farm: Some(farm("")), ready: false, ..Setup::default() });
    let entry = VdiskEntry::new("debian", ContentId([1; 32]), map, None);
    assert!(newer.shared.vdisks.set(vec![Arc::new(entry)]).is_ok());
    newer.publish(&[b(&world), with_content(c(&world), ContentId([1; 32]))]);
    let mut again = Device { kind: LoginKind::Reconnect, ticket: device.ticket.clone(), ..at(1) };
    let transfer = again.login(&mut newer);
    assert_eq!((transfer.content_id, transfer.node.socket_addr()), (running, Some(addr(B))));
    let boot = at(1).login(&mut newer);
    assert_eq!(boot.content_id, ContentId([1; 32]), "a boot takes what is here");
    newer.publish(&[]);
    let mut again = Device { kind: LoginKind::Reconnect, ticket: device.ticket.clone(), ..at(1) };
    assert_eq!(rejected(&again.try_login(&mut newer)).0, RejectReason::VersionPending);
    assert_eq!(newer.counters(0).place_refused_other_version.get(), 1);
}

#[test]
fn a_content_id_of_the_farm_file_decides() {
    let wanted = ContentId([3; 32]);
    let mut world = world(&format!("content_id = \"{wanted}\""));
    world.publish(&[]);
    let (reason, text) = rejected(&at(1).try_login(&mut world));
    assert_eq!(reason, RejectReason::VersionPending, "{text}");
    world.publish(&[with_content(b(&world), wanted), c(&world)]);
    let transfer = at(1).login(&mut world);
    assert_eq!((transfer.content_id, transfer.node.socket_addr()), (wanted, Some(addr(B))));
}

#[test]
fn fixed_affinity_stays_inside_the_subnet() {
    let mut world = world("subnet_affinity = \"fixed\"");
    world.publish(&[c(&world)]);
    let (reason, text) = rejected(&at(1).try_login(&mut world));
    assert_eq!(reason, RejectReason::NoEligibleNode);
    assert!(text.contains("subnet"), "{text}");
    assert_eq!(world.counters(0).place_refused_subnet.get(), 1);
    world.publish(&[b(&world), c(&world)]);
    for _ in 0..8 {
        let transfer = at(1).login(&mut world);
        assert_eq!((transfer.node.socket_addr(), transfer.node_count), (Some(addr(B)), 1));
    }
    // A device of this node's own subnet is served here, and told only of nodes in it when it has to go.
    let near = Device { at: addr("10.0.0.77:6905"), ..at(2) }.connect(&mut world);
    world.mail.clear();
    world.drain(DrainState::Stopping, 15);
    let mail = world.mail_for(near.at);
    let Message::Notice(notice) = mail[0].message() else { panic!("{mail:?}") };
    assert_eq!(notice.node_count, 1);
}

#[test]
fn best_effort_prefers_the_subnet_and_counts_what_it_could_not() {
    let mut world = world("subnet_affinity = \"best_effort\"");
    let busy = PeerView { load: Load { sessions: 900, ..Load::default() }, ..b(&world) };
    world.publish(&[busy.clone(), c(&world)]);
    for _ in 0..8 {
        assert_eq!(goes_to(&mut world, &mut at(1)), B);
    }
    assert_eq!(world.counters(0).placed_far.get(), 0);
    world.publish(&[PeerView { state: PeerState::Down, ..busy }, c(&world)]);
    let mut device = at(1);
    assert_ne!(goes_to(&mut world, &mut device), B);
    assert_eq!(world.counters(0).placed_far.get(), 1);
}

#[test]
fn a_pinned_vdisk_has_one_node() {
    let mut pinned = world("node = \"b\"");
    pinned.publish(&[b(&pinned), c(&pinned)]);
    let mut device = at(1);
    let transfer = device.login(&mut pinned);
    assert_eq!((transfer.node.socket_addr(), transfer.node_count), (Some(addr(B)), 1));
    assert_eq!(transfer.policy, 1);
    let expected =
        TicketExpectation { mac: device.mac, farm_epoch: 0, unix_seconds: 1_800_000_000 };
    let ticket = pinned.shared.keys.open_ticket(&device.ticket, &expected).expect("good");
    assert_eq!((ticket.body.flags, ticket.nodes().len()), (1, 1));
    pinned.publish(&[PeerView { state: PeerState::Down, ..b(&pinned) }, c(&pinned)]);
    assert_eq!(rejected(&at(1).try_login(&mut pinned)).0, RejectReason::NoEligibleNode);
    assert_eq!(pinned.counters(0).place_refused_pinned.get(), 1);

    let mut here = world("node = \"a\"");
    here.publish(&[b(&here), c(&here)]);
    let transfer = at(1).login(&mut here);
    assert_eq!((transfer.node.socket_addr(), transfer.node_count), (Some(addr(OWN)), 1));
    let device = at(1).connect(&mut here);
    here.drain(DrainState::Stopping, 15);
    let mail = here.mail_for(device.at);
    let Message::Notice(notice) = mail[0].message() else { panic!("{mail:?}") };
    assert_eq!(notice.node_count, 0, "nowhere to go");
    here.pass(Nanos::from_secs(2));
    assert!(here.shards[0].drained());
}

#[test]
fn logins_on_their_way_count_and_so_do_full_boot_slots() {
    let mut world = world("");
    world.publish(&[b(&world)]);
    let mut nodes = Vec::new();
    for _ in 0..10 {
        nodes.push(goes_to(&mut world, &mut at(1)));
    }
    let here = nodes.iter().filter(|node| *node == OWN).count();
    assert_eq!(here, 5, "neither node has a session yet, and still they alternate: {nodes:?}");
    assert_eq!(world.shared.own.expected.load(Relaxed), 5);
    // Those that never came are forgotten, half of them each second.
    world.pass(Nanos::from_secs(1));
    goes_to(&mut world, &mut at(1));
    assert!(world.shared.own.expected.load(Relaxed) <= 3);
    // Full slots here: elsewhere, and later only when all are full. Whoever goes on is exempt.
    world.publish(&[b(&world)]);
    let mut one = at(1);
    one.login(&mut world);
    one.get_io_port(&mut world);
    one.try_start(&mut world);
    let mut two = at(2);
    two.login(&mut world);
    two.get_io_port(&mut world);
    two.try_start(&mut world);
    world.publish(&[b(&world)]);
    for _ in 0..2 {
        assert_eq!(goes_to(&mut world, &mut at(3)), B);
    }
    let full = Load { boot_slots_in_use: 500, boot_limit: 500, sessions: 0, standbys: 0 };
    world.publish(&[PeerView { load: full, ..b(&world) }]);
    let mail = at(3).try_login(&mut world);
    assert!(matches!(mail.message(), Message::LoginBusy(m) if m.reason == BusyReason::BootLimit));
    assert_eq!(world.counters(0).place_refused_boot_slots.get(), 1);
    two.kind = LoginKind::Reconnect;
    two.login(&mut world);
}

#[test]
fn peers_that_nobody_heard_of_are_listed_but_not_chosen() {
    let mut world = world("");
    for _ in 0..16 {
        let transfer = at(1).login(&mut world);
        assert_eq!((transfer.node.socket_addr(), transfer.node_count), (Some(addr(OWN)), 3));
    }
    world.drain(DrainState::Maintenance, 15);
    let transfer = at(1).login(&mut world);
    assert_ne!(transfer.node.socket_addr(), Some(addr(OWN)), "better than to be sent away");
    assert_eq!((world.counters(0).placed_unknown.get(), transfer.node_count), (1, 3));
}

fn keep_alive(world: &mut World, device: &Device, role: SessionRole, hedges: u32) {
    let message = KeepAlive {
        tag: device.tag,
        session: device.session,
        role,
        moved: if hedges == 0 { MoveReason::Other(99) } else { MoveReason::NodeSilent },
        hedges,
        hedges_won: hedges / 2,
        moves: hedges / 10,
        read_us_max: 1500,
        ..Default::default()
    };
    device.ask(world, |buf, _| message.encode(buf));
}

fn load(world: &World) -> (u32, u32, u32) {
    let own = &world.shared.own;
    let of_vdisk = world.shared.vdisk(0).sessions.load(Relaxed);
    (own.sessions.load(Relaxed), own.standbys.load(Relaxed), of_vdisk)
}

#[test]
fn a_standby_is_no_load_until_it_is_used() {
    let mut world = World::new(Setup { shards: 2, ..Setup::default() });
    let serving = Device::on_shard(&world, 0, 1).connect(&mut world);
    let standby = Device { kind: LoginKind::Standby, ..Device::on_shard(&world, 1, 100) };
    let mut standby = standby.connect_as(&mut world);
    assert_eq!(load(&world), (1, 1, 1));
    keep_alive(&mut world, &standby, SessionRole::Standby, 100);
    // A hedged read is served like any other, and says nothing about who serves the device.
    let mut read = standby.read_message(0, UNIT);
    read.flags = Flags::HEDGED;
    standby.send_read(&mut world, &read);
    world.run();
    let mail = world.mail_for(standby.at);
    assert!(standby.assemble(&read, &mail).complete);
    assert_eq!(load(&world), (1, 1, 1));
    let c = world.counters(1);
    assert_eq!((c.reads_hedged.get(), c.standbys_promoted.get()), (1, 0));
    standby.read_right(&mut world, 0, UNIT);
    assert_eq!(load(&world), (2, 0, 2));
    assert_eq!((c.standbys_promoted.get(), world.event("standby_promoted")), (1, 1));
    assert_eq!((c.sessions_serving.get(), c.sessions_standby.get()), (1, 0));
    // And back, and again by its word alone.
    keep_alive(&mut world, &standby, SessionRole::Standby, 100);
    assert_eq!((load(&world), c.sessions_demoted.get()), ((1, 1, 1), 1));
    keep_alive(&mut world, &standby, SessionRole::Serving, 120);
    assert_eq!(load(&world), (2, 0, 2));
    // What the device counted before is its former node's; what it did since is ours.
    let figures = (c.device_hedges.get(), c.device_hedges_won.get(), c.device_moves.get());
    assert_eq!(figures, (20, 10, 2));
    assert_eq!(c.device_read_longest.count(), 1);
    // Why it came is counted once for each time that it came: first it had not moved, then it had.
    assert_eq!((c.moves_node_silent.get(), c.standby_checks.get()), (1, 2));
    keep_alive(&mut world, &standby, SessionRole::Serving, 120);
    assert_eq!(c.moves_node_silent.get(), 1);
    keep_alive(&mut world, &serving, SessionRole::Serving, 0);
    assert_eq!(world.counters(0).moves_other.get(), 1, "an unknown cause of a newer device");
    // However sessions end, the load goes with them.
    let close = SessionClose {
        tag: serving.tag,
        session: serving.session,
        reason: CloseReason::Moved,
        ..Default::default()
    };
    serving.ask(&mut world, |buf, _| close.encode(buf));
    assert_eq!(load(&world), (1, 0, 1));
    let ended = world.events.iter().find(|event| event.label() == "session_ended").unwrap();
    assert!(ended.to_string().contains("(moved) after 0 s and 0 reads"), "{ended}");
    world.pass(Nanos::from_secs(120));
    assert_eq!(load(&world), (0, 0, 0), "silence");
}

/// Hedged reads, all of them answered.
fn read_hedged(world: &mut World, device: &mut Device, count: u32) {
    for _ in 0..count {
        let mut read = device.read_message(0, UNIT);
        read.flags = Flags::HEDGED;
        device.send_read(world, &read);
        world.run();
        let mail = world.mail_for(device.at);
        assert!(device.assemble(&read, &mail).complete);
    }
}

#[test]
fn a_standby_that_answers_most_reads_is_load() {
    let mut world = World::new(Setup::default());
    let mut leaning = Device { kind: LoginKind::Standby, ..at(1) }.connect_as(&mut world);
    let mut honest = Device { kind: LoginKind::Standby, ..at(2) }.connect_as(&mut world);
    let counts = |world: &mut World, device: &Device, role, reads| {
        let (tag, session) = (device.tag, device.session);
        let message = KeepAlive { tag, session, role, reads, ..Default::default() };
        device.ask(world, |buf, _| message.encode(buf));
    };
    let standby = SessionRole::Standby;
    for round in 0..4 {
        // 30 of 31 reads, and 30 of 3,000.
        read_hedged(&mut world, &mut leaning, 30);
        read_hedged(&mut world, &mut honest, 30);
        counts(&mut world, &leaning, standby, 31 * (round + 1));
        counts(&mut world, &honest, standby, 3000 * (round + 1));
        world.pass(Nanos::from_secs(20));
        let serving = u32::from(round >= 1);
        assert_eq!(load(&world), (serving, 2 - serving, serving), "round {round}");
    }
    let c = world.counters(0);
    assert_eq!((c.standbys_leaning.get(), world.event("standby_leans")), (1, 1), "told once");
    assert_eq!(c.standbys_promoted.get(), 0, "its device never said so");
    // A drain waits for it like for any other.
    world.drain(DrainState::Maintenance, 15);
    assert_eq!(world.event("drain_finished"), 0);
    world.step(0, Input::Resume);
    // Its reads are answered elsewhere again.
    counts(&mut world, &leaning, standby, 10_000);
    world.pass(Nanos::from_secs(20));
    assert_eq!(load(&world), (0, 2, 0));
    // A device whose count says nothing, and one that counts more than anybody reads.
    for told in [0, u64::MAX / 2] {
        counts(&mut world, &leaning, standby, 10_000);
        for _ in 0..2 {
            read_hedged(&mut world, &mut leaning, 4001);
            counts(&mut world, &leaning, standby, told);
            world.pass(Nanos::from_secs(20));
        }
        assert_eq!(load(&world).0, 1, "{told}");
        // By its own word it serves, and then it does not.
        counts(&mut world, &leaning, SessionRole::Serving, told);
        counts(&mut world, &leaning, standby, told);
        assert_eq!(load(&world).0, 0);
    }
}

#[test]
fn a_standby_stays_where_it_asks() {
    let mut world = world("");
    let idle = b(&world);
    world.publish(&[idle]);
    world.shared.own.expected.store(100, Relaxed);
    let mut device = at(1);
    assert_eq!(goes_to(&mut world, &mut device), B);
    device.kind = LoginKind::Standby;
    assert_eq!(goes_to(&mut world, &mut device), OWN);
    world.step(0, Input::VdiskChanged { vdisk: 0 });
    assert_eq!(goes_to(&mut world, &mut device), B, "unless it cannot");
}

#[test]
fn a_paused_node_drops_old_reads_and_trusts_no_old_view() {
    let mut world = world("");
    let mut device = at(1).connect(&mut world);
    let leaver = at(2).connect(&mut world);
    world.publish(&[PeerView { load: Load::default(), ..b(&world) }]);
    world.shared.own.expected.store(100, Relaxed);
    assert_eq!(goes_to(&mut world, &mut at(3)), B);
    world.mail.clear();
    // Ten seconds in which nothing was looked at, and then all of it at once.
    world.now = world.now + Nanos::from_secs(10);
    world.step(0, Input::Turn { more: true });
    let old = device.read_message(0, UNIT);
    device.send_read(&mut world, &old);
    let close = SessionClose {
        tag: leaver.tag,
        session: leaver.session,
        reason: CloseReason::Moved,
        ..Default::default()
    };
    leaver.ask(&mut world, |buf, _| close.encode(buf));
    assert_eq!(world.counters(0).sessions_closed_moved.get(), 1, "who leaves has left");
    assert!(world.mail_for(device.at).is_empty(), "nobody waits for that any more");
    assert_eq!(goes_to(&mut world, &mut at(3)), OWN, "the peers of then may be gone");
    let c = world.counters(0);
    assert_eq!((c.pauses.get(), c.reads_stale.get(), world.event("paused")), (1, 1, 1));
    // The next turn still belongs to the portion; the one after it does not.
    world.step(0, Input::Turn { more: false });
    device.send_read(&mut world, &old);
    world.run();
    assert_eq!(c.reads_stale.get(), 2);
    world.step(0, Input::Turn { more: false });
    device.read_right(&mut world, 0, UNIT);
    world.publish(&[b(&world)]);
    assert_eq!(goes_to(&mut world, &mut at(3)), B, "heard again");
    assert_eq!(c.pauses.get(), 1);
}

#[test]
fn a_device_is_told_once_of_a_node_that_joined_after_its_login() {
    let mut world = world("");
    world.publish(&[]);
    let mut device = at(1).connect(&mut world);
    let told = |world: &mut World, device: &mut Device, nodes_digest| {
        let message = KeepAlive {
            tag: device.tag,
            session: device.session,
            nodes_digest,
            ..Default::default()
        };
        let mail = device.ask(world, |buf, _| message.encode(buf));
        let Message::KeepAliveReply(reply) = mail[0].message() else { panic!("{mail:?}") };
        let mut logins = Vec::new();
        node_entries(mail[0].decode().tail, reply.node_count, |entry| logins.push(entry.login));
        logins
    };
    let alone = told(&mut world, &mut device, 1);
    let digest = nodes_digest(alone.iter().copied());
    assert!(told(&mut world, &mut device, digest).is_empty(), "nothing new");
    world.publish(&[b(&world), c(&world)]);
    let all = told(&mut world, &mut device, digest);
    assert!(told(&mut world, &mut device, nodes_digest(all.iter().copied())).is_empty());
    assert!(told(&mut world, &mut device, 0).is_empty(), "who does not ask is not told");
    assert_eq!(all.first().and_then(|login| login.socket_addr()), Some(addr(OWN)));
    assert_eq!(all.len(), 3);
}
