//! Dropping rings, sockets and files in every state, and keys that outlive what they named.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::io::Write;
use std::sync::Arc;

use common::{V4, add, arena, config, ring, small, turn_until};
use diskstream_ring::{
    Arena, Completion, Completions, DirectFile, Features, ReadPlan, Ring, RingConfig, SendPlan,
    SendRefused, SocketId, UdpSocket, Wait, clock,
};

const PERMITS: [Features; 3] = [
    Features::ALL,
    Features::NONE,
    Features { multishot_receive: false, registered_buffers: false, ..Features::ALL },
];

fn file() -> Arc<DirectFile> {
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    temp.write_all(&vec![5; 1 << 16]).unwrap();
    Arc::new(DirectFile::open(temp.path()).unwrap())
}

fn plan(to: std::net::SocketAddr) -> Box<SendPlan> {
    let mut plan = SendPlan::new();
    plan.push_scratch(&[1; 100]).unwrap();
    plan.push_arena(0, 1900).unwrap();
    plan.segment_bytes = 1000;
    plan.peer = to;
    plan
}

struct Busy {
    ring: Ring,
    arena: Arc<Arena>,
    file: Arc<DirectFile>,
    socket: SocketId,
    done: Completions,
}

/// A ring with one of everything queued, and nothing submitted.
fn busy(permit: Features) -> Busy {
    let arena = arena(1 << 20);
    let config_ring = RingConfig { permit, ..small() };
    let mut ring = Ring::new(&config_ring, Some(Arc::clone(&arena))).unwrap();
    let (socket, to) = add(&mut ring, &config(V4));
    let file = file();
    let id = ring.add_file(Arc::clone(&file)).unwrap();
    for token in 0..4 {
        ring.send(socket, plan(to)).unwrap();
        let arena_offset = 4096 * (1 + usize::try_from(token).unwrap());
        let read = ReadPlan { file: id, file_offset: 0, arena_offset, len: 4096, token };
        ring.read(read).unwrap();
    }
    ring.waker().wake();
    Busy { ring, arena, file, socket, done: Completions::new(64) }
}

fn gone(arena: &Arc<Arena>, file: &Arc<DirectFile>) {
    assert_eq!(Arc::strong_count(arena), 1, "the ring drained and let go of the arena");
    assert_eq!(Arc::strong_count(file), 1, "and of its files");
}

#[test]
fn drop_with_everything_queued() {
    for permit in PERMITS {
        let Busy { ring, arena, file, .. } = busy(permit);
        drop(ring);
        gone(&arena, &file);
    }
}

#[test]
fn drop_with_everything_submitted() {
    for permit in PERMITS {
        let Busy { mut ring, arena, file, mut done, .. } = busy(permit);
        // Takes one completion at most: the others stay in the queue.
        let mut one = Completions::new(1);
        ring.turn(Wait::Never, &mut one).unwrap();
        drop(ring);
        gone(&arena, &file);
        done.drain().for_each(drop);
    }
}

#[test]
fn drop_with_buffers_held() {
    for permit in PERMITS {
        let Busy { mut ring, arena, file, .. } = busy(permit);
        let mut held = Vec::new();
        let hold = |_: &mut Ring, held: &mut Vec<_>, completion| held.push(completion);
        let received = |held: &Vec<Completion>| {
            held.iter().filter(|completion| matches!(completion, Completion::Received(_))).count()
        };
        turn_until(&mut ring, &mut held, hold, |held| received(held) >= 8);
        assert!(ring.buffers_outstanding() >= 8);
        drop(ring);
        gone(&arena, &file);
        assert!(received(&held) >= 8);
    }
}

#[test]
fn drop_idle_rings() {
    drop(ring(Features::ALL));
    let mut with_receive = ring(Features::ALL);
    add(&mut with_receive, &config(V4));
    with_receive.turn(Wait::Never, &mut Completions::new(4)).unwrap();
    drop(with_receive);
    // More rings than the thread's table of registered rings holds.
    let many: Vec<_> = (0..20).map(|_| ring(Features::ALL)).collect();
    drop(many);
    ring(Features::ALL).turn(Wait::Never, &mut Completions::new(4)).unwrap();
}

