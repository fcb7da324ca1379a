//! The node's sources: shards, cache, arena, features, health, and single gauges.

use std::sync::Arc;

use diskstream_ring::{Arena, Features};

use super::sample::as_float;
use super::{Health, HealthState, Kind, Labels, Latencies, Samples, Source};
use crate::cache::Cache;
use crate::shard::{Get, Histogram, METRICS, MetricKind, NodeShared, ShardCounters};

/// The sum under `name`, and each shard's under `shard_name`.
pub(super) fn by_shard(
    samples: &mut Samples,
    name: &str,
    help: &'static str,
    kind: Kind,
    labels: &Labels,
    values: impl Iterator<Item = f64>,
) {
    let split = format!("shard_{name}");
    let mut sum = 0.0;
    for (shard, value) in values.enumerate() {
        sum += value;
        let mut labels = labels.clone();
        labels.push(("shard", shard.to_string().into()));
        samples.number(&split, help, kind, labels, value);
    }
    samples.number(name, help, kind, labels.clone(), sum);
}

/// The counters of all shards, in their order. Histograms are summed only: split by shard they would be most of the page.
pub struct ShardSource(pub Vec<Arc<ShardCounters>>);

impl Source for ShardSource {
    fn collect(&self, samples: &mut Samples) {
        for metric in METRICS {
            let labels: Labels =
                metric.label.iter().map(|&(name, value)| (name, value.into())).collect();
            match (metric.get, metric.kind) {
                (Get::Histogram(get), _) => {
                    let latencies = sum(self.0.iter().map(|shard| get(shard)));
                    samples.histogram(metric.name, metric.help, labels, latencies);
                }
                (Get::Value(get), kind) => {
                    let kind = match kind {
                        MetricKind::Gauge => Kind::Gauge,
                        MetricKind::Counter | MetricKind::Histogram => Kind::Counter,
                    };
                    let values = self.0.iter().map(|shard| as_float(get(shard).get()));
                    by_shard(samples, metric.name, metric.help, kind, &labels, values);
                }
            }
        }
    }
}

fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Latencies {
    let mut total = Latencies::default();
    for histogram in histograms {
        total.sum_seconds += as_float(histogram.sum_ns()) / 1e9;
        for (n, (bound_us, count)) in histogram.buckets().enumerate() {
            let bound = if bound_us == u64::MAX { f64::INFINITY } else { as_float(bound_us) / 1e6 };
            match total.buckets.get_mut(n) {
                Some((_, so_far)) => *so_far += count,
                None => total.buckets.push((bound, count)),
            }
        }
    }
    total
}

/// The block cache.
pub struct CacheSource(pub Arc<Cache>);

impl Source for CacheSource {
    fn collect(&self, samples: &mut Samples) {
        let stats = self.0.stats();
        let mut gauge = |name, help, labels, value: usize| {
            samples.gauge(name, help, labels, as_float(value as u64));
        };
        let bytes = stats.frames * stats.block_bytes;
        let help = "Memory of the block cache that blocks may lie in; what sends without a copy keep for headers is not.";
        gauge("cache_bytes", help, Vec::new(), bytes);
        gauge("cache_block_bytes", "Bytes of a cache block.", Vec::new(), stats.block_bytes);
        let help = "Frames of the cache by what they hold: nothing (free), newcomers (small), blocks that proved useful (main), blocks that \
                    are pinned for good (pinned), or headers of sends without a copy (headers). A frame in none of them is being loaded, or \
                    about to take another block.";
        let kept = usize::try_from(stats.frames_kept).unwrap_or(stats.frames);
        for (queue, frames) in [
            ("free", stats.frames_free),
            ("small", stats.frames_small),
            ("main", stats.frames_main),
            ("pinned", kept),
            ("headers", stats.frames_reserved),
        ] {
            gauge("cache_frames", help, vec![("queue", queue.into())], frames);
        }
        let mut counter = |name, help, value| samples.counter(name, help, Vec::new(), value);
        counter("cache_loads_total", "Blocks loaded into the cache.", stats.loads);
        counter("cache_loads_failed_total", "Loads that gave no block.", stats.abandoned);
        counter("cache_evictions_total", "Blocks evicted from the cache.", stats.evictions);
        counter(
            "cache_promotions_total",
            "Newcomers of the cache that proved useful.",
            stats.promotions,
        );
        counter(
            "cache_ghost_hits_total",
            "Loads of blocks that had been evicted shortly before.",
            stats.ghost_hits,
        );
        counter("cache_ahead_total", "Blocks read ahead into the cache.", stats.ahead);
        counter(
            "cache_ahead_used_total",
            "Blocks read ahead that somebody asked for afterwards.",
            stats.ahead_used,
        );
        counter(
            "cache_ahead_wasted_total",
            "Blocks read ahead that were evicted before anybody asked for them.",
            stats.ahead_wasted,
        );
        counter("cache_full_total", "Lookups that found every frame in use.", stats.full);
    }
}

