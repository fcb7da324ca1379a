//! Disk images made from a seed: the same bytes on every machine, so that a failure can be had again.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::runner::Job;
use crate::{clock, install, proc};

/// Bytes that no compressor shortens, from a seed (SplitMix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, near enough to uniform for small ends.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Fills a buffer.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Changed when the same seed no longer gives the same image, so that a kept one is not taken for it.
const RECIPE: u32 = 1;
/// The part of an image that is data or hole as a whole, or a mix of both.
const CHUNK_BYTES: u64 = 4 << 20;
/// The grain of a mix: what file systems punch.
const GRAIN_BYTES: u64 = 4096;

/// An image of `size_bytes` under `target/e2e`, made when it is not there: random bytes, large and small holes, written zeros.
pub fn mixed(job: &mut Job<'_>, name: &str, size_bytes: u64, seed: u64) -> anyhow::Result<PathBuf> {
    let path = job.ctx.images()?.join(format!("{name}-{size_bytes}-{seed}-{RECIPE}.img"));
    job.say(&format!("image {} seed {seed}", path.display()));
    if path.exists() {
        return Ok(path);
    }
    let began = clock::now();
    let unfinished = path.with_extension("part");
    let mut file =
        File::create(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    file.set_len(size_bytes)?;
    let mut random = Random::new(seed);
    let mut chunk = vec![0_u8; usize::try_from(CHUNK_BYTES)?];
    let mut at = 0;
    while at < size_bytes {
        let length = CHUNK_BYTES.min(size_bytes - at);
        write_chunk(&mut file, &mut random, &mut chunk[..usize::try_from(length)?], at)?;
        at += length;
    }
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    job.say(&format!("made in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(path)
}

fn write_chunk(
    file: &mut File,
    random: &mut Random,
    chunk: &mut [u8],
    at: u64,
) -> anyhow::Result<()> {
    match random.below(20) {
        // A quarter of the image is large holes; one chunk in twenty is zeros that take room on the disk.
        0..5 => return Ok(()),
        5 => chunk.fill(0),
        6..16 => random.fill(chunk),
        _ => {
            let grain = usize::try_from(GRAIN_BYTES)?;
            for (i, piece) in (0_u64..).zip(chunk.chunks_mut(grain)) {
                if random.below(3) == 0 {
                    continue;
                }
                random.fill(piece);
                file.seek(SeekFrom::Start(at + i * GRAIN_BYTES))?;
                file.write_all(piece)?;
            }
            return Ok(());
        }
    }
    file.seek(SeekFrom::Start(at))?;
    file.write_all(chunk)?;
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(job: &mut Job<'_>, path: &Path) -> anyhow::Result<String> {
    // openssl uses the processor's SHA instructions: 0.7 s a GiB where coreutils needs 4.8 s (both measured).
    let mut command = if install::find("openssl").is_some() {
        let mut openssl = proc::command("openssl");
        openssl.args(["dgst", "-sha256", "-r"]);
        openssl
    } else {
        proc::command("sha256sum")
    };
    let text = job.run(command.arg(path), Duration::from_mins(5))?;
    let sum = text.split_whitespace().next().filter(|sum| sum.len() == 64);
    sum.map(str::to_owned).with_context(|| format!("no SHA-256 in: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_stream() {
        // The first outputs of SplitMix64 for seed 1234567, as its author's test vectors give them.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
