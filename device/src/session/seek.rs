//! Looking for a node: candidates are asked one shortly after another, and the first that answers is logged in at.
//!
//! ```text
//! with a ticket:   IoPortRequest ───────────────────────────────┐
//!                    (every node of the list)                   ├─> steps (see `steps`) ─> an open session
//! from the start:  LoginPortRequest ─> LoginStart ─> transfer ──┘
//!                    (every server)
//! ```
//!
//! Rounds repeat for ever, with a capped and jittered pause: a node that comes back is found. A candidate that refuses or
//! says "busy" is left out for as long as it said. The same machine serves the first login, moves and the standby.

use std::collections::VecDeque;
use std::net::SocketAddr;

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::{
    Capabilities, ContentId, Decoded, IoPortRequest, LoginKind, LoginPortRequest, Message, Nanos,
    PROTOCOL_VERSION, Text,
};

use super::PATHS_MAX;
use super::config::SessionConfig;
use super::event::{Channel, DiskInfo, Event, MoveCause};
use super::limits::{
    CANDIDATE_STAGGER, ROUND_WAIT_FIRST, ROUND_WAIT_MAX, SERVERS_MAX, STANDBY_ROUND_FIRST,
    STANDBY_ROUND_MAX, STANDBY_STAGGER,
};
use super::nodes::{Nodes, Route};
use super::path::Opening;
use super::random::Random;
use super::status::Counters;
use super::steps::{Progress, Steps};

/// What a transfer said that outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub content_id: ContentId,
    pub size_bytes: u64,
    pub device_name: Text<32>,
    pub capabilities: Capabilities,
    pub pinned: bool,
}

/// What a login reads and changes of the device.
pub struct Context<'a> {
    pub config: &'a SessionConfig,
    pub nodes: &'a mut Nodes,
    pub admission: &'a mut Option<Admission>,
    /// The vDisk that is being read; another content is refused.
    pub disk: Option<&'a DiskInfo>,
    pub random: &'a mut Random,
    pub counters: &'a mut Counters,
    pub events: &'a mut VecDeque<Event>,
    /// Nodes at which the device has a session, or is saying goodbye: no standby is sought there.
    pub taken: [Option<SocketAddr>; PATHS_MAX],
}

/// How fast a search goes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between two candidates of a round.
    stagger: Nanos,
    /// After the last candidate of the first round, and of later ones at most.
    first: Nanos,
    most: Nanos,
}

/// Reads wait for it.
const URGENT: Pace =
    Pace { stagger: CANDIDATE_STAGGER, first: ROUND_WAIT_FIRST, most: ROUND_WAIT_MAX };
/// Nobody waits for it, and it goes on for ever where there is no second node.
const PATIENT: Pace =
    Pace { stagger: STANDBY_STAGGER, first: STANDBY_ROUND_FIRST, most: STANDBY_ROUND_MAX };

/// One candidate of the present round.
#[derive(Clone, Copy, Debug)]
struct Ask {
    login: SocketAddr,
    route: Route,
    /// Transaction number; it stays the same for as long as the search lasts, so that late answers count.
    tag: u64,
    sent: bool,
}

/// A search under way.
#[derive(Debug)]
pub struct Seek {
    /// Why; none at the first login.
    pub cause: Option<MoveCause>,
    preferred: Vec<SocketAddr>,
    avoid: Option<SocketAddr>,
    /// It looks for a standby.
    standby: bool,
    pace: Pace,
    asks: Vec<Ask>,
    round: u32,
    round_wait: Nanos,
    /// When the next candidate is asked, or the next round begins.
    next: Nanos,
    steps: Option<Box<Steps>>,
}

/// What a datagram was to a search.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: not for it.
    Foreign,
    /// Part of it.
    Taken,
    /// Its end: a session is open.
    Opened(Box<(Opening, DiskInfo)>),
}

impl Seek {
    /// Begins at `at`. `preferred` nodes are asked first, `avoid` not at all.
    pub fn new(
        cause: Option<MoveCause>,
        preferred: Vec<SocketAddr>,
        avoid: Option<SocketAddr>,
        at: Nanos,
    ) -> Seek {
        Seek {
            cause,
            preferred,
            avoid,
            standby: false,
            pace: URGENT,
            asks: Vec::with_capacity(NODES_MAX + SERVERS_MAX),
            round: 0,
            round_wait: URGENT.first,
            next: at,
            steps: None,
        }
    }

    /// Looks for a standby, from `at` on.
    pub fn standby(at: Nanos) -> Seek {
        let seek = Seek::new(None, Vec::new(), None, at);
        Seek { standby: true, pace: PATIENT, round_wait: PATIENT.first, ..seek }
    }

    /// The reason has become graver: no node is avoided any more, and `preferred` ones are known to live.
    pub fn widen(&mut self, preferred: Vec<SocketAddr>, now: Nanos) {
        self.avoid = None;
        if !preferred.is_empty() {
            self.preferred = preferred;
            if self.steps.is_none() {
                self.asks.clear();
                self.next = now;
            }
        }
    }

    pub fn next_due(&self) -> Nanos {
        self.steps.as_ref().map_or(self.next, |steps| steps.next_due())
    }

