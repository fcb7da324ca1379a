//! The export under test: nodes, an optional lossy relay, and one device with its NBD socket.
//!
//! Everything above this file sees a Unix socket that speaks NBD. With `--stand-in` the socket is qemu-nbd's, which tells
//! whether a failure is ours or lies in the tools.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::http;
use crate::proc::{self, Proc};
use crate::runner::{Job, skip};
use crate::scratch::Scratch;
use crate::{clock, ports};

/// Serving starts with hashing the image: on a busy machine with two cores that is its slowest part.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// From a started device to a socket that answers: one login, with losses on the way.
const SOCKET_WITHIN: Duration = Duration::from_secs(30);
/// A node drains for at most 15 s by itself.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// UDP ports of one node when they are chosen beforehand: one for logins, 20 for shards.
pub const PORTS: u16 = 21;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// The raw image.
    pub image: &'a Path,
    /// Nodes that serve it; the device knows them all.
    pub nodes: usize,
    /// The device's `--write-cache`; `none` makes the export read-only.
    pub write_cache: &'a str,
    /// Share of datagrams that a relay before the (one) node drops, such as `0.02`.
    pub loss: Option<&'a str>,
    /// First of `PORTS` free UDP ports for the (one) node, for who must know them beforehand; else the node takes free ones.
    pub first_port: Option<u16>,
}

impl<'a> Spec<'a> {
    /// One node, read-only, nothing lost.
    pub fn plain(image: &'a Path) -> Spec<'a> {
        Spec { image, nodes: 1, write_cache: "none", loss: None, first_port: None }
    }
}

/// A node under test.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub proc: Proc,
    /// Its login address, as devices are told.
    pub login: String,
    /// Its metrics, `ADDRESS:PORT`.
    pub http: String,
}

/// A running export. Dropping it ends every process of it.
#[derive(Debug)]
pub struct Export {
    /// The NBD socket.
    pub socket: PathBuf,
    /// The socket on which the device tells its status.
    pub status: PathBuf,
    // The device is dropped first, then the relay, then the nodes.
    device: Proc,
    _relay: Option<Proc>,
    /// The nodes; empty with `--stand-in`.
    pub nodes: Vec<Node>,
    _scratch: Scratch,
}

impl Export {
    /// Starts everything and waits until the socket answers.
    pub fn start(job: &mut Job<'_>, spec: Spec<'_>) -> anyhow::Result<Export> {
        let scratch = Scratch::small()?;
        if job.ctx.stand_in {
            return stand_in(job, spec, scratch);
        }
        let (nodes, relay) = match spec.loss {
            None => (start_nodes(job, spec, &scratch)?, None),
            Some(loss) => {
                let (node, relay) = start_behind_relay(job, spec, loss)?;
                (vec![node], Some(relay))
            }
        };
        let servers: Vec<_> = nodes.iter().map(|n| n.login.as_str()).collect();
        let (socket, status) = (scratch.path("disk.sock"), scratch.path("status.sock"));
        let mut command = proc::command(job.ctx.program("diskstream-device"));
        command
            .args(["attach", "--servers", &servers.join(","), "--mac", "52:54:00:d1:5c:01"])
            .args(["--write-cache", spec.write_cache, "--port-base", "0", "--nbd"])
            .arg(&socket)
            .arg("--status")
            .arg(&status);
        let mut device = Proc::start(&mut command, "device", &job.log)?;
        await_socket(&mut device, &socket)?;
        Ok(Export { socket, status, device, _relay: relay, nodes, _scratch: scratch })
    }

    /// The export as NBD tools name it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Stops the device gracefully, unless that has been done.
    pub fn close_device(&mut self) -> anyhow::Result<()> {
        if self.device.is_alive() { self.device.stop(STOP_WITHIN) } else { Ok(()) }
    }

    /// Stops everything gracefully; each must end by itself with status 0.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.close_device()?;
        if self.socket.exists() && UnixStream::connect(&self.socket).is_ok() {
            bail!("the device has ended, and yet something answers at its socket");
        }
        for node in &mut self.nodes {
            if node.proc.is_alive() {
                node.proc.stop(STOP_WITHIN).context("stopping a node")?;
            }
        }
        Ok(())
    }
}

fn start_nodes(job: &mut Job<'_>, spec: Spec<'_>, scratch: &Scratch) -> anyhow::Result<Vec<Node>> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if spec.nodes == 1 {
        let mut args = vec!["--listen".to_owned(), "127.0.0.1".to_owned()];
        args.extend(port_flags(spec.first_port));
        return Ok(vec![start_node(job, spec.image, "node", &args)?]);
    }
    let key = scratch.path("farm.key");
    fs::write(&key, "6b".repeat(32)).context("writing the farm key")?;
    let logins: Vec<u16> =
        (0..spec.nodes).map(|_| ports::udp_run(&[loopback], 1)).collect::<anyhow::Result<_>>()?;
    let mut nodes = Vec::new();
    for (i, login) in logins.iter().enumerate() {
        let peers: Vec<String> = logins
            .iter()
            .filter(|other| *other != login)
            .map(|other| format!("127.0.0.1:{other}"))
            .collect();
        let mut args: Vec<String> = ["--listen", "127.0.0.1", "--io-ports", "0", "--login-port"]
            .map(str::to_owned)
            .to_vec();
        args.extend([login.to_string(), "--peers".to_owned(), peers.join(",")]);
        args.extend(["--key-file".to_owned(), key.display().to_string()]);
        nodes.push(start_node(job, spec.image, &format!("node{}", i + 1), &args)?);
    }
    Ok(nodes)
}

