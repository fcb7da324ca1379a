//! What the shards are given of each vDisk besides its bytes: which store it lies on, whether it is to stay in the cache, and what boots
//! read of it.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::bail;
use diskstream_vdisk::{FlatMap, SECTOR_BYTES, Vdisk, WarmList};
use diskstream_wire::ContentId;

use crate::cli::{Bytes, NumaNode, StoreDepth};
use crate::settings::{Settings, VdiskSetting};
use crate::shard::{Feed, Limits, Recorder, STORES_MAX, VdiskEntry};
use crate::sysfs::Sysfs;

/// Reads that a store is asked at once when nobody says how many it takes. Derived: the kernel's own default for a device's queue
/// is 64 to 256.
const DEPTH_UNKNOWN: u16 = 128;

/// The memory node that the cache is to lie on; none: the kernel chooses.
///
/// # Errors
/// When a node was named that the host does not have.
pub(crate) fn memory_node(settings: &Settings) -> anyhow::Result<Option<u32>> {
    node_by(settings, &Sysfs::host())
}

fn node_by(settings: &Settings, sysfs: &Sysfs) -> anyhow::Result<Option<u32>> {
    let (node, of) = match &settings.numa_node {
        NumaNode::Off => return Ok(None),
        NumaNode::Is(node) if !sysfs.has_node(*node) => {
            bail!(
                "--numa-node {node}: this host has no such memory node; see /sys/devices/system/node, or `numactl -H`"
            )
        }
        NumaNode::Is(node) => (Some(*node), "the flag".to_owned()),
        NumaNode::Nic(name) => (sysfs.nic_node(name), format!("interface {name}")),
        NumaNode::Disk => {
            let paths = settings.vdisks.iter().filter_map(|vdisk| vdisk.path.as_ref());
            let devices = paths.filter_map(|path| Some(std::fs::metadata(path).ok()?.dev()));
            // The first image's: a cache cannot lie on several.
            (
                devices.map(|device| sysfs.disk_node(device)).next().flatten(),
                "the images' disk".to_owned(),
            )
        }
    };
    match node {
        Some(node) => tracing::info!("the cache lies on memory node {node}, that of {of}"),
        None => tracing::warn!(
            "--numa-node {}: the kernel names no memory node of {of} (a host with one node, or no physical device); it chooses itself",
            settings.numa_node
        ),
    }
    Ok(node)
}

/// The vDisks for the shards, and the limits with what was learned about their stores.
///
/// # Errors
/// When the cache is too small for what is to stay in it.
pub(crate) fn provide(
    settings: &Settings,
    vdisks: &[Option<Vdisk>],
) -> anyhow::Result<(Vec<Arc<VdiskEntry>>, Limits)> {
    let stores = Stores::of(vdisks);
    let mut limits = settings.limits;
    limits.stores = u16::try_from(stores.devices.len().max(1)).expect("STORES_MAX fits");
    limits.store_depth = stores.depth(settings, &Sysfs::host());
    limits.pace_bytes_per_second =
        settings.network.pace.bytes_per_shard(settings.listen, settings.shards());
    let frames = settings.cache_bytes / settings.block_bytes;
    check_frames(frames, settings)?;
    check_kept(frames, settings, vdisks)?;
    let entries = settings.vdisks.iter().zip(vdisks).map(|(config, vdisk)| {
        let entry = match vdisk {
            Some(vdisk) => {
                let store = stores.number(vdisk.identity().dev);
                VdiskEntry { store, ..here(settings, config, vdisk, frames) }
            }
            None => absent(&config.name),
        };
        Arc::new(entry)
    });
    Ok((entries.collect(), limits))
}

/// A vDisk that is not here takes no devices, and says so to each.
fn absent(name: &str) -> VdiskEntry {
    let nothing = Arc::new(FlatMap::dense(SECTOR_BYTES));
    let entry = VdiskEntry::new(name, ContentId::default(), nothing, None);
    entry.eligible.store(false, Relaxed);
    entry
}

