//! Flags of `peers`.

use anyhow::ensure;
use diskstream_device::session::MTU_MIN;

use super::loads::Load;
use super::servers::Peer;
use crate::flags::within;
use crate::read::parse_size;

/// Compare our node with other servers of disk images, on the same image and under the same loads, in turns.
#[derive(Clone, Debug, clap::Args)]
pub struct PeersArgs {
    /// Peers to compare with, by comma [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// Loads, by comma [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub loads: Vec<Load>,
    /// Times that everything is measured, in turns.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Length of each measurement, after a ramp of half a second.
    #[arg(long, default_value_t = 1.5)]
    pub seconds: f64,
    /// Largest IP packet of our devices' link; with several, our node is measured with each, and the ratios are the first one's.
    /// Stream peers have the loopback interface's own.
    #[arg(long, value_delimiter = ',', default_values_t = [1500, 9000])]
    pub mtu: Vec<u16>,
    /// Reads per second of the open loop [default: half of what our node reaches with 64 devices, 16 reads outstanding each].
    #[arg(long)]
    pub rate: Option<u32>,
    /// Bytes of the image that is made.
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub image_bytes: u64,
    /// Compare every byte that arrives. Without it each unit's stamp, and of the peers' reads one in 64 whole.
    #[arg(long)]
    pub verify: bool,
    /// Seed of the image and of random offsets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON object to this file.
    #[arg(long)]
    pub report: Option<std::path::PathBuf>,
    /// Folder for pictures (SVG): the table as bars, latencies under each load, throughput over connections.
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<std::path::PathBuf>,
    /// Do not pin servers and load to cores.
    #[arg(long)]
    pub no_pin: bool,
}

impl PeersArgs {
    /// What no single flag can tell, before anything is made or opened.
    pub fn check(&self) -> anyhow::Result<()> {
        within("--rounds", self.rounds, 1..=100)?;
        within("--seconds", self.seconds, 0.1..=600.0)?;
        ensure!((1..=4).contains(&self.mtu.len()), "--mtu: must name one to four");
        for mtu in &self.mtu {
            ensure!(*mtu >= MTU_MIN, "--mtu {mtu}: must be at least {MTU_MIN}");
        }
        ensure!(self.rate != Some(0), "--rate 0: must be at least 1 read/s");
        ensure!(
            self.image_bytes.is_multiple_of(1 << 20)
                && ((64 << 20)..=(1 << 36)).contains(&self.image_bytes),
            "--image-bytes {}: must be whole MiB, from 64M to 64G",
            self.image_bytes
        );
        Ok(())
    }

    /// The peers, in the order in which they take turns.
    pub fn peers(&self) -> Vec<Peer> {
        let all = <Peer as clap::ValueEnum>::value_variants();
        let wanted = |peer: &&Peer| self.peers.is_empty() || self.peers.contains(peer);
        all.iter().filter(wanted).copied().collect()
    }

    /// The loads, in their order.
    pub fn loads(&self) -> Vec<Load> {
        let wanted = |load: &Load| self.loads.is_empty() || self.loads.contains(load);
        Load::ALL.into_iter().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        peers: PeersArgs,
    }

    fn check(flags: &[&str]) -> Result<PeersArgs, String> {
        let line = Line::try_parse_from(std::iter::once(&"peers").chain(flags));
        let args = line.map_err(|e| e.to_string())?.peers;
        args.check().map(|()| args).map_err(|e| e.to_string())
    }

    #[test]
    fn loads_and_peers_are_chosen_and_keep_their_order() {
        let args =
            check(&["--loads", "1m,4k_64", "--peers", "tgt,nbdkit-t1", "--mtu", "9000"]).unwrap();
        assert_eq!(args.loads(), [Load::Small64, Load::Large]);
        assert_eq!(args.peers(), [Peer::NbdkitT1, Peer::Tgt]);
        let all = check(&[]).unwrap();
        assert_eq!((all.loads().len(), all.peers().len(), all.mtu), (8, 7, vec![1500, 9000]));
    }

    #[test]
    fn every_refusal_names_the_flag() {
        for (flags, words) in [
            (&["--rounds", "0"][..], "--rounds 0"),
            (&["--seconds", "NaN"], "--seconds NaN"),
            (&["--mtu", "500"], "--mtu 500"),
            (&["--rate", "0"], "--rate 0"),
            (&["--image-bytes", "1M"], "--image-bytes"),
            (&["--loads", "5k"], "5k"),
            (&["--peers", "nfs"], "nfs"),
        ] {
            let error = check(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }
}
