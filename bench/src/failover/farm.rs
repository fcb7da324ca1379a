//! The farm of a run: its file, its key, and the node processes that are started from it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use diskstream_wire::limits::LOGIN_PORT;

use crate::fleet::mac_of;
use crate::image;
use crate::node_process::{NodeProcess, serve_command};
use crate::random::Random;

/// Power of node 1 and of the others: as far apart as a farm file allows, so that all devices begin on node 1 (a node's share
/// is its sessions ÷ its power).
pub const POWERS: (f64, f64) = (100.0, 0.01);
/// Cache beside the image: room for blocks that are being read and for the cache's own slack. Guessed.
const CACHE_BESIDE_BYTES: u64 = 64 << 20;
/// Sessions that a node has room for unless it is told otherwise.
const SESSIONS_DEFAULT: usize = 4096;

/// The farm's file, and that of the node with another copy of the image: its store lies elsewhere.
const FARM_FILE: &str = "farm.toml";
const ODD_FARM_FILE: &str = "farm-odd.toml";

/// What a farm is made of.
#[derive(Clone, Debug)]
pub struct FarmSpec {
    /// Address of each node.
    pub addresses: Vec<IpAddr>,
    /// Devices.
    pub devices: u16,
    /// Seed of the image.
    pub seed: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// The core that all nodes share; none: wherever the system puts them.
    pub core: Option<usize>,
    /// The last node has another copy of the image, which differs by one byte.
    pub odd_node: bool,
    /// Nodes tell their metrics, at their own address.
    pub metrics: bool,
    /// Folder for a log file of each node; none: warnings go to standard error.
    pub logs: Option<PathBuf>,
}

/// A farm whose files are written.
#[derive(Debug)]
pub struct Farm {
    spec: FarmSpec,
    folder: tempfile::TempDir,
}

impl Farm {
    /// Writes image, key and farm file.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(spec: FarmSpec) -> anyhow::Result<Farm> {
        let image = image::make(&image::folder()?, spec.seed, spec.image_bytes)?;
        let folder = tempfile::Builder::new()
            .prefix("diskstream-failover-")
            .tempdir()
            .context("making a folder for the farm file")?;
        let mut random = Random::new(spec.seed);
        let key: String = (0..4).map(|_| format!("{:016x}", random.bits())).collect();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
        };
        write("farm.key", &key)?;
        write(FARM_FILE, &text(&spec, &image))?;
        if spec.odd_node {
            let copy = folder.path().join("odd.img");
            make_odd_copy(&image, &copy).with_context(|| format!("making {}", copy.display()))?;
            write(ODD_FARM_FILE, &text(&spec, &copy))?;
        }
        if let Some(logs) = &spec.logs {
            fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
        }
        Ok(Farm { spec, folder })
    }

    /// Where node `number` (from 0) answers logins.
    #[must_use]
    pub fn login(&self, number: usize) -> SocketAddr {
        SocketAddr::new(self.spec.addresses[number], LOGIN_PORT)
    }

    /// Number of the node that answers logins there.
    #[must_use]
    pub fn number_of(&self, login: SocketAddr) -> Option<usize> {
        self.spec.addresses.iter().position(|&address| address == login.ip())
    }

    /// Whether node `number` has another copy of the image.
    #[must_use]
    pub fn is_odd(&self, number: usize) -> bool {
        self.spec.odd_node && number + 1 == self.spec.addresses.len()
    }

    /// Nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.spec.addresses.len()
    }

    /// Starts node `number` and waits until it is ready. `prepare` may add to the command.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(
        &self,
        number: usize,
        prepare: impl FnOnce(&mut std::process::Command),
    ) -> anyhow::Result<NodeProcess> {
        let name = node_name(number);
        let mut command = serve_command()?;
        let file = if self.is_odd(number) { ODD_FARM_FILE } else { FARM_FILE };
        command.arg("--farm").arg(self.folder.path().join(file));
        let http = if self.spec.metrics {
            SocketAddr::new(self.spec.addresses[number], 0).to_string()
        } else {
            "off".to_owned()
        };
        command.args(["--name", &name, "--http", &http, "--huge-pages", "off"]);
        command.arg("--control").arg(self.folder.path().join(format!("{name}.sock")));
        command.args(["--cache", &(self.spec.image_bytes + CACHE_BESIDE_BYTES).to_string()]);
        let devices = usize::from(self.spec.devices);
        if devices > SESSIONS_DEFAULT {
            command.args(["--sessions", &devices.to_string()]);
        }
        if let Some(core) = self.spec.core {
            command.args(["--cores", &core.to_string()]);
        }
        if let Some(logs) = &self.spec.logs {
            let path = logs.join(format!("{name}.log"));
            let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            command.env("RUST_LOG", "info").stderr(file);
        }
        prepare(&mut command);
        NodeProcess::launch(command).with_context(|| format!("node {name}"))
    }
}

/// Copies the image, and changes one byte in its middle.
fn make_odd_copy(image: &Path, copy: &Path) -> io::Result<()> {
    fs::copy(image, copy)?;
    let file = File::options().read(true).write(true).open(copy)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)
}

/// Number of the device that warms the cache of node `number` before the others come.
///
/// # Panics
/// Beyond the nodes of a device's list.
#[must_use]
pub fn warmer(number: usize) -> u16 {
    u16::MAX - u16::try_from(number).expect("few nodes")
}

/// What node `number` (from 0) is called.
#[must_use]
pub fn node_name(number: usize) -> String {
    format!("n{}", number + 1)
}

fn text(spec: &FarmSpec, image: &Path) -> String {
    // The sidecar with the content id is kept beside the image.
    let store = image.parent().unwrap_or(Path::new("/"));
    let file = image.file_name().unwrap_or_default();
    let mut text = String::from("[farm]\nname = \"bench\"\nkey_file = \"farm.key\"\n");
    // All devices begin at once, and that is not what is measured.
    text.push_str("boot_limit = 0\naccept_mac_alone = true\n");
    let mut line = |args: std::fmt::Arguments<'_>| {
        text.write_fmt(args).expect("writing to a string does not fail");
    };
    for (number, address) in spec.addresses.iter().enumerate() {
        let power = if number == 0 { POWERS.0 } else { POWERS.1 };
        let name = node_name(number);
        line(format_args!(
            "\n[[node]]\nname = \"{name}\"\naddress = \"{address}\"\npower = {power:?}\n"
        ));
    }
    line(format_args!(
        "\n[[store]]\nname = \"images\"\npath = {:?}\n",
        store.display().to_string()
    ));
    line(format_args!(
        "\n[[vdisk]]\nname = \"bench\"\nstore = \"images\"\nfile = {:?}\n",
        file.to_string_lossy()
    ));
    // Caches are by content: what is read under these names, each served by one node only, warms that node's cache for all.
    for number in 0..spec.addresses.len() {
        let (name, mac) = (node_name(number), mac_of(warmer(number)));
        line(format_args!(
            "\n[[vdisk]]\nname = \"warm-{name}\"\nstore = \"images\"\nfile = {:?}\nnode = \"{name}\"\n",
            file.to_string_lossy()
        ));
        line(format_args!(
            "\n[[device]]\nmac = \"{mac}\"\nname = \"warmer-{name}\"\nvdisk = \"warm-{name}\"\n"
        ));
    }
    for device in 0..spec.devices {
        let mac = mac_of(device);
        line(format_args!(
            "\n[[device]]\nmac = \"{mac}\"\nname = \"d{device}\"\nvdisk = \"bench\"\n"
        ));
    }
    text
}
