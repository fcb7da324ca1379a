//! Raw images: the identity, less the holes of a sparse file.
use crate::map::{FlatMap, FlatMapBuilder};
use crate::sys;
use std::fs::File;
use std::io;

/// Where finding the holes failed.
#[derive(Debug)]
pub(crate) struct MapFailure {
    pub offset: u64,
    pub source: io::Error,
}

/// Finds the data of a sparse file. A file system that knows no holes reports one run of data.
pub(crate) fn map(file: &File, size_bytes: u64) -> Result<FlatMap, MapFailure> {
    let builder = walk(size_bytes, &mut |from, what| match what {
        Seek::Data => sys::seek_data(file, from),
        Seek::Hole => sys::seek_hole(file, from),
    })?;
    if builder.min_hole_units() > 1 {
        tracing::warn!(
            min_hole_units = builder.min_hole_units(),
            "the image is in more pieces than the map holds; smaller holes are read from the disk"
        );
    }
    Ok(builder.finish())
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seek {
    Data,
    Hole,
}

/// The walk itself, over any `lseek`: `None` from a search for data means that only a hole follows.
/// An answer that does not advance ends the walk with the rest taken for data: a file system that
/// lies costs disk reads, not a hang.
fn walk(
    size_bytes: u64,
    seek: &mut dyn FnMut(u64, Seek) -> io::Result<Option<u64>>,
) -> Result<FlatMapBuilder, MapFailure> {
    let mut builder = FlatMapBuilder::new(size_bytes);
    let mut at = 0;
    while at < size_bytes {
        let failed = |source| MapFailure { offset: at, source };
        let Some(data) = seek(at, Seek::Data).map_err(failed)? else { break };
        // The end of the file counts as a hole, so there always is one.
        let hole = seek(data, Seek::Hole).map_err(failed)?.unwrap_or(size_bytes);
        if data < at || hole <= data {
            builder.add_data(at..size_bytes);
            break;
        }
        builder.add_data(data..hole);
        at = hole;
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
