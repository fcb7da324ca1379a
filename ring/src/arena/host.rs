//! What the host says about its memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that can be used without swapping (`MemAvailable`); `None` where `/proc` is hidden.
pub(super) fn available_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Where the kernel tells of its memory nodes.
pub(super) const NODES: &str = "/sys/devices/system/node";

/// Where the kernel counts the huge pages of a size: the host's, or those of one memory node.
pub(super) fn huge_pages_folder(page_bytes: usize, node: Option<(&Path, u32)>) -> PathBuf {
    let folder = match node {
        None => PathBuf::from("/sys/kernel/mm/hugepages"),
        Some((nodes, node)) => nodes.join(format!("node{node}/hugepages")),
    };
    folder.join(format!("hugepages-{}kB", page_bytes / 1024))
}

/// Free reserved huge pages of a size; 0 also where there is no such size.
pub(super) fn free_huge_pages(page_bytes: usize, node: Option<(&Path, u32)>) -> usize {
    let path = huge_pages_folder(page_bytes, node).join("free_hugepages");
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Bytes of small pages that a memory node can give without swapping; `None` where the kernel does not tell.
///
/// `MemAvailable` is told of the whole host only. This is what it is made of: free pages, and those of files and of reclaimable slabs,
/// less what the kernel does not go below. For that a 64th is taken: guessed, above the watermarks that the kernel sets by itself
/// (256 MiB at most for all nodes, and a quarter more).
pub(super) fn node_available_bytes(nodes: &Path, node: u32) -> Option<usize> {
    let text = fs::read_to_string(nodes.join(format!("node{node}/meminfo"))).ok()?;
    // Lines are like `Node 1 MemFree:  18541560 kB`.
    let kib = |name: &str| -> Option<usize> {
        let line = |line: &str| {
            let (key, value) = line.split_once(':')?;
            let same = key.rsplit(' ').next() == Some(name);
            same.then(|| value.trim().strip_suffix("kB")?.trim().parse().ok())?
        };
        text.lines().find_map(line)
    };
    let files =
        ["Active(file)", "Inactive(file)", "SReclaimable"].map(|name| kib(name).unwrap_or(0));
    let given = files.iter().fold(kib("MemFree")?, |sum, kib| sum.saturating_add(*kib));
    given.saturating_sub(kib("MemTotal")? / 64).checked_mul(1024)
}

/// True when asking for transparent huge pages can have an effect.
pub(super) fn transparent_huge_pages() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| !text.contains("[never]"))
}
