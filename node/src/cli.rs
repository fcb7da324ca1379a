//! The command line of `diskstream-node`: flags, their ranges, and what they mean together. Everything here is checked
//! before a file, a socket or memory is touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use diskstream_ring::HugePages;
use diskstream_wire::limits;

use crate::network::NetworkArgs;

/// Bytes of a node's name, at most: what the peer protocol carries.
pub const NAME_BYTES_MAX: usize = 32;

/// The version, and of which commit it was built ("development": a build for tests, which notes none).
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DISKSTREAM_COMMIT"), ")");

/// Streams vDisks to diskless devices.
#[derive(Debug, Parser)]
#[command(name = "diskstream-node", version = VERSION, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one image, or the vDisks that a farm file gives to this node.
    Serve(Box<ServeArgs>),
    /// Try everything on this machine: serve an image on loopback, attach a device, verify every byte.
    Quickstart(QuickstartArgs),
    /// Work on vDisk files.
    #[command(subcommand)]
    Vdisk(VdiskCommand),
    /// Move the devices of a running node to other nodes; then it ends, or with --stay goes into maintenance.
    Drain(DrainArgs),
    /// End a node's maintenance: it takes devices again.
    Resume(NodeAt),
    /// Even out sessions between a node and its peers, within the farm's storm guard.
    Rebalance(RebalanceArgs),
    /// Show the farm as a running node sees it.
    Status(StatusArgs),
    /// Watch a running node work: reads, bytes, hit rate, sessions, slowest devices.
    Top(TopArgs),
}

/// Which running node of this host is meant.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct NodeAt {
    /// Its name: the control socket is /run/diskstream/NAME.sock.
    #[arg(long)]
    pub name: Option<String>,
    /// Its control socket.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

impl NodeAt {
    /// The control socket.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match (&self.control, &self.name) {
            (Some(path), _) => path.clone(),
            (None, name) => crate::control::default_path(name.as_deref().unwrap_or_default()),
        }
    }
}

/// Flags of `drain`. It ends with 0 when every session has moved, with 2 when some were left at the deadline.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeAt,
    /// Maintenance: the node stays, answers logins for others, and is taken back by `resume`.
    #[arg(long)]
    pub stay: bool,
    /// Seconds until it gives up on devices that do not move [default: the node's --drain-seconds].
    #[arg(long)]
    pub seconds: Option<u32>,
}

/// Flags of `rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeAt,
    /// Only this vDisk [default: each].
    #[arg(long)]
    pub vdisk: Option<String>,
    /// Say what would be moved, and move nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeAt,
    /// One JSON object, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeAt,
    /// Show one second, and end.
    #[arg(long)]
    pub once: bool,
    /// One JSON object per second, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// Work on vDisk files.
