//! Network namespaces without names.

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, ensure};

use crate::sys;

/// A network namespace, as long as this or a process in it lives.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

/// Sees to it that this process may make network namespaces: root may; others in a user namespace, which the process then
/// enters. Only before it has a second thread.
///
/// # Errors
/// When it may not.
pub fn may_make_namespaces() -> anyhow::Result<()> {
    let own = fs::metadata("/proc/self").context("reading /proc/self")?;
    let (user, group) = (own.uid(), own.gid());
    if Namespace::new().is_ok() {
        return Ok(());
    }
    sys::unshare_user().context(
        "network namespaces are needed for this (--mode cut, --loss, --jitter-ms, --block-notice-port): run as root, or \
         allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)",
    )?;
    fs::write("/proc/self/setgroups", "deny").context("writing /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("writing /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .context("writing /proc/self/gid_map")?;
    Namespace::new().map(drop)
}

impl Namespace {
    /// A new one; its loopback interface is up.
    ///
    /// # Errors
    /// When this process may not make namespaces.
    pub fn new() -> anyhow::Result<Namespace> {
        let made = || -> anyhow::Result<OwnedFd> {
            sys::unshare_network().context("making a network namespace")?;
            let fd = File::open("/proc/thread-self/ns/net").context("opening the namespace")?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            sys::set_link(socket.as_fd(), "lo", true).context("taking lo up")?;
            Ok(fd.into())
        };
        Ok(Namespace { fd: on_a_thread(made)? })
    }

    /// The thread that calls this is in the namespace from then on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> anyhow::Result<()> {
        sys::enter_network(self.fd.as_fd()).context("entering a network namespace")
    }

    /// Does something in the namespace, on a thread of its own.
    ///
    /// # Errors
    /// What it returns.
    pub fn run<T: Send>(
        &self,
        action: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        on_a_thread(|| {
            self.enter()?;
            action()
        })
    }

    /// A command that is started later will run in the namespace. It must be started while this lives.
    pub fn host(&self, command: &mut Command) {
        sys::start_in_network(command, self.fd.as_fd());
    }

    /// How programs that take the path of a namespace find this one, as long as it lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs `ip` with these lines, in the namespace.
    ///
    /// # Errors
    /// When a line fails; what `ip` says is on standard error.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let text = lines.to_owned();
        self.feed(Command::new("ip").args(["-batch", "-"]), &text)
            .map(drop)
            .with_context(|| format!("setting up interfaces: {lines:?}"))
    }

    /// Runs a command in the namespace with this text as its standard input, until it ends; gives what it prints.
    ///
    /// # Errors
    /// When it cannot be started, or says that it failed.
    pub fn feed(&self, command: &mut Command, text: &str) -> anyhow::Result<String> {
        self.host(command);
        sys::end_with_parent(command);
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}: is it installed?"))?;
        let mut input = child.stdin.take().expect("standard input is piped");
        input.write_all(text.as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{name} ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn on_a_thread<T: Send>(action: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(action).join().map_err(|_| anyhow!("a thread of a namespace panicked"))?
    })
}
