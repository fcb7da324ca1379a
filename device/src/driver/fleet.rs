//! Sessions of one thread, on one ring.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use diskstream_ring::send::SendPlan;
use diskstream_ring::{
    Completion, Completions, Ring, RingConfig, SocketId, Stats, Wait, Waker, clock,
};
use diskstream_wire::Nanos;

use super::DriverError;
use super::deadlines::Deadlines;
use super::sockets::{Bound, Ports, Sockets};
use crate::session::limits::TRAIN_BYTES_MAX;
use crate::session::{Channel, Event, Session, SessionConfig};

/// Sizes of a fleet's ring.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Sockets: up to three for each member (`Ports::From`), or one and a shared one for notices.
    pub sockets: u16,
    /// Receive buffers, shared by all sockets.
    pub receive_buffers: u16,
    /// Bytes of each: a whole GRO train.
    pub receive_buffer_bytes: u32,
    /// Trains under way at once.
    pub sends: u16,
    /// Members share one notice socket; only with [`Ports::Free`].
    pub shared_notices: bool,
    /// The waker to listen to; made by the ring otherwise.
    pub waker: Option<Waker>,
}

impl Default for FleetConfig {
    fn default() -> FleetConfig {
        FleetConfig {
            // Three sockets of each address family.
            sockets: 6,
            receive_buffers: 128,
            receive_buffer_bytes: 65_536,
            sends: 64,
            shared_notices: false,
            waker: None,
        }
    }
}

/// Index of a session in its fleet.
pub type Member = usize;

/// What a driver counts beside its sessions' and its ring's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Trains handed to the ring.
    pub trains_out: u64,
    /// Trains received.
    pub trains_in: u64,
    /// Sends that the kernel refused or dropped.
    pub send_errors: u64,
    /// Trains to an address of a family for which there is no socket.
    pub unroutable: u64,
    /// Errors that the kernel told of a socket, such as ICMP refusals.
    pub socket_errors: u64,
    /// Datagrams to the shared notice socket whose tag is no member's.
    pub foreign: u64,
    /// Turns that began late, and looked at the sockets before they held anybody for silent.
    pub late_turns: u64,
}

/// A turn that begins this long after the last look at the sockets looks again first. Guess: a tenth of the shortest time-out.
const LATE_TURN: Nanos = Nanos::from_millis(1);

struct Seat {
    session: Session,
    v4: Option<Sockets>,
    v6: Option<Sockets>,
    /// Trains or events may wait.
    dirty: bool,
    /// The session's tags, as the fleet knows them, and since which version.
    tags: Vec<u64>,
    tags_version: u64,
}

/// Who gets what a socket receives.
#[derive(Clone, Copy)]
enum Route {
    To(Member, Channel),
    /// The shared notice socket: whoever has the datagram's tag.
    ByTag,
}

/// Sessions and the ring that moves their datagrams. Stays on the thread that made it.
pub struct Fleet {
    ring: Ring,
    seats: Vec<Seat>,
    deadlines: Deadlines,
    dirty: Vec<Member>,
    routes: HashMap<SocketId, Route>,
    completions: Completions,
    #[expect(clippy::vec_box, reason = "the ring takes and gives back boxes")]
    plans: Vec<Box<SendPlan>>,
    /// Plans that the ring had no room for.
    blocked: VecDeque<(SocketId, Box<SendPlan>)>,
    train: Vec<u8>,
    shared_notice: Option<(bool, SocketId, u16)>,
    shared_notices: bool,
    /// Whose session has which tag, where members share a notice socket.
    tags: HashMap<u64, Member>,
    /// Events came up while sending: the turn must not wait.
    events_wait: bool,
    /// When the sockets were last looked at.
    looked_at: Nanos,
    stats: DriverStats,
}

