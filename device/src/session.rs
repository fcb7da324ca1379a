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
//! Parts, each with one concern: [`Session`] owns `nodes` (which nodes may be asked, and when), `seek` and `steps` (asking
//! candidates, and the login at the one that answers first), `path` (one open session at one node: round trip, window,
//! signs of life, datagram size), `reads` (what callers want) and `requests` (what is on the wire for it). What couples
//! them is in `receive`, `send`, `timers` and `moving`.

mod config;
mod event;
mod evidence;
mod extents;
mod hedge;
pub mod limits;
mod moving;
#[cfg(feature = "mutations")]
pub mod mutations;
mod nodes;
mod path;
mod promote;
mod random;
mod reads;
mod receive;
mod request;
mod requests;
mod rtt;
mod seek;
mod send;
mod size_probe;
mod stalls;
mod standby;
mod status;
mod steps;
mod timers;
mod window;

pub use config::{ConfigError, MTU_MIN, SessionConfig};
pub use event::{
    Channel, DiskInfo, Event, Extent, MoveCause, ReadError, ReadRefused, RefusedReason, StandbyEnd,
    Train,
};
pub use stalls::STALL_BUCKETS_MS;
pub use status::{Counters, MoveStatus, SessionStatus, StandbyStatus, State};

use std::collections::VecDeque;
use std::net::SocketAddr;

use diskstream_wire::limits::UNIT_BYTES;
use diskstream_wire::{CloseReason, Nanos};

use extents::Question;
use hedge::Budget;
use limits::{CONTROLS_MAX, READ_CALL_BYTES_MAX};
use moving::StoreMoves;
use nodes::Nodes;
use path::Path;
use random::Random;
use reads::Reads;
use request::Phase;
use requests::Requests;
use seek::{Admission, Seek};
use stalls::{LastMove, Stalls};

/// Paths at once. Sum: the serving one, a standby, and two to which goodbye is being said.
const PATHS_MAX: usize = 4;

/// One device. See the module's page.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    random: Random,
    nodes: Nodes,
    /// What the last transfer said.
    admission: Option<Admission>,
    disk: Option<DiskInfo>,
    /// First bytes of the content id: named by every read.
    generation: u64,
    /// A login under way, for the first time or elsewhere.
    seek: Option<Seek>,
    paths: [Option<Path>; PATHS_MAX],
    /// The path that reads are asked at.
    serving: Option<usize>,
    /// The path that is kept warm.
    standby: Option<usize>,
    /// A login at a standby under way.
    standby_seek: Option<Seek>,
    /// What that login met.
    standby_events: VecDeque<Event>,
    /// The last refusal of a standby that was told of.
    standby_refused: Option<(SocketAddr, StandbyEnd)>,
    /// When to move for the balance's sake, and whereto.
    rebalance: Option<moving::Rebalance>,
    /// When a search for the balance's sake ends, found or not.
    rebalance_until: Option<Nanos>,
    /// When it may leave a bad store again.
    store_moves: StoreMoves,
    /// How many reads may be asked twice.
    budget: Budget,
    /// The node of the last path, when that ended before another was open.
    left: Option<SocketAddr>,
    /// A path and its request that goes out again as a probe.
    probing: Option<(usize, u16)>,
    /// Since when no node serves.
    held: Option<Held>,
    reads: Reads,
    requests: Requests,
    questions: Vec<Question>,
    controls: VecDeque<Control>,
    events: VecDeque<Event>,
    counters: Counters,
    write_cache_used_bytes: u64,
    write_cache_bytes: u64,
    /// The longest read since the last keep-alive.
    read_longest: Nanos,
    /// The one of the last keep-alive, which is not answered yet.
    longest_told: Nanos,
    stalls: Stalls,
    last_move: Option<LastMove>,
    detaching: bool,
    closed: bool,
}

/// Reads are held.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Nanos,
    /// Why the last node was left; none before the first.
    cause: Option<MoveCause>,
    reported: bool,
}

/// A single small datagram that waits to be sent.
#[derive(Debug)]
struct Control {
    channel: Channel,
    to: SocketAddr,
    bytes: [u8; 48],
    used: usize,
}

