//! What the next reads will touch, asked for ahead.
//!
//! A turn brings a batch of reads, each of which walks through memory that no processor's cache holds: index, frame, sums.
//! Looking at the whole batch first lets those waits overlap. It decides nothing: a driver that never calls it (the
//! simulator's) sees the same answers.

use diskstream_wire::Read;
use diskstream_wire::limits::UNIT_BYTES;

use super::Shard;
use super::read::to_usize;
use crate::cache::{BlockKey, Pin};

/// Datagrams to look at ahead. Guessed: their lines (six each, 24 KiB) fit the first-level cache beside what the work on
/// them needs.
pub const FORESEEN: usize = 64;

/// Bytes of replies that a turn asks for ahead. Guessed: half of a usual second-level cache (512 KiB on EPYC, 1 to 2 MiB on
/// Xeon), so that what was asked for is still there when the kernel copies it.
const FORESEEN_BYTES: usize = 256 << 10;

/// The longest reply whose bytes are asked for ahead: the processor sees by itself where a longer copy goes on, and asking costs as many
/// instructions as there are lines. Guessed between what was measured: at 4 KiB asking gains, at 32 KiB (reads of 1 MiB in order) the
/// node takes 0.83 of the time without, the median of ten rounds.
const FORESEEN_REPLY_MAX: usize = 16 << 10;

/// The reads looked at and not yet taken in.
#[derive(Debug)]
pub(super) struct Foresight {
    keys: [(BlockKey, usize); FORESEEN],
    count: usize,
    /// Bytes of replies that may still be asked for in this turn.
    bytes_left: usize,
}

impl Default for Foresight {
    fn default() -> Foresight {
        Foresight {
            keys: [(BlockKey { generation: 0, block: 0 }, 0); FORESEEN],
            count: 0,
            bytes_left: 0,
        }
    }
}

impl Shard {
    /// A datagram at the I/O port that [`Shard::step`] will get soon. Looks at [`FORESEEN`] of them, and not at more before
    /// [`Shard::foresee_frames`].
    pub fn foresee(&mut self, bytes: &[u8]) {
        if self.foresight.count == FORESEEN
            || diskstream_wire::header::Header::peek_kind(bytes) != Some(Read::KIND)
        {
            return;
        }
        // Nothing is believed here: a wrong guess costs a line of memory traffic.
        let Ok((read, _)) = Read::decode(bytes) else { return };
        let block_bytes = self.shared.cache.block_bytes() as u64;
        let key = BlockKey { generation: read.generation, block: read.offset / block_bytes };
        let unit = to_usize(read.offset % block_bytes) / UNIT_BYTES;
        self.shared.cache.foresee(key);
        self.sessions.foresee(read.session);
        self.foresight.keys[self.foresight.count] = (key, unit);
        self.foresight.count += 1;
    }

    /// A turn begins.
    pub(super) fn begin_foresight(&mut self) {
        self.foresight.bytes_left = FORESEEN_BYTES;
    }

    /// What a read gets of a pinned block is copied by the kernel when the turn ends, at the speed of a memory that nobody
    /// asked before; asked for now, it arrives while the rest of the batch is taken in.
    pub(super) fn foresee_reply(&mut self, pin: &Pin, offset: u64, length: u32, block: u64) {
        let block_bytes = self.shared.cache.block_bytes() as u64;
        let start = block * block_bytes;
        let from = offset.max(start);
        let len = to_usize((offset + u64::from(length)).min(start + block_bytes) - from);
        if len > FORESEEN_REPLY_MAX {
            return;
        }
        if let Some(left) = self.foresight.bytes_left.checked_sub(len) {
            self.foresight.bytes_left = left;
            self.shared.cache.foresee_bytes(pin, to_usize(from - start), len);
        }
    }

    /// All datagrams of the batch were looked at: goes on to what their first lines lead to.
    pub fn foresee_frames(&mut self) {
        for &(key, unit) in &self.foresight.keys[..self.foresight.count] {
            self.cache.foresee_frame(key, unit);
        }
        self.foresight.count = 0;
    }
}
