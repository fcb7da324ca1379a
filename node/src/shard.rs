//! The machine that takes every decision of a node; one for each thread.
//!
//! ```text
//!            Input                                   Outbox
//!  datagram ───────┐   ┌─────────────────────┐   ┌──> sends     (SendPlan: one UDP send)
//!  disk read done ─┤   │ step: one input     │   ├──> reads     (DiskRead: one block into its frame)
//!  send done ──────┼──>│ flush: end of turn  ├───┼──> messages  (to the other shards)
//!  other shard ────┤   │ next_deadline       │   └──> events    (for the log)
//!  drain, change ──┘   └─────────────────────┘
//! ```
//!
//! No I/O, no clock, no thread, no randomness but what a seed gives; nothing is allocated after [`Shard::new`]. Two
//! drivers run it: the event loop on a ring, and the simulator.
//!
//! | part | decides |
//! |---|---|
//! | [`login`], [`place`], [`start`] | who is let in, where to, and what a session may do |
//! | [`read`], [`load`], [`wake`] | what a read gets: bytes, a mark, an error, or a sign of life; one disk read for each block |
//! | [`foresight`] | what the next reads will touch, asked for ahead |
//! | [`stores`] | how many reads each store is asked at once |
//! | [`ahead`], [`feed`], [`record`], [`early`] | which blocks are loaded before they are asked for |
//! | [`serve`], [`pack`] | whose turn it is, and what shares a send |
//! | [`gather`] | whether what comes may wait for more |
//! | [`keep`], [`roles`] | how sessions live, and which of them are load |
//! | [`notices`], [`drain`], [`rebalance`] | how devices are told to move, and how a node empties |
//! | [`pause`] | what a node that was paused takes for old |
//! | [`invariants`] | what must be true between turns |

mod address;
mod ahead;
mod boot_slots;
mod counters;
mod drain;
mod early;
mod feed;
mod flights;
mod foresight;
mod fragments;
mod gather;
mod invariants;
mod io;
mod jobs;
mod keep;
pub mod limits;
mod load;
mod login;
mod moment;
mod mutation;
mod notices;
mod pace;
mod pack;
mod pause;
mod place;
pub(crate) mod random;
mod read;
mod rebalance;
mod record;
mod roles;
mod serve;
mod session;
mod sessions;
mod shared;
mod start;
mod stores;
mod wake;
mod work;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_ring::{LocalAddr, SendPlan};
use diskstream_wire::limits::CONTROL_BYTES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    Capabilities, Flags, FragmentSize, KeepAlive, Kind, LoginKind, Mac, Message, Read, Refusal,
    SessionRole, UnknownSession,
};

pub use boot_slots::BootSlots;
pub use counters::{
    Counter, Get, HISTOGRAM_BUCKETS, Histogram, METRICS, Metric, MetricKind, ShardCounters,
};
pub use drain::LEFT_NAMED;
pub use feed::Feed;
pub use foresight::FORESEEN;
pub use io::{
    DiskRead, EVENTS_MAX, Event, FileRef, Input, Outbox, Severity, ShardMessage, SocketRole,
};
pub use limits::{BadLimits, Limits, SHARDS_MAX, STORES_MAX};
pub use mutation::Mutation;
pub use pace::Line;
pub use record::{Record, Recorder};
pub use session::DeviceFigures;
pub use sessions::session_cost_bytes;
pub use shared::{NodeShared, VdiskEntry, WallClock, endpoint_for};
pub use stores::HungStores;

use drain::Drain;
use feed::Feeding;
use flights::Flights;
use foresight::Foresight;
use gather::Gather;
use jobs::Jobs;
use notices::Notices;
use pace::Pace;
use pause::Pause;
use random::Random;
use rebalance::Rebalance;
use roles::Roles;
use session::{Phase, Told};
use sessions::Sessions;
use stores::Stores;
use work::End;

use crate::cache::ShardCache;
use crate::view::ViewReader;

/// The UDP payload that every path is expected to carry: a fragment of 1376 bytes and its header.
pub(crate) const USUAL_DATAGRAM_BYTES: u16 = 1452;
const _: () = assert!(FragmentSize::B1376.datagram_bytes() == USUAL_DATAGRAM_BYTES as usize);

