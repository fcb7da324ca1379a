//! The device's machine: login, reads, loss recovery, moving between nodes. Pure: it does no I/O, reads no clock, and
//! draws randomness only from the seed it was given.
//!
//! ```text
//!   datagrams, reads, tick(now) ──> Session ──> poll_send: trains ──> sockets
//!                                      │
//!                                      └──────> poll_event: ReadDone, Opened, Moved, Holding …
//! ```
//!
//! A driver calls [`Session::handle_datagram`] for what arrives and [`Session::tick`] once [`Session::next_deadline`] has
//! come; after either it takes trains until [`Session::poll_send`] gives none, and events until
//! [`Session::poll_event`] gives none.
//!
//! Parts, each with one concern: [`Session`] owns `nodes` (which nodes may be asked, and when), `seek` (asking candidates,
//! and the login steps at the one that answers first), `path` (one open session at one node: round trip, window, signs
//! of life, datagram size), `reads` (what callers want) and `requests` (what is on the wire for it).

mod config;
mod event;
pub mod limits;
mod status;

pub use config::{ConfigError, MTU_MIN, SessionConfig};
pub use event::{
    Channel, DiskInfo, Event, Extent, MoveCause, ReadError, ReadRefused, RefusedReason, Train,
};
pub use status::{Counters, SessionStatus, State};

use std::net::SocketAddr;

use diskstream_wire::Nanos;

/// One device. See the module's page.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    counters: Counters,
    state: State,
}

impl Session {
    /// A device that begins to log in. `seed` must be unpredictable outside simulations: request ids, transaction
    /// numbers and nonces come from it.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn new(config: SessionConfig, seed: [u8; 32], now: Nanos) -> Result<Session, ConfigError> {
        config.check()?;
        let _ = (seed, now);
        Ok(Session { config, counters: Counters::default(), state: State::LoggingIn })
    }

    /// Takes one datagram (one segment: a driver cuts GRO trains up). `channel` is the socket it came by; `from` its source.
    pub fn handle_datagram(
        &mut self,
        channel: Channel,
        from: SocketAddr,
        bytes: &[u8],
        now: Nanos,
    ) {
        let _ = (channel, from, bytes, now);
    }

    /// Asks for `buffer.len()` bytes from `offset`; both whole units of 4096 bytes, the last unit of the vDisk being filled
    /// up with zeros. The buffer comes back with [`Event::ReadDone`]. May be called before [`Event::Opened`]; ranges
    /// outside the vDisk then fail once its size is known.
    ///
    /// # Errors
    /// The read was not taken; the buffer comes back.
    pub fn read(
        &mut self,
        token: u64,
        offset: u64,
        buffer: Vec<u8>,
        now: Nanos,
    ) -> Result<(), ReadRefused> {
        let _ = (token, offset, now);
        Err(ReadRefused { buffer, reason: RefusedReason::Full })
    }

    /// Asks which parts of a range are zeros. Answered by [`Event::ExtentsDone`].
    ///
    /// # Errors
    /// The question was not taken.
    pub fn extents(
        &mut self,
        token: u64,
        offset: u64,
        length: u64,
        now: Nanos,
    ) -> Result<(), RefusedReason> {
        let _ = (token, offset, length, now);
        Err(RefusedReason::Full)
    }

    /// Tells the figures of the write cache, which travel with keep-alives.
    pub fn set_write_cache_figures(&mut self, used_bytes: u64, capacity_bytes: u64) {
        let _ = (used_bytes, capacity_bytes);
    }

    /// Ends the session: outstanding reads fail, the node is told, [`Event::Closed`] follows.
    pub fn detach(&mut self, now: Nanos) {
        let _ = now;
    }

    /// Does what is due. Cheap when nothing is.
    pub fn tick(&mut self, now: Nanos) {
        let _ = now;
    }

    /// When [`Session::tick`] must be called next; [`Nanos::NEVER`]: not before something arrives.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        Nanos::NEVER
    }

    /// Writes the next train into `out` (cleared first; at most [`limits::TRAIN_BYTES_MAX`] bytes). None: nothing to send.
    pub fn poll_send(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<Train> {
        let _ = now;
        out.clear();
        None
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// What the device is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The vDisk, once opened.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskInfo> {
        None
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// A snapshot for people. Allocates.
    #[must_use]
    pub fn status(&self, now: Nanos) -> SessionStatus {
        let _ = now;
        SessionStatus {
            state: self.state,
            node: None,
            io: None,
            eligible_nodes: 0,
            pinned: false,
            vdisk: String::new(),
            device_name: String::new(),
            version: 0,
            content_id: String::new(),
            size_bytes: 0,
            srtt_us: 0,
            rttvar_us: 0,
            window_fragments: 0,
            fragment_bytes: 0,
            outstanding: 0,
            retry_rate: 0.0,
            holding_ms: None,
            ticket_age_s: None,
            counters: self.counters,
        }
    }

    /// Checks what must hold between calls. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_invariants(&self) {}
}
