//! What the exporter writes, sample by sample. The whole page over HTTP is tested in `tests/metrics_scrape.rs`.

use std::sync::Arc;

use diskstream_ring::Stats;
use diskstream_wire::time::Nanos;

use super::*;
use crate::shard::ShardCounters;

fn lines(source: impl Source + 'static, wanted: &str) -> Vec<String> {
    let text = Exporter::new(vec![Box::new(source)]).render().expect("valid families");
    text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect()
}

#[test]
fn shards_are_summed_and_told_apart() {
    let shards: Vec<_> = (0..3).map(|_| Arc::new(ShardCounters::default())).collect();
    shards[0].reads.add(5);
    shards[2].reads.add(7);
    shards[1].sessions.set(4);
    let source = || ShardSource(shards.clone());
    assert_eq!(
        lines(source(), "reads_total")
            .into_iter()
            .filter(|l| l.starts_with("diskstream_reads") || l.starts_with("diskstream_shard_reads"))
            .collect::<Vec<_>>(),
        [
            "diskstream_reads_total 12",
            "diskstream_shard_reads_total{shard=\"0\"} 5",
            "diskstream_shard_reads_total{shard=\"1\"} 0",
            "diskstream_shard_reads_total{shard=\"2\"} 7",
        ]
    );
    assert!(lines(source(), "diskstream_sessions").contains(&"diskstream_sessions 4".to_owned()));
    let types = lines(source(), "# TYPE diskstream_sessions ");
    assert_eq!(types, ["# TYPE diskstream_sessions gauge"]);
    let outcome = lines(source(), "outcome=\"transferred\",shard=\"1\"");
    assert_eq!(outcome, ["diskstream_shard_logins_total{outcome=\"transferred\",shard=\"1\"} 0"]);
}

#[test]
fn histograms_are_cumulative_and_in_seconds() {
    let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardCounters::default())).collect();
    shards[0].disk_latency.record(Nanos::from_micros(2));
    shards[1].disk_latency.record(Nanos::from_micros(3));
    shards[1].disk_latency.record(Nanos::from_secs(1000));
    let lines = lines(ShardSource(shards), "diskstream_disk_read_seconds");
    let has = |line: &str| assert!(lines.iter().any(|l| l == line), "no {line} in {lines:#?}");
    has("# TYPE diskstream_disk_read_seconds histogram");
    has("diskstream_disk_read_seconds_bucket{le=\"0.000001\"} 0");
    has("diskstream_disk_read_seconds_bucket{le=\"0.000002\"} 1");
    has("diskstream_disk_read_seconds_bucket{le=\"0.000004\"} 2");
    has("diskstream_disk_read_seconds_bucket{le=\"+Inf\"} 3");
    has("diskstream_disk_read_seconds_sum 1000.000005");
    has("diskstream_disk_read_seconds_count 3");
}

#[test]
fn rings_show_what_was_published_last() {
    let rings: Vec<_> = (0..2).map(|_| Arc::new(RingStats::default())).collect();
    rings[0].publish(&Stats { enters: 3, ..Stats::default() });
    rings[0].publish(&Stats { enters: 4, bytes_sent: 9, ..Stats::default() });
    rings[1].publish(&Stats { enters: 1, ..Stats::default() });
    let lines = lines(RingSource(rings), "ring_enters_total");
    assert!(lines.contains(&"diskstream_ring_enters_total 5".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"diskstream_shard_ring_enters_total{shard=\"0\"} 4".to_owned()));
}

#[test]
fn single_gauges_are_asked_at_each_scrape() {
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = asked.clone();
    let count = move || f64::from(counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let labels = vec![("socket", "io \"0\"".into())];
    let exporter = Exporter::new(vec![gauge("granted_bytes", "Granted.", labels, count)]);
    let first = exporter.render().expect("valid");
    assert!(first.contains("diskstream_granted_bytes{socket=\"io \\\"0\\\"\"} 0"), "{first}");
    assert!(exporter.render().expect("valid").ends_with(" 1\n"));
}

#[test]
fn health_has_a_status_and_a_reason() {
    let health = Health::default();
    assert_eq!(health.answer().0, 503);
    health.set(HealthState::Ready);
    assert_eq!(health.answer(), (200, "ok\n".to_owned()));
    health.set(HealthState::Draining("SIGTERM".to_owned()));
    assert_eq!(health.answer(), (503, "draining: SIGTERM\n".to_owned()));
    health.set(HealthState::Failing("debian.raw was changed".to_owned()));
    assert_eq!(health.answer().0, 503);
}

#[test]
fn the_process_is_described() {
    let lines = lines(ProcessSource::new(1_800_000_000), "process_");
    assert!(lines.contains(&"process_start_time_seconds 1800000000".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("process_resident_memory_bytes ")));
    assert!(lines.iter().any(|line| line.starts_with("process_cpu_seconds_total ")));
}
