//! One device that reads in order over a veth pair at an MTU of 1500: how fast a single machine boots or copies. The best servers
//! over TCP, and the bare responder, read the same in turns at the same two ends.
//!
//! ```text
//! core 0, namespace "near": node, responder, nbdkit, nbd-server, qemu-nbd, tgtd   ── veth ──   core 1, namespace "far": the device
//! ```

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::args::FloorArgs;
use super::loads::Load;
use super::on_core;
use super::responder::ResponderProcess;
use super::scene::{Scene, Way};
use super::side::{Measuring, PAYLOAD_BYTES, Side, read_args};
use crate::node_process::{NodeProcess, serve_command};
use crate::peers::process::Place;
use crate::peers::servers::{self, Peer, Server};
use crate::read::{self, CACHE_BESIDE_BYTES, CORES, ReadArgs};
use crate::report::round;
use crate::spread::Spread;
use crate::{image, stop};

/// What a device of Provisioning Services reaches, in 2^20 bytes per second: it stops and waits for each 32 KiB.
const PVS_MIB_PER_S: f64 = 23.0;
/// Largest IP packet.
const MTU: u16 = 1500;
/// The TCP peers that are fast with one connection, each as it is usually run.
const PEERS: [Peer; 4] = [Peer::Nbdkit, Peer::NbdServer, Peer::QemuNbd, Peer::Tgt];
/// Names of the rows that are no peers.
const OURS: &str = "diskstream";
const BARE: &str = "bare responder";

/// What a server reached.
#[derive(Clone, Debug, Serialize)]
pub struct SingleRow {
    /// Which.
    pub server: String,
    /// 2^20 bytes per second.
    pub mib_per_s: Spread,
    /// Processor time of the server per 2^30 bytes.
    pub cpu_s_per_gib: Spread,
    /// Share of the time for which the clients were ready to run while others had their core: far from 0, the figures are those of a
    /// machine that is busy with something else.
    pub clients_waited: Spread,
    /// Each round.
    pub rounds: Vec<Side>,
}

/// Ours beside the peer with the highest median.
#[derive(Clone, Debug, Serialize)]
pub struct OverPeer {
    /// The peer.
    pub peer: String,
    /// Our rate by its rate, of the rounds.
    pub ratio: Spread,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Single {
    /// Bytes of a read.
    pub read_bytes: u64,
    /// Reads outstanding.
    pub depth: u32,
    /// Largest IP packet.
    pub mtu: u16,
    /// Ours first, then the bare responder, then peers.
    pub rows: Vec<SingleRow>,
    /// Our rate by that of a PVS device.
    pub ours_over_pvs: f64,
    /// Our rate by the best TCP peer's; none when no peer was measured.
    pub ours_over_best_peer: Option<OverPeer>,
    /// Peers that were not measured, and why.
    pub left_out: Vec<String>,
}

/// Who is measured.
enum Subject {
    Node(NodeProcess),
    Bare(ResponderProcess),
    Peer(Server),
}

impl Subject {
    fn name(&self) -> &'static str {
        match self {
            Subject::Node(_) => OURS,
            Subject::Bare(_) => BARE,
            Subject::Peer(server) => server.peer.name(),
        }
    }
}

/// Measures.
///
/// # Errors
/// When namespaces cannot be made, node or responder cannot be started or fail, or the program is told to end. A peer that
/// fails is left out and said so.
pub fn run(args: &FloorArgs) -> anyhow::Result<Single> {
    let stop = stop::on_signals()?;
    let load = Load::named("1m").expect("a load of this name");
    // Dropped after the servers.
    let folder = tempfile::tempdir().context("making a folder for the servers' files")?;
    let scene = Scene::new(Way::Veth, MTU)?;
    let path = image::make(&image::folder()?, args.seed, args.image_bytes)?;
    let mut left_out = Vec::new();
    let subjects = start_all(args, &scene, &path, folder.path(), &mut left_out)?;
    warm(args, &load, &scene, &subjects, &path)?;
    let measuring = Measuring { args, load: &load, clients: Some(scene.far()) };
    let mut found: Vec<Vec<Side>> = subjects.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![false; subjects.len()];
    for number in 0..args.rounds as usize {
        // Who begins changes from round to round, so that what drifts meets all alike.
        for turn in 0..subjects.len() {
            let index = (number + turn) % subjects.len();
            if failed[index] {
                continue;
            }
            let name = subjects[index].name();
            let measured = match &subjects[index] {
                Subject::Node(node) => measuring.node(node).context("our side")?,
                Subject::Bare(bare) => measuring.responder(bare).context("the responder's side")?,
                Subject::Peer(server) => match measuring.peer(server, &stop) {
                    Ok(side) => side,
                    Err(error) => {
                        stop::go_on(&stop)?;
                        leave_out(&mut left_out, format!("{name}: {error:#}"));
                        failed[index] = true;
                        continue;
                    }
                },
            };
            stop::go_on(&stop)?;
            say(number, name, &measured);
            found[index].push(measured);
        }
    }
    let named = subjects.iter().map(Subject::name).zip(found).zip(failed);
    let rows = named.filter(|(_, failed)| !failed).map(|((name, sides), _)| row(name, sides));
    single(&load, rows.collect(), left_out)
}

