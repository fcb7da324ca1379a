//! Node processes that a run starts, measures and ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use signal_hook::consts::SIGTERM;
use socket2::{Socket, Type};

use crate::sys;

/// Wait for the node's metrics.
const HTTP_WAIT: Duration = Duration::from_secs(2);

/// Without which there is no processor time to compare.
const NEEDS: &str = "needs a kernel with CONFIG_SCHEDSTATS, or one booted with `delayacct`";

/// What a thread, or several, had of the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// Time on a processor in nanoseconds.
    pub used_ns: u64,
    /// Time spent ready to run while others had the processor: what a busy machine takes away.
    pub waited_ns: u64,
}

impl CpuTime {
    /// Of the thread that asks; zeros while that is in its first moments.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn of_this_thread() -> anyhow::Result<CpuTime> {
        CpuTime::read(Path::new("/proc/thread-self/schedstat"))
    }

    /// Reads a `schedstat` file (Documentation/scheduler/sched-stats.rst: first time on, then time waiting for, a
    /// processor).
    fn read(path: &Path) -> anyhow::Result<CpuTime> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("reading {}: {NEEDS}", path.display()))?;
        CpuTime::parse(&text)
            .with_context(|| format!("{} is not two times: {:?}", path.display(), text.trim()))
    }

    fn parse(text: &str) -> Option<CpuTime> {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some(CpuTime { used_ns: numbers.next()?.ok()?, waited_ns: numbers.next()?.ok()? })
    }

    /// A kernel that does not count says zeros of a process that has run, of which any ratio could be made.
    fn counted(self) -> anyhow::Result<CpuTime> {
        ensure!(self.used_ns > 0, "/proc tells no processor time: {NEEDS}");
        Ok(self)
    }

    /// What was added since `earlier`.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            used_ns: self.used_ns.saturating_sub(earlier.used_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
        }
    }
}

/// Processor time that a process has used and waited for, all threads.
///
/// # Errors
/// When the process is gone, or the kernel does not count.
pub fn cpu_of_process(process: u32) -> anyhow::Result<CpuTime> {
    let tasks = format!("/proc/{process}/task");
    let mut sum = CpuTime::default();
    let listed = fs::read_dir(&tasks)
        .with_context(|| format!("reading {tasks}: did the process end by itself?"))?;
    for task in listed {
        let task = task?.path();
        match CpuTime::read(&task.join("schedstat")) {
            Ok(time) => {
                sum.used_ns += time.used_ns;
                sum.waited_ns += time.waited_ns;
            }
            // The thread has ended since it was listed.
            Err(_) if !task.exists() => {}
            Err(error) => return Err(error),
        }
    }
    sum.counted()
}

/// A node that this run started. Ended, by its process id, when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    handle: Arc<OwnedFd>,
    /// Where devices log in.
    pub login: SocketAddr,
    /// Where metrics are, if anywhere.
    pub http: Option<SocketAddr>,
}

impl NodeProcess {
    /// Starts `diskstream-node serve IMAGE` with these arguments, and waits until it says that it is ready.
    ///
    /// # Errors
    /// When the program is missing, or ends before it is ready (its own message is on standard error).
    pub fn start(image: &Path, args: &[String]) -> anyhow::Result<NodeProcess> {
        let mut command = serve_command()?;
        command.arg(image).args(args);
        NodeProcess::launch(command)
    }

