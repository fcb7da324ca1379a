//! The report of a run of several storms: which of them counts, what those of one kind have in common, what warm-up gains.

use std::io::{self, Write};

use serde::Serialize;

use super::args::{Kind, Switch, WarmUp};
use super::report::Storm;
use crate::report::{self, Provenance};
use crate::spread::Spread;

/// What several storms of one kind have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How their nodes were set up.
    #[serde(flatten)]
    pub kind: Kind,
    /// Disk bytes ÷ bytes of the blocks touched.
    pub disk_over_unique: Option<Spread>,
    /// Disk bytes ÷ bytes of the units asked for.
    pub disk_over_requested: Option<Spread>,
    /// Time to the last boot.
    pub last_boot_s: Option<Spread>,
    /// Half of the boots took no longer.
    pub boot_p50_s: Option<Spread>,
    /// Lookups that began a disk read, and so made somebody wait.
    pub misses: Option<Spread>,
    /// Time of 99 of 100 reads.
    pub p99_us: Option<Spread>,
    /// The longest read of each run.
    pub max_us: Option<Spread>,
    /// The node's processor time.
    pub node_cpu_s: Option<Spread>,
}

impl Summary {
    /// None when no storm was of this kind.
    fn of(storms: &[Storm], kind: Kind) -> Option<Summary> {
        let of_kind: Vec<_> = storms.iter().filter(|s| s.kind() == Some(kind)).collect();
        let spread = |decimals, of: &dyn Fn(&Storm) -> Option<f64>| {
            Spread::of(of_kind.iter().filter_map(|storm| of(storm)), decimals)
        };
        (!of_kind.is_empty()).then(|| Summary {
            kind,
            disk_over_unique: spread(4, &|s| s.ratios.map(|r| r.disk_over_unique)),
            disk_over_requested: spread(4, &|s| s.ratios.map(|r| r.disk_over_requested)),
            last_boot_s: spread(3, &|s| Some(s.last_boot_s)),
            boot_p50_s: spread(3, &|s| Some(s.boot_p50_s)),
            misses: spread(0, &|s| s.node.map(|node| count(node.misses))),
            p99_us: spread(1, &|s| Some(s.p99_us)),
            max_us: spread(1, &|s| Some(s.max_us)),
            node_cpu_s: spread(3, &|s| s.node.map(|node| node.cpu_s)),
        })
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "all with {}: middle (least – most)", self.kind)?;
        for (name, spread) in [
            ("disk / blocks touched", &self.disk_over_unique),
            ("disk / units asked for", &self.disk_over_requested),
            ("last boot, s", &self.last_boot_s),
            ("half of the boots, s", &self.boot_p50_s),
            ("misses", &self.misses),
            ("99 % of reads, µs", &self.p99_us),
            ("longest read, µs", &self.max_us),
            ("node's processor, s", &self.node_cpu_s),
        ] {
            let Some(spread) = spread else { continue };
            writeln!(out, "  {name:<24} {spread}")?;
        }
        Ok(())
    }
}

/// What a node gains that knows what earlier boots have read: storms without ÷ with, each pair one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    /// Whether both read ahead.
    pub read_ahead: Switch,
    /// Of the time to the last boot.
    pub last_boot: Spread,
    /// Of the time that half of the boots took at most.
    pub boot_p50: Spread,
    /// Of the time that 99 of 100 reads took at most.
    pub p99: Spread,
}

impl Gain {
    /// None without such pairs.
    fn of(storms: &[Storm], read_ahead: Switch) -> Option<Gain> {
        let with = |warm_up| {
            let kind = Kind { read_ahead, warm_up };
            storms.iter().filter(move |storm| storm.kind() == Some(kind))
        };
        let ratio = |of: fn(&Storm) -> f64| {
            let pairs = with(WarmUp::Recorded).zip(with(WarmUp::Used));
            Spread::of(pairs.map(|(cold, warm)| of(cold) / of(warm).max(1e-9)), 3)
        };
        Some(Gain {
            read_ahead,
            last_boot: ratio(|storm| storm.last_boot_s)?,
            boot_p50: ratio(|storm| storm.boot_p50_s)?,
            p99: ratio(|storm| storm.p99_us)?,
        })
    }
}

