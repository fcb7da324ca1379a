use std::net::SocketAddr;
use std::sync::Arc;

use io_uring::cqueue;

use super::*;
use crate::arena::{ArenaConfig, HugePages};
use crate::clock;
use crate::features::Features;
use crate::ring::op::classify;
use crate::ring::{RingConfig, SocketId, Wait};
use crate::udp::{SocketConfig, UdpSocket};
use diskstream_wire::time::Nanos;

const PATIENCE: Nanos = Nanos::from_secs(20);
const SEGMENT: usize = 76 + 4096;

fn arena(huge_pages: HugePages) -> Arc<Arena> {
    Arc::new(Arena::with_headers(&ArenaConfig { bytes: 4 << 20, huge_pages }, 1).unwrap())
}

/// A ring that sends to itself.
fn ring(zero_copy: ZeroCopy, permit: Features) -> Option<(Ring, SocketId, SocketAddr)> {
    if !(Features::probe().gso && Features::probe().zero_copy_send) {
        eprintln!("SKIPPED: needs GSO and zero-copy sends");
        return None;
    }
    let config = RingConfig {
        zero_copy,
        permit,
        recv_buffers: 16,
        recv_buffer_bytes: 65_535,
        ..RingConfig::default()
    };
    let mut ring = Ring::new(&config, Some(arena(HugePages::Off))).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sizes = SocketConfig { recv_buffer_bytes: 4 << 20, ..SocketConfig::new(any) };
    let socket = UdpSocket::bind(&sizes).unwrap();
    let to = socket.local_addr();
    let id = ring.add_socket(socket).unwrap();
    Some((ring, id, to))
}

fn plan(to: SocketAddr, segments: usize) -> Box<SendPlan> {
    let mut plan = SendPlan::new();
    for segment in 0..segments {
        plan.push_scratch(&[1; 76]).unwrap();
        plan.push_arena((1 << 20) + segment * 12_288, 4096).unwrap();
    }
    (plan.peer, plan.segment_bytes) = (to, u16::try_from(SEGMENT).unwrap());
    plan
}

/// Until the kernel has told of that many sends both results and notifications; gives their keys.
fn kernel_is_done(ring: &mut Ring, sends: usize) -> Vec<Key> {
    let deadline = clock::now() + PATIENCE;
    let (mut keys, mut notifications) = (Vec::new(), 0);
    while notifications < sends {
        assert!(clock::now() < deadline);
        ring.queues.enter(1, Some(PATIENCE.as_duration())).unwrap();
        while let Some(entry) = ring.queues.pop() {
            let (class, key) = classify(entry.user_data());
            if class != Class::Send {
                drop(ring.reap(&entry));
            } else if cqueue::notif(entry.flags()) {
                notifications += 1;
            } else {
                assert!(entry.result() > 0, "{}", entry.result());
                keys.push(key);
            }
        }
        ring.queues.sync_completions();
    }
    keys
}

/// Lets the ring's own sends come to their end; gives what became of them.
fn finish(ring: &mut Ring, sends: usize) -> Vec<Result<u32, Errno>> {
    let (mut done, mut results) = (Completions::new(16), Vec::new());
    let deadline = clock::now() + PATIENCE;
    while results.len() < sends {
        assert!(clock::now() < deadline, "{:?}", ring.stats());
        ring.turn(Wait::Until(deadline), &mut done).unwrap();
        for completion in done.drain() {
            match completion {
                Completion::Sent { result, .. } => results.push(result),
                Completion::Received(received) => ring.recycle(received),
                other => panic!("{other:?}"),
            }
        }
    }
    results
}

