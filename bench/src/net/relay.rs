//! The relay that joins namespaces: a process that takes IP packets from one host's TUN interface and puts them into another's,
//! losing some and delaying the rest. It changes nothing in them and knows no protocol above IP, so whatever hosts say to
//! each other meets the same loss.
//!
//! It begins without loss and delay, so that logins and warm caches need no patience; SIGUSR1 begins them, and its counts.
//!
//! Each datagram is one packet: the interfaces take no segmented sends, so the kernel cuts these up before, and each piece
//! has a fate of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::node_process::CpuTime;
use crate::random::Random;
use crate::sys;

/// Largest packet of an interface with an MTU of 1500.
const PACKET_BYTES: usize = 1536;
/// Packets held back at once. Derived: all that wait in the interfaces of three hosts, and more.
const HELD_MAX: usize = 262_144;
/// Packets taken from one interface before the next gets its turn.
const BATCH: usize = 256;
/// Turns are at least this far apart: some forty packets each at full rate, and at most this much beside the delay that
/// was drawn.
const TURN_MIN: Nanos = Nanos::from_micros(500);
/// The longest turn without a packet, so that a signal between two looks is noticed. Guessed.
const TURN_MAX: Duration = Duration::from_millis(50);

/// What the relay is told by the program that starts it.
#[derive(Clone, Debug, clap::Args)]
pub struct LanRelayArgs {
    /// A host: its address, and the descriptor of its interface, ADDRESS=NUMBER.
    #[arg(long = "host", value_parser = parse_host)]
    hosts: Vec<(Ipv4Addr, RawFd)>,
    /// Share of packets to lose.
    #[arg(long)]
    loss: f64,
    /// Delay of each packet, uniform from 0 to this many milliseconds.
    #[arg(long)]
    jitter_ms: u32,
    /// Seed of what is lost and delayed.
    #[arg(long)]
    seed: u64,
}

fn parse_host(text: &str) -> Result<(Ipv4Addr, RawFd), String> {
    let parsed = text.split_once('=').and_then(|(a, n)| Some((a.parse().ok()?, n.parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is no ADDRESS=NUMBER"))
}

/// What the relay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RelayCounts {
    /// Packets passed on.
    pub relayed: u64,
    /// Packets lost as told.
    pub lost: u64,
    /// Packets to hosts that are not there, and others that no host sends on purpose.
    pub strays: u64,
    /// Packets for a host whose interface is down.
    pub to_cut_hosts: u64,
    /// Packets lost by the relay itself: must be 0, or the run says nothing.
    pub drops: u64,
    /// The longest time by which a packet was sent on later than was drawn for it, in microseconds.
    pub late_us_max: u64,
    /// Its processor time in milliseconds.
    pub cpu_ms: u64,
    /// Time for which it was ready to run while others had the processor.
    pub cpu_wait_ms: u64,
    /// It ran before everybody else, as a network does, which waits for nobody's processor.
    pub runs_first: bool,
}

/// Decides what becomes of a packet. Pure.
#[derive(Debug)]
struct Fate {
    random: Random,
    loss: f64,
    jitter_ns: u64,
}

impl Fate {
    /// How long a packet is held; none: it is lost.
    fn draw(&mut self) -> Option<Nanos> {
        if self.random.chance(self.loss) {
            return None;
        }
        Some(Nanos(self.random.below(self.jitter_ns + 1)))
    }
}

/// Destination of an IPv4 packet.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let ours = packet.len() >= 20 && packet[0] >> 4 == 4;
    let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    ours.then(|| Ipv4Addr::from(bytes))
}

/// A packet on its way.
#[derive(Debug)]
struct Packet {
    to: usize,
    used: usize,
    bytes: Box<[u8; PACKET_BYTES]>,
}

struct Relay {
    hosts: Vec<(Ipv4Addr, File)>,
    fate: Fate,
    /// When which packet goes on; the number in between keeps the order of equal times.
    due: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    packets: Vec<Packet>,
    free: Vec<usize>,
    taken: u64,
    counts: RelayCounts,
}

/// Relays until the process is told to end, then says what it did.
///
/// # Errors
/// When an interface fails.
pub fn run(args: &LanRelayArgs) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening for signals")?;
    }
    let take = |&(address, fd)| Ok((address, sys::inherited(fd)?.into()));
    let hosts = args.hosts.iter().map(take).collect::<io::Result<_>>();
    let hosts = hosts.context("taking the interfaces that this program was started with")?;
    let impair = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, Arc::clone(&impair)).context("listening for signals")?;
    let fate = Fate { random: Random::new(args.seed), loss: 0.0, jitter_ns: 0 };
    let mut relay = Relay {
        hosts,
        fate,
        due: BinaryHeap::new(),
        packets: Vec::new(),
        free: Vec::new(),
        taken: 0,
        counts: RelayCounts::default(),
    };
    // Not allowed everywhere: the report says so.
    let runs_first = sys::run_first().is_ok();
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    while !stop.load(Ordering::Relaxed) {
        if impair.swap(false, Ordering::Relaxed) {
            relay.fate.loss = args.loss;
            relay.fate.jitter_ns = u64::from(args.jitter_ms) * 1_000_000;
            relay.counts = RelayCounts::default();
        }
        relay.turn()?;
    }
    let cpu = CpuTime::of_this_thread()?;
    relay.counts.cpu_ms = cpu.used_ns / 1_000_000;
    relay.counts.runs_first = runs_first;
    relay.counts.cpu_wait_ms = cpu.waited_ns / 1_000_000;
    writeln!(out, "{}", serde_json::to_string(&relay.counts)?)?;
    Ok(out.flush()?)
}

