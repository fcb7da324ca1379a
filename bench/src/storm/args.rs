//! Flags of `storm`, and what they mean together.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::ensure;
use clap::ValueEnum;
use diskstream_device::session::MTU_MIN;

use crate::flags::within;
use crate::read::parse_size;

/// Devices at most: a socket each, in one ring.
const DEVICES_MAX: u16 = 16_000;

/// On or off, as flags of nodes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

impl Switch {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Switch::On => "on",
            Switch::Off => "off",
        }
    }
}

/// What the node of a storm knows of earlier boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// Nothing, and it does not want to.
    Off,
    /// Nothing, and it writes down what this storm reads.
    Recorded,
    /// What the storm before has read; its cache is empty all the same.
    Used,
}

/// How the node of a storm is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Kind {
    /// It reads ahead.
    pub read_ahead: Switch,
    /// What it knows of earlier boots.
    pub warm_up: WarmUp,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = match self.warm_up {
            WarmUp::Off => "",
            WarmUp::Recorded => ", boots recorded",
            WarmUp::Used => ", warmed up",
        };
        write!(f, "read-ahead {}{known}", self.read_ahead.name())
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
    #[arg(long, value_enum, default_value_t = Switch::On, conflicts_with = "servers")]
    pub read_ahead: Switch,
    /// Storm twice, each time from an empty cache: the node of the first remembers what is read, the node of the second loads that in the
    /// background as soon as the first device is in. The report is of the second, with the gain over the first.
    #[arg(long, value_enum, default_value_t = Switch::Off, conflicts_with = "servers")]
    pub warm_up: Switch,
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
        within("--devices", self.devices, 1..=DEVICES_MAX)?;
        within("--speed", self.speed, 0.01..=1e6)?;
        within("--spread", self.spread, 0.0..=3600.0)?;
        within("--rounds", self.rounds, 1..=100)?;
        ensure!(self.mtu >= MTU_MIN, "--mtu {}: must be at least {MTU_MIN}", self.mtu);
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20)
                && (1 << 20..=1 << 40).contains(&self.image_bytes),
            "--image-bytes {}: must be whole MiB, from 1M to 1024G",
            self.image_bytes
        );
        Ok(())
    }

    /// The kind of storm that the report's own figures are of.
    #[must_use]
    pub fn asked(&self) -> Kind {
        let warm_up = if self.warm_up == Switch::On { WarmUp::Used } else { WarmUp::Off };
        Kind { read_ahead: self.read_ahead, warm_up }
    }

    /// The storms. Rounds are with and without read-ahead in turns, and the one that comes first changes, so that what the machine
    /// does beside it falls on both alike. With warm-up there are two each time: what the first has read, the second one's node knows.
    #[must_use]
    pub fn schedule(&self) -> Vec<Kind> {
        let warm_ups: &[WarmUp] = match self.warm_up {
            Switch::On => &[WarmUp::Recorded, WarmUp::Used],
            Switch::Off => &[WarmUp::Off],
        };
        let with = |read_ahead| warm_ups.iter().map(move |&warm_up| Kind { read_ahead, warm_up });
        if self.rounds == 1 {
            return with(self.read_ahead).collect();
        }
        let (on, off) = (Switch::On, Switch::Off);
        let orders = (0..self.rounds).map(|n| if n % 2 == 0 { [off, on] } else { [on, off] });
        orders.flatten().flat_map(with).collect()
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
        use Switch::{Off, On};
        let of = |flags| -> Vec<Switch> {
            check(flags).unwrap().schedule().iter().map(|kind| kind.read_ahead).collect()
        };
        assert_eq!(of(""), [On]);
        assert_eq!(of("--read-ahead off"), [Off]);
        assert_eq!(of("--rounds 3"), [Off, On, On, Off, Off, On]);
    }

    #[test]
    fn with_warm_up_each_storm_follows_one_that_is_recorded() {
        use WarmUp::{Recorded, Used};
        let args = check("--warm-up on --rounds 2").unwrap();
        let order: Vec<_> = args.schedule().iter().map(|kind| kind.warm_up).collect();
        assert_eq!(order, [Recorded, Used, Recorded, Used, Recorded, Used, Recorded, Used]);
        assert_eq!(args.schedule().last(), Some(&Kind { read_ahead: Switch::Off, warm_up: Used }));
        let one = check("--warm-up on --read-ahead off").unwrap();
        assert_eq!((one.schedule().len(), one.schedule()[1]), (2, one.asked()));
        assert_eq!(check("").unwrap().asked().warm_up, WarmUp::Off);
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
            ("--servers 127.0.0.1:1 --warm-up on", "--warm-up"),
        ] {
            let error = check(flags).err().unwrap_or_default();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
