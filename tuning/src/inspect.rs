//! Reading a host's facts from /proc and /sys, or from any directory that looks like them.
use crate::facts::{BlockDevice, CpuPolicy, Facts, HugePages, Limit, Memlock, Nic, Unread};
use std::cell::RefCell;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most bytes read of one file: everything here is a line or a short table.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Reads what there is below `root` ("/" for the host itself).
#[must_use]
pub fn inspect(root: &Path) -> Facts {
    let tree = Tree { root, unread: RefCell::default() };
    let mut facts = Facts {
        kernel_release: tree.text("proc/sys/kernel/osrelease"),
        // Without the file the kernel knows no switch (before 6.6): on for everybody.
        io_uring_disabled: tree.number("proc/sys/kernel/io_uring_disabled"),
        cores_online: tree.text("sys/devices/system/cpu/online").and_then(|list| count_list(&list)),
        cpu_policies: cpu_policies(&tree),
        memory_total_bytes: meminfo(&tree, "MemTotal"),
        memory_available_bytes: meminfo(&tree, "MemAvailable"),
        huge_pages: huge_pages(&tree),
        transparent_huge_pages: tree
            .text("sys/kernel/mm/transparent_hugepage/enabled")
            .and_then(|choices| chosen(&choices).0),
        memlock: memlock(&tree),
        rmem_max_bytes: tree.number("proc/sys/net/core/rmem_max"),
        wmem_max_bytes: tree.number("proc/sys/net/core/wmem_max"),
        nics: nics(&tree),
        block_devices: block_devices(&tree),
        unread: Vec::new(),
    };
    facts.unread = tree.unread.into_inner();
    facts
}

/// A directory to read from, and what could not be.
struct Tree<'r> {
    root: &'r Path,
    unread: RefCell<Vec<Unread>>,
}

impl Tree<'_> {
    fn full(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn note(&self, path: &str, reason: &dyn Display) {
        let unread = Unread { path: format!("/{path}"), reason: reason.to_string() };
        let mut all = self.unread.borrow_mut();
        if !all.contains(&unread) {
            all.push(unread);
        }
    }

    /// The file's text without its last line end; `None` is noted.
    fn text(&self, path: &str) -> Option<String> {
        match fs::read(self.full(path)) {
            Ok(mut bytes) => {
                bytes.truncate(FILE_BYTES_MAX);
                Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
            }
            Err(error) => {
                self.note(path, &error);
                None
            }
        }
    }

    /// The file's text, where it is no news that there is none.
    fn optional(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.full(path)).ok()?.trim_end().to_owned())
    }

    fn number<N: FromStr>(&self, path: &str) -> Option<N> {
        let text = self.text(path)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.note(path, &format!("{text:?} is not a number in range"));
        }
        number
    }

    /// The names in a directory, sorted as people would: `policy2` before `policy10`.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.full(path)) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort_by_key(|name| {
            let (stem, number) = split_number(name);
            (stem.to_owned(), number, name.clone())
        });
        names
    }
}

/// "policy10" is ("policy", 10).
fn split_number(name: &str) -> (&str, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().unwrap_or(0))
}

/// How many cores a list such as "0-3,8,10-11" names.
fn count_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Reads "mq-deadline kyber [none]": the choice in brackets, and all choices.
fn chosen(choices: &str) -> (Option<String>, Vec<String>) {
    let mut chosen = None;
    let mut all = Vec::new();
    for word in choices.split_whitespace() {
        let bare = word.trim_start_matches('[').trim_end_matches(']');
        if bare.len() < word.len() {
            chosen = Some(bare.to_owned());
        }
        all.push(bare.to_owned());
    }
    (chosen, all)
}

fn cpu_policies(tree: &Tree<'_>) -> Vec<CpuPolicy> {
    const DIRECTORY: &str = "sys/devices/system/cpu/cpufreq";
    let policies = tree.names(DIRECTORY).into_iter().filter(|name| name.starts_with("policy"));
    policies
        .filter_map(|name| {
            let governor = tree.text(&format!("{DIRECTORY}/{name}/scaling_governor"))?;
            let available =
                tree.optional(&format!("{DIRECTORY}/{name}/scaling_available_governors"));
            let available = available.unwrap_or_default();
            let available = available.split_whitespace().map(str::to_owned).collect();
            Some(CpuPolicy { name, governor, available })
        })
        .collect()
}

