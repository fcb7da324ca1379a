//! `serve`: from flags to a running node.
//!
//! Start-up goes from what is cheap to check to what takes long: flags, sockets, memory, images, threads. From then on one loop
//! decides (`control_loop`): it waits for wishes - signals, requests from the control socket, a shard that ended - and
//! once a second looks at clocks and peers. It asks no file system: one that hangs must not keep the node from obeying.
//!
//! | part | does |
//! |---|---|
//! | `open` | opens the vDisks, with progress |
//! | `control_loop` | waits for wishes and grants them |
//! | `drain` | a drain's course: who is left, who is told |
//! | `watch` | files that change under a vDisk |
//! | `farm_watch` | peers that change, versions that differ |
//! | `announce` | what the node says when it is ready: standard output, metrics |
//! | `rebalance` | evens out sessions, by command or by itself |
//! | `scrubber` | reads the images from their disks now and then, and compares |
//! | `warm` | remembers what boots read, and tells how far vDisks are that stay in the cache |
//! | `service` | what systemd is told |

mod announce;
mod control_loop;
mod drain;
mod farm_watch;
mod open;
mod rebalance;
mod scrubber;
mod service;
mod warm;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_vdisk::Change;
use diskstream_wire::NodeEntry;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use announce::exporter;
pub use open::{HashProgress, open_vdisks};
pub(crate) use warm::load_warm_list;

use crate::cli::{HttpAt, ServeArgs};
use crate::control::{ControlServer, Reply, Request, RunningControl};
use crate::metrics::{Health, HealthState, HttpServer, PeerSource, RunningHttp, Source, gauge};
use crate::peers::PeerHandle;
use crate::running::{RunningNode, Sockets};
use crate::settings::{ControlAt, Settings};
use crate::status::OwnFacts;
use control_loop::{ControlLoop, Outside};
use rebalance::Decisions;
use scrubber::{Scrubber, Scrubs};
use warm::WarmUp;
use watch::Watching;

/// What the control loop is asked to do.
#[derive(Debug)]
pub(crate) enum Wish {
    /// A signal came.
    Signal(i32),
    /// A client of the control socket asks.
    Request(Request, Reply),
    /// The thread of a shard ended.
    ShardEnded,
    /// A scrub found a bad block.
    BadBlock {
        /// Index of the vDisk.
        vdisk: usize,
        /// Which bytes, and what is wrong with them.
        what: String,
    },
    /// Something happened to an open image.
    ImageChanged {
        /// Index of the vDisk.
        vdisk: usize,
        /// What.
        change: Change,
    },
}

/// Serves until a signal or a command ends it.
///
/// # Errors
/// One line: what could not be had, where, and the remedy.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::resolve(args)?;
    let (wish, wishes) = mpsc::channel();
    // Before any thread: signals then wait for the control loop instead of ending the process half-way.
    let stop = signals(wish.clone(), Wish::Signal)?;
    let sockets = Sockets::bind(&settings)?;
    farm_watch::try_peer_port(&settings)?;
    let control = bind_control(&settings)?;
    let http = match settings.http {
        HttpAt::Off => None,
        HttpAt::At(addr) => Some(HttpServer::bind(addr)?),
    };
    for line in settings.describe() {
        tracing::info!("{line}");
    }
    // Memory that is not there is said at once, not after an hour of hashing.
    let arena = RunningNode::arena_for(&settings)?;
    let Some(vdisks) = open_vdisks(&settings, &stop)? else {
        service::stopping();
        tracing::info!("told to stop while the images were opened: ending, no device was served");
        return Ok(());
    };
    let ended = wish.clone();
    // The loop may be gone already: then nobody is left to care.
    let on_end = Arc::new(move || drop(ended.send(Wish::ShardEnded)));
    let mut node = RunningNode::start(&settings, &arena, sockets, vdisks, on_end)?;
    farm_watch::publish_static_peers(&settings, node.shared());
    let peers = farm_watch::start_peers(&settings, &node)?;
    let health = Arc::new(Health::default());
    let (scrubs, decisions) = (Scrubs::new(&node), Arc::new(Decisions::default()));
    let mut sources: Vec<Box<dyn Source>> =
        vec![Box::new(Arc::clone(&scrubs)), Box::new(Arc::clone(&decisions))];
    let known = node.take_known_boots();
    let figures = WarmUp::figures(&node, known.ignored);
    sources.push(Box::new(Arc::clone(&figures)));
    if let Some(peers) = &peers {
        let (counters, status) = (peers.counters(), peers.status_source());
        let refused_by = peers.refused_by_source();
        sources.push(Box::new(PeerSource { counters, status, refused_by }));
    }
    let listens = f64::from(u8::from(control.is_some()));
    let help =
        "1 while the control socket is there; 0: it is off, or could not be made, see the log.";
    sources.push(gauge("control_socket", help, Vec::new(), move || listens));
    let exporter = exporter(&node, &health, sources);
    let http = http.map(|http| http.start(exporter, Arc::clone(&health))).transpose();
    let http = http.context("starting the thread for metrics")?;
    let scrubber = Scrubber::start(&settings, &node, &scrubs, &wish)?;
    let watching =
        Watching::start(&node, &wish).context("starting a thread that watches a store")?;
    let warm_up = WarmUp::start(&settings, &node, known.lists, &figures)?;
    let control = start_control(control, wish)?;
    health.set(HealthState::Ready);
    let own = own_facts(&settings, &node, peers.as_ref());
    announce::ready(&node, http.as_ref().map(RunningHttp::address), own.peer_port.as_deref())?;
    service::ready();
    let ended =
        ControlLoop::new(&settings, node, Outside { wishes, health, peers, decisions }, own).run();
    drop(watching);
    drop(scrubber);
    drop(warm_up);
    // Clients that wait for the last word of a drain get it before the process goes.
    drop(control);
    ended
}

