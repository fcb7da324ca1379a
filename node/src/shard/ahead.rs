//! What a session is likely to ask for next: sequential runs, found in the order of the image.
//!
//! ```text
//!            back   next          ahead
//!   ──────────┬──────┬─────────────┬──────────
//!   seen      │ a    │ asked of    │ not asked
//!             │ part │ the store   │ for yet
//! ```
//!
//! A device reads several files at once, and its network reorders, so that a few runs are followed at a time, each by the block
//! that it is to ask for next. A block just behind that belongs to the run (a repeat, a straggler), and so does one that is a
//! little beyond it.
//!
//! How far to look ahead follows from what was right before. A run earns nothing until it is [`RUN_MIN`] blocks long, since most
//! reads of a boot end sooner; from there on the window grows by one block for every [`BLOCKS_PER_STEP`] that the run goes on.
//! What a run leaves behind unread when it gives way to another is charged to the session's *credit*, what it reached is added;
//! a session in debt must show runs of twice the length. Tuned on the boot trace (879 reads, 788 blocks): 18 % of the blocks are
//! on their way before they are asked for, at 1.4 % more bytes from the disk. A window that doubles, as in kernels, costs 5 to 25 %
//! there.

/// Runs followed at once. Measured on the boot trace: 2 find a fifth less, 6 find more and waste twice as much.
const RUNS: usize = 4;
/// Blocks in a row before anything is read ahead. Measured: 3 read twice as much in vain on the boot trace, whose longest single
/// reads touch 4 or 5 blocks.
const RUN_MIN: u8 = 4;
/// A run is to be so much longer for each block of the window. Measured: 4 instead of 2 halves what is found on the boot trace.
const BLOCKS_PER_STEP: u8 = 2;
/// Longest window: 2 MiB of 64 KiB blocks. Derived: at 2 GiB/s a device reads so much in a millisecond, ten times a disk's usual
/// answer.
const WINDOW_MAX: u8 = 32;
/// A block so far behind the next one belongs to the run, and so far beyond it too. Derived: a device has up to 16 requests of
/// 64 KiB of one call on the wire, which the network may reorder by a few.
const BEHIND: u32 = 8;
const BEYOND: u32 = 2;
/// What a block that was asked for earns, and what one that was not costs. Derived: at equal rates half of the blocks could be read in
/// vain for good. Measured: 1 to 2 finds a third less on the boot trace.
const EARNS: i8 = 2;
const COSTS: i8 = 3;
/// Most that the credit can be, either way. Measured: 32 finds half as much on the boot trace, 128 no more.
const CREDIT_MAX: i8 = 64;
/// What a session starts with: half, so that the first runs are believed.
const CREDIT_FIRST: i8 = CREDIT_MAX / 2;
/// No block: images end far below.
const NOWHERE: u32 = u32::MAX;

/// The runs of one session; the most recent one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// The block after the last one that the run asked for.
    next: [u32; RUNS],
    /// Blocks of the run, as far as they matter.
    length: [u8; RUNS],
    /// Blocks from `next` that were looked up ahead already.
    ahead: [u8; RUNS],
    credit: i8,
    /// Its device starts, as far as is known.
    boots: bool,
}

const _: () = assert!(size_of::<Ahead>() <= 32);
const _: () = assert!((WINDOW_MAX as i16) * (COSTS as i16) <= i8::MAX as i16);

impl Ahead {
    /// Nothing is known but whether the device starts.
    pub(super) const fn new(boots: bool) -> Ahead {
        Ahead {
            next: [NOWHERE; RUNS],
            length: [0; RUNS],
            ahead: [0; RUNS],
            credit: CREDIT_FIRST,
            boots,
        }
    }

    /// Whether the device starts, as far as is known.
    #[inline]
    pub(super) fn boots(&self) -> bool {
        self.boots
    }

    /// Its device's start is over.
    pub(super) fn has_booted(&mut self) {
        self.boots = false;
    }

    /// The session asks for a block. Gives those to read ahead: the first, and how many.
    #[inline]
    pub(super) fn asks(&mut self, block: u64) -> Option<(u32, u8)> {
        // Beyond 256 TiB of 64 KiB blocks nothing is read ahead.
        let block = u32::try_from(block).ok().filter(|&block| block < NOWHERE - 1)?;
        // Most reads are of the block that was read last.
        if self.next[0] == block + 1 {
            return None;
        }
        let belongs = |next: u32| {
            next != NOWHERE && block.wrapping_sub(next.wrapping_sub(BEHIND)) <= BEHIND + BEYOND
        };
        match self.next.iter().position(|&next| belongs(next)) {
            Some(run) => {
                self.bring_forward(run);
                if block < self.next[0] { None } else { self.goes_on(block) }
            }
            None => {
                self.begins(block);
                None
            }
        }
    }

    fn bring_forward(&mut self, run: usize) {
        self.next[..=run].rotate_right(1);
        self.length[..=run].rotate_right(1);
        self.ahead[..=run].rotate_right(1);
    }

    /// A block of no run: it takes the place of the one that was silent longest, which pays for what it left unread.
    fn begins(&mut self, block: u32) {
        self.bring_forward(RUNS - 1);
        let unread = i8::try_from(self.ahead[0]).expect("WINDOW_MAX is small");
        self.credit = self.credit.saturating_sub(unread * COSTS).max(-CREDIT_MAX);
        (self.next[0], self.length[0], self.ahead[0]) = (block + 1, 1, 0);
    }

    /// The first run reaches `block`, which is not before its next.
    fn goes_on(&mut self, block: u32) -> Option<(u32, u8)> {
        let step = u8::try_from(block + 1 - self.next[0]).expect("BEYOND is small");
        let reached = step.min(self.ahead[0]);
        let earned = i8::try_from(reached).expect("BEYOND is small") * EARNS;
        self.credit = self.credit.saturating_add(earned).min(CREDIT_MAX);
        self.next[0] = block + 1;
        self.length[0] = self.length[0].saturating_add(step);
        self.ahead[0] -= reached;
        let least = if self.credit < 0 { 2 * RUN_MIN } else { RUN_MIN };
        let beyond = self.length[0].checked_sub(least)?;
        let window = (beyond / BLOCKS_PER_STEP + 1).min(WINDOW_MAX);
        let known = self.ahead[0];
        // Half a window at a time: the store gets a few blocks together, not one for each block that was read.
        if known > window / 2 {
            return None;
        }
        self.ahead[0] = window;
        Some((self.next[0].checked_add(u32::from(known))?, window - known))
    }

    /// The last blocks that [`Ahead::asks`] gave were not looked up after all: there is no room. They are given again.
    pub(super) fn take_back(&mut self, count: u8) {
        self.ahead[0] = self.ahead[0].saturating_sub(count);
    }
}

#[cfg(test)]
mod tests;
