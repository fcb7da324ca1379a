//! Whoever takes what is sent, on the other core, and counts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Context, anyhow};
use diskstream_ring::{
    Completion, Completions, Ring, RingConfig, SocketConfig, UdpSocket, Wait, clock,
};
use diskstream_wire::Nanos;

use super::super::scene::Scene;
use crate::read::{CORES, pin};

/// As `udpstream.c` has it.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// A turn without a datagram ends after this.
const TURN_MAX: Nanos = Nanos::from_millis(20);

/// A thread that receives.
pub struct Receiver<'scope> {
    thread: ScopedJoinHandle<'scope, anyhow::Result<u64>>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl<'scope> Receiver<'scope> {
    /// Starts it, and waits until it listens.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        scene: &'env Scene,
        no_pin: bool,
    ) -> anyhow::Result<Receiver<'scope>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, listens) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = scope.spawn(move || {
            scene.far().enter()?;
            if !no_pin {
                pin(CORES.1);
            }
            let mut config = SocketConfig::new(scene.to);
            config.recv_buffer_bytes = RECEIVE_BUFFER_BYTES;
            config.gro = true;
            let socket = UdpSocket::bind(&config)?;
            let address = socket.local_addr();
            let config = RingConfig {
                recv_buffers: 256,
                recv_buffer_bytes: 65_536,
                reads: 0,
                sockets: 1,
                files: 0,
                ..RingConfig::default()
            };
            let mut ring = Ring::new(&config, None)?;
            ring.add_socket(socket)?;
            let _ = ready.send(address);
            receive(&mut ring, &stopped)
        });
        match listens.recv() {
            Ok(address) => Ok(Receiver { thread, address, stop }),
            Err(_) => {
                let ended = thread.join().map_err(|_| anyhow!("the receiver panicked"))?;
                ended.context("starting the receiver")?;
                Err(anyhow!("the receiver ended before it listened"))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets it take what still waits in its socket; gives the bytes that arrived.
    pub fn end(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the receiver panicked"))?
    }
}

fn receive(ring: &mut Ring, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut done = Completions::new(512);
    let mut bytes = 0u64;
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        ring.turn(Wait::Until(clock::now() + TURN_MAX), &mut done)?;
        let mut arrived = false;
        for completion in done.drain() {
            if let Completion::Received(received) = completion {
                bytes += ring.datagram(&received).payload.len() as u64;
                ring.recycle(received);
                arrived = true;
            }
        }
        if stopped && !arrived {
            return Ok(bytes);
        }
    }
}
