//! Sends in one direction: what a gibibyte costs its sender over loopback, over a veth pair, and where nobody receives.
//!
//! By hand (one range of memory per train) and through the node's ring (a header and a piece of a block per datagram, as the node's
//! replies are), each with and without the kernel's copy. Without one the node's trains must be short, as a train has 17 page
//! fragments: at MTU 1500 eight datagrams, where a reply that is copied has 44. So there a short train that is copied is measured
//! too: beside it zero copy shows what the copy costs, beside the long one whether it would pay.

mod receiver;
#[expect(unsafe_code, reason = "io_uring by hand; each block says why")]
mod sys;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, ensure};
use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, HugePages, Ring, RingConfig, SendPlan,
    SocketConfig, UdpSocket, Wait, ZeroCopy, clock,
};
use diskstream_wire::Nanos;
use serde::Serialize;

use super::args::FloorArgs;
use super::scene::{Scene, Way};
use crate::random::Random;
use crate::read::{CORES, nanos_of, pin};
use crate::spread::Spread;

/// Memory that is sent from: more than any processor's cache holds.
const MEMORY_BYTES: usize = 256 << 20;
/// Send buffer of the socket: as `udpstream.c` has it.
const SEND_BUFFER_BYTES: usize = 16 << 20;
/// Sends of one turn through the ring; as many as by hand.
const BATCH: usize = 16;
/// Bytes of a header of the node's data datagrams, IPv6's included.
const HEADER_BYTES: usize = 76;

/// How datagrams are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By hand: `sendmsg` with `UDP_SEGMENT`, from one range of memory.
    Bare,
    /// The same without a copy, from a registered buffer.
    BareZeroCopy,
    /// Through `ring::SendPlan`s with a header before each datagram's data, in trains as the node's replies are.
    Ring,
    /// The same in trains that could leave without a copy. Only where those are shorter.
    RingShort,
    /// The same without a copy.
    RingZeroCopy,
}

impl How {
    /// What is measured at this size.
    fn all(mtu: u16) -> &'static [How] {
        const JUMBO: [How; 4] = [How::Bare, How::BareZeroCopy, How::Ring, How::RingZeroCopy];
        const SHORT: [How; 5] =
            [How::Bare, How::BareZeroCopy, How::Ring, How::RingShort, How::RingZeroCopy];
        if mtu > 1500 { &JUMBO } else { &SHORT }
    }

    /// The same without a copy, of those that copy.
    fn without_copy(self) -> Option<How> {
        match self {
            How::Bare => Some(How::BareZeroCopy),
            How::Ring | How::RingShort => Some(How::RingZeroCopy),
            How::BareZeroCopy | How::RingZeroCopy => None,
        }
    }
}

/// Datagrams of a send: bytes of each, and how many.
fn shape(how: How, mtu: u16) -> (u16, usize) {
    let jumbo = mtu > 1500;
    match how {
        How::Bare | How::BareZeroCopy => {
            let payload = if jumbo { 8900 } else { 1472 };
            (payload, 65_000 / usize::from(payload))
        }
        // A fragment of the protocol and its header; 17 page fragments (measured; see ring) are eight of both.
        How::Ring if !jumbo => (76 + 1376, 44),
        How::RingShort | How::RingZeroCopy if !jumbo => (76 + 1376, 8),
        How::Ring | How::RingShort | How::RingZeroCopy => (76 + 8192, 7),
    }
}

/// One way to send on one path.
#[derive(Clone, Debug, Serialize)]
pub struct SendRow {
    /// The path.
    pub way: Way,
    /// Largest IP packet.
    pub mtu: u16,
    /// How.
    pub how: How,
    /// Datagrams of a send.
    pub segments: usize,
    /// Processor time of the sending thread per 2^30 bytes, headers included. On loopback and veth it includes the way up to the
    /// receiver's socket.
    pub cpu_s_per_gib: Spread,
    /// 10^9 bits per second that were sent.
    pub gbit_per_s: Spread,
    /// Share of the bytes that arrived; none where nobody receives.
    pub delivered_share: Option<Spread>,
    /// Share of the sends without a copy that the kernel copied after all; none of those with one.
    pub copied_share: Option<f64>,
    /// Share of the sends that the kernel did not take, of all rounds. Above a hundredth the figures would be of something else, and
    /// the run fails.
    pub refused_share: f64,
}

