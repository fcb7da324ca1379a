//! Deterministic simulation: real node and device machines in a world of simulated links, disks and clocks, all from one seed.
//!
//! What must be survived: loss, duplication, reordering, corruption of data, delay, one-way and two-way cuts, crashes and
//! restarts, drains, pauses, slow and failing disks, lost stores, rotten blocks, images that differ, clocks that differ,
//! delayed queues between shards, and an attacker off the path. What is judged: every completed read has the right bytes; every
//! read completes once the world heals; nothing grows without bound; nobody is sent more than came in its name before it
//! proved its address; a read is never met with silence; a frame does not change while a send names it; a device moves
//! only when something befell its node.
//!
//! | part | is |
//! |---|---|
//! | [`world`] | the machines, the links between them, and time |
//! | [`scenarios`] | named stories, each with an outcome that must be |
//! | [`swarm`] | worlds drawn from a seed |
//! | [`judges`], [`causes`] | what must hold in all of them |
//! | [`planted`] | bugs that judges must see |
#![deny(unsafe_code)]

pub mod causes;
pub mod device;
pub mod faults;
pub mod figures;
pub mod hostile;
pub mod hosts;
pub mod image;
pub mod judges;
pub mod network;
pub mod node;
pub mod options;
pub mod peaks;
pub mod peers;
pub mod planted;
pub mod random;
pub mod runner;
pub mod scenarios;
pub mod schedule;
pub mod swarm;
#[expect(
    unsafe_code,
    reason = "stands in for disk and card, which write and read the arena by address"
)]
mod sys;
pub mod world;