/// The token of a send that belongs to no session.
const NO_SESSION: u64 = u64::MAX;

/// One shard. See the module's documentation.
pub struct Shard {
    index: u16,
    shared: Arc<NodeShared>,
    /// This shard's part of the shared cache: its pins.
    cache: ShardCache,
    counters: Arc<ShardCounters>,
    random: Random,
    sessions: Sessions,
    jobs: Jobs,
    flights: Flights,
    foresight: Foresight,
    gather: Gather,
    stores: Stores,
    /// Sessions whose turn will come.
    round: VecDeque<u32>,
    roles: Roles,
    drain: Option<Drain>,
    rebalance: Option<Rebalance>,
    notices: Notices,
    pause: Pause,
    /// The other nodes.
    view: ViewReader,
    /// The view that was there when the shard found itself paused: its peers may be long gone.
    distrusted_view: Option<u64>,
    /// When half of the expected devices is forgotten next.
    expected_due: Nanos,
    /// When the next waiter or flight is due.
    flights_due: Nanos,
    feeding: Feeding,
    /// When the next sweep begins.
    sweep_due: Nanos,
    /// Slots of sessions that the sweep under way has looked at.
    sweep_at: usize,
    /// The turn left ready sessions unserved although there are plans.
    unfinished: bool,
    pace: Pace,
    /// Plans that are out.
    plans_out: usize,
    /// Bytes of sessions in sends that are out.
    bytes_out: u64,
    /// Smoothed time of a disk read, in microseconds.
    disk_us: u64,
    mutation: Option<Mutation>,
}

/// Where a datagram came from, and how long it was: all that an answer needs.
#[derive(Clone, Copy)]
struct Asked {
    socket: SocketRole,
    from: SocketAddr,
    local: Option<LocalAddr>,
    bytes: usize,
}

/// A session as a status command shows it.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
    /// Index at its shard.
    pub session: u32,
    /// The device.
    pub mac: Mac,
    /// Its address.
    pub peer: SocketAddr,
    /// Why it logged in.
    pub kind: LoginKind,
    /// Load, or kept warm for a failure of another node.
    pub role: SessionRole,
    /// Index of its vDisk.
    pub vdisk: u32,
    /// Whether the handshake is done.
    pub open: bool,
    /// When it began.
    pub opened: Nanos,
    /// When it was last heard of.
    pub heard: Nanos,
    /// Reads that it asked for.
    pub reads: u64,
    /// Whether it is told to move.
    pub told: bool,
    /// Largest datagram agreed on.
    pub datagram_bytes: u16,
    /// Fragments that wait for their turn.
    pub queued_fragments: u32,
    /// What the device says about itself.
    pub figures: DeviceFigures,
}

impl Shard {
    /// Shard number `index` of the node. `seed` is random, unguessable, and no other shard's: session tags come from it.
    ///
    /// # Panics
    /// When the limits or the number of shards were not checked before, or this shard exists already.
    #[must_use]
    pub fn new(index: u16, shared: Arc<NodeShared>, seed: [u8; 32]) -> Shard {
        let limits = &shared.limits;
        limits.check().expect("limits are checked before shards are made");
        assert!(usize::from(index) < shared.io_endpoints.len(), "each shard has an endpoint");
        assert!(shared.io_endpoints.len() <= SHARDS_MAX, "the waiter mask holds every shard");
        Shard {
            index,
            cache: shared.cache.for_shard(index),
            counters: Arc::default(),
            random: Random::new(seed),
            sessions: Sessions::new(limits.sessions_max),
            jobs: Jobs::new(limits.jobs()),
            flights: Flights::new(limits.flights_max, limits.flights() - limits.flights_max),
            foresight: Foresight::default(),
            gather: Gather::NONE,
            stores: Stores::new(limits),
            round: VecDeque::with_capacity(limits.sessions_max as usize),
            roles: Roles::default(),
            drain: None,
            rebalance: None,
            notices: Notices::NONE,
            pause: Pause::NONE,
            view: ViewReader::default(),
            distrusted_view: None,
            expected_due: Nanos::ZERO,
            flights_due: Nanos::NEVER,
            feeding: Feeding::begin(&shared),
            sweep_due: Nanos::NEVER,
            sweep_at: 0,
            unfinished: false,
            pace: Pace::default(),
            plans_out: 0,
            bytes_out: 0,
            disk_us: 1000,
            mutation: None,
            shared,
        }
    }

