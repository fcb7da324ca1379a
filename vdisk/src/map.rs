//! Where an image's bytes lie: the border that every format driver implements.
//!
//! A driver *maps*, it never transfers: the answer to a query is a run of [`Extent`]s, handed to a
//! callback, so a query allocates nothing and can be asked from the data path. The ring moves the
//! bytes.
//!
//! [`FlatMap`] is the form that the data path uses, whatever the format: a sorted table of the
//! runs that hold data, in units of 4 KiB; what lies between two runs is zeroes. A query is one
//! binary search and then a walk.
use crate::geometry::UNIT_BYTES;
use std::ops::Range;

/// Where a piece of an image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, from an offset on.
    File {
        /// Which of the vDisk's files (`Vdisk::files`); a raw image has only file 0.
        file_index: u16,
        /// Offset in that file, in bytes.
        file_offset: u64,
    },
    /// Nowhere: it reads as zeroes, and no disk has to be asked.
    Zero,
}

/// A piece of an image and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the image, in bytes.
    pub logical_offset: u64,
    /// Length in bytes; never 0.
    pub len: u64,
    /// Where it lies.
    pub place: Place,
}

impl Extent {
    /// The image offset just past this piece.
    #[must_use]
    pub fn logical_end(&self) -> u64 {
        self.logical_offset + self.len
    }
}

/// What a format driver answers: "what does this range map to".
///
/// Every method is total. A range that reaches past the end of the image is answered up to the
/// end; a range that lies wholly past it, or is empty, is answered by nothing.
pub trait ImageMap: Send + Sync {
    /// Size of the image in bytes.
    fn size_bytes(&self) -> u64;

    /// Calls `visit` for the extents of `len` bytes from `offset` on: in order, without gap or
    /// overlap, neighbours never mergeable, their lengths adding up to the part of the range that
    /// lies inside the image.
    fn visit(&self, offset: u64, len: u64, visit: &mut dyn FnMut(Extent));

    /// Whether the 4 KiB unit lies wholly in a hole. A unit past the end is not a zero unit.
    fn is_zero_unit(&self, unit: u32) -> bool;

    /// Appends the range's extents to `out`; see [`ImageMap::visit`].
    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) {
        self.visit(offset, len, &mut |extent| out.push(extent));
    }

    /// Calls `visit` for the ranges of zeroes, in image bytes: what block-status queries ask for.
    fn zero_ranges(&self, offset: u64, len: u64, visit: &mut dyn FnMut(Range<u64>)) {
        self.visit(offset, len, &mut |extent| {
            if extent.place == Place::Zero {
                visit(extent.logical_offset..extent.logical_end());
            }
        });
    }
}

/// A run of units that hold data, all in one file, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first_unit: u32,
    units: u32,
}

impl Run {
    fn end(self) -> u32 {
        self.first_unit + self.units
    }
}

/// The most runs that a table holds: 32 MiB of memory. A guess at what is plenty (an image of
/// 40 GiB has a few thousand); an image in more pieces has its smallest holes treated as data,
/// which costs disk reads and changes no answer, since a hole reads as zeroes.
const MAX_RUNS: usize = 4 * 1024 * 1024;

/// The flat, sorted map of a raw image. See the module's header.
#[derive(Debug, PartialEq, Eq)]
pub struct FlatMap {
    size_bytes: u64,
    /// Sorted by `first_unit`; never empty runs; a gap of at least one unit between two.
    runs: Vec<Run>,
}

impl FlatMap {
    /// A map of an image without holes.
    #[must_use]
    pub fn dense(size_bytes: u64) -> Self {
        let mut builder = FlatMapBuilder::new(size_bytes);
        builder.add_data(0..size_bytes);
        builder.finish()
    }

    /// Number of runs that hold data.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Bytes that lie in files, whole units, the last one cut at the end of the image.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| self.clip(run.end()) - u64::from(run.first_unit) * UNIT_BYTES)
            .sum()
    }

    /// Bytes that are known to be zeroes.
    #[must_use]
    pub fn zero_bytes(&self) -> u64 {
        self.size_bytes - self.data_bytes()
    }

    /// Offset of a unit's start, or of the image's end where that comes first.
    fn clip(&self, unit: u32) -> u64 {
        (u64::from(unit) * UNIT_BYTES).min(self.size_bytes)
    }

    /// Index of the first run that ends after `unit`.
    fn first_run_ending_after(&self, unit: u32) -> usize {
        self.runs.partition_point(|run| run.end() <= unit)
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        for run in &self.runs {
            assert!(run.units > 0);
            assert!(u64::from(run.first_unit) * UNIT_BYTES < self.size_bytes);
        }
        for pair in self.runs.windows(2) {
            assert!(pair[0].end() < pair[1].first_unit);
        }
    }
}

