//! The files behind the vDisks: who changes one takes it out of service.

use diskstream_vdisk::{Change, Watch};

use crate::metrics::HealthState;
use crate::running::RunningNode;

/// Watches every image; one that cannot be watched is said, and its blocks are checked all the same.
pub(super) fn watch_all(node: &RunningNode) -> Vec<Option<Watch>> {
    node.vdisks()
        .iter()
        .map(|vdisk| {
            let vdisk = vdisk.as_ref()?;
            Watch::new(vdisk)
                .inspect_err(|error| tracing::warn!(path = %vdisk.path().display(), %error, "the image cannot be watched"))
                .ok()
        })
        .collect()
}

/// Looks at the files, and judges what happened to them.
pub(super) fn look(node: &RunningNode, watches: &mut [Option<Watch>]) {
    for (index, watch) in watches.iter_mut().enumerate() {
        let Some(watch) = watch else { continue };
        while let Some(change) = watch.check() {
            judge(node, index, change);
        }
    }
}

/// Ready as long as every vDisk that is here takes devices.
pub(super) fn health_of(node: &RunningNode) -> HealthState {
    let entries = node.shared().vdisks().unwrap_or_default().iter().zip(node.vdisks());
    let lost: Vec<&str> = entries
        .filter(|(entry, here)| here.is_some() && !entry.is_eligible())
        .map(|(entry, _)| entry.name.as_str())
        .collect();
    if lost.is_empty() {
        HealthState::Ready
    } else {
        HealthState::Failing(format!(
            "vDisk {} takes no devices: its file was changed or is damaged, see the log",
            lost.join(", ")
        ))
    }
}

/// A changed file takes its vDisk out of service; what cannot be told yet is said, and the block hashes judge.
fn judge(node: &RunningNode, index: usize, change: Change) {
    let Some(vdisk) = &node.vdisks()[index] else { return };
    let path = vdisk.path().display();
    match change.content() {
        diskstream_vdisk::Content::Intact => tracing::info!(%path, "{change}"),
        diskstream_vdisk::Content::Suspect => {
            tracing::warn!(%path, "{change}; every block is checked before it is served");
        }
        diskstream_vdisk::Content::Changed => {
            tracing::error!(%path, "{change}; the vDisk takes no more devices, and those that it has are told to move. Restore the \
                 image, or serve the changed one under a new name, and restart the node");
            node.vdisk_changed(u32::try_from(index).expect("few vDisks"));
        }
    }
}

/// A rotten block takes its vDisk out of service like a changed file: other nodes have a sound copy.
pub(super) fn bad_block(node: &RunningNode, index: usize, what: &str) {
    let Some(vdisk) = &node.vdisks()[index] else { return };
    tracing::error!(path = %vdisk.path().display(), "scrub: {what}; the vDisk takes no more devices, and those that it has are told to move. \
         Restore the image, and restart the node");
    node.vdisk_changed(u32::try_from(index).expect("few vDisks"));
}
