//! A network of our own (a namespace with a veth pair), for what a loopback never does: full send buffers, and a path
//! that takes only so much.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use common::{config, turn_until};
use diskstream_ring::{
    Arena, ArenaConfig, Backing, Completion, Errno, Features, HugePages, Ring, RingConfig,
    SendPlan, SocketConfig, ZeroCopy,
};

/// Runs `test` on a thread with its own network: 10.99.0.1/24 behind a veth whose other end answers nothing.
fn in_a_network(test: fn()) {
    let run = move || {
        // SAFETY: only the calling thread moves to a new, empty network namespace; no memory is involved.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("SKIPPED: needs CAP_SYS_ADMIN for a network namespace");
            return;
        }
        for line in [
            "link add veth0 type veth peer name veth1",
            "addr add 10.99.0.1/24 dev veth0",
            "link set lo up",
            "link set veth1 up",
            "link set veth0 up",
        ] {
            // A child inherits the calling thread's namespace.
            let made = Command::new("ip").args(line.split(' ')).status();
            if !made.is_ok_and(|status| status.success()) {
                eprintln!("SKIPPED: ip {line} failed; needs iproute2 and the veth module");
                return;
            }
        }
        test();
    };
    std::thread::spawn(run).join().unwrap();
}

fn a_ring(permit: Features) -> Ring {
    Ring::new(&RingConfig { permit, ..common::small() }, None).unwrap()
}

/// Datagrams to a neighbour that does not resolve wait in the kernel, charged to the socket's send buffer.
fn full_send_buffer() {
    for permit in [Features::ALL, Features::NONE] {
        let mut ring = a_ring(permit);
        let tiny = SocketConfig { send_buffer_bytes: 1, ..config("10.99.0.1:0") };
        let (sender, _) = common::add(&mut ring, &SocketConfig { recv_buffer_bytes: 0, ..tiny });
        for _ in 0..8 {
            let mut plan = SendPlan::new();
            plan.push_scratch(&[0; 1400]).unwrap();
            plan.peer = "10.99.0.2:9".parse().unwrap();
            ring.send(sender, plan).unwrap();
        }
        let each = |_: &mut Ring, count: &mut (u64, u64), completion| match completion {
            Completion::Sent { result: Ok(1400), .. } => count.0 += 1,
            Completion::Sent { result: Err(error), .. } => {
                assert!(error.is_throttle(), "{error:?}");
                assert_eq!(error, Errno::EAGAIN);
                count.1 += 1;
            }
            other => panic!("{other:?}"),
        };
        let mut count = (0, 0);
        // At once, not when the neighbour is given up after seconds.
        turn_until(&mut ring, &mut count, each, |count| count.0 + count.1 == 8);
        assert!(count.0 > 0 && count.1 > 0, "some fit, the others are dropped: {count:?}");
        assert_eq!(ring.stats().sends_dropped, count.1);
        assert_eq!(ring.stats().datagrams_sent, count.0);
    }
}

#[test]
fn a_full_send_buffer_drops_instead_of_waiting() {
    in_a_network(full_send_buffer);
}

fn too_large_for_the_path() {
    let mut ring = a_ring(Features::ALL);
    let probing = SocketConfig { dont_fragment: true, ..config("10.99.0.1:0") };
    let (prober, _) = common::add(&mut ring, &probing);
    let (plain, _) = common::add(&mut ring, &config("10.99.0.1:0"));
    for (socket, bytes, token) in [(prober, 1472, 0), (prober, 1473, 1), (plain, 1473, 2)] {
        let mut plan = SendPlan::new();
        plan.push_scratch(&vec![0; bytes]).unwrap();
        plan.peer = "10.99.0.2:9".parse().unwrap();
        plan.token = token;
        ring.send(socket, plan).unwrap();
    }
    let each = |_: &mut Ring, results: &mut Vec<_>, completion| {
        let Completion::Sent { plan, result, .. } = completion else { panic!("{completion:?}") };
        results.push((plan.token, result));
    };
    let mut results = Vec::new();
    turn_until(&mut ring, &mut results, each, |results| results.len() == 3);
    results.sort_unstable_by_key(|(token, _)| *token);
    // Only the socket that forbids fragments learns that it is too much.
    assert_eq!(results, [(0, Ok(1472)), (1, Err(Errno::EMSGSIZE)), (2, Ok(1473))]);
}

