use super::*;
use proptest::prelude::*;

const UNIT: u64 = UNIT_BYTES;

fn build(size_bytes: u64, data: &[Range<u64>]) -> FlatMap {
    let mut builder = FlatMapBuilder::new(size_bytes);
    for range in data {
        builder.add_data(range.clone());
    }
    let map = builder.finish();
    map.check_invariants();
    map
}

fn file(logical_offset: u64, len: u64) -> Extent {
    let place = Place::File { file_index: 0, file_offset: logical_offset };
    Extent { logical_offset, len, place }
}

fn zero(logical_offset: u64, len: u64) -> Extent {
    Extent { logical_offset, len, place: Place::Zero }
}

fn extents(map: &dyn ImageMap, offset: u64, len: u64) -> Vec<Extent> {
    let mut out = Vec::new();
    map.extents(offset, len, &mut out);
    out
}

#[test]
fn holes_at_the_start_in_the_middle_and_at_the_end() {
    let map = build(10 * UNIT, &[2 * UNIT..3 * UNIT, 5 * UNIT..7 * UNIT]);
    assert_eq!(
        extents(&map, 0, 10 * UNIT),
        [
            zero(0, 2 * UNIT),
            file(2 * UNIT, UNIT),
            zero(3 * UNIT, 2 * UNIT),
            file(5 * UNIT, 2 * UNIT),
            zero(7 * UNIT, 3 * UNIT)
        ]
    );
    let zeroes: Vec<u32> = (0..12).filter(|unit| map.is_zero_unit(*unit)).collect();
    assert_eq!(zeroes, [0, 1, 3, 4, 7, 8, 9], "10 and 11 lie past the end");
    let mut ranges = Vec::new();
    map.zero_ranges(UNIT, 3 * UNIT + 100, &mut |range| ranges.push(range));
    assert_eq!(ranges, [UNIT..2 * UNIT, 3 * UNIT..4 * UNIT + 100]);
    assert_eq!((map.data_bytes(), map.zero_bytes(), map.run_count()), (3 * UNIT, 7 * UNIT, 2));
}

#[test]
fn a_unit_that_holds_any_data_is_data() {
    // One byte of data, and a range that ends one byte into a unit.
    let map = build(8 * UNIT, &[UNIT + 17..UNIT + 18, 3 * UNIT..4 * UNIT + 1]);
    assert_eq!(
        extents(&map, 0, 8 * UNIT),
        [
            zero(0, UNIT),
            file(UNIT, UNIT),
            zero(2 * UNIT, UNIT),
            file(3 * UNIT, 2 * UNIT),
            zero(5 * UNIT, 3 * UNIT)
        ]
    );
}

#[test]
fn two_pieces_of_data_in_one_unit_make_one_run() {
    let map = build(4 * UNIT, &[0..512, 1024..1536, UNIT..UNIT + 512]);
    assert_eq!(map.run_count(), 1);
    assert_eq!(extents(&map, 0, 4 * UNIT), [file(0, 2 * UNIT), zero(2 * UNIT, 2 * UNIT)]);
}

#[test]
fn the_last_unit_may_be_partial() {
    let size = 3 * UNIT + 512;
    let dense = FlatMap::dense(size);
    assert_eq!(extents(&dense, 0, u64::MAX), [file(0, size)]);
    assert_eq!(dense.data_bytes(), size);
    assert!(!dense.is_zero_unit(3));
    let hole_at_end = build(size, std::slice::from_ref(&(0..UNIT)));
    assert_eq!(extents(&hole_at_end, 2 * UNIT, 2 * UNIT), [zero(2 * UNIT, UNIT + 512)]);
    assert!(hole_at_end.is_zero_unit(3));
    assert!(!hole_at_end.is_zero_unit(4));
}

#[test]
fn questions_outside_the_image_are_answered_by_nothing() {
    let map = FlatMap::dense(2 * UNIT);
    assert_eq!(extents(&map, 2 * UNIT, 1), []);
    assert_eq!(extents(&map, u64::MAX, u64::MAX), []);
    assert_eq!(extents(&map, 0, 0), []);
    assert_eq!(extents(&map, 2 * UNIT - 1, u64::MAX), [file(2 * UNIT - 1, 1)]);
    assert!(!map.is_zero_unit(u32::MAX));
}

