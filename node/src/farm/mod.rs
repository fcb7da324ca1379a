//! The farm: which nodes, stores, vDisks and devices there are, as the operator's file says.
//!
//! `farm.toml` is read once, at start, and every defect is reported with its line, cause and remedy before anything else
//! happens; [`EXAMPLE`] is an annotated one. Without a file, `serve IMAGE` makes a farm of one vDisk that admits any MAC.
//!
//! | part | does |
//! |---|---|
//! | `file` | the shape of the file, unknown keys refused |
//! | `check` | what the shape cannot say: references, duplicates, ranges |
//! | `subnet` | which devices are near which nodes |
//! | `error` | one line per defect |

mod check;
mod error;
mod file;
mod subnet;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use diskstream_wire::limits::{DEVICE_NOTICE_PORT, NODES_MAX};
use diskstream_wire::{ContentId, Endpoint, ImageMode, Mac, NodeEntry, WriteCacheType};

pub use error::{Defect, FarmError};
pub use subnet::{Affinity, BadSubnet, Subnet};

use crate::rebalance;
use crate::trust::DeviceKey;

/// An annotated farm file that is correct.
pub const EXAMPLE: &str = include_str!("example.toml");
/// A farm file is no longer than this. Guessed: 100,000 devices of 200 bytes each, three times over.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Nodes of a farm at most: what the peer protocol carries. A device's list names the best 16 of them.
pub const FARM_NODES_MAX: usize = 256;
/// Devices that may boot at once, unless the file says otherwise (PVS's default).
pub const BOOT_LIMIT_DEFAULT: u32 = 500;

/// A farm, checked: every reference resolves, every name and MAC is unique.
#[derive(Debug)]
pub struct Farm {
    /// Its name, for logs.
    pub name: String,
    /// File of the farm key; none without a farm file.
    pub key_file: Option<PathBuf>,
    /// Number that tickets must carry; raising it revokes every older ticket.
    pub epoch: u64,
    /// Devices that may boot at once on a node; 0: any number.
    pub boot_limit: u32,
    /// Whether and when devices are moved to even out the load.
    pub rebalance: rebalance::Settings,
    /// The nodes, in the file's order.
    pub nodes: Vec<Node>,
    /// The stores, in the file's order.
    pub stores: Vec<Store>,
    /// The vDisks, in the file's order.
    pub vdisks: Vec<Vdisk>,
    devices: Devices,
}

/// A host that answers logins and streams vDisks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where devices reach it.
    pub address: IpAddr,
    /// UDP port of logins.
    pub login_port: u16,
    /// First and last UDP port of its shards.
    pub io_ports: (u16, u16),
    /// UDP port towards other nodes.
    pub peer_port: u16,
    /// Power rating in hundredths: a node of 200 takes twice the devices of one of 100.
    pub rating: u16,
    /// Indices of the stores it has.
    pub stores: Vec<usize>,
    /// The devices that it is near to; none: it counts as far from all.
    pub subnet: Option<Subnet>,
}

/// A directory of vDisk files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its name.
    pub name: String,
    /// The directory, on every node that has the store.
    pub path: PathBuf,
}

/// A disk image that devices start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdisk {
    /// Its name, as devices know it.
    pub name: String,
    /// Index of its store.
    pub store: usize,
    /// The image file.
    pub path: PathBuf,
    /// How devices use it.
    pub mode: ImageMode,
    /// Where devices are to keep what they write.
    pub write_cache: WriteCacheType,
    /// Bytes of that write cache; 0: the device decides.
    pub write_cache_bytes: u64,
    /// Whether the nodes that hold it load all of it at their start, and never evict a block of it.
    pub cache_pinned: bool,
    /// Index of the only node that may serve it; none: any node that holds it.
    pub pinned: Option<usize>,
    /// Whether its devices are served from their own subnet.
    pub affinity: Affinity,
    /// What its bytes must be; none: what the nodes hold.
    pub content_id: Option<ContentId>,
}

/// A diskless machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its hardware address; zero for the device that stands for any MAC.
    pub mac: Mac,
    /// Its name; empty for the device that stands for any MAC.
    pub name: String,
    /// Index of its vDisk; none is assigned.
    pub vdisk: Option<usize>,
    /// Whether it may log in.
    pub enabled: bool,
    /// Its key; none: the MAC alone is believed.
    pub key: Option<DeviceKey>,
    /// Port at which it hears notices, where its handshake names none.
    pub notice_port: u16,
}

#[derive(Debug)]
enum Devices {
    /// Each by its MAC. The map's hasher is seeded at random, so that nobody can choose MACs that collide.
    Listed(HashMap<Mac, Device>),
    /// Any MAC is this one.
    Any(Device),
}

