//! Servers of others, as processes that a run starts, measures and ends.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use signal_hook::consts::{SIGKILL, SIGTERM};

use crate::net::Namespace;
use crate::sys;

/// Wait for a server to take connections. Guessed; they need some 50 ms here.
const START_LIMIT: Nanos = Nanos::from_secs(5);
/// Time between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Wait for a server to end when it is asked to, before it is ended. Guessed.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Of what a server said before it failed, the last so many bytes are told.
const LAST_WORDS_BYTES: usize = 600;

/// Where a server runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// Its core; none: any.
    pub core: Option<usize>,
    /// Its network; none: ours.
    pub network: Option<&'a Namespace>,
}

/// A server that this run started. Ended, by its process id, when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    /// The child, as long as it is the server itself; a server that put itself into the background has none.
    child: Option<Child>,
    process: u32,
    handle: OwnedFd,
    /// Its children serve, one each connection.
    forks: bool,
}

impl ServerProcess {
    /// Starts a command whose process is the server. What it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        mut command: Command,
        log: &Path,
        place: Place<'_>,
    ) -> anyhow::Result<ServerProcess> {
        prepare(&mut command, log, place)?;
        // A run that is itself ended leaves no server behind.
        sys::end_with_parent(&mut command);
        let child = spawn(&mut command)?;
        let process = child.id();
        let handle = sys::open_process(process).context("opening the server's process")?;
        Ok(ServerProcess { child: Some(child), process, handle, forks: false })
    }

    /// Starts a command that puts a server into the background, which writes its process id to `pid_file` and serves each
    /// connection in a child.
    ///
    /// # Errors
    /// When it cannot be started, or there is no such file in time.
    pub fn start_daemon(
        mut command: Command,
        log: &Path,
        pid_file: &Path,
        place: Place<'_>,
    ) -> anyhow::Result<ServerProcess> {
        prepare(&mut command, log, place)?;
        let status = spawn(&mut command)?.wait()?;
        ensure!(status.success(), "it ended with {status}; {}", last_words(log));
        let number = || fs::read_to_string(pid_file).ok()?.trim().parse().ok();
        let process = wait_for(number).with_context(|| last_words(log))?;
        let handle = sys::open_process(process).context("opening the server's process")?;
        Ok(ServerProcess { child: None, process, handle, forks: true })
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// When the server ends before, or nothing comes for long.
    pub fn wait_ready<T>(
        &mut self,
        log: &Path,
        mut ready: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut ended = false;
        let found = wait_for(|| {
            ended = self.has_ended();
            if ended { Some(None) } else { ready().map(Some) }
        });
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("the server ended before it was ready; {}", last_words(log)),
            Err(error) => Err(error).with_context(|| last_words(log)),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => self.wait_end(Duration::ZERO),
        }
    }

    /// Processor time in nanoseconds that it has used: all threads, those that ended included, and children that live.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        let own = sys::process_cpu_ns(self.process).context("the server ended by itself")?;
        let children = if self.forks { self.children() } else { Vec::new() };
        // A child may end meanwhile; those of the connections that are measured do not.
        let theirs = children.into_iter().filter_map(|child| sys::process_cpu_ns(child).ok());
        Ok(own + theirs.sum::<u64>())
    }

    /// Children of a server without threads.
    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.process);
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    fn wait_end(&self, wait: Duration) -> bool {
        // The descriptor of a process is readable once it has ended (pidfd_open(2)). A signal cuts the wait short, no more.
        let looked = |wait| sys::is_readable(self.handle.as_fd(), wait).unwrap_or(true);
        looked(wait) || looked(wait)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Handles are opened first: they never come to mean other processes.
        let children = if self.forks { self.children() } else { Vec::new() };
        let children: Vec<_> =
            children.into_iter().filter_map(|c| sys::open_process(c).ok()).collect();
        let _ = sys::signal(self.handle.as_fd(), SIGTERM);
        if !self.wait_end(END_LIMIT) {
            let _ = sys::signal(self.handle.as_fd(), SIGKILL);
        }
        for child in children {
            let _ = sys::signal(child.as_fd(), SIGKILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

fn prepare(command: &mut Command, log: &Path, place: Place<'_>) -> anyhow::Result<()> {
    let out = fs::File::options().create(true).append(true).open(log);
    let out = out.with_context(|| format!("writing {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    if let Some(core) = place.core {
        sys::run_on(command, core);
    }
    if let Some(network) = place.network {
        network.host(command);
    }
    Ok(())
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    command.spawn().with_context(|| format!("starting {}", command.get_program().display()))
}

/// Looks until there is something, for [`START_LIMIT`] at most.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let limit = clock::now() + START_LIMIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(clock::now() < limit, "not ready within {} s", START_LIMIT.as_millis() / 1000);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a server said last, for a message.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let last = &text[text.len().saturating_sub(LAST_WORDS_BYTES)..];
    let words = String::from_utf8_lossy(last).trim().replace('\n', "; ");
    if words.is_empty() { "it said nothing".to_owned() } else { format!("it said: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_measured_and_ended_and_its_last_words_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo busy; while :; do :; done"]);
        let mut server = ServerProcess::start(command, &log, Place::default()).unwrap();
        let said = || (fs::read_to_string(&log).unwrap() == "busy\n").then_some(());
        server.wait_ready(&log, said).unwrap();
        let first = server.cpu_ns().unwrap();
        // It burns processor time and does nothing else: more must show, however busy the machine is.
        wait_for(|| (server.cpu_ns().unwrap() > first).then_some(())).unwrap();
        let process = server.process;
        assert!(!server.has_ended());
        drop(server);
        assert!(sys::process_cpu_ns(process).is_err(), "it is gone");

        let mut command = Command::new("sh");
        command.args(["-c", "echo no such image; exit 3"]);
        let mut server = ServerProcess::start(command, &log, Place::default()).unwrap();
        let error = server.wait_ready(&log, || None::<()>).unwrap_err().to_string();
        assert!(
            error.contains("ended before it was ready") && error.contains("no such image"),
            "{error}"
        );
    }
}
