//! What the next reads will touch, asked for ahead.
//!
//! A turn brings a batch of reads, each of which walks through memory that no processor's cache holds: index, frame, sums.
//! Looking at the whole batch first lets those waits overlap. It decides nothing: a driver that never calls it (the
//! simulator's) sees the same answers.

use diskstream_wire::Read;
use diskstream_wire::limits::UNIT_BYTES;

use super::Shard;
use super::read::to_usize;
use crate::cache::BlockKey;

/// Datagrams to look at ahead. Guessed: their lines (six each, 24 KiB) fit the first-level cache beside what the work on
/// them needs.
pub const FORESEEN: usize = 64;

/// The reads looked at and not yet taken in.
#[derive(Debug)]
pub(super) struct Foresight {
    keys: [(BlockKey, usize); FORESEEN],
    count: usize,
}

impl Default for Foresight {
    fn default() -> Foresight {
        Foresight { keys: [(BlockKey { generation: 0, block: 0 }, 0); FORESEEN], count: 0 }
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

    /// All datagrams of the batch were looked at: goes on to what their first lines lead to.
    pub fn foresee_frames(&mut self) {
        for &(key, unit) in &self.foresight.keys[..self.foresight.count] {
            self.shared.cache.foresee_frame(key, unit);
        }
        self.foresight.count = 0;
    }
}
