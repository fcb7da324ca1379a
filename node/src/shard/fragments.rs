//! Bitmaps of a read: units, the fragments that carry them, and the parts that lie in one cache block.

use diskstream_wire::FragmentSize;

/// `count` ones.
pub(super) fn ones(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// `count` ones, for units.
pub(super) fn units(count: usize) -> u16 {
    u16::try_from(ones(count) & 0xffff).expect("masked to 16 bits")
}

/// The units whose fragments are wanted, of a read of `count` units.
pub(super) fn units_of(size: FragmentSize, wanted: u64, count: usize) -> u16 {
    if wanted == size.all(count * 4096) {
        return units(count);
    }
    (0..count).filter(|&unit| wanted & size.of_unit(unit) != 0).fold(0, |map, unit| map | 1 << unit)
}

/// The fragments that carry these units.
pub(super) fn of_units(size: FragmentSize, mut units: u16) -> u64 {
    let mut fragments = 0;
    while units != 0 {
        fragments |= size.of_unit(units.trailing_zeros() as usize);
        units &= units - 1;
    }
    fragments
}

/// Of `zero` units those that can be left out of the data: with two units a fragment both must be zero, since a fragment
/// is sent whole. `count` is the read's units.
pub(super) fn markable(size: FragmentSize, zero: u16, count: usize) -> u16 {
    if size.units_each() == 1 {
        return zero;
    }
    // A unit past the end counts as zero for its partner.
    let padded = zero | !units(count);
    let both = padded & (padded >> 1) & 0x5555;
    (both | both << 1) & units(count)
}

/// What of a read lies in the block that holds its units `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Fragments that lie in the block wholly.
    pub(super) whole: u64,
    /// The fragment of two units whose second lies in the next block; 0: none.
    pub(super) straddling: u64,
}

pub(super) fn part(size: FragmentSize, first: usize, end: usize, count: usize) -> Part {
    debug_assert!(first < end && end <= count && count <= 16);
    if size.units_each() == 1 {
        let each = size.per_unit();
        return Part { whole: ones((end - first) * each) << (first * each), straddling: 0 };
    }
    let from = first.div_ceil(2);
    let to = if end == count { count.div_ceil(2) } else { end / 2 };
    let whole = if to > from { ones(to - from) << from } else { 0 };
    let straddles = end < count && end % 2 == 1;
    Part { whole, straddling: if straddles { 1 << (end / 2) } else { 0 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [FragmentSize; 4] =
        [FragmentSize::B1024, FragmentSize::B1376, FragmentSize::B4096, FragmentSize::B8192];

    /// Every read of up to 16 units, cut by blocks of every size at every alignment: each fragment is in exactly one part,
    /// and in the part whose block holds its first byte.
    #[test]
    fn parts_cover_each_fragment_once() {
        for size in SIZES {
            for count in 1..=16 {
                for block_units in 1..=17 {
                    for start in 0..block_units {
                        check_cut(size, count, block_units, start);
                    }
                }
            }
        }
    }

    fn check_cut(size: FragmentSize, count: usize, block_units: usize, start: usize) {
        let length = count * 4096;
        let mut seen = 0;
        let mut first = 0;
        while first < count {
            let end = count.min(first + block_units - (start + first) % block_units);
            let part = part(size, first, end, count);
            assert_eq!(seen & (part.whole | part.straddling), 0);
            assert_eq!(part.whole & part.straddling, 0);
            seen |= part.whole | part.straddling;
            for fragment in 0..64 {
                let Some(range) = size.range(fragment, length) else { continue };
                let last = (range.offset + range.bytes - 1) / 4096;
                if part.whole >> fragment & 1 == 1 {
                    assert!(range.offset / 4096 >= first && last < end);
                }
                if part.straddling >> fragment & 1 == 1 {
                    assert_eq!((range.offset / 4096, last), (end - 1, end));
                }
            }
            first = end;
        }
        assert_eq!(seen, size.all(length));
    }

    #[test]
    fn units_and_fragments_map_both_ways() {
        for size in SIZES {
            for count in 1..=16 {
                let all = size.all(count * 4096);
                assert_eq!(units_of(size, all, count), units(count));
                assert_eq!(of_units(size, units(count)), all);
                for unit in 0..count {
                    let fragments = of_units(size, 1 << unit);
                    assert_eq!(units_of(size, fragments, count) >> unit & 1, 1);
                    assert_eq!(units_of(size, all & !fragments, count) >> unit & 1, 0);
                }
            }
        }
    }

    #[test]
    fn a_fragment_of_two_units_is_left_out_only_when_both_are_zero() {
        assert_eq!(markable(FragmentSize::B8192, 0b0110, 4), 0);
        assert_eq!(markable(FragmentSize::B8192, 0b0111, 4), 0b0011);
        assert_eq!(markable(FragmentSize::B8192, 0b1_1100, 5), 0b1_1100, "the last one alone");
        assert_eq!(markable(FragmentSize::B8192, 0xffff, 16), 0xffff);
        assert_eq!(markable(FragmentSize::B1376, 0b0110, 4), 0b0110);
    }
}
