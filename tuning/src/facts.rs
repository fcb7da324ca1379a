//! What a host is like, as data. `None` means unknown; the reason is in [`Facts::unread`].
use serde::{Deserialize, Serialize};

/// Everything that the rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub kernel_release: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for nobody, 1 for all but a group, 2 for everybody.
    pub io_uring_disabled: Option<u32>,
    /// Cores that are online.
    pub cores_online: Option<u32>,
    /// Frequency policies; empty on hosts whose frequency is not the kernel's to choose.
    pub cpu_policies: Vec<CpuPolicy>,
    /// Memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Memory that can be had without swapping, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Huge pages, by size, ascending.
    pub huge_pages: Vec<HugePages>,
    /// Mode of transparent huge pages: always, madvise or never.
    pub transparent_huge_pages: Option<String>,
    /// Locked memory that a process started from here may have.
    pub memlock: Option<Memlock>,
    /// `net.core.rmem_max`: the largest receive buffer a socket may ask for, in bytes.
    pub rmem_max_bytes: Option<u64>,
    /// `net.core.wmem_max`: the largest send buffer a socket may ask for, in bytes.
    pub wmem_max_bytes: Option<u64>,
    /// Network interfaces with a device behind them.
    pub nics: Vec<Nic>,
    /// Block devices with a device behind them.
    pub block_devices: Vec<BlockDevice>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// How much memory may be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memlock {
    /// What holds now.
    pub soft: Limit,
    /// What a process may raise its own to.
    pub hard: Limit,
}

/// A limit of a process. `Bytes` orders before `Unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

/// Cores whose frequency is chosen together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPolicy {
    /// Its directory's name, such as `policy0`.
    pub name: String,
    /// Who chooses, such as `schedutil`.
    pub governor: String,
    /// Who could.
    pub available: Vec<String>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Size of one, in KiB.
    pub size_kib: u64,
    /// Pages that exist.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
    /// Free ones that are promised already.
    pub reserved: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Send queues in use.
    pub tx_queues: u32,
    /// Speed in Mbit/s, where the link is up and the driver says.
    pub speed_mbit: Option<u32>,
    /// `up`, `down` or `unknown`.
    pub state: Option<String>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Its name.
    pub name: String,
    /// The I/O scheduler in use.
    pub scheduler: Option<String>,
    /// Schedulers that could be.
    pub schedulers: Vec<String>,
    /// Read-ahead in KiB.
    pub read_ahead_kib: Option<u64>,
    /// Whether it turns.
    pub rotational: Option<bool>,
}

/// A fact that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Where it would have been.
    pub path: String,
    /// Why not.
    pub reason: String,
}