/// With and without zero copy on one path: the ratio of processor times per byte.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroCopyRatio {
    /// The path.
    pub way: Way,
    /// Largest IP packet.
    pub mtu: u16,
    /// The way that copies.
    pub how: How,
    /// Zero copy by copy, of each round.
    pub ratio: Spread,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Sends {
    /// Each way to send on each path.
    pub rows: Vec<SendRow>,
    /// What zero copy makes of it.
    pub zero_copy_over_copy: Vec<ZeroCopyRatio>,
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
struct Run {
    cpu_s_per_gib: f64,
    gbit_per_s: f64,
    delivered_share: Option<f64>,
    copied_share: Option<f64>,
    refused_share: f64,
}

/// Sends that the kernel may refuse, as a share. Guessed: too few to be seen in the figures.
const REFUSED_MAX: f64 = 0.01;

/// Measures every way on every path.
///
/// # Errors
/// When namespaces cannot be made, or nothing can be sent.
pub fn run(args: &FloorArgs) -> anyhow::Result<Sends> {
    let mut sends = Sends { rows: Vec::new(), zero_copy_over_copy: Vec::new() };
    for way in [Way::Loopback, Way::Veth, Way::Sink] {
        for mtu in [1500, 9000] {
            on_path(args, way, mtu, &mut sends).with_context(|| format!("{way:?}, MTU {mtu}"))?;
        }
    }
    Ok(sends)
}

fn on_path(args: &FloorArgs, way: Way, mtu: u16, sends: &mut Sends) -> anyhow::Result<()> {
    let scene = Scene::new(way, mtu)?;
    // Round by round, so that what drifts meets all alike.
    let hows = How::all(mtu);
    let round = |_| hows.iter().map(|&how| one(args, &scene, way, mtu, how)).collect();
    let rounds: Vec<Vec<Run>> = (0..args.rounds).map(round).collect::<anyhow::Result<_>>()?;
    let spread = |how: usize, figure: fn(&Run) -> f64, decimals| {
        Spread::of(rounds.iter().map(|round| figure(&round[how])), decimals)
            .expect("at least one round")
    };
    for (index, how) in hows.iter().copied().enumerate() {
        let shares = rounds.iter().filter_map(|round| round[index].delivered_share);
        let row = SendRow {
            way,
            mtu,
            how,
            segments: shape(how, mtu).1,
            cpu_s_per_gib: spread(index, |run| run.cpu_s_per_gib, 4),
            gbit_per_s: spread(index, |run| run.gbit_per_s, 1),
            delivered_share: Spread::of(shares, 3),
            copied_share: rounds.last().and_then(|round| round[index].copied_share),
            refused_share: spread(index, |run| run.refused_share, 4).most,
        };
        let _ = writeln!(
            std::io::stderr(),
            "{way:?} MTU {mtu} {how:?}: {} s per GiB",
            row.cpu_s_per_gib.median
        );
        sends.rows.push(row);
    }
    for (index, how) in hows.iter().copied().enumerate() {
        let Some(other) = hows.iter().position(|other| Some(*other) == how.without_copy()) else {
            continue;
        };
        let ratios =
            rounds.iter().map(|round| round[other].cpu_s_per_gib / round[index].cpu_s_per_gib);
        let ratio = Spread::of(ratios, 3).expect("at least one round");
        sends.zero_copy_over_copy.push(ZeroCopyRatio { way, mtu, how, ratio });
    }
    Ok(())
}

/// Sends for a while, with a receiver on the other core where there is one.
fn one(args: &FloorArgs, scene: &Scene, way: Way, mtu: u16, how: How) -> anyhow::Result<Run> {
    let (shape, window) = (shape(how, mtu), nanos_of(args.seconds));
    std::thread::scope(|scope| {
        let receiver = (way != Way::Sink)
            .then(|| receiver::Receiver::start(scope, scene, args.no_pin))
            .transpose()?;
        let to = receiver.as_ref().map_or_else(
            || std::net::SocketAddr::new(scene.to.ip(), 9),
            receiver::Receiver::address,
        );
        let sender = scope.spawn(move || -> anyhow::Result<Sender> {
            scene.near.enter()?;
            if !args.no_pin {
                pin(CORES.0);
            }
            let mut config = SocketConfig::new(std::net::SocketAddr::new(scene.from.ip(), 0));
            config.send_buffer_bytes = SEND_BUFFER_BYTES;
            config.connect = Some(to);
            let socket = UdpSocket::bind(&config)?;
            match how {
                How::Bare | How::BareZeroCopy => by_hand(socket, shape, how, window),
                How::Ring | How::RingShort | How::RingZeroCopy => {
                    by_ring(socket, to, shape, how, window)
                }
            }
        });
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        let received = receiver.map(receiver::Receiver::end).transpose()?;
        ensure!(sent.bytes > 0, "nothing was sent: the kernel refused {} sends", sent.errors);
        let run = sent.run(received);
        ensure!(
            run.refused_share <= REFUSED_MAX,
            "{how:?}: the kernel refused {} of {} sends: is the send buffer too small (net.core.wmem_max)?",
            sent.errors,
            sent.sends
        );
        Ok(run)
    })
}

/// What the sender did.
struct Sender {
    bytes: u64,
    /// All, and those that the kernel did not take.
    sends: u64,
    errors: u64,
    cpu: Nanos,
    spent: Nanos,
    /// Sends without a copy, and those that were copied after all.
    zero_copy: Option<(u64, u64)>,
}

impl Sender {
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    fn run(&self, received: Option<u64>) -> Run {
        let (bytes, seconds) = (self.bytes as f64, self.spent.0 as f64 / 1e9);
        Run {
            cpu_s_per_gib: self.cpu.0 as f64 / 1e9 / (bytes / f64::from(1 << 30)),
            gbit_per_s: bytes * 8.0 / seconds / 1e9,
            delivered_share: received.map(|received| received as f64 / bytes),
            copied_share: self.zero_copy.map(|(all, copied)| copied as f64 / all.max(1) as f64),
            refused_share: self.errors as f64 / self.sends.max(1) as f64,
        }
    }
}

fn by_hand(
    socket: UdpSocket,
    shape: (u16, usize),
    how: How,
    window: Nanos,
) -> anyhow::Result<Sender> {
    let zero_copy = how == How::BareZeroCopy;
    let mut sender = sys::BareSender::new(socket, shape, MEMORY_BYTES, zero_copy)?;
    let (begin, cpu) = (clock::now(), clock::thread_cpu());
    while clock::now().since(begin) < window {
        sender.batch()?;
    }
    sender.finish()?;
    let (cpu, spent) = (clock::thread_cpu().since(cpu), clock::now().since(begin));
    let sent = sender.sent();
    Ok(Sender {
        bytes: sent.bytes,
        sends: sent.sends + sent.errors,
        errors: sent.errors,
        cpu,
        spent,
        zero_copy: zero_copy.then_some((sent.notified, sent.copied)),
    })
}

fn by_ring(
    socket: UdpSocket,
    to: std::net::SocketAddr,
    shape: (u16, usize),
    how: How,
    window: Nanos,
) -> anyhow::Result<Sender> {
    let zero_copy = how == How::RingZeroCopy;
    let memory = ArenaConfig { bytes: MEMORY_BYTES, huge_pages: HugePages::Auto };
    let arena = Arc::new(Arena::with_headers(&memory, 1)?);
    let config = RingConfig {
        sends: 64,
        recv_buffers: 1,
        zero_copy: if zero_copy { ZeroCopy::On } else { ZeroCopy::Off },
        ..RingConfig::default()
    };
    let mut ring = Ring::new(&config, Some(arena))?;
    let socket = ring.add_socket(socket)?;
    let mut plans: Vec<_> = (0..64).map(|_| SendPlan::new()).collect();
    let mut done = Completions::new(256);
    let mut random = Random::new(1);
    // Blocks of the last three quarters: the rings' headers lie at the beginning.
    let blocks = (MEMORY_BYTES / 4 * 3 / (64 << 10)) as u64;
    let (begin, cpu) = (clock::now(), clock::thread_cpu());
    let mut sending = true;
    while sending || ring.sends_outstanding() > 0 {
        sending = clock::now().since(begin) < window;
        for _ in 0..BATCH * usize::from(sending) {
            let Some(mut plan) = plans.pop() else { break };
            let block = usize::try_from(random.below(blocks)).expect("below 2^32") * (64 << 10);
            let block = MEMORY_BYTES / 4 + block;
            fill(&mut plan, to, block, shape)?;
            if let Err((refused, plan)) = ring.send(socket, plan) {
                ensure!(refused.is_throttle(), "the ring refused a plan: {refused}");
                plans.push(plan);
                break;
            }
        }
        // With nothing to send it is waited for; else only for as many plans as the next batch needs.
        let wait = if plans.len() < BATCH || !sending {
            Wait::Until(clock::now() + Nanos::from_millis(20))
        } else {
            Wait::Never
        };
        ring.turn(wait, &mut done)?;
        for completion in done.drain() {
            match completion {
                Completion::Sent { plan, .. } => plans.push(plan),
                Completion::Received(received) => ring.recycle(received),
                Completion::Read { .. } | Completion::Woken | Completion::SocketError { .. } => {}
            }
        }
    }
    let (cpu, spent) = (clock::thread_cpu().since(cpu), clock::now().since(begin));
    let stats = ring.stats();
    let without = stats.sends_zero_copy;
    Ok(Sender {
        bytes: stats.bytes_sent,
        sends: stats.sends,
        errors: stats.sends_failed + stats.sends_dropped,
        cpu,
        spent,
        zero_copy: zero_copy
            .then_some((stats.sends, stats.sends.saturating_sub(without) + stats.zero_copy_copied)),
    })
}

/// A train of this shape from the block that begins there.
fn fill(
    plan: &mut SendPlan,
    to: std::net::SocketAddr,
    block: usize,
    (datagram, segments): (u16, usize),
) -> anyhow::Result<()> {
    let data = usize::from(datagram) - HEADER_BYTES;
    plan.reset();
    (plan.peer, plan.segment_bytes) = (to, datagram);
    for segment in 0..segments {
        plan.push_scratch(&[0; HEADER_BYTES])?;
        plan.push_arena(block + segment * data, data)?;
    }
    Ok(())
}
