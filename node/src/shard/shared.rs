//! What all shards of a node share: keys, farm, vDisks, cache, boot slots. Immutable or atomic.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use diskstream_ring::LocalAddr;
use diskstream_vdisk::{BlockHashes, ImageMap};
use diskstream_wire::time::Nanos;
use diskstream_wire::{ContentId, Endpoint, ImageMode, Mac, WriteCacheType};

use super::{BootSlots, Feed, HungStores, Limits, Line, Recorder};
use crate::cache::Cache;
use crate::farm::Farm;
use crate::trust::Keys;
use crate::view::{OwnLoad, ViewCell};

/// What all shards of a node share.
pub struct NodeShared {
    /// The farm's keys.
    pub keys: Keys,
    /// Nodes, devices and their vDisks.
    pub farm: Arc<Farm>,
    /// Which of the farm's nodes this is.
    pub own_node: usize,
    /// The vDisks, in the farm's order. Empty cell: still being hashed, and logins are told to wait.
    pub vdisks: OnceLock<Vec<Arc<VdiskEntry>>>,
    /// The block cache.
    pub cache: Arc<Cache>,
    /// Who is booting.
    pub boot_slots: BootSlots,
    /// Where logins are answered. An unspecified address stands for "where the question went".
    pub login_endpoint: SocketAddr,
    /// The I/O endpoint of each shard. An unspecified address stands for "where the question went".
    pub io_endpoints: Vec<SocketAddr>,
    /// Seed of the spread of MACs over shards: random, one for the node's life.
    pub placement_seed: [u8; 32],
    /// Seconds since 1970.
    pub wall_clock: WallClock,
    /// Sizes.
    pub limits: Limits,
    /// Which stores give nothing any more.
    pub hung_stores: HungStores,
    /// How fast all shards together send.
    pub line: Line,
    /// The other nodes of the farm.
    pub view: ViewCell,
    /// What this node serves, all shards together.
    pub own: OwnLoad,
}

impl NodeShared {
    /// The vDisks; none while they are being hashed.
    #[must_use]
    pub fn vdisks(&self) -> Option<&[Arc<VdiskEntry>]> {
        self.vdisks.get().map(Vec::as_slice)
    }

    /// The vDisk with this index.
    ///
    /// # Panics
    /// When there is none: indexes come from sessions, which exist only for vDisks.
    #[must_use]
    pub fn vdisk(&self, index: u32) -> &Arc<VdiskEntry> {
        &self.vdisks().expect("sessions exist only once the vDisks are hashed")[index as usize]
    }

    /// The shard that serves a MAC: always the same, so that it meets its duplicate there.
    #[must_use]
    pub fn shard_of(&self, mac: Mac) -> u16 {
        let hash = blake3::keyed_hash(&self.placement_seed, &mac.0);
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("32 bytes hold 8");
        let shards = self.io_endpoints.len() as u64;
        let shard = u64::from_le_bytes(*first) % shards;
        u16::try_from(shard).expect("SHARDS_MAX bounds the shards")
    }
}

/// One vDisk as the shards serve it.
pub struct VdiskEntry {
    /// Its name.
    pub name: String,
    /// What its bytes are.
    pub content_id: ContentId,
    /// First 8 bytes of the content id: the cache's key and what each read names.
    pub generation: u64,
    /// Bytes; a multiple of 512.
    pub size_bytes: u64,
    /// Where its bytes lie.
    pub map: Arc<dyn ImageMap>,
    /// What each 64 KiB must hash to; none: blocks are not verified.
    pub hashes: Option<Arc<BlockHashes>>,
    /// Whether it takes devices. Cleared for good when its file is found changed, and while a block of it is bad and another node
    /// has a sound copy.
    pub eligible: AtomicBool,
    /// A block of it was found bad since the start.
    pub damaged: AtomicBool,
    /// Bad blocks do not take it out of service: no other node serves it, so that what is sound of it is all that there is; or it was
    /// out of service for one before and had to come back.
    pub last_copy: AtomicBool,
    /// Sessions that it serves, all shards together; standby sessions do not count.
    pub sessions: AtomicU32,
    /// How devices use it.
    pub image_mode: ImageMode,
    /// Number of the version; 0 is the base.
    pub version: u32,
    /// Where devices are to keep what they write.
    pub write_cache: WriteCacheType,
    /// Bytes of the write cache that the farm prescribes; 0: the device decides.
    pub write_cache_bytes: u64,
    /// Which of [`Limits::stores`] it lies on.
    pub store: u16,
    /// Its blocks stay in the cache once they are there.
    pub kept: bool,
    /// What is loaded before devices ask for it.
    pub feed: Feed,
    /// Notes what starting devices read; none: nobody wants to know.
    pub recorder: Option<Recorder>,
}

impl VdiskEntry {
    /// A standard image without a prescribed write cache, eligible.
    #[must_use]
    pub fn new(
        name: &str,
        content_id: ContentId,
        map: Arc<dyn ImageMap>,
        hashes: Option<Arc<BlockHashes>>,
    ) -> VdiskEntry {
        VdiskEntry {
            name: name.to_owned(),
            content_id,
            generation: content_id.generation(),
            size_bytes: map.size_bytes(),
            map,
            hashes,
            eligible: AtomicBool::new(true),
            damaged: AtomicBool::new(false),
            last_copy: AtomicBool::new(false),
            sessions: AtomicU32::new(0),
            image_mode: ImageMode::Standard,
            version: 0,
            write_cache: WriteCacheType::Ram,
            write_cache_bytes: 0,
            store: 0,
            kept: false,
            feed: Feed::default(),
            recorder: None,
        }
    }

    /// Whether it takes devices.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.eligible.load(Relaxed)
    }

    /// Whether this node has bytes of it at all, eligible or not. One that is not here has no content id.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.content_id != ContentId::default()
    }
}

/// Seconds since 1970, from the shard's own clock and an offset that a driver keeps right.
#[derive(Debug, Default)]
pub struct WallClock(AtomicU64);

impl WallClock {
    /// A clock that shows `unix_seconds` at `now`.
    #[must_use]
    pub fn new(unix_seconds: u64, now: Nanos) -> WallClock {
        let clock = WallClock::default();
        clock.set(unix_seconds, now);
        clock
    }

    /// Sets it. Drivers do so now and then, since the host's clock may be set.
    pub fn set(&self, unix_seconds: u64, now: Nanos) {
        self.0.store(unix_seconds.saturating_sub(now.0 / 1_000_000_000), Relaxed);
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix_seconds(&self, now: Nanos) -> u64 {
        self.0.load(Relaxed).saturating_add(now.0 / 1_000_000_000)
    }
}

/// What to tell a device: `endpoint`, or its port at the address that the device asked.
#[must_use]
pub fn endpoint_for(endpoint: SocketAddr, asked: Option<LocalAddr>) -> Endpoint {
    if !endpoint.ip().is_unspecified() {
        return endpoint.into();
    }
    let ip: IpAddr = asked.map_or(endpoint.ip(), |local| local.ip);
    SocketAddr::new(ip, endpoint.port()).into()
}
