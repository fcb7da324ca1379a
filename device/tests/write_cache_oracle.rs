//! The write cache against a flat array of bytes.
//!
//! One thread submits, and per unit the cache keeps the order of submission. So every read, whenever its bytes come, must
//! show the disk as it was when the read was submitted; the base answers late and in any order.
#![expect(clippy::unwrap_used, reason = "tests may")]
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use diskstream_device::front::disk::{
    Disk, WriteDone, WriteFailure, WriteRequest, ZeroMode, ZeroRequest,
};
use diskstream_device::front::{
    BlockSource, Done, Extent, ExtentsDone, ExtentsRequest, MemorySource, ReadFailure, ReadRequest,
    WriteCache,
};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Reads held back, and whether the source has ended.
type Held = Arc<(Mutex<(Vec<ReadRequest>, bool)>, Condvar)>;

/// Holds reads back and lets a thread answer them in an order of its own.
struct LateSource {
    inner: MemorySource,
    held: Held,
}

impl LateSource {
    fn new(bytes: &[u8], mut seed: u64) -> Arc<Self> {
        let held: Held = Arc::default();
        let source = Arc::new(Self { inner: MemorySource::new(bytes), held: Arc::clone(&held) });
        let answering = MemorySource::new(bytes);
        thread::spawn(move || {
            loop {
                let mut state = held
                    .1
                    .wait_while(held.0.lock().unwrap(), |(held, end)| held.is_empty() && !*end)
                    .unwrap();
                if state.0.is_empty() {
                    return;
                }
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let index = usize::try_from(seed >> 33).unwrap() % state.0.len();
                let request = state.0.swap_remove(index);
                drop(state);
                answering.read(request);
            }
        });
        source
    }
}

impl Drop for LateSource {
    fn drop(&mut self) {
        self.held.0.lock().unwrap().1 = true;
        self.held.1.notify_all();
    }
}

impl BlockSource for LateSource {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read(&self, request: ReadRequest) {
        self.held.0.lock().unwrap().0.push(request);
        self.held.1.notify_all();
    }
    fn extents(&self, request: ExtentsRequest) {
        self.inner.extents(request);
    }
}

type ReadAnswer = (Vec<u8>, Result<(), ReadFailure>);

fn read(disk: &dyn Disk, offset: u64, length: usize) -> Receiver<ReadAnswer> {
    let (sender, receiver) = channel();
    let done = Done::new(move |buffer, result| sender.send((buffer, result)).unwrap());
    // What is in the buffer means nothing to the disk; a wrong disk might leave it there.
    disk.read(ReadRequest { offset, buffer: vec![0xee; length], done });
    receiver
}

fn write_done() -> (WriteDone, Receiver<Result<(), WriteFailure>>) {
    let (sender, receiver) = channel();
    (WriteDone::new(move |result| sender.send(result).unwrap()), receiver)
}

fn write(disk: &dyn Disk, offset: u64, bytes: Vec<u8>) -> Receiver<Result<(), WriteFailure>> {
    let (done, receiver) = write_done();
    disk.write(WriteRequest { offset, bytes, done });
    receiver
}

fn zero(
    disk: &dyn Disk,
    offset: u64,
    length: u64,
    mode: ZeroMode,
) -> Receiver<Result<(), WriteFailure>> {
    let (done, receiver) = write_done();
    disk.zero(ZeroRequest { offset, length, mode, done });
    receiver
}

fn flush(disk: &dyn Disk) -> Receiver<Result<(), WriteFailure>> {
    let (done, receiver) = write_done();
    disk.flush(done);
    receiver
}

fn extents(disk: &dyn Disk, offset: u64, length: u64, extents_max: usize) -> Vec<Extent> {
    let (sender, receiver) = channel();
    let done = ExtentsDone::new(move |result| sender.send(result).unwrap());
    disk.extents(ExtentsRequest { offset, length, extents_max, done });
    receiver.recv_timeout(PATIENCE).unwrap().unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, usize, u8),
    Read(usize, usize),
    Zero(usize, usize, ZeroMode),
    Flush,
    Extents(usize, usize, usize),
}

/// Ranges of a disk: mostly small and ragged, sometimes whole units, sometimes long.
fn range(size: usize) -> impl Strategy<Value = (usize, usize)> {
    let ragged = (0..size, 1..9000usize);
    let units = (0..size / 4096, 1..20usize).prop_map(|(unit, count)| (unit * 4096, count * 4096));
    let long = (0..size, 1..size);
    prop_oneof![4 => ragged, 3 => units, 1 => long]
        .prop_map(move |(offset, length)| (offset, length.min(size - offset)))
}

