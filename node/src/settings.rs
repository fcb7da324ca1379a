//! What a node is to do, resolved from flags and farm file: one value each, checked, nothing left to guess.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use diskstream_ring::{HugePages, pin};
use diskstream_wire::limits::{IO_PORTS, LOGIN_PORT};
use diskstream_wire::{NodeEntry, limits};

use crate::cli::{Bytes, HttpAt, NumaNode, PortRange, ServeArgs, StoreDepth};
use crate::farm::{BOOT_LIMIT_DEFAULT, Farm};
use crate::network::NetworkArgs;
use crate::shard::{Limits, SHARDS_MAX};
use crate::trust::FarmKey;

/// A vDisk to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskSetting {
    /// Its name.
    pub name: String,
    /// Its image; none when this node does not have the store.
    pub path: Option<PathBuf>,
    /// Whether all of it stays in the cache.
    pub kept: bool,
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAt {
    /// Nowhere.
    Off,
    /// Where the operator said: it must be had.
    At(PathBuf),
    /// At the usual place, if it can be had.
    Usual(PathBuf),
}

/// Where the farm comes from.
#[derive(Clone, Debug)]
enum Origin {
    Image { image: PathBuf, peers: Vec<SocketAddr>, name: Option<String> },
    File { path: PathBuf, name: String },
}

/// Everything that a node is to do.
pub struct Settings {
    origin: Origin,
    /// Address to bind.
    pub listen: IpAddr,
    /// Address that devices are told instead.
    pub advertise: Option<IpAddr>,
    /// UDP port of logins; 0: free.
    pub login_port: u16,
    /// UDP ports of the shards.
    pub io_ports: PortRange,
    /// UDP port between nodes; none: there are none to speak to.
    pub peer_port: Option<u16>,
    /// Nodes to ask for the farm, by their peer port.
    pub join: Vec<SocketAddr>,
    /// Where the control socket is.
    pub control: ControlAt,
    /// Where metrics are served.
    pub http: HttpAt,
    /// Core of each shard.
    pub cores: Vec<usize>,
    /// Bytes of the cache, whole blocks.
    pub cache_bytes: usize,
    /// Pages of the cache.
    pub huge_pages: HugePages,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Whether what boots read is remembered and read ahead.
    pub warm_up: bool,
    /// Disk reads of one store at once.
    pub store_depth: StoreDepth,
    /// Memory node of the cache.
    pub numa_node: NumaNode,
    /// Entries of each ring.
    pub ring_entries: u32,
    /// Receive buffers of each shard.
    pub receive_buffers: u16,
    /// Bytes that each socket is to buffer.
    pub socket_buffer_bytes: usize,
    /// How datagrams leave and come in.
    pub network: NetworkArgs,
    /// Devices that may boot at once.
    pub boot_limit: u32,
    /// Patience of a drain in seconds.
    pub drain_seconds: u32,
    /// Days in which every vDisk is scrubbed once; 0: never.
    pub scrub_days: u32,
    /// Seconds until the first scrub.
    pub scrub_delay: u32,
    /// Whether to hash images again.
    pub rehash: bool,
    /// The vDisks, in the farm's order.
    pub vdisks: Vec<VdiskSetting>,
    /// Whether one vDisk that cannot be opened keeps the node from starting.
    pub every_vdisk_needed: bool,
    /// The key that seals tickets and cookies.
    pub farm_key: FarmKey,
    /// Where that key is from, for the log.
    key_origin: String,
    /// Sizes of the machines.
    pub limits: Limits,
    others: Vec<NodeEntry>,
    admission: String,
}