/// What kernels before 6.15 answer to each of several sends: the error, and a notification that is marked as a copy.
#[test]
fn a_kernel_that_refuses_several_sends_at_once_gets_them_with_a_copy() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::On, Features::ALL) else { return };
    for _ in 0..2 {
        ring.send(id, plan(to, 4)).unwrap();
    }
    let keys = kernel_is_done(&mut ring, 2);
    for &key in &keys {
        assert!(ring.reap_send(key, Err(Errno::EINVAL), true).is_none());
    }
    for &key in &keys {
        assert!(ring.reap_notification(key, COPIED).is_none(), "it goes out again");
    }
    assert_eq!(finish(&mut ring, 2), [Ok(4 * 4172), Ok(4 * 4172)]);
    let stats = *ring.stats();
    assert_eq!((stats.zero_copy_refused, stats.zero_copy_copied, stats.sends_failed), (2, 0, 0));
    // With a copy they were taken: that was it, and the address is left alone.
    ring.send(id, plan(to, 4)).unwrap();
    finish(&mut ring, 1);
    assert_eq!((ring.stats().sends_zero_copy, ring.zero_copy_paths()), (0, 0));
}

#[test]
fn a_send_that_fails_either_way_says_nothing_about_zero_copy() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::On, Features::ALL) else { return };
    ring.send(id, plan(to, 4)).unwrap();
    let key = kernel_is_done(&mut ring, 1)[0];
    assert!(ring.reap_send(key, Err(Errno::EMSGSIZE), true).is_none());
    assert!(ring.reap_notification(key, COPIED).is_none());
    // Its second way fails like the first.
    ring.queues.enter(1, Some(PATIENCE.as_duration())).unwrap();
    while let Some(entry) = ring.queues.pop() {
        match classify(entry.user_data()).0 {
            Class::Send => {
                let over = ring.reap_send(key, Err(Errno::EMSGSIZE), false);
                let Some(Completion::Sent { result, .. }) = over else { panic!("{over:?}") };
                assert_eq!(result, Err(Errno::EMSGSIZE));
            }
            _ => drop(ring.reap(&entry)),
        }
    }
    ring.queues.sync_completions();
    assert_eq!(ring.sends_outstanding(), 0);
    assert!(ring.owned.zero_copy.choice.considers(None).is_some(), "not refused");
}

#[test]
fn a_send_that_failed_is_no_sign_that_the_kernel_copies() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::On, Features::ALL) else { return };
    // One that went without a copy, as a card would tell.
    ring.send(id, plan(to, 4)).unwrap();
    let key = kernel_is_done(&mut ring, 1)[0];
    assert!(ring.reap_send(key, Ok(4 * 4172), true).is_none());
    assert!(ring.reap_notification(key, 0).is_some());
    assert_eq!(ring.zero_copy_paths(), 1);
    // And one that found the send buffer full, the host without a route, or a firewall.
    for error in [Errno::EAGAIN, Errno(libc::ENETUNREACH), Errno(libc::EPERM)] {
        ring.send(id, plan(to, 4)).unwrap();
        let key = kernel_is_done(&mut ring, 1)[0];
        assert!(ring.reap_send(key, Err(error), true).is_none());
        assert!(ring.reap_notification(key, COPIED).is_some());
        assert_eq!((ring.zero_copy_paths(), ring.stats().zero_copy_copied), (1, 0), "{error:?}");
    }
    // Whereas a loopback does copy.
    ring.send(id, plan(to, 4)).unwrap();
    finish(&mut ring, 1);
    assert_eq!((ring.zero_copy_paths(), ring.stats().zero_copy_copied), (0, 1));
}

#[test]
fn without_registered_buffers_there_is_no_zero_copy() {
    let permit = Features { registered_buffers: false, ..Features::ALL };
    let Some((mut ring, id, to)) = ring(ZeroCopy::On, permit) else { return };
    assert!(!ring.features().zero_copy_send);
    ring.send(id, plan(to, 4)).unwrap();
    assert_eq!(finish(&mut ring, 1), [Ok(4 * 4172)]);
    let stats = ring.stats();
    assert_eq!((stats.sends_zero_copy, stats.zero_copy_refused, ring.zero_copy_paths()), (0, 0, 0));
}