    /// Writes the next datagram of the search that is due, if any.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        now: Nanos,
        out: &mut Vec<u8>,
    ) -> Option<(Channel, SocketAddr)> {
        if let Some(steps) = &mut self.steps {
            match steps.poll(context, now, out) {
                Progress::Send(channel, to) => return Some((channel, to)),
                Progress::Wait => return None,
                Progress::Failed => self.leave_steps(now),
            }
        }
        // A round at most begins once per call, so this ends.
        for _ in 0..2 {
            if now < self.next {
                return None;
            }
            if let Some(ask) = self.asks.iter_mut().find(|ask| !ask.sent) {
                ask.sent = true;
                let ask = *ask;
                let more = self.asks.iter().any(|ask| !ask.sent);
                let wait = if more { self.pace.stagger } else { self.round_wait };
                self.next = now + context.random.jitter(wait);
                return Some((Channel::Login, write_ask(&ask, context, out)));
            }
            self.begin_round(context, now);
        }
        None
    }

    /// Takes a datagram.
    pub fn handle(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        decoded: &Decoded<'_>,
        now: Nanos,
    ) -> Answer {
        if let Some(steps) = &mut self.steps {
            let answer = steps.handle(context, from, decoded, now);
            if steps.has_failed() {
                self.leave_steps(now);
            }
            if !matches!(answer, Answer::Foreign) {
                return answer;
            }
        }
        let Some(ask) = self.asks.iter().find(|a| a.sent && a.login == from).copied() else {
            return Answer::Foreign;
        };
        self.handle_first_answer(context, ask.login, decoded, now)
    }

    /// The first answer of a candidate: go on there. Refusals and "busy" may come at this point too.
    fn handle_first_answer(
        &mut self,
        context: &mut Context<'_>,
        login: SocketAddr,
        decoded: &Decoded<'_>,
        now: Nanos,
    ) -> Answer {
        let tag = super::steps::login_tag(&decoded.message);
        let Some(ask) =
            self.asks.iter().find(|a| a.sent && a.login == login && Some(a.tag) == tag).copied()
        else {
            return Answer::Foreign;
        };
        let mut steps =
            Box::new(Steps::new(ask.login, ask.route, ask.tag, self.kind(context), now));
        let answer = steps.handle(context, login, decoded, now);
        match (&self.steps, &decoded.message) {
            // Another candidate is being logged in at: this one was slower.
            (Some(_), Message::LoginPortReply(_) | Message::IoPortReply(_)) => Answer::Taken,
            (None, Message::LoginPortReply(_) | Message::IoPortReply(_)) if !steps.has_failed() => {
                if !matches!(answer, Answer::Foreign) {
                    self.steps = Some(steps);
                }
                answer
            }
            // Refused or busy: the candidate is deferred; the others of the round go on.
            _ => {
                if context.nodes.ticket().is_none() && ask.route == Route::Ticket {
                    self.restart_round(now);
                }
                answer
            }
        }
    }

    fn kind(&self, context: &Context<'_>) -> LoginKind {
        if self.standby {
            LoginKind::Standby
        } else if context.disk.is_some() && context.nodes.ticket().is_some() {
            LoginKind::Reconnect
        } else {
            LoginKind::Boot
        }
    }

    /// The session that a search had opened but will not use: to be closed.
    pub fn abandoned(&self) -> Option<Opening> {
        self.steps.as_ref().and_then(|steps| steps.half_open())
    }

    /// The candidate did not work out: back to asking, at once but with the rest of the round first.
    fn leave_steps(&mut self, now: Nanos) {
        self.steps = None;
        self.next = now;
        if self.asks.iter().all(|ask| ask.sent) {
            self.asks.clear();
        }
    }

    /// Begins the next round at once, the servers included.
    fn restart_round(&mut self, now: Nanos) {
        self.asks.clear();
        self.round = self.round.max(1);
        self.next = now;
    }

    fn begin_round(&mut self, context: &mut Context<'_>, now: Nanos) {
        let before = std::mem::take(&mut self.asks);
        let mut asks = Vec::with_capacity(NODES_MAX + SERVERS_MAX);
        let with_servers = self.round > 0;
        let random = &mut *context.random;
        let add = |login, route| {
            let known = before.iter().find(|a| a.login == login && a.route == route);
            let tag = known.map_or_else(|| random.id(), |ask| ask.tag);
            asks.push(Ask { login, route, tag, sent: false });
        };
        if self.standby {
            context.nodes.standby_candidates(&context.taken, now, add);
        } else {
            context.nodes.candidates(&self.preferred, self.avoid, with_servers, now, add);
        }
        self.asks = asks;
        if self.round > 0 {
            self.round_wait = Nanos(self.round_wait.0 * 3 / 2).earlier(self.pace.most);
        }
        self.round += 1;
        if self.asks.is_empty() {
            self.next = now + random.jitter(self.round_wait);
        }
    }
}

fn write_ask(ask: &Ask, context: &Context<'_>, out: &mut Vec<u8>) -> SocketAddr {
    let mac = context.config.mac;
    match ask.route {
        Route::Ticket | Route::Standby => {
            out.resize(IoPortRequest::BYTES, 0);
            IoPortRequest { tag: ask.tag, mac, ..IoPortRequest::default() }.encode(out);
        }
        Route::Full => {
            let login_kind =
                if context.disk.is_some() { LoginKind::Reconnect } else { LoginKind::Boot };
            out.resize(LoginPortRequest::BYTES, 0);
            LoginPortRequest {
                tag: ask.tag,
                mac,
                login_kind,
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                ..LoginPortRequest::default()
            }
            .encode(out);
        }
    }
    ask.login
}
