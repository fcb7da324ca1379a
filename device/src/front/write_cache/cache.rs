//! [`WriteCache`]: splits requests into units, and does outside the lock what the state decided inside it.
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};

use super::config::WriteCacheConfig;
use super::fill::Fill;
use super::overflow::{OverflowError, OverflowFile};
use super::request::{Payload, Read, ReadPiece, Write, WritePiece};
use super::state::{Actions, BaseRead, Job, Kind, Op, State, UNIT};
use super::table::{GROUP_UNITS, SLOTS_MAX};
use super::worker::{self, Task};
use crate::front::disk::{
    Disk, ReadOnlyDisk, WriteDone, WriteFailure, WriteRequest, ZeroMode, ZeroRequest,
};
use crate::front::source::{
    BlockSource, Done, Extent, ExtentsDone, ExtentsRequest, ReadFailure, ReadRequest, UNIT_BYTES,
    check_range, push_extent,
};

/// Units worked on under one hold of the lock: 1 MiB of copying, some 100 microseconds (derived from 10 GB/s).
const STRETCH_UNITS: u64 = 256;
/// Bytes that one extents query looks at; clients ask on. Bounds the hold of the lock to 65,536 units.
const EXTENTS_BYTES_MAX: u64 = 256 << 20;

/// A device's own copy-on-write store over a read-only image. See the [module](super).
pub struct WriteCache {
    inner: Arc<Inner>,
    config: WriteCacheConfig,
}

/// The disk to export, and how full its cache is: `None` for a read-only disk.
pub type OpenedDisk = (Arc<dyn Disk>, Option<Arc<Fill>>);

/// The disk that `config` declares over `base`.
///
/// # Errors
/// [`OverflowError`] when the overflow file cannot be used; nothing else is tried in its place.
pub fn open(
    config: &WriteCacheConfig,
    base: Arc<dyn BlockSource>,
) -> Result<OpenedDisk, OverflowError> {
    match config {
        WriteCacheConfig::None => Ok((Arc::new(ReadOnlyDisk(base)), None)),
        WriteCacheConfig::Ram { ram_bytes, overflow } => {
            let cache = WriteCache::new(base, *ram_bytes, overflow.clone())?;
            let fill = Some(cache.fill());
            Ok((Arc::new(cache), fill))
        }
    }
}

pub(super) struct Inner {
    base: Arc<dyn BlockSource>,
    size_bytes: u64,
    state: Mutex<State>,
    fill: Arc<Fill>,
    overflow: Option<Overflow>,
}

struct Overflow {
    file: Arc<OverflowFile>,
    tasks: Mutex<Sender<Task>>,
}

impl WriteCache {
    /// A cache of `ram_bytes` over `base`, with new units going to `overflow` once the RAM is full.
    ///
    /// # Errors
    /// [`OverflowError`] when the overflow file cannot be used; nothing else is tried in its place.
    pub fn new(
        base: Arc<dyn BlockSource>,
        ram_bytes: u64,
        overflow: Option<PathBuf>,
    ) -> Result<Self, OverflowError> {
        let size_bytes = base.size_bytes();
        let fill = Arc::new(Fill::default());
        let units = (ram_bytes / UNIT_BYTES).min(u64::from(SLOTS_MAX));
        fill.set_capacity(units * UNIT_BYTES, 0);
        let handle = match &overflow {
            None => None,
            Some(path) => {
                let (file, free_bytes) = OverflowFile::open(path)?;
                fill.set_capacity(units * UNIT_BYTES, free_bytes);
                let file = Arc::new(file);
                let tasks = worker::start(&file).map_err(|error| OverflowError::System {
                    path: path.clone(),
                    step: "start its threads",
                    error,
                })?;
                Some(Overflow { file, tasks: Mutex::new(tasks) })
            }
        };
        let config = WriteCacheConfig::Ram { ram_bytes: units * UNIT_BYTES, overflow };
        tracing::info!(write_cache = %config, size_bytes, "write cache is up");
        let units = u32::try_from(units).expect("cut to SLOTS_MAX");
        let state = State::new(size_bytes, units, handle.is_some(), Arc::clone(&fill));
        let inner = Inner { base, size_bytes, state: Mutex::new(state), fill, overflow: handle };
        Ok(Self { inner: Arc::new(inner), config })
    }

    /// How full it is; readable at any time without its lock.
    pub fn fill(&self) -> Arc<Fill> {
        Arc::clone(&self.inner.fill)
    }

    /// What was declared.
    pub fn config(&self) -> &WriteCacheConfig {
        &self.config
    }
}

