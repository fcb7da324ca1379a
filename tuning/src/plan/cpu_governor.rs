//! Frequency governors.
use super::{Action, Basis, Family, Plan};
use crate::facts::Facts;
use std::collections::BTreeMap;

const WANTED: &str = "performance";

/// One action per governor found, as a host of 128 cores has 128 policies.
pub(super) fn rules(facts: &Facts, plan: &mut Plan) {
    let mut policies_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for policy in &facts.cpu_policies {
        let can = policy.available.iter().any(|governor| governor == WANTED);
        if can && policy.governor != WANTED {
            policies_of.entry(&policy.governor).or_default().push(&policy.name);
        }
    }
    for (governor, policies) in policies_of {
        plan.actions.push(Action {
            family: Family::CpuGovernor,
            title: "keep the cores at full speed".into(),
            found: format!("{governor} on {}", policies.join(" ")),
            wanted: WANTED.into(),
            reason:
                "a shard sleeps between datagrams, and a governor takes that for idleness: the \
                     first requests of a storm meet the slowest clock"
                    .into(),
            worth: "latency after idle times, for more power drawn at all times".into(),
            basis: Basis::Guessed,
            command: set(&policies, WANTED),
            undo: set(&policies, governor),
        });
    }
}

fn set(policies: &[&str], governor: &str) -> String {
    format!(
        "for p in {}; do echo {governor} | sudo tee \
         /sys/devices/system/cpu/cpufreq/$p/scaling_governor; done",
        policies.join(" ")
    )
}
