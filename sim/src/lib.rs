//! Deterministic simulation: real node and device machines in a world of simulated links, disks and clocks, all from one seed.
//!
//! What must be survived: loss, duplication, reordering, corruption of data, delay, one-way and two-way cuts, crashes and
//! restarts, drains, pauses, slow and failing disks, rotten blocks, delayed queues between shards, and an attacker off the
//! path. What is judged: every completed read has the right bytes; every read completes once the world heals; nothing
//! grows without bound; nobody is sent more than came in its name before it proved its address; a read is never met with
//! silence; a frame does not change while a send names it.
#![deny(unsafe_code)]

pub mod device;
pub mod hostile;
pub mod image;
pub mod judges;
pub mod network;
pub mod node;
pub mod options;
pub mod random;
#[expect(
    unsafe_code,
    reason = "stands in for disk and card, which write and read the arena by address"
)]
mod sys;
pub mod world;
