//! What a node says about itself: the line that it is ready, and its metrics.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use diskstream_ring::clock;

use super::farm_watch::VersionsSource;
use crate::metrics::{
    ArenaSource, CacheSource, Exporter, FeatureSource, Health, HealthSource, ProcessSource,
    RingSource, ShardSource, Source, StoreSource, gauge,
};
use crate::running::RunningNode;

/// All that the node says about itself, and what `more` says.
pub fn exporter(node: &RunningNode, health: &Arc<Health>, more: Vec<Box<dyn Source>>) -> Exporter {
    let shared = Arc::clone(node.shared());
    let booting = move || {
        #[expect(clippy::cast_precision_loss, reason = "a count of devices is far below 2^53")]
        let in_use = shared.boot_slots.in_use(clock::now()) as f64;
        in_use
    };
    let mut sources: Vec<Box<dyn Source>> = vec![
        Box::new(ShardSource(node.counters().to_vec())),
        Box::new(RingSource(node.ring_stats().to_vec())),
        Box::new(node.network_source()),
        Box::new(CacheSource(Arc::clone(&node.shared().cache))),
        Box::new(ArenaSource(Arc::clone(node.arena()))),
        Box::new(FeatureSource(node.features())),
        Box::new(HealthSource(Arc::clone(health))),
        Box::new(ProcessSource::new(clock::unix_seconds())),
        Box::new(StoreSource(Arc::clone(node.shared()))),
        Box::new(VersionsSource(Arc::clone(node.shared()))),
        gauge(
            "boot_slots_in_use",
            "Devices that are booting and count against the boot limit.",
            Vec::new(),
            booting,
        ),
    ];
    sources.extend(more);
    for vdisk in node.shared().vdisks().unwrap_or_default() {
        let labels = vec![("vdisk", vdisk.name.clone().into())];
        let entry = Arc::clone(vdisk);
        let help =
            "1 while the vDisk takes devices; 0: its file is missing or was changed, see the log.";
        sources.push(gauge("vdisk_eligible", help, labels, move || {
            f64::from(u8::from(entry.is_eligible()))
        }));
    }
    Exporter::new(sources)
}

/// One line on standard output, for people and scripts: the node takes logins from here on.
pub(super) fn ready(
    node: &RunningNode,
    http: Option<SocketAddr>,
    peers: Option<&str>,
) -> anyhow::Result<()> {
    let io: Vec<String> = node.io().iter().map(ToString::to_string).collect();
    let vdisks: Vec<String> = node
        .shared()
        .vdisks()
        .unwrap_or_default()
        .iter()
        .filter(|v| v.is_eligible())
        .map(|v| format!("{}:{}", v.name, v.content_id))
        .collect();
    let http = http.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready: login={} io={} http={http} vdisks={} peers={}",
        node.login(),
        io.join(","),
        vdisks.join(","),
        peers.unwrap_or("off")
    )
    .and_then(|()| out.flush())
    .context("writing to standard output")
}
