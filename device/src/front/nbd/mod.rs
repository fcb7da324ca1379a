//! The NBD export of a [`Disk`](crate::front::Disk) on a Unix socket: for qemu, nbdcopy, nbdinfo, fio and the kernel's client.
//!
//! Each connection has two threads, a reader and a writer. Requests are answered in the order in which their bytes
//! come, not in the order asked. Bounds are per connection ([`ConnectionLimits`]); the process never holds more than
//! `connections_max x bytes_max` for clients. Past a bound the socket is not read: that is the back-pressure.
//!
//! A read that waits for a node stays pending for as long as it takes; it never becomes an error on its own.
pub mod client;
mod connection;
mod counters;
mod handshake;
mod protocol;
mod replies;
mod requests;
mod server;

pub use connection::ConnectionLimits;
pub use counters::Counters;
pub use handshake::{ExportInfo, HandshakeEnd, Negotiated, negotiate};
pub use server::{Server, ServerConfig};
