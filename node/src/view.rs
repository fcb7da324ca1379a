//! The farm as this node sees it: who is up, what they serve, and how busy they are.
//!
//! One writer (the thread of the peers, or the simulator) publishes an immutable [`FarmView`]; shards keep an `Arc` of the last
//! one and look at an atomic number to learn that there is a newer one, so that a login takes no lock unless something changed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use diskstream_wire::time::Nanos;
use diskstream_wire::{ContentId, NodeEntry};

use crate::farm::Farm;
use crate::lock::Mutex;

/// Whether a peer lives, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// It answers.
    Up,
    /// It was not heard of yet, or is suspected: it is not chosen at login, but stays in lists behind those that are up.
    Unknown,
    /// It is gone: not chosen, and last in lists.
    Down,
}

impl PeerState {
    /// All of them.
    pub const ALL: [PeerState; 3] = [PeerState::Up, PeerState::Unknown, PeerState::Down];

    /// A stable label for metrics and `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            PeerState::Up => "up",
            PeerState::Unknown => "unknown",
            PeerState::Down => "down",
        }
    }
}

/// Whether a node takes devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DrainState {
    /// It does.
    #[default]
    Serving = 0,
    /// Its devices were told to move; it stays, answers logins for others, and can be resumed.
    Maintenance = 1,
    /// Its devices were told to move, and it ends when they have.
    Stopping = 2,
}

impl DrainState {
    /// A stable label for metrics and `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            DrainState::Serving => "serving",
            DrainState::Maintenance => "maintenance",
            DrainState::Stopping => "stopping",
        }
    }

    /// The state of a number; unknown ones are taken for [`DrainState::Stopping`], the careful reading.
    #[must_use]
    pub const fn from_code(code: u8) -> DrainState {
        match code {
            0 => DrainState::Serving,
            1 => DrainState::Maintenance,
            _ => DrainState::Stopping,
        }
    }
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions that are served. Standby sessions do not count.
    pub sessions: u32,
    /// Standby sessions.
    pub standbys: u32,
    /// Devices that are booting.
    pub boot_slots_in_use: u32,
    /// How many may; 0: any number.
    pub boot_limit: u32,
}

/// A vDisk that a node holds and serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVersion {
    /// Name of the vDisk.
    pub vdisk: String,
    /// What its bytes are.
    pub content_id: ContentId,
    /// False: its file is missing or was changed, so it takes no devices.
    pub eligible: bool,
    /// Sessions that it serves there.
    pub sessions: u32,
}

/// Another node of the farm.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Where it answers logins.
    pub login: SocketAddr,
    /// Power rating in hundredths.
    pub rating: u16,
    /// Whether it lives.
    pub state: PeerState,
    /// Whether it takes devices.
    pub drain: DrainState,
    /// How busy it is, by its last report.
    pub load: Load,
    /// When that was.
    pub reported: Nanos,
    /// What it holds. Empty until its inventory came.
    pub versions: Arc<[HeldVersion]>,
    /// Devices that this node's shards sent there since that report: it cannot know of them yet. Reset with each report.
    pub placed: Arc<AtomicU32>,
}

impl PeerView {
    /// A node that was never heard of: it is in lists, behind those that are up, and not chosen.
    #[must_use]
    pub fn unknown(name: &str, login: SocketAddr, rating: u16) -> PeerView {
        PeerView {
            name: name.to_owned(),
            login,
            rating,
            state: PeerState::Unknown,
            drain: DrainState::Serving,
            load: Load::default(),
            reported: Nanos::ZERO,
            versions: Arc::new([]),
            placed: Arc::default(),
        }
    }

    /// As it stands in lists.
    #[must_use]
    pub fn entry(&self) -> NodeEntry {
        NodeEntry { login: self.login.into(), rating: self.rating, ..NodeEntry::default() }
    }

    /// Whether it serves exactly this content under this name.
    #[must_use]
    pub fn holds(&self, vdisk: &str, content_id: ContentId) -> bool {
        self.versions.iter().any(|v| v.eligible && v.vdisk == vdisk && v.content_id == content_id)
    }
}

/// The farm as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct FarmView {
    /// The other nodes, in no particular order; never this one.
    pub peers: Vec<PeerView>,
}

