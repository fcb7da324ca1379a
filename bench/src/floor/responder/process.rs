//! The responder as a process of its own, so that its processor time is read as the node's is.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

use crate::net::Namespace;
use crate::node_process::{CpuTime, cpu_of_process};
use crate::sys;

/// A responder that this run started. Ended, by its process id, when dropped.
#[derive(Debug)]
pub struct ResponderProcess {
    child: Child,
    /// Where it answers.
    pub address: SocketAddr,
    /// Which pages its image has.
    pub backing: String,
}

impl ResponderProcess {
    /// Starts this program as a responder, in `namespace` if one is given, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or ends before it is ready; its own message is on standard error.
    pub fn start(
        image: &Path,
        listen: SocketAddr,
        payload: usize,
        core: Option<usize>,
        namespace: Option<&Namespace>,
    ) -> anyhow::Result<ResponderProcess> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.arg("floor-responder").arg("--image").arg(image);
        command.args(["--listen", &listen.to_string(), "--payload", &payload.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(namespace) = namespace {
            namespace.host(&mut command);
        }
        sys::end_with_parent(&mut command);
        let child = command.spawn().context("starting the responder")?;
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on a failure ends the process.
        let mut responder = ResponderProcess { child, address: unknown, backing: String::new() };
        let out = responder.child.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready = line.strip_prefix("ready: ").and_then(|words| words.trim().split_once(' '));
        ensure!(ready.is_some(), "the responder did not start; its reason is above");
        let (address, backing) = ready.expect("just checked");
        responder.address = address.parse().context("the responder's address")?;
        backing.clone_into(&mut responder.backing);
        Ok(responder)
    }

    /// What it has had of the processor.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> anyhow::Result<CpuTime> {
        cpu_of_process(self.child.id())
    }
}

impl Drop for ResponderProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
