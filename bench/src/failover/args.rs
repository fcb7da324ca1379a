//! Flags of `failover`, and what they mean together.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::ensure;
use clap::ValueEnum;
use diskstream_device::session::limits::READ_CALL_BYTES_MAX;
use diskstream_wire::Nanos;
use diskstream_wire::limits::UNIT_BYTES;

use crate::flags::within;
use crate::net::Impairment;
use crate::read::parse_size;

/// Devices at most: a socket each, in one ring.
const DEVICES_MAX: u16 = 16_000;
/// Nodes at most: as many as a device's node list holds.
const NODES_MAX: usize = diskstream_wire::limits::NODES_MAX;

/// What happens to node 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is told to stop (SIGTERM), and hands its devices over.
    Stop,
    /// It is gone at once (SIGKILL).
    Kill,
    /// Its network interface goes down.
    Cut,
    /// It stops running (SIGSTOP), and goes on after 10 s where the run is that long.
    Pause,
    /// Nothing: whatever moves, moves without need.
    None,
}

impl Mode {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Stop => "stop",
            Mode::Kill => "kill",
            Mode::Cut => "cut",
            Mode::Pause => "pause",
            Mode::None => "none",
        }
    }
}

/// A share of datagrams: 0.05, 5 and 5% all mean five of a hundred. What is below 1 is a share, all else percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let bad = || format!("'{text}' is no share of datagrams: write 0.05, or 5%");
        let (digits, percent) = text.strip_suffix('%').map_or((text, false), |t| (t, true));
        let number: f64 = digits.trim().parse().map_err(|_| bad())?;
        let share = if percent || number >= 1.0 { number / 100.0 } else { number };
        if (0.0..1.0).contains(&share) { Ok(Share(share)) } else { Err(bad()) }
    }
}

/// Where nodes and devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Namespaces where something needs them: cut, loss, delay, a packet filter. Else loopback.
    Auto,
    /// Addresses of 127.0.0.0/8.
    Loopback,
    /// A network namespace for each node and one for the fleet.
    Namespaces,
}

/// Flags of `failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct FailoverArgs {
    /// Devices, all on node 1 at first.
    #[arg(long, default_value_t = 1000)]
    pub devices: u16,
    /// Nodes, each a process with an address of its own.
    #[arg(long, default_value_t = 2)]
    pub nodes: usize,
    /// What happens to node 1.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// Length of the measurement; what happens, happens in its middle.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Share of datagrams that are lost, in each direction: 0.05, 5 and 5% mean the same.
    #[arg(long, default_value = "0")]
    pub loss: Share,
    /// Delay of each datagram, in each direction: uniform from 0 to this many milliseconds; later ones may overtake.
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u32,
    /// A packet filter drops the notices that nodes send to the devices' notice port.
    #[arg(long)]
    pub block_notice_port: bool,
    /// Where nodes and devices are.
    #[arg(long, value_enum, default_value_t = Network::Auto)]
    pub network: Network,
    /// After a kill let the kernel answer for the dead node (ICMP port unreachable), instead of silence.
    #[arg(long)]
    pub refusals: bool,
    /// Devices do not read.
    #[arg(long)]
    pub idle: bool,
    /// Leave the nodes' caches cold: what a device reads elsewhere then comes from that node's disk.
    #[arg(long)]
    pub cold: bool,
    /// Every node is killed or stopped, not only node 1, and started again later; how soon do devices read again?
    #[arg(long)]
    pub all: bool,
    /// With --all: nodes are started again after this.
    #[arg(long, default_value_t = 30)]
    pub gone_seconds: u32,
    /// The last node's copy of the image differs by one byte: no device may go there.
    #[arg(long)]
    pub odd_node: bool,
    /// With --mode none: a stranger off the path sends so many forged datagrams: notices, data, closes, logins, peers' messages,
    /// ICMP errors.
    #[arg(long, default_value_t = 0)]
    pub forged: u64,
    /// How many of them per second. Measured: at 50,000 the two cores that nodes and fleet have are full, and with a neighbour what
    /// is measured is the wait for them.
    #[arg(long, default_value_t = 25_000)]
    pub forged_per_second: u64,
    /// Reads per second of all devices together.
    #[arg(long, default_value_t = 20_000)]
    pub rate: u64,
    /// Bytes of a read: whole units of 4K.
    #[arg(long, default_value = "4K", value_parser = parse_size)]
    pub size: u64,
    /// Bytes of the image that is made.
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    pub image_bytes: u64,
    /// Seed of image, offsets, losses and delays.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Do not pin nodes and fleet to cores.
    #[arg(long)]
    pub no_pin: bool,
    /// Folder for a log of each node.
    #[arg(long)]
    pub logs: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// File for a report with the time series, as JSON.
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// File for a plot of reads per second over time, as SVG.
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

