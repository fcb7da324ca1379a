//! Who holds what, and what is said about it.

use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_vdisk::FlatMap;

use super::*;
use crate::view::{DrainState, HeldVersion};

fn entry(name: &str, content: u8) -> Arc<VdiskEntry> {
    let map = Arc::new(FlatMap::dense(4096));
    Arc::new(VdiskEntry::new(name, ContentId([content; 32]), map, None))
}

fn peer(name: &str, state: PeerState, held: &[(&str, u8)]) -> PeerView {
    let held = held.iter().map(|&(vdisk, content)| HeldVersion {
        vdisk: vdisk.to_owned(),
        content_id: ContentId([content; 32]),
        eligible: true,
        sessions: 3,
    });
    PeerView {
        name: name.to_owned(),
        login: SocketAddr::from(([10, 0, 0, 1], 6910)),
        rating: 100,
        state,
        drain: DrainState::Serving,
        load: Load::default(),
        reported: Nanos::ZERO,
        versions: held.collect(),
        placed: Arc::default(),
    }
}

#[test]
fn a_differing_copy_is_marked_and_named() {
    let peers = [
        peer("beta", PeerState::Up, &[("debian-13", 0x4f)]),
        peer("gamma", PeerState::Up, &[("debian-13", 0x9c)]),
    ];
    let found = vdisks("alpha", &[entry("debian-13", 0x9c)], &peers.iter().collect::<Vec<_>>());
    let [vdisk] = &found[..] else { panic!("{found:?}") };
    let same: Vec<_> = vdisk.holders.iter().map(|h| (h.node.as_str(), h.same)).collect();
    assert_eq!(same, [("alpha", true), ("beta", false), ("gamma", true)]);
    assert_eq!(
        differences("alpha", &found),
        [
            "beta holds another version of debian-13: 4f4f4f4f4f4f... instead of 9c9c9c9c9c9c...; no device moves between it and alpha"
        ]
    );
}

#[test]
fn a_node_without_the_vdisk_compares_its_peers_with_the_majority() {
    let missing = entry("debian-13", 0);
    missing.eligible.store(false, Relaxed);
    let peers = [
        peer("beta", PeerState::Up, &[("debian-13", 7)]),
        peer("delta", PeerState::Up, &[("debian-13", 9)]),
        peer("gamma", PeerState::Up, &[("debian-13", 7)]),
    ];
    let found = vdisks("alpha", &[missing], &peers.iter().collect::<Vec<_>>());
    let reference = ContentId([7; 32]).to_string();
    assert_eq!(found[0].content_id.as_ref(), Some(&reference));
    let said = differences("alpha", &found);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("delta holds another version"), "{said:?}");
}

#[test]
fn nodes_that_are_down_are_shown_and_not_complained_about() {
    let peers = [peer("beta", PeerState::Down, &[("debian-13", 1)])];
    let found = vdisks("alpha", &[entry("debian-13", 2)], &peers.iter().collect::<Vec<_>>());
    assert_eq!(found[0].holders.len(), 2);
    assert!(differences("alpha", &found).is_empty());
    let view = FarmView { peers: peers.to_vec() };
    assert!(differing(&[entry("debian-13", 2)], &view).is_empty());
}

#[test]
fn differences_that_count_are_those_of_peers_that_are_up() {
    let view = FarmView {
        peers: vec![
            peer("beta", PeerState::Up, &[("a", 1), ("b", 1), ("only-there", 5)]),
            peer("gamma", PeerState::Unknown, &[("a", 9)]),
        ],
    };
    let found = differing(&[entry("a", 1), entry("b", 2), entry("not-here", 0)], &view);
    let named: Vec<_> = found.iter().map(|d| (d.vdisk.as_str(), d.peer.as_str())).collect();
    assert_eq!(named, [("b", "beta")]);
}
