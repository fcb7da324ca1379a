//! One request on the wire: which of its fragments were asked for, which came, and whether the units they make are whole.

use diskstream_wire::limits::UNIT_BYTES;
use diskstream_wire::{FragmentSize, Nanos, ReadData};

/// Where a request stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The slot is free.
    #[default]
    Free,
    /// Waits in the queue of requests to be sent.
    Queued,
    /// Asked; answers are awaited until `due`.
    Asked,
    /// The node waits for its disk; asked for again at `due`.
    Pending,
    /// The node was busy or its store failed; queued again at `due`.
    Waiting,
}

/// The copy of a request that was sent to the standby.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hedge {
    /// Fragments expected from `path`, in flight there; 0: there is no copy out.
    pub outstanding: u64,
    /// Path that was asked; stays after the copy is over, for what comes late.
    pub path: u8,
    /// Number of the last sending, echoed by answers.
    pub attempt: u8,
    pub sent: bool,
    /// Something of the answer to the last sending arrived.
    pub answered: bool,
    /// Time-outs in a row without any answer.
    pub timeouts: u32,
    pub sent_at: Nanos,
}

/// A slot of the request table.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Unpredictable high bits, slot number in the low ones.
    pub id: u64,
    /// Index of the caller's read.
    pub read: u32,
    /// First byte within the caller's buffer.
    pub at: usize,
    /// First byte in the vDisk.
    pub offset: u64,
    /// Bytes, whole units.
    pub length: usize,
    pub size: FragmentSize,
    pub phase: Phase,
    /// Path that was asked last.
    pub path: u8,
    /// Number of the last sending, echoed by answers.
    pub attempt: u8,
    /// Sent at least once.
    pub sent: bool,
    /// Time-outs in a row without any answer.
    pub timeouts: u32,
    /// `Pending` answers in a row.
    pub pendings: u32,
    /// Something of the answer to the last sending arrived.
    pub answered: bool,
    /// Queued because fragments did not arrive, not because the node asked to wait.
    pub lost: bool,
    /// The last sending was a repeat, at the node that had not answered the one before: its answer proves a loss.
    pub repeats_loss: bool,
    /// It counts among those that a node, alive as it is, did not answer.
    pub ignored: bool,
    /// The attempt whose answer had a hole that was asked for again.
    pub hole_of: Option<u8>,
    /// Fragments that arrived (in units that are not yet known to be wrong).
    pub received: u64,
    /// Fragments up to the last one that brought data to this attempt. (Marks of zeros overtake data.)
    pub data_up_to: u8,
    /// Fragments asked for and still expected: in flight on `path`, or parked there in phase `Pending`.
    pub outstanding: u64,
    /// When it was last held for lost.
    pub lost_at: Nanos,
    /// Nodes of the eligible list that answered `StoreError`, as a bitmap.
    pub refused_by: u16,
    /// The same nodes, and those whose stores were only late: the range is read elsewhere while there is an elsewhere.
    pub avoids: u16,
    pub sent_at: Nanos,
    /// When its first attempt was sent, and the one before the last: what answers to earlier attempts are timed by.
    pub first_sent_at: Nanos,
    pub sent_before: Nanos,
    /// An answer to an attempt before the last was timed.
    pub timed_before: bool,
    pub due: Nanos,
    /// First sent, or last heard of in any way (`Pending`, a fragment): how long it has been unanswered.
    pub silent_since: Nanos,
    /// Asked again since then, and when first.
    pub repeated_at: Option<Nanos>,
    /// The copy at the standby.
    pub hedge: Hedge,
    /// Waits in the queue of copies to be sent.
    pub hedge_queued: bool,
    /// When to look whether it wants a copy, or another.
    pub hedge_at: Nanos,
    /// It was asked at the standby because of the serving node's silence.
    pub helped: bool,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It had arrived before.
    Late,
    /// It does not fit the read.
    Implausible,
    /// It is new, and its unit is not complete or is right.
    New,
    /// It completed a unit whose sum is wrong: the unit's fragments must be asked for again.
    WrongSum,
}

impl Request {
    /// All fragments of the request.
    pub fn all(&self) -> u64 {
        self.size.all(self.length)
    }

    /// When this attempt was sent: exactly for the first and the last two, else a later one's time, so that what is
    /// timed by it is never too long.
    pub fn attempt_sent_at(&self, attempt: u8) -> Nanos {
        match attempt {
            last if last == self.attempt => self.sent_at,
            0 => self.first_sent_at,
            _ => self.sent_before,
        }
    }

    /// Fragments that are missing.
    pub fn missing(&self) -> u64 {
        self.all() & !self.received
    }

    pub fn is_complete(&self) -> bool {
        self.received == self.all()
    }

    /// Fragments on their way.
    pub fn in_flight(&self) -> u32 {
        self.outstanding.count_ones()
    }