/// A line of /proc/meminfo, "MemTotal:  16384 kB", in bytes.
fn meminfo(tree: &Tree<'_>, key: &str) -> Option<u64> {
    const PATH: &str = "proc/meminfo";
    let table = tree.text(PATH)?;
    let value = table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let bytes = kib.and_then(|kib| kib.checked_mul(1024));
    if bytes.is_none() {
        tree.note(PATH, &format!("it has no valid line {key}"));
    }
    bytes
}

fn huge_pages(tree: &Tree<'_>) -> Vec<HugePages> {
    const DIRECTORY: &str = "sys/kernel/mm/hugepages";
    let mut pages: Vec<HugePages> = tree
        .names(DIRECTORY)
        .into_iter()
        .filter_map(|name| {
            let size_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |what| tree.number(&format!("{DIRECTORY}/{name}/{what}"));
            let (total, free) = (count("nr_hugepages")?, count("free_hugepages")?);
            Some(HugePages { size_kib, total, free, reserved: count("resv_hugepages")? })
        })
        .collect();
    pages.sort_by_key(|pages| pages.size_kib);
    pages
}

/// The line "Max locked memory  8388608  unlimited  bytes" of /proc/self/limits.
fn memlock(tree: &Tree<'_>) -> Option<Memlock> {
    const PATH: &str = "proc/self/limits";
    let table = tree.text(PATH)?;
    let limits = table.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let mut words = limits.unwrap_or_default().split_whitespace();
    let memlock = limit(words.next()).zip(limit(words.next()));
    if memlock.is_none() {
        tree.note(PATH, &"it has no valid line \"Max locked memory\"");
    }
    memlock.map(|(soft, hard)| Memlock { soft, hard })
}

fn limit(word: Option<&str>) -> Option<Limit> {
    match word? {
        "unlimited" => Some(Limit::Unlimited),
        bytes => bytes.parse().ok().map(Limit::Bytes),
    }
}

fn nics(tree: &Tree<'_>) -> Vec<Nic> {
    const DIRECTORY: &str = "sys/class/net";
    let with_device = |name: &String| tree.full(&format!("{DIRECTORY}/{name}/device")).exists();
    tree.names(DIRECTORY)
        .into_iter()
        .filter(with_device)
        .map(|name| {
            let read = |what| tree.optional(&format!("{DIRECTORY}/{name}/{what}"));
            let queues = tree.names(&format!("{DIRECTORY}/{name}/queues"));
            let count = |prefix| {
                let count = queues.iter().filter(|queue| queue.starts_with(prefix)).count();
                u32::try_from(count).unwrap_or(u32::MAX)
            };
            Nic {
                mtu: read("mtu").and_then(|mtu| mtu.parse().ok()),
                rx_queues: count("rx-"),
                tx_queues: count("tx-"),
                // -1, or EINVAL on reading: the link is down, or virtual.
                speed_mbit: read("speed").and_then(|speed| speed.parse().ok()),
                state: read("operstate"),
                name,
            }
        })
        .collect()
}

fn block_devices(tree: &Tree<'_>) -> Vec<BlockDevice> {
    const DIRECTORY: &str = "sys/block";
    // Loop, RAM, device-mapper and RAID devices pass requests on to those that have a device.
    let with_device = |name: &String| tree.full(&format!("{DIRECTORY}/{name}/device")).exists();
    tree.names(DIRECTORY)
        .into_iter()
        .filter(with_device)
        .map(|name| {
            let read = |what| tree.optional(&format!("{DIRECTORY}/{name}/queue/{what}"));
            let (scheduler, schedulers) = chosen(&read("scheduler").unwrap_or_default());
            BlockDevice {
                // "none" alone, without brackets: a device that has no choice.
                scheduler: scheduler.or_else(|| schedulers.first().cloned()),
                schedulers,
                read_ahead_kib: read("read_ahead_kb").and_then(|kib| kib.parse().ok()),
                rotational: read("rotational").map(|flag| flag == "1"),
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
