//! At steady state a turn allocates nothing: datagrams in and out, disk reads and wake-ups, with and without the features.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;

use common::{V4, add, config};
use diskstream_ring::{
    Completion, Completions, DirectFile, Features, ReadPlan, Ring, RingConfig, SendPlan,
    SocketConfig, Wait, clock,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local without a destructor and
// allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn steady_state(permit: Features) {
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    temp.write_all(&vec![5; 1 << 16]).unwrap();
    let config_ring = RingConfig { permit, ..common::small() };
    let mut ring = Ring::new(&config_ring, Some(common::arena(1 << 20))).unwrap();
    let mut other = common::ring(permit);
    let (server, to) = add(&mut ring, &SocketConfig { packet_info: true, gro: true, ..config(V4) });
    let file = ring.add_file(Arc::new(DirectFile::open(temp.path()).unwrap())).unwrap();
    let mut pool: Vec<Box<SendPlan>> = (0..8).map(|_| SendPlan::new()).collect();
    let mut done = Completions::new(32);
    let mut ignored = Completions::new(32);
    let deadline = clock::now() + common::PATIENCE;
    let (mut sent, mut read, mut received, mut woken) = (0, 0, 0, 0);
    let mut baseline = None;
    while sent < 400 || read < 400 || received < 400 || woken < 10 {
        if sent >= 100 && baseline.is_none() {
            baseline = Some(ALLOCATIONS.get());
        }
        while let Some(mut plan) = pool.pop() {
            plan.reset();
            plan.peer = to;
            for segment in 0..10 {
                plan.push_scratch(&[1; 76]).unwrap();
                plan.push_arena(segment * 4096, 1000).unwrap();
                plan.push_pin(9).unwrap();
            }
            plan.segment_bytes = 1076;
            if let Err((refused, plan)) = ring.send(server, plan) {
                assert!(refused.is_throttle());
                pool.push(plan);
                break;
            }
        }
        let plan = ReadPlan { file, file_offset: 0, arena_offset: 1 << 19, len: 4096, token: 1 };
        let _ = ring.read(plan);
        other.wake(&ring.waker());
        other.turn(Wait::Never, &mut ignored).unwrap();
        assert!(clock::now() < deadline, "stuck: {:?}", ring.stats());
        ring.turn(Wait::Until(deadline), &mut done).unwrap();
        for completion in done.drain() {
            match completion {
                Completion::Received(datagram) => {
                    received += ring.datagram(&datagram).segments().len();
                    ring.recycle(datagram);
                }
                Completion::Sent { plan, .. } => {
                    sent += 1;
                    pool.push(plan);
                }
                Completion::Read { result, .. } => {
                    result.unwrap();
                    read += 1;
                }
                Completion::Woken => woken += 1,
                Completion::SocketError { error, .. } => panic!("{error}"),
            }
        }
    }
    let allocations = ALLOCATIONS.get() - baseline.unwrap();
    assert_eq!(allocations, 0, "allocations at steady state with {permit:?}");
    assert_eq!((ring.buffers_outstanding(), ring.stats().overflows), (0, 0));
}

#[test]
fn with_every_feature() {
    steady_state(Features::ALL);
}

#[test]
fn with_every_twin() {
    steady_state(Features::NONE);
}
