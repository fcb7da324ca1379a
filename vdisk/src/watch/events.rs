//! inotify on one open file.
use crate::sys;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// What was seen since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// Something wrote to the file or truncated it.
    pub wrote: bool,
    /// Events were lost: the queue ran over.
    pub lost: bool,
}

impl Events {
    /// Nothing was seen, since nobody looked.
    pub const UNSEEN: Self = Self { wrote: false, lost: false };
}

/// Events to hear of. IN_MODIFY: write, truncate. IN_ATTRIB: times, mode, links; also unlinked while
/// open. IN_MOVE_SELF: renamed. IN_DELETE_SELF: the last descriptor is closed too, which cannot
/// happen while this one is open, but is free. IN_CLOSE_WRITE: a writer is done, perhaps one that
/// wrote through a mapping.
const INTEREST: u32 = libc::IN_MODIFY
    | libc::IN_ATTRIB
    | libc::IN_MOVE_SELF
    | libc::IN_DELETE_SELF
    | libc::IN_CLOSE_WRITE;

/// An inotify instance that watches one file.
#[derive(Debug)]
pub(super) struct Inotify {
    file: File,
}

/// `struct inotify_event` without a name: wd, mask, cookie, len, each four bytes.
const EVENT_BYTES: usize = 16;
const MASK_AT: usize = 4;
const LEN_AT: usize = 12;

/// Reads per look. 16 × 4 KiB is 4096 events; a writer that makes more than that between two reads
/// keeps the descriptor readable, and the rest is seen by the next look.
const READS_MAX: usize = 16;

impl Inotify {
    /// Watches the inode that is open, whatever its path names by now.
    pub fn on(open: &File) -> io::Result<Self> {
        let inotify = sys::inotify()?;
        let same = format!("/proc/self/fd/{}", open.as_raw_fd());
        sys::inotify_add(inotify.as_raw_fd(), Path::new(&same), INTEREST)?;
        Ok(Self { file: File::from(inotify) })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes what is queued. Never blocks.
    pub fn drain(&mut self) -> Events {
        let mut seen = Events::default();
        let mut buffer = [0; 4096];
        for _ in 0..READS_MAX {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => parse(&buffer[..read], &mut seen),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // WouldBlock: nothing more. Anything else: comparing still works.
                Err(_) => break,
            }
        }
        seen
    }
}

/// Reads the kernel's records; one that is cut short ends the walk.
fn parse(mut records: &[u8], seen: &mut Events) {
    while let Some((event, rest)) = records.split_first_chunk::<EVENT_BYTES>() {
        let word = |at: usize| {
            u32::from_ne_bytes(*event[at..].first_chunk().expect("within the 16 bytes"))
        };
        let mask = word(MASK_AT);
        seen.wrote |= mask & libc::IN_MODIFY != 0;
        seen.lost |= mask & libc::IN_Q_OVERFLOW != 0;
        // A watch on a file has no names, but the record says how long they are.
        let name_bytes = usize::try_from(word(LEN_AT)).unwrap_or(usize::MAX);
        let Some(next) = rest.get(name_bytes..) else { return };
        records = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u32, name: &[u8]) -> Vec<u8> {
        let len = u32::try_from(name.len()).unwrap();
        let words = [1, mask, 0, len].map(u32::to_ne_bytes);
        [words.concat(), name.to_vec()].concat()
    }

    #[test]
    fn records_are_read_to_the_end_and_cut_ones_are_left_alone() {
        let mut records = event(libc::IN_ATTRIB, b"name\0\0\0\0");
        records.extend(event(libc::IN_Q_OVERFLOW, b""));
        records.extend(event(libc::IN_MODIFY, b""));
        let mut seen = Events::default();
        parse(&records, &mut seen);
        assert_eq!(seen, Events { wrote: true, lost: true });

        for len in 0..records.len() {
            let mut seen = Events::default();
            parse(&records[..len], &mut seen);
            assert!(!seen.wrote, "the last record is cut short at {len}");
        }
        let mut lying = event(libc::IN_ATTRIB, b"");
        lying[LEN_AT..].copy_from_slice(&u32::MAX.to_ne_bytes());
        parse(&lying, &mut Events::default());
    }
}