/// Which stores hang.
pub struct StoreSource(pub Arc<NodeShared>);

impl Source for StoreSource {
    fn collect(&self, samples: &mut Samples) {
        let help = "1 while a store, by its number in the log and the device number of its file system, gives nothing: devices read \
                    elsewhere what is not in the cache.";
        for (store, name, hangs) in self.0.hung_stores.states() {
            let labels =
                vec![("store", store.to_string().into()), ("device", name.to_owned().into())];
            samples.gauge("store_hangs", help, labels, f64::from(u8::from(hangs)));
        }
    }
}

/// The arena: its size and which pages back it.
pub struct ArenaSource(pub Arc<Arena>);

impl Source for ArenaSource {
    fn collect(&self, samples: &mut Samples) {
        let bytes = as_float(self.0.len() as u64);
        samples.gauge("arena_bytes", "Memory shared with the kernel.", Vec::new(), bytes);
        let help =
            "Pages that back the arena: 0 plain, 1 transparent huge, 2 of 2 MiB, 3 of 1 GiB.";
        let backing = f64::from(self.0.backing() as u8);
        samples.gauge("arena_backing", help, Vec::new(), backing);
        let help = "NUMA node that the arena is bound to; -1: none, the kernel chose.";
        let node = self.0.node().map_or(-1.0, f64::from);
        samples.gauge("arena_numa_node", help, Vec::new(), node);
    }
}

/// Features of the kernel, and whether their slower twin is in use instead.
pub struct FeatureSource(pub Features);

impl Source for FeatureSource {
    fn collect(&self, samples: &mut Samples) {
        let help = "1 where a kernel feature is used, 0 where its slower twin is.";
        for (name, _, present) in self.0.fields() {
            let labels = vec![("feature", name.into())];
            samples.gauge("feature_enabled", help, labels, f64::from(u8::from(present)));
        }
    }
}

/// Whether the node takes devices.
pub struct HealthSource(pub Arc<Health>);

impl Source for HealthSource {
    fn collect(&self, samples: &mut Samples) {
        let state = self.0.state();
        let is = |wanted: bool| f64::from(u8::from(wanted));
        let ready = is(state == HealthState::Ready);
        samples.gauge("ready", "1 while the node takes devices.", Vec::new(), ready);
        let draining = is(matches!(state, HealthState::Draining(_)));
        samples.gauge("node_draining", "1 while the node drains.", Vec::new(), draining);
    }
}

struct One<F> {
    name: &'static str,
    help: &'static str,
    labels: Labels,
    value: F,
}

impl<F: Fn() -> f64 + Send + Sync> Source for One<F> {
    fn collect(&self, samples: &mut Samples) {
        samples.gauge(self.name, self.help, self.labels.clone(), (self.value)());
    }
}

/// A single gauge, asked at each scrape; `name` without prefix. Gauges of one name differ in labels and share their help.
pub fn gauge(
    name: &'static str,
    help: &'static str,
    labels: Labels,
    value: impl Fn() -> f64 + Send + Sync + 'static,
) -> Box<dyn Source> {
    Box::new(One { name, help, labels, value })
}
