//! What the tests share: rings, sockets, and a bounded way to await completions.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, Features, HugePages, Ring, RingConfig,
    SocketConfig, SocketId, UdpSocket, Wait, clock,
};
use diskstream_wire::time::Nanos;

/// Nothing on a loopback takes this long, whatever else the machine does.
pub const PATIENCE: Nanos = Nanos::from_secs(20);

pub const V4: &str = "127.0.0.1:0";
pub const V6: &str = "[::1]:0";

pub fn arena(bytes: usize) -> Arc<Arena> {
    Arc::new(Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Off }).unwrap())
}

pub fn small() -> RingConfig {
    RingConfig {
        recv_buffers: 64,
        recv_buffer_bytes: 65_535,
        sends: 16,
        reads: 16,
        sockets: 4,
        files: 4,
        ..RingConfig::default()
    }
}

pub fn ring(permit: Features) -> Ring {
    Ring::new(&RingConfig { permit, ..small() }, Some(arena(1 << 20))).unwrap()
}

pub fn config(addr: &str) -> SocketConfig {
    SocketConfig {
        recv_buffer_bytes: 4 << 20,
        send_buffer_bytes: 4 << 20,
        ..SocketConfig::new(addr.parse().unwrap())
    }
}

pub fn add(ring: &mut Ring, config: &SocketConfig) -> (SocketId, SocketAddr) {
    let socket = UdpSocket::bind(config).unwrap();
    let addr = socket.local_addr();
    (ring.add_socket(socket).unwrap(), addr)
}

/// Turns until `enough`, handing each completion to `each`. Panics when that takes too long.
pub fn turn_until<S>(
    ring: &mut Ring,
    state: &mut S,
    mut each: impl FnMut(&mut Ring, &mut S, Completion),
    enough: impl Fn(&S) -> bool,
) {
    let deadline = clock::now() + PATIENCE;
    let mut done = Completions::new(64);
    while !enough(state) {
        assert!(clock::now() < deadline, "nothing more completes; {:?}", ring.stats());
        ring.turn(Wait::Until(deadline), &mut done).unwrap();
        for completion in done.drain() {
            each(ring, state, completion);
        }
    }
}

pub const TWO_MIB: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
pub const ONE_GIB: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

/// Reserves huge pages, and puts the number back when dropped. One at a time on a host: two that overlap would put back what the
/// other had added.
pub struct Reservation {
    file: &'static str,
    before: String,
    _alone: std::fs::File,
}

impl Reservation {
    pub fn new(file: &'static str, pages: usize) -> Option<Reservation> {
        let alone = std::fs::File::open(file).ok()?;
        alone.lock().ok()?;
        let before = std::fs::read_to_string(file).ok()?;
        let wanted = before.trim().parse::<usize>().ok()? + pages;
        std::fs::write(file, wanted.to_string()).ok()?;
        let reservation = Reservation { file, before, _alone: alone };
        let got: usize = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        (got >= wanted).then_some(reservation)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = std::fs::write(self.file, &self.before);
    }
}
