//! What happens to one unit: the cache's decisions, all under its lock, none of them waiting.
//!
//! A unit that waits for a base read or for the overflow file is *busy*: later requests for it queue behind, in order.
//! So a partial write merges into what really was there, a slot is not reused while the file still reads it, and a
//! request that spans several units never holds one while it waits for another (no deadlock). Units of one request are
//! independent; requests that overlap have no order among them, as on any disk.
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::fill::Fill;
use super::overflow::FileSlots;
use super::request::{Answer, Payload, Read, ReadPiece, WritePiece};
use super::slab::{Slab, SlabFull};
use super::table::{Entry, GROUP_UNITS, Table};
use crate::front::disk::WriteFailure;
use crate::front::source::{ReadFailure, UNIT_BYTES};

pub(super) const UNIT: usize = 4096;
/// Units that one job of the overflow file moves at most: 1 MiB.
const JOB_UNITS_MAX: usize = 256;

pub(super) enum Op {
    Write(WritePiece),
    Read(ReadPiece),
}

/// A read of the base on behalf of a front end's read: consecutive bytes of one request.
pub(super) struct BaseRead {
    pub(super) read: Arc<Read>,
    pub(super) offset: u64,
    pub(super) to: usize,
    pub(super) length: usize,
}

/// Work for the overflow threads. The slots of a job are consecutive; its units are busy until it is done.
pub(super) enum Job {
    Read {
        slot: u32,
        pieces: Vec<ReadPiece>,
    },
    /// Whole units. `fresh`: the slots hold nothing yet.
    Write {
        slot: u32,
        fresh: bool,
        pieces: Vec<WritePiece>,
    },
    /// One whole unit, already put together, into a fresh slot.
    Place {
        slot: u32,
        unit: Box<[u8; UNIT]>,
        piece: WritePiece,
    },
    /// Part of a unit that is in the file.
    Merge {
        slot: u32,
        piece: WritePiece,
    },
    Sync(crate::front::disk::WriteDone),
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Actions {
    pub(super) answers: Vec<Answer>,
    pub(super) base_reads: Vec<BaseRead>,
    /// Units whose base content a partial write waits for.
    pub(super) fetches: Vec<u64>,
    pub(super) jobs: Vec<Job>,
}

pub(super) struct State {
    table: Table,
    slab: Slab,
    /// Present when there is an overflow file.
    slots: Option<FileSlots>,
    busy: BTreeMap<u64, VecDeque<Op>>,
    size_bytes: u64,
    fill: Arc<Fill>,
}

/// What a run of units holds, for extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Base,
    Zero,
    Data,
}

impl State {
    pub(super) fn new(size_bytes: u64, ram_units: u32, overflow: bool, fill: Arc<Fill>) -> Self {
        Self {
            table: Table::new(size_bytes.div_ceil(UNIT_BYTES)),
            slab: Slab::new(ram_units),
            slots: overflow.then(FileSlots::default),
            busy: BTreeMap::new(),
            size_bytes,
            fill,
        }
    }

    /// Bytes of a unit: 4096, less for the last unit of an odd-sized disk.
    pub(super) fn unit_bytes(&self, unit: u64) -> usize {
        let bytes = (self.size_bytes - unit * UNIT_BYTES).min(UNIT_BYTES);
        usize::try_from(bytes).expect("at most a unit")
    }

    pub(super) fn update_fill(&self) {
        let file_units = self.slots.as_ref().map_or(0, FileSlots::used_units);
        self.fill.update(self.slab.used_units() * UNIT_BYTES, file_units * UNIT_BYTES);
    }

    /// What the units from `unit` on hold, and the first unit at or before `end` that holds something else.
    pub(super) fn run(&self, unit: u64, end: u64) -> (Kind, u64) {
        let kind = self.kind(unit);
        let mut at = unit;
        while at < end {
            at = match self.table.uniform(at) {
                Some((_, next)) if self.kind(at) == kind && !self.busy_between(at, next) => next,
                _ if self.kind(at) == kind => at + 1,
                _ => break,
            };
        }
        (kind, at.min(end))
    }

    /// A busy unit may hold anything by the time somebody looks.
    fn kind(&self, unit: u64) -> Kind {
        match self.table.get(unit) {
            _ if self.busy.contains_key(&unit) => Kind::Data,
            Entry::Base => Kind::Base,
            Entry::Zero => Kind::Zero,
            Entry::Ram(_) | Entry::File(_) => Kind::Data,
        }
    }

    fn busy_between(&self, start: u64, end: u64) -> bool {
        self.busy.range(start..end).next().is_some()
    }

    /// Zeroes a whole group at once if none of its units is busy.
    pub(super) fn zero_group(&mut self, unit: u64) -> bool {
        if self.busy_between(unit, unit + GROUP_UNITS) {
            return false;
        }
        let Self { table, slab, slots, .. } = self;
        table.zero_group(unit, |entry| release(slab, slots, entry));
        true
    }