/// What was asked of the storms.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Devices.
    pub devices: u16,
    /// Reads of a boot.
    pub trace_reads: usize,
    /// Their bytes.
    pub trace_bytes: u64,
    /// Think times of a boot together, at this speed.
    pub think_s: f64,
    /// Think times are divided by this.
    pub speed: f64,
    /// Seconds over which devices were switched on.
    pub spread_s: f64,
    /// Devices that may boot at once; 0: no limit; none: not this run's node.
    pub boot_limit: Option<u32>,
    /// Bytes of the node's cache.
    pub cache_bytes: Option<u64>,
    /// Bytes of the vDisk.
    pub image_bytes: u64,
    /// Largest IP packet.
    pub mtu: u16,
    /// Whether node and devices had a core each.
    pub pinned: bool,
}

/// The report of a run: the storm that counts, and all of them where there were several.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The only storm; of several of the kind that was asked for, the one with the middle time to the last boot.
    #[serde(flatten)]
    pub storm: Storm,
    /// What was asked.
    #[serde(flatten)]
    pub settings: Settings,
    /// Per kind, where there were several storms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub summaries: Vec<Summary>,
    /// What warm-up gains, where that was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warm_up_gains: Vec<Gain>,
    /// All storms, where there were several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Storm>,
    /// Where the figures come from.
    pub provenance: Provenance,
}

impl Report {
    /// From at least one storm of the kind that was asked for; none: of nodes that were running.
    #[must_use]
    pub fn new(
        mut storms: Vec<Storm>,
        asked: Option<Kind>,
        settings: Settings,
        provenance: Provenance,
    ) -> Report {
        let mut of_kind: Vec<&Storm> = storms.iter().filter(|s| s.kind() == asked).collect();
        of_kind.sort_by(|a, b| a.last_boot_s.total_cmp(&b.last_boot_s));
        let storm = of_kind[(of_kind.len() - 1) / 2].clone();
        let (mut summaries, mut warm_up_gains) = (Vec::new(), Vec::new());
        if storms.len() > 1 {
            for read_ahead in [Switch::Off, Switch::On] {
                let kinds = [WarmUp::Off, WarmUp::Recorded, WarmUp::Used]
                    .map(|warm_up| Kind { read_ahead, warm_up });
                summaries.extend(kinds.into_iter().filter_map(|kind| Summary::of(&storms, kind)));
                warm_up_gains.extend(Gain::of(&storms, read_ahead));
            }
        } else {
            storms.clear();
        }
        Report { storm, settings, summaries, warm_up_gains, rounds: storms, provenance }
    }

    /// Prints a table, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Report { settings: s, .. } = self;
        writeln!(
            out,
            "{} devices boot: {} reads, {} bytes, {} s of thinking each (speed {}), switched on over {} s; MTU {}",
            s.devices, s.trace_reads, s.trace_bytes, s.think_s, s.speed, s.spread_s, s.mtu
        )?;
        let one = std::slice::from_ref(&self.storm);
        for storm in if self.rounds.is_empty() { one } else { &self.rounds } {
            storm.table(out)?;
        }
        for summary in &self.summaries {
            summary.table(out)?;
        }
        for gain in &self.warm_up_gains {
            writeln!(
                out,
                "without ÷ with what earlier boots read, read-ahead {}: last boot {}, half of the boots {}, 99 % of reads {}",
                gain.read_ahead.name(),
                gain.last_boot,
                gain.boot_p50,
                gain.p99
            )?;
        }
        writeln!(out, "{}", self.provenance)
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn count(of: u64) -> f64 {
    of as f64
}