impl Settings {
    /// Resolves flags, and the farm file where there is one. Opens no socket and maps no memory.
    ///
    /// # Errors
    /// One line that names the flag or the file, the value and the remedy.
    pub fn resolve(args: &ServeArgs) -> anyhow::Result<Settings> {
        let cores = resolve_cores(args)?;
        if let (Some(port), None) = (args.peer_port, &args.name) {
            tracing::warn!(
                "--peer-port {port} does nothing: a node without a --name knows no other node"
            );
        }
        let limits = Limits {
            sessions_max: args.sessions,
            read_ahead: args.read_ahead.is_on(),
            ..Limits::default()
        };
        limits.check().context("--sessions")?;
        let cache_bytes = args.cache.0 - args.cache.0 % args.block.0;
        let mut settings = Settings {
            origin: origin(args)?,
            listen: args.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            advertise: args.advertise,
            login_port: args.login_port.unwrap_or(LOGIN_PORT),
            io_ports: args.io_ports.unwrap_or(PortRange::Fixed(IO_PORTS.0, IO_PORTS.1)),
            peer_port: args.name.is_some().then(|| args.peer_port.unwrap_or(limits::PEER_PORTS.0)),
            join: args.join.iter().map(|at| at.0).collect(),
            control: control_at(args),
            http: args.http,
            cores,
            cache_bytes: usize::try_from(cache_bytes).context("--cache")?,
            huge_pages: args.huge_pages,
            block_bytes: usize::try_from(args.block.0).context("--block")?,
            warm_up: args.warm_up.is_on(),
            store_depth: args.store_depth,
            numa_node: args.numa_node.clone(),
            ring_entries: args.ring_entries,
            receive_buffers: args.receive_buffers,
            socket_buffer_bytes: usize::try_from(args.socket_buffer.0)
                .context("--socket-buffer")?,
            network: args.network,
            boot_limit: args.boot_limit.unwrap_or(BOOT_LIMIT_DEFAULT),
            drain_seconds: args.drain_seconds,
            scrub_days: args.scrub_days,
            scrub_delay: args.scrub_delay,
            rehash: args.rehash,
            vdisks: Vec::new(),
            every_vdisk_needed: true,
            farm_key: FarmKey::new([0; 32]),
            key_origin: String::new(),
            limits,
            others: Vec::new(),
            admission: String::new(),
        };
        match settings.origin.clone() {
            Origin::Image { image, peers, .. } => settings.take_image(args, &image, &peers)?,
            Origin::File { path, name } => settings.take_farm(args, &path, &name)?,
        }
        settings.check_ports(args.cores.is_none())?;
        if settings.cores.len() > settings.io_ports.count() {
            bail!(
                "{} shards, and --io-ports {} has room for {}: name a wider range, or fewer --cores",
                settings.cores.len(),
                settings.io_ports,
                settings.io_ports.count()
            );
        }
        Ok(settings)
    }

    /// The login port lies outside the shards' range; and cores that nobody asked for give way to the ports.
    fn check_ports(&mut self, cores_are_default: bool) -> anyhow::Result<()> {
        if let PortRange::Fixed(first, last) = self.io_ports
            && (first..=last).contains(&self.login_port)
        {
            bail!(
                "--io-ports {first}-{last} contains the login port {}; choose another range",
                self.login_port
            );
        }
        let ports = self.io_ports.count();
        if cores_are_default && self.cores.len() > ports {
            tracing::warn!(
                "{} cores and {ports} I/O ports: using {ports} cores; name a wider --io-ports to use more",
                self.cores.len()
            );
            self.cores.truncate(ports);
        }
        Ok(())
    }

    fn take_image(
        &mut self,
        args: &ServeArgs,
        image: &Path,
        peers: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let farm = Farm::single_image(image, &[], self.boot_limit);
        self.vdisks = vec![VdiskSetting {
            name: farm.vdisks[0].name.clone(),
            path: Some(image.to_owned()),
            kept: args.cache_pinned,
        }];
        self.others = crate::serve::node_entries(peers);
        "any MAC is admitted, without a key".clone_into(&mut self.admission);
        match &args.key_file {
            Some(path) => self.take_key(path, "--key-file"),
            None => {
                let mut key = [0u8; 32];
                getrandom::fill(&mut key)
                    .map_err(|e| anyhow!("the kernel gives no random bytes: {e}"))?;
                self.farm_key = FarmKey::new(key);
                "of this process: tickets end with it".clone_into(&mut self.key_origin);
                Ok(())
            }
        }
    }

