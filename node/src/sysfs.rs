//! What the kernel says about disks, network interfaces and memory nodes, below `/sys`.

use std::fs;
use std::path::{Path, PathBuf};

/// A `/sys`, or a test's picture of one.
#[derive(Clone, Debug)]
pub struct Sysfs(PathBuf);

impl Sysfs {
    /// The host's.
    #[must_use]
    pub fn host() -> Sysfs {
        Sysfs(PathBuf::from("/sys"))
    }

    /// Another one, laid out alike.
    #[must_use]
    pub fn at(root: &Path) -> Sysfs {
        Sysfs(root.to_owned())
    }

    /// Requests that the queue of a block device holds, by the device number of a file system on it. None for what is no block
    /// device: NFS, FUSE, overlays, tmpfs.
    #[must_use]
    pub fn queue_depth(&self, device: u64) -> Option<u16> {
        let folder = self.block_device(device)?;
        // A partition's queue is its disk's, one folder up.
        let number = |folder: &Path| number(&folder.join("queue/nr_requests"));
        let depth = number(&folder).or_else(|| number(folder.parent()?))?;
        Some(u16::try_from(depth).unwrap_or(u16::MAX).max(1))
    }

    /// The memory node of the disk below a file system.
    #[must_use]
    pub fn disk_node(&self, device: u64) -> Option<u32> {
        // Above the disk's own folder are its controller's, up to the bus: the first that names a node.
        let folder = self.block_device(device)?;
        let root = fs::canonicalize(&self.0).ok()?;
        let mut above = folder.ancestors().take_while(|folder| *folder != root);
        above.find_map(|folder| node(&folder.join("numa_node")))
    }

    /// The memory node of a network interface. None for one that is no device: loopback, bridges, veth.
    #[must_use]
    pub fn nic_node(&self, name: &str) -> Option<u32> {
        node(&self.nic(name)?.join("device/numa_node"))
    }

    /// Whether there is such a network interface.
    #[must_use]
    pub fn has_nic(&self, name: &str) -> bool {
        self.nic(name).is_some_and(|folder| folder.exists())
    }

    fn nic(&self, name: &str) -> Option<PathBuf> {
        // A name is one part of a path, not a path.
        let part = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        part.then(|| self.0.join("class/net").join(name))
    }

    /// Whether there is such a memory node with memory.
    #[must_use]
    pub fn has_node(&self, node: u32) -> bool {
        self.0.join(format!("devices/system/node/node{node}/meminfo")).exists()
    }

    /// A device number as `lsblk` and `/proc/self/mountinfo` show it.
    #[must_use]
    pub fn name_of(device: u64) -> String {
        let (major, minor) = split(device);
        format!("{major}:{minor}")
    }

    fn block_device(&self, device: u64) -> Option<PathBuf> {
        let (major, minor) = split(device);
        fs::canonicalize(self.0.join(format!("dev/block/{major}:{minor}"))).ok()
    }
}

/// Major and minor number, as glibc's `gnu_dev_major` and `gnu_dev_minor` find them.
fn split(device: u64) -> (u64, u64) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff & 0xffff_ffff);
    (major, minor)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A node's number; -1 stands for none.
fn node(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a partition behind a controller of node 1; a virtual disk; two interfaces.
    fn picture() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let nvme = "devices/pci0000:40/0000:41:00.0/nvme/nvme0/nvme0n1";
        put("devices/pci0000:40/0000:41:00.0/numa_node", "1\n");
        put(&format!("{nvme}/queue/nr_requests"), "1023\n");
        put(&format!("{nvme}/nvme0n1p2/partition"), "2\n");
        put("devices/virtual/block/dm-0/queue/nr_requests", "128\n");
        put("devices/pci0000:00/0000:00:03.0/numa_node", "0\n");
        put("devices/pci0000:00/0000:00:04.0/numa_node", "-1\n");
        put("devices/virtual/net/lo/mtu", "65536\n");
        put("devices/system/node/node1/meminfo", "");
        let link = |name: &str, to: &str| {
            let name = root.path().join(name);
            fs::create_dir_all(name.parent().expect("a folder")).expect("made");
            std::os::unix::fs::symlink(root.path().join(to), name).expect("linked");
        };
        link("dev/block/259:0", nvme);
        link("dev/block/259:2", &format!("{nvme}/nvme0n1p2"));
        link("dev/block/253:0", "devices/virtual/block/dm-0");
        link("class/net/eth0/device", "devices/pci0000:00/0000:00:03.0");
        link("class/net/eth1/device", "devices/pci0000:00/0000:00:04.0");
        link("class/net/lo", "devices/virtual/net/lo");
        root
    }

    fn device(major: u64, minor: u64) -> u64 {
        (major & 0xfff) << 8 | (major & !0xfff) << 32 | (minor & 0xff) | (minor & !0xff) << 12
    }

    #[test]
    fn device_numbers_come_apart() {
        for (major, minor) in [(259, 2), (8, 1), (0, 54), (4095, 1_048_575), (70_000, 300)] {
            assert_eq!(split(device(major, minor)), (major, minor));
        }
    }

    #[test]
    fn queues_and_nodes_of_disks() {
        let root = picture();
        let sysfs = Sysfs::at(root.path());
        assert_eq!(sysfs.queue_depth(device(259, 0)), Some(1023));
        assert_eq!(sysfs.queue_depth(device(259, 2)), Some(1023), "a partition's is its disk's");
        assert_eq!(sysfs.queue_depth(device(253, 0)), Some(128));
        assert_eq!(sysfs.queue_depth(device(0, 54)), None, "no block device");
        assert_eq!(sysfs.disk_node(device(259, 2)), Some(1));
        assert_eq!(sysfs.disk_node(device(253, 0)), None);
    }

    #[test]
    fn nodes_of_interfaces_and_of_memory() {
        let root = picture();
        let sysfs = Sysfs::at(root.path());
        assert_eq!(sysfs.nic_node("eth0"), Some(0));
        assert_eq!(sysfs.nic_node("eth1"), None, "-1: the firmware does not say");
        for name in ["lo", "eth9", "", "../net/eth0", "."] {
            assert_eq!(sysfs.nic_node(name), None, "{name}");
            assert_eq!(sysfs.has_nic(name), name == "lo", "{name}");
        }
        assert!(sysfs.has_node(1) && !sysfs.has_node(0));
    }
}