fn here(settings: &Settings, config: &VdiskSetting, vdisk: &Vdisk, frames: usize) -> VdiskEntry {
    let hashes = Some(vdisk.block_hashes_shared());
    let content_id = ContentId(vdisk.content_id().0);
    let mut entry = VdiskEntry::new(&config.name, content_id, vdisk.map_shared(), hashes);
    let blocks = blocks_of(vdisk.size_bytes(), settings.block_bytes);
    if config.kept {
        entry.kept = true;
        entry.feed = Feed::all(u32::try_from(blocks).expect("no more than frames"));
    } else if settings.warm_up {
        entry.recorder = Some(Recorder::new(blocks));
        let list = crate::serve::load_warm_list(config, vdisk, settings.block_bytes);
        entry.feed = Feed::of(first_half(&list, blocks, frames));
    }
    entry
}

/// The blocks to load for a boot: no more than half of the cache holds, or the last of them would push out the first.
fn first_half(list: &WarmList, blocks: u64, frames: usize) -> Box<[u32]> {
    list.blocks().filter(|&block| u64::from(block) < blocks).take(frames / 2).collect()
}

fn blocks_of(size_bytes: u64, block_bytes: usize) -> u64 {
    size_bytes.div_ceil(block_bytes as u64)
}

/// Each flight holds a frame, and each reply that is on its way pins one.
fn check_frames(frames: usize, settings: &Settings) -> anyhow::Result<()> {
    let flights = usize::from(settings.limits.flights_max) * settings.cores.len();
    let least = flights.div_ceil(2);
    if frames < least {
        bail!(
            "--cache {}: {frames} blocks of {} are too few for {} shards that load up to {} blocks each at once; give at least {}, or fewer \
             --cores",
            Bytes(settings.cache_bytes as u64),
            Bytes(settings.block_bytes as u64),
            settings.cores.len(),
            settings.limits.flights_max,
            Bytes((least * settings.block_bytes) as u64)
        );
    }
    Ok(())
}

/// What stays for good leaves room for what comes and goes.
fn check_kept(frames: usize, settings: &Settings, vdisks: &[Option<Vdisk>]) -> anyhow::Result<()> {
    let kept = settings.vdisks.iter().zip(vdisks).filter(|(config, _)| config.kept);
    let sizes = kept
        .filter_map(|(config, vdisk)| Some((config.name.as_str(), vdisk.as_ref()?.size_bytes())));
    let sizes: Vec<(&str, u64)> = sizes.collect();
    let block = settings.block_bytes;
    let blocks: u64 = sizes.iter().map(|&(_, size)| blocks_of(size, block)).sum();
    let flights = u64::from(settings.limits.flights_max) * settings.cores.len() as u64;
    if blocks == 0 || blocks + flights <= frames as u64 {
        return Ok(());
    }
    let names: Vec<&str> = sizes.iter().map(|&(name, _)| name).collect();
    bail!(
        "{} is to stay in the cache: that takes {blocks} blocks, and {flights} more for blocks on their way to {} shards, but --cache {} \
         holds {frames} of {}; give --cache at least {}, or keep less (--cache-pinned, cache_pinned)",
        names.join(", "),
        settings.cores.len(),
        Bytes(settings.cache_bytes as u64),
        Bytes(block as u64),
        Bytes((blocks + flights) * block as u64)
    )
}

/// The file systems that images lie on: what may hang as a whole.
struct Stores {
    devices: Vec<u64>,
}

impl Stores {
    fn of(vdisks: &[Option<Vdisk>]) -> Stores {
        let mut devices: Vec<u64> = vdisks.iter().flatten().map(|v| v.identity().dev).collect();
        devices.sort_unstable();
        devices.dedup();
        if devices.len() > STORES_MAX {
            tracing::warn!(
                "the images lie on {} file systems; those past the first {} share one limit of disk reads: if one of them hangs, so do they",
                devices.len(),
                STORES_MAX - 1
            );
            devices.truncate(STORES_MAX);
        }
        Stores { devices }
    }

