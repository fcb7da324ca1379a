//! Locked memory: what registering the cache with io_uring is charged to.
use super::{Action, Basis, Family, Goal, Plan};
use crate::facts::{Facts, Limit};
use crate::units::format_bytes;

/// Rings, provided buffers and pools of one shard. A guess, several times what they should take.
const SHARD_BYTES: u64 = 64 * 1024 * 1024;

pub(super) fn rules(facts: &Facts, goal: &Goal, plan: &mut Plan) {
    let (Some(found), Some(shards)) = (facts.memlock, goal.shards(facts)) else { return };
    // The kernel charges a registered buffer to the user once per ring, and every shard's ring
    // registers the whole cache.
    let wanted = goal.cache_bytes.saturating_add(SHARD_BYTES).saturating_mul(u64::from(shards));
    if found.soft >= Limit::Bytes(wanted) {
        return;
    }
    // A hard limit that is high enough stays: lowering it could not be undone without root.
    let hard = found.hard.max(Limit::Bytes(wanted));
    plan.actions.push(Action {
        family: Family::Memlock,
        title: "raise the locked-memory limit".into(),
        found: format!("{} soft, {} hard", written(found.soft), written(found.hard)),
        wanted: format_bytes(wanted),
        reason: format!(
            "each of {shards} shards registers the cache ({}) with its ring, and the kernel charges \
             every registration to this limit unless the node has CAP_IPC_LOCK; in a systemd unit \
             this is LimitMEMLOCK={wanted}",
            format_bytes(goal.cache_bytes)
        ),
        worth: "without it registering the cache fails with ENOMEM".into(),
        basis: Basis::Derived,
        command: set(Limit::Bytes(wanted), hard),
        undo: set(found.soft, found.hard),
    });
}

fn set(soft: Limit, hard: Limit) -> String {
    format!("sudo prlimit --pid $$ --memlock={}:{}", written(soft), written(hard))
}

/// As prlimit(1) reads it.
fn written(limit: Limit) -> String {
    match limit {
        Limit::Bytes(bytes) => bytes.to_string(),
        Limit::Unlimited => "unlimited".into(),
    }
}
