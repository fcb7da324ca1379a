//! The device's own write cache: written 4 KiB units live in RAM, past its declared size in an overflow file, over a
//! read-only image that is never changed. What PVS calls "cache in device RAM with overflow on hard disk".
//!
//! **The overflow rule.** New units go to the file once the RAM is full; a unit stays where it first was put. Moving
//! cold units out (least recently used, as PVS does it) would put a file write and a copy into the path of every new
//! write, to speed up re-reads that the machine's own page cache mostly serves. RAM that a discard frees is used again.
//!
//! **The end.** The content is worthless after a reboot, by definition. A flush therefore makes nothing durable that
//! matters; it is a barrier on the overflow file's errors, so that a dying local disk is reported and not hidden.
//!
//! **Full.** A write that finds no room fails with `ENOSPC`; one error line, a counter, thresholds before it (80 %,
//! 95 %). Reads and rewrites go on. The declared type never changes: no other store is tried.
mod cache;
mod config;
mod fill;
mod overflow;
mod request;
mod slab;
mod state;
mod table;
mod worker;

pub use cache::{OpenedDisk, WriteCache, open};
pub use config::{RAM_BYTES_MAX, RAM_BYTES_MIN, WriteCacheConfig, WriteCacheConfigError};
pub use fill::{Fill, FillSnapshot};
pub use overflow::OverflowError;
