//! What the shards are given of each vDisk besides its bytes: which store it lies on, whether it is to stay in the cache, and what boots
//! read of it.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::bail;
use diskstream_vdisk::{DataFile, FlatMap, SECTOR_BYTES, Vdisk, WarmList};
use diskstream_wire::ContentId;

use crate::cli::{Bytes, NumaNode, StoreDepth};
use crate::settings::{Settings, VdiskSetting};
use crate::shard::{Feed, Limits, Recorder, STORES_MAX, VdiskEntry};
use crate::sysfs::Sysfs;

/// Reads that a FUSE store is asked at once. Derived: what the kernel hands a server at once (`max_background`); the rest would wait in the
/// kernel, in the order in which it came.
const DEPTH_OF_FUSE: u16 = 12;
/// Reads that another store without a queue of its own is asked at once: NFS, btrfs, overlays, whatever lies over several disks. Guessed:
/// that of an NVMe disk's queue in small; they have a device below that nobody names here.
const DEPTH_UNKNOWN: u16 = 256;

/// The memory node that the cache is to lie on; none: the kernel chooses.
///
/// # Errors
/// When a node or an interface was named that the host does not have.
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
        NumaNode::Nic(name) if !sysfs.has_nic(name) => {
            bail!("--numa-node nic:{name}: this host has no such interface; see `ip link`")
        }
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

/// What the shards are given, and what the control side goes on with.
pub(crate) struct Provided {
    pub(crate) entries: Vec<Arc<VdiskEntry>>,
    /// The limits, with what was learned about the stores.
    pub(crate) limits: Limits,
    /// Names of the stores, by number.
    pub(crate) stores: Vec<String>,
    pub(crate) known: KnownBoots,
}

/// What is known of earlier boots.
#[derive(Debug, Default)]
pub(crate) struct KnownBoots {
    /// One for each vDisk, in the order of the entries.
    pub(crate) lists: Vec<WarmList>,
    /// Lists that were of no use.
    pub(crate) ignored: u64,
}

/// Provides for the shards, for a cache with so many frames that can hold a block.
///
/// # Errors
/// When the cache is too small for what is to stay in it.
pub(crate) fn provide(
    settings: &Settings,
    vdisks: &[Option<Vdisk>],
    frames: usize,
) -> anyhow::Result<Provided> {
    let stores = Stores::of(vdisks);
    let mut limits = settings.limits;
    limits.stores = stores.count();
    limits.store_depths = stores.depths(settings, &Sysfs::host());
    check_frames(frames, settings)?;
    let kept = Kept::of(settings, vdisks);
    kept.check(frames, settings)?;
    warn_of_twins(settings, vdisks);
    let mut known = KnownBoots::default();
    let mut entries = Vec::new();
    for (config, vdisk) in settings.vdisks.iter().zip(vdisks) {
        let mut list = WarmList::default();
        entries.push(match vdisk {
            Some(vdisk) => {
                let store = stores.number(vdisk.identity().dev);
                let mut entry = VdiskEntry { store, ..here(settings, config, vdisk) };
                entry.kept = kept.contents.contains(&entry.content_id);
                if settings.warm_up && !entry.kept {
                    entry.recorder = Some(Recorder::new(blocks_of(vdisk, settings)));
                    let loaded = crate::serve::load_warm_list(config, vdisk, settings.block_bytes);
                    known.ignored += u64::from(loaded.is_none());
                    list = loaded.unwrap_or_default();
                }
                entry
            }
            None => absent(&config.name),
        });
        known.lists.push(list);
    }
    feed(&mut entries, &known.lists, settings, frames - kept.blocks.min(frames));
    let entries = entries.into_iter().map(Arc::new).collect();
    Ok(Provided { entries, limits, stores: stores.names(), known })
}

/// A vDisk that is not here takes no devices, and says so to each.
fn absent(name: &str) -> VdiskEntry {
    let nothing = Arc::new(FlatMap::dense(SECTOR_BYTES));
    let entry = VdiskEntry::new(name, ContentId::default(), nothing, None);
    entry.eligible.store(false, Relaxed);
    entry
}

