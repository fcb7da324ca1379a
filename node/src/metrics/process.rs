//! The process: version, start, processor time, memory, descriptors. Names are Prometheus's conventional ones.

use std::fs;

use super::{Kind, Sample, Samples, Source, Value};

/// Processor time is told to programs in ticks of 1/100 s on every Linux (`USER_HZ` is part of its interface).
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of this process.
pub struct ProcessSource {
    start_seconds: f64,
}

impl ProcessSource {
    /// Of a process that began at `start_unix_seconds`.
    #[must_use]
    pub fn new(start_unix_seconds: u64) -> ProcessSource {
        ProcessSource { start_seconds: super::sample::as_float(start_unix_seconds) }
    }
}

impl Source for ProcessSource {
    fn collect(&self, samples: &mut Samples) {
        let labels = vec![("version", env!("CARGO_PKG_VERSION").into())];
        samples.gauge("build_info", "Version of the program.", labels, 1.0);
        let mut push = |name: &'static str, help, kind, value| {
            let labels = Vec::new();
            let value = Value::Number(value);
            samples.push(Sample { name: name.into(), help, kind, labels, value });
        };
        let help = "Start of the process, in seconds since 1970.";
        push("process_start_time_seconds", help, Kind::Gauge, self.start_seconds);
        // Without /proc these are left out.
        if let Some(seconds) = cpu_seconds() {
            let help = "Processor time spent in user and system mode.";
            push("process_cpu_seconds_total", help, Kind::Counter, seconds);
        }
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory, without reserved huge pages.";
            push("process_resident_memory_bytes", help, Kind::Gauge, bytes);
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            let open = super::sample::as_float(descriptors.count() as u64);
            push("process_open_fds", "Open file descriptors.", Kind::Gauge, open);
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses that may hold anything; utime and stime are fields 14 and 15 (proc(5)).
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
