//! The image that a run reads: incompressible, without holes, each unit stamped with its offset, so that any unit can be
//! checked without the file.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use diskstream_wire::limits::UNIT_BYTES;

use crate::random::Random;

/// Fills one unit with what belongs at `offset` of the image with this seed.
pub fn fill_unit(seed: u64, offset: u64, unit: &mut [u8]) {
    let mut random = Random::new(seed ^ offset.rotate_left(17));
    let (words, _) = unit.as_chunks_mut::<8>();
    for word in words.iter_mut() {
        *word = random.bits().to_le_bytes();
    }
    if let Some(first) = words.first_mut() {
        *first = offset.to_le_bytes();
    }
}

/// Bytes of `data`, which was read at `offset`, that are not the image's. `thorough` compares every byte, otherwise
/// only each unit's stamp.
#[must_use]
pub fn wrong_bytes(seed: u64, offset: u64, data: &[u8], thorough: bool) -> u64 {
    let mut wrong = 0;
    let mut expected = [0u8; UNIT_BYTES];
    for (i, unit) in data.chunks(UNIT_BYTES).enumerate() {
        let at = offset + (i * UNIT_BYTES) as u64;
        if thorough {
            fill_unit(seed, at, &mut expected);
            if unit != &expected[..unit.len()] {
                wrong += unit.iter().zip(&expected).filter(|(a, b)| a != b).count() as u64;
            }
        } else if unit.first_chunk::<8>() != Some(&at.to_le_bytes()) {
            wrong += unit.len() as u64;
        }
    }
    wrong
}

/// As [`wrong_bytes`], of a piece that begins and ends anywhere: what a stream brings at once.
#[must_use]
pub fn wrong_in_piece(seed: u64, offset: u64, data: &[u8], thorough: bool) -> u64 {
    let unit_bytes = UNIT_BYTES as u64;
    let mut wrong = 0;
    let mut expected = [0u8; UNIT_BYTES];
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let unit = at - at % unit_bytes;
        let inside = usize::try_from(at % unit_bytes).expect("below a unit");
        let piece = rest.len().min(UNIT_BYTES - inside);
        // Without thoroughness only the stamp is compared, the first bytes of the unit.
        let mut compared = piece;
        if thorough {
            fill_unit(seed, unit, &mut expected);
        } else {
            expected[..8].copy_from_slice(&unit.to_le_bytes());
            compared = piece.min(8usize.saturating_sub(inside));
        }
        let (got, wanted) = (&rest[..compared], &expected[inside..inside + compared]);
        if got != wanted {
            wrong += got.iter().zip(wanted).filter(|(a, b)| a != b).count() as u64;
        }
        at += piece as u64;
        rest = &rest[piece..];
    }
    wrong
}

/// The folder in which images are kept for the next run: below `TMPDIR`, this user's own.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else, who could change the image.
pub fn folder() -> anyhow::Result<PathBuf> {
    let own = fs::metadata("/proc/self").context("reading /proc/self")?.uid();
    let folder = std::env::temp_dir().join(format!("diskstream-bench-{own}"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("making {} (set TMPDIR to another folder)", folder.display()))?;
    let owner = fs::symlink_metadata(&folder)?.uid();
    anyhow::ensure!(
        owner == own,
        "{} belongs to user {owner}, not to {own}: set TMPDIR to another folder",
        folder.display()
    );
    Ok(folder)
}

/// Makes the image in `folder`, or takes the one that an earlier run left there whole.
///
/// # Errors
/// When the file cannot be written.
pub fn make(folder: &Path, seed: u64, bytes: u64) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("bench-{seed}-{bytes}.img"));
    if fs::metadata(&path).is_ok_and(|m| m.len() == bytes) {
        return Ok(path);
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // Two runs at once must not write the same file.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let file =
        File::create(&part).with_context(|| format!("making the image {}", part.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut unit = [0u8; UNIT_BYTES];
    let progress = std::io::IsTerminal::is_terminal(&std::io::stderr());
    for offset in (0..bytes).step_by(UNIT_BYTES) {
        fill_unit(seed, offset, &mut unit);
        out.write_all(&unit)
            .with_context(|| format!("writing {} (is the disk full?)", part.display()))?;
        if progress && offset % (64 << 20) == 0 {
            eprint!("\rmaking the image: {:3} %", offset * 100 / bytes);
        }
    }
    if progress {
        eprintln!("\rmaking the image: 100 %");
    }
    out.into_inner().context("writing the image")?.sync_all()?;
    fs::rename(&part, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_and_a_misplaced_unit_are_found() {
        let mut data = vec![0u8; 2 * UNIT_BYTES];
        fill_unit(1, 8192, &mut data[..UNIT_BYTES]);
        fill_unit(1, 12_288, &mut data[UNIT_BYTES..]);
        assert_eq!(wrong_bytes(1, 8192, &data, true), 0);
        assert_eq!(wrong_bytes(1, 8192, &data, false), 0);
        data[5000] ^= 1;
        assert_eq!(wrong_bytes(1, 8192, &data, true), 1);
        assert!(wrong_bytes(1, 4096, &data, false) >= 2 * UNIT_BYTES as u64);
    }

    #[test]
    fn pieces_are_checked_wherever_they_are_cut() {
        let mut data = vec![0u8; 3 * UNIT_BYTES];
        for (i, unit) in data.chunks_mut(UNIT_BYTES).enumerate() {
            fill_unit(9, (i * UNIT_BYTES) as u64, unit);
        }
        for cut in [1, 7, 8, 9, 4095, 4096, 4097, 4100, 12_287] {
            for thorough in [false, true] {
                let (a, b) = data.split_at(cut);
                let wrong =
                    wrong_in_piece(9, 0, a, thorough) + wrong_in_piece(9, cut as u64, b, thorough);
                assert_eq!(wrong, 0, "{cut} {thorough}");
            }
        }
        data[4097] ^= 1;
        data[9000] ^= 1;
        let wrong = |from: usize, to: usize, thorough| {
            wrong_in_piece(9, from as u64, &data[from..to], thorough)
        };
        assert_eq!((wrong(0, 12_288, true), wrong(0, 12_288, false)), (2, 1));
        assert_eq!((wrong(4098, 9001, true), wrong(4098, 9001, false)), (1, 0));
        assert!(wrong_in_piece(9, 4096, &data[..4096], false) > 0, "misplaced");
    }
}
