//! The run: all servers are up from the beginning to the end, on one core, and are measured one after the other under each load, round by
//! round, from the other core. A server that is not measured has nobody connected and does nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Parser;
use diskstream_ring::clock;
use diskstream_wire::Nanos;

use super::aoe::{self, Blade};
use super::args::PeersArgs;
use super::figures::{Cell, Figures, figures};
use super::loads::Load;
use super::process::Place;
use super::servers::{self, Peer, Protocol, Server};
use super::stream::Clients;
use super::wire::Wire;
use super::{connect_iscsi, connect_nbd};
use crate::book;
use crate::fleet::{Check, Job, Tally};
use crate::node_process::{CpuTime, NodeProcess};
use crate::read::{self, CORES, Pattern, ReadArgs};
use crate::stop;

/// Reads before the window opens, as in `read`.
const RAMP: Nanos = Nanos::from_millis(500);
/// The MTUs with which vblade is measured, and its loads: bytes of a read, and reads outstanding. One device, as it has no
/// connections; 32 and 8 deep, so that what is outstanding fits the queues of the interfaces at 1500.
const BLADE_MTUS: [u16; 2] = [1500, 9000];
const BLADE_LOADS: [(u64, usize); 2] = [(4 << 10, 32), (32 << 10, 8)];

/// Devices, reads outstanding at each, bytes of a read, and where reads go.
type Shape = (usize, usize, u64, Pattern);

/// A program that was not there.
#[derive(Debug, serde::Serialize)]
pub struct Missing {
    /// The peer.
    pub peer: &'static str,
    /// Debian's package that has it.
    pub package: &'static str,
}

/// How a server was started.
#[derive(Debug, serde::Serialize)]
pub struct Started {
    /// Its name in this report.
    pub server: &'static str,
    /// Version of its package.
    pub version: String,
    /// Its command line.
    pub line: String,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// Figures of our node and of stream peers.
    pub cells: Vec<Cell>,
    /// Those of vblade, and of our node in the same shapes.
    pub aoe: Vec<Cell>,
    /// Peers that were not there.
    pub missing: Vec<Missing>,
    /// Those that were.
    pub started: Vec<Started>,
    /// The rate of the open loop.
    pub open_rate: Option<u32>,
    /// Our node's rate that it is half of; none when it was given.
    pub saturation: Option<f64>,
}

/// Who is measured.
enum Subject<'a> {
    /// Our node, by devices with this MTU.
    Ours(u16),
    /// A peer.
    Peer(&'a Server),
}

impl Subject<'_> {
    fn name(&self) -> String {
        match self {
            Subject::Ours(mtu) => ours(*mtu),
            Subject::Peer(server) => server.peer.name().to_owned(),
        }
    }
}

/// Our node's name in reports.
#[must_use]
pub fn ours(mtu: u16) -> String {
    format!("diskstream, MTU {mtu}")
}

struct Scene<'a> {
    args: &'a PeersArgs,
    stop: &'a AtomicBool,
    node: NodeProcess,
    image: &'a Path,
    results: Results,
    done: usize,
    planned: usize,
}

/// Runs everything.
///
/// # Errors
/// When our node fails in anything; a peer's failures are in the results.
pub fn play(args: &PeersArgs, stop: &AtomicBool) -> anyhow::Result<Results> {
    let folder = tempfile::tempdir().context("making a folder for the servers' files")?;
    let node = read::start_node(&ReadArgs { devices: devices_max(args), ..read_args(args) })?;
    let image = crate::image::make(&crate::image::folder()?, args.seed, args.image_bytes)?;
    let mut scene =
        Scene { args, stop, node, image: &image, results: Results::default(), done: 0, planned: 0 };
    let servers = scene.start_peers(folder.path());
    // Servers were started before this thread is pinned: what is not told its core inherits it.
    let _ = args.no_pin || read::pin(CORES.1);
    scene.warm()?;
    let subjects: Vec<Subject<'_>> = args.mtu.iter().map(|&mtu| Subject::Ours(mtu)).collect();
    let subjects = subjects.into_iter().chain(servers.iter().map(Subject::Peer)).collect();
    scene.measure_all(subjects)?;
    drop(servers);
    if args.peers().contains(&Peer::Vblade) && Peer::Vblade.find().is_some() {
        scene.measure_blades(folder.path())?;
    }
    Ok(scene.results)
}

