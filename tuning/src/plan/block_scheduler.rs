//! Schedulers of disks that need none.
use super::{Action, Basis, Family, Plan};
use crate::facts::{BlockDevice, Facts};

pub(super) fn rules(facts: &Facts, plan: &mut Plan) {
    for device in &facts.block_devices {
        if let Some(found) = needless_scheduler(device) {
            plan.actions.push(action(&device.name, found));
        }
    }
}

/// The scheduler to take off, if the device is better without one. SATA disks and all that turn
/// keep theirs: there sorting pays.
fn needless_scheduler(device: &BlockDevice) -> Option<&str> {
    let found = device.scheduler.as_deref().filter(|found| *found != "none")?;
    let has_none = device.schedulers.iter().any(|scheduler| scheduler == "none");
    // virtio disks report that they turn when their host says nothing; the host schedules anyway.
    let is_virtio = device.name.starts_with("vd");
    let is_nvme = device.name.starts_with("nvme") && device.rotational != Some(true);
    (has_none && (is_virtio || is_nvme)).then_some(found)
}

fn action(name: &str, found: &str) -> Action {
    let path = format!("/sys/block/{name}/queue/scheduler");
    Action {
        family: Family::BlockScheduler,
        title: format!("take the I/O scheduler off {name}"),
        found: found.to_owned(),
        wanted: "none".into(),
        reason: "the node reads whole cache blocks past the page cache and bounds its own queue; \
                 there is nothing for a scheduler to merge, sort or hold back"
            .into(),
        worth: "one lock fewer per disk read, which all cores would share".into(),
        basis: Basis::Derived,
        command: format!("echo none | sudo tee {path}"),
        undo: format!("echo {found} | sudo tee {path}"),
    }
}
