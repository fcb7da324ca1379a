//! How bytes move: `io_uring`, huge-page memory, UDP batches, direct file I/O.
//!
//! One [`ring::Ring`] per thread carries everything that thread does with the kernel: datagrams in (multishot receives
//! into provided buffers), datagrams out (one `sendmsg` with UDP segmentation per [`send::SendPlan`]), disk reads into
//! the shared [`arena::Arena`], and wake-ups from other threads. One [`ring::Ring::turn`] is one system call, or a few in a burst.
//!
//! This crate and files named `sys.rs` elsewhere are the only home of unsafe code. The rules that keep it sound:
//!
//! * What an operation points to is owned by the ring's slabs from before the kernel can see the operation until its
//!   *terminal* completion ([`ring`], `op.rs`).
//! * Arena bytes are handed out as references only by `unsafe` functions whose callers hold a pin or own an
//!   unpublished frame ([`arena`]).
//! * A received buffer is a move-only value until it is given back ([`ring::Received`]).
//!
//! Every kernel feature is probed once and has a slower twin; see [`features`].

pub mod arena;
pub mod clock;
pub mod errno;
pub mod features;
pub mod file;
pub mod inbox;
mod net;
pub mod pin;
mod prefetch;
pub mod ring;
pub mod send;
pub mod stats;
mod sync;
pub mod udp;
pub mod wake;
mod zero_copy;

pub use arena::{Arena, ArenaConfig, Backing, HugePages};
pub use errno::Errno;
pub use features::Features;
pub use file::DirectFile;
pub use prefetch::{prefetch, prefetch_arena};
pub use ring::{
    Completion, Completions, Datagram, FileId, Full, ReadPlan, Received, Ring, RingConfig,
    SendRefused, SocketId, Wait,
};
pub use send::{LocalAddr, Piece, SendPlan};
pub use stats::Stats;
pub use udp::{QueueWatch, SocketConfig, UdpSocket};
pub use wake::Waker;
pub use zero_copy::{UnknownZeroCopy, ZeroCopy};