fn port_flags(first: Option<u16>) -> [String; 4] {
    let (login, shards) = match first {
        None => ("0".to_owned(), "0".to_owned()),
        Some(first) => (first.to_string(), format!("{}-{}", first + 1, first + PORTS - 1)),
    };
    ["--login-port".to_owned(), login, "--io-ports".to_owned(), shards]
}

/// A node at 127.0.0.2 that tells devices to come to 127.0.0.3, where the relay is.
fn start_behind_relay(
    job: &mut Job<'_>,
    spec: Spec<'_>,
    loss: &str,
) -> anyhow::Result<(Node, Proc)> {
    let (inner, outer) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let first = ports::udp_run(&[inner.into(), outer.into()], PORTS)?;
    let last = first + PORTS - 1;
    let mut args: Vec<String> =
        ["--listen", "127.0.0.2", "--advertise", "127.0.0.3"].map(str::to_owned).to_vec();
    args.extend(port_flags(Some(first)));
    let mut node = start_node(job, spec.image, "node", &args)?;
    node.login = format!("{outer}:{first}");
    let mut command = proc::command(job.ctx.program("diskstream-bench"));
    command.args(["relay", "--listen", "127.0.0.3", "--forward", "127.0.0.2"]).args([
        "--ports",
        &format!("{first}-{last}"),
        "--loss",
        loss,
    ]);
    let mut relay = Proc::start(&mut command, "relay", &job.log)?;
    relay.wait_line("ready:", SOCKET_WITHIN)?;
    Ok((node, relay))
}

/// Starts `serve IMAGE` with these flags, and waits for its `ready: login=... http=...` line.
pub fn start_node(
    job: &Job<'_>,
    image: &Path,
    name: &str,
    args: &[String],
) -> anyhow::Result<Node> {
    let mut command = proc::command(job.ctx.program("diskstream-node"));
    command.arg("serve").arg(image).args(args).args([
        "--http",
        "127.0.0.1:0",
        "--peer-port",
        "0",
        "--cache",
        "512M",
    ]);
    let mut proc = Proc::start(&mut command, name, &job.log)?;
    let ready = proc.wait_line("ready:", READY_WITHIN)?;
    let word = |key: &str| {
        ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
            .with_context(|| format!("`{ready}` names no {key}"))
    };
    let (login, http) = (word("login")?, word("http")?);
    let health = http::get(&http, "/healthz")?;
    if health.status != 200 {
        bail!("{name} says that it is ready, and /healthz answers {}", health.status);
    }
    Ok(Node { proc, login, http })
}

/// Waits until the socket greets as an NBD server does.
pub fn await_socket(server: &mut Proc, socket: &Path) -> anyhow::Result<()> {
    let deadline = clock::now() + SOCKET_WITHIN;
    let mut last = String::from("the socket is not there");
    while clock::now() < deadline && server.is_alive() {
        match greeting(socket) {
            Ok(()) => return Ok(()),
            Err(e) => last = format!("{e:#}"),
        }
        // A socket appears without an event that could be awaited before it is there.
        std::thread::sleep(Duration::from_millis(20));
    }
    let state = if server.is_alive() { "still runs" } else { "has ended" };
    bail!("{} does not answer ({last}); its server {state}:\n{}", socket.display(), server.text())
}

fn greeting(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut magic = [0_u8; 8];
    stream.read_exact(&mut magic)?;
    if &magic != b"NBDMAGIC" {
        bail!("it greets with {magic:02x?} instead of NBDMAGIC");
    }
    Ok(())
}

fn stand_in(job: &mut Job<'_>, spec: Spec<'_>, scratch: Scratch) -> anyhow::Result<Export> {
    if spec.nodes > 1 || spec.loss.is_some() {
        return Err(skip("the stand-in knows no nodes and no network"));
    }
    let socket = scratch.path("disk.sock");
    let mut command = proc::command("qemu-nbd");
    command.args(["--persistent", "--shared=8", "--export-name=", "--socket"]).arg(&socket);
    if spec.write_cache == "none" {
        command.args(["--read-only", "--format=raw"]).arg(spec.image);
    } else {
        let overlay = scratch.path("overlay.qcow2");
        let mut create = proc::command("qemu-img");
        create
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(spec.image)
            .arg(&overlay);
        job.run(&mut create, Duration::from_secs(20))?;
        command.arg("--format=qcow2").arg(&overlay);
    }
    let mut device = Proc::start(&mut command, "stand-in", &job.log)?;
    await_socket(&mut device, &socket)?;
    Ok(Export {
        socket,
        status: PathBuf::new(),
        device,
        _relay: None,
        nodes: Vec::new(),
        _scratch: scratch,
    })
}
