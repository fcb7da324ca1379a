//! The Diskstream server: logins, sessions, streaming, cache, metrics.
//!
//! `shard` is the pure machine that takes every decision; `event_loop` drives it on a ring. See `docs/ARCHITECTURE.md`.
#![deny(unsafe_code)]

pub mod cache;
pub mod cli;
pub mod control;
pub mod event_loop;
pub mod farm;
pub mod lock;
pub mod metrics;
pub mod network;
pub mod peers;
pub mod placement;
mod provision;
pub mod quickstart;
pub mod rebalance;
pub mod running;
pub mod serve;
pub mod settings;
pub mod shard;
pub mod slowest;
pub mod status;
pub mod sysfs;
pub mod trust;
pub mod vdisk_command;
pub mod view;
