//! One connection's shared state: what is in flight, what waits to be written, and how it ends.
//!
//! Three parties meet here: the reader thread (claims room, starts requests), whoever completes a request (any thread:
//! queues the reply), and the writer thread (writes replies, gives room back). A request that waits for its bytes is an
//! entry in `pending` and holds no thread.
//!
//! ```text
//!   Open --- DISC, or the server stops ---> Draining --- nothing pending, nothing queued ---> Closed
//!     \------------- hang-up, protocol error, failed write -------------------------------------^
//! ```
use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::counters::{Counters, add};
use super::protocol::errno;
use super::replies::{BATCH_MAX, Body, Reply, write_replies};

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Requests in flight; past it the socket is not read.
    pub requests_max: usize,
    /// Bytes of reads and writes in flight; past it the socket is not read. One request may exceed it when it is alone.
    pub bytes_max: u64,
    /// The largest read or write in bytes; announced to the client. At most 32 MiB.
    pub request_bytes_max: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // Four times the kernel nbd client's default queue of 128 tags would never be used; guessed.
            requests_max: 256,
            // One largest request, or 256 of the kernel's usual 128 KiB.
            bytes_max: 32 << 20,
            // The protocol's advice for clients that were told nothing.
            request_bytes_max: 32 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Closed,
}

struct Pending {
    cookie: u64,
    claimed_bytes: u64,
}

struct State {
    phase: Phase,
    next_token: u64,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<Reply>,
    /// Requests pending, queued or being written.
    in_flight: usize,
    /// Their claimed bytes.
    bytes: u64,
}

/// Gives a connection's place back when the last request of it is answered, not when its socket closes: a client that
/// reconnects while all nodes are away cannot pile up reads without bound.
pub(super) struct Place(pub Arc<Counters>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) struct Connection {
    stream: UnixStream,
    structured: bool,
    limits: ConnectionLimits,
    pub(super) counters: Arc<Counters>,
    server_stops: AtomicBool,
    state: Mutex<State>,
    /// The reader waits here for room.
    room: Condvar,
    /// The writer waits here for replies.
    work: Condvar,
    _place: Arc<Place>,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        structured: bool,
        limits: ConnectionLimits,
        place: Arc<Place>,
    ) -> Self {
        Self {
            stream,
            structured,
            limits,
            counters: Arc::clone(&place.0),
            server_stops: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Open,
                next_token: 0,
                pending: HashMap::new(),
                queue: VecDeque::new(),
                in_flight: 0,
                bytes: 0,
            }),
            room: Condvar::new(),
            work: Condvar::new(),
            _place: place,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a connection's lock")
    }

    /// Reserves room for a request and returns its token, waiting while too much is in flight. `None`: the connection
    /// is closed.
    pub(super) fn claim(&self, cookie: u64, bytes: u64) -> Option<u64> {
        let full = |state: &State| {
            state.phase != Phase::Closed
                && state.in_flight > 0
                && (state.in_flight >= self.limits.requests_max
                    || state.bytes + bytes > self.limits.bytes_max)
        };
        let mut state = self.lock();
        if full(&state) {
            add(&self.counters.backpressure_waits_total, 1);
            state = self.room.wait_while(state, |state| full(state)).expect("see lock");
        }
        if state.phase == Phase::Closed {
            return None;
        }
        let token = state.next_token;
        state.next_token += 1;
        state.in_flight += 1;
        state.bytes += bytes;
        state.pending.insert(token, Pending { cookie, claimed_bytes: bytes });
        Some(token)
    }

    /// Queues the reply of a request. A request that was failed in the meantime is forgotten: nothing happens.
    pub(super) fn complete(&self, token: u64, body: Body) {
        let mut state = self.lock();
        let Some(pending) = state.pending.remove(&token) else { return };
        self.queue(&mut state, &pending, body);
    }

    fn queue(&self, state: &mut State, pending: &Pending, body: Body) {
        if let Body::Error(..) = body {
            add(&self.counters.error_replies_total, 1);
        }
        let Pending { cookie, claimed_bytes } = *pending;
        state.queue.push_back(Reply { cookie, claimed_bytes, body });
        self.work.notify_one();
    }

    /// No more requests come; what is in flight is still answered.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        self.work.notify_one();
    }

    /// Ends the connection now. Late answers find nothing to do.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.pending.clear();
        state.queue.clear();
        drop(state);
        self.room.notify_all();
        self.work.notify_all();
        // Fails only when the peer is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The server stops: no request is read from the socket any more; those already there get `ESHUTDOWN`.
    pub(super) fn server_stops(&self) {
        self.server_stops.store(true, Ordering::Release);
        // Fails only when the peer is gone already.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    pub(super) fn is_server_stopping(&self) -> bool {
        self.server_stops.load(Ordering::Acquire)
    }

    /// Answers everything that is still pending with `ESHUTDOWN`.
    pub(super) fn fail_pending(&self) {
        let mut state = self.lock();
        let pending = std::mem::take(&mut state.pending);
        for pending in pending.values() {
            self.queue(&mut state, pending, shutdown_body());
        }
    }

    /// The writer thread.
    pub(super) fn write_loop(&self) {
        let mut heads = Vec::new();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.next_batch(&mut batch) {
            let result = write_replies(&mut &self.stream, &batch, self.structured, &mut heads);
            if let Err(error) = result {
                tracing::debug!(%error, "an NBD client left before its replies were written");
                self.close();
            }
            let mut state = self.lock();
            state.in_flight -= batch.len();
            state.bytes -= batch.iter().map(|reply| reply.claimed_bytes).sum::<u64>();
            drop(state);
            batch.clear();
            self.room.notify_one();
        }
        self.close();
    }

    /// Waits for replies. False: none will come any more.
    fn next_batch(&self, batch: &mut Vec<Reply>) -> bool {
        let idle = |state: &mut State| match state.phase {
            Phase::Open => state.queue.is_empty(),
            Phase::Draining => state.queue.is_empty() && !state.pending.is_empty(),
            Phase::Closed => false,
        };
        let mut state = self.work.wait_while(self.lock(), idle).expect("see lock");
        let count = state.queue.len().min(BATCH_MAX);
        batch.extend(state.queue.drain(..count));
        !batch.is_empty()
    }
}

/// The answer to requests that meet a stopping server.
pub(super) fn shutdown_body() -> Body {
    Body::Error(errno::ESHUTDOWN, "the server is shutting down".to_owned())
}
