//! Flags of `floor`.

use std::path::PathBuf;

use anyhow::ensure;
use clap::ValueEnum;

use super::loads::{LOADS, Load};
use crate::flags::within;
use crate::read::parse_size;

/// Rounds at most. Guessed: hours.
const ROUNDS_MAX: u32 = 1000;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The node against the bare responder: the ratios `cpu_over_responder_*`.
    Responder,
    /// Cold random reads through the node against `fio`: the ratio `cold_over_fio`.
    Cold,
    /// Reads of the disk past the page cache.
    Disk,
    /// Rates of memory: copying, CRC32C.
    Memory,
    /// Sends in one direction, with and without zero copy, over loopback, veth and a sink (needs network namespaces).
    Sends,
    /// One device that reads in order over a veth pair (needs network namespaces).
    Veth,
}

/// Flags of `floor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LOADS_HELP)]
pub struct FloorArgs {
    /// Turns of each comparison: each side is measured once in a turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Length of each measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// What to measure [default: everything].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Loads under which node and responder are compared [default: all].
    #[arg(long, value_delimiter = ',', value_parser = parse_load)]
    pub loads: Vec<Load>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Draw what was measured into this folder, as SVG files.
    #[arg(long)]
    pub plots: Option<PathBuf>,
    /// Bytes of the image that node and responder hold in memory.
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub image_bytes: u64,
    /// Bytes of the image that cold reads go to: far more than the node's cache of 64M.
    #[arg(long, default_value = "2G", value_parser = parse_size)]
    pub cold_image_bytes: u64,
    /// Cold reads outstanding, on both sides [default: found with fio].
    #[arg(long)]
    pub cold_depth: Option<u32>,
    /// Compare every byte, not just each unit's stamp.
    #[arg(long)]
    pub verify: bool,
    /// Seed of the images and of random offsets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Do not pin servers and clients to cores.
    #[arg(long)]
    pub no_pin: bool,
}

const LOADS_HELP: &str = "\
Loads (--loads), the same for node and bare responder:
  4k_1    one device, 32 random reads of 4 KiB outstanding
  4k_64   64 devices, one random read of 4 KiB outstanding each
  4k_500  500 devices, one random read of 4 KiB outstanding each
  32k     one device, 32 random reads of 32 KiB outstanding
  1m      one device, 8 reads of 1 MiB outstanding, in order
A ratio is the median over the rounds of (processor time of the node per read / of the responder per read); both servers
have the same core, their clients the other one, loopback, an MTU of 1500.";

fn parse_load(name: &str) -> Result<Load, String> {
    let known = || LOADS.map(|load| load.name).join(", ");
    Load::named(name).ok_or_else(|| format!("'{name}' is no load: {}", known()))
}

impl FloorArgs {
    /// What no single flag can tell, before anything is made or opened.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> anyhow::Result<()> {
        within("--rounds", self.rounds, 1..=ROUNDS_MAX)?;
        within("--seconds", self.seconds, 0.1..=3600.0)?;
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20) && self.image_bytes >= 64 << 20,
            "--image-bytes {}: must be whole MiB, at least 64M",
            self.image_bytes
        );
        ensure!(
            self.cold_image_bytes.is_multiple_of(1 << 20) && self.cold_image_bytes >= 128 << 20,
            "--cold-image-bytes {}: must be whole MiB, at least 128M (the node's cache has 64M)",
            self.cold_image_bytes
        );
        self.cold_depth.map_or(Ok(()), |depth| within("--cold-depth", depth, 1..=256))
    }

    /// Whether this part is to be measured.
    #[must_use]
    pub fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// The loads to compare under.
    #[must_use]
    pub fn loads(&self) -> Vec<Load> {
        if self.loads.is_empty() { LOADS.to_vec() } else { self.loads.clone() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        floor: FloorArgs,
    }

    fn check(flags: &[&str]) -> Result<FloorArgs, String> {
        let line = Line::try_parse_from(std::iter::once(&"floor").chain(flags));
        let args = line.map_err(|e| e.to_string())?.floor;
        args.check().map(|()| args).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_means_everything() {
        let args = check(&[]).unwrap();
        assert_eq!((args.loads().len(), args.rounds), (5, 5));
        assert!(args.wants(Part::Responder));
        let one = check(&["--loads", "4k_64,1m"]).unwrap().loads();
        assert_eq!(one.iter().map(|load| load.name).collect::<Vec<_>>(), ["4k_64", "1m"]);
    }

    #[test]
    fn every_refusal_names_the_flag_or_what_is_known() {
        for (flags, words) in [
            (&["--rounds", "0"][..], "--rounds 0"),
            (&["--seconds", "0.01"], "--seconds 0.01"),
            (&["--seconds", "NaN"], "--seconds NaN"),
            (&["--image-bytes", "1M"], "--image-bytes"),
            (&["--loads", "8k"], "4k_500"),
            (&["--parts", "roof"], "roof"),
            (&["--cold-image-bytes", "64M"], "--cold-image-bytes"),
            (&["--cold-depth", "0"], "--cold-depth 0"),
        ] {
            let error = check(flags).err().unwrap();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
