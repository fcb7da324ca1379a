//! What the node says about itself: `/metrics` for Prometheus, `/healthz` for load balancers and scripts.
//!
//! Nothing is counted here. Each [`Source`] reads, at scrape time and from the scraping thread, numbers that others keep:
//! the shards' counters (one writer each, no read-modify-write), the rings' (published by their threads), the cache's.
//! [`Exporter`] is the one `prometheus` collector that turns the samples into families; changing the crate for another
//! changes one file.
//!
//! Names begin with `diskstream_` and follow Prometheus's conventions: base units, `_total` for counters. The node's own
//! figure has no `shard` label; `diskstream_shard_…` is the same split by shard, under another name so that no sum in a
//! query counts anything twice.

mod collect;
mod health;
mod http;
mod peers;
mod process;
mod ring;
mod sample;
mod sources;
#[cfg(test)]
mod tests;

pub use collect::Exporter;
pub use health::{Health, HealthState};
pub use http::{HttpError, HttpServer, RunningHttp};
pub use peers::{PeerSource, PeerStatusSource};
pub use process::ProcessSource;
pub use ring::{RingSource, RingStats};
pub(crate) use sample::as_float;
pub use sample::{Kind, Labels, Latencies, Sample, Samples, Source, Value};
pub use sources::{
    ArenaSource, CacheSource, FeatureSource, HealthSource, ShardSource, StoreSource, gauge,
};

/// What every name begins with, except the conventional `process_…`.
pub const PREFIX: &str = "diskstream_";
