//! The node's own cache as a policy: the real one, single-threaded, in plain memory.

use std::sync::Arc;

use anyhow::Context;
use diskstream_node::cache::{BLOCK_BYTES_MIN, BlockKey, Cache, Lookup, Purpose, ShardCache};
use diskstream_ring::{Arena, ArenaConfig, HugePages};

use super::policies::Policy;

/// See the module's documentation. Its blocks are as small as can be: their bytes are not looked at.
pub struct Ours {
    cache: ShardCache,
}

impl Ours {
    /// A cache of so many blocks.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(frames: usize) -> anyhow::Result<Ours> {
        let config = ArenaConfig { bytes: frames * BLOCK_BYTES_MIN, huge_pages: HugePages::Off };
        let arena = Arc::new(Arena::new(&config).context("memory for the cache under test")?);
        let cache = Arc::new(Cache::new(arena, BLOCK_BYTES_MIN)?);
        Ok(Ours { cache: cache.for_shard(0) })
    }

    /// A second went by: what the node's control thread says once a second.
    pub fn tick(&self) {
        self.cache.tick();
    }
}

impl Policy for Ours {
    fn access(&mut self, block: u32) -> bool {
        let key = BlockKey { generation: 1, block: u64::from(block) };
        match self.cache.lookup(key) {
            Lookup::Hit(pin) => {
                self.cache.unpin(pin);
                true
            }
            Lookup::Load(ticket) => {
                let (pin, _) = self.cache.publish(ticket, 0, Purpose::Demand);
                self.cache.unpin(pin);
                false
            }
            Lookup::Wait | Lookup::Full => unreachable!("nobody else uses this cache"),
        }
    }
}