#[test]
fn a_probe_that_is_too_large_says_so() {
    in_a_network(too_large_for_the_path);
}

const PAGE: usize = 2 << 20;
/// Datagrams of a train, and of a block's bytes in each.
const DATAGRAMS: usize = 7;
const DATA_BYTES: usize = 8192;

/// Sends are held by the kernel as a busy card would, as the neighbour does not resolve: what a train costs the send buffer meanwhile
/// depends on where its bytes lie in their huge pages, and the ring keeps within that.
fn trains_from_the_ends_of_huge_pages() {
    for (name, value) in [("unres_qlen_bytes", "2147483647"), ("retrans_time_ms", "300")] {
        std::fs::write(format!("/proc/sys/net/ipv4/neigh/veth0/{name}"), value).unwrap();
    }
    for arguments in ["link set veth1 mtu 9000", "link set veth0 mtu 9000"] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    }
    let arena = ArenaConfig { bytes: 32 << 20, huge_pages: HugePages::TwoMiB };
    let arena = Arc::new(Arena::with_headers(&arena, 2).unwrap());
    if arena.backing() != Backing::TwoMiB {
        eprintln!("SKIPPED: needs 32 MiB of reserved huge pages");
        return;
    }
    let sends = 64;
    let config_ring = RingConfig { zero_copy: ZeroCopy::On, sends, ..common::small() };
    let mut ring = Ring::new(&config_ring, Some(Arc::clone(&arena))).unwrap();
    if !(ring.features().zero_copy_send && ring.features().gso) {
        eprintln!("SKIPPED: needs zero-copy sends and GSO");
        return;
    }
    // What a node asks for; twice that is granted.
    let node = SocketConfig { send_buffer_bytes: 4 << 20, ..config("10.99.0.1:0") };
    let (sender, _) = common::add(&mut ring, &node);
    for send in 0..usize::from(sends) {
        let mut plan = SendPlan::new();
        for datagram in 0..DATAGRAMS {
            plan.push_scratch(&[1; 76]).unwrap();
            let page = 1 + (send + datagram) % 15;
            plan.push_arena((page + 1) * PAGE - DATA_BYTES, DATA_BYTES).unwrap();
        }
        plan.segment_bytes = u16::try_from(76 + DATA_BYTES).unwrap();
        plan.peer = "10.99.0.2:9".parse().unwrap();
        ring.send(sender, plan).unwrap();
    }
    let fd = ring.socket(sender).unwrap().as_raw_fd();
    let mut ended = 0;
    let each = |_: &mut Ring, ended: &mut usize, completion| match completion {
        Completion::Sent { result, .. } => {
            assert_eq!(result, Ok(u32::try_from(DATAGRAMS * (76 + DATA_BYTES)).unwrap()));
            *ended += 1;
        }
        other => panic!("{other:?}"),
    };
    // The copied ones end first; the others when the neighbour is given up.
    turn_until(&mut ring, &mut ended, each, |ended| *ended > 0);
    let mut charged: libc::c_int = 0;
    // SAFETY: the descriptor is open, and `charged` is writable for the call, which writes an int.
    assert_eq!(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut charged) }, 0);
    turn_until(&mut ring, &mut ended, each, |ended| *ended == usize::from(sends));
    let stats = ring.stats();
    assert_eq!((stats.sends_dropped, stats.sends_failed, stats.zero_copy_refused), (0, 0, 0));
    // 14 MiB each for the data, and little for the headers: as many as 512 MiB allow, and the others copied.
    eprintln!("{} sends without a copy, {charged} bytes charged", stats.sends_zero_copy);
    assert!((33..=36).contains(&stats.sends_zero_copy), "{}", stats.sends_zero_copy);
    let without =
        usize::try_from(charged).unwrap() / usize::try_from(stats.sends_zero_copy).unwrap();
    assert!((DATAGRAMS * PAGE..16 << 20).contains(&without), "the kernel charges {without} each");
}

#[test]
fn a_card_that_is_slow_to_complete_does_not_fill_the_send_buffer() {
    let Some(_reservation) = common::Reservation::new(common::TWO_MIB, 16) else {
        eprintln!("SKIPPED: needs root and 32 MiB of memory that is not fragmented");
        return;
    };
    in_a_network(trains_from_the_ends_of_huge_pages);
}
