//! How large a buffer a socket may ask for.
use super::{Action, Basis, Family, Plan};
use crate::facts::Facts;
use crate::units::format_bytes;

/// What each shard's socket asks for, each way.
const WANTED_BYTES: u64 = 4 * 1024 * 1024;

pub(super) fn rules(facts: &Facts, plan: &mut Plan) {
    rule(
        plan,
        facts.rmem_max_bytes,
        "receive",
        "net.core.rmem_max",
        "a default buffer holds 256 small requests: one boot storm's turn overflows it, and each \
         lost request costs its device a timeout",
        Basis::Measured,
    );
    rule(
        plan,
        facts.wmem_max_bytes,
        "send",
        "net.core.wmem_max",
        "a reply that finds the send buffer full is dropped and asked for again",
        Basis::Derived,
    );
}

fn rule(plan: &mut Plan, found: Option<u64>, way: &str, key: &str, worth: &str, basis: Basis) {
    let Some(found) = found.filter(|found| *found < WANTED_BYTES) else { return };
    plan.actions.push(Action {
        family: Family::Sockets,
        title: format!("raise the limit of {way} buffers"),
        found: format!("{key} = {found}"),
        wanted: format!("{key} = {WANTED_BYTES}"),
        reason: format!(
            "each shard's socket asks for {} and is given no more than this limit",
            format_bytes(WANTED_BYTES)
        ),
        worth: worth.to_owned(),
        basis,
        command: format!("sudo sysctl -w {key}={WANTED_BYTES}"),
        undo: format!("sudo sysctl -w {key}={found}"),
    });
}