impl Control {
    fn new(channel: Channel, to: SocketAddr, encode: impl FnOnce(&mut [u8]) -> usize) -> Control {
        let mut bytes = [0; 48];
        let used = encode(&mut bytes);
        Control { channel, to, bytes, used }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Session {
    /// A device that begins to log in. `seed` must be unpredictable outside simulations: request ids, transaction
    /// numbers and nonces come from it.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn new(config: SessionConfig, seed: [u8; 32], now: Nanos) -> Result<Session, ConfigError> {
        config.check()?;
        Ok(Session {
            random: Random::new(seed),
            nodes: Nodes::new(&config.servers),
            admission: None,
            disk: None,
            generation: 0,
            seek: Some(Seek::new(None, Vec::new(), None, now)),
            paths: [const { None }; PATHS_MAX],
            serving: None,
            standby: None,
            standby_seek: None,
            standby_events: VecDeque::new(),
            standby_refused: None,
            rebalance: None,
            rebalance_until: None,
            store_moves: StoreMoves::default(),
            budget: Budget::new(),
            left: None,
            probing: None,
            held: Some(Held { since: now, cause: None, reported: false }),
            reads: Reads::default(),
            requests: Requests::new(),
            questions: Vec::new(),
            controls: VecDeque::with_capacity(CONTROLS_MAX),
            events: VecDeque::new(),
            counters: Counters::default(),
            write_cache_used_bytes: 0,
            write_cache_bytes: config.write_cache_bytes,
            read_longest: Nanos::ZERO,
            longest_told: Nanos::ZERO,
            stalls: Stalls::default(),
            last_move: None,
            detaching: false,
            closed: false,
            config,
        })
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
        if self.is_ending() {
            return Err(ReadRefused { buffer, reason: RefusedReason::Closed });
        }
        let whole = !buffer.is_empty()
            && buffer.len() <= READ_CALL_BYTES_MAX
            && buffer.len().is_multiple_of(UNIT_BYTES)
            && offset.is_multiple_of(UNIT_BYTES as u64);
        if !whole {
            return Err(ReadRefused { buffer, reason: RefusedReason::Misaligned });
        }
        self.reads
            .add(token, offset, buffer, now)
            .map_err(|buffer| ReadRefused { buffer, reason: RefusedReason::Full })?;
        self.budget.earn();
        Ok(())
    }

    /// Tells the figures of the write cache, which travel with keep-alives.
    pub fn set_write_cache_figures(&mut self, used_bytes: u64, capacity_bytes: u64) {
        self.write_cache_used_bytes = used_bytes;
        self.write_cache_bytes = capacity_bytes;
    }

    /// Ends the session: outstanding reads fail, the node is told, [`Event::Closed`] follows.
    pub fn detach(&mut self, now: Nanos) {
        if self.is_ending() {
            return;
        }
        self.detaching = true;
        self.fail_all(ReadError::Closed);
        self.abandon_seek(now);
        self.abandon_standby_seek(now);
        for path in self.paths.iter_mut().flatten() {
            path.close(CloseReason::Detached, now);
        }
        self.serving = None;
        self.standby = None;
        self.rebalance = None;
        self.held = None;
        self.end_if_alone();
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Session::poll_event`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Tags of the device's open sessions: for drivers whose devices share a notice socket.
    pub fn tags(&self) -> impl Iterator<Item = u64> {
        self.paths.iter().flatten().map(|path| path.at.tag)
    }

    /// How often a session was opened: unless it changed, [`Session::tags`] has no new one.
    #[must_use]
    pub fn tags_version(&self) -> u64 {
        self.counters.logins + self.counters.reconnects + self.counters.standbys_opened
    }

    /// What the device is doing.
    #[must_use]
    pub fn state(&self) -> State {
        let serves =
            self.serving.and_then(|s| self.paths[s].as_ref()).is_some_and(|p| !p.is_dead());
        match (self.closed, self.detaching, serves, self.seek.is_some(), self.disk.is_some()) {
            (true, ..) => State::Closed,
            (_, true, ..) => State::Closing,
            (_, _, true, false, _) => State::Streaming,
            (_, _, true, true, _) => State::Moving,
            (_, _, false, _, true) => State::Holding,
            (_, _, false, _, false) => State::LoggingIn,
        }
    }

    /// The vDisk, once opened.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskInfo> {
        self.disk.as_ref()
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

    /// Reads that callers have outstanding.
    #[must_use]
    pub fn reads_outstanding(&self) -> usize {
        self.reads.len()
    }

    fn is_ending(&self) -> bool {
        self.detaching || self.closed
    }

    fn end_if_alone(&mut self) {
        if self.detaching && !self.closed && self.paths.iter().all(Option::is_none) {
            self.closed = true;
            self.events.push_back(Event::Closed);
        }
    }

    /// Queues a single datagram. A full queue drops it: its peer repeats what it wants acknowledged.
    fn control(&mut self, control: Control) {
        if self.controls.len() < CONTROLS_MAX {
            self.controls.push_back(control);
        }
    }

    /// Takes back what a request has out at its path. The caller sets its next phase.
    fn withdraw(&mut self, slot: u16) {
        let request = self.requests.get_mut(slot);
        let fragments = request.in_flight();
        request.outstanding = 0;
        let (phase, index) = (request.phase, usize::from(request.path));
        let Some(path) = &mut self.paths[index] else { return };
        match phase {
            Phase::Asked => path.in_flight -= fragments,
            Phase::Pending => path.parked -= fragments,
            Phase::Queued | Phase::Waiting | Phase::Free => return,
        }
        path.requests -= 1;
    }

    /// All fragments of a request are here.
    fn finish_request(&mut self, slot: u16, now: Nanos) {
        self.withdraw(slot);
        self.withdraw_hedge(slot);
        let index = self.requests.get(slot).read;
        self.requests.remove(slot);
        let read = self.reads.get_mut(index);
        read.open -= 1;
        if read.is_complete() {
            let done = self.reads.remove(index);
            self.counters.reads += 1;
            self.counters.read_bytes += done.buffer.len() as u64;
            let time = now.since(done.started);
            self.read_longest = self.read_longest.max(time);
            self.stalls.record(time);
            let (token, buffer) = (done.token, done.buffer);
            self.events.push_back(Event::ReadDone { token, buffer, result: Ok(()) });
        }
    }

    /// Ends a read and its requests with an error.
    fn fail_read(&mut self, index: u32, error: ReadError) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            if request.phase != Phase::Free && request.read == index {
                self.withdraw(slot);
                self.withdraw_hedge(slot);
                self.requests.remove(slot);
            }
        }
        let done = self.reads.remove(index);
        self.counters.reads_failed += 1;
        let (token, buffer) = (done.token, done.buffer);
        self.events.push_back(Event::ReadDone { token, buffer, result: Err(error) });
    }

    fn fail_all(&mut self, error: ReadError) {
        let indices: Vec<u32> = self.reads.indices().collect();
        for index in indices {
            self.fail_read(index, error);
        }
        while !self.questions.is_empty() {
            self.answer_question(0, Err(error));
        }
    }

    /// Checks what must hold between calls. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_invariants(&self) {
        self.requests.check_invariants();
        self.reads.check_invariants(self.requests.live().map(|(_, request)| request.read));
        for (index, path) in self.paths.iter().enumerate() {
            let (mut in_flight, mut parked, mut requests) = (0, 0, 0);
            for (_, request) in self.requests.live() {
                if request.is_hedged() && usize::from(request.hedge.path) == index {
                    in_flight += request.hedge_in_flight();
                    requests += 1;
                }
                if usize::from(request.path) == index {
                    match request.phase {
                        Phase::Asked => in_flight += request.in_flight(),
                        Phase::Pending => parked += request.in_flight(),
                        Phase::Queued | Phase::Waiting | Phase::Free => continue,
                    }
                    requests += 1;
                }
            }
            match path {
                Some(path) => path.check_invariants(in_flight, parked, requests),
                None => assert_eq!(requests, 0, "no request names a path that is gone"),
            }
        }
        let serving = self.serving.and_then(|serving| self.paths[serving].as_ref());
        assert_eq!(serving.is_some(), self.serving.is_some());
        assert!(serving.is_none_or(|path| !path.is_closing() && !path.is_leaving()));
        let standby = self.standby.map(|standby| self.paths[standby].as_ref());
        let warm =
            |path: Option<&Path>| path.is_some_and(|path| !path.is_closing() && !path.is_leaving());
        assert!(standby.is_none_or(warm), "a standby is open");
        assert!(self.standby.is_none() || self.standby != self.serving);
        assert!(self.standby.is_none() || self.standby_seek.is_none(), "one standby at most");
        let looks = self.seek.is_some() || self.is_ending();
        assert!(serving.is_some() || looks, "a device without a node looks for one");
        assert!(self.events.len() <= EVENTS_MAX, "a driver takes events");
    }
}

/// Events that a driver may leave untaken. Sum: every read and question, and some of each other kind.
const EVENTS_MAX: usize = limits::READS_MAX + limits::EXTENT_QUESTIONS_MAX + 256;