#[test]
fn the_largest_image_is_mapped_to_its_last_byte() {
    let size = crate::MAX_IMAGE_BYTES;
    let map = build(size, &[0..1, size - 1..size]);
    assert_eq!(map.run_count(), 2);
    assert!(!map.is_zero_unit(u32::MAX - 1), "the last unit");
    assert!(map.is_zero_unit(u32::MAX - 2));
    assert_eq!(extents(&map, size - 1, 1), [file(size - 1, 1)]);
    assert_eq!(FlatMap::dense(size).data_bytes(), size);
}

#[test]
fn a_full_table_takes_small_holes_for_data_and_stays_bounded() {
    let mut builder = FlatMapBuilder::new(4096 * UNIT);
    builder.max_runs = 8;
    // Every other unit is data, and a hole of 100 units in the middle.
    for unit in (0..4096).step_by(2).filter(|unit| !(1000..1100).contains(unit)) {
        builder.add_data(unit * UNIT..(unit + 1) * UNIT);
        assert!(builder.runs.len() < 8);
    }
    assert!(builder.min_hole_units() > 1);
    let map = builder.finish();
    map.check_invariants();
    assert!(!map.is_zero_unit(1), "a hole of one unit is taken for data");
    assert!(map.is_zero_unit(1050), "a large hole is kept");
    assert!(
        (0..4096).step_by(2).filter(|u| !(1000..1100).contains(u)).all(|u| !map.is_zero_unit(u))
    );
}

/// What the map must say, byte by byte: data where the byte's unit holds any data.
fn oracle(size: u64, data: &[Range<u64>]) -> Vec<bool> {
    let mut is_data = vec![false; usize::try_from(size).unwrap()];
    for range in data {
        let from = range.start / UNIT * UNIT;
        let to = range.end.next_multiple_of(UNIT).min(size);
        for byte in from..to {
            is_data[usize::try_from(byte).unwrap()] = true;
        }
    }
    is_data
}

prop_compose! {
    /// A size in sectors, and ascending data ranges inside it.
    fn images()(sectors in 1..400_u64)(
        cuts in prop::collection::btree_set(0..sectors * 512, 0..40),
        sectors in Just(sectors),
    ) -> (u64, Vec<Range<u64>>) {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        (sectors * 512, cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect())
    }
}

proptest! {
    #[test]
    fn the_map_agrees_with_a_naive_one(
        (size, data) in images(), offset in 0..220_000_u64, len in 0..220_000_u64,
    ) {
        let map = build(size, &data);
        let is_data = oracle(size, &data);
        let mut at = offset;
        let mut previous: Option<Extent> = None;
        for extent in extents(&map, offset, len) {
            prop_assert!(extent.len > 0);
            prop_assert_eq!(extent.logical_offset, at, "no gap, no overlap");
            prop_assert!(previous.is_none_or(|p| (p.place == Place::Zero) != (extent.place == Place::Zero)));
            if let Place::File { file_index, file_offset } = extent.place {
                prop_assert_eq!((file_index, file_offset), (0, extent.logical_offset));
            }
            for byte in extent.logical_offset..extent.logical_end() {
                prop_assert_eq!(is_data[usize::try_from(byte).unwrap()], extent.place != Place::Zero);
            }
            at = extent.logical_end();
            previous = Some(extent);
        }
        let inside = size.min(offset + len).saturating_sub(offset);
        prop_assert_eq!(at - offset, inside);
        for unit in 0..u32::try_from(size.div_ceil(UNIT)).unwrap() {
            let first_byte = usize::try_from(u64::from(unit) * UNIT).unwrap();
            prop_assert_eq!(map.is_zero_unit(unit), !is_data[first_byte]);
        }
        let data_bytes = is_data.iter().filter(|b| **b).count();
        prop_assert_eq!(map.data_bytes(), u64::try_from(data_bytes).unwrap());
    }
}