    /// Starts a command that [`serve_command`] gave, and waits until the node says that it is ready.
    ///
    /// # Errors
    /// When the program cannot be started, or ends before it is ready.
    pub fn launch(mut command: Command) -> anyhow::Result<NodeProcess> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // A run that is itself ended leaves no node behind.
        sys::end_with_parent(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        // From here on a failure ends the process.
        let handle = Arc::new(sys::open_process(child.id()).context("opening the node's process")?);
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut node = NodeProcess { child, handle, login: unknown, http: None };
        let stdout = node.child.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(stdout).lines();
        let ready = loop {
            match lines.next() {
                Some(Ok(line)) if line.starts_with("ready:") => break line,
                Some(Ok(_)) => {}
                _ => {
                    let status = node.child.wait()?;
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
        let Some(login) = login else {
            bail!("the node's ready line names no login address: {ready}")
        };
        node.login = login;
        node.http = word("http").and_then(|a| a.parse().ok());
        Ok(node)
    }

    /// Tells it to end, as an operator does, and waits until it has.
    ///
    /// # Errors
    /// When it does not end within the limit, or says that it failed. It is ended then.
    pub fn end(mut self, limit: Duration) -> anyhow::Result<()> {
        self.signals().send(SIGTERM)?;
        // The descriptor of a process is readable once it has ended (pidfd_open(2)).
        let ended = sys::is_readable(self.handle.as_fd(), limit).context("waiting for the node")?;
        ensure!(ended, "the node was told to end, and has not within {} s", limit.as_secs());
        let status = self.child.wait()?;
        ensure!(status.success(), "the node was told to end, and failed: {status}");
        Ok(())
    }

    /// For signals, from any thread.
    #[must_use]
    pub fn signals(&self) -> Signals {
        Signals(Arc::clone(&self.handle))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Copies of its UDP sockets. As long as one is held, the address stays bound: a datagram for a node that was killed is
    /// then taken and never answered, as when a packet filter drops the refusal.
    ///
    /// # Errors
    /// When the process is gone, or the system does not let this one look into it.
    pub fn udp_sockets(&self) -> anyhow::Result<Vec<Socket>> {
        let folder = format!("/proc/{}/fd", self.child.id());
        let mut sockets = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
            let entry = entry?;
            // Descriptors may be closed meanwhile; sockets of a serving node are not.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let name = entry.file_name();
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if !target.to_string_lossy().starts_with("socket:") {
                continue;
            }
            let copy = sys::duplicate_of(self.handle.as_fd(), fd).context(
                "copying a socket of the node (needs pidfd_getfd, Linux 5.6, and kernel.yama.ptrace_scope below 2)",
            )?;
            let socket = Socket::from(copy);
            if socket.r#type()? == Type::DGRAM && socket.local_addr()?.as_socket().is_some() {
                sockets.push(socket);
            }
        }
        Ok(sockets)
    }

    /// Processor time that the node has used and waited for, all threads.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<CpuTime> {
        cpu_of_process(self.child.id())
    }

    /// Bytes of it that are in memory.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        // VmRSS of proc(5) is kept in batches per thread; the roll-up walks the page tables.
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} tells no Rss"))? * 1024)
    }

    /// Calls of `io_uring_enter` since the start, as the node's metrics tell; none when they cannot be had.
    #[must_use]
    pub fn enters(&self) -> Option<u64> {
        metric(&self.metrics()?, "diskstream_ring_enters_total")
    }

    /// The page of its metrics; none when it cannot be had.
    #[must_use]
    pub fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.http?, HTTP_WAIT).ok()?;
        stream.set_read_timeout(Some(HTTP_WAIT)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n").ok()?;
        let mut text = String::new();
        // Metrics of a node are some 100 KiB.
        stream.take(4 << 20).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Sends signals to a node that was started, and to no other process.
#[derive(Clone, Debug)]
pub struct Signals(Arc<OwnedFd>);

impl Signals {
    /// Sends one.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn send(&self, signal: i32) -> anyhow::Result<()> {
        sys::signal(self.0.as_fd(), signal).with_context(|| format!("sending signal {signal}"))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A drain is not what is measured here; the devices have detached already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a counter without labels in the text format of metrics.
#[must_use]
pub fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Sum of a counter over its labels, of those that `counts`.
pub fn metric_sum(text: &str, name: &str, counts: impl Fn(&str) -> bool) -> u64 {
    let lines = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        value.trim().parse::<u64>().ok().filter(|_| counts(labels))
    });
    lines.sum()
}

/// `diskstream-node serve`, quiet unless `RUST_LOG` says otherwise.
///
/// # Errors
/// When the program is missing.
pub fn serve_command() -> anyhow::Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("serve");
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "warn");
    }
    Ok(command)
}

/// The commit that the node's program was built of, as it says itself.
///
/// # Errors
/// When the program is missing, or says something else.
pub fn commit() -> anyhow::Result<String> {
    let program = program()?;
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("starting {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let commit = commit_in(&said).map(str::to_owned);
    commit.with_context(|| format!("{} --version names no commit: {said}", program.display()))
}

/// What stands in brackets at the end: `diskstream-node 0.1.0 (COMMIT)`.
fn commit_in(version: &str) -> Option<&str> {
    let (_, commit) = version.trim().strip_suffix(')')?.rsplit_once('(')?;
    Some(commit)
}

/// The node's program: beside this one.
fn program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program's folder")?;
    let program = here.with_file_name("diskstream-node");
    if !program.exists() {
        bail!(
            "{} is missing: build it with `cargo build --release --workspace --exclude diskstream-sim`",
            program.display()
        );
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::{CpuTime, commit_in, cpu_of_process, metric, metric_sum};

    #[test]
    fn a_kernel_that_does_not_count_is_an_error() {
        let time = CpuTime::parse("12 3 4\n").unwrap().counted().unwrap();
        assert_eq!((time.used_ns, time.waited_ns), (12, 3));
        assert!(CpuTime::parse("0 0 0\n").unwrap().counted().is_err());
        for text in ["", "12\n", "a b c\n"] {
            assert!(CpuTime::parse(text).is_none(), "{text}");
        }
        assert!(cpu_of_process(std::process::id()).unwrap().used_ns > 0);
        assert!(CpuTime::of_this_thread().is_ok());
    }

    #[test]
    fn the_commit_stands_in_brackets() {
        assert_eq!(
            commit_in("diskstream-node 0.1.0 (0123456789ab-dirty)\n"),
            Some("0123456789ab-dirty")
        );
        assert_eq!(commit_in("diskstream-node 0.1.0\n"), None);
        assert_eq!(commit_in(""), None);
    }

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "# HELP a_total x\na_total_more 1\na_total{shard=\"0\"} 2\na_total 3\n";
        assert_eq!(metric(text, "a_total"), Some(3));
        assert_eq!(metric(text, "b_total"), None);
    }

    #[test]
    fn a_sum_takes_the_labels_that_count() {
        let text = "a_total{why=\"x\",shard=\"0\"} 2\na_total{why=\"y\"} 5\na_total_more{why=\"x\"} 9\n# a_total{ 1\n";
        assert_eq!(metric_sum(text, "a_total", |_| true), 7);
        assert_eq!(metric_sum(text, "a_total", |labels| !labels.contains("\"x\"")), 5);
        assert_eq!(metric_sum("", "a_total", |_| true), 0);
    }
}