#[test]
fn a_removed_socket_closes_and_its_key_means_nothing() {
    for permit in PERMITS {
        let Busy { mut ring, arena, file, socket, mut done } = busy(permit);
        let addr = ring.socket(socket).unwrap().local_addr();
        ring.remove_socket(socket);
        ring.remove_socket(socket);
        assert!(ring.socket(socket).is_none());
        let (refused, returned) = ring.send(socket, plan(addr)).unwrap_err();
        assert_eq!((refused, returned.payload_bytes()), (SendRefused::NoSocket, 2000));
        let mut sent = 0;
        let count = |_: &mut Ring, sent: &mut usize, completion| {
            assert!(!matches!(completion, Completion::Received(_)), "nothing for a closed socket");
            *sent += usize::from(matches!(completion, Completion::Sent { .. }));
        };
        turn_until(&mut ring, &mut sent, count, |sent| *sent == 4);
        // When it is closed, its port is free again.
        let deadline = clock::now() + common::PATIENCE;
        let again = loop {
            match UdpSocket::bind(&config(&addr.to_string())) {
                Ok(socket) => break socket,
                Err(error) => assert!(clock::now() < deadline, "{error}"),
            }
            ring.turn(Wait::Never, &mut done).unwrap();
            done.drain().for_each(drop);
        };
        let next = ring.add_socket(again).unwrap();
        assert_ne!(next, socket);
        assert_eq!(ring.send(socket, plan(addr)).unwrap_err().0, SendRefused::NoSocket);
        // The slot's new user receives, and the old one's cancellation does not touch it.
        ring.send(next, plan(addr)).unwrap();
        let mut received = 0;
        let count = |ring: &mut Ring, received: &mut usize, completion| {
            if let Completion::Received(train) = completion {
                *received += ring.datagram(&train).segments().len();
                ring.recycle(train);
            }
        };
        turn_until(&mut ring, &mut received, count, |received| *received == 2);
        drop(ring);
        gone(&arena, &file);
    }
}

#[test]
fn sockets_come_and_go_without_end() {
    for permit in PERMITS {
        let mut ring = ring(permit);
        let mut done = Completions::new(64);
        let deadline = clock::now() + common::PATIENCE;
        for _ in 0..100 {
            let socket = UdpSocket::bind(&config(V4)).unwrap();
            let mut id = ring.add_socket(socket);
            while let Err(error) = id {
                // All four slots wait for their cancellations.
                assert!(clock::now() < deadline, "{error}");
                ring.turn(Wait::Never, &mut done).unwrap();
                id = ring.add_socket(UdpSocket::bind(&config(V4)).unwrap());
            }
            ring.turn(Wait::Never, &mut done).unwrap();
            ring.remove_socket(id.unwrap());
            done.drain().for_each(drop);
        }
    }
}

#[test]
fn tables_have_an_end() {
    let mut ring = ring(Features::ALL);
    for _ in 0..4 {
        add(&mut ring, &config(V4));
        ring.add_file(file()).unwrap();
    }
    let error = ring.add_socket(UdpSocket::bind(&config(V4)).unwrap()).unwrap_err();
    assert!(error.to_string().contains("room for 4 sockets"), "{error}");
    let error = ring.add_file(file()).unwrap_err();
    assert!(error.to_string().contains("room for 4 files"), "{error}");
}

#[test]
fn refusals_give_the_plan_back() {
    let mut ring = ring(Features::ALL);
    let (socket, to) = add(&mut ring, &config(V4));
    let (refused, mut plan) = ring.send(socket, SendPlan::new()).unwrap_err();
    assert_eq!(refused, SendRefused::Empty);
    plan.push_scratch(&[0; 65]).unwrap();
    plan.segment_bytes = 1;
    let (refused, mut plan) = ring.send(socket, plan).unwrap_err();
    assert_eq!(refused, SendRefused::Segments);
    plan.reset();
    plan.push_arena(1 << 20, 1).unwrap();
    let (refused, mut plan) = ring.send(socket, plan).unwrap_err();
    assert_eq!(refused, SendRefused::OutsideArena);
    plan.reset();
    plan.push_scratch(b"x").unwrap();
    plan.peer = to;
    plan.token = 99;
    for _ in 0..16 {
        let mut next = SendPlan::new();
        next.push_scratch(b"x").unwrap();
        next.peer = to;
        next.token = 99;
        ring.send(socket, std::mem::replace(&mut plan, next)).unwrap();
    }
    let (refused, plan) = ring.send(socket, plan).unwrap_err();
    assert!(refused.is_throttle());
    assert_eq!(plan.token, 99);
    assert_eq!(ring.stats().refused_full, 1);
    let mut sent = 0;
    let count = |ring: &mut Ring, sent: &mut usize, completion| match completion {
        Completion::Sent { .. } => *sent += 1,
        Completion::Received(received) => ring.recycle(received),
        other => panic!("{other:?}"),
    };
    turn_until(&mut ring, &mut sent, count, |sent| *sent == 16);
    ring.send(socket, plan).unwrap();
}