    fn number(&self, device: u64) -> u16 {
        let at = self.devices.iter().position(|&other| other == device);
        let last = self.devices.len().saturating_sub(1);
        u16::try_from(at.unwrap_or(last)).expect("STORES_MAX fits")
    }

    /// Reads that one shard asks one store at once: its part of what the deepest of them takes.
    fn depth(&self, settings: &Settings, sysfs: &Sysfs) -> u16 {
        let (depth, why) = match settings.store_depth {
            StoreDepth::Is(depth) => (depth, "--store-depth"),
            StoreDepth::Auto => {
                let told =
                    self.devices.iter().filter_map(|&device| sysfs.queue_depth(device)).max();
                told.map_or((DEPTH_UNKNOWN, "no device says how many it takes"), |depth| {
                    (depth, "what the device's queue holds")
                })
            }
        };
        let shards = settings.shards().max(1);
        let each = depth.div_ceil(shards).clamp(1, settings.limits.flights_max);
        tracing::info!(
            "{} stores, each asked for up to {each} blocks at once by each shard ({why}: {depth})",
            self.devices.len()
        );
        each
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(image: &std::path::Path, flags: &[&str]) -> Settings {
        let image = image.to_str().expect("UTF-8");
        let args = ["diskstream-node", "serve", image].into_iter().chain(flags.iter().copied());
        let cli = Cli::try_parse_from(args).expect("valid flags");
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        Settings::resolve(&args).expect("an image that is there")
    }

    fn error(image: &std::path::Path, flags: &[&str]) -> String {
        let settings = settings(image, flags);
        let vdisk = Vdisk::open(image, &diskstream_vdisk::OpenOptions::default()).expect("opens");
        match provide(&settings, &[Some(vdisk)]) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_cache_that_cannot_hold_what_it_must_is_refused_with_the_sum() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.img");
        std::fs::write(&image, vec![7; 4 << 20]).expect("an image");
        let small = error(&image, &["--cores", "0", "--cache", "4M"]);
        assert!(small.contains("--cache 4M") && small.contains("at least 8M"), "{small}");
        assert_eq!(error(&image, &["--cores", "0", "--cache", "8M"]), "");
        let kept = error(&image, &["--cores", "0", "--cache", "19M", "--cache-pinned"]);
        assert!(kept.contains("64 blocks") && kept.contains("at least 20M"), "{kept}");
        assert_eq!(error(&image, &["--cores", "0", "--cache", "20M", "--cache-pinned"]), "");
    }

    #[test]
    fn what_is_kept_is_loaded_whole_and_what_boots_read_comes_from_the_list() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.img");
        std::fs::write(&image, vec![7; 4 << 20]).expect("an image");
        let vdisk =
            || Vdisk::open(&image, &diskstream_vdisk::OpenOptions::default()).expect("opens");
        let mut list = WarmList::default();
        list.learn(&[5, 1, 64]);
        list.save(&image, vdisk().content_id(), 64 << 10).expect("written");
        let entry = |flags: &[&str]| {
            let settings = settings(&image, flags);
            let (mut entries, limits) = provide(&settings, &[Some(vdisk())]).expect("fits");
            assert!(limits.stores == 1 && limits.store_depth >= 1);
            entries.pop().expect("one")
        };
        let kept = entry(&["--cache-pinned"]);
        assert!(kept.kept && kept.feed.is_active() && kept.recorder.is_none());
        assert_eq!(kept.feed.blocks(), 64);
        let usual = entry(&[]);
        assert!(!usual.kept && !usual.feed.is_active() && usual.recorder.is_some());
        assert_eq!(usual.feed.blocks(), 2, "what is past the end is left out");
        let off = entry(&["--warm-up", "off"]);
        assert!(off.feed.blocks() == 0 && off.recorder.is_none());
    }
}