#[derive(Debug, Subcommand)]
pub enum VdiskCommand {
    /// Compute an image's content id (what `b3sum` prints) and keep it beside the image.
    Hash {
        /// The image.
        image: PathBuf,
        /// Hash again even when the kept result still fits the file.
        #[arg(long)]
        rehash: bool,
    },
    /// Read whole images and compare every 64 KiB with the kept hashes. Ends with 2 when bytes are bad.
    Scrub {
        /// The images.
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
}

/// Flags of `quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// A raw disk image; a small demo image is made when none is given.
    pub image: Option<PathBuf>,
    /// End after the check instead of serving until Ctrl-C.
    #[arg(long)]
    pub once: bool,
}

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// A raw disk image to serve to any device (without a farm).
    #[arg(required_unless_present = "farm", conflicts_with = "farm")]
    pub image: Option<PathBuf>,
    /// The farm file: nodes, stores, vDisks, devices.
    #[arg(long, requires = "name")]
    pub farm: Option<PathBuf>,
    /// This node's name: in the farm file, or, with --key-file, among the nodes that --join each other.
    #[arg(long)]
    pub name: Option<String>,
    /// Address to listen at [default: 127.0.0.1; with --farm the node's address in the file; 0.0.0.0 is every IPv4 address, :: every IPv6 address].
    #[arg(long)]
    pub listen: Option<IpAddr>,
    /// Address that devices are told, where it differs (a translated or relayed address).
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    /// Let devices of any MAC in from other machines, without a key. Needed to serve an image beyond loopback.
    /// With --farm, the file says who is let in.
    #[arg(long, conflicts_with = "farm")]
    pub allow_any_mac: bool,
    /// UDP port of logins; 0 takes a free one.
    #[arg(long)]
    pub login_port: Option<u16>,
    /// UDP ports of the shards, one each: FIRST-LAST, or 0 for free ones.
    #[arg(long)]
    pub io_ports: Option<PortRange>,
    /// UDP port between nodes, of a node with a --name [default: the farm file's, else 6890]; 0 takes a free one.
    #[arg(long)]
    pub peer_port: Option<u16>,
    /// Join the farm of this node, ADDRESS or ADDRESS:PEER_PORT; may be given several times. Without a farm file; needs --name and --key-file.
    /// Such nodes know vDisks by the image's file name without its ending: give the same image the same name everywhere.
    #[arg(long, value_name = "ADDRESS", requires_all = ["name", "key_file"], conflicts_with_all = ["farm", "peers"])]
    pub join: Vec<JoinAddress>,
    /// Control socket of this node, for `diskstream-node drain`, `status` and so on; or off [default: /run/diskstream/NAME.sock; off
    /// without --name].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Address of metrics and health over HTTP, or off.
    #[arg(long, default_value = "127.0.0.1:54321")]
    pub http: HttpAt,
    /// Cores to run a shard on, such as 0,1 or 2-5 [default: every core that this process may use].
    #[arg(long)]
    pub cores: Option<CoreList>,
    /// Memory of the block cache.
    #[arg(long, default_value = "512M")]
    pub cache: Bytes,
    /// Huge pages of the block cache: auto, 2M, 1G or off.
    #[arg(long, default_value_t = HugePages::Auto)]
    pub huge_pages: HugePages,
    /// A cache block: 64K to 1M, a power of two. Each is checked against the content id, which has a hash for every 64K.
    #[arg(long, default_value = "64K")]
    pub block: Bytes,
    /// Read blocks ahead of devices that read in order.
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    pub read_ahead: OnOff,
    /// Remember beside each image what starting devices read of it, and load that when the first device comes after a start of the node.
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    pub warm_up: OnOff,
    /// Pin the image in the cache: load all of it at the start, and never evict a block of it. With --farm: cache_pinned of the vDisk.
    #[arg(long, conflicts_with = "farm")]
    pub cache_pinned: bool,
    /// Disk reads that each store (file system) is asked at once by all shards together, or auto: what the queue of its device holds; where it
    /// has none 12 for FUSE and 256 for others (NFS, btrfs). Each shard has its part, rounded down, but at least 1 and at most 256.
    #[arg(long, default_value = "auto")]
    pub store_depth: StoreDepth,
    /// Memory node of the cache: off (the kernel chooses), disk (the one of the images' disk), nic:INTERFACE, or a number.
    #[arg(long, default_value = "off")]
    pub numa_node: NumaNode,
    /// Submission entries of each ring, a power of two.
    #[arg(long, default_value_t = 1024)]
    pub ring_entries: u32,
    /// Receive buffers of each shard.
    #[arg(long, default_value_t = 1024)]
    pub receive_buffers: u16,
    /// Bytes that each socket is to buffer, both ways.
    #[arg(long, default_value = "4M")]
    pub socket_buffer: Bytes,
    /// How datagrams leave and come in.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Sessions that each shard has room for.
    #[arg(long, default_value_t = 8192)]
    pub sessions: u32,
    /// Devices that may boot at once; 0: no limit [default: the farm file's boot_limit, else 500].
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub boot_limit: Option<u32>,
    /// Seconds after which a node that was told to stop no longer waits for its devices.
    #[arg(long, default_value_t = 15)]
    pub drain_seconds: u32,
    /// Days in which every vDisk is read once from its disk and compared with its hashes; 0: never.
    #[arg(long, default_value_t = 30)]
    pub scrub_days: u32,
    /// Seconds from the start to the first scrub.
    #[arg(long, hide = true, default_value_t = 600)]
    pub scrub_delay: u32,
    /// File of the farm key (32 bytes, or 64 hexadecimal digits), so that tickets outlive this process [default: with --farm
    /// the file that it names; else a key of this process].
    #[arg(long)]
    pub key_file: Option<PathBuf>,
    /// More nodes that serve the same image, ADDRESS:LOGIN_PORT each, for devices to move to. They need the same key file. Nodes that
    /// are to know each other's load and state use --join instead.
    #[arg(long, value_delimiter = ',', requires = "key_file", conflicts_with = "farm")]
    pub peers: Vec<SocketAddr>,
    /// Hash the image again even when the kept content id still fits the file.
    #[arg(long)]
    pub rehash: bool,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl OnOff {
    /// Whether it is.
    #[must_use]
    pub fn is_on(self) -> bool {
        self == OnOff::On
    }
}

