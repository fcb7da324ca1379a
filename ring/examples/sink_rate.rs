//! What sends cost through a ring, with and without a copy, to an interface on which nobody receives.
//!
//! `cargo run --release -p diskstream-ring --example sink_rate -- PEER [segments] [data bytes] [rounds]`
//!
//! Both ways take turns of a few milliseconds in one process, so that whatever else the machine does falls on both. PEER is an
//! address behind the interface, such as an `ifb` device in a network namespace of its own:
//!
//! ```text
//! ip netns add sink; ip -n sink link add sink0 mtu 9000 type ifb; ip -n sink addr add 10.78.0.1/24 dev sink0
//! ip -n sink link set sink0 up; ip -n sink neigh replace 10.78.0.2 lladdr 02:00:00:00:00:02 dev sink0 nud permanent
//! ip netns exec sink target/release/examples/sink_rate 10.78.0.2:6910 7 8192
//! ```
#![expect(clippy::print_stdout, reason = "its result")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, HugePages, Ring, RingConfig, SendPlan,
    SocketConfig, SocketId, UdpSocket, Wait, ZeroCopy, clock,
};

const ARENA_BYTES: usize = 256 << 20;
/// Sends of one turn.
const BATCH: usize = 16;
/// Turns of one way in a row.
const TURNS: usize = 32;

struct Way {
    name: &'static str,
    ring: Ring,
    socket: SocketId,
    #[expect(clippy::vec_box, reason = "the ring takes and gives plans in their boxes")]
    pool: Vec<Box<SendPlan>>,
    /// Processor nanoseconds for each KiB, of each round.
    costs: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let peer: SocketAddr = arguments.next().ok_or("give PEER, such as 10.78.0.2:6910")?.parse()?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (segments, data_bytes, rounds) = (number(7)?, number(8192)?, number(200)?);
    let config = ArenaConfig { bytes: ARENA_BYTES, huge_pages: HugePages::Auto };
    let arena = Arc::new(Arena::with_headers(&config, 2)?);
    let mut ways = [
        way("copied", ZeroCopy::Off, &arena, peer)?,
        way("zero copy", ZeroCopy::On, &arena, peer)?,
    ];
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..rounds + 4 {
        for way in &mut ways {
            let cost = run(way, peer, segments, data_bytes, &mut random)?;
            // The first rounds warm up.
            if round >= 4 {
                way.costs.push(cost);
            }
        }
    }
    println!("arena of {}, {segments} segments of {data_bytes}+76 bytes", arena.backing());
    for way in &mut ways {
        way.costs.sort_by(f64::total_cmp);
        let at = |part: usize| way.costs[way.costs.len() * part / 100] * 1.048_576e-3;
        let stats = way.ring.stats();
        println!(
            "{:<10} s/GiB  p10 {:.4}  median {:.4}  p90 {:.4}   {} sends, {} of them without a copy ({} marked as copied after all), {} failed",
            way.name,
            at(10),
            at(50),
            at(90),
            stats.sends,
            stats.sends_zero_copy,
            stats.zero_copy_copied,
            stats.sends_failed + stats.sends_dropped,
        );
    }
    let [copied, zero] = ways.map(|way| way.costs[way.costs.len() / 2]);
    println!("zero copy / copied: {:.3}", zero / copied);
    Ok(())
}

fn way(
    name: &'static str,
    zero_copy: ZeroCopy,
    arena: &Arc<Arena>,
    peer: SocketAddr,
) -> Result<Way, Box<dyn Error>> {
    let config = RingConfig { sends: 64, zero_copy, ..RingConfig::default() };
    let mut ring = Ring::new(&config, Some(Arc::clone(arena)))?;
    let any = if peer.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(&SocketConfig {
        send_buffer_bytes: 16 << 20,
        dont_fragment: true,
        ..SocketConfig::new(any.parse()?)
    })?;
    let socket = ring.add_socket(socket)?;
    let pool = (0..64).map(|_| SendPlan::new()).collect();
    Ok(Way { name, ring, socket, pool, costs: Vec::new() })
}

/// Some turns of full batches; gives nanoseconds of processor for each KiB of payload, notifications included.
fn run(
    way: &mut Way,
    peer: SocketAddr,
    segments: usize,
    data_bytes: usize,
    random: &mut u64,
) -> Result<f64, Box<dyn Error>> {
    let mut done = Completions::new(256);
    let (began, before) = (clock::thread_cpu(), way.ring.stats().bytes_sent);
    for turn in 0..TURNS {
        for _ in 0..BATCH {
            let Some(plan) = way.pool.pop() else { break };
            let plan = fill(plan, peer, segments, data_bytes, random)?;
            if let Err((refused, plan)) = way.ring.send(way.socket, plan) {
                way.pool.push(plan);
                if !refused.is_throttle() {
                    return Err(refused.into());
                }
            }
        }
        loop {
            way.ring.turn(Wait::Never, &mut done)?;
            for completion in done.drain() {
                if let Completion::Sent { plan, .. } = completion {
                    way.pool.push(plan);
                }
            }
            // The last turn waits for what is under way, so that each way pays for its own.
            if way.pool.len() >= BATCH && (turn + 1 < TURNS || way.ring.sends_outstanding() == 0) {
                break;
            }
        }
    }
    let cpu = clock::thread_cpu().since(began).0;
    let bytes = way.ring.stats().bytes_sent - before;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    Ok(cpu as f64 * 1024.0 / bytes.max(1) as f64)
}

/// Datagrams as a node makes them: a header, and bytes of a block somewhere in the cache.
fn fill(
    mut plan: Box<SendPlan>,
    peer: SocketAddr,
    segments: usize,
    data_bytes: usize,
    random: &mut u64,
) -> Result<Box<SendPlan>, Box<dyn Error>> {
    plan.reset();
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    // Not at the beginning, where the rings' headers are.
    let block = (1 << 20) + usize::try_from(*random % 3000)? * 65_536;
    for segment in 0..segments {
        plan.push_scratch(&[0; 76])?;
        plan.push_arena(block + (segment * data_bytes) % (65_536 - data_bytes), data_bytes)?;
    }
    plan.peer = peer;
    plan.segment_bytes = u16::try_from(data_bytes + 76)?;
    Ok(plan)
}
