//! Counters of the rings. A ring belongs to one thread, which publishes a copy now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use diskstream_ring::Stats;

use super::sample::as_float;
use super::{Kind, Samples, Source};

/// The last published copy of one ring's counters.
#[derive(Debug)]
pub struct RingStats {
    /// In the order of [`Stats::fields`]. Written by the ring's thread only.
    fields: Box<[AtomicU64]>,
    zero_copy_addresses: AtomicU64,
    busy_polls: AtomicBool,
}

impl Default for RingStats {
    fn default() -> RingStats {
        RingStats {
            fields: Stats::default().fields().map(|_| AtomicU64::new(0)).collect(),
            zero_copy_addresses: AtomicU64::new(0),
            busy_polls: AtomicBool::new(false),
        }
    }
}

impl RingStats {
    /// Stores a copy: one plain store per counter. For the ring's own thread, about once a turn or a hundred milliseconds.
    pub fn publish(&self, stats: &Stats) {
        for (field, (.., value)) in self.fields.iter().zip(stats.fields()) {
            field.store(value, Relaxed);
        }
    }

    /// A counter of the last copy, by its field's name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let counters = Stats::default();
        let mut fields = counters.fields();
        let at = fields.position(|(field, ..)| field == name)?;
        self.fields.get(at).map(|value| value.load(Relaxed))
    }

    /// Stores what is in use of the network path. For the ring's own thread, with [`RingStats::publish`].
    pub fn publish_path(&self, zero_copy_addresses: usize, busy_polls: bool) {
        self.zero_copy_addresses.store(zero_copy_addresses as u64, Relaxed);
        self.busy_polls.store(busy_polls, Relaxed);
    }

    /// Local addresses whose sends leave without a copy.
    #[must_use]
    pub fn zero_copy_addresses(&self) -> u64 {
        self.zero_copy_addresses.load(Relaxed)
    }

    /// Whether the kernel took the wish to busy-poll.
    #[must_use]
    pub fn busy_polls(&self) -> bool {
        self.busy_polls.load(Relaxed)
    }

    fn values(&self) -> impl Iterator<Item = u64> {
        self.fields.iter().map(|field| field.load(Relaxed))
    }
}

/// The rings of all shards, in their order.
pub struct RingSource(pub Vec<Arc<RingStats>>);

impl Source for RingSource {
    fn collect(&self, samples: &mut Samples) {
        let shards: Vec<Vec<u64>> = self.0.iter().map(|ring| ring.values().collect()).collect();
        for (at, (name, help, _)) in Stats::default().fields().enumerate() {
            let name = format!("ring_{name}_total");
            let values = shards.iter().map(|values| as_float(values[at]));
            super::sources::by_shard(samples, &name, help, Kind::Counter, &Vec::new(), values);
        }
    }
}