    fn take_farm(&mut self, args: &ServeArgs, path: &Path, name: &str) -> anyhow::Result<()> {
        let farm = Farm::load(path)?;
        let names = || farm.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        let node = farm.node(name).with_context(|| {
            format!("--name {name}: {} has no such node; it names {}", path.display(), names())
        })?;
        self.listen = args.listen.unwrap_or(node.address);
        self.advertise = args.advertise.or(Some(node.address));
        self.login_port = args.login_port.unwrap_or(node.login_port);
        self.io_ports = args.io_ports.unwrap_or(PortRange::Fixed(node.io_ports.0, node.io_ports.1));
        self.peer_port = Some(args.peer_port.unwrap_or(node.peer_port));
        self.boot_limit = args.boot_limit.unwrap_or(farm.boot_limit);
        self.every_vdisk_needed = false;
        self.vdisks = farm
            .vdisks
            .iter()
            .map(|v| VdiskSetting {
                name: v.name.clone(),
                path: node.stores.contains(&v.store).then(|| v.path.clone()),
                kept: v.cache_pinned,
            })
            .collect();
        self.others =
            farm.nodes.iter().filter(|n| n.name != name).map(crate::farm::Node::entry).collect();
        self.admission = format!(
            "{} devices listed, {} of them believed by their MAC alone",
            farm.device_count(),
            farm.devices_without_key()
        );
        let key_file = args.key_file.clone().or_else(|| farm.key_file.clone());
        let key_file =
            key_file.with_context(|| format!("{}: [farm] names no key_file", path.display()))?;
        self.take_key(&key_file, "key_file")
    }

    fn take_key(&mut self, path: &Path, flag: &str) -> anyhow::Result<()> {
        let loaded = FarmKey::load(path).with_context(|| flag.to_owned())?;
        if loaded.world_readable {
            tracing::warn!(path = %path.display(), "everybody on this host can read the farm key: chmod o-r");
        }
        self.farm_key = loaded.key;
        self.key_origin = path.display().to_string();
        Ok(())
    }

    /// Shards: one for each core.
    ///
    /// # Panics
    /// Never: the cores were counted.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.cores.len()).expect("at most SHARDS_MAX cores")
    }

    /// The farm, and this node's place in it. `login` is where devices reach it.
    ///
    /// # Errors
    /// When the farm file changed so that it cannot be read again.
    pub fn farm(&self, login: SocketAddr) -> anyhow::Result<(Farm, usize)> {
        match &self.origin {
            Origin::Image { image, peers, name } => {
                let logins: Vec<SocketAddr> =
                    std::iter::once(login).chain(peers.iter().copied()).collect();
                let mut farm = Farm::single_image(image, &logins, self.boot_limit);
                if let Some(name) = name {
                    farm.nodes[0].name.clone_from(name);
                }
                Ok((farm, 0))
            }
            Origin::File { path, name } => {
                let farm = Farm::load(path)?;
                let own = farm
                    .nodes
                    .iter()
                    .position(|n| n.name == *name)
                    .context("this node left the farm file")?;
                Ok((farm, own))
            }
        }
    }

    /// This node's name; none when it serves an image alone.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.origin {
            Origin::Image { name, .. } => name.as_deref(),
            Origin::File { name, .. } => Some(name),
        }
    }

    /// Login addresses of nodes that are only named, and never heard of.
    #[must_use]
    pub fn static_peers(&self) -> &[SocketAddr] {
        match &self.origin {
            Origin::Image { peers, .. } => peers,
            Origin::File { .. } => &[],
        }
    }

    /// The other nodes that devices can go to.
    #[must_use]
    pub fn successors(&self) -> &[NodeEntry] {
        &self.others[..self.others.len().min(limits::NODES_MAX)]
    }

    /// The effective configuration, a line each.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let cores: Vec<String> = self.cores.iter().map(ToString::to_string).collect();
        let advertise = self
            .advertise
            .map_or_else(|| "the address that was asked".to_owned(), |ip| ip.to_string());
        vec![
            format!(
                "listen {} (devices are told {advertise}), login port {}, I/O ports {}, peer port {}",
                self.listen,
                self.login_port,
                self.io_ports,
                self.peer_port.map_or_else(|| "off".to_owned(), |port| port.to_string())
            ),
            format!(
                "shards on cores {}, ring entries {}, receive buffers {}, socket buffers {}",
                cores.join(","),
                self.ring_entries,
                self.receive_buffers,
                Bytes(self.socket_buffer_bytes as u64)
            ),
            format!("network: {}", self.network),
            format!(
                "cache {} in blocks of {}, huge pages {}, memory node {}, read-ahead {}, warm-up {}, store depth {}",
                Bytes(self.cache_bytes as u64),
                Bytes(self.block_bytes as u64),
                self.huge_pages,
                self.numa_node,
                if self.limits.read_ahead { "on" } else { "off" },
                if self.warm_up { "on" } else { "off" },
                self.store_depth
            ),
            format!(
                "sessions {} a shard, boot limit {}, drain {} s, metrics at {}",
                self.limits.sessions_max, self.boot_limit, self.drain_seconds, self.http
            ),
            format!("admission: {}; farm key {}", self.admission, self.key_origin),
        ]
    }
}

