//! A network of our own (a namespace with a veth pair), for what a loopback never does: full send buffers, and a path
//! that takes only so much.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::process::Command;

use common::{config, turn_until};
use diskstream_ring::{Completion, Errno, Features, Ring, RingConfig, SendPlan, SocketConfig};

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
