//! End to end: our release programs against the programs that people use.

pub mod bad_input;
pub mod copy;
pub mod dissector;
pub mod export;
pub mod failover;
pub mod failover_table;
pub mod farm;
pub mod fio;
pub mod firewall;
mod http;
pub mod metrics;
pub mod netns;
pub mod qemu_tools;
pub mod quickstart;
pub mod slow_store;
pub mod vm;

use std::path::PathBuf;

use crate::image;
use crate::runner::Job;

/// Seed of every image and pattern here; printed in each log, and changed only together with what is expected of it.
const SEED: u64 = 0xd15c_57e4;
/// Larger than 1 GiB, and its last 4 KiB unit is cut short: 3 sectors of 512 bytes.
const LARGE_BYTES: u64 = (1 << 30) + (96 << 20) + 3 * 512;
/// For what needs no bulk.
const SMALL_BYTES: u64 = (64 << 20) + 3 * 512;

/// The image that is copied: 1.1 GiB.
fn large_image(job: &mut Job<'_>) -> anyhow::Result<PathBuf> {
    image::mixed(job, "large", LARGE_BYTES, SEED)
}

/// The image for everything else: 64 MiB.
fn small_image(job: &mut Job<'_>) -> anyhow::Result<PathBuf> {
    image::mixed(job, "small", SMALL_BYTES, SEED)
}