impl Fleet {
    /// A fleet without members.
    ///
    /// # Errors
    /// The ring cannot be made.
    pub fn new(config: &FleetConfig) -> Result<Fleet, DriverError> {
        let ring = Ring::new(
            &RingConfig {
                recv_buffers: config.receive_buffers,
                recv_buffer_bytes: config.receive_buffer_bytes,
                sends: config.sends,
                reads: 0,
                sockets: config.sockets,
                files: 0,
                waker: config.waker.clone(),
                ..RingConfig::default()
            },
            None,
        )?;
        let completions = usize::from(config.receive_buffers) + usize::from(config.sends) + 8;
        Ok(Fleet {
            ring,
            seats: Vec::new(),
            deadlines: Deadlines::default(),
            dirty: Vec::new(),
            routes: HashMap::new(),
            completions: Completions::new(completions),
            plans: (0..config.sends).map(|_| SendPlan::new()).collect(),
            blocked: VecDeque::with_capacity(usize::from(config.sends)),
            train: Vec::with_capacity(TRAIN_BYTES_MAX),
            shared_notice: None,
            shared_notices: config.shared_notices,
            tags: HashMap::new(),
            events_wait: false,
            looked_at: clock::now(),
            stats: DriverStats::default(),
        })
    }

    /// Opens a device's sockets and adds its session, which begins to log in with the next turn. The granted receive
    /// buffer and the notice port are filled into its configuration.
    ///
    /// # Errors
    /// A setting that cannot work, or a socket that cannot be had.
    pub fn add(
        &mut self,
        mut config: SessionConfig,
        ports: Ports,
        seed: [u8; 32],
    ) -> Result<Member, DriverError> {
        config.check()?;
        let member = self.seats.len();
        let mut sockets = [None, None];
        for (v6, slot) in [false, true].into_iter().zip(&mut sockets) {
            if config.servers.iter().any(|server| server.is_ipv6() == v6) {
                let bound = Bound::new(v6, ports, self.own_notice(v6, ports, config.notice_port))?;
                config.receive_buffer_bytes = bound.receive_buffer_bytes();
                if let Some(port) = bound.notice_port() {
                    config.notice_port = port;
                }
                *slot = Some(bound.attach(&mut self.ring)?);
            }
        }
        self.share_notice(&sockets, &mut config);
        for (socket, channel) in sockets.iter().flatten().flat_map(Sockets::all) {
            self.routes.entry(socket).or_insert(Route::To(member, channel));
        }
        let session = Session::new(config, seed, clock::now())?;
        self.deadlines.push(session.next_deadline());
        let [v4, v6] = sockets;
        let (tags, tags_version) = (Vec::new(), 0);
        self.seats.push(Seat { session, v4, v6, dirty: true, tags, tags_version });
        self.dirty.push(member);
        Ok(member)
    }

    /// The port at which this member's own notice socket is bound; none when it uses the shared one.
    fn own_notice(&self, v6: bool, ports: Ports, bound: u16) -> Option<u16> {
        match (ports, self.shared_notice) {
            (Ports::From(base), _) => Some(base + 1),
            (Ports::Free, Some((shared_v6, ..))) if self.shared_notices && shared_v6 == v6 => None,
            // With both address families the second socket takes the first one's port.
            (Ports::Free, _) => Some(if v6 { bound } else { 0 }),
        }
    }

    /// The first member's notice socket serves all when the fleet shares one.
    fn share_notice(&mut self, sockets: &[Option<Sockets>; 2], config: &mut SessionConfig) {
        if !self.shared_notices {
            return;
        }
        if let Some((_, _, port)) = self.shared_notice {
            config.notice_port = port;
            return;
        }
        let v6 = sockets[0].is_none();
        let own = sockets[usize::from(v6)].and_then(|sockets| sockets.of(Channel::Notice));
        if let Some(socket) = own {
            self.shared_notice = Some((v6, socket, config.notice_port));
            self.routes.insert(socket, Route::ByTag);
        }
    }

    /// Members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// True before the first member was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// A member's session, to look at.
    ///
    /// # Panics
    /// When there is no such member.
    #[must_use]
    pub fn session(&self, member: Member) -> &Session {
        &self.seats[member].session
    }

