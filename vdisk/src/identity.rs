//! Which file it is, and in which state: what must not change under an open image.
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A point on a file system's clock. Not comparable with any other clock: a file server stamps
/// files with its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds of the second, below 10^9.
    pub nanos: u32,
}

impl Stamp {
    fn new(secs: i64, nanos: i64) -> Self {
        // A file system that reports nanoseconds out of range gets them cut, not a panic: the
        // stamp is only ever compared for equality with another one cut the same way.
        Self { secs, nanos: u32::try_from(nanos.clamp(0, 999_999_999)).expect("clamped to u32") }
    }

    /// Whether `self` lies at least `secs` before `other`. Negative distances do not.
    #[must_use]
    pub fn is_before_by_secs(self, other: Self, secs: i64) -> bool {
        let earliest = Self { secs: self.secs.saturating_add(secs), nanos: self.nanos };
        earliest <= other
    }
}

/// The identity and state of a file, as far as metadata tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device that holds the file. May differ after a reboot or remount.
    pub dev: u64,
    /// Inode on that device.
    pub inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// When the content changed last, as far as programs did not set it back.
    pub mtime: Stamp,
    /// When content or attributes changed last; programs cannot set it.
    pub ctime: Stamp,
    /// Number of names. 0: deleted, and kept alive by those who have it open.
    pub links: u64,
}

impl Identity {
    /// Of an open file's metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            mtime: Stamp::new(metadata.mtime(), metadata.mtime_nsec()),
            ctime: Stamp::new(metadata.ctime(), metadata.ctime_nsec()),
            links: metadata.nlink(),
        }
    }

    /// Of an open file, asked now.
    pub(crate) fn of_file(file: &std::fs::File) -> io::Result<Self> {
        Ok(Self::of(&file.metadata()?))
    }

    /// Whether both are the same file, whatever its state.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.dev, self.inode) == (other.dev, other.inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_before_another_only_by_the_whole_distance() {
        let at = |secs, nanos| Stamp { secs, nanos };
        assert!(at(10, 5).is_before_by_secs(at(12, 5), 2));
        assert!(!at(10, 6).is_before_by_secs(at(12, 5), 2));
        assert!(!at(13, 0).is_before_by_secs(at(12, 0), 2));
        assert!(!at(i64::MAX, 0).is_before_by_secs(at(i64::MAX - 1, 0), 2));
        assert!(at(-5, 0).is_before_by_secs(at(-3, 0), 2));
    }

    #[test]
    fn nanoseconds_out_of_range_are_cut() {
        assert_eq!(Stamp::new(1, -1).nanos, 0);
        assert_eq!(Stamp::new(1, i64::MAX).nanos, 999_999_999);
    }
}