#[test]
fn a_trial_measures_the_submission_and_not_the_wait() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::Auto, Features::ALL) else { return };
    let mut done = Completions::new(1);
    assert_eq!(ring.submit_measured(&mut done).unwrap(), None, "nothing is sent");
    for _ in 0..4 {
        ring.send(id, plan(to, 8)).unwrap();
    }
    assert!(ring.owned.zero_copy.choice.measuring());
    assert!(ring.submit_measured(&mut done).unwrap().is_some());
    // What is waited for after that is not part of it.
    assert!(!ring.owned.zero_copy.choice.measuring());
    assert_eq!(ring.owned.zero_copy.queued_bytes, 0);
}

#[test]
fn send_buffers_are_larger_while_it_is_of_use() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::Auto, Features::ALL) else { return };
    let before = ring.socket(id).unwrap().send_buffer_bytes();
    let now = |ring: &Ring| ring.socket(id).unwrap().send_buffer_in_force();
    for _ in 0..4 {
        ring.send(id, plan(to, 8)).unwrap();
    }
    if now(&ring) < before + CREDIT_BYTES {
        eprintln!("SKIPPED: needs CAP_NET_ADMIN for a larger send buffer");
        return;
    }
    // A loopback copies, and so the trial ends soon.
    let mut sends = 4;
    while ring.stats().zero_copy_copied == 0 {
        finish(&mut ring, sends);
        sends = 4;
        for _ in 0..4 {
            ring.send(id, plan(to, 8)).unwrap();
        }
    }
    assert_eq!(now(&ring), before);
    finish(&mut ring, sends);
    let slot = ring.owned.sockets.get(id.0).unwrap();
    assert_eq!((slot.credit.used, slot.credit.bytes), (0, 0));
}

#[test]
fn send_buffers_shrink_after_a_trial_without_a_verdict_too() {
    let Some((mut ring, id, to)) = ring(ZeroCopy::Auto, Features::ALL) else { return };
    let before = ring.socket(id).unwrap().send_buffer_bytes();
    ring.send(id, plan(to, 8)).unwrap();
    assert!(ring.owned.zero_copy.choice.on_trial());
    assert!(ring.owned.sockets.get(id.0).unwrap().credit.asked);
    let never = clock::now() + Nanos::from_secs(3600);
    assert!(ring.owned.zero_copy.choice.turn_over(None, never).is_some(), "undecided");
    finish(&mut ring, 1);
    assert_eq!(ring.socket(id).unwrap().send_buffer_in_force(), before);
    assert!(!ring.owned.sockets.get(id.0).unwrap().credit.asked);
}

#[test]
fn a_plan_is_judged_by_its_pieces() {
    let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let small = PAGE_BYTES.trailing_zeros();
    let shape = suitable(&plan(to, 8), small).unwrap();
    assert_eq!((shape.piece, shape.headers), (0, 8));
    assert_eq!(suitable(&plan(to, 9), small), None, "18 fragments");
    assert_eq!(suitable(&plan(to, 1), small), None, "too small to pay");
    // In larger pages a longer range is one fragment.
    let mut long = SendPlan::new();
    for segment in 0..6 {
        long.push_scratch(&[0; 76]).unwrap();
        long.push_arena(FOLIO_BYTES + 512 + segment * 10_000, 8192).unwrap();
    }
    assert_eq!(suitable(&long, small), None);
    assert_eq!(suitable(&long, FOLIO_BYTES.trailing_zeros()).unwrap().headers, 6);
    // From two pieces of the arena.
    long.push_arena(PIECE_BYTES, 8192).unwrap();
    assert_eq!(suitable(&long, FOLIO_BYTES.trailing_zeros()), None);
}

#[test]
fn a_fragment_is_charged_for_what_is_before_it_in_its_page() {
    assert_eq!(charge_of(0, 1), 4096);
    assert_eq!(charge_of(100, 4096), 8192);
    assert_eq!(charge_of(5 * FOLIO_BYTES + 8192, 8192), 16_384);
    assert_eq!(charge_of(FOLIO_BYTES - 8192, 8192), FOLIO_BYTES);
    // Two fragments.
    assert_eq!(charge_of(FOLIO_BYTES - 4096, 8192), FOLIO_BYTES + 4096);
}
