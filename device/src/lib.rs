//! The diskless side: login, reads, failover, write cache, block-device front ends.
//!
//! `session` is the pure machine that takes every decision about nodes; `driver` moves its datagrams on a ring; `front`
//! exports what it reads as a block device. See `docs/ARCHITECTURE.md`.

pub mod driver;
pub mod front;
pub mod session;
