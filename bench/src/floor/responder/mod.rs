//! The node's theoretical opponent: answers reads of an image in memory, and does nothing else.
//!
//! One thread, one `io_uring`, one UDP socket. All requests that have arrived are taken at once (multishot receive into a buffer
//! ring), each read is one send with UDP segmentation (more above 64 KiB) of slices of the image, and all sends of a turn go out
//! with the call that waits for the next requests. No protocol, no session, no cache, no check sum. It stands for
//! `udprr.c`, the C program with which the floor was first measured, and speaks as that does.

mod process;
#[expect(unsafe_code, reason = "io_uring by hand; each block says why")]
mod sys;

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use diskstream_ring::UdpSocket;

use super::bare::{Cut, Request};
use crate::read;
pub use process::ResponderProcess;
pub use sys::Image;

/// Requests that wait for a free send; a client repeats what is dropped beyond. Derived: more than any load has outstanding.
const BACKLOG_MAX: usize = 16_384;
/// Buffers of the socket, both ways, as in `udprr.c`: on loopback what lies in a receiver's buffer still counts as being sent, and
/// 8 reads of 1 MiB must not wait for room.
const SOCKET_BUFFER_BYTES: usize = 32 << 20;

/// What the responder is told by the program that starts it.
#[derive(Clone, Debug, clap::Args)]
pub struct ResponderArgs {
    /// The image.
    #[arg(long)]
    image: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Bytes of a datagram.
    #[arg(long, default_value_t = 1472)]
    payload: usize,
    /// Core to stay on; none: any.
    #[arg(long)]
    core: Option<usize>,
}

/// Serves until it is ended.
///
/// # Errors
/// When the image cannot be read, or the socket or the ring cannot be had.
pub fn run(args: &ResponderArgs) -> anyhow::Result<()> {
    if let Some(core) = args.core {
        read::pin(core);
    }
    let image = Image::load(&args.image)?;
    let mut config = diskstream_ring::SocketConfig::new(args.listen);
    config.recv_buffer_bytes = SOCKET_BUFFER_BYTES;
    config.send_buffer_bytes = SOCKET_BUFFER_BYTES;
    let socket = UdpSocket::bind(&config)?;
    let address = socket.local_addr();
    let mut ring = sys::BareRing::new(socket, image, Cut::new(args.payload))
        .context("setting up io_uring for the responder")?;
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "ready: {address} {}", ring.backing())?;
        out.flush()?;
    }
    let mut backlog = VecDeque::with_capacity(BACKLOG_MAX);
    loop {
        ring.turn(|from, request| {
            if backlog.len() < BACKLOG_MAX {
                backlog.push_back((from, request, 0));
            }
        })
        .context("io_uring_enter of the responder")?;
        answer(&mut ring, &mut backlog);
    }
}

/// Answers as far as there are free sends; what is left waits for their ends.
fn answer(ring: &mut sys::BareRing, backlog: &mut VecDeque<(sys::Peer, Request, u32)>) {
    while let Some((to, request, next)) = backlog.front_mut() {
        match ring.send(to, request, *next) {
            None => return,
            Some(after) if after < request.length => *next = after,
            Some(_) => drop(backlog.pop_front()),
        }
    }
}
