//! Flags of `storm`, and what they mean together.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::ensure;
use clap::ValueEnum;
use diskstream_device::session::MTU_MIN;

use crate::read::parse_size;

/// Devices at most: a socket each, in one ring.
const DEVICES_MAX: u16 = 16_000;

/// Whether the node reads ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadAhead {
    /// What devices will ask for next is read before they do.
    On,
    /// Only what was asked for is read.
    Off,
}

impl ReadAhead {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ReadAhead::On => "on",
            ReadAhead::Off => "off",
        }
    }
}

/// Flags of `storm`.
#[derive(Debug, clap::Args)]
pub struct StormArgs {
    /// Devices, each with its own session and socket.
    #[arg(long, default_value_t = 1000)]
    pub devices: u16,
    /// What one boot reads: a file with the columns time_ms,offset,length.
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Think times are divided by this. A device thinks, for the time between two lines of the trace, after the answer to the first of
    /// them. The default takes a boot of half a minute to ten seconds, so that 1,000 devices can load a core and more.
    #[arg(long, default_value_t = 4.0)]
    pub speed: f64,
    /// Seconds over which devices are switched on; 0: all at once.
    #[arg(long, default_value_t = 0.0)]
    pub spread: f64,
    /// Whether the node reads ahead.
    #[arg(long, value_enum, default_value_t = ReadAhead::On, conflicts_with = "servers")]
    pub read_ahead: ReadAhead,
    /// Run so many times with and so many times without read-ahead, in turns, and show both with their spread.
    #[arg(long, default_value_t = 1, conflicts_with = "servers")]
    pub rounds: u32,
    /// The node's --boot-limit; 0: none.
    #[arg(long, default_value_t = 0, conflicts_with = "servers")]
    pub boot_limit: u32,
    /// The node's --cache.
    #[arg(long, default_value = "512M", value_parser = parse_size, conflicts_with = "servers")]
    pub cache: u64,
    /// Bytes of the image that is made; it must hold what the trace reads.
    #[arg(long, default_value = "1G", value_parser = parse_size, conflicts_with = "servers")]
    pub image_bytes: u64,
    /// Login addresses of running nodes, ADDRESS:PORT, instead of a node of this run's own. What such nodes read from their disks, and
    /// their processor time, is not known here.
    #[arg(long, value_delimiter = ',')]
    pub servers: Vec<SocketAddr>,
    /// Compare every byte, not just each unit's stamp. With --servers the vDisk must be an image that this program made.
    #[arg(long)]
    pub verify: bool,
    /// Largest IP packet of the devices' link.
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// Seed of the image.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for pictures of the run: boots over time, latencies.
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Do not pin node and fleet to cores.
    #[arg(long)]
    pub no_pin: bool,
}

impl StormArgs {
    /// What no single flag can tell, before anything is made or opened.
    ///
    /// # Errors
    /// The flag that cannot work, and why.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=DEVICES_MAX).contains(&self.devices),
            "--devices {}: must be from 1 to {DEVICES_MAX}",
            self.devices
        );
        ensure!(
            (0.01..=1e6).contains(&self.speed),
            "--speed {}: must be from 0.01 to 1000000",
            self.speed
        );
        ensure!(
            (0.0..=3600.0).contains(&self.spread),
            "--spread {}: must be from 0 to 3600 seconds",
            self.spread
        );
        ensure!(
            (1..=100).contains(&self.rounds),
            "--rounds {}: must be from 1 to 100",
            self.rounds
        );
        ensure!(self.mtu >= MTU_MIN, "--mtu {}: must be at least {MTU_MIN}", self.mtu);
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20)
                && (1 << 20..=1 << 40).contains(&self.image_bytes),
            "--image-bytes {}: must be whole MiB, from 1M to 1024G",
            self.image_bytes
        );
        Ok(())
    }

    /// The rounds, each with or without read-ahead: in turns, and the one that comes first changes, so that what the machine does
    /// beside it falls on both alike.
    #[must_use]
    pub fn schedule(&self) -> Vec<ReadAhead> {
        if self.rounds == 1 {
            return vec![self.read_ahead];
        }
        let (on, off) = (ReadAhead::On, ReadAhead::Off);
        (0..self.rounds).flat_map(|n| if n % 2 == 0 { [off, on] } else { [on, off] }).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        storm: StormArgs,
    }

    fn check(flags: &str) -> Result<StormArgs, String> {
        let line = Line::try_parse_from(
            ["storm", "--trace", "t.csv"].into_iter().chain(flags.split_whitespace()),
        );
        let args = line.map_err(|e| e.to_string())?.storm;
        args.check().map(|()| args).map_err(|e| e.to_string())
    }

    #[test]
    fn rounds_take_turns_and_one_round_is_what_was_asked_for() {
        use ReadAhead::{Off, On};
        assert_eq!(check("").unwrap().schedule(), [On]);
        assert_eq!(check("--read-ahead off").unwrap().schedule(), [Off]);
        assert_eq!(check("--rounds 3").unwrap().schedule(), [Off, On, On, Off, Off, On]);
    }

    #[test]
    fn every_refusal_names_the_flag() {
        for (flags, words) in [
            ("--devices 0", "--devices 0"),
            ("--devices 60000", "--devices 60000"),
            ("--speed 0", "--speed 0"),
            ("--speed NaN", "--speed NaN"),
            ("--spread=-1", "--spread -1"),
            ("--rounds 0", "--rounds 0"),
            ("--mtu 576", "--mtu 576"),
            ("--read-ahead maybe", "maybe"),
            ("--image-bytes 100", "--image-bytes 100"),
            ("--servers 127.0.0.1:1 --boot-limit 5", "--boot-limit"),
        ] {
            let error = check(flags).err().unwrap_or_default();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