impl Disk for WriteCache {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, request: ReadRequest) {
        Inner::read(&self.inner, request);
    }

    fn extents(&self, request: ExtentsRequest) {
        Inner::extents(&self.inner, request);
    }

    fn write(&self, request: WriteRequest) {
        let WriteRequest { offset, bytes, done } = request;
        let length = bytes.len() as u64;
        if check_range(offset, length, self.inner.size_bytes).is_err() {
            return done.call(Err(self.inner.outside(offset, length)));
        }
        let write = Write::new(bytes, done);
        self.inner.spread(&write, offset, length, Payload::Bytes);
    }

    fn zero(&self, request: ZeroRequest) {
        let ZeroRequest { mut offset, mut length, mode, done } = request;
        let size = self.inner.size_bytes;
        if check_range(offset, length, size).is_err() {
            return done.call(Err(self.inner.outside(offset, length)));
        }
        if mode == ZeroMode::Discard {
            let end = offset + length;
            let end = if end == size { end } else { end - end % UNIT_BYTES };
            offset = offset.next_multiple_of(UNIT_BYTES);
            length = end.saturating_sub(offset);
        }
        let allocate = mode == ZeroMode::ZeroAllocated;
        let write = Write::new(Vec::new(), done);
        self.inner.spread(&write, offset, length, |_| Payload::Zeroes { allocate });
    }

    /// A barrier on the overflow file's errors: what was written to it is synced and its errors are reported here.
    /// That is all: the cache's content ends with the process, whatever was flushed.
    fn flush(&self, done: WriteDone) {
        match &self.inner.overflow {
            Some(overflow) if overflow.file.needs_sync() => {
                self.inner.send(Job::Sync(done));
            }
            _ => done.call(Ok(())),
        }
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the write cache's lock")
    }

    pub(super) fn fill(&self) -> &Fill {
        &self.fill
    }

    fn outside(&self, offset: u64, length: u64) -> WriteFailure {
        WriteFailure::OutOfRange { offset, length, size: self.size_bytes }
    }
}

