//! Interfaces: what only the operator and the network can change, so notes and no actions.
use super::{Family, Goal, Plan};
use crate::facts::{Facts, Nic};

pub(super) fn rules(facts: &Facts, goal: &Goal, plan: &mut Plan) {
    if let (Some(cores), Some(online)) = (goal.cores, facts.cores_online)
        && cores > online
    {
        let text = format!(
            "planned for {cores} cores, and {online} are online: shards that share a core cost \
             latency"
        );
        plan.note(Family::Network, text);
    }
    for nic in facts.nics.iter().filter(|nic| nic.state.as_deref() == Some("up")) {
        queues(nic, goal.shards(facts), plan);
        frames(nic, plan);
    }
}

fn queues(nic: &Nic, shards: Option<u32>, plan: &mut Plan) {
    let Some(shards) = shards.filter(|shards| nic.rx_queues < *shards) else { return };
    let name = &nic.name;
    let text = format!(
        "{name} has {} receive queue(s) for {shards} shards, so some cores take interrupts for others: \
         `ethtool -l {name}` shows how many it can have, `ethtool -L {name} combined N` sets them",
        nic.rx_queues
    );
    plan.note(Family::Network, text);
}

fn frames(nic: &Nic, plan: &mut Plan) {
    // 8192 bytes of data, 76 of header, 48 of IPv6 and UDP.
    const JUMBO_BYTES: u32 = 8192 + 76 + 48;
    let Some(mtu) = nic.mtu.filter(|mtu| *mtu < JUMBO_BYTES) else { return };
    let text = format!(
        "{} has an MTU of {mtu}: where switches and devices agree on 9000, a datagram carries two \
         4 KiB units instead of a part of one; sizes are probed, so mixing is safe",
        nic.name
    );
    plan.note(Family::Network, text);
}