impl Farm {
    /// Reads and checks a farm file.
    ///
    /// # Errors
    /// [`FarmError`] shows every defect on a line of its own.
    pub fn load(path: &Path) -> Result<Farm, FarmError> {
        let read = |source| FarmError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(read)?;
        let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
        if bytes as u64 > FILE_BYTES_MAX {
            return Err(FarmError::TooLong { path: path.to_owned() });
        }
        Farm::parse(&text, path)
    }

    /// Checks the text of a farm file. Relative paths in it are taken from `path`'s directory; nothing is read.
    ///
    /// # Errors
    /// [`FarmError::Defects`].
    pub fn parse(text: &str, path: &Path) -> Result<Farm, FarmError> {
        let base = path.parent().unwrap_or(Path::new(""));
        let check = check::Check::new(text, base);
        let farm = file::parse(text).map_err(|e| vec![check.syntax(&e)]);
        farm.and_then(|raw| check.farm(raw))
            .map_err(|defects| FarmError::Defects { path: path.to_owned(), defects })
    }

    /// The farm of `serve IMAGE`: one vDisk, named like the file without its ending, for any MAC. `logins` are the addresses
    /// and login ports of the nodes that serve it, this one first; at most [`NODES_MAX`] are kept.
    #[must_use]
    pub fn single_image(image: &Path, logins: &[SocketAddr], boot_limit: u32) -> Farm {
        let name = image.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let directory = image.parent().unwrap_or(Path::new("")).to_owned();
        let nodes = logins.iter().take(NODES_MAX).enumerate().map(|(n, login)| Node {
            name: if n == 0 { "this".to_owned() } else { login.to_string() },
            address: login.ip(),
            login_port: login.port(),
            io_ports: diskstream_wire::limits::IO_PORTS,
            peer_port: diskstream_wire::limits::PEER_PORTS.0,
            rating: 100,
            stores: vec![0],
            subnet: None,
        });
        Farm {
            name: "single image".to_owned(),
            key_file: None,
            epoch: 0,
            boot_limit,
            rebalance: rebalance::Settings::default(),
            nodes: nodes.collect(),
            stores: vec![Store { name: "image".to_owned(), path: directory }],
            vdisks: vec![Vdisk {
                name: name.unwrap_or_else(|| "image".to_owned()),
                store: 0,
                path: image.to_owned(),
                mode: ImageMode::Standard,
                write_cache: WriteCacheType::Ram,
                write_cache_bytes: 0,
                cache_pinned: false,
                pinned: None,
                affinity: Affinity::None,
                content_id: None,
            }],
            devices: Devices::Any(Device {
                mac: Mac::default(),
                name: String::new(),
                vdisk: Some(0),
                enabled: true,
                key: None,
                notice_port: DEVICE_NOTICE_PORT,
            }),
        }
    }

    /// The device with this MAC.
    #[must_use]
    pub fn device(&self, mac: Mac) -> Option<&Device> {
        match &self.devices {
            Devices::Listed(devices) => devices.get(&mac),
            Devices::Any(device) => Some(device),
        }
    }

    /// Whether any MAC is admitted.
    #[must_use]
    pub fn admits_any_mac(&self) -> bool {
        matches!(self.devices, Devices::Any(_))
    }

    /// Devices that are listed.
    #[must_use]
    pub fn device_count(&self) -> usize {
        match &self.devices {
            Devices::Listed(devices) => devices.len(),
            Devices::Any(_) => 0,
        }
    }

    /// Listed devices that log in with their MAC alone: to be stated in the log.
    #[must_use]
    pub fn devices_without_key(&self) -> usize {
        match &self.devices {
            Devices::Listed(devices) => devices.values().filter(|d| d.key.is_none()).count(),
            Devices::Any(_) => 0,
        }
    }

    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// A vDisk by name: its index and what it is.
    #[must_use]
    pub fn vdisk(&self, name: &str) -> Option<(usize, &Vdisk)> {
        self.vdisks.iter().enumerate().find(|(_, vdisk)| vdisk.name == name)
    }

    /// The nodes that have the store of a vDisk, in the file's order.
    ///
    /// # Panics
    /// When there is no vDisk with this index.
    pub fn nodes_with(&self, vdisk: usize) -> impl Iterator<Item = &Node> {
        let store = self.vdisks[vdisk].store;
        self.nodes.iter().filter(move |node| node.stores.contains(&store))
    }
}

impl Node {
    /// Where it answers logins.
    #[must_use]
    pub fn login(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.login_port)
    }

    /// As it stands in the lists that devices get.
    #[must_use]
    pub fn entry(&self) -> NodeEntry {
        NodeEntry {
            login: Endpoint::from(self.login()),
            rating: self.rating,
            ..NodeEntry::default()
        }
    }

    /// Shards for which it has ports.
    #[must_use]
    pub fn io_port_count(&self) -> usize {
        usize::from(self.io_ports.1 - self.io_ports.0) + 1
    }
}
