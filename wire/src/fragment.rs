//! How a read is cut into fragments, and back.
//!
//! A read covers whole units of 4 KiB (the end of an odd-sized image is filled up with zeros). Each unit is cut alike, so fragment `n` of a read always names the same bytes,
//! whoever sends it and however often:
//!
//! ```text
//! 1376:  | 1376 | 1376 | 1344 |   three a unit; the third is padded to 1376 in front of its data
//! 1024:  | 1024 | 1024 | 1024 | 1024 |
//! 4096:  |        one unit           |
//! 8192:  |        two units, from the start of the read            |
//! ```
//!
//! All segments of one GSO send but the last must be equal (`udp(7)`, `UDP_SEGMENT`); with the padding every fragment's
//! datagram is header + size, so that one send carries the fragments of many replies.

use crate::limits::{READ_BYTES_MAX, SEND_BYTES_MAX, SEND_SEGMENTS_MAX, UNIT_BYTES};

/// Bytes of vDisk data in each datagram of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FragmentSize {
    /// Fits any path that carries IPv6's minimum MTU of 1280.
    B1024 = 1,
    /// Fits the usual MTU of 1500.
    #[default]
    B1376 = 2,
    /// A unit each: needs an MTU of 4220 (IPv6).
    B4096 = 3,
    /// Two units each: needs an MTU of 8316 (IPv6), so jumbo frames.
    B8192 = 4,
}

/// Where a fragment's data lies within its read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentRange {
    /// First byte, counted from the start of the read.
    pub offset: usize,
    /// Bytes of data; the rest of the fragment is padding.
    pub bytes: usize,
}

impl FragmentSize {
    /// All sizes, smallest first.
    pub const ALL: [FragmentSize; 4] =
        [FragmentSize::B1024, FragmentSize::B1376, FragmentSize::B4096, FragmentSize::B8192];

    /// Bytes of data at most.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            FragmentSize::B1024 => 1024,
            FragmentSize::B1376 => 1376,
            FragmentSize::B4096 => 4096,
            FragmentSize::B8192 => 8192,
        }
    }

    /// The size with this number on the wire; unknown numbers give the usual size, which every node must serve.
    #[must_use]
    pub const fn from_code(code: u8) -> FragmentSize {
        match code {
            1 => FragmentSize::B1024,
            3 => FragmentSize::B4096,
            4 => FragmentSize::B8192,
            _ => FragmentSize::B1376,
        }
    }

    /// Bytes of the datagram (UDP payload) that carries a fragment.
    #[must_use]
    pub const fn datagram_bytes(self) -> usize {
        crate::ReadData::BYTES + self.bytes()
    }

    /// Fragments of one unit; 1 where a fragment holds whole units.
    #[must_use]
    pub const fn per_unit(self) -> usize {
        UNIT_BYTES.div_ceil(self.bytes())
    }

    /// Whole units in a fragment; 1 where a unit has several fragments.
    #[must_use]
    pub const fn units_each(self) -> usize {
        if self.bytes() <= UNIT_BYTES { 1 } else { self.bytes() / UNIT_BYTES }
    }

    /// Fragments of a read of `read_bytes` (rounded up to whole units).
    #[must_use]
    #[inline]
    pub const fn count(self, read_bytes: usize) -> usize {
        let units = read_bytes.div_ceil(UNIT_BYTES);
        match self {
            FragmentSize::B1024 => units * 4,
            FragmentSize::B1376 => units * 3,
            FragmentSize::B4096 => units,
            FragmentSize::B8192 => units.div_ceil(2),
        }
    }

    /// The bitmap in which each fragment of such a read is set.
    ///
    /// # Panics
    /// When the read is longer than [`READ_BYTES_MAX`].
    #[must_use]
    pub const fn all(self, read_bytes: usize) -> u64 {
        assert!(read_bytes <= READ_BYTES_MAX);
        let count = self.count(read_bytes);
        if count == 0 {
            0
        } else if count >= 64 {
            u64::MAX
        } else {
            (1 << count) - 1
        }
    }

    /// Where fragment `index` lies in a read of `read_bytes` (rounded up to whole units); none when there is no such
    /// fragment. Each size has its own arithmetic, because a node does this for every datagram: no division but by a constant.
    #[must_use]
    #[inline]
    pub const fn range(self, index: usize, read_bytes: usize) -> Option<FragmentRange> {
        if index >= self.count(read_bytes) {
            return None;
        }
        let (offset, bytes) = match self {
            FragmentSize::B1024 => (index * 1024, 1024),
            FragmentSize::B1376 => {
                let (unit, third) = (index / 3, index % 3);
                (
                    unit * UNIT_BYTES + third * 1376,
                    if third == 2 { UNIT_BYTES - 2 * 1376 } else { 1376 },
                )
            }
            FragmentSize::B4096 => (index * 4096, 4096),
            FragmentSize::B8192 => {
                // A read is whole units, so only a fragment of two units can reach past its end.
                let left = read_bytes.next_multiple_of(UNIT_BYTES) - index * 8192;
                (index * 8192, if left < 8192 { left } else { 8192 })
            }
        };
        Some(FragmentRange { offset, bytes })
    }

    /// The unit, counted from the start of the read, in which fragment `index` starts.
    #[must_use]
    pub const fn first_unit(self, index: usize) -> usize {
        if self.bytes() < UNIT_BYTES { index / self.per_unit() } else { index * self.units_each() }
    }

    /// The fragments that carry unit `unit` of a read, as a bitmap. With two units a fragment it is one bit.
    #[must_use]
    pub const fn of_unit(self, unit: usize) -> u64 {
        if self.bytes() < UNIT_BYTES {
            ((1 << self.per_unit()) - 1) << (unit * self.per_unit())
        } else {
            1 << (unit / self.units_each())
        }
    }

    /// Full datagrams of this size in one GSO send.
    #[must_use]
    pub const fn segments_per_send(self) -> usize {
        let fit = SEND_BYTES_MAX / self.datagram_bytes();
        if fit < SEND_SEGMENTS_MAX { fit } else { SEND_SEGMENTS_MAX }
    }

    /// The largest size whose datagrams are at most `datagram_bytes` of UDP payload; the smallest when none is.
    #[must_use]
    pub const fn fitting(datagram_bytes: usize) -> FragmentSize {
        if datagram_bytes >= FragmentSize::B8192.datagram_bytes() {
            FragmentSize::B8192
        } else if datagram_bytes >= FragmentSize::B4096.datagram_bytes() {
            FragmentSize::B4096
        } else if datagram_bytes >= FragmentSize::B1376.datagram_bytes() {
            FragmentSize::B1376
        } else {
            FragmentSize::B1024
        }
    }
}