fn devices_max(args: &PeersArgs) -> u32 {
    let most = args.loads().into_iter().map(|load| load.shape().0).max();
    u32::try_from(most.unwrap_or(1)).expect("some hundred")
}

/// Flags of `read` for what all loads share.
fn read_args(args: &PeersArgs) -> ReadArgs {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        read: ReadArgs,
    }
    let defaults = Line::parse_from(["read"]).read;
    ReadArgs {
        seconds: args.seconds,
        verify: args.verify,
        image_bytes: args.image_bytes,
        seed: args.seed,
        no_pin: args.no_pin,
        ..defaults
    }
}

impl Scene<'_> {
    /// Starts the stream peers that are installed. One that cannot be started is left out, and said so.
    fn start_peers(&mut self, folder: &Path) -> Vec<Server> {
        let mut servers = Vec::new();
        for peer in self.args.peers() {
            let (program, package) = peer.program();
            if peer.find().is_none() {
                say(format_args!(
                    "{}: {program} is not installed (apt install {package}): left out",
                    peer.name()
                ));
                self.results.missing.push(Missing { peer: peer.name(), package });
            } else if peer.protocol() != Protocol::Aoe {
                let place = Place { core: self.core(), network: None };
                let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
                match servers::start(peer, self.image, listen, folder, place) {
                    Ok(server) => {
                        self.note_started(peer, server.line.clone());
                        servers.push(server);
                    }
                    Err(error) => {
                        say(format_args!("{}: {error:#}", peer.name()));
                        self.results.cells.push(Cell::failed(None, peer.name(), &error));
                    }
                }
            }
        }
        servers
    }

    fn note_started(&mut self, peer: Peer, line: String) {
        let (server, version) = (peer.name(), peer.version());
        self.results.started.push(Started { server, version, line });
    }

    fn core(&self) -> Option<usize> {
        (!self.args.no_pin).then_some(CORES.0)
    }

    /// Everything is in memory before anything is measured: the image in the page cache and in our node's.
    fn warm(&self) -> anyhow::Result<()> {
        let mut file = std::fs::File::open(self.image)?;
        std::io::copy(&mut file, &mut std::io::sink()).context("reading the image")?;
        let args = ReadArgs {
            devices: 1,
            depth: 8,
            size: 1 << 20,
            pattern: Pattern::Seq,
            seconds: 0.1,
            ..read_args(self.args)
        };
        read::measure(&args, Some(&self.node), true)?.judge().context("warming our node")
    }

    fn measure_all(&mut self, mut subjects: Vec<Subject<'_>>) -> anyhow::Result<()> {
        let loads = self.args.loads();
        self.planned = self.args.rounds as usize * loads.len() * subjects.len();
        for round in 0..self.args.rounds {
            for &load in &loads {
                let rate = if load == Load::Half { Some(self.open_rate()?) } else { None };
                for subject in &subjects {
                    let measured = self.measure(subject, load, rate);
                    stop::go_on(self.stop)?;
                    self.note(round, load, subject, rate, measured)?;
                }
            }
            // Who comes first changes from round to round.
            subjects.rotate_left(1);
        }
        Ok(())
    }

    /// Half of the rate at which our node is saturated in the open loop's shape, with the first MTU. One rate for all rounds.
    fn open_rate(&mut self) -> anyhow::Result<u32> {
        if let Some(rate) = self.args.rate.or(self.results.open_rate) {
            self.results.open_rate = Some(rate);
            return Ok(rate);
        }
        let ours = ours(self.args.mtu[0]);
        let known = self.results.cells.iter().find(|c| c.is(Load::Small64Deep, &ours));
        let saturation = match known.and_then(|cell| cell.runs.first()) {
            Some(figures) => figures.reads_per_s,
            None => self.ours(self.args.mtu[0], Load::Small64Deep.shape(), None)?.reads_per_s,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some 100,000")]
        let rate = ((saturation / 2.0) as u32).max(1);
        self.results.saturation = Some(saturation);
        self.results.open_rate = Some(rate);
        Ok(rate)
    }

    fn measure(
        &self,
        subject: &Subject<'_>,
        load: Load,
        rate: Option<u32>,
    ) -> anyhow::Result<Figures> {
        match subject {
            Subject::Ours(mtu) => self.ours(*mtu, load.shape(), rate),
            Subject::Peer(server) => self.peer(server, load, rate),
        }
    }

    fn ours(&self, mtu: u16, shape: Shape, rate: Option<u32>) -> anyhow::Result<Figures> {
        let (devices, depth, size, pattern) = shape;
        let args = ReadArgs {
            devices: u32::try_from(devices)?,
            depth: u32::try_from(depth)?,
            size,
            pattern,
            rate,
            mtu,
            ..read_args(self.args)
        };
        let measured = read::measure(&args, Some(&self.node), false)?;
        measured.judge()?;
        let server = measured.node_cpu().unwrap_or_default().used_ns;
        let client = measured.fleet_cpu().used_ns;
        Ok(figures(&measured.tally, measured.seconds(), size, (server, client)))
    }

    fn peer(&self, server: &Server, load: Load, rate: Option<u32>) -> anyhow::Result<Figures> {
        let (connections, depth, size, pattern) = load.shape();
        let job = self.job((connections, depth, size, pattern), rate)?;
        let mut edges = Vec::new();
        let edge = || edge_of(&mut edges, server.process.cpu_ns());
        let tally = match server.peer.protocol() {
            Protocol::Iscsi => self.drive(connect_iscsi(server, connections)?, job, edge)?,
            _ => self.drive(connect_nbd(server, connections)?, job, edge)?,
        };
        sum_up(&tally, &edges, size)
    }

    fn drive<W: Wire>(
        &self,
        mut clients: Clients<W>,
        job: Job,
        edge: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Tally> {
        let (bytes, wanted) = (clients.image_bytes(), self.args.image_bytes);
        ensure!(bytes == wanted, "it serves {bytes} bytes of the image's {wanted}");
        clients.run(job, self.stop, edge)
    }

    fn job(&self, shape: Shape, rate: Option<u32>) -> anyhow::Result<Job> {
        let (devices, depth, size, pattern) = shape;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: below 601 s"
        )]
        let window = Nanos((self.args.seconds * 1e9) as u64);
        Ok(Job {
            devices,
            depth,
            rate,
            size: usize::try_from(size)?,
            offsets: book::offsets(pattern, (devices, size, self.args.image_bytes), self.args.seed),
            check: if self.args.verify { Check::EveryByte } else { Check::Stamps },
            seed: self.args.seed,
            ramp: RAMP,
            window,
        })
    }

    /// Keeps what a measurement gave, and tells of it. A failure of ours ends the run.
    fn note(
        &mut self,
        round: u32,
        load: Load,
        subject: &Subject<'_>,
        rate: Option<u32>,
        measured: anyhow::Result<Figures>,
    ) -> anyhow::Result<()> {
        self.done += 1;
        let name = subject.name();
        let place = format!(
            "{:3}/{} round {} {:12} {name:22}",
            self.done,
            self.planned,
            round + 1,
            load.name()
        );
        let cells = &mut self.results.cells;
        let index = cells.iter().position(|cell| cell.is(load, &name)).unwrap_or_else(|| {
            cells.push(Cell::new(load, &name, rate));
            cells.len() - 1
        });
        match measured {
            Ok(figures) => {
                say(format_args!("{place} {figures}"));
                cells[index].runs.push(figures);
            }
            Err(error) if matches!(subject, Subject::Ours(_)) => {
                return Err(error).with_context(|| format!("{name} under {}", load.name()));
            }
            Err(error) => {
                say(format_args!("{place} failed: {error:#}"));
                cells[index].failures.push(format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// vblade at each MTU, in turns with our node. Without the right to make namespaces it is left out, and said so.
    fn measure_blades(&mut self, folder: &Path) -> anyhow::Result<()> {
        for mtu in BLADE_MTUS {
            match aoe::start(self.image, folder, self.core(), mtu) {
                Ok((blade, line)) => {
                    self.note_started(Peer::Vblade, line);
                    for (size, depth) in BLADE_LOADS {
                        self.measure_blade(&blade, mtu, (1, depth, size, Pattern::Rand))?;
                    }
                }
                Err(error) => {
                    let name = vblade(mtu);
                    say(format_args!("{name}: {error:#}"));
                    self.results.aoe.push(Cell::failed(None, &name, &error));
                }
            }
        }
        Ok(())
    }

    fn measure_blade(&mut self, blade: &Blade, mtu: u16, shape: Shape) -> anyhow::Result<()> {
        let cell =
            |name: String| Cell { shape, load: None, ..Cell::new(Load::Small64, &name, None) };
        let mut cells = [cell(vblade(mtu)), cell(ours(mtu))];
        for round in 0..self.args.rounds {
            // Who comes first changes from round to round.
            for turn in 0..2 {
                let who = usize::try_from((round + turn) % 2)?;
                let measured = match who {
                    0 => self.blade(blade, shape),
                    _ => self.ours(mtu, shape, None),
                };
                stop::go_on(self.stop)?;
                let (_, depth, size, _) = shape;
                match measured {
                    Ok(figures) => {
                        say(format_args!("{} {depth} x {size} bytes {figures}", cells[who].server));
                        cells[who].runs.push(figures);
                    }
                    Err(error) if who == 1 => {
                        return Err(error).with_context(|| format!("{} as vblade", ours(mtu)));
                    }
                    Err(error) => {
                        say(format_args!("{} failed: {error:#}", cells[who].server));
                        cells[who].failures.push(format!("{error:#}"));
                    }
                }
            }
        }
        self.results.aoe.extend(cells);
        Ok(())
    }

    fn blade(&self, blade: &Blade, shape: Shape) -> anyhow::Result<Figures> {
        let mut edges = Vec::new();
        let edge = || edge_of(&mut edges, blade.process.cpu_ns());
        let (tally, lost) = blade.run(self.job(shape, None)?, self.stop, edge)?;
        Ok(Figures { asked_again: lost, ..sum_up(&tally, &edges, shape.2)? })
    }
}

fn vblade(mtu: u16) -> String {
    format!("vblade, MTU {mtu}")
}

/// Time, the server's processor time and the client's.
type Edge = (Nanos, u64, u64);

fn edge_of(edges: &mut Vec<Edge>, server: anyhow::Result<u64>) -> anyhow::Result<()> {
    let client = CpuTime::of_this_thread()?.used_ns;
    edges.push((clock::now(), server?, client));
    Ok(())
}

fn sum_up(tally: &Tally, edges: &[Edge], size: u64) -> anyhow::Result<Figures> {
    let [(begin, server_0, client_0), (end, server_1, client_1)] = edges else {
        anyhow::bail!("the window did not open and close");
    };
    ensure!(tally.wrong_bytes == 0, "{} bytes are not the image's", tally.wrong_bytes);
    if let Some(reason) = &tally.first_failure {
        anyhow::bail!("{} reads failed; the first: {reason}", tally.failed);
    }
    ensure!(tally.reads > 0, "no read ended within the window");
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    let seconds = end.since(*begin).0 as f64 / 1e9;
    Ok(figures(tally, seconds, size, (server_1 - server_0, client_1 - client_0)))
}

/// A line of progress.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
