//! Node processes that a run starts, measures and ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

/// A node that this run started. Ended, by its process id, when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    /// Where devices log in.
    pub login: SocketAddr,
    /// Where metrics are, if anywhere.
    pub http: Option<SocketAddr>,
}

impl NodeProcess {
    /// Starts `diskstream-node serve` with these arguments, and waits until it says that it is ready.
    ///
    /// # Errors
    /// When the program is missing, or ends before it is ready (its own message is on standard error).
    pub fn start(image: &Path, args: &[String]) -> anyhow::Result<NodeProcess> {
        let program = program()?;
        let mut child = Command::new(&program)
            .arg("serve")
            .arg(image)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(stdout).lines();
        let ready = loop {
            match lines.next() {
                Some(Ok(line)) if line.starts_with("ready:") => break line,
                Some(Ok(_)) => {}
                _ => {
                    let status = child.wait()?;
                    bail!("the node ended before it was ready: {status}; its reason is above");
                }
            }
        };
        // The pipe must be emptied as long as the node lives, or it would block on a full one.
        std::thread::spawn(move || lines.for_each(drop));
        let word = |name: &str| {
            ready.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
        };
        let login = word("login").and_then(|a| a.parse().ok());
        let http = word("http").and_then(|a| a.parse().ok());
        let Some(login) = login else { bail!("the node's ready line names no login address: {ready}") };
        Ok(NodeProcess { child, login, http })
    }

    /// Processor time that the node has used, all threads, in nanoseconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut sum = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}: did the node end?"))? {
            // First field: time on a processor in ns (Documentation/scheduler/sched-stats.rst).
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A drain is not what is measured here; the devices have detached already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The node's program: beside this one.
fn program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program's folder")?;
    let program = here.with_file_name("diskstream-node");
    if !program.exists() {
        bail!("{} is missing: build it with `cargo build --release --workspace`", program.display());
    }
    Ok(program)
}