impl fmt::Display for OnOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "on" } else { "off" })
    }
}

/// How many reads a store is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreDepth {
    /// What its device's queue holds.
    Auto,
    /// So many.
    Is(u16),
}

impl FromStr for StoreDepth {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreDepth, String> {
        if text == "auto" {
            return Ok(StoreDepth::Auto);
        }
        let depth = text.parse().ok().filter(|&depth| depth > 0).map(StoreDepth::Is);
        depth
            .ok_or_else(|| format!("'{text}' is no depth: write a number from 1 to 65535, or auto"))
    }
}

impl fmt::Display for StoreDepth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreDepth::Auto => f.write_str("auto"),
            StoreDepth::Is(depth) => write!(f, "{depth}"),
        }
    }
}

/// Which memory node the cache is to lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumaNode {
    /// Whichever the kernel chooses.
    Off,
    /// The one of the disk with the images.
    Disk,
    /// The one of this network interface.
    Nic(String),
    /// This one.
    Is(u32),
}

impl FromStr for NumaNode {
    type Err = String;

    fn from_str(text: &str) -> Result<NumaNode, String> {
        let bad = || {
            format!(
                "'{text}' is no memory node: write off, disk, nic:INTERFACE, or a number from 0 to 1023"
            )
        };
        match text {
            "off" => Ok(NumaNode::Off),
            "disk" => Ok(NumaNode::Disk),
            _ => match text.strip_prefix("nic:") {
                Some("") => Err(bad()),
                Some(name) => Ok(NumaNode::Nic(name.to_owned())),
                None => {
                    text.parse().ok().filter(|&node| node < 1024).map(NumaNode::Is).ok_or_else(bad)
                }
            },
        }
    }
}

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NumaNode::Off => f.write_str("off"),
            NumaNode::Disk => f.write_str("disk"),
            NumaNode::Nic(name) => write!(f, "nic:{name}"),
            NumaNode::Is(node) => write!(f, "{node}"),
        }
    }
}

/// A number of bytes: digits and an optional K, M, G or T (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let bad = || format!("'{text}' is no size: write a number and K, M, G or T, such as 512M");
        let (digits, shift) = match text.bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            Some(b'T' | b't') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Bytes).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, letter) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{letter}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// The ports of the shards: an inclusive range, or free ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// Any free port for each shard.
    Free,
    /// First and last port.
    Fixed(u16, u16),
}

