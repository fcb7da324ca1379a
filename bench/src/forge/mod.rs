//! A stranger off the path: knows every address, port, session index and hardware address of a run, can forge any source, and
//! receives nothing. A process of its own in a network namespace of its own, with a raw socket.
//!
//! ```text
//!  stranger ─ veth ─┐
//!    node 1 ─ veth ─┼─ bridge: "I am node 1, move", "I am device 7, close my session", "port unreachable", …
//!     fleet ─ veth ─┘
//! ```
//!
//! What it does not know are secrets: tags, request numbers, cookies, tickets, the farm's key. Everything else in its datagrams is
//! right, so that they reach the very check that a secret is for.
//!
//! | part | does |
//! |---|---|
//! | `lies` | makes datagrams |
//! | `packet` | puts them into packets with a source of one's choice |

mod lies;
mod packet;

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use self::lies::Liar;
use self::packet::PACKET_BYTES_MAX;
use crate::random::Random;

/// Datagrams are sent in bursts this far apart. Guessed: 25 of them at the default rate, which no receive buffer minds.
const BURST_EVERY: Nanos = Nanos::from_millis(1);
/// The wait when the interface's queue is full.
const FULL_PAUSE: Duration = Duration::from_micros(200);
/// IP protocol number of "raw": the packet brings its own IP header (raw(7)).
const RAW: i32 = 255;

/// What the stranger knows, and how much it is to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Nodes.
    pub nodes: Vec<Ipv4Addr>,
    /// Their login port.
    pub login_port: u16,
    /// The I/O port of each node's shard.
    pub io_port: u16,
    /// Their port for one another.
    pub peer_port: u16,
    /// Where the devices are.
    pub devices_at: Ipv4Addr,
    /// Devices: their session indexes and hardware addresses follow from that.
    pub devices: u16,
    /// Their I/O ports, in no order.
    pub io_ports: Vec<u16>,
    /// Their notice ports.
    pub notice_ports: Vec<u16>,
    /// The stranger's own address: where it would like devices to go.
    pub own: Ipv4Addr,
    /// Addresses of the network that nobody has.
    pub nobodies: Vec<Ipv4Addr>,
    /// Datagrams.
    pub count: u64,
    /// Datagrams per second.
    pub per_second: u64,
    /// Seed of what is sent.
    pub seed: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams in all.
    pub sent: u64,
    /// Of those to devices' ports.
    pub to_devices: u64,
    /// Of those to nodes' ports.
    pub to_nodes: u64,
    /// Of those ICMP errors, to nodes and to devices.
    pub icmp: u64,
    /// Milliseconds from the first to the last.
    pub ms: u64,
}

/// Who gets a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Devices,
    Nodes,
    Kernel,
}

/// The stranger's process: takes a plan, one line of JSON, from standard input, says "ready", begins with the next line, and says
/// what it sent when it is done or told to end.
///
/// # Errors
/// When it gets no raw socket, or a packet cannot be sent.
pub fn run() -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening for signals")?;
    }
    let mut lines = io::stdin().lock().lines();
    let mut line = || lines.next().context("standard input ended")?.context("standard input");
    let plan: Plan = serde_json::from_str(&line()?).context("reading the plan")?;
    // Sources of one's choice: the kernel takes the header as it is, but for its sum.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))
        .context("opening a raw socket (needs CAP_NET_RAW)")?;
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    line()?;
    let sent = send(&plan, &socket, &stop)?;
    writeln!(out, "{}", serde_json::to_string(&sent)?)?;
    Ok(out.flush()?)
}

fn send(plan: &Plan, socket: &Socket, stop: &AtomicBool) -> anyhow::Result<Sent> {
    let began = clock::now();
    let mut liar = Liar::new(plan, Random::new(plan.seed));
    let mut packet = [0; PACKET_BYTES_MAX];
    let mut sent = Sent::default();
    while sent.sent < plan.count && !stop.load(Ordering::Relaxed) {
        let turn = clock::now();
        let due = u128::from(turn.since(began).0) * u128::from(plan.per_second) / 1_000_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(plan.count);
        while sent.sent < due {
            let (target, to, length) = liar.lie(&mut packet);
            put(socket, &packet[..length], to)?;
            sent.sent += 1;
            match target {
                Target::Devices => sent.to_devices += 1,
                Target::Nodes => sent.to_nodes += 1,
                Target::Kernel => sent.icmp += 1,
            }
        }
        let rest = BURST_EVERY.since(clock::now().since(turn)).as_duration();
        std::thread::sleep(rest);
    }
    sent.ms = clock::now().since(began).as_millis();
    Ok(sent)
}

/// Sends a packet; waits where the interface's queue is full, so that what is counted as sent was.
fn put(socket: &Socket, packet: &[u8], to: Ipv4Addr) -> anyhow::Result<()> {
    let to = SocketAddrV4::new(to, 0).into();
    loop {
        match socket.send_to(packet, &to) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                std::thread::sleep(FULL_PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("sending a forged packet"),
        }
    }
}