fn operation(size: usize) -> impl Strategy<Value = Op> {
    let modes =
        prop_oneof![Just(ZeroMode::Discard), Just(ZeroMode::Zero), Just(ZeroMode::ZeroAllocated)];
    prop_oneof![
        6 => (range(size), 1..=255u8).prop_map(|((o, l), seed)| Op::Write(o, l, seed)),
        5 => range(size).prop_map(|(o, l)| Op::Read(o, l)),
        2 => (range(size), modes).prop_map(|((o, l), mode)| Op::Zero(o, l, mode)),
        1 => Just(Op::Flush),
        1 => (range(size), 1..40usize).prop_map(|((o, l), max)| Op::Extents(o, l, max)),
    ]
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

fn zero_oracle(oracle: &mut [u8], offset: usize, length: usize, mode: ZeroMode) {
    let (mut start, mut end) = (offset, offset + length);
    if mode == ZeroMode::Discard {
        start = start.next_multiple_of(4096);
        end = if end == oracle.len() { end } else { end / 4096 * 4096 };
    }
    if start < end {
        oracle[start..end].fill(0);
    }
}

/// A base with holes of units and of whole groups.
fn base(size: usize) -> Vec<u8> {
    let mut bytes = pattern(size, 7);
    for unit in bytes.chunks_mut(4096).step_by(5) {
        unit.fill(0);
    }
    let hole = size / 3;
    bytes[hole..hole + size / 4].fill(0);
    bytes
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

enum Expected {
    Read(Receiver<ReadAnswer>, Vec<u8>, Op),
    Write(Receiver<Result<(), WriteFailure>>, Op),
}

/// Submits all, waits for nothing but extents (which wait for the writes before them), compares at the end.
fn check(size: usize, ops: &[Op], ram_bytes: u64, overflow: Option<PathBuf>, seed: u64) {
    let mut oracle = base(size);
    let cache = WriteCache::new(LateSource::new(&oracle, seed), ram_bytes, overflow).unwrap();
    let mut expected = Vec::new();
    for op in ops {
        match *op {
            Op::Write(offset, length, seed) => {
                let bytes = pattern(length, seed);
                oracle[offset..offset + length].copy_from_slice(&bytes);
                let answer = write(&cache, as_u64(offset), bytes);
                expected.push(Expected::Write(answer, op.clone()));
            }
            Op::Read(offset, length) => {
                let wanted = oracle[offset..offset + length].to_vec();
                expected.push(Expected::Read(
                    read(&cache, as_u64(offset), length),
                    wanted,
                    op.clone(),
                ));
            }
            Op::Zero(offset, length, mode) => {
                zero_oracle(&mut oracle, offset, length, mode);
                let answer = zero(&cache, as_u64(offset), as_u64(length), mode);
                expected.push(Expected::Write(answer, op.clone()));
            }
            Op::Flush => expected.push(Expected::Write(flush(&cache), op.clone())),
            Op::Extents(offset, length, max) => {
                let found = extents(&cache, as_u64(offset), as_u64(length), max);
                assert!(!found.is_empty() && found.len() <= max);
                let mut at = offset;
                for extent in found {
                    let end = at + usize::try_from(extent.length).unwrap();
                    assert!(end > at && end <= offset + length);
                    assert!(
                        !extent.zero || oracle[at..end].iter().all(|byte| *byte == 0),
                        "{op:?}"
                    );
                    at = end;
                }
            }
        }
    }
    for answer in expected {
        match answer {
            Expected::Read(answer, wanted, op) => {
                let (bytes, result) = answer.recv_timeout(PATIENCE).expect("an answer in time");
                assert_eq!(result, Ok(()), "{op:?}");
                let wrong = bytes.iter().zip(&wanted).position(|(a, b)| a != b);
                assert!(bytes == wanted, "{op:?} differs at {wrong:?}");
            }
            Expected::Write(answer, op) => {
                assert_eq!(
                    answer.recv_timeout(PATIENCE).expect("an answer in time"),
                    Ok(()),
                    "{op:?}"
                );
            }
        }
    }
    let (bytes, result) = read(&cache, 0, size).recv_timeout(PATIENCE).unwrap();
    assert_eq!(result, Ok(()));
    assert!(bytes == oracle, "the disk differs in the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn all_in_ram(ops in prop::collection::vec(operation(3 << 20), 1..120), seed: u64) {
        check(3 << 20, &ops, 8 << 20, None, seed);
    }

    #[test]
    fn mostly_in_the_overflow_file(ops in prop::collection::vec(operation(5 << 20), 1..120), seed: u64) {
        let dir = tempfile::tempdir().unwrap();
        check(5 << 20, &ops, 1 << 20, Some(dir.path().join("overflow")), seed);
    }

    #[test]
    fn a_disk_of_odd_size(ops in prop::collection::vec(operation(1_300_777), 1..120), seed: u64) {
        let dir = tempfile::tempdir().unwrap();
        check(1_300_777, &ops, 1 << 20, Some(dir.path().join("overflow")), seed);
    }
}

/// Threads own neighbouring ranges whose borders lie inside units, so they write the same units at the same time.
#[test]
fn threads_share_units_at_their_borders() {
    const THREADS: usize = 4;
    const SHARE: usize = 700_001;
    let dir = tempfile::tempdir().unwrap();
    let start = base(THREADS * SHARE);
    let source = LateSource::new(&start, 5);
    let cache = WriteCache::new(source, 1 << 20, Some(dir.path().join("overflow"))).unwrap();
    let shares: Vec<Vec<u8>> = thread::scope(|scope| {
        let handles: Vec<_> = start
            .chunks(SHARE)
            .enumerate()
            .map(|(index, share)| {
                let (cache, mut oracle) = (&cache, share.to_vec());
                scope.spawn(move || {
                    let mut word = as_u64(index + 1);
                    for round in 0..400usize {
                        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                        let random = usize::try_from(word >> 33).unwrap();
                        // Every third operation touches a border.
                        let length = 1 + random % 9000;
                        let offset = match round % 3 {
                            0 => 0,
                            1 => SHARE - length,
                            _ => random % (SHARE - length),
                        };
                        let at = as_u64(index * SHARE + offset);
                        let bytes = pattern(length, u8::try_from(round % 255).unwrap());
                        oracle[offset..offset + length].copy_from_slice(&bytes);
                        let written = write(cache, at, bytes);
                        let (seen, _) = read(cache, at, length).recv_timeout(PATIENCE).unwrap();
                        assert!(seen == oracle[offset..offset + length], "round {round}");
                        written.recv_timeout(PATIENCE).unwrap().unwrap();
                    }
                    oracle
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let (bytes, _) = read(&cache, 0, THREADS * SHARE).recv_timeout(PATIENCE).unwrap();
    assert!(bytes == shares.concat());
}
