//! A network of namespaces that all hosts of a run are in.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGTERM, SIGUSR1};

use super::namespace::Namespace;
use super::relay::RelayCounts;
use crate::sys;

/// The interface of each host.
const INTERFACE: &str = "eth0";
/// Packets that wait in an interface for the relay. Measured: when a node of 1,000 devices is killed, their probes and repeats
/// fill 10,000 within some ten milliseconds in which the relay has no processor. Six times that; a wait shows in the stalls.
const QUEUE: u32 = 60_000;

/// What the network does to each datagram, in each direction by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Share that is lost, from 0 up to 1.
    pub loss: f64,
    /// Delay, uniform from 0 to this many milliseconds; later datagrams may overtake.
    pub jitter_ms: u32,
}

impl Impairment {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Impairment::default()
    }
}

/// Hosts 0 to `hosts` - 1, each in a namespace.
#[derive(Debug)]
pub struct Lan {
    hosts: Vec<Namespace>,
    /// Has the bridge; none where a relay joins the hosts.
    _hub: Option<Namespace>,
    relay: Option<RelayProcess>,
}

/// What the network lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanCounts {
    /// Datagrams that full receive buffers lost, of all hosts.
    pub socket_drops: u64,
    /// Packets that interfaces lost because the relay did not fetch them in time.
    pub interface_drops: u64,
}

/// Address of host `number` (from 0).
///
/// # Panics
/// Beyond 250 hosts.
#[must_use]
pub fn address(number: usize) -> IpAddr {
    let host = u8::try_from(number + 1).expect("far fewer than 250 hosts");
    // Link-local would do as well; 198.18/15 is for benchmarks (RFC 2544).
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, host))
}

impl Lan {
    /// Joins this many hosts; nothing is lost or delayed before [`Lan::impair`].
    ///
    /// # Errors
    /// When namespaces or interfaces cannot be made, or the relay cannot be started.
    pub fn new(hosts: usize, impairment: Impairment, seed: u64) -> anyhow::Result<Lan> {
        let hosts: Vec<Namespace> =
            (0..hosts).map(|_| Namespace::new()).collect::<anyhow::Result<_>>()?;
        if impairment.is_none() {
            let hub = Namespace::new()?;
            bridge(&hub, &hosts)?;
            Ok(Lan { hosts, _hub: Some(hub), relay: None })
        } else {
            let tuns = tuns(&hosts)?;
            let relay = RelayProcess::start(tuns, impairment, seed)?;
            Ok(Lan { hosts, _hub: None, relay: Some(relay) })
        }
    }

    /// Where host `number` is.
    #[must_use]
    pub fn host(&self, number: usize) -> &Namespace {
        &self.hosts[number]
    }

    /// Loss and delay begin.
    ///
    /// # Errors
    /// When the relay has ended.
    pub fn impair(&self) -> anyhow::Result<()> {
        let Some(relay) = &self.relay else { return Ok(()) };
        sys::signal(relay.handle.as_fd(), SIGUSR1).context("the relay ended by itself")
    }

    /// A switch for the interface of host `number`, to be used at any moment and from any thread.
    ///
    /// # Errors
    /// When there is no socket for it.
    pub fn plug(&self, number: usize) -> anyhow::Result<Plug> {
        let socket = self.hosts[number].run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        Ok(Plug { socket })
    }

    /// A packet filter on host `number` drops what comes to this UDP port from now on, and counts it.
    ///
    /// # Errors
    /// When there is no `nft`, or it fails.
    pub fn block_port(&self, number: usize, port: u16) -> anyhow::Result<()> {
        let rules = format!(
            "table inet bench {{ counter blocked {{ }}; chain arriving {{ type filter hook input priority 0; \
             udp dport {port} counter name blocked drop; }}; }}\n"
        );
        let done = self.hosts[number].feed(Command::new("nft").args(["-f", "-"]), &rules);
        done.map(drop).with_context(|| format!("blocking UDP port {port} with nft"))
    }

    /// Datagrams that the packet filter of host `number` dropped.
    ///
    /// # Errors
    /// When `nft` does not tell.
    pub fn blocked(&self, number: usize) -> anyhow::Result<u64> {
        let mut command = Command::new("nft");
        command.args(["list", "counter", "inet", "bench", "blocked"]);
        let text = self.hosts[number].feed(&mut command, "")?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|n| n.parse().ok()).with_context(|| format!("nft says: {text}"))
    }

    /// What was lost beside what the relay was told to lose. What the interface of host `cut` did not send belongs to the cut.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn counts(&self, cut: Option<usize>) -> anyhow::Result<LanCounts> {
        let mut counts = LanCounts::default();
        for (number, host) in self.hosts.iter().enumerate() {
            let (snmp, devices) = host.run(|| Ok((read("snmp")?, read("dev")?)))?;
            counts.socket_drops += named(&snmp, "Udp", "RcvbufErrors");
            if self.relay.is_some() && cut != Some(number) {
                counts.interface_drops += send_drops(&devices);
            }
        }
        Ok(counts)
    }

    /// ICMP errors "destination unreachable" that all hosts' kernels received.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn icmp_errors(&self) -> anyhow::Result<u64> {
        let of =
            |host: &Namespace| host.run(|| Ok(named(&read("snmp")?, "Icmp", "InDestUnreachs")));
        self.hosts.iter().map(of).sum()
    }

    /// Ends the relay, if there is one, and gives its counts.
    ///
    /// # Errors
    /// When it ended before, or says nothing.
    pub fn end(mut self) -> anyhow::Result<Option<RelayCounts>> {
        self.relay.take().map(RelayProcess::end).transpose()
    }
}

