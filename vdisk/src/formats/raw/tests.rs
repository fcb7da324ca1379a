use super::*;
use crate::geometry::UNIT_BYTES;
use crate::map::ImageMap;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

const UNIT: u64 = UNIT_BYTES;

fn zero_units(map: &FlatMap) -> Vec<u32> {
    let units = u32::try_from(map.size_bytes().div_ceil(UNIT)).unwrap();
    (0..units).filter(|unit| map.is_zero_unit(*unit)).collect()
}

/// A file of `size` bytes, all hole, or `None` (said so) where the file system knows no holes.
fn sparse(size: u64) -> Option<File> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    if sys::seek_data(&file, 0).unwrap().is_some() {
        eprintln!("SKIPPED: the file system of the temporary directory knows no holes");
        return None;
    }
    Some(file)
}

#[test]
fn a_file_that_is_all_hole_is_all_zeroes() {
    let Some(file) = sparse(10 * UNIT + 512) else { return };
    let map = map(&file, 10 * UNIT + 512).unwrap();
    assert_eq!(map.data_bytes(), 0);
    assert_eq!(zero_units(&map).len(), 11);
}

#[test]
fn partly_written_units_are_data_and_punched_ones_are_not() {
    // 64 KiB clusters of some file systems: the test keeps its pieces that far apart.
    let step = 64 * 1024;
    let size = 10 * step + 512;
    let Some(file) = sparse(size) else { return };
    file.write_all_at(b"x", 2 * step + 100).unwrap();
    file.write_all_at(&vec![1; 5 * 65536], 4 * step).unwrap();
    file.write_all_at(b"tail", size - 4).unwrap();
    if let Err(error) = sys::punch_hole(&file, 6 * step, step) {
        eprintln!("SKIPPED: no holes can be punched here: {error}");
        return;
    }
    let map = map(&file, size).unwrap();
    let unit = |offset: u64| u32::try_from(offset / UNIT).unwrap();
    assert!(map.is_zero_unit(0), "a hole at the start");
    assert!(!map.is_zero_unit(unit(2 * step)), "one byte makes the unit data");
    assert!(map.is_zero_unit(unit(3 * step)), "a hole in the middle");
    assert!(!map.is_zero_unit(unit(4 * step)));
    assert!(map.is_zero_unit(unit(6 * step)), "a punched hole");
    assert!(!map.is_zero_unit(unit(7 * step)));
    assert!(map.is_zero_unit(unit(9 * step)));
    assert!(!map.is_zero_unit(unit(size - 1)), "a partial unit at the end");
}

#[test]
fn a_file_system_without_holes_gives_one_run() {
    let size = 5 * UNIT;
    let builder =
        walk(size, &mut |from, what| Ok(Some(if what == Seek::Data { from } else { size })));
    assert_eq!(builder.unwrap().finish(), FlatMap::dense(size));
}

#[test]
fn a_failure_names_its_offset() {
    let failure = walk(10 * UNIT, &mut |from, what| match (from, what) {
        (0, Seek::Data) => Ok(Some(0)),
        (0, Seek::Hole) => Ok(Some(3 * UNIT)),
        _ => Err(io::Error::other("bad disk")),
    })
    .unwrap_err();
    assert_eq!(failure.offset, 3 * UNIT);
    assert_eq!(failure.source.to_string(), "bad disk");
}

proptest! {
    /// Whatever `lseek` answers, the walk ends, panics never, and forgets no data that was named.
    #[test]
    fn a_lying_file_system_costs_no_hang(answers in prop::collection::vec(any::<Option<u64>>(), 1..40)) {
        let size = 100 * UNIT;
        let mut calls = 0;
        let built = walk(size, &mut |_, _| {
            calls += 1;
            assert!(calls < 1000, "it must end");
            Ok(answers[calls % answers.len()].map(|at| at % (size * 2)))
        });
        prop_assert!(built.unwrap().finish().data_bytes() <= size);
    }

    /// Real holes against a naive oracle: what the map calls zero reads as zeroes.
    #[test]
    fn what_is_mapped_to_zero_reads_as_zeroes(writes in prop::collection::vec((0..60_u64, 1..9000_usize), 0..12)) {
        let size = 64 * UNIT + 1536;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (unit, len) in writes {
            file.write_all_at(&vec![0xaa; len], unit * UNIT + 37).unwrap();
        }
        let size = file.metadata().unwrap().len();
        let map = map(&file, size).unwrap();
        let mut content = vec![0; usize::try_from(size).unwrap()];
        file.read_exact_at(&mut content, 0).unwrap();
        map.zero_ranges(0, size, &mut |range| {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            assert!(content[range].iter().all(|byte| *byte == 0));
        });
    }
}