impl Relay {
    fn turn(&mut self) -> io::Result<()> {
        let begun = clock::now();
        for host in 0..self.hosts.len() {
            self.take_batch(host, begun)?;
        }
        self.send_due(clock::now())?;
        let next = self.due.peek().map(|Reverse((at, ..))| *at);
        let now = clock::now();
        // What arrives meanwhile waits in the interfaces' queues.
        let rest = TURN_MIN.since(now.since(begun)).as_duration();
        if rest > Duration::ZERO {
            std::thread::sleep(rest);
        }
        let wait = next.map_or(TURN_MAX, |at| at.since(clock::now()).as_duration().min(TURN_MAX));
        if wait > Duration::ZERO {
            let fds: Vec<BorrowedFd<'_>> = self.hosts.iter().map(|(_, tun)| tun.as_fd()).collect();
            sys::wait_readable(&fds, wait)?;
        }
        Ok(())
    }

    /// Takes what an interface holds, up to a batch.
    fn take_batch(&mut self, from: usize, now: Nanos) -> io::Result<()> {
        for _ in 0..BATCH {
            let index = self.slot();
            let packet = &mut self.packets[index];
            let read = self.hosts[from].1.read(&mut packet.bytes[..]);
            match read {
                Ok(used) => packet.used = used,
                Err(error) => {
                    self.free.push(index);
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                        _ => Err(error),
                    };
                }
            }
            if !self.hold(index, now) {
                self.free.push(index);
            }
        }
        Ok(())
    }

    /// A place for a packet.
    fn slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.packets.push(Packet { to: 0, used: 0, bytes: Box::new([0; PACKET_BYTES]) });
            self.packets.len() - 1
        })
    }

    /// Decides about a packet that was just read; false when it goes nowhere.
    fn hold(&mut self, index: usize, now: Nanos) -> bool {
        let packet = &mut self.packets[index];
        let destination = destination(&packet.bytes[..packet.used]);
        let to = self.hosts.iter().position(|(address, _)| Some(*address) == destination);
        let Some(to) = to else {
            self.counts.strays += 1;
            return false;
        };
        let Some(delay) = self.fate.draw() else {
            self.counts.lost += 1;
            return false;
        };
        if self.due.len() >= HELD_MAX {
            self.counts.drops += 1;
            return false;
        }
        packet.to = to;
        self.taken += 1;
        self.due.push(Reverse((now + delay, self.taken, index)));
        true
    }

    fn send_due(&mut self, now: Nanos) -> io::Result<()> {
        while let Some(&Reverse((at, _, index))) = self.due.peek() {
            if at > now {
                break;
            }
            self.due.pop();
            self.free.push(index);
            let packet = &self.packets[index];
            match self.hosts[packet.to].1.write(&packet.bytes[..packet.used]) {
                Ok(_) => self.counts.relayed += 1,
                // What the driver says of an interface that is down.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    self.counts.to_cut_hosts += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.counts.drops += 1,
                Err(error) => return Err(error),
            }
            let late = clock::now().since(at).as_micros();
            self.counts.late_us_max = self.counts.late_us_max.max(late);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_meet_loss_and_delay_and_reorder() {
        let mut fate = Fate { random: Random::new(3), loss: 0.05, jitter_ns: 20_000_000 };
        let drawn: Vec<_> = (0..100_000).map(|_| fate.draw()).collect();
        let lost = drawn.iter().filter(|fate| fate.is_none()).count();
        // Five standard deviations are 345.
        assert!((4_655..5_345).contains(&lost), "{lost}");
        let delays: Vec<u64> = drawn.into_iter().flatten().map(|delay| delay.0).collect();
        assert!(delays.iter().all(|&delay| delay <= 20_000_000));
        for quarter in 0..4 {
            let (low, high) = (quarter * 5_000_000, (quarter + 1) * 5_000_000);
            let share =
                delays.iter().filter(|&&d| (low..high).contains(&d)).count() * 100 / delays.len();
            assert!((23..27).contains(&share), "{share} % in quarter {quarter}");
        }
        assert!(delays.windows(2).any(|pair| pair[0] > pair[1]), "the second overtakes");
        let mut plain = Fate { random: Random::new(3), loss: 0.0, jitter_ns: 0 };
        assert!((0..1000).all(|_| plain.draw() == Some(Nanos::ZERO)));
    }

    #[test]
    fn only_whole_ipv4_headers_have_a_destination() {
        let mut packet = [0u8; 28];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[198, 18, 0, 2]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(198, 18, 0, 2)));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn hosts_parse_or_say_why() {
        assert_eq!(parse_host("198.18.0.1=5"), Ok((Ipv4Addr::new(198, 18, 0, 1), 5)));
        for bad in ["", "x=1", "198.18.0.1", "198.18.0.1=x"] {
            assert!(parse_host(bad).unwrap_err().contains("ADDRESS=NUMBER"), "{bad}");
        }
    }
}
