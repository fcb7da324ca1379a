//! The sleep protocol under loom: every interleaving and every allowed reordering of two senders and an owner.
//!
//! The queue is a counter with relaxed operations, the weakest thing that could stand in for one: if the protocol leaned
//! on the queue's own ordering, the model would find the lost wake-up. The bell is loom's `Notify`: an owner that waits
//! for a wake-up that never comes is a deadlock, which loom reports.

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

use super::*;
use crate::wake::Pending;

struct Model {
    items: AtomicUsize,
    doorbell: Doorbell,
    pending: Pending,
    bell: Notify,
}

impl Model {
    fn push(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
        if self.doorbell.must_wake() && self.pending.raise() {
            self.bell.notify();
        }
    }

    fn turn(&self, wait: bool) {
        if wait {
            // A turn of the ring: returns when the bell rang, and reaping the wake-up lowers the flag.
            self.bell.wait();
            self.pending.lower();
        }
    }
}

/// Three threads with every preemption take hours; loom's authors find nearly all bugs with two or three.
fn bounded() -> loom::model::Builder {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder
}

fn check(senders: usize, items_each: usize) {
    bounded().check(move || {
        let model = Arc::new(Model {
            items: AtomicUsize::new(0),
            doorbell: Doorbell::new(),
            pending: Pending::new(),
            bell: Notify::new(),
        });
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || (0..items_each).for_each(|_| model.push()))
            })
            .collect();
        let mut seen = 0;
        while seen < senders * items_each {
            let new = model.items.load(Ordering::Relaxed);
            seen = new;
            if seen == senders * items_each {
                break;
            }
            let wait = model.doorbell.lie_down(|| model.items.load(Ordering::Relaxed) == seen);
            model.turn(wait);
            model.doorbell.get_up();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A waker without an inbox: publish, wake; the owner waits, then looks. Only `pending` orders the work of a waker that
/// found it raised.
#[test]
fn the_waker_alone_publishes_work() {
    bounded().check(|| {
        let model = Arc::new((AtomicUsize::new(0), Pending::new(), Notify::new()));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    let (items, pending, bell) = &*model;
                    items.fetch_add(1, Ordering::Relaxed);
                    if pending.raise() {
                        bell.notify();
                    }
                })
            })
            .collect();
        let (items, pending, bell) = &*model;
        while items.load(Ordering::Relaxed) < 2 {
            bell.wait();
            pending.lower();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_sender_never_loses_a_wake_up() {
    check(1, 2);
}

#[test]
fn two_senders_never_lose_a_wake_up() {
    check(2, 1);
}