/// Starting requests and running actions: from here on the cache is shared with the answers that it waits for.
impl Inner {
    /// Splits a write into units and starts them, a stretch at a time.
    fn spread(
        self: &Arc<Self>,
        write: &Arc<Write>,
        offset: u64,
        length: u64,
        payload: impl Fn(usize) -> Payload,
    ) {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let mut actions = Actions::default();
            let mut state = self.lock();
            for _ in 0..STRETCH_UNITS {
                if at == end {
                    break;
                }
                let from = usize::try_from(at - offset).unwrap_or(usize::MAX);
                at = self.start_write(&mut state, write, at, end, payload(from), &mut actions);
            }
            state.update_fill();
            drop(state);
            self.run(actions);
        }
        if let Some(answer) = write.finish_piece(Ok(())) {
            answer.give();
        }
    }

    /// Starts one unit's part of a write, or a whole group's of a zeroing, and returns where the next begins.
    fn start_write(
        &self,
        state: &mut State,
        write: &Arc<Write>,
        at: u64,
        end: u64,
        payload: Payload,
        actions: &mut Actions,
    ) -> u64 {
        const GROUP_BYTES: u64 = GROUP_UNITS * UNIT_BYTES;
        let unit = at / UNIT_BYTES;
        let group_end = (at + GROUP_BYTES).min(self.size_bytes);
        if matches!(payload, Payload::Zeroes { allocate: false })
            && at.is_multiple_of(GROUP_BYTES)
            && group_end <= end
            && state.zero_group(unit)
        {
            return group_end;
        }
        let next = ((unit + 1) * UNIT_BYTES).min(end);
        let within = within_unit(at, next);
        write.add_piece();
        let write = Arc::clone(write);
        state.submit(Op::Write(WritePiece { write, unit, within, payload }), actions);
        next
    }

    fn read(self: &Arc<Self>, request: ReadRequest) {
        let ReadRequest { offset, mut buffer, done } = request;
        let length = buffer.len() as u64;
        if let Err(failure) = check_range(offset, length, self.size_bytes) {
            return done.call(buffer, Err(failure));
        }
        let end = offset + length;
        let last_unit = end.div_ceil(UNIT_BYTES);
        let (kind, next) = self.lock().run(offset / UNIT_BYTES, last_unit);
        match kind {
            // What was never written passes through, buffer and all.
            Kind::Base if next == last_unit => {
                return self.base.read(ReadRequest { offset, buffer, done });
            }
            Kind::Zero if next == last_unit => {
                buffer.fill(0);
                return done.call(buffer, Ok(()));
            }
            _ => {}
        }
        let read = Read::new(buffer, done);
        let mut at = offset;
        while at < end {
            let mut actions = Actions::default();
            let mut state = self.lock();
            for _ in 0..STRETCH_UNITS {
                if at == end {
                    break;
                }
                let unit = at / UNIT_BYTES;
                let next = ((unit + 1) * UNIT_BYTES).min(end);
                let to = usize::try_from(at - offset).expect("inside the buffer");
                let within = within_unit(at, next);
                read.add_piece();
                let read = Arc::clone(&read);
                state.submit(Op::Read(ReadPiece { read, unit, within, to }), &mut actions);
                at = next;
            }
            drop(state);
            self.run(actions);
        }
        if let Some(answer) = read.finish_piece(Ok(())) {
            answer.give();
        }
    }

    fn extents(self: &Arc<Self>, request: ExtentsRequest) {
        let ExtentsRequest { offset, length, extents_max, done } = request;
        if let Err(failure) = check_range(offset, length, self.size_bytes) {
            return done.call(Err(failure));
        }
        let length = length.min(EXTENTS_BYTES_MAX);
        if !self.needs_base(offset, offset + length) {
            let own = [Extent { length, zero: false }];
            return done.call(Ok(self.overlay(offset, length, &own, extents_max)));
        }
        let inner = Arc::clone(self);
        let overlaid = ExtentsDone::new(move |result: Result<Vec<Extent>, ReadFailure>| {
            let result = result.map(|base| inner.overlay(offset, length, &base, extents_max));
            done.call(result);
        });
        self.base.extents(ExtentsRequest { offset, length, extents_max, done: overlaid });
    }

    fn needs_base(&self, offset: u64, end: u64) -> bool {
        let state = self.lock();
        let (mut unit, last) = (offset / UNIT_BYTES, end.div_ceil(UNIT_BYTES));
        while unit < last {
            let (kind, next) = state.run(unit, last);
            if kind == Kind::Base {
                return true;
            }
            unit = next;
        }
        false
    }

    /// Lays what the cache holds over what the base said.
    fn overlay(
        &self,
        offset: u64,
        length: u64,
        base: &[Extent],
        extents_max: usize,
    ) -> Vec<Extent> {
        let state = self.lock();
        let mut extents = Vec::new();
        let mut at = offset;
        for extent in base {
            let stop = (at + extent.length).min(offset + length);
            while at < stop {
                let (kind, next) = state.run(at / UNIT_BYTES, stop.div_ceil(UNIT_BYTES));
                let run_end = (next * UNIT_BYTES).min(stop);
                let zero = kind == Kind::Zero || (kind == Kind::Base && extent.zero);
                if !push_extent(&mut extents, Extent { length: run_end - at, zero }, extents_max) {
                    return extents;
                }
                at = run_end;
            }
        }
        extents
    }

    /// Does what the state decided. Never called with the lock held: answers and inline sources come back in here.
    pub(super) fn run(self: &Arc<Self>, actions: Actions) {
        let Actions { answers, base_reads, fetches, jobs } = actions;
        jobs.into_iter().for_each(|job| self.send(job));
        for unit in fetches {
            self.fetch(unit);
        }
        for read in base_reads {
            self.read_base(read);
        }
        answers.into_iter().for_each(super::request::Answer::give);
    }

    fn send(self: &Arc<Self>, job: Job) {
        let overflow = self.overflow.as_ref().expect("jobs are made only for an overflow file");
        let tasks = overflow.tasks.lock().expect("sending does not panic");
        let sent = tasks.send((Arc::clone(self), job));
        assert!(sent.is_ok(), "the overflow threads live as long as the cache");
    }

    /// Reads the base content of a unit for a partial write.
    fn fetch(self: &Arc<Self>, unit: u64) {
        let offset = unit * UNIT_BYTES;
        let bytes = (self.size_bytes - offset).min(UNIT_BYTES);
        let buffer = vec![0; usize::try_from(bytes).expect("at most a unit")];
        let inner = Arc::clone(self);
        let done = Done::new(move |bytes, result| {
            let mut actions = Actions::default();
            let mut state = inner.lock();
            state.fetched(unit, result.map(|()| &bytes[..]), &mut actions);
            state.update_fill();
            drop(state);
            inner.run(actions);
        });
        self.base.read(ReadRequest { offset, buffer, done });
    }

    fn read_base(&self, part: BaseRead) {
        let BaseRead { read, offset, to, length } = part;
        let done = Done::new(move |bytes, result| {
            if result.is_ok() {
                read.put(to..to + length, &bytes);
            }
            if let Some(answer) = read.finish_piece(result) {
                answer.give();
            }
        });
        self.base.read(ReadRequest { offset, buffer: vec![0; length], done });
    }
}

/// The bytes `at .. next` as positions inside their unit.
fn within_unit(at: u64, next: u64) -> std::ops::Range<usize> {
    let start = usize::try_from(at % UNIT_BYTES).expect("less than a unit");
    let length = usize::try_from(next - at).expect("at most a unit");
    debug_assert!(start + length <= UNIT, "a piece stays inside its unit");
    start..start + length
}
