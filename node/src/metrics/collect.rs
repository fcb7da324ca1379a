//! The collector: samples of all sources, put together to families and written as text.

use std::collections::BTreeMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use super::{Kind, Latencies, Sample, Samples, Source, Value};

/// Writes what its sources say in Prometheus's text format (0.0.4).
pub struct Exporter {
    registry: Registry,
}

/// The one collector of the registry.
struct All(Vec<Box<dyn Source>>);

impl Exporter {
    /// An exporter of these sources.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Exporter {
        let registry = Registry::new();
        let registered = registry.register(Box::new(All(sources)));
        registered.expect("the registry is empty, so nothing can clash");
        Exporter { registry }
    }

    /// The text of one scrape.
    ///
    /// # Errors
    /// A text when a family has no name or no sample, which no source makes.
    pub fn render(&self) -> Result<String, String> {
        let families = self.registry.gather();
        TextEncoder::new().encode_to_string(&families).map_err(|error| error.to_string())
    }
}

impl Collector for All {
    /// None: what is collected depends on tables of other modules, so it is not described in advance.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples::default();
        for source in &self.0 {
            source.collect(&mut samples);
        }
        families(samples)
    }
}

fn families(samples: Samples) -> Vec<MetricFamily> {
    let mut families: BTreeMap<String, (MetricFamily, Vec<Metric>)> = BTreeMap::new();
    for sample in samples.0 {
        let (family, metrics) = families.entry(sample.name.to_string()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(sample.name.to_string());
            family.set_help(sample.help.to_owned());
            family.set_field_type(field_type(sample.kind));
            (family, Vec::new())
        });
        debug_assert!(
            family.get_field_type() == field_type(sample.kind) && family.help() == sample.help,
            "{} means two things",
            sample.name
        );
        metrics.push(metric(sample));
    }
    families
        .into_values()
        .map(|(mut family, metrics)| {
            family.set_metric(metrics);
            family
        })
        .collect()
}

fn field_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    }
}

fn metric(sample: Sample) -> Metric {
    let labels = sample.labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.into_owned());
        pair
    });
    let mut metric = Metric::from_label(labels.collect());
    match (sample.kind, sample.value) {
        (Kind::Counter, Value::Number(value)) => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        (Kind::Gauge, Value::Number(value)) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        (Kind::Histogram, Value::Latencies(latencies)) => {
            metric.set_histogram(histogram(&latencies));
        }
        (kind, _) => unreachable!("a {kind:?} with the other sort of value"),
    }
    metric
}

/// Counts become cumulative; the encoder adds the infinite bucket.
fn histogram(latencies: &Latencies) -> Histogram {
    let mut total = 0;
    let mut buckets = Vec::with_capacity(latencies.buckets.len());
    for &(bound, count) in &latencies.buckets {
        total += count;
        if bound.is_finite() {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(total);
            buckets.push(bucket);
        }
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total);
    histogram.set_sample_sum(latencies.sum_seconds);
    histogram
}
