//! What a world consists of, and how its links, disks and readers behave.

use diskstream_wire::Nanos;

/// Faults of every link, in millionths and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// Datagrams lost.
    pub loss_ppm: u32,
    /// Datagrams that arrive twice.
    pub duplicate_ppm: u32,
    /// Datagrams of which a bit is flipped.
    pub corrupt_ppm: u32,
    /// Every datagram takes this long at least.
    pub delay: Nanos,
    /// And up to this much longer, drawn for each: reorders.
    pub jitter: Nanos,
    /// And up to this much longer, always the same for the way from one host to another: no two links are alike.
    pub spread: Nanos,
}

/// Faults of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// A read takes up to this long.
    pub latency: Nanos,
    /// Reads that take `slow` instead.
    pub slow_ppm: u32,
    /// See `slow_ppm`.
    pub slow: Nanos,
    /// Reads that fail with EIO.
    pub error_ppm: u32,
    /// Reads that come back with a wrong byte.
    pub rot_ppm: u32,
}

/// What a device reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// So many reads, `depth` of them outstanding: the next is asked when one is done.
    Closed {
        /// Reads of each device.
        reads: usize,
        /// Outstanding at once.
        depth: usize,
    },
    /// One read every so often, whether or not the earlier ones are done, so that a stall hides nothing. A read counts from
    /// the time for which it was planned.
    Open {
        /// Time between reads of one device.
        every: Nanos,
        /// Longest read in units.
        units_max: usize,
    },
    /// Nothing: devices that are only there.
    Idle,
}

/// One world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes that serve the images.
    pub nodes: usize,
    /// Shards of each.
    pub shards: usize,
    /// Devices that read them.
    pub devices: usize,
    /// vDisks. Device `d` is assigned number `d % vdisks`.
    pub vdisks: usize,
    /// Bytes of each image.
    pub image_bytes: usize,
    /// Blocks that a node's cache holds.
    pub frames: usize,
    /// Sessions that a shard takes.
    pub sessions_max: u32,
    /// Devices that may boot at once; 0: any number.
    pub boot_limit: u32,
    /// What each device does.
    pub workload: Workload,
    /// Power rating of each node in hundredths; 100 where none is given.
    pub ratings: Vec<u16>,
    /// Seconds by which each node's wall clock is wrong; 0 where none is given.
    pub clocks_s: Vec<i64>,
    /// Node whose copy of the first image differs in one byte.
    pub odd_node: Option<usize>,
    /// Something drops every datagram to the devices' notice port.
    pub notice_port_blocked: bool,
    /// Every device has the same settings, instead of drawn ones.
    pub plain_devices: bool,
    /// Link faults while the world is unsafe.
    pub link: LinkFaults,
    /// Disk faults while the world is unsafe. Errors and rot are the bad node's alone.
    pub disk: DiskFaults,
    /// Node whose disk errs and rots.
    pub bad_node: Option<usize>,
    /// Datagrams of an attacker off the path, in each simulated second.
    pub forgeries_per_second: u64,
    /// Longest delay between shards of a node.
    pub shard_delay: Nanos,
    /// Devices are switched on within this time.
    pub boot_spread: Nanos,
    /// Devices read in the order of the image, each from a place of its own, instead of anywhere.
    pub in_order: bool,
    /// Nodes know what earlier boots read: every third block.
    pub warm: bool,
}

impl Default for Options {
    /// Two nodes of two shards, 40 devices that read 20 times a second, and a healthy campus network.
    fn default() -> Options {
        Options {
            nodes: 2,
            shards: 2,
            devices: 40,
            vdisks: 1,
            image_bytes: 2 << 20,
            frames: 64,
            sessions_max: 512,
            boot_limit: 0,
            workload: Workload::Open { every: Nanos::from_millis(50), units_max: 4 },
            ratings: Vec::new(),
            clocks_s: Vec::new(),
            odd_node: None,
            notice_port_blocked: false,
            plain_devices: true,
            link: LinkFaults {
                delay: Nanos::from_micros(100),
                jitter: Nanos::from_micros(100),
                ..LinkFaults::default()
            },
            disk: DiskFaults { latency: Nanos::from_micros(500), ..DiskFaults::default() },
            bad_node: None,
            forgeries_per_second: 0,
            shard_delay: Nanos::from_micros(50),
            boot_spread: Nanos::ZERO,
            in_order: false,
            warm: false,
        }
    }
}

impl Options {
    /// The same world without faults: what liveness is judged in.
    #[must_use]
    pub fn healed(&self) -> (LinkFaults, DiskFaults) {
        let LinkFaults { delay, spread, .. } = self.link;
        let link = LinkFaults { delay, spread, ..LinkFaults::default() };
        (link, DiskFaults { latency: self.disk.latency, ..DiskFaults::default() })
    }

    /// The disk of a node.
    #[must_use]
    pub fn disk_of(&self, node: usize) -> DiskFaults {
        let mut faults = self.disk;
        if self.bad_node != Some(node) {
            (faults.error_ppm, faults.rot_ppm) = (0, 0);
        }
        faults
    }

    /// The power rating of a node.
    #[must_use]
    pub fn rating_of(&self, node: usize) -> u16 {
        self.ratings.get(node).copied().unwrap_or(100)
    }

    /// The text of the farm's file.
    #[must_use]
    pub fn farm_file(&self) -> String {
        use std::fmt::Write as _;

        use crate::hosts::{PEER_PORT, device_mac, node_ip, node_name, vdisk_name};
        let mut text = format!(
            "[farm]\nname = \"sim\"\nkey_file = \"farm.key\"\nboot_limit = {}\naccept_mac_alone = true\n\
             [[store]]\nname = \"s\"\npath = \"/images\"\n",
            self.boot_limit
        );
        for node in 0..self.nodes {
            let (name, ip) = (node_name(node), node_ip(node));
            let power = f64::from(self.rating_of(node)) / 100.0;
            writeln!(
                text,
                "[[node]]\nname = \"{name}\"\naddress = \"{ip}\"\npower = {power:?}\npeer_port = {PEER_PORT}"
            )
            .expect("text grows");
        }
        for vdisk in 0..self.vdisks {
            let name = vdisk_name(vdisk);
            writeln!(
                text,
                "[[vdisk]]\nname = \"{name}\"\nstore = \"s\"\nfile = \"{name}.raw\"\nwrite_cache = \"none\""
            )
            .expect("text grows");
        }
        for device in 0..self.devices {
            let (mac, name) = (device_mac(device), vdisk_name(device % self.vdisks));
            writeln!(text, "[[device]]\nmac = \"{mac}\"\nname = \"d{device}\"\nvdisk = \"{name}\"")
                .expect("text grows");
        }
        text
    }
}
