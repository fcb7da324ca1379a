//! What callers want: reads of any length, served by one or more requests each.

use std::collections::VecDeque;

use diskstream_wire::Nanos;

use super::limits::READS_MAX;

/// A caller's read.
#[derive(Debug, Default)]
pub struct CallerRead {
    pub token: u64,
    /// The caller's; fragments are copied straight into it.
    pub buffer: Vec<u8>,
    /// First byte in the vDisk.
    pub offset: u64,
    /// Bytes for which requests were made, from the start.
    pub issued: usize,
    /// Requests that are not complete.
    pub open: u32,
    pub started: Nanos,
    /// Part of it was asked at the standby because of the serving node's silence.
    pub hedged: bool,
    /// And the standby answered first.
    pub hedge_won: bool,
    live: bool,
}

impl CallerRead {
    /// Whether all was asked for and has come.
    pub fn is_complete(&self) -> bool {
        self.open == 0 && self.issued == self.buffer.len()
    }
}

/// All reads that callers have outstanding.
#[derive(Debug, Default)]
pub struct Reads {
    slots: Vec<CallerRead>,
    free: Vec<u32>,
    /// Reads of which something is still to be asked for, oldest first.
    ready: VecDeque<u32>,
}

/// A read that is over, as handed to the caller.
pub struct Finished {
    pub token: u64,
    pub buffer: Vec<u8>,
    pub started: Nanos,
}

impl Reads {
    /// Takes a read, or gives its buffer back when as many as the bound allows are outstanding.
    pub fn add(
        &mut self,
        token: u64,
        offset: u64,
        buffer: Vec<u8>,
        now: Nanos,
    ) -> Result<(), Vec<u8>> {
        let read =
            CallerRead { token, buffer, offset, started: now, live: true, ..CallerRead::default() };
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() == READS_MAX => return Err(read.buffer),
            None => {
                self.slots.push(CallerRead::default());
                u32::try_from(self.slots.len() - 1).expect("READS_MAX fits 32 bits")
            }
        };
        self.slots[index as usize] = read;
        self.ready.push_back(index);
        Ok(())
    }

    /// The oldest read of which something is still to be asked for.
    pub fn next_ready(&self) -> Option<u32> {
        self.ready.front().copied()
    }

    /// Counts `bytes` of the oldest ready read as asked for.
    pub fn issue(&mut self, bytes: usize) {
        let index = *self.ready.front().expect("the caller has just seen it");
        let read = &mut self.slots[index as usize];
        read.issued += bytes;
        read.open += 1;
        if read.issued == read.buffer.len() {
            self.ready.pop_front();
        }
    }

    pub fn get(&self, index: u32) -> &CallerRead {
        let read = &self.slots[index as usize];
        debug_assert!(read.live);
        read
    }

    pub fn get_mut(&mut self, index: u32) -> &mut CallerRead {
        let read = &mut self.slots[index as usize];
        debug_assert!(read.live);
        read
    }

    /// Takes a read out: it is complete, or has failed.
    pub fn remove(&mut self, index: u32) -> Finished {
        let read = std::mem::take(&mut self.slots[index as usize]);
        assert!(read.live, "a read ends once");
        if read.issued != read.buffer.len() {
            self.ready.retain(|&ready| ready != index);
        }
        self.free.push(index);
        Finished { token: read.token, buffer: read.buffer, started: read.started }
    }

    /// When the oldest outstanding read was asked for.
    pub fn oldest(&self) -> Option<Nanos> {
        self.slots.iter().filter(|read| read.live).map(|read| read.started).min()
    }

    /// Reads outstanding.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Indices of all reads, in no order.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.slots).filter(|(_, read)| read.live).map(|(index, _)| index)
    }

    /// What must hold between calls; `owners` are the reads that the requests name.
    pub fn check_invariants(&self, owners: impl Iterator<Item = u32>) {
        let mut open = vec![0u32; self.slots.len()];
        owners.for_each(|index| open[index as usize] += 1);
        let mut ready = vec![0u32; self.slots.len()];
        self.ready.iter().for_each(|&index| ready[index as usize] += 1);
        for ((read, open), ready) in self.slots.iter().zip(open).zip(ready) {
            if read.live {
                assert!(read.issued <= read.buffer.len());
                assert_eq!(ready, u32::from(read.issued < read.buffer.len()));
                assert_eq!(read.open, open, "each request is counted by its read");
                assert!(!read.is_complete(), "a complete read is handed over at once");
            } else {
                assert_eq!((ready, open), (0, 0), "no request outlives its read");
            }
        }
    }
}