impl ImageMap for FlatMap {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn visit(&self, offset: u64, len: u64, visit: &mut dyn FnMut(Extent)) {
        let end = offset.saturating_add(len).min(self.size_bytes);
        let mut at = offset;
        if at >= end {
            return;
        }
        let first = self.first_run_ending_after(unit_of(at));
        for run in &self.runs[first..] {
            let run_start = u64::from(run.first_unit) * UNIT_BYTES;
            if run_start >= end {
                break;
            }
            if at < run_start {
                visit(Extent { logical_offset: at, len: run_start - at, place: Place::Zero });
                at = run_start;
            }
            let data_end = self.clip(run.end()).min(end);
            let place = Place::File { file_index: 0, file_offset: at };
            visit(Extent { logical_offset: at, len: data_end - at, place });
            at = data_end;
        }
        if at < end {
            visit(Extent { logical_offset: at, len: end - at, place: Place::Zero });
        }
    }

    fn is_zero_unit(&self, unit: u32) -> bool {
        if u64::from(unit) * UNIT_BYTES >= self.size_bytes {
            return false;
        }
        self.runs.get(self.first_run_ending_after(unit)).is_none_or(|run| run.first_unit > unit)
    }
}

/// Builds a [`FlatMap`] from the data ranges that a file system reports.
#[derive(Debug)]
pub struct FlatMapBuilder {
    size_bytes: u64,
    runs: Vec<Run>,
    /// Holes of fewer units than this are taken for data. Starts at 1 and doubles whenever the
    /// table is full, so the table stays bounded and the loop ends.
    min_hole_units: u32,
    max_runs: usize,
}

impl FlatMapBuilder {
    /// An empty table: all zeroes so far. `size_bytes` is at most `MAX_IMAGE_BYTES`.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        assert!(size_bytes <= crate::MAX_IMAGE_BYTES, "the opener refuses larger images");
        Self { size_bytes, runs: Vec::new(), min_hole_units: 1, max_runs: MAX_RUNS }
    }

    /// Adds a range of data, in bytes. Ranges come in ascending order. A unit that the range
    /// touches at all becomes data: a unit is zero only when it lies wholly in a hole.
    pub fn add_data(&mut self, range: Range<u64>) {
        let end = range.end.min(self.size_bytes);
        if range.start >= end {
            return;
        }
        let first_unit = unit_of(range.start);
        let end_unit = unit_of(end - 1) + 1;
        self.append(Run { first_unit, units: end_unit - first_unit });
        while self.runs.len() >= self.max_runs {
            self.min_hole_units = self.min_hole_units.saturating_mul(2);
            self.merge_small_holes();
        }
    }

    /// The finished table.
    #[must_use]
    pub fn finish(mut self) -> FlatMap {
        self.runs.shrink_to_fit();
        FlatMap { size_bytes: self.size_bytes, runs: self.runs }
    }

    /// Smallest hole, in units, that was kept; above 1 the table was full. Worth a log line.
    #[must_use]
    pub fn min_hole_units(&self) -> u32 {
        self.min_hole_units
    }

    fn append(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut() {
            assert!(last.first_unit <= run.first_unit, "data ranges come in ascending order");
            let hole_units = run.first_unit.saturating_sub(last.end());
            if hole_units < self.min_hole_units {
                last.units = last.end().max(run.end()) - last.first_unit;
                return;
            }
        }
        self.runs.push(run);
    }

    fn merge_small_holes(&mut self) {
        for run in std::mem::take(&mut self.runs) {
            self.append(run);
        }
    }
}

/// The unit that holds a byte. Only for offsets inside an image.
fn unit_of(offset: u64) -> u32 {
    u32::try_from(offset / UNIT_BYTES).expect("MAX_IMAGE_BYTES bounds the unit's index")
}

#[cfg(test)]
mod tests;