    /// Whether something is missing before data that arrived. Else the rest of the answer may still be to come: nodes send long answers, and
    /// the last one of a turn, in pieces.
    pub fn has_hole(&self) -> bool {
        let before = u64::MAX.checked_shr(u64::BITS - u32::from(self.data_up_to)).unwrap_or(0);
        self.outstanding & before != 0
    }

    /// Whether a copy is out at the standby.
    pub fn is_hedged(&self) -> bool {
        self.hedge.outstanding != 0
    }

    /// Fragments on their way from the standby.
    pub fn hedge_in_flight(&self) -> u32 {
        self.hedge.outstanding.count_ones()
    }

    /// The node has shown that it has the request: it is not silent about it.
    pub fn spoken_of(&mut self, now: Nanos) {
        self.silent_since = now;
        self.repeated_at = None;
    }

    /// Takes a fragment into `buffer`, which is the request's part of the caller's buffer.
    #[inline]
    pub fn take(&mut self, message: &ReadData, tail: &[u8], buffer: &mut [u8]) -> Taken {
        let index = usize::from(message.fragment);
        let Some(range) = self.size.range(index, self.length) else {
            return Taken::Implausible;
        };
        let start = usize::from(message.pad_bytes);
        let Some(data) = tail.get(start..start + usize::from(message.data_bytes)) else {
            return Taken::Implausible;
        };
        if data.len() != range.bytes || message.offset != self.offset + range.offset as u64 {
            return Taken::Implausible;
        }
        let bit = 1u64 << index;
        if self.received & bit != 0 {
            return Taken::Late;
        }
        buffer[range.offset..range.offset + range.bytes].copy_from_slice(data);
        self.received |= bit;
        if message.attempt == self.attempt {
            self.data_up_to = self.data_up_to.max(message.fragment + 1);
        }
        self.outstanding &= !bit;
        self.hedge.outstanding &= !bit;
        let sums = [message.unit_sum, message.second_unit_sum];
        if self.sums_hold(self.size.first_unit(index), sums, buffer) {
            Taken::New
        } else {
            Taken::WrongSum
        }
    }

    /// Checks the units that the last fragment completed; a unit that is wrong counts as not received.
    fn sums_hold(&mut self, first_unit: usize, sums: [u32; 2], buffer: &[u8]) -> bool {
        let mut hold = true;
        for (unit, sum) in (first_unit..).zip(sums).take(self.size.units_each()) {
            let mask = self.size.of_unit(unit);
            let Some(bytes) = buffer.get(unit * UNIT_BYTES..(unit + 1) * UNIT_BYTES) else {
                break;
            };
            if self.received & mask == mask && !sum_matches(bytes, sum) {
                self.received &= !mask;
                hold = false;
            }
        }
        hold
    }

    /// Marks units as zeros; gives how many were not known before.
    pub fn take_zeros(&mut self, zero_units: u16, buffer: &mut [u8]) -> u32 {
        let mut taken = 0;
        let each = self.size.units_each();
        let units = self.length / UNIT_BYTES;
        for unit in (0..units).filter(|unit| zero_units & (1 << unit) != 0) {
            // A fragment of two units is zero only when both its units are.
            let group = unit / each * each;
            let whole = (group..(group + each).min(units)).all(|u| zero_units & (1 << u) != 0);
            let mask = self.size.of_unit(unit);
            if whole && self.received & mask != mask {
                let end = ((group + each) * UNIT_BYTES).min(self.length);
                buffer[group * UNIT_BYTES..end].fill(0);
                self.received |= mask;
                self.outstanding &= !mask;
                self.hedge.outstanding &= !mask;
                taken += 1;
            }
        }
        taken
    }

    /// Goes on with another fragment size: whole units stay, parts of units are forgotten.
    pub fn change_size(&mut self, size: FragmentSize) {
        if size == self.size {
            return;
        }
        self.data_up_to = 0;
        let (old, units) = (self.size, self.length / UNIT_BYTES);
        let whole = |unit: usize| {
            unit < units && {
                let mask = old.of_unit(unit);
                self.received & mask == mask
            }
        };
        let mut received = 0;
        for index in 0..size.count(self.length) {
            let first = size.first_unit(index);
            if (first..(first + size.units_each()).min(units)).all(whole) {
                received |= 1 << index;
            }
        }
        self.received = received;
        self.outstanding = 0;
        assert_eq!(
            self.hedge.outstanding, 0,
            "a copy is withdrawn before its fragments are renumbered"
        );
        self.size = size;
    }
}

/// Whether a unit is what the node summed.
fn sum_matches(unit: &[u8], sum: u32) -> bool {
    // Planted defect: the simulator must catch a device that believes every unit.
    #[cfg(feature = "mutations")]
    if super::mutations::is_planted(super::mutations::Mutation::DropSumCheck) {
        return true;
    }
    crc32c::crc32c(unit) == sum
}

#[cfg(test)]
mod tests;
