//! From facts to a plan. Pure: no file, no clock, no command is touched.
mod block_scheduler;
mod cpu_governor;
mod huge_pages;
mod io_uring;
mod memlock;
mod network;
mod sockets;

use crate::facts::{Facts, Unread};
use serde::Serialize;

/// What the host is to be tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Goal {
    /// The node's block cache, in bytes.
    pub cache_bytes: u64,
    /// Cores that the node runs on; `None`: all that are online.
    pub cores: Option<u32>,
}

impl Goal {
    /// Shards that the node will run: one per core.
    fn shards(&self, facts: &Facts) -> Option<u32> {
        self.cores.or(facts.cores_online)
    }
}

/// Which rules an action comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Whether io_uring may be used.
    IoUring,
    /// Locked memory.
    Memlock,
    /// Huge pages for the cache.
    HugePages,
    /// Socket buffer limits.
    Sockets,
    /// Schedulers of block devices.
    BlockScheduler,
    /// Frequency governors.
    CpuGovernor,
    /// Interfaces.
    Network,
}

impl Family {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Memlock => "memlock",
            Self::HugePages => "huge_pages",
            Self::Sockets => "sockets",
            Self::BlockScheduler => "block_scheduler",
            Self::CpuGovernor => "cpu_governor",
            Self::Network => "network",
        }
    }
}

/// How an action's worth is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Seen in a measurement.
    Measured,
    /// Follows from how things work.
    Derived,
    /// Held to be so; measure on your host.
    Guessed,
}

impl Basis {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
            Self::Guessed => "guessed",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Where it comes from.
    pub family: Family,
    /// What changes, in a few words.
    pub title: String,
    /// The value found.
    pub found: String,
    /// The value wanted.
    pub wanted: String,
    /// Why.
    pub reason: String,
    /// What it is worth.
    pub worth: String,
    /// How that is known.
    pub basis: Basis,
    /// The exact command, for a shell.
    pub command: String,
    /// The command that brings the found value back.
    pub undo: String,
}

/// Something to know that no command of this tool's changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where it comes from.
    pub family: Family,
    /// What, why it matters, and what to do.
    pub text: String,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What it was made for.
    pub goal: Goal,
    /// Changes, in the order in which to make them.
    pub actions: Vec<Action>,
    /// What else there is to know.
    pub notes: Vec<Note>,
    /// Facts that are missing: what depends on them was not judged.
    pub not_judged: Vec<Unread>,
}

impl Plan {
    fn note(&mut self, family: Family, text: String) {
        self.notes.push(Note { family, text });
    }
}

/// Makes the plan.
///
/// The order: first what a node cannot run without (io_uring, locked memory); then huge pages,
/// since memory gets more fragmented with every minute that the host runs; then what bounds
/// throughput (sockets, disks); last what only shortens latency.
#[must_use]
pub fn plan(facts: &Facts, goal: &Goal) -> Plan {
    let not_judged = facts.unread.clone();
    let mut plan = Plan { goal: *goal, actions: Vec::new(), notes: Vec::new(), not_judged };
    io_uring::rules(facts, &mut plan);
    memlock::rules(facts, goal, &mut plan);
    huge_pages::rules(facts, goal, &mut plan);
    sockets::rules(facts, &mut plan);
    block_scheduler::rules(facts, &mut plan);
    cpu_governor::rules(facts, &mut plan);
    network::rules(facts, goal, &mut plan);
    plan
}

#[cfg(test)]
mod tests;
