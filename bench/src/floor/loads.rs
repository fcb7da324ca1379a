//! The loads under which the node is compared with the bare responder.

use crate::fleet::Offsets;
use crate::random::Random;
use crate::read::{Pattern, ReadArgs};

/// One load: the same for node and responder.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Load {
    /// As in the names of the ratios.
    pub name: &'static str,
    /// Devices; for the responder: sockets.
    pub devices: u32,
    /// Reads that each keeps outstanding.
    pub depth: u32,
    /// Bytes of a read.
    pub size: u64,
    /// Where reads go.
    pub pattern: Pattern,
}

/// One device with 32 reads of 4 KiB outstanding; 64 and 500 devices with one each; one device with 32 of 32 KiB; one device
/// that reads 1 MiB at a time in order, 8 outstanding. The responder's figures that the aims were set by were measured
/// under these (one client and 32 deep at 4 and 32 KiB, 8 deep at 1 MiB).
pub const LOADS: [Load; 5] = [
    Load { name: "4k_1", devices: 1, depth: 32, size: 4 << 10, pattern: Pattern::Rand },
    Load { name: "4k_64", devices: 64, depth: 1, size: 4 << 10, pattern: Pattern::Rand },
    Load { name: "4k_500", devices: 500, depth: 1, size: 4 << 10, pattern: Pattern::Rand },
    Load { name: "32k", devices: 1, depth: 32, size: 32 << 10, pattern: Pattern::Rand },
    Load { name: "1m", devices: 1, depth: 8, size: 1 << 20, pattern: Pattern::Seq },
];

impl Load {
    /// The load of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Load> {
        LOADS.into_iter().find(|load| load.name == name)
    }

    /// As flags of `read`.
    #[must_use]
    pub fn read_args(&self, seed: u64, image_bytes: u64, seconds: f64, mtu: u16) -> ReadArgs {
        ReadArgs {
            devices: self.devices,
            depth: self.depth,
            size: self.size,
            pattern: self.pattern,
            seconds,
            mtu,
            seed,
            image_bytes,
            ..ReadArgs::default()
        }
    }

    /// Where the responder's clients read.
    #[must_use]
    pub fn offsets(&self, seed: u64, image_bytes: u64) -> Offsets {
        match self.pattern {
            Pattern::Rand => Offsets::Random(Random::new(seed)),
            Pattern::Seq => Offsets::sequential(self.devices as usize, self.size, image_bytes),
        }
    }
}
