//! A network namespace of the test's own, with a packet filter that nobody else has to live with.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::proc;
use crate::runner::{Job, skip};

/// Namespaces made by this process so far: two steps must not meet in one.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A namespace with nothing but loopback. Dropping it removes it, its filter rules and its addresses.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one whose loopback has these addresses too. Needs root; skipped otherwise.
    pub fn new(job: &mut Job<'_>, addresses: &[&str]) -> anyhow::Result<Netns> {
        if !crate::install::is_root() {
            return Err(skip("network namespaces need root"));
        }
        job.need_tools(&["ip", "nft"])?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("dsx-{}-{number}", std::process::id());
        ip(job, &["netns", "add", &name])?;
        let ns = Netns { name };
        ip(job, &["-n", &ns.name, "link", "set", "lo", "up"])?;
        for address in addresses {
            ip(job, &["-n", &ns.name, "addr", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        ns.nft(job, "add table inet t")?;
        ns.nft(job, "add chain inet t in { type filter hook input priority 0; policy accept; }")?;
        Ok(ns)
    }

    /// This program, run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = proc::command("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Drops, silently and counted, what matches, such as `udp dport 6902`.
    pub fn block(&self, job: &mut Job<'_>, what: &str) -> anyhow::Result<()> {
        self.nft(job, &format!("add rule inet t in {what} counter drop")).map(drop)
    }

    /// Datagrams that the rules have dropped so far.
    pub fn dropped(&self, job: &mut Job<'_>) -> anyhow::Result<u64> {
        let text = self.nft(job, "list chain inet t in")?;
        Ok(text
            .split("packets ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    fn nft(&self, job: &mut Job<'_>, rule: &str) -> anyhow::Result<String> {
        job.run(self.command("nft").arg(rule), Duration::from_secs(10))
            .with_context(|| format!("nft {rule}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(job: &mut Job<'_>, args: &[&str]) -> anyhow::Result<()> {
    job.run(proc::command("ip").args(args), Duration::from_secs(10)).map(drop)
}