impl FarmView {
    /// What a node knows before it heard of any other: the farm's other nodes, all unknown.
    #[must_use]
    pub fn of_farm(farm: &Farm, own_node: usize) -> FarmView {
        let others = farm.nodes.iter().enumerate().filter(|(n, _)| *n != own_node);
        let unknown =
            others.map(|(_, node)| PeerView::unknown(&node.name, node.login(), node.rating));
        FarmView { peers: unknown.collect() }
    }
}

/// Where the present view is found.
#[derive(Debug, Default)]
pub struct ViewCell {
    version: AtomicU64,
    view: Mutex<Arc<FarmView>>,
}

impl ViewCell {
    /// Replaces the view.
    ///
    /// # Panics
    /// When a thread panicked while it held the lock, which nothing in here does.
    pub fn publish(&self, view: FarmView) {
        let mut cell = self.view.lock().expect("nothing panics under this lock");
        *cell = Arc::new(view);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The present view.
    ///
    /// # Panics
    /// As [`ViewCell::publish`].
    #[must_use]
    pub fn get(&self) -> Arc<FarmView> {
        Arc::clone(&self.view.lock().expect("nothing panics under this lock"))
    }
}

/// A reader's copy of the view: one atomic load as long as nothing changed.
#[derive(Debug, Default)]
pub struct ViewReader {
    version: u64,
    view: Arc<FarmView>,
}

impl ViewReader {
    /// The present view.
    pub fn look(&mut self, cell: &ViewCell) -> &Arc<FarmView> {
        let version = cell.version.load(Ordering::Acquire);
        if version != self.version {
            self.view = cell.get();
            self.version = version;
        }
        &self.view
    }

    /// Number of the view that was looked at last; 0 before the first. A greater one is newer.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }
}

/// What the shards of this node count together, for its own place in the farm and for its reports.
#[derive(Debug, Default)]
pub struct OwnLoad {
    /// Sessions that are served.
    pub sessions: AtomicU32,
    /// Standby sessions.
    pub standbys: AtomicU32,
    /// Devices that logins placed here and whose session has not begun: without them, a burst of logins would all see the
    /// same load. Half of it is forgotten each second, because some devices never come.
    pub expected: AtomicU32,
    /// Whether this node takes devices: a [`DrainState`].
    pub drain: AtomicU8,
    /// When devices were last told to move for the balance's sake, in nanoseconds of the node's clock; 0: never.
    pub rebalanced_at: AtomicU64,
    /// The devices whose reads take longest.
    pub slowest: crate::slowest::Slowest,
}

impl OwnLoad {
    /// Whether this node takes devices.
    #[must_use]
    pub fn drain(&self) -> DrainState {
        DrainState::from_code(self.drain.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published_last() {
        let cell = ViewCell::default();
        let mut reader = ViewReader::default();
        assert!(reader.look(&cell).peers.is_empty());
        cell.publish(FarmView { peers: vec![peer("alpha")] });
        cell.publish(FarmView { peers: vec![peer("beta")] });
        assert_eq!(reader.look(&cell).peers[0].name, "beta");
        let before = Arc::clone(reader.look(&cell));
        assert!(Arc::ptr_eq(&before, reader.look(&cell)), "no copy without a change");
    }

    #[test]
    fn only_identical_eligible_content_counts() {
        let mut peer = peer("alpha");
        let held = HeldVersion {
            vdisk: "debian".to_owned(),
            content_id: ContentId([7; 32]),
            eligible: true,
            sessions: 0,
        };
        peer.versions = Arc::new([held.clone()]);
        assert!(peer.holds("debian", ContentId([7; 32])));
        assert!(!peer.holds("debian", ContentId([8; 32])));
        assert!(!peer.holds("other", ContentId([7; 32])));
        peer.versions = Arc::new([HeldVersion { eligible: false, ..held }]);
        assert!(!peer.holds("debian", ContentId([7; 32])));
    }

    fn peer(name: &str) -> PeerView {
        let login = SocketAddr::from(([10, 0, 0, 1], 6910));
        PeerView { state: PeerState::Up, ..PeerView::unknown(name, login, 100) }
    }
}
