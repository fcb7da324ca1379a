//! The files behind the vDisks: who changes one takes it out of service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use diskstream_vdisk::{Change, Watch};
use diskstream_wire::{ContentId, Nanos};

use super::Wish;
use crate::metrics::HealthState;
use crate::running::RunningNode;
use crate::shard::{HungStores, VdiskEntry};
use crate::view::{DrainState, FarmView, PeerState};

/// Distance of two looks at an image. Guessed: a change is named within a second; blocks are checked anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The threads that look at the images, one for each store: a look asks the file system, which may wait for a file server for as long as
/// that is gone, and neither the loop that obeys signals nor the images of other stores shall wait with it. Dropping it ends those that
/// are not in a look; the end of the process ends the others.
#[derive(Debug)]
pub(super) struct Watching {
    _ends: Vec<mpsc::Sender<()>>,
}

impl Watching {
    /// Watches every image; one that cannot be watched is said, and its blocks are checked all the same.
    pub(super) fn start(
        node: &RunningNode,
        wish: &mpsc::Sender<Wish>,
    ) -> std::io::Result<Watching> {
        let mut stores: BTreeMap<u64, Vec<(usize, Watch)>> = BTreeMap::new();
        for (index, vdisk) in node.vdisks().iter().enumerate() {
            let Some(vdisk) = vdisk else { continue };
            match Watch::new(vdisk) {
                Ok(watch) => {
                    stores.entry(vdisk.identity().dev).or_default().push((index, watch));
                }
                Err(error) => {
                    tracing::warn!(path = %vdisk.path().display(), %error, "the image cannot be watched");
                }
            }
        }
        let mut ends = Vec::new();
        for images in stores.into_values() {
            let (end, ended) = mpsc::channel();
            let wish = wish.clone();
            let thread = std::thread::Builder::new().name("watch".to_owned());
            thread.spawn(move || watch_store(images, &wish, &ended))?;
            ends.push(end);
        }
        Ok(Watching { _ends: ends })
    }
}

/// Tells what happens to the images of one store, until nobody wants to know.
fn watch_store(
    mut images: Vec<(usize, Watch)>,
    wish: &mpsc::Sender<Wish>,
    ended: &mpsc::Receiver<()>,
) {
    loop {
        for (vdisk, watch) in &mut images {
            while let Some(change) = watch.check() {
                if wish.send(Wish::ImageChanged { vdisk: *vdisk, change }).is_err() {
                    return;
                }
            }
        }
        if ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
            return;
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
/// True: it is.
pub(super) fn judge(node: &RunningNode, index: usize, change: Change) -> bool {
    let Some(vdisk) = &node.vdisks()[index] else { return false };
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
            return true;
        }
    }
    false
}

/// A scrub found a rotten block: what follows is decided with the next look.
pub(super) fn bad_block(node: &RunningNode, index: usize, what: &str) {
    let Some(vdisk) = &node.vdisks()[index] else { return };
    tracing::error!(path = %vdisk.path().display(), "scrub: {what}; devices read these elsewhere, or get an I/O error for these alone. \
         Restore the image, and restart the node");
    if let Some(entry) = node.shared().vdisks().and_then(|entries| entries.get(index)) {
        entry.damaged.store(true, Relaxed);
    }
}

/// How long the other copies must be as they are before anything follows from it. Guess: several reports of a peer (one a second), and
/// longer than a peer is unknown that comes back.
const CALM: Nanos = Nanos::from_secs(5);

/// Decides whether vDisks with bad blocks take devices. One does not where another node serves the same content. Where there is none, it
/// goes on: a machine that cannot read one block is better off than one without its disk. Looked at again and again,
/// because nodes come and go; but a vDisk that has come back stays, since peers do not tell which copies are sound, and two nodes
/// with a bad copy each would else send the devices to each other for ever.
#[derive(Debug, Default)]
pub(super) struct Weighing {
    /// Since when what is done with a vDisk is not what its copies call for.
    since: BTreeMap<usize, Nanos>,
    stays: BTreeSet<usize>,
}

/// What follows from the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Leaves,
    ComesBack,
}

impl Weighing {
    /// Pure: what is due for a damaged vDisk.
    fn weigh(&mut self, index: usize, eligible: bool, last: bool, now: Nanos) -> Option<Step> {
        let step = match (eligible, last) {
            (true, false) if !self.stays.contains(&index) => Step::Leaves,
            (false, true) => Step::ComesBack,
            _ => {
                self.since.remove(&index);
                return None;
            }
        };
        if now.since(*self.since.entry(index).or_insert(now)) < CALM {
            return None;
        }
        self.since.remove(&index);
        if step == Step::ComesBack {
            self.stays.insert(index);
        }
        Some(step)
    }