impl FailoverArgs {
    /// What no single flag can tell, before anything is made or started.
    ///
    /// # Errors
    /// The flag, its value and what it must be.
    pub fn check(&self) -> anyhow::Result<()> {
        within("--devices", self.devices, 1..=DEVICES_MAX)?;
        within("--nodes", self.nodes, 1..=NODES_MAX)?;
        within("--seconds", self.seconds, 1.0..=86_400.0)?;
        within("--rate", self.rate, 1..=1_000_000)?;
        ensure!(
            self.size > 0
                && self.size.is_multiple_of(UNIT_BYTES as u64)
                && self.size <= READ_CALL_BYTES_MAX as u64,
            "--size {}: must be whole units of {UNIT_BYTES}, up to {}M",
            self.size,
            READ_CALL_BYTES_MAX >> 20
        );
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20)
                && self.image_bytes >= (16 << 20).max(self.size)
                && self.image_bytes <= 1 << 40,
            "--image-bytes {}: must be whole MiB, from 16M (and one read) to 1024G",
            self.image_bytes
        );
        ensure!(
            !self.refusals || self.mode == Mode::Kill,
            "--refusals: only a killed node's kernel refuses; use it with --mode kill"
        );
        ensure!(
            !self.all || (matches!(self.mode, Mode::Kill | Mode::Stop) && !self.in_namespaces()),
            "--all: nodes end with --mode kill or stop, on loopback"
        );
        within("--gone-seconds", self.gone_seconds, 1..=3600)?;
        ensure!(
            !self.odd_node || self.nodes >= 2,
            "--odd-node: needs a node beside it; use it with --nodes 2 or more"
        );
        self.check_forged()?;
        ensure!(self.jitter_ms <= 1000, "--jitter-ms {}: must be at most 1000", self.jitter_ms);
        ensure!(
            self.network != Network::Loopback || !self.needs_namespaces(),
            "--network loopback: there is nothing to cut, filter or delay there; --mode cut, --loss, --jitter-ms, \
             --block-notice-port and --forged need namespaces"
        );
        Ok(())
    }

    fn check_forged(&self) -> anyhow::Result<()> {
        ensure!(
            self.forged == 0 || (self.mode == Mode::None && !self.block_notice_port),
            "--forged: forgeries must change nothing, and that shows where nothing else happens; use it with --mode none \
             alone"
        );
        within("--forged-per-second", self.forged_per_second, 1..=1_000_000)?;
        let seconds = self.forged.div_ceil(self.forged_per_second);
        ensure!(
            self.length() >= Nanos::from_secs(seconds),
            "--forged {}: takes {seconds} s at {} per second; give at least so many --seconds",
            self.forged,
            self.forged_per_second
        );
        Ok(())
    }

    fn needs_namespaces(&self) -> bool {
        self.mode == Mode::Cut
            || self.block_notice_port
            || self.forged > 0
            || !self.impairment().is_none()
    }

    /// Whether nodes and fleet get namespaces.
    #[must_use]
    pub fn in_namespaces(&self) -> bool {
        self.network == Network::Namespaces || self.needs_namespaces()
    }

    /// What the network does to datagrams.
    #[must_use]
    pub fn impairment(&self) -> Impairment {
        Impairment { loss: self.loss.0, jitter_ms: self.jitter_ms }
    }

    /// The measurement's length.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of seconds below 86,401, as checked"
    )]
    pub fn length(&self) -> Nanos {
        Nanos((self.seconds * 1e9) as u64)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FailoverArgs,
    }

    fn check(flags: &str) -> Result<FailoverArgs, String> {
        let words = std::iter::once("failover").chain(flags.split_whitespace());
        let args = Line::try_parse_from(words).map_err(|e| e.to_string())?.args;
        args.check().map(|()| args).map_err(|e| e.to_string())
    }

    #[test]
    fn shares_are_read_in_both_spellings() {
        for (text, share) in
            [("0.05", 0.05), ("5", 0.05), ("5%", 0.05), ("0.5%", 0.005), ("0", 0.0)]
        {
            let read: Share = text.parse().unwrap();
            assert!((read.0 - share).abs() < 1e-12, "{text} gave {read:?}");
        }
        for bad in ["", "x", "-1", "100", "100%", "nan", "inf"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_refusal_names_the_flag() {
        assert!(check("--mode kill").is_ok());
        assert!(check("--mode stop --devices 4000 --nodes 3 --seconds 30 --json").is_ok());
        for (flags, words) in [
            ("", "--mode"),
            ("--mode burn", "burn"),
            ("--mode kill --devices 0", "--devices 0"),
            ("--mode kill --nodes 0", "--nodes 0"),
            ("--mode kill --nodes 99", "--nodes 99"),
            ("--mode kill --seconds 0", "--seconds 0"),
            ("--mode kill --seconds NaN", "--seconds NaN"),
            ("--mode kill --size 100", "--size 100"),
            ("--mode kill --image-bytes 1M", "--image-bytes"),
            ("--mode kill --rate 0", "--rate 0"),
            ("--mode stop --refusals", "--refusals"),
            ("--mode cut --all", "--all"),
            ("--mode kill --all --loss 1", "--all"),
            ("--mode kill --all --gone-seconds 0", "--gone-seconds 0"),
            ("--mode kill --nodes 1 --odd-node", "--odd-node"),
            ("--mode cut --network loopback", "--network loopback"),
            ("--mode kill --forged 10", "--forged"),
            ("--mode none --forged 10 --forged-per-second 0", "--forged-per-second 0"),
            ("--mode none --forged 1000000 --seconds 39", "40 s"),
            ("--mode none --forged 1 --network loopback", "--network loopback"),
            ("--mode kill --loss 0.1 --network loopback", "--network loopback"),
            ("--mode kill --loss 100", "no share"),
            ("--mode kill --jitter-ms 5000", "--jitter-ms 5000"),
        ] {
            let error = check(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
