//! The loads, the same for everybody.

use clap::ValueEnum;
use serde::Serialize;

use crate::read::Pattern;

/// A load: connections, or devices for our node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
pub enum Load {
    /// 4 KiB at random, 64 x 1 outstanding.
    #[value(name = "4k_64")]
    #[serde(rename = "4k_64")]
    Small64,
    /// The same, 500 x 1.
    #[value(name = "4k_500")]
    #[serde(rename = "4k_500")]
    Small500,
    /// The same, 64 x 16: replies of a device can share a send.
    #[value(name = "4k_64_deep")]
    #[serde(rename = "4k_64_deep")]
    Small64Deep,
    /// The same, 500 x 16.
    #[value(name = "4k_500_deep")]
    #[serde(rename = "4k_500_deep")]
    Small500Deep,
    /// 32 KiB at random, 1 x 32.
    #[value(name = "32k_1_deep")]
    #[serde(rename = "32k_1_deep")]
    Medium1Deep,
    /// The same, 64 x 1.
    #[value(name = "32k_64")]
    #[serde(rename = "32k_64")]
    Medium64,
    /// 1 MiB in order, 1 x 8.
    #[value(name = "1m")]
    #[serde(rename = "1m")]
    Large,
    /// 4 KiB at random, 64 devices, up to 16 outstanding, an open loop at half the rate at which our node is saturated.
    #[value(name = "half_load")]
    #[serde(rename = "half_load")]
    Half,
}

/// What a ratio compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Processor time of the server per read, in microseconds.
    CpuUsPerRead,
    /// The same per 2^30 bytes, in seconds.
    CpuSPerGib,
    /// The latency that 99 of 100 reads stay below, in microseconds.
    P99Us,
}

impl Load {
    /// All, in the order in which they are measured.
    pub const ALL: [Load; 8] = [
        Load::Small64,
        Load::Small500,
        Load::Small64Deep,
        Load::Small500Deep,
        Load::Medium1Deep,
        Load::Medium64,
        Load::Large,
        Load::Half,
    ];

    /// As on the command line and in reports.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no load is hidden");
        value.get_name().to_owned()
    }

    /// Connections, reads outstanding on each, bytes of a read, and where reads go.
    #[must_use]
    pub fn shape(self) -> (usize, usize, u64, Pattern) {
        let small = 4 << 10;
        let medium = 32 << 10;
        match self {
            Load::Small64 => (64, 1, small, Pattern::Rand),
            Load::Small500 => (500, 1, small, Pattern::Rand),
            Load::Small64Deep | Load::Half => (64, 16, small, Pattern::Rand),
            Load::Small500Deep => (500, 16, small, Pattern::Rand),
            Load::Medium1Deep => (1, 32, medium, Pattern::Rand),
            Load::Medium64 => (64, 1, medium, Pattern::Rand),
            Load::Large => (1, 8, 1 << 20, Pattern::Seq),
        }
    }

    /// What its ratio is made of.
    #[must_use]
    pub fn measure(self) -> Measure {
        match self {
            Load::Half => Measure::P99Us,
            Load::Large => Measure::CpuSPerGib,
            _ => Measure::CpuUsPerRead,
        }
    }

    /// The name of its ratio in reports. Two loads have that of 32 KiB: the larger of their ratios counts.
    #[must_use]
    pub fn ratio(self) -> &'static str {
        match self {
            Load::Small64 => "cpu_per_4k_read_64",
            Load::Small500 => "cpu_per_4k_read_500",
            Load::Small64Deep => "cpu_per_4k_read_64_deep",
            Load::Small500Deep => "cpu_per_4k_read_500_deep",
            Load::Medium1Deep | Load::Medium64 => "cpu_per_32k_read",
            Load::Large => "cpu_per_gib_1m",
            Load::Half => "p99_at_half_load",
        }
    }
}
