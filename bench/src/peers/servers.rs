//! The servers that we are compared with: how each is started, and what its package is.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::process::{Place, ServerProcess};

/// The name of exports and targets, where a protocol wants one.
const EXPORT: &str = "bench";
/// The target's name, as iSCSI wants them.
const TARGET: &str = "iqn.2026-11.invalid.example:bench";
/// Programs of servers are here too, also where a user's path does not say so.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// Wait for a connection to a server that may not be there yet.
const KNOCK_LIMIT: Duration = Duration::from_millis(200);
/// Connections that nbd-server takes: more than any load has.
const NBD_SERVER_CONNECTIONS: u32 = 2000;

/// A peer and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// nbdkit's file plugin with its usual 16 threads a connection.
    Nbdkit,
    /// The same with one thread a connection.
    NbdkitT1,
    /// nbd-server: one process a connection.
    NbdServer,
    /// qemu-nbd, page cache, io_uring.
    QemuNbd,
    /// qemu-nbd, O_DIRECT, Linux aio: reads the disk each time.
    QemuNbdDirect,
    /// tgt (iSCSI), page cache.
    Tgt,
    /// vblade (AoE over Ethernet): no stream, so apart from the others.
    Vblade,
}

/// What a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// NBD over TCP.
    Nbd,
    /// iSCSI over TCP.
    Iscsi,
    /// ATA over Ethernet.
    Aoe,
}