    pub(super) fn submit(&mut self, op: Op, actions: &mut Actions) {
        let unit = match &op {
            Op::Write(piece) => piece.unit,
            Op::Read(piece) => piece.unit,
        };
        match self.busy.get_mut(&unit) {
            Some(queue) => queue.push_back(op),
            None => self.perform(op, actions),
        }
    }

    fn perform(&mut self, op: Op, actions: &mut Actions) {
        match op {
            Op::Write(piece) => self.write(piece, actions),
            Op::Read(piece) => self.read(piece, actions),
        }
    }

    fn write(&mut self, piece: WritePiece, actions: &mut Actions) {
        let entry = self.table.get(piece.unit);
        let whole = piece.covers(self.unit_bytes(piece.unit));
        let hole = matches!(piece.payload, Payload::Zeroes { allocate: false });
        match entry {
            _ if hole && (whole || entry == Entry::Zero) => {
                self.table.set(piece.unit, Entry::Zero);
                release(&mut self.slab, &mut self.slots, entry);
                actions.finish_write(&piece, Ok(()));
            }
            Entry::Ram(slot) => {
                piece.apply(self.slab.unit_mut(slot));
                actions.finish_write(&piece, Ok(()));
            }
            Entry::File(slot) if whole => {
                self.busy.insert(piece.unit, VecDeque::new());
                actions.write_file(slot, false, piece);
            }
            Entry::File(slot) => {
                self.busy.insert(piece.unit, VecDeque::new());
                actions.jobs.push(Job::Merge { slot, piece });
            }
            Entry::Base if !whole => {
                actions.fetches.push(piece.unit);
                self.busy.insert(piece.unit, VecDeque::from([Op::Write(piece)]));
            }
            Entry::Base | Entry::Zero => self.place(piece, None, actions),
        }
    }

    /// Finds storage for a unit that has none. `base`: the rest of the unit, if the piece does not cover it; without
    /// it the rest is zero.
    fn place(&mut self, piece: WritePiece, base: Option<&[u8]>, actions: &mut Actions) {
        let full = match self.slab.allocate() {
            Ok(slot) => {
                let bytes = self.slab.unit_mut(slot);
                let (kept, rest) = bytes.split_at_mut(base.map_or(0, <[u8]>::len));
                kept.copy_from_slice(base.unwrap_or_default());
                rest.fill(0);
                piece.apply(bytes);
                self.table.set(piece.unit, Entry::Ram(slot));
                return actions.finish_write(&piece, Ok(()));
            }
            Err(full) => full,
        };
        if let SlabFull::System(error) = &full {
            self.fill.memory_refused(error);
        }
        let Some(slot) = self.slots.as_mut().and_then(FileSlots::allocate) else {
            match &full {
                SlabFull::Declared => self.fill.refuse(&"its declared size is used"),
                SlabFull::System(error) => self.fill.refuse(error),
            }
            return actions.finish_write(&piece, Err(WriteFailure::NoSpace));
        };
        self.busy.insert(piece.unit, VecDeque::new());
        if base.is_none() && piece.within == (0..UNIT) && matches!(piece.payload, Payload::Bytes(_))
        {
            return actions.write_file(slot, true, piece);
        }
        let mut unit = Box::new([0; UNIT]);
        let base = base.unwrap_or_default();
        unit[..base.len()].copy_from_slice(base);
        piece.apply(&mut unit[..]);
        actions.jobs.push(Job::Place { slot, unit, piece });
    }

    fn read(&mut self, piece: ReadPiece, actions: &mut Actions) {
        match self.table.get(piece.unit) {
            Entry::Base => return actions.read_base(&piece),
            Entry::Zero => piece.read.put_zeroes(piece.target()),
            Entry::Ram(slot) => {
                piece.read.put(piece.target(), &self.slab.unit(slot)[piece.within.clone()]);
            }
            Entry::File(slot) => {
                self.busy.insert(piece.unit, VecDeque::new());
                return actions.read_file(slot, piece);
            }
        }
        actions.answers.extend(piece.read.finish_piece(Ok(())));
    }

    /// A partial write's base content has come, or not.
    pub(super) fn fetched(
        &mut self,
        unit: u64,
        result: Result<&[u8], ReadFailure>,
        actions: &mut Actions,
    ) {
        let mut queue = self.busy.remove(&unit).expect("a fetched unit is busy");
        let Some(Op::Write(piece)) = queue.pop_front() else {
            unreachable!("the write that asked for the fetch is at the head of its queue");
        };
        match result {
            Ok(base) => self.place(piece, Some(base), actions),
            Err(failure) => {
                actions.finish_write(&piece, Err(failure.clone().into()));
                self.fail_alike(&mut queue, &failure, actions);
            }
        }
        self.resume(unit, queue, actions);
    }

    /// Partial writes right behind a failed fetch would only repeat it: they fail with it.
    fn fail_alike(&self, queue: &mut VecDeque<Op>, failure: &ReadFailure, actions: &mut Actions) {
        while let Some(Op::Write(piece)) = queue.front() {
            if piece.covers(self.unit_bytes(piece.unit)) {
                return;
            }
            actions.finish_write(piece, Err(failure.clone().into()));
            queue.pop_front();
        }
    }

