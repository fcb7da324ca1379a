//! A farm of two nodes and its devices, in a network namespace: as people run it, with a farm file and default ports.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::netns::Netns;
use crate::proc::Proc;
use crate::runner::Job;
use crate::scratch::Scratch;
use crate::{clock, proc};

/// Serving starts with hashing the image.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// The nodes, and where they are.
pub const NODES: [(&str, &str); 2] = [("alpha", "10.77.0.1"), ("beta", "10.77.0.2")];

/// What a vDisk of the farm is.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its image.
    pub image: &'a Path,
}

/// A farm's namespace, files and running nodes. Dropping it ends and removes all of them.
#[derive(Debug)]
pub struct Farm {
    /// In the order of [`NODES`]; none: not running.
    pub nodes: [Option<Proc>; 2],
    /// The network they are in.
    pub ns: Netns,
    scratch: Scratch,
    programs: [PathBuf; 2],
}

/// A device of the farm.
#[derive(Debug)]
pub struct Device {
    proc: Proc,
    /// Its NBD socket.
    pub nbd: PathBuf,
    status: PathBuf,
    program: PathBuf,
}

impl Farm {
    /// Writes the farm's files: every vDisk is at both nodes, and device number `n` (from 1) reads vDisk `n` modulo their count.
    pub fn new(job: &mut Job<'_>, disks: &[Disk<'_>]) -> anyhow::Result<Farm> {
        if job.ctx.stand_in {
            return Err(crate::runner::skip("the stand-in knows no nodes"));
        }
        let ns = Netns::new(job, &NODES.map(|(_, address)| address))?;
        let scratch = Scratch::small()?;
        fs::write(scratch.path("farm.key"), "6b".repeat(32)).context("writing the farm key")?;
        let mut text = String::from(
            "[farm]\nname = \"e2e\"\nkey_file = \"farm.key\"\naccept_mac_alone = true\n",
        );
        for (name, address) in NODES {
            write!(text, "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\n")?;
        }
        for (n, disk) in disks.iter().enumerate() {
            let folder = disk.image.parent().context("an image lies in a folder")?;
            let file = disk.image.file_name().context("an image has a name")?.to_string_lossy();
            write!(text, "[[store]]\nname = \"s{n}\"\npath = \"{}\"\n", folder.display())?;
            let name = disk.name;
            write!(text, "[[vdisk]]\nname = \"{name}\"\nstore = \"s{n}\"\nfile = \"{file}\"\n")?;
        }
        for n in 1..=9 {
            let disk = disks[n % disks.len()].name;
            let mac = mac(n);
            write!(text, "[[device]]\nmac = \"{mac}\"\nname = \"d{n}\"\nvdisk = \"{disk}\"\n")?;
        }
        fs::write(scratch.path("farm.toml"), text).context("writing the farm file")?;
        let programs = ["diskstream-node", "diskstream-device"].map(|name| job.ctx.program(name));
        Ok(Farm { nodes: [None, None], ns, scratch, programs })
    }

    /// Starts a node and waits until it takes logins.
    pub fn start_node(&mut self, job: &Job<'_>, which: usize) -> anyhow::Result<()> {
        let name = NODES[which].0;
        let mut command = self.ns.command(&self.programs[0]);
        command.args(["serve", "--farm"]).arg(self.scratch.path("farm.toml"));
        command.args(["--name", name, "--http", "off", "--cache", "128M", "--cores", "0"]);
        command.arg("--control").arg(self.control(which));
        let mut proc = Proc::start(&mut command, name, &job.log)?;
        proc.wait_line("ready:", READY_WITHIN)?;
        self.nodes[which] = Some(proc);
        Ok(())
    }

    /// A node's control socket.
    pub fn control(&self, which: usize) -> PathBuf {
        self.scratch.path(&format!("{}.sock", NODES[which].0))
    }

    /// `diskstream-node COMMAND ARGS` for a running node.
    pub fn tell(&self, job: &mut Job<'_>, which: usize, args: &[&str]) -> anyhow::Result<String> {
        let mut command = proc::command(&self.programs[0]);
        command.args(args).arg("--control").arg(self.control(which));
        job.run(&mut command, Duration::from_secs(40))
    }

    /// Waits until a node sees the other one as `state`: up, unknown or down.
    pub fn await_peer(&self, job: &mut Job<'_>, which: usize, state: &str) -> anyhow::Result<()> {
        let wanted = format!("{} as {state}", NODES[1 - which].0);
        poll(&wanted, Duration::from_secs(20), || {
            let status = self.tell(job, which, &["status", "--json"])?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            let peers = status["peers"].as_array().context("status without peers")?;
            let other = peers.iter().find(|peer| peer["name"] == NODES[1 - which].0);
            Ok(other.is_some_and(|peer| peer["state"] == state).then_some(()))
        })
    }

    /// Attaches device `n` at these nodes, in this order, and waits until its disk is there.
    pub fn attach(&self, job: &Job<'_>, n: usize, at: &[usize]) -> anyhow::Result<Device> {
        let (nbd, status) =
            (self.scratch.path(&format!("d{n}.nbd")), self.scratch.path(&format!("d{n}.status")));
        let servers: Vec<&str> = at.iter().map(|&which| NODES[which].1).collect();
        let base = (6901 + 10 * n).to_string();
        let mut command = self.ns.command(&self.programs[1]);
        command.args(["attach", "--servers", &servers.join(","), "--mac", &mac(n)]);
        // One machine has one device, at the standard ports; here the first one has them.
        command.args(["--port-base", if n == 1 { "6901" } else { &base }, "--nbd"]).arg(&nbd);
        command.arg("--status").arg(&status);
        let proc = Proc::start(&mut command, &format!("device{n}"), &job.log)?;
        let program = self.programs[1].clone();
        let mut device = Device { proc, nbd, status, program };
        let alive = &mut device.proc;
        super::export::await_socket(alive, &device.nbd)?;
        Ok(device)
    }
}

