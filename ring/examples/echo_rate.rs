//! Datagram trains per second through one ring on a loopback: a first impression, not a benchmark.
//!
//! `cargo run --release -p diskstream-ring --example echo_rate -- [seconds] [segments] [segment bytes]`
//!
//! One ring sends trains to itself from arena memory, a bounded number of datagrams ahead of what arrived, and counts. Set
//! `DISKSTREAM_RING_WITHOUT=gso` (and so on) to see what a feature is worth.
#![expect(clippy::print_stdout, reason = "its result")]

use std::error::Error;
use std::sync::Arc;

use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, HugePages, Ring, RingConfig, SendPlan,
    SocketConfig, UdpSocket, Wait, clock,
};
use diskstream_wire::time::Nanos;

const PLANS: u16 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (seconds, segments, segment_bytes) = (number(2)?, number(44)?, number(1452)?);
    let arena = Arena::new(&ArenaConfig { bytes: 1 << 20, huge_pages: HugePages::Auto })?;
    let config = RingConfig {
        sends: PLANS,
        recv_buffers: 256,
        sockets: 2,
        recv_buffer_bytes: 65_535,
        ..RingConfig::default()
    };
    let mut ring = Ring::new(&config, Some(Arc::new(arena)))?;
    let address = SocketConfig {
        recv_buffer_bytes: 32 << 20,
        send_buffer_bytes: 32 << 20,
        gro: true,
        ..SocketConfig::new("127.0.0.1:0".parse()?)
    };
    let receiver = UdpSocket::bind(&address)?;
    let to = receiver.local_addr();
    ring.add_socket(receiver)?;
    let sender = ring.add_socket(UdpSocket::bind(&SocketConfig { gro: false, ..address })?)?;

    let mut pool: Vec<Box<SendPlan>> = (0..PLANS).map(|_| SendPlan::new()).collect();
    let mut done = Completions::new(256);
    let start = clock::now();
    let end = start + Nanos::from_secs(u64::try_from(seconds)?);
    let ahead_max = u64::from(PLANS) * u64::try_from(segments)?;
    while clock::now() < end {
        while ring.stats().datagrams_sent < ring.stats().datagrams_received + ahead_max {
            let Some(mut plan) = pool.pop() else { break };
            plan.reset();
            plan.peer = to;
            for segment in 0..segments {
                plan.push_scratch(&[0; 76])?;
                plan.push_arena(segment * 8192, segment_bytes - 76)?;
            }
            plan.segment_bytes = u16::try_from(segment_bytes)?;
            if let Err((refused, plan)) = ring.send(sender, plan) {
                if !refused.is_throttle() {
                    return Err(refused.into());
                }
                pool.push(plan);
                break;
            }
        }
        ring.turn(Wait::Until(end), &mut done)?;
        for completion in done.drain() {
            match completion {
                Completion::Received(received) => ring.recycle(received),
                Completion::Sent { plan, .. } => pool.push(plan),
                _ => {}
            }
        }
    }
    let stats = ring.stats();
    let per_second =
        |count: u64| u128::from(count) * 1_000_000_000 / u128::from(clock::now().since(start).0);
    println!("trains sent/s        {:>12}", per_second(stats.sends));
    println!("trains received/s    {:>12}", per_second(stats.trains_received));
    println!("datagrams received/s {:>12}", per_second(stats.datagrams_received));
    println!("MB received/s        {:>12}", per_second(stats.bytes_received) / 1_000_000);
    println!("system calls/s       {:>12}", per_second(stats.enters));
    println!("dropped sends        {:>12}", stats.sends_dropped);
    for (name, _, present) in ring.features().fields() {
        println!("{name:<20} {present:>12}");
    }
    Ok(())
}