fn here(settings: &Settings, config: &VdiskSetting, vdisk: &Vdisk) -> VdiskEntry {
    let hashes = Some(vdisk.block_hashes_shared());
    let content_id = ContentId(vdisk.content_id().0);
    let mut entry = VdiskEntry::new(&config.name, content_id, vdisk.map_shared(), hashes);
    if config.kept {
        let blocks = blocks_of(vdisk, settings);
        entry.feed = Feed::all(u32::try_from(blocks).expect("no more than frames"));
    }
    entry
}

/// Gives each vDisk what its boots are to find in memory. All lists together get half of the frames that nothing stays in, or the
/// last blocks of them would push out the first; each an equal part, and what some leave goes to the others.
fn feed(entries: &mut [VdiskEntry], lists: &[WarmList], settings: &Settings, frames: usize) {
    let mut wanted: Vec<(usize, Vec<u32>)> = lists
        .iter()
        .enumerate()
        .map(|(n, list)| {
            let blocks = entries[n].size_bytes.div_ceil(settings.block_bytes as u64);
            (n, list.blocks().filter(|&block| u64::from(block) < blocks).collect())
        })
        .filter(|(_, blocks): &(usize, Vec<u32>)| !blocks.is_empty())
        .collect();
    wanted.sort_by_key(|(_, blocks)| blocks.len());
    let (mut room, mut left) = (frames / 2, wanted.len());
    for (n, mut blocks) in wanted {
        blocks.truncate(room / left);
        room -= blocks.len();
        left -= 1;
        entries[n].feed = Feed::of(blocks.into());
    }
}

fn blocks_of(vdisk: &Vdisk, settings: &Settings) -> u64 {
    vdisk.size_bytes().div_ceil(settings.block_bytes as u64)
}

/// Two names of the same bytes are one thing to the cache. On two stores that ties their fates together, which nobody expects.
fn warn_of_twins(settings: &Settings, vdisks: &[Option<Vdisk>]) {
    let here = || {
        let pairs = settings.vdisks.iter().zip(vdisks);
        pairs.filter_map(|(config, vdisk)| Some((&config.name, vdisk.as_ref()?)))
    };
    for (n, (name, vdisk)) in here().enumerate() {
        let store = vdisk.identity().dev;
        let same = |other: &Vdisk| other.content_id() == vdisk.content_id();
        let twin = here().take(n).find(|(_, other)| same(other) && other.identity().dev != store);
        if let Some((twin, _)) = twin {
            tracing::warn!(
                "vDisks {twin} and {name} are the same bytes on two stores: each block is read once, from the store of whichever is asked \
                 first, and while that store hangs, devices of the other wait for such blocks too. Let both vDisks name one file"
            );
        }
    }
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
            Bytes((settings.cache_bytes + (least - frames) * settings.block_bytes) as u64)
        );
    }
    Ok(())
}

/// What is pinned in the cache. By content: another vDisk of the same bytes shares its blocks, and must not load them as ones that may go.
struct Kept<'a> {
    names: Vec<&'a str>,
    contents: HashSet<ContentId>,
    blocks: usize,
}