fn mac(n: usize) -> String {
    format!("52:54:00:d1:5c:{n:02x}")
}

/// What a device says about itself.
#[derive(Clone, Debug)]
pub struct Status(serde_json::Value);

impl Status {
    /// Which node serves it: its place in [`NODES`].
    pub fn node(&self) -> Option<usize> {
        place(&self.0["session"]["node"])
    }

    /// Where its standby is.
    pub fn standby(&self) -> Option<usize> {
        place(&self.0["session"]["standby"]["node"])
    }

    /// A counter.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["session"]["counters"][name].as_u64().unwrap_or(0)
    }
}

fn place(address: &serde_json::Value) -> Option<usize> {
    let (ip, _) = address.as_str()?.rsplit_once(':')?;
    NODES.iter().position(|(_, address)| *address == ip)
}

impl Device {
    /// What it says now.
    pub fn status(&self, job: &mut Job<'_>) -> anyhow::Result<Status> {
        let mut command = proc::command(&self.program);
        command.args(["status", "--json", "--socket"]).arg(&self.status);
        let text = job.run(&mut command, Duration::from_secs(10))?;
        Ok(Status(serde_json::from_str(&text).context("the status is not JSON")?))
    }

    /// Waits until its status is as wanted.
    pub fn await_status(
        &self,
        job: &mut Job<'_>,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        poll(what, within, || Ok(Some(self.status(job)?).filter(|status| wanted(status))))
    }

    /// The export as NBD tools name it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.nbd.display())
    }

    /// Ends it gracefully.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.proc.stop(Duration::from_secs(40))
    }
}

/// Asks until there is an answer: what is asked has no event that could be awaited from another process.
pub fn poll<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = clock::now() + within;
    loop {
        let said = ask();
        match said {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if clock::now() >= deadline => return Err(error.context(what.to_owned())),
            Ok(None) if clock::now() >= deadline => {
                anyhow::bail!("no sign of {what} within {} s", within.as_secs())
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
