//! Wake-ups: none is lost, many are one, and neither a missing ring nor a missing feature hurts.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::time::Duration;

use common::{PATIENCE, ring, turn_until};
use diskstream_ring::inbox::inbox;
use diskstream_ring::{Completion, Completions, Features, Ring, RingConfig, Wait, Waker, clock};

fn until_woken(ring: &mut Ring) {
    let each = |_: &mut Ring, woken: &mut bool, completion| {
        assert!(matches!(completion, Completion::Woken), "{completion:?}");
        *woken = true;
    };
    turn_until(ring, &mut false, each, |woken| *woken);
}

#[test]
fn a_thread_wakes_a_waiting_ring() {
    let mut ring = ring(Features::ALL);
    for _ in 0..100 {
        let waker = ring.waker();
        let thread = std::thread::spawn(move || waker.wake());
        until_woken(&mut ring);
        thread.join().unwrap();
    }
    assert_eq!(ring.stats().wakes_received, 100);
}

#[test]
fn a_wake_up_before_the_ring_exists_is_not_lost() {
    let waker = Waker::new().unwrap();
    waker.wake();
    let config = RingConfig { waker: Some(waker), ..common::small() };
    until_woken(&mut Ring::new(&config, None).unwrap());
}

#[test]
fn many_wake_ups_are_one() {
    let mut ring = ring(Features::ALL);
    let waker = ring.waker();
    for _ in 0..1000 {
        waker.wake();
    }
    until_woken(&mut ring);
    let mut done = Completions::new(8);
    ring.turn(Wait::Never, &mut done).unwrap();
    assert!(done.is_empty());
    waker.wake();
    until_woken(&mut ring);
    assert_eq!(ring.stats().wakes_received, 2);
}

#[test]
fn a_ring_wakes_a_ring() {
    for permit in [Features::ALL, Features { msg_ring: false, ..Features::ALL }, Features::NONE] {
        let waker = Waker::new().unwrap();
        let config = RingConfig { waker: Some(waker.clone()), permit, ..common::small() };
        let thread = std::thread::spawn(move || {
            let mut ring = Ring::new(&config, None).unwrap();
            until_woken(&mut ring);
            *ring.stats()
        });
        let mut ring = ring(permit);
        // Either way it must arrive: before the other ring is made, or while it waits.
        ring.wake(&waker);
        let mut done = Completions::new(8);
        ring.turn(Wait::Never, &mut done).unwrap();
        assert_eq!(thread.join().unwrap().wakes_received, 1);
    }
}

#[test]
fn messages_carry_wake_ups_where_rings_can() {
    let mut target = ring(Features::ALL);
    let mut source = ring(Features::ALL);
    let mut done = Completions::new(8);
    for _ in 0..200 {
        source.wake(&target.waker());
        source.turn(Wait::Never, &mut done).unwrap();
        until_woken(&mut target);
    }
    assert!(done.is_empty());
    source.turn(Wait::Never, &mut done).unwrap();
    let (messaged, written) = (source.stats().wakes_messaged, source.stats().wakes_written);
    match source.features().msg_ring {
        true => assert_eq!((messaged, written), (200, 0)),
        false => assert_eq!((messaged, written), (0, 200)),
    }
}

#[test]
fn waking_a_ring_that_is_gone_is_harmless() {
    let mut source = ring(Features::ALL);
    let target = ring(Features::ALL);
    let waker = target.waker();
    source.wake(&waker);
    drop(target);
    let mut done = Completions::new(8);
    source.turn(Wait::Never, &mut done).unwrap();
    source.turn(Wait::Never, &mut done).unwrap();
    waker.wake();
    source.wake(&waker);
    source.turn(Wait::Never, &mut done).unwrap();
    assert!(done.is_empty());
}

#[test]
fn deadlines_end_a_wait() {
    let mut ring = ring(Features::ALL);
    let mut done = Completions::new(8);
    let start = clock::now();
    let pause = diskstream_wire::time::Nanos::from_millis(30);
    ring.turn(Wait::Until(start + pause), &mut done).unwrap();
    let waited = clock::now().since(start);
    assert!(waited >= pause && waited < PATIENCE, "{waited:?}");
    // The past does not wait, nor does Never.
    ring.turn(Wait::Until(start), &mut done).unwrap();
    ring.turn(Wait::Never, &mut done).unwrap();
    assert!(done.is_empty());
    assert_eq!(ring.stats().enters, 3);
}

/// Two threads flood an inbox whose owner sleeps whenever it may.
#[test]
fn an_inbox_delivers_everything_once() {
    const ITEMS: u64 = 20_000;
    let mut ring = ring(Features::ALL);
    let (sender, mut inbox) = inbox::<u64>(64, ring.waker());
    let threads: Vec<_> = (0..2)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for item in 0..ITEMS {
                    let mut item = item * 2 + thread;
                    while let Err(back) = sender.push(item) {
                        item = back;
                        std::thread::yield_now();
                    }
                    if item % 512 == 0 {
                        // Lets the owner fall asleep now and then.
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            })
        })
        .collect();
    let mut next = [0, 1];
    let mut done = Completions::new(8);
    while next != [2 * ITEMS, 2 * ITEMS + 1] {
        while let Some(item) = inbox.pop() {
            let expected = &mut next[usize::from(item % 2 == 1)];
            assert_eq!(item, *expected, "each sender's items arrive in order, once");
            *expected += 2;
        }
        if next == [2 * ITEMS, 2 * ITEMS + 1] {
            break;
        }
        let limit = clock::now() + PATIENCE;
        let wait = if inbox.may_sleep() { Wait::Until(limit) } else { Wait::Never };
        ring.turn(wait, &mut done).unwrap();
        inbox.awake();
        assert!(clock::now() < limit, "a wake-up was lost");
        done.drain().for_each(drop);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // How often it slept is the scheduler's business; more wake-ups than items would be ours.
    assert!(ring.stats().wakes_received <= 2 * ITEMS);
}

#[test]
fn an_inbox_wakes_through_the_senders_ring() {
    let mut owner = ring(Features::ALL);
    let mut other = ring(Features::ALL);
    let (sender, mut inbox) = inbox(4, owner.waker());
    sender.push_by(&mut other, 1).unwrap();
    assert!(!inbox.may_sleep(), "work forbids sleep");
    assert_eq!(inbox.pop(), Some(1));
    assert!(inbox.may_sleep());
    sender.push_by(&mut other, 2).unwrap();
    let mut done = Completions::new(8);
    other.turn(Wait::Never, &mut done).unwrap();
    until_woken(&mut owner);
    inbox.awake();
    assert_eq!((inbox.pop(), inbox.pop()), (Some(2), None));
    // Only the second push found the owner asleep.
    assert_eq!(owner.stats().wakes_received, 1);
}
