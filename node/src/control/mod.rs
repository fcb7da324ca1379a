//! The control socket: how an operator on this host tells a running node what to do, and asks it how it is.
//!
//! A unix stream socket of mode 0600. One request per line, one JSON object each, at most [`LINE_BYTES_MAX`]; each is
//! answered by one line, except that a drain is answered by a line a second and one at its end. Whoever may open the socket
//! is trusted to command the node, not to speak well: garbage gets a refusal, and a client that reads slowly loses lines of
//! progress, nothing else waits for it.
//!
//! ```text
//!   diskstream-node drain ── connect ──> server: a thread per connection ── Wish ──> the control loop (serve)
//!          bar, exit code <── lines ──── writes what comes <── Reply (bounded) ──── answers, progress
//! ```
//!
//! | part | does |
//! |---|---|
//! | `request` | what can be asked, and how it is answered |
//! | `server` | the socket, its connections, and their bounds |
//! | `client` | the other end |
//! | `commands` | `diskstream-node drain`, `resume`, `rebalance`, `status`, `top` |
//! | `text` | how answers look to people |

mod client;
mod commands;
mod request;
mod server;
mod text;

use std::path::PathBuf;

pub use client::{Client, ClientError};
pub use commands::{PARTLY, drain, rebalance, resume, status, top};
pub use request::{Answer, Figures, Rebalanced, Request, SlowDevice};
pub use server::{Answers, ControlError, ControlServer, Reply, RunningControl};

/// A request's line is no longer. Guessed: a name of 64 characters and four keys, sixteen times over.
pub const LINE_BYTES_MAX: usize = 4096;
/// An answer's line is no longer; what would be is refused. Derived: 255 peers of 64 vDisks, 200 bytes each, twice over.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Where a node of this name listens unless it is told otherwise.
#[must_use]
pub fn default_path(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/diskstream/{name}.sock"))
}