impl Peer {
    /// As on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nbdkit => "nbdkit",
            Peer::NbdkitT1 => "nbdkit-t1",
            Peer::NbdServer => "nbd-server",
            Peer::QemuNbd => "qemu-nbd",
            Peer::QemuNbdDirect => "qemu-nbd-direct",
            Peer::Tgt => "tgt",
            Peer::Vblade => "vblade",
        }
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Peer::Tgt => Protocol::Iscsi,
            Peer::Vblade => Protocol::Aoe,
            _ => Protocol::Nbd,
        }
    }

    /// Its program and Debian's package that has it.
    #[must_use]
    pub fn program(self) -> (&'static str, &'static str) {
        match self {
            Peer::Nbdkit | Peer::NbdkitT1 => ("nbdkit", "nbdkit"),
            Peer::NbdServer => ("nbd-server", "nbd-server"),
            Peer::QemuNbd | Peer::QemuNbdDirect => ("qemu-nbd", "qemu-utils"),
            Peer::Tgt => ("tgtd", "tgt"),
            Peer::Vblade => ("vblade", "vblade"),
        }
    }

    /// Where its program is; none when it is not installed.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        find(self.program().0)
    }

    /// Version of its package; "unknown" where there is none, or no dpkg.
    #[must_use]
    pub fn version(self) -> String {
        let mut ask = Command::new("dpkg-query");
        ask.args(["--show", "--showformat", "${Version}", self.program().1]);
        let known = ask.output().ok().filter(|output| output.status.success());
        known.map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn command(program: &str) -> anyhow::Result<Command> {
    let path = find(program).with_context(|| format!("{program} is not installed"))?;
    Ok(Command::new(path))
}

/// A peer that serves.
#[derive(Debug)]
pub struct Server {
    /// Which.
    pub peer: Peer,
    /// Where it takes connections.
    pub address: SocketAddr,
    /// The export or target to ask for.
    pub export: &'static str,
    /// Its process.
    pub process: ServerProcess,
    /// How it was started.
    pub line: String,
}

/// Starts a stream peer: it serves `image`, read-only, at a free port of `listen`. Its files are in `folder`.
///
/// # Errors
/// When it is not installed, cannot be started, or ends at once.
pub fn start(
    peer: Peer,
    image: &Path,
    listen: IpAddr,
    folder: &Path,
    place: Place<'_>,
) -> anyhow::Result<Server> {
    let address = match place.network {
        None => free_address(listen),
        Some(network) => network.run(|| free_address(listen)),
    }?;
    let log = folder.join(format!("{}.log", peer.name()));
    let knock = || TcpStream::connect_timeout(&address, KNOCK_LIMIT).ok();
    let started = || -> anyhow::Result<(ServerProcess, String)> {
        let (mut process, line) = match peer {
            Peer::Tgt => start_tgt(image, address, folder, &log, place)?,
            Peer::NbdServer => start_nbd_server(image, address, folder, &log, place)?,
            _ => {
                let command = foreground(peer, image, address)?;
                let line = line_of(&command);
                (ServerProcess::start(command, &log, place)?, line)
            }
        };
        match place.network {
            None => drop(process.wait_ready(&log, knock)?),
            Some(network) => drop(network.run(|| process.wait_ready(&log, knock))?),
        }
        Ok((process, line))
    };
    let (process, line) = started().with_context(|| format!("starting {}", peer.name()))?;
    let export = match peer {
        Peer::Tgt => TARGET,
        Peer::NbdServer => EXPORT,
        _ => "",
    };
    Ok(Server { peer, address, export, process, line })
}

/// A port that is free now. (Another program may take it before the server does; the server then says so.)
fn free_address(listen: IpAddr) -> anyhow::Result<SocketAddr> {
    let socket = TcpListener::bind((listen, 0)).with_context(|| format!("binding at {listen}"))?;
    Ok(socket.local_addr()?)
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Servers that stay in the foreground.
fn foreground(peer: Peer, image: &Path, address: SocketAddr) -> anyhow::Result<Command> {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = command(peer.program().0)?;
    match peer {
        Peer::Nbdkit | Peer::NbdkitT1 => {
            command.args(["-f", "-r", "-i", &ip, "-p", &port]);
            if peer == Peer::NbdkitT1 {
                command.args(["-t", "1"]);
            }
            command.arg("file").arg(image);
        }
        _ => {
            let direct = peer == Peer::QemuNbdDirect;
            let (cache, aio) = if direct { ("none", "native") } else { ("writeback", "io_uring") };
            // -t: goes on when nobody is connected; -e 0: any number of connections.
            command.args(["-r", "-f", "raw", "-t", "-e", "0", "-b", &ip, "-p", &port]);
            command.arg(format!("--cache={cache}")).arg(format!("--aio={aio}")).arg(image);
        }
    }
    Ok(command)
}

fn start_nbd_server(
    image: &Path,
    address: SocketAddr,
    folder: &Path,
    log: &Path,
    place: Place<'_>,
) -> anyhow::Result<(ServerProcess, String)> {
    let (config, pid) = (folder.join("nbd-server.conf"), folder.join("nbd-server.pid"));
    let text = format!(
        "[generic]\nport = {}\nlistenaddr = {}\nmaxconnections = {NBD_SERVER_CONNECTIONS}\n\
         [{EXPORT}]\nexportname = {}\nreadonly = true\n",
        address.port(),
        address.ip(),
        image.display()
    );
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = command("nbd-server")?;
    command.arg("-C").arg(config).arg("-p").arg(&pid);
    let line = format!("{}; readonly", line_of(&command));
    // In the foreground it takes one connection only.
    Ok((ServerProcess::start_daemon(command, log, &pid, place)?, line))
}

fn start_tgt(
    image: &Path,
    address: SocketAddr,
    folder: &Path,
    log: &Path,
    place: Place<'_>,
) -> anyhow::Result<(ServerProcess, String)> {
    let socket = folder.join("tgtd.socket");
    let mut command = command("tgtd")?;
    command.env("TGT_IPC_SOCKET", &socket);
    command.args(["-f", "-C", "1", "--iscsi", &format!("portal={address}")]);
    let line = format!("{}; --bstype rdwr", line_of(&command));
    let mut process = ServerProcess::start(command, log, place)?;
    let tell = |words: &str, path: Option<&Path>| -> anyhow::Result<()> {
        let mut command = self::command("tgtadm")?;
        command.env("TGT_IPC_SOCKET", &socket).args(["-C", "1", "--lld", "iscsi"]);
        command.args(words.split_whitespace()).args(path);
        let output = command.output().context("running tgtadm")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tgtadm {words}: {}", said.trim());
        Ok(())
    };
    let target = format!("--op new --mode target --tid 1 -T {TARGET}");
    // The control socket is there a little later than the process.
    process.wait_ready(log, || tell(&target, None).ok())?;
    let unit = "--op new --mode logicalunit --tid 1 --lun 1 --bstype rdwr -b";
    tell(unit, Some(image))?;
    tell("--op update --mode logicalunit --tid 1 --lun 1 --params readonly=1", None)?;
    tell("--op bind --mode target --tid 1 -I ALL", None)?;
    Ok((process, line))
}
