//! Evening out sessions: by command, and every ten minutes where the farm file says so. The plan is [`crate::rebalance`]'s; here it is
//! asked for each vDisk, carried out, counted and told.

use std::collections::BTreeMap;

use diskstream_wire::Nanos;

use crate::control::{Answer, Rebalanced};
use crate::lock::Mutex;
use crate::metrics::{Samples, Source};
use crate::rebalance::{Plan, Settings, begin, decide};
use crate::running::RunningNode;
use crate::shard::NodeShared;

/// Distance of two looks of a node that rebalances by itself: as long as a device that was told to move is left in peace.
pub(super) const LOOK_EVERY: Nanos = Nanos::from_secs(600);

/// How often was decided what.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<BTreeMap<&'static str, u64>>);

impl Decisions {
    fn count(&self, outcome: &'static str) {
        *self.0.lock().expect("nothing panics under this lock").entry(outcome).or_default() += 1;
    }
}

impl Source for Decisions {
    fn collect(&self, samples: &mut Samples) {
        let help = "Looks at a vDisk's balance over the farm, by what came of it: moved, or why nothing was.";
        let counts = self.0.lock().expect("nothing panics under this lock");
        for (&outcome, &count) in counts.iter() {
            let labels = vec![("outcome", outcome.into())];
            samples.counter("rebalance_looks_total", help, labels, count);
        }
    }
}

/// Carries out what a command asks for: the guard holds, only the farm file's switch is passed over.
pub(super) fn by_command(
    node: &RunningNode,
    decisions: &Decisions,
    vdisk: Option<&str>,
    dry_run: bool,
    now: Nanos,
) -> Answer {
    let shared = node.shared();
    let settings = Settings { enabled: true, ..shared.farm.rebalance };
    let entries = shared.vdisks().unwrap_or_default();
    if let Some(name) = vdisk.filter(|name| entries.iter().all(|entry| entry.name != *name)) {
        return Answer::Refused { reason: format!("this node knows no vDisk '{name}'") };
    }
    let wanted = |name: &str| vdisk.is_none_or(|wanted| wanted == name);
    let chosen = entries.iter().enumerate().filter(|(_, entry)| wanted(&entry.name));
    let vdisks = chosen.map(|(index, entry)| {
        let outcome = look(node, index, &settings, dry_run, decisions, now);
        let (sessions, why) = match outcome {
            Ok(plan) => (plan.count, destinations(shared, &plan)),
            Err(reason) => (0, reason),
        };
        Rebalanced { vdisk: entry.name.clone(), sessions, why }
    });
    Answer::Rebalanced { dry_run, vdisks: vdisks.collect() }
}

/// What a node does by itself now and then.
pub(super) fn by_itself(node: &RunningNode, decisions: &Decisions, now: Nanos) {
    let shared = node.shared();
    if !shared.farm.rebalance.enabled {
        return;
    }
    for (index, entry) in shared.vdisks().unwrap_or_default().iter().enumerate() {
        match look(node, index, &shared.farm.rebalance, false, decisions, now) {
            Ok(plan) => tracing::info!(
                vdisk = entry.name,
                "rebalance: {} sessions are told to move: {}",
                plan.count,
                destinations(shared, &plan)
            ),
            Err(reason) => {
                tracing::debug!(vdisk = entry.name, "rebalance: nothing to move: {reason}");
            }
        }
    }
}

fn look(
    node: &RunningNode,
    index: usize,
    settings: &Settings,
    dry_run: bool,
    decisions: &Decisions,
    now: Nanos,
) -> Result<Plan, String> {
    let outcome = decide(node.shared(), index, settings, now);
    if dry_run {
        return outcome.map_err(|skip| skip.map_or_else(not_here, |skip| skip.to_string()));
    }
    decisions.count(match &outcome {
        Ok(_) => "moved",
        Err(Some(skip)) => skip.label(),
        Err(None) => "not_here",
    });
    let plan = outcome.map_err(|skip| skip.map_or_else(not_here, |skip| skip.to_string()))?;
    let vdisk = u32::try_from(index).expect("few vDisks");
    begin(node.shared(), now);
    node.rebalance(vdisk, plan.count, &plan.successors);
    Ok(plan)
}

fn not_here() -> String {
    "this node has no image of it that takes devices".to_owned()
}

/// Who takes how many, by name where the view still has one.
fn destinations(shared: &NodeShared, plan: &Plan) -> String {
    let view = shared.view.get();
    let name = |login| {
        let peer = view.peers.iter().find(|peer| peer.entry().login == login);
        peer.map_or_else(|| format!("{login:?}"), |peer| peer.name.clone())
    };
    let shares = plan
        .successors
        .iter()
        .map(|share| format!("{} takes up to {}", name(share.node.login), share.devices));
    shares.collect::<Vec<_>>().join(", ")
}