    /// A member's session, to ask something of; what follows from it happens in the next turn.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn session_mut(&mut self, member: Member) -> &mut Session {
        mark(&mut self.seats[member], member, &mut self.dirty);
        &mut self.seats[member].session
    }

    /// The driver's counters.
    #[must_use]
    pub fn stats(&self) -> DriverStats {
        self.stats
    }

    /// The ring's counters.
    #[must_use]
    pub fn ring_stats(&self) -> &Stats {
        self.ring.stats()
    }

    /// Wakes the thread that waits in [`Fleet::turn`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.ring.waker()
    }

    /// Sends what is to be sent, waits for something to happen (at most until `wait`), and hands out what follows from
    /// it: one `io_uring_enter`, or two after a turn that took long. `on_event` gets the member's session too, so that it can ask
    /// on at once.
    ///
    /// # Errors
    /// The ring is of no further use.
    pub fn turn(
        &mut self,
        wait: Wait,
        mut on_event: impl FnMut(Member, &mut Session, Event, Nanos),
    ) -> Result<(), DriverError> {
        self.stats.turns += 1;
        let now = self.look_before_judging()?;
        self.send_all(now);
        let wait = if self.events_wait { Wait::Never } else { self.bounded(wait) };
        let now = self.look(wait)?;
        self.tick_due(now);
        for index in 0..self.dirty.len() {
            let member = self.dirty[index];
            let session = &mut self.seats[member].session;
            while let Some(event) = session.poll_event() {
                on_event(member, session, event, now);
            }
        }
        Ok(())
    }

    /// Takes what has arrived.
    fn look(&mut self, wait: Wait) -> Result<Nanos, DriverError> {
        self.ring.turn(wait, &mut self.completions)?;
        let now = clock::now();
        self.looked_at = now;
        self.take_completions(now);
        Ok(now)
    }

    /// What follows from time that has passed. A thread that did not run, or had much to do, finds deadlines over whose answers
    /// lie in its sockets: before a node is blamed for that, they are read.
    fn look_before_judging(&mut self) -> Result<Nanos, DriverError> {
        let mut now = clock::now();
        let due = self.deadlines.first() <= now || !self.dirty.is_empty();
        if due && now.since(self.looked_at) >= LATE_TURN {
            self.stats.late_turns += 1;
            now = self.look(Wait::Never)?;
        }
        self.tick_due(now);
        Ok(now)
    }

    /// The caller's wait, cut short where a session is due before or events are waiting.
    fn bounded(&self, wait: Wait) -> Wait {
        let next = self.deadlines.first();
        match wait {
            Wait::Never => Wait::Never,
            // Members that stay dirty here had no plan left for their trains: a send's end brings one.
            Wait::Until(time) => Wait::Until(time.earlier(next)),
            Wait::Gather(time) => Wait::Gather(time.earlier(next)),
            Wait::Forever if next == Nanos::NEVER => Wait::Forever,
            Wait::Forever => Wait::Until(next),
        }
    }

    fn tick_due(&mut self, now: Nanos) {
        while let Some(member) = self.deadlines.take_due(now) {
            let seat = &mut self.seats[member];
            seat.session.tick(now);
            // Trains follow; the deadline is set anew after them.
            mark(seat, member, &mut self.dirty);
        }
    }

    /// Takes trains of all dirty members, as far as plans reach.
    fn send_all(&mut self, now: Nanos) {
        self.events_wait = false;
        while let Some((socket, plan)) = self.blocked.pop_front() {
            if let Err((refused, plan)) = self.ring.send(socket, plan) {
                self.not_sent(refused.is_throttle(), socket, plan);
                break;
            }
        }
        let mut kept = 0;
        for index in 0..self.dirty.len() {
            let member = self.dirty[index];
            let sent = self.send_trains(member, now);
            self.learn_tags(member);
            // Sending may have events of its own: a read outside the vDisk, a node that was given up.
            let eventful = self.seats[member].session.has_events();
            self.events_wait |= eventful;
            if sent && !eventful {
                self.seats[member].dirty = false;
            } else {
                self.dirty[kept] = member;
                kept += 1;
            }
            self.deadlines.set(member, self.seats[member].session.next_deadline());
        }
        self.dirty.truncate(kept);
    }

    /// Keeps book of a member's tags: a drain tells all members at once, and each notice must find its own.
    fn learn_tags(&mut self, member: Member) {
        let seat = &mut self.seats[member];
        let version = seat.session.tags_version();
        if !self.shared_notices || seat.tags_version == version {
            return;
        }
        seat.tags_version = version;
        for tag in seat.tags.drain(..) {
            self.tags.remove(&tag);
        }
        seat.tags.extend(seat.session.tags());
        self.tags.extend(seat.tags.iter().map(|&tag| (tag, member)));
    }

    /// True when the member has no more to send; false when plans ran out.
    fn send_trains(&mut self, member: Member, now: Nanos) -> bool {
        while let Some(mut plan) = self.plans.pop() {
            let seat = &mut self.seats[member];
            let Some(train) = seat.session.poll_send(now, &mut self.train) else {
                self.plans.push(plan);
                return true;
            };
            let sockets = if train.to.is_ipv4() { &seat.v4 } else { &seat.v6 };
            let shared = self.shared_notice.map(|(_, socket, _)| socket);
            let socket = sockets.as_ref().and_then(|s| match train.channel {
                Channel::Notice => s.of(Channel::Notice).or(shared),
                channel => s.of(channel),
            });
            let Some(socket) = socket else {
                self.stats.unroutable += 1;
                self.plans.push(plan);
                continue;
            };
            fill(&mut plan, train.to, train.segment_bytes, &self.train);
            self.stats.trains_out += 1;
            if let Err((refused, plan)) = self.ring.send(socket, plan) {
                self.not_sent(refused.is_throttle(), socket, plan);
            }
        }
        false
    }

    /// The ring has no room now, or never will: the plan waits, or is given up (the session asks again).
    fn not_sent(&mut self, later: bool, socket: SocketId, plan: Box<SendPlan>) {
        if later {
            self.blocked.push_back((socket, plan));
        } else {
            self.stats.send_errors += 1;
            self.plans.push(plan);
        }
    }

    fn take_completions(&mut self, now: Nanos) {
        let Fleet { ring, seats, dirty, routes, completions, plans, stats, tags, .. } = self;
        for completion in completions.drain() {
            match completion {
                Completion::Received(received) => {
                    stats.trains_in += 1;
                    let datagram = ring.datagram(&received);
                    match routes.get(&datagram.socket) {
                        Some(&Route::To(member, channel)) => {
                            let seat = &mut seats[member];
                            for segment in datagram.segments() {
                                seat.session.handle_datagram(channel, datagram.from, segment, now);
                            }
                            mark(seat, member, dirty);
                        }
                        Some(Route::ByTag) => {
                            let channel = Channel::Notice;
                            for segment in datagram.segments() {
                                let Some(member) = owner(tags, segment) else {
                                    stats.foreign += 1;
                                    continue;
                                };
                                let seat = &mut seats[member];
                                let session = &mut seat.session;
                                session.handle_datagram(channel, datagram.from, segment, now);
                                mark(seat, member, dirty);
                            }
                        }
                        None => {}
                    }
                    ring.recycle(received);
                }
                Completion::Sent { plan, result, .. } => {
                    if let Err(error) = result {
                        stats.send_errors += 1;
                        tracing::debug!(%error, peer = %plan.peer, "a send was refused");
                    }
                    plans.push(plan);
                }
                Completion::SocketError { error, .. } => {
                    stats.socket_errors += 1;
                    tracing::debug!(%error, "a socket reported an error");
                }
                Completion::Woken | Completion::Read { .. } => {}
            }
        }
    }
}

/// The member whose tag a datagram of the shared notice socket carries.
fn owner(tags: &HashMap<u64, Member>, bytes: &[u8]) -> Option<Member> {
    let header = diskstream_wire::header::Header::load(bytes).ok()?;
    tags.get(&header.tag).copied()
}

fn mark(seat: &mut Seat, member: Member, dirty: &mut Vec<Member>) {
    if !seat.dirty {
        seat.dirty = true;
        dirty.push(member);
    }
}

fn fill(plan: &mut SendPlan, to: SocketAddr, segment_bytes: usize, bytes: &[u8]) {
    plan.reset();
    plan.peer = to;
    plan.segment_bytes = if bytes.len() > segment_bytes {
        u16::try_from(segment_bytes).expect("a datagram fits 16 bits")
    } else {
        0
    };
    plan.push_scratch(bytes).expect("a train is shorter than a plan's scratch memory");
}

const _: () = assert!(TRAIN_BYTES_MAX <= diskstream_ring::send::SCRATCH_BYTES);