/// Starts everybody: the node, the responder, and the peers that are there.
fn start_all(
    args: &FloorArgs,
    scene: &Scene,
    path: &Path,
    folder: &Path,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<Subject>> {
    let core = (!args.no_pin).then_some(CORES.0);
    let listen = SocketAddr::new(scene.from.ip(), 0);
    let bare = ResponderProcess::start(path, listen, PAYLOAD_BYTES, core, Some(&scene.near))?;
    let mut subjects = vec![Subject::Node(start_node(args, scene, path)?), Subject::Bare(bare)];
    for peer in PEERS {
        let (program, package) = peer.program();
        if peer.find().is_none() {
            let words =
                format!("{}: {program} is not installed (apt install {package})", peer.name());
            leave_out(left_out, words);
            continue;
        }
        let place = Place { core, network: Some(&scene.near) };
        match servers::start(peer, path, listen.ip(), folder, place) {
            Ok(server) => subjects.push(Subject::Peer(server)),
            Err(error) => leave_out(left_out, format!("{error:#}")),
        }
    }
    Ok(subjects)
}

fn start_node(args: &FloorArgs, scene: &Scene, path: &Path) -> anyhow::Result<NodeProcess> {
    let mut command = serve_command()?;
    command.arg(path).args(["--login-port", "0", "--io-ports", "0", "--http", "off"]);
    command.args(["--listen", &scene.from.ip().to_string(), "--allow-any-mac"]);
    command.args(["--boot-limit", "0"]);
    command.args(["--cache", &(args.image_bytes + CACHE_BESIDE_BYTES).to_string()]);
    if !args.no_pin {
        command.args(["--cores", &CORES.0.to_string()]);
    }
    scene.near.host(&mut command);
    NodeProcess::launch(command)
}

/// Everything is in memory before anything is measured: the image in the page cache and in our node's.
fn warm(
    args: &FloorArgs,
    load: &Load,
    scene: &Scene,
    subjects: &[Subject],
    path: &Path,
) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    std::io::copy(&mut file, &mut std::io::sink()).context("reading the image")?;
    let read = ReadArgs { seconds: 0.1, ..read_args(args, load) };
    for subject in subjects {
        let Subject::Node(node) = subject else { continue };
        on_core(args.no_pin, || {
            scene.far().enter()?;
            read::measure(&read, Some(node), true)?.judge().context("warming the node's cache")
        })?;
    }
    Ok(())
}

fn row(server: &str, rounds: Vec<Side>) -> SingleRow {
    let spread = |figure: fn(&Side) -> f64, decimals| {
        Spread::of(rounds.iter().map(figure), decimals).expect("at least one round")
    };
    SingleRow {
        server: server.to_owned(),
        mib_per_s: spread(|side| side.mib_per_s, 1),
        cpu_s_per_gib: spread(|side| side.cpu_s_per_gib, 4),
        clients_waited: spread(|side| side.clients_cpu_wait_s / side.seconds, 3),
        rounds,
    }
}

fn single(load: &Load, rows: Vec<SingleRow>, left_out: Vec<String>) -> anyhow::Result<Single> {
    let ours = rows.first().filter(|row| row.server == OURS).context("our node was measured")?;
    ensure!(!ours.rounds.is_empty(), "no round of ours was measured");
    let best = rows
        .iter()
        .filter(|row| ![OURS, BARE].contains(&row.server.as_str()))
        .max_by(|a, b| a.mib_per_s.median.total_cmp(&b.mib_per_s.median));
    let ours_over_best_peer = best.and_then(|best| {
        let pairs = ours.rounds.iter().zip(&best.rounds);
        let ratios = pairs.map(|(ours, theirs)| ours.mib_per_s / theirs.mib_per_s);
        Some(OverPeer { peer: best.server.clone(), ratio: Spread::of(ratios, 3)? })
    });
    Ok(Single {
        read_bytes: load.size,
        depth: load.depth,
        mtu: MTU,
        ours_over_pvs: round(ours.mib_per_s.median / PVS_MIB_PER_S, 1),
        ours_over_best_peer,
        rows,
        left_out,
    })
}

fn leave_out(left_out: &mut Vec<String>, words: String) {
    let _ = writeln!(std::io::stderr(), "left out: {words}");
    left_out.push(words);
}

fn say(number: usize, server: &str, side: &Side) {
    let _ = writeln!(
        std::io::stderr(),
        "veth round {}: {server:<14} {:>6.0} MiB/s, {:.3} s/GiB, cores {:.2} + {:.2}, {} repeats, clients waited {:.3} s",
        number + 1,
        side.mib_per_s,
        side.cpu_s_per_gib,
        side.cpu_share,
        side.clients_cpu_share,
        side.repeats,
        side.clients_cpu_wait_s,
    );
}
