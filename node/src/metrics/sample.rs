//! A number with its name: what sources give and the exporter takes.

use std::borrow::Cow;

/// How a metric behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts upwards; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts per bucket.
    Histogram,
}

/// Latencies by bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Upper bounds in seconds, ascending, and how many were at most that and more than the bound before. The last bound may
    /// be infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all, in seconds.
    pub sum_seconds: f64,
}

/// What a sample says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Latencies(Latencies),
}

/// Names and values that tell samples of one name apart.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// One time series at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Whole name.
    pub name: Cow<'static, str>,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Labels.
    pub labels: Labels,
    /// The number.
    pub value: Value,
}

/// Where samples come from.
pub trait Source: Send + Sync {
    /// Adds what there is to say at this moment.
    fn collect(&self, samples: &mut Samples);
}

/// Who writes the numbers may share them with the one who shows them.
impl<S: Source> Source for std::sync::Arc<S> {
    fn collect(&self, samples: &mut Samples) {
        (**self).collect(samples);
    }
}

/// Samples of one scrape, in no particular order.
#[derive(Debug, Default)]
pub struct Samples(pub(super) Vec<Sample>);

impl Samples {
    /// A counter; `name` without prefix.
    pub fn counter(&mut self, name: &str, help: &'static str, labels: Labels, value: u64) {
        self.number(name, help, Kind::Counter, labels, as_float(value));
    }

    /// A gauge; `name` without prefix.
    pub fn gauge(&mut self, name: &str, help: &'static str, labels: Labels, value: f64) {
        self.number(name, help, Kind::Gauge, labels, value);
    }

    /// A counter or gauge; `name` without prefix.
    pub fn number(
        &mut self,
        name: &str,
        help: &'static str,
        kind: Kind,
        labels: Labels,
        value: f64,
    ) {
        let name = format!("{}{name}", super::PREFIX).into();
        self.push(Sample { name, help: help.trim(), kind, labels, value: Value::Number(value) });
    }

    /// A histogram; `name` without prefix, ending in `_seconds`.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &'static str,
        labels: Labels,
        latencies: Latencies,
    ) {
        let name = format!("{}{name}", super::PREFIX).into();
        let value = Value::Latencies(latencies);
        self.push(Sample { name, help: help.trim(), kind: Kind::Histogram, labels, value });
    }

    /// A sample with its whole name.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }
}

/// A count as Prometheus has it: exact up to 2^53.
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}