    /// A write job is over. `fresh` slots become the units' storage, or are given back.
    pub(super) fn written(
        &mut self,
        slot: u32,
        fresh: bool,
        pieces: Vec<WritePiece>,
        result: io::Result<()>,
        actions: &mut Actions,
    ) {
        let failure = result.err().map(|error| self.overflow_failure(&error));
        for (slot, piece) in (slot..).zip(pieces) {
            let unit = piece.unit;
            if fresh && failure.is_none() {
                self.table.set(unit, Entry::File(slot));
            } else if fresh {
                self.slots.as_mut().expect("a job has a file").release(slot);
            }
            actions.finish_write(&piece, failure.clone().map_or(Ok(()), Err));
            self.finish_job(unit, actions);
        }
    }

    /// A read job is over; `bytes` are those of its units.
    pub(super) fn read_done(
        &mut self,
        pieces: Vec<ReadPiece>,
        result: io::Result<&[u8]>,
        actions: &mut Actions,
    ) {
        let result = result.map_err(|error| {
            self.overflow_failure(&error);
            Arc::<str>::from(format!("overflow file: {error}"))
        });
        for (index, piece) in pieces.into_iter().enumerate() {
            let answer = match &result {
                Ok(bytes) => {
                    let start = index * UNIT + piece.within.start;
                    piece.read.put(piece.target(), &bytes[start..start + piece.within.len()]);
                    piece.read.finish_piece(Ok(()))
                }
                Err(cause) => piece.read.finish_piece(Err(ReadFailure::Store {
                    offset: piece.unit * UNIT_BYTES + piece.within.start as u64,
                    length: piece.within.len() as u64,
                    cause: Arc::clone(cause),
                })),
            };
            actions.answers.extend(answer);
            self.finish_job(piece.unit, actions);
        }
    }

    fn finish_job(&mut self, unit: u64, actions: &mut Actions) {
        let queue = self.busy.remove(&unit).expect("a job's units are busy");
        self.resume(unit, queue, actions);
    }

    /// Performs what queued behind a unit, until it is busy again.
    fn resume(&mut self, unit: u64, mut queue: VecDeque<Op>, actions: &mut Actions) {
        loop {
            if let Some(behind) = self.busy.get_mut(&unit) {
                behind.append(&mut queue);
                return;
            }
            match queue.pop_front() {
                Some(op) => self.perform(op, actions),
                None => return,
            }
        }
    }

    /// Counts and logs a failure of the overflow file, and says what the request is told.
    fn overflow_failure(&self, error: &io::Error) -> WriteFailure {
        use io::ErrorKind as K;
        match error.kind() {
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => {
                self.fill.refuse(error);
                WriteFailure::NoSpace
            }
            _ => {
                self.fill.overflow_failed(error);
                WriteFailure::Overflow(error.to_string().into())
            }
        }
    }
}

fn release(slab: &mut Slab, slots: &mut Option<FileSlots>, entry: Entry) {
    match entry {
        Entry::Base | Entry::Zero => {}
        Entry::Ram(slot) => slab.release(slot),
        Entry::File(slot) => slots.as_mut().expect("a file entry has a file").release(slot),
    }
}

impl Actions {
    fn finish_write(&mut self, piece: &WritePiece, result: Result<(), WriteFailure>) {
        self.answers.extend(piece.write.finish_piece(result));
    }

    /// Asks the base, joining neighbours of one request.
    fn read_base(&mut self, piece: &ReadPiece) {
        let offset = piece.unit * UNIT_BYTES + piece.within.start as u64;
        let length = piece.within.len();
        if let Some(last) = self.base_reads.last_mut()
            && Arc::ptr_eq(&last.read, &piece.read)
            && last.offset + last.length as u64 == offset
            && last.to + last.length == piece.to
        {
            last.length += length;
            // One base read, one piece: it cannot be the last one, since the joined piece is still open.
            let answer = piece.read.finish_piece(Ok(()));
            assert!(answer.is_none(), "a joined piece is never the last");
            return;
        }
        let read = Arc::clone(&piece.read);
        self.base_reads.push(BaseRead { read, offset, to: piece.to, length });
    }

    fn read_file(&mut self, slot: u32, piece: ReadPiece) {
        if let Some(Job::Read { slot: first, pieces }) = self.jobs.last_mut()
            && joins(*first, pieces.len(), slot)
        {
            return pieces.push(piece);
        }
        self.jobs.push(Job::Read { slot, pieces: vec![piece] });
    }

    fn write_file(&mut self, slot: u32, fresh: bool, piece: WritePiece) {
        if let Some(Job::Write { slot: first, fresh: same, pieces }) = self.jobs.last_mut()
            && *same == fresh
            && joins(*first, pieces.len(), slot)
        {
            return pieces.push(piece);
        }
        self.jobs.push(Job::Write { slot, fresh, pieces: vec![piece] });
    }
}

/// Whether `slot` follows a job's slots.
fn joins(first: u32, count: usize, slot: u32) -> bool {
    count < JOB_UNITS_MAX && u64::from(first) + count as u64 == u64::from(slot)
}