impl PortRange {
    /// How many shards find a port.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            PortRange::Free => usize::from(u16::MAX),
            PortRange::Fixed(first, last) => usize::from(last - first) + 1,
        }
    }

    /// The port of a shard; 0 for a free one.
    #[must_use]
    pub fn port(&self, shard: u16) -> u16 {
        match self {
            PortRange::Free => 0,
            PortRange::Fixed(first, _) => first + shard,
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        if text == "0" {
            return Ok(PortRange::Free);
        }
        let bad =
            || format!("'{text}' is no port range: write FIRST-LAST, such as 6911-6930, or 0");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: u16 = first.trim().parse().map_err(|_| bad())?;
        let last: u16 = last.trim().parse().map_err(|_| bad())?;
        if first == 0 || last < first { Err(bad()) } else { Ok(PortRange::Fixed(first, last)) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRange::Free => f.write_str("0"),
            PortRange::Fixed(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Where a node of the farm hears its peers: an address, and a port where it is not the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinAddress(pub SocketAddr);

impl FromStr for JoinAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<JoinAddress, String> {
        let alone = |ip: IpAddr| SocketAddr::new(ip, limits::PEER_PORTS.0);
        text.parse()
            .or_else(|_| text.parse().map(alone))
            .map(JoinAddress)
            .map_err(|_| format!("'{text}' is no ADDRESS or ADDRESS:PORT, such as 10.0.0.1:6890"))
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAt {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for HttpAt {
    type Err = String;

    fn from_str(text: &str) -> Result<HttpAt, String> {
        if text == "off" {
            return Ok(HttpAt::Off);
        }
        text.parse()
            .map(HttpAt::At)
            .map_err(|_| format!("'{text}' is no ADDRESS:PORT; write 127.0.0.1:54321, or off"))
    }
}

impl fmt::Display for HttpAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpAt::Off => f.write_str("off"),
            HttpAt::At(addr) => write!(f, "{addr}"),
        }
    }
}

/// Cores by number: `0,1`, `2-5`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<CoreList, String> {
        let bad = || format!("'{text}' is no list of cores: write 0,1 or 2-5");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| bad())?;
            let last: usize = last.trim().parse().map_err(|_| bad())?;
            if last < first || last > 1023 {
                return Err(bad());
            }
            cores.extend(first..=last);
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == cores.len() {
            Ok(CoreList(cores))
        } else {
            Err(format!("'{text}' names a core twice"))
        }
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, core) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{core}")?;
        }
        Ok(())
    }
}

impl ServeArgs {
    /// What no single flag can tell: whether the flags fit together.
    ///
    /// # Errors
    /// One line that names the flag, the value and the remedy.
    pub fn check(&self) -> Result<(), String> {
        self.check_name()?;
        let block = self.block.0;
        if !block.is_power_of_two() || !(64 << 10..=1 << 20).contains(&block) {
            return Err(format!("--block {}: must be a power of two from 64K to 1M", self.block));
        }
        if self.cache.0 < 16 * block {
            return Err(format!(
                "--cache {}: too small for blocks of {}; give at least {}",
                self.cache,
                self.block,
                Bytes(16 * block)
            ));
        }
        if self.cache.0 > 1 << 44 {
            return Err(format!("--cache {}: more than any host has; at most 16T", self.cache));
        }
        if !self.ring_entries.is_power_of_two() || !(64..=32_768).contains(&self.ring_entries) {
            return Err(format!(
                "--ring-entries {}: must be a power of two from 64 to 32768",
                self.ring_entries
            ));
        }
        if !self.receive_buffers.is_power_of_two() || !(16..=32_768).contains(&self.receive_buffers)
        {
            return Err(format!(
                "--receive-buffers {}: must be a power of two from 16 to 32768",
                self.receive_buffers
            ));
        }
        if !(64 << 10..=1 << 30).contains(&self.socket_buffer.0) {
            return Err(format!("--socket-buffer {}: must be from 64K to 1G", self.socket_buffer));
        }
        if !(1..=1 << 20).contains(&self.sessions) {
            return Err(format!("--sessions {}: must be from 1 to 1048576", self.sessions));
        }
        if self.peers.len() >= limits::NODES_MAX {
            return Err(format!("--peers: at most {} besides this node", limits::NODES_MAX - 1));
        }
        self.check_exposure()
    }