    /// Plants a mistake, for the simulator's proof that its judges see it. Without the feature `mutations` this does
    /// nothing.
    #[must_use]
    pub fn with_mutation(mut self, mutation: Option<Mutation>) -> Shard {
        self.mutation = mutation.filter(|_| cfg!(feature = "mutations"));
        self
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// What it counts, for a scraper on another thread.
    #[must_use]
    pub fn counters(&self) -> Arc<ShardCounters> {
        Arc::clone(&self.counters)
    }

    /// What the shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// Takes one input. What follows from it is in `out`, except for queued replies, which [`Shard::flush`] packs.
    pub fn step(&mut self, input: Input<'_>, now: Nanos, out: &mut Outbox) {
        match input {
            Input::Datagram { socket, from, local, bytes } => {
                let asked = Asked { socket, from, local, bytes: bytes.len() };
                self.on_datagram(bytes, &asked, now, out);
            }
            Input::DiskDone { token, result } => self.on_disk_done(token, result, now, out),
            Input::Sent { plan, result } => self.on_sent(plan, result, out),
            Input::SocketFailed { error } => {
                self.counters.socket_errors.inc();
                self.event(Event::SocketFailed { shard: self.index, error }, out);
            }
            Input::FromShard(message) => self.on_message(message, now, out),
            Input::VdiskChanged { vdisk } => self.on_vdisk_changed(vdisk, now, out),
            Input::Drain { state, deadline } => self.on_drain(state, deadline, now, out),
            Input::Resume => self.on_resume(now, out),
            Input::Rebalance { vdisk, count, successors } => {
                self.on_rebalance(vdisk, count, successors, now, out);
            }
            Input::Turn { more } => self.on_turn(more, now, out),
        }
    }

    /// Ends a turn: serves the sessions that have replies ready, in turn, and does what is due.
    pub fn flush(&mut self, now: Nanos, out: &mut Outbox) {
        if now >= self.flights_due {
            self.tick_flights(now, out);
        }
        self.feed(now, out);
        self.sweep(now, out);
        self.send_notices(now, out);
        self.serve(now, out);
        self.drive_drain(now, out);
        self.pause.end_turn(self.next_deadline(), now);
        if cfg!(debug_assertions) {
            self.check_invariants(out);
        }
    }

    /// When to call [`Shard::flush`] again if nothing happens before; not later than now when there is work left.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.unfinished {
            return Nanos::ZERO;
        }
        let drain = self.drain.as_ref().map_or(Nanos::NEVER, Drain::due);
        let line = &self.shared.line;
        let paced = !self.round.is_empty() && !self.pace.may_send(line);
        let round = if paced { self.pace.due(line) } else { Nanos::NEVER };
        self.flights_due
            .earlier(self.feeding.due())
            .earlier(self.notices.due)
            .earlier(self.sweep_due)
            .earlier(drain)
            .earlier(round)
    }

    /// A turn begins. One that is far too late means that the node was paused.
    fn on_turn(&mut self, more: bool, now: Nanos, out: &mut Outbox) {
        self.begin_foresight();
        let Some(late) = self.pause.begin_turn(more, now) else { return };
        self.counters.pauses.inc();
        self.view.look(&self.shared.view);
        self.distrusted_view = Some(self.view.version());
        self.event(Event::Paused { late_ms: late.as_millis() }, out);
    }

    /// The sessions, for a status command.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> {
        self.sessions.iter().map(|(index, s)| {
            let cold = self.sessions.cold(index);
            SessionView {
                session: index,
                mac: cold.mac,
                peer: s.peer(),
                kind: cold.kind,
                role: cold.role,
                vdisk: s.vdisk,
                open: s.phase == Phase::Open,
                opened: cold.opened,
                heard: s.heard,
                reads: s.reads,
                told: cold.notice.is_some(),
                datagram_bytes: s.datagram_bytes,
                queued_fragments: s.queued_fragments,
                figures: cold.figures,
            }
        })
    }

    /// How long the driver may let datagrams gather before it wakes the shard; zero: not at all. Asked for before each sleep.
    #[must_use]
    pub fn gathers_for(&mut self, now: Nanos) -> Nanos {
        // Whoever waits for a disk, for his turn or to be told to go waits for what comes next.
        let waits = self.flights.len() > 0 || !self.round.is_empty() || self.drain.is_some();
        if waits { Nanos::ZERO } else { self.gather.period(now) }
    }

    fn on_datagram(&mut self, bytes: &[u8], asked: &Asked, now: Nanos, out: &mut Outbox) {
        self.counters.datagrams_in.inc();
        self.counters.bytes_in.add(bytes.len() as u64);
        if diskstream_wire::header::Header::peek_kind(bytes) != Some(KeepAlive::KIND) {
            self.gather.active(now);
        }
        // A read is worth a path of its own: no copy of the largest message, one comparison.
        if diskstream_wire::header::Header::peek_kind(bytes) == Some(Read::KIND)
            && asked.socket == SocketRole::Io
        {
            return match Read::decode(bytes) {
                Ok((read, _)) => self.on_read(&read, asked, now, out),
                Err(refusal) => self.count_refusal(refusal),
            };
        }
        let decoded = match diskstream_wire::decode(bytes) {
            Ok(decoded) => decoded,
            Err(refusal) => return self.count_refusal(refusal),
        };
        let tail = decoded.tail;
        match (asked.socket, decoded.message) {
            (SocketRole::Login, Message::LoginPortRequest(m)) => {
                self.on_login_port(&m, asked, now, out);
            }
            (SocketRole::Login, Message::LoginStart(m)) => {
                self.on_login_start(&m, tail, asked, now, out);
            }
            (SocketRole::Login, Message::IoPortRequest(m)) => self.on_io_port(&m, asked, out),
            (SocketRole::Io, Message::IoServiceStart(m)) => {
                self.on_start(&m, tail, asked, now, out);
            }
            (SocketRole::Io, Message::VdiskInfoRequest(m)) => {
                self.on_vdisk_info(&m, asked, now, out);
            }
            (SocketRole::Io, Message::Handshake(m)) => self.on_handshake(&m, asked, now, out),
            (SocketRole::Io, Message::KeepAlive(m)) => self.on_keep_alive(&m, asked, now, out),
            (SocketRole::Io, Message::NoticeAck(m)) => self.on_notice_ack(&m, asked, now, out),
            (SocketRole::Io, Message::SessionClose(m)) => self.on_close(&m, asked, now, out),
            (SocketRole::Io, Message::PathProbe(m)) => self.on_probe(&m, asked, now, out),
            (SocketRole::Io, Message::ExtentsRequest(m)) => self.on_extents(&m, asked, now, out),
            (_, message) => match kind_is_for_nodes(message.kind()) {
                true => self.counters.refused_wrong_socket.inc(),
                false => self.counters.refused_not_ours.inc(),
            },
        }
    }

    fn count_refusal(&self, refusal: Refusal) {
        let c = &self.counters;
        match refusal {
            Refusal::TooShort => c.refused_too_short.inc(),
            Refusal::BadMagic => c.refused_bad_magic.inc(),
            Refusal::UnsupportedVersion => c.refused_unsupported_version.inc(),
            Refusal::UnknownKind => c.refused_unknown_kind.inc(),
            Refusal::BadLength => c.refused_bad_length.inc(),
        }
    }

    /// The session that a datagram names, if index, tag and source are right. Otherwise the sender learns that the
    /// session is unknown, with no more bytes than it sent.
    ///
    /// This is also where a session is confirmed: its tag has come back from the address that it was told to.
    fn recognise(
        &mut self,
        named: Named,
        asked: &Asked,
        now: Nanos,
        out: &mut Outbox,
    ) -> Option<u32> {
        let refusal = match self.sessions.find(named.session) {
            Some(s) if s.tag != named.tag && self.mutation != Some(Mutation::AcceptForeignTag) => {
                &self.counters.refused_wrong_tag
            }
            Some(s) if !s.ends.is_from(asked.from) => &self.counters.refused_wrong_address,
            Some(s) => {
                let confirmed = s.phase != Phase::Unconfirmed;
                if confirmed || self.confirm(named.session, now, out) {
                    self.sessions.get_mut(named.session).heard = now;
                    return Some(named.session);
                }
                &self.counters.refused_unknown_session
            }
            None => &self.counters.refused_unknown_session,
        };
        refusal.inc();
        if named.answer {
            let message = UnknownSession {
                tag: named.tag,
                session: named.session,
                request_id: named.request_id,
                ..Default::default()
            };
            self.reply_within(asked, out, |buf| message.encode(buf));
        }
        None
    }

    /// Marks of every reply of a session.
    fn flags_of(&self, session: u32) -> Flags {
        // Whoever is only asked to make room, or is not yet told to go, has time for the notice: the mark would make all of them
        // move at once.
        let must_go = match self.sessions.get(session).told {
            Told::MustGo => true,
            Told::MayStay => false,
            Told::Nothing => self.drain.is_some(),
        };
        if must_go { Flags::DRAINING } else { Flags::NONE }
    }

    fn vdisk_of(&self, session: u32) -> &Arc<VdiskEntry> {
        self.shared.vdisk(self.sessions.get(session).vdisk)
    }

    /// Answers from where the question was asked, with at most as many bytes as it had.
    fn reply_within(
        &mut self,
        asked: &Asked,
        out: &mut Outbox,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let bytes = self.reply(asked, out, write);
        assert!(bytes <= asked.bytes, "an answer to a stranger is no larger than its question");
    }

    /// Answers from where the question was asked; gives the bytes.
    fn reply(
        &mut self,
        asked: &Asked,
        out: &mut Outbox,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.send_one(asked.socket, asked.from, asked.local, out, write)
    }

    /// Sends one datagram of its own; dropped, and counted, when every plan is out.
    fn send_one(
        &mut self,
        socket: SocketRole,
        peer: SocketAddr,
        local: Option<LocalAddr>,
        out: &mut Outbox,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let mut bytes = [0; CONTROL_BYTES_MAX];
        let length = write(&mut bytes);
        let Some(mut plan) = self.take_plan(peer, local, out) else { return length };
        plan.push_scratch(&bytes[..length]).expect("an empty plan holds a control datagram");
        self.ship(socket, plan, out);
        length
    }

    fn take_plan(
        &mut self,
        peer: SocketAddr,
        local: Option<LocalAddr>,
        out: &mut Outbox,
    ) -> Option<Box<SendPlan>> {
        let Some(mut plan) = out.free_plans.pop() else {
            self.counters.sends_no_plan.inc();
            return None;
        };
        self.plans_out += 1;
        plan.peer = peer;
        plan.local = local;
        plan.token = NO_SESSION;
        Some(plan)
    }

    fn ship(&mut self, socket: SocketRole, plan: Box<SendPlan>, out: &mut Outbox) {
        self.counters.sends.inc();
        self.counters.datagrams_out.add(plan.segments() as u64);
        self.counters.bytes_out.add(plan.payload_bytes() as u64);
        out.sends.push((socket, plan));
    }

    fn event(&self, event: Event, out: &mut Outbox) {
        if out.events.len() < EVENTS_MAX {
            out.events.push(event);
        } else {
            self.counters.events_dropped.inc();
        }
    }
}

/// Which session a datagram names.
#[derive(Clone, Copy)]
struct Named {
    session: u32,
    tag: u64,
    request_id: u64,
    /// Whether "unknown" is to be said.
    answer: bool,
}

impl Named {
    fn new(session: u32, tag: u64) -> Named {
        Named { session, tag, request_id: 0, answer: true }
    }
}

fn kind_is_for_nodes(kind: Kind) -> bool {
    use Kind::{
        ExtentsRequest, Handshake, IoPortRequest, IoServiceStart, KeepAlive, LoginPortRequest,
        LoginStart, NoticeAck, PathProbe, Read, SessionClose, VdiskInfoRequest,
    };
    matches!(
        kind,
        ExtentsRequest
            | Handshake
            | IoPortRequest
            | IoServiceStart
            | KeepAlive
            | LoginPortRequest
            | LoginStart
            | NoticeAck
            | PathProbe
            | Read
            | SessionClose
            | VdiskInfoRequest
    )
}

/// What both sides can do.
fn common(theirs: Capabilities) -> Capabilities {
    Capabilities::OURS.common(theirs)
}