impl Kept<'_> {
    fn of<'a>(settings: &'a Settings, vdisks: &[Option<Vdisk>]) -> Kept<'a> {
        let mut kept = Kept { names: Vec::new(), contents: HashSet::new(), blocks: 0 };
        let pairs = settings.vdisks.iter().zip(vdisks).filter(|(config, _)| config.kept);
        for (config, vdisk) in pairs {
            let Some(vdisk) = vdisk else { continue };
            kept.names.push(&config.name);
            if kept.contents.insert(ContentId(vdisk.content_id().0)) {
                let blocks = blocks_of(vdisk, settings);
                kept.blocks = usize::try_from(blocks)
                    .map_or(usize::MAX, |blocks| kept.blocks.saturating_add(blocks));
            }
        }
        kept
    }

    /// What stays for good leaves room for what comes and goes.
    fn check(&self, frames: usize, settings: &Settings) -> anyhow::Result<()> {
        let flights = usize::from(settings.limits.flights_max) * settings.cores.len();
        let blocks = self.blocks;
        if blocks == 0 || blocks.saturating_add(flights) <= frames {
            return Ok(());
        }
        // What the arena holds besides blocks stays as it is.
        let other = settings.cache_bytes - frames * settings.block_bytes;
        let bytes = |blocks: usize| Bytes(blocks.saturating_mul(settings.block_bytes) as u64);
        bail!(
            "{} is to be pinned in the cache: that takes {blocks} blocks, and {flights} more for blocks on their way to {} shards, but \
             --cache {} holds {frames} of {}; give --cache at least {}, or pin less (--cache-pinned, cache_pinned)",
            self.names.join(", "),
            settings.cores.len(),
            Bytes(settings.cache_bytes as u64),
            bytes(1),
            Bytes(bytes(blocks.saturating_add(flights)).0.saturating_add(other as u64))
        )
    }
}

/// The file systems that images lie on: what may hang as a whole.
struct Stores {
    devices: Vec<u64>,
    /// Those of them that are FUSE's.
    fuse: HashSet<u64>,
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
        }
        let fuse = vdisks.iter().flatten().filter(|vdisk| {
            let may_block = |file: &DataFile| {
                // A file that cannot be asked is not read, either.
                diskstream_ring::file::may_block(file.buffered().as_fd()).unwrap_or(false)
            };
            vdisk.files().iter().any(may_block)
        });
        Stores { devices, fuse: fuse.map(|vdisk| vdisk.identity().dev).collect() }
    }

    fn count(&self) -> u16 {
        u16::try_from(self.devices.len().clamp(1, STORES_MAX)).expect("STORES_MAX fits")
    }

    fn number(&self, device: u64) -> u16 {
        let at = self.devices.iter().position(|&other| other == device);
        let at = at.expect("every image's file system is listed");
        u16::try_from(at).map_or(self.count() - 1, |at| at.min(self.count() - 1))
    }

    /// The device numbers of each, as `lsblk` and `/proc/self/mountinfo` show them.
    fn names(&self) -> Vec<String> {
        let mut names = vec![String::new(); usize::from(self.count())];
        for &device in &self.devices {
            let name = &mut names[usize::from(self.number(device))];
            let comma = if name.is_empty() { "" } else { "," };
            *name += &format!("{comma}{}", Sysfs::name_of(device));
        }
        names
    }

    /// Reads that one shard asks each store at once: its part of what the store's device takes.
    fn depths(&self, settings: &Settings, sysfs: &Sysfs) -> [u16; STORES_MAX] {
        let mut depths = [settings.limits.flights_max; STORES_MAX];
        for &device in &self.devices {
            let told = sysfs.queue_depth(device);
            let (depth, why) = match (settings.store_depth, told) {
                (StoreDepth::Is(depth), _) => (depth, "--store-depth"),
                (StoreDepth::Auto, Some(depth)) => (depth, "what its device's queue holds"),
                (StoreDepth::Auto, None) if self.fuse.contains(&device) => {
                    (DEPTH_OF_FUSE, "what FUSE hands its server")
                }
                (StoreDepth::Auto, None) => (DEPTH_UNKNOWN, "no block device of its own says less"),
            };
            let each = (depth / settings.shards().max(1)).clamp(1, settings.limits.flights_max);
            // Stores that share a number are asked as the weakest of them can.
            let of = &mut depths[usize::from(self.number(device))];
            *of = each.min(*of);
            tracing::info!(
                "store {} (device {}): asked for up to {each} blocks at once by each shard ({why}: {depth})",
                self.number(device),
                Sysfs::name_of(device)
            );
        }
        depths
    }
}

#[cfg(test)]
mod tests;