    /// Looks at all of them.
    pub(super) fn look(&mut self, node: &RunningNode, changed: &BTreeSet<usize>, now: Nanos) {
        let shared = node.shared();
        let view = shared.view.get();
        for (index, entry) in shared.vdisks().unwrap_or_default().iter().enumerate() {
            let of_farm = shared.farm.vdisk(&entry.name).map(|(_, of_farm)| of_farm);
            let pinned = of_farm.is_some_and(|vdisk| vdisk.pinned.is_some());
            let last = pinned || !is_served_elsewhere(&view, &entry.name, entry.content_id);
            // What a shard finds out while it reads follows the same decision.
            entry.last_copy.store(last || self.stays.contains(&index), Relaxed);
            if !entry.damaged.load(Relaxed) || changed.contains(&index) {
                continue;
            }
            match self.weigh(index, entry.is_eligible(), last, now) {
                Some(Step::Leaves) => {
                    tracing::error!(
                        vdisk = entry.name,
                        "a block is bad and another node serves the same: takes no more devices, and those that it has are told to \
                     move. Restore the image, and restart the node"
                    );
                    node.vdisk_changed(u32::try_from(index).expect("few vDisks"));
                }
                Some(Step::ComesBack) => {
                    tracing::warn!(
                        vdisk = entry.name,
                        "a block is bad, but no other node serves this vDisk now: takes devices again"
                    );
                    entry.eligible.store(true, Relaxed);
                }
                None => {}
            }
        }
    }
}

/// Whether a device could go on at another node.
fn is_served_elsewhere(view: &FarmView, name: &str, content_id: ContentId) -> bool {
    view.peers.iter().any(|peer| {
        peer.state == PeerState::Up
            && peer.drain == DrainState::Serving
            && peer.holds(name, content_id)
    })
}

/// A sentence for each vDisk that is served although a block of it is bad.
pub(super) fn damaged(node: &RunningNode) -> Vec<String> {
    let entries = node.shared().vdisks().unwrap_or_default().iter();
    let served = entries.filter(|entry| entry.damaged.load(Relaxed) && entry.is_eligible());
    let say = |name: &str| {
        format!(
            "vDisk {name} has a bad block and no other node serves it: that block gives I/O errors. Restore the image, and restart \
             the node"
        )
    };
    served.map(|entry| say(&entry.name)).collect()
}

/// A sentence for each store that hangs.
pub(super) fn hung(stores: &HungStores, entries: &[Arc<VdiskEntry>]) -> Vec<String> {
    let say = |(store, name, _): (u16, &str, bool)| {
        let on_it = entries.iter().filter(|entry| entry.is_here() && entry.store == store);
        let vdisks: Vec<&str> = on_it.map(|entry| entry.name.as_str()).collect();
        format!(
            "the store of vDisk {} (device {name}) gives nothing any more: devices read elsewhere what is not in the cache. Look at its \
             disk or file server; the node goes on by itself when the store answers",
            vdisks.join(", ")
        )
    };
    stores.states().filter(|&(.., hangs)| hangs).map(say).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use diskstream_vdisk::FlatMap;

    use super::*;
    use crate::view::{HeldVersion, PeerView};

    #[test]
    fn a_store_that_hangs_is_named_with_what_lies_on_it() {
        let stores = HungStores::named(vec!["8:1".to_owned(), "0:40".to_owned()]);
        let entry = |name: &str, store| {
            let map = Arc::new(FlatMap::dense(512));
            let entry = VdiskEntry::new(name, ContentId([7; 32]), map, None);
            Arc::new(VdiskEntry { store, ..entry })
        };
        let entries = [entry("debian", 1), entry("windows", 0), entry("suse", 1)];
        assert!(hung(&stores, &entries).is_empty());
        assert!(stores.set(1, true) && !stores.set(1, true));
        let said = hung(&stores, &entries);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("vDisk debian, suse (device 0:40)"), "{said:?}");
        assert!(stores.set(1, false));
        assert!(hung(&stores, &entries).is_empty());
    }

    #[test]
    fn a_damaged_copy_leaves_once_comes_back_and_stays() {
        let mut weighing = Weighing::default();
        let at = Nanos::from_secs;
        assert_eq!(weighing.weigh(0, true, false, at(0)), None);
        assert_eq!(weighing.weigh(0, true, true, at(3)), None, "it was not for long");
        assert_eq!(weighing.weigh(0, true, false, at(4)), None);
        assert_eq!(weighing.weigh(0, true, false, at(9)), Some(Step::Leaves));
        assert_eq!(weighing.weigh(0, false, true, at(20)), None);
        assert_eq!(weighing.weigh(0, false, true, at(25)), Some(Step::ComesBack));
        for s in 26..100 {
            assert_eq!(weighing.weigh(0, true, false, at(s)), None, "back and forth");
        }
    }

    #[test]
    fn elsewhere_is_a_node_that_is_up_takes_devices_and_holds_the_same() {
        let (right, other) = (ContentId([7; 32]), ContentId([8; 32]));
        let peer = |state, drain, content_id, eligible| {
            let held =
                HeldVersion { vdisk: "debian".to_owned(), content_id, eligible, sessions: 0 };
            let login = SocketAddr::from(([10, 0, 0, 1], 6910));
            let versions = Arc::new([held]);
            let peer = PeerView::unknown("b", login, 100);
            let peer = PeerView { state, drain, versions, ..peer };
            is_served_elsewhere(&FarmView { peers: vec![peer] }, "debian", right)
        };
        assert!(peer(PeerState::Up, DrainState::Serving, right, true));
        assert!(!peer(PeerState::Unknown, DrainState::Serving, right, true));
        assert!(!peer(PeerState::Up, DrainState::Maintenance, right, true));
        assert!(!peer(PeerState::Up, DrainState::Serving, other, true));
        assert!(!peer(PeerState::Up, DrainState::Serving, right, false));
        assert!(!is_served_elsewhere(&FarmView { peers: Vec::new() }, "debian", right));
    }
}
