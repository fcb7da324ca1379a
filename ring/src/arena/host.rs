//! What the host says about its memory.

use std::fs;

/// Bytes that can be used without swapping (`MemAvailable`); `None` where `/proc` is hidden.
pub(super) fn available_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Free reserved huge pages of a size; 0 also when the host has no such size.
pub(super) fn free_huge_pages(page_bytes: usize) -> usize {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", page_bytes / 1024);
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// True when asking for transparent huge pages can have an effect.
pub(super) fn transparent_huge_pages() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| !text.contains("[never]"))
}
