//! The peers' thread on real sockets on loopback, and what it shows to Prometheus.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use diskstream_node::cache::Cache;
use diskstream_node::farm::Farm;
use diskstream_node::metrics::{Exporter, PeerSource};
use diskstream_node::peers::{PeerAddress, PeerConfig, PeerHandle, PeerRefusal, PeerThread};
use diskstream_node::shard::{
    BootSlots, HungStores, Limits, Line, NodeShared, VdiskEntry, WallClock,
};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_node::view::{DrainState, OwnLoad, PeerState, ViewCell};
use diskstream_ring::{Arena, ArenaConfig, HugePages, clock};
use diskstream_vdisk::FlatMap;
use diskstream_wire::ContentId;

fn shared(content: u8) -> Arc<NodeShared> {
    let config = ArenaConfig { bytes: 1 << 20, huge_pages: HugePages::Off };
    let arena = Arc::new(Arena::new(&config).expect("a small arena"));
    let login = SocketAddr::from(([127, 0, 0, 1], 6910));
    let farm = Farm::single_image(Path::new("/images/disk.img"), &[login], 500);
    let vdisks = OnceLock::new();
    let map = Arc::new(FlatMap::dense(1 << 20));
    let entry = VdiskEntry::new("disk", ContentId([content; 32]), map, None);
    assert!(vdisks.set(vec![Arc::new(entry)]).is_ok());
    Arc::new(NodeShared {
        keys: Keys::derive(&FarmKey::new([5; 32])),
        own_node: 0,
        vdisks,
        cache: Arc::new(Cache::new(arena, 64 * 1024).expect("a cache")),
        boot_slots: BootSlots::new(farm.boot_limit),
        farm: Arc::new(farm),
        login_endpoint: login,
        io_endpoints: vec![SocketAddr::from(([127, 0, 0, 1], 6911))],
        placement_seed: [9; 32],
        wall_clock: WallClock::new(1_800_000_000, clock::now()),
        limits: Limits::default(),
        hung_stores: HungStores::default(),
        line: Line::default(),
        view: ViewCell::default(),
        own: OwnLoad::default(),
    })
}

fn start(
    name: &str,
    seed: u8,
    shared: &Arc<NodeShared>,
    through: Option<SocketAddr>,
) -> PeerHandle {
    let peer = |addr| PeerAddress { name: None, addr, login: None, rating: None };
    let config = PeerConfig {
        name: name.to_owned(),
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        login: SocketAddr::from(([127, 0, 0, 1], 7000 + u16::from(seed))),
        rating: 100 + u16::from(seed),
        peers: through.map(peer).into_iter().collect(),
        seed: [seed; 32],
    };
    PeerThread::start(config, Arc::clone(shared)).expect("a port on loopback")
}

/// Polls the published view: the thread offers no other event.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let begin = clock::now();
    while !holds() {
        let waited = clock::now().since(begin).as_duration();
        assert!(waited < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    clock::now().since(begin).as_duration()
}

fn state(shared: &NodeShared, name: &str) -> Option<PeerState> {
    shared.view.get().peers.iter().find(|peer| peer.name == name).map(|peer| peer.state)
}

#[test]
fn three_nodes_meet_report_drain_and_leave() {
    let (alpha, beta, gamma) = (shared(1), shared(1), shared(2));
    let first = start("alpha", 1, &alpha, None);
    let second = start("beta", 2, &beta, Some(first.local_addr()));
    let third = start("gamma", 3, &gamma, Some(first.local_addr()));
    until("all meet, also those who joined through the first", || {
        [(&alpha, "beta", "gamma"), (&beta, "alpha", "gamma"), (&gamma, "alpha", "beta")]
            .iter()
            .all(|(node, a, b)| [a, b].iter().all(|name| state(node, name) == Some(PeerState::Up)))
    });
    until("inventories arrive", || {
        alpha.view.get().peers.iter().all(|peer| peer.versions.len() == 1)
    });
    let view = alpha.view.get();
    let holds = |content| {
        let holding = view.peers.iter().filter(|p| p.holds("disk", ContentId([content; 32])));
        holding.map(|peer| peer.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((holds(1), holds(2)), (vec!["beta"], vec!["gamma"]));
    let peer = view.peers.iter().find(|peer| peer.name == "gamma").expect("met");
    assert_eq!((peer.rating, peer.login.port()), (103, 7003));
    assert_eq!((peer.load.boot_limit, peer.drain), (500, DrainState::Serving));

    gamma.own.drain.store(DrainState::Maintenance as u8, Relaxed);
    third.own_changed();
    until("the drain is told", || {
        alpha.view.get().peers.iter().any(|peer| peer.drain == DrainState::Maintenance)
    });

    shows_metrics(&first);
    third.stop();
    let took =
        until("a graceful stop is known", || state(&alpha, "gamma") == Some(PeerState::Down));
    println!("known after {} ms", took.as_millis());
    drop(second);
    until("a dropped handle says good-bye as well", || {
        state(&alpha, "beta") == Some(PeerState::Down)
    });
    let why: Vec<String> = first.status().iter().map(|status| status.why.to_string()).collect();
    assert_eq!(why, ["it said that it stops"; 2]);
}

fn shows_metrics(handle: &PeerHandle) {
    let source = PeerSource {
        counters: handle.counters(),
        status: handle.status_source(),
        refused_by: handle.refused_by_source(),
    };
    let text = Exporter::new(vec![Box::new(source)]).render().expect("valid families");
    for line in [
        "diskstream_peer_state{peer=\"beta\",state=\"up\"} 1",
        "diskstream_peer_state{peer=\"beta\",state=\"down\"} 0",
        "diskstream_refused_by_peers 0",
        "diskstream_peer_sessions{peer=\"gamma\"} 0",
        "diskstream_peer_draining{peer=\"gamma\"} 1",
        "diskstream_peer_datagrams_refused_total{reason=\"seal\"} 0",
        "diskstream_peer_handshakes_total 2",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert!(text.contains("diskstream_peer_report_age_seconds{peer=\"beta\"} "));
}

#[test]
fn an_empty_datagram_of_a_stranger_is_refused_and_wakes_nobody() {
    let shared = shared(1);
    let config = PeerConfig {
        name: "alpha".to_owned(),
        // As nodes are bound: the wakes then come from loopback.
        bind: SocketAddr::from(([0, 0, 0, 0], 0)),
        login: SocketAddr::from(([127, 0, 0, 1], 7001)),
        rating: 100,
        peers: Vec::new(),
        seed: [1; 32],
    };
    let handle = PeerThread::start(config, shared).expect("a port");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
    let to = SocketAddr::from(([127, 0, 0, 1], handle.local_addr().port()));
    let counters = handle.counters();
    stranger.send_to(&[], to).expect("sent");
    until("it is refused", || counters.refused(PeerRefusal::Size) == 1);
    // A wake of its own is none that is refused: it stops at once.
    handle.own_changed();
    handle.stop();
    assert_eq!(counters.refused(PeerRefusal::Size), 1);
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let first = start("alpha", 1, &shared(1), None);
    let config = PeerConfig {
        name: "beta".to_owned(),
        bind: first.local_addr(),
        login: first.local_addr(),
        rating: 100,
        peers: Vec::new(),
        seed: [2; 32],
    };
    let Err(error) = PeerThread::start(config, shared(1)) else { panic!("the port is taken") };
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()) && text.contains("peer port"), "{text}");
}