/// A table of the kernel's about the calling thread's network.
fn read(name: &str) -> anyhow::Result<String> {
    let path = format!("/proc/thread-self/net/{name}");
    std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// A number of a protocol: a line of names, `Udp: ... RcvbufErrors ...`, and one of numbers.
fn named(snmp: &str, protocol: &str, name: &str) -> u64 {
    let words = snmp.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let mut lines = words.map(str::split_whitespace);
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.zip(numbers);
    pairs.find(|(known, _)| *known == name).map_or(0, |(_, n)| n.parse().unwrap_or(0))
}

/// The twelfth number of the interface's line: packets that it did not send.
fn send_drops(devices: &str) -> u64 {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
}

/// Takes an interface down and up.
#[derive(Debug)]
pub struct Plug {
    socket: UdpSocket,
}

impl Plug {
    /// Down: nothing gets in or out.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pull(&self) -> anyhow::Result<()> {
        sys::set_link(self.socket.as_fd(), INTERFACE, false).context("taking the interface down")
    }
}

/// Commands of `ip` that give a host its interface.
fn set_up(number: usize) -> String {
    format!(
        "address add {}/24 dev {INTERFACE}\nlink set {INTERFACE} mtu 1500 txqueuelen {QUEUE} up\n",
        address(number)
    )
}

fn bridge(hub: &Namespace, hosts: &[Namespace]) -> anyhow::Result<()> {
    let mut lines = "link add lan type bridge\nlink set lan up\n".to_owned();
    for (number, host) in hosts.iter().enumerate() {
        lines += &format!(
            "link add port{number} type veth peer name {INTERFACE} netns {}\n\
             link set port{number} master lan up\n",
            host.path()
        );
    }
    hub.ip(&lines)?;
    hosts.iter().enumerate().try_for_each(|(number, host)| host.ip(&set_up(number)))
}

fn tuns(hosts: &[Namespace]) -> anyhow::Result<Vec<OwnedFd>> {
    let open = |(number, host): (usize, &Namespace)| {
        let tun = host.run(|| {
            sys::open_tun(INTERFACE)
                .context("making a TUN interface (is /dev/net/tun there, and ours to open?)")
        })?;
        host.ip(&set_up(number))?;
        Ok(tun)
    };
    hosts.iter().enumerate().map(open).collect()
}

/// The relay, a process of its own.
#[derive(Debug)]
struct RelayProcess {
    child: Child,
    handle: OwnedFd,
    out: BufReader<ChildStdout>,
}

impl RelayProcess {
    fn start(
        tuns: Vec<OwnedFd>,
        impairment: Impairment,
        seed: u64,
    ) -> anyhow::Result<RelayProcess> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        let fds: Vec<_> = tuns.iter().map(AsRawFd::as_raw_fd).collect();
        command.arg("lan-relay");
        for (number, fd) in fds.iter().enumerate() {
            command.arg("--host").arg(format!("{}={fd}", address(number)));
        }
        command.args(["--loss", &impairment.loss.to_string()]);
        command.args(["--jitter-ms", &impairment.jitter_ms.to_string()]);
        command.args(["--seed", &seed.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        sys::inherit(&mut command, fds);
        sys::end_with_parent(&mut command);
        let mut child = command.spawn().context("starting the relay")?;
        // From here on the interfaces live as long as the relay.
        drop(tuns);
        let handle = sys::open_process(child.id()).context("opening the relay's process")?;
        let out = child.stdout.take().expect("standard output is piped");
        let mut relay = RelayProcess { child, handle, out: BufReader::new(out) };
        let mut ready = String::new();
        relay.out.read_line(&mut ready)?;
        ensure!(ready.starts_with("ready"), "the relay did not start; its reason is above");
        Ok(relay)
    }

    fn end(mut self) -> anyhow::Result<RelayCounts> {
        sys::signal(self.handle.as_fd(), SIGTERM).context("the relay ended by itself")?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("the relay's counts: {line:?}"))
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read_by_name_and_place() {
        let snmp = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts RcvbufErrors SndbufErrors\nUdp: 5 6 7 8\n\
                    UdpLite: InDatagrams\nUdpLite: 9\n";
        assert_eq!(named(snmp, "Udp", "RcvbufErrors"), 7);
        assert_eq!(named(snmp, "Tcp", "B"), 2);
        let devices = "Inter-|   Receive | Transmit\n face |bytes ...\n    lo: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n  \
                       eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(send_drops(devices), 12);
        assert_eq!((named("", "Udp", "A"), named(snmp, "Icmp", "A"), send_drops("")), (0, 0, 0));
    }
}