    /// A name is for a farm: of a file, or of nodes that share a key.
    fn check_name(&self) -> Result<(), String> {
        let Some(name) = &self.name else { return Ok(()) };
        if self.farm.is_none() && self.key_file.is_none() {
            return Err(
                "--name says which node of a farm this is; add --farm FILE, or --key-file FILE (and --join) to make a farm without \
                 a file, or leave it out"
                    .to_owned(),
            );
        }
        if self.farm.is_none() && !self.peers.is_empty() {
            return Err("--peers names nodes that this one never hears of; with --name use --join"
                .to_owned());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || !name.chars().all(plain)
            || name.starts_with('.')
        {
            return Err(format!(
                "--name {name}: 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.' (not first)"
            ));
        }
        Ok(())
    }

    /// Serving an image to anybody is only done on loopback, or when the operator says so.
    fn check_exposure(&self) -> Result<(), String> {
        let listen = self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if self.image.is_some() && !listen.is_loopback() && !self.allow_any_mac {
            return Err(format!(
                "--listen {listen}: serving an image admits any MAC without a key; add --allow-any-mac to do that \
                 beyond loopback, or describe the devices in a farm file and use --farm"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(flags: &[&str]) -> Result<ServeArgs, String> {
        let all = ["diskstream-node", "serve"].iter().chain(flags);
        match Cli::try_parse_from(all).map_err(|e| e.to_string())?.command {
            Command::Serve(args) => args.check().map(|()| *args),
            other => Err(format!("parsed as {other:?}")),
        }
    }

    #[test]
    fn the_command_lines_of_the_issue_parse() {
        serve(&[
            "disk.img",
            "--listen",
            "127.0.0.1",
            "--login-port",
            "6910",
            "--io-ports",
            "6911-6930",
            "--peer-port",
            "6890",
            "--http",
            "127.0.0.1:54321",
            "--cores",
            "0,1",
            "--cache",
            "512M",
            "--huge-pages",
            "auto",
            "--block",
            "64K",
        ])
        .unwrap();
        serve(&["disk.img"]).unwrap();
        serve(&["--farm", "farm.toml", "--name", "n1"]).unwrap();
    }

    #[test]
    fn every_refusal_names_flag_and_remedy() {
        let cases: &[(&[&str], &str)] = &[
            (&["disk.img", "--block", "48K"], "--block 48K: must be a power of two"),
            (&["disk.img", "--block", "32K"], "from 64K to 1M"),
            (&["disk.img", "--name", "n1"], "--farm"),
            (&["disk.img", "--cache", "64K"], "give at least 1M"),
            (&["disk.img", "--cache", "lots"], "'lots' is no size"),
            (&["disk.img", "--huge-pages", "4M"], "huge"),
            (&["disk.img", "--cores", "0,0"], "names a core twice"),
            (&["disk.img", "--cores", "x"], "is no list of cores"),
            (&["disk.img", "--io-ports", "7-6"], "is no port range"),
            (&["disk.img", "--listen", "0.0.0.0"], "--allow-any-mac"),
            (&["disk.img", "--http", "nowhere"], "is no ADDRESS:PORT"),
            (&["disk.img", "--farm", "farm.toml", "--name", "n1"], "cannot be used with"),
            (&["--farm", "f", "--name", "a", "--allow-any-mac"], "cannot be used with"),
            (&["--farm", "f", "--name", "a", "--cache-pinned"], "cannot be used with"),
            (
                &["--farm", "f", "--name", "a", "--key-file", "k", "--peers", "127.0.0.1:1"],
                "cannot be used with",
            ),
            (&["--farm", "farm.toml"], "--name"),
            (&[], "IMAGE"),
            (&["disk.img", "--peers", "127.0.0.1:1"], "--key-file"),
            (&["disk.img", "--join", "127.0.0.1"], "--name"),
            (&["disk.img", "--join", "here", "--name", "a", "--key-file", "k"], "is no ADDRESS"),
            (
                &["disk.img", "--name", "a", "--key-file", "k", "--peers", "127.0.0.1:1"],
                "use --join",
            ),
            (&["--farm", "f", "--name", "../../etc/x"], "letters, digits"),
        ];
        for (flags, words) in cases {
            let error = serve(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?} gave: {error}");
        }
    }

    #[test]
    fn a_node_to_join_is_an_address_with_or_without_a_port() {
        let at = |text: &str| text.parse::<JoinAddress>().map(|at| at.0.to_string());
        assert_eq!(at("10.0.0.1").as_deref(), Ok("10.0.0.1:6890"));
        assert_eq!(at("10.0.0.1:7000").as_deref(), Ok("10.0.0.1:7000"));
        assert_eq!(at("fe80::1").as_deref(), Ok("[fe80::1]:6890"));
        assert_eq!(at("[fe80::1]:7000").as_deref(), Ok("[fe80::1]:7000"));
        serve(&["disk.img", "--name", "b", "--key-file", "k", "--join", "10.0.0.1"]).unwrap();
    }

    #[test]
    fn sizes_read_and_print_alike() {
        for text in ["4K", "512M", "1G", "3T", "1000"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert!("99999999999T".parse::<Bytes>().is_err());
        assert!("".parse::<Bytes>().is_err());
    }
}