fn origin(args: &ServeArgs) -> anyhow::Result<Origin> {
    match (&args.image, &args.farm, &args.name) {
        (Some(image), None, _) => {
            let (peers, name) = (args.peers.clone(), args.name.clone());
            Ok(Origin::Image { image: image.clone(), peers, name })
        }
        (None, Some(path), Some(name)) => {
            Ok(Origin::File { path: path.clone(), name: name.clone() })
        }
        _ => bail!("name an image, or --farm FILE and --name NODE"),
    }
}

fn control_at(args: &ServeArgs) -> ControlAt {
    match (&args.control, &args.name) {
        (Some(path), _) if path.as_os_str() == "off" => ControlAt::Off,
        (Some(path), _) => ControlAt::At(path.clone()),
        (None, Some(name)) => ControlAt::Usual(crate::control::default_path(name)),
        (None, None) => ControlAt::Off,
    }
}

fn resolve_cores(args: &ServeArgs) -> anyhow::Result<Vec<usize>> {
    let available = pin::cores();
    let cores = match &args.cores {
        Some(list) => list.0.clone(),
        None => available.iter().copied().take(SHARDS_MAX).collect(),
    };
    if let Some(missing) = cores.iter().find(|core| !available.contains(core)) {
        bail!(
            "--cores {missing}: this process may run on {available:?} (see taskset, cgroup cpusets)"
        );
    }
    if cores.is_empty() || cores.len() > SHARDS_MAX {
        bail!("--cores: name 1 to {SHARDS_MAX} cores");
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const FARM: &str = "[farm]\nname = \"lab\"\nkey_file = \"farm.key\"\nboot_limit = 7\naccept_mac_alone = true\n\
        [[node]]\nname = \"alpha\"\naddress = \"127.0.0.1\"\nlogin_port = 7001\nio_ports = \"7002-7009\"\npeer_port = 7010\n\
        [[store]]\nname = \"images\"\npath = \"images\"\n\
        [[vdisk]]\nname = \"debian\"\nstore = \"images\"\nfile = \"debian.raw\"\n";

    fn resolve(flags: &[&str]) -> Settings {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str, bytes: &[u8]| {
            let path = place.path().join(name);
            std::fs::write(&path, bytes).expect("a file");
            path.to_str().expect("UTF-8").to_owned()
        };
        let (file, _key) = (path("farm.toml", FARM.as_bytes()), path("farm.key", &[7; 32]));
        let other_key = path("other.key", &[8; 32]);
        let all = ["diskstream-node", "serve", "--farm", &file, "--name", "alpha"];
        let flags = flags.iter().map(|flag| if *flag == "OTHER" { &other_key } else { *flag });
        let cli = Cli::try_parse_from(all.into_iter().chain(flags)).expect("good flags");
        let Command::Serve(args) = cli.command else { panic!("parsed as {:?}", cli.command) };
        args.check().expect("flags that fit together");
        Settings::resolve(&args).expect("a good farm")
    }

    /// Everything that both the file and a flag can say.
    fn said(settings: &Settings) -> String {
        format!(
            "{} {:?} {} {} {:?} {} {}",
            settings.listen,
            settings.advertise.expect("the node's own"),
            settings.login_port,
            settings.io_ports,
            settings.peer_port.expect("a farm's"),
            settings.boot_limit,
            settings.key_origin.rsplit('/').next().expect("a name"),
        )
    }

    #[test]
    fn what_a_flag_says_wins_over_the_farm_file() {
        assert_eq!(
            said(&resolve(&[])),
            "127.0.0.1 127.0.0.1 7001 7002-7009 7010 7 farm.key",
            "the file, where no flag says otherwise"
        );
        let flags = "--listen 127.0.0.2 --advertise 127.0.0.3 --login-port 8001 --io-ports 8002-8003 --peer-port 8004 --boot-limit 0 \
                     --key-file OTHER --cores 0";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert_eq!(said(&resolve(&flags)), "127.0.0.2 127.0.0.3 8001 8002-8003 8004 0 other.key");
    }
}