fn own_facts(settings: &Settings, node: &RunningNode, peers: Option<&PeerHandle>) -> OwnFacts {
    let (farm, own) = (&node.shared().farm, node.shared().own_node);
    OwnFacts {
        name: settings.name().unwrap_or("this").to_owned(),
        rating: farm.nodes.get(own).map_or(100, |node| node.rating),
        since: clock::now(),
        peer_port: peers.map(|peers| peers.local_addr().to_string()),
        io: node.io().iter().map(ToString::to_string).collect(),
    }
}

/// The control socket; none where it is off, or where its usual place cannot be had.
fn bind_control(settings: &Settings) -> anyhow::Result<Option<ControlServer>> {
    match &settings.control {
        ControlAt::Off => Ok(None),
        ControlAt::At(path) => Ok(Some(ControlServer::bind(path)?)),
        ControlAt::Usual(path) => match ControlServer::bind(path) {
            Ok(server) => Ok(Some(server)),
            Err(error @ crate::control::ControlError::Alive { .. }) => Err(error.into()),
            Err(error) => {
                tracing::warn!("going on without a control socket: {error}");
                Ok(None)
            }
        },
    }
}

fn start_control(
    server: Option<ControlServer>,
    wish: mpsc::Sender<Wish>,
) -> anyhow::Result<Option<RunningControl>> {
    let Some(server) = server else { return Ok(None) };
    tracing::info!("control socket {}", server.path().display());
    let running = server.start(move |request, reply| {
        // The loop is gone: the client sees the connection end.
        drop(wish.send(Wish::Request(request, reply)));
    });
    Ok(Some(running.context("starting the thread of the control socket")?))
}

/// Signals arrive through a channel, so that one thread can wait for them and for other things. The flag that it gives is set once
/// a signal to stop came, for what is long and waits for no channel.
///
/// # Errors
/// When the process may not handle signals or start a thread.
pub fn signals<T: Send + 'static>(
    sender: mpsc::Sender<T>,
    wrap: impl Fn(i32) -> T + Send + 'static,
) -> anyhow::Result<Arc<AtomicBool>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .context("taking over SIGTERM, SIGINT and SIGHUP")?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            signals
                .forever()
                .inspect(|&signal| {
                    if signal != SIGHUP {
                        told.store(true, Relaxed);
                    }
                })
                .take_while(|&signal| sender.send(wrap(signal)).is_ok())
                .for_each(drop);
        })
        .context("starting a thread")?;
    Ok(stop)
}

/// What the devices of a draining node are told: every other node that serves the same.
#[must_use]
pub fn node_entries(addrs: &[SocketAddr]) -> Vec<NodeEntry> {
    addrs
        .iter()
        .map(|&addr| NodeEntry { login: addr.into(), rating: 100, ..NodeEntry::default() })
        .collect()
}
