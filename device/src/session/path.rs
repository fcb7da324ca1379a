//! One open session at one node: where it is, how long its round trips are, how much may be in flight, whether it lives.
//!
//! Signs of life. Any datagram of the session's tag from the node counts. A request that got no answer in time while
//! nothing at all arrived makes the path *suspect*: probes go out every 20 ms. Three of them unanswered make it *lost*: reads
//! go elsewhere, but nothing is decided, and there is no hurry any more where there is an elsewhere: the time between probes doubles. Six of them unanswered,
//! 320 ms after it fell silent (twelve, and 800 ms, where datagrams have been lost lately), make it *dead*; probes go on, slower still, because a dead path that answers again is better than any other. The
//! decision to move is not taken here.

use std::net::SocketAddr;

use diskstream_wire::{CloseReason, FragmentSize, Nanos};

use super::evidence::Evidence;
use super::limits::{
    CLOSE_INTERVAL, CLOSE_TRIES_MAX, IDLE_RESTART, LEAVE_PATIENCE, LOST_AFTER_PROBES,
    PROBE_INTERVAL, PROBE_INTERVAL_LOST_MAX, PROBE_INTERVAL_MAX, PROBES_SILENT_MAX, QUEUE_WAIT_MAX,
    SILENCE_MIN, STANDBY_CHECK,
};
use super::random::Random;
use super::rtt::Rtt;
use super::size_probe::SizeProbe;
use super::window::Window;

/// What a login yields: an open session at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Login address of the node: its identity in lists.
    pub node: SocketAddr,
    /// Address and port of the I/O service.
    pub io: SocketAddr,
    /// Index of the session there.
    pub session: u32,
    /// Tag of every datagram.
    pub tag: u64,
    pub keep_alive: Nanos,
    /// Fragments that the node allows in flight.
    pub allowance: u32,
    /// Longest request.
    pub request_bytes: u32,
    /// Most requests.
    pub requests_max: u32,
    /// Fragment size to begin with.
    pub size: FragmentSize,
    /// The largest size worth a probe.
    pub size_hoped: FragmentSize,
    /// The node answers questions about extents.
    pub extents: bool,
}

/// A suspect path: when it fell silent, and the probes since.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Nanos,
    probes: u32,
    next: Nanos,
    interval: Nanos,
    dead: bool,
}

/// What a silent path wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vigil {
    /// Nothing now.
    Quiet,
    /// Send a probe; and, on a path that loses datagrams, repeat what has waited longest with it, if it is asked nowhere else.
    ProbeAndRepeat,
    /// Send a probe.
    Probe,
    /// Send a probe; and it has just been found dead.
    Died,
}

/// Keep-alives of one path.
#[derive(Clone, Copy, Debug)]
struct Keeping {
    interval: Nanos,
    next: Nanos,
    sequence: u32,
    /// The last one is unanswered since then.
    unanswered: Option<Nanos>,
}

/// Saying goodbye to a node.
#[derive(Clone, Copy, Debug)]
struct Closing {
    reason: CloseReason,
    tries: u32,
    next: Nanos,
}

/// An open session at one node.
#[derive(Clone, Debug)]
pub struct Path {
    pub at: Opening,
    /// Round trips less what the node says it took: the network alone.
    pub network: Rtt,
    /// Round trips as they are: what time-outs follow from.
    pub answers: Rtt,
    /// What tells losses from queues.
    pub evidence: Evidence,
    pub window: Window,
    /// Fragments on their way.
    pub in_flight: u32,
    /// Fragments that wait for the node's disk: not on their way, but they may all come at once.
    pub parked: u32,
    /// Requests asked here.
    pub requests: u32,
    pub size: FragmentSize,
    pub size_probe: SizeProbe,
    /// Nothing was read here yet, or not for long: one read first.
    pub fresh: bool,
    /// When the node last said that it is going: in a notice, or with the mark of a reply.
    marked: Option<Nanos>,
    /// `StoreError`s in a row.
    pub store_errors: u32,
    /// Reads in a row that this node, alive as it is, did not answer at all.
    pub ignored: u32,
    pub last_heard: Nanos,
    /// When a fragment of the present size last arrived.
    pub last_full: Nanos,
    /// The node said that reads are queued, and answered none since: how long to wait until it is asked again. Doubles each time.
    pub queue_wait: Nanos,
    /// Full-size answers in a row that were lost while small datagrams arrived.
    pub full_lost: u32,
    last_asked: Nanos,
    receive_buffer_bytes: u32,
    silence: Option<Silence>,
    keeping: Keeping,
    closing: Option<Closing>,
    /// The device has moved while the node still served: it may answer what it was asked, until then.
    leaving: Option<Nanos>,
}

impl Path {
    pub fn new(at: Opening, receive_buffer_bytes: u32, now: Nanos, random: &mut Random) -> Path {
        let ceiling = Window::receive_ceiling(receive_buffer_bytes, at.size).min(at.allowance);
        Path {
            at,
            network: Rtt::default(),
            answers: Rtt::default(),
            evidence: Evidence::default(),
            window: Window::new(ceiling),
            in_flight: 0,
            parked: 0,
            requests: 0,
            size: at.size,
            size_probe: SizeProbe::new(at.size, at.size_hoped, now),
            fresh: true,
            marked: None,
            store_errors: 0,
            ignored: 0,
            last_heard: now,
            last_full: Nanos::ZERO,
            queue_wait: Nanos::ZERO,
            full_lost: 0,
            last_asked: now,
            receive_buffer_bytes,
            silence: None,
            keeping: Keeping {
                interval: at.keep_alive,
                next: now + random.jitter(at.keep_alive),
                sequence: 0,
                unanswered: None,
            },
            closing: None,
            leaving: None,
        }
    }

    /// A path that is kept warm and asked for nothing. Its first check goes out at once: it measures the round trip that
    /// hedges are timed by.
    pub fn standby(
        at: Opening,
        receive_buffer_bytes: u32,
        now: Nanos,
        random: &mut Random,
    ) -> Path {
        let mut path = Path::new(at, receive_buffer_bytes, now, random);
        path.keeping.interval = at.keep_alive.earlier(STANDBY_CHECK);
        path.keeping.next = now;
        path
    }

    /// The standby becomes the serving path: the node is told at once.
    pub fn promoted(&mut self, now: Nanos) {
        self.keeping.interval = self.at.keep_alive;
        self.keeping.next = now;
    }

    /// How long after the last fragment the holes of an answer count as lost.
    pub fn reorder(&self) -> Nanos {
        self.evidence.reorder(self.answers.smoothed())
    }

    /// Fragments that may be asked for now.
    pub fn room(&self) -> u32 {
        let window = self.window.fragments().saturating_sub(self.in_flight);
        let buffer = self.window.ceiling().saturating_sub(self.in_flight + self.parked);
        window.min(buffer)
    }

    /// A request is about to be sent: a path that was idle begins anew.
    pub fn before_asking(&mut self, now: Nanos) {
        if self.requests == 0 && now.since(self.last_asked) >= IDLE_RESTART {
            // One read first, unless something else has just shown that the path carries what is sent on it.
            self.fresh = now.since(self.last_heard) >= IDLE_RESTART;
            self.window.restart();
        }
        self.last_asked = now;
    }

    /// A datagram of the session came from the node. Gives whether the path had been dead.
    #[inline]
    pub fn heard(&mut self, now: Nanos) -> bool {
        self.last_heard = now;
        match self.silence.take() {
            None => false,
            Some(silence) => silence.dead,
        }
    }

    pub fn is_suspect(&self) -> bool {
        self.silence.is_some()
    }

    pub fn is_dead(&self) -> bool {
        self.silence.is_some_and(|silence| silence.dead)
    }

    /// Since when it has been silent.
    pub fn silent_since(&self) -> Option<Nanos> {
        self.silence.map(|silence| silence.since)
    }

    /// No sign of life at all for several probes: whatever waits here is better asked elsewhere. That is less than death:
    /// a path that speaks again is gone on with as if nothing had been.
    pub fn is_lost(&self, now: Nanos) -> bool {
        self.silence.is_some_and(|silence| {
            let silent = now.since(silence.since);
            let probed = Nanos(PROBE_INTERVAL.0 * u64::from(LOST_AFTER_PROBES));
            silence.dead
                || silence.probes >= LOST_AFTER_PROBES
                    && silent >= probed
                    && silent >= self.network.bare_timeout()
        })
    }

    /// Reads may be asked here.
    pub fn serves(&self) -> bool {
        self.silence.is_none() && self.closing.is_none() && self.leaving.is_none()
    }

    /// As a standby it can take over: nothing says that it is dead or going.
    pub fn can_help(&self) -> bool {
        !self.is_dead() && self.closing.is_none() && self.leaving.is_none() && self.marked.is_none()
    }

    /// The node says that it is going. Gives whether that is new.
    pub fn mark(&mut self, now: Nanos) -> bool {
        self.marked.replace(now).is_none()
    }

    /// Something sent at `sent_at` was answered. A question asked after the last mark, and answered without one (that would
    /// have moved the time of the last mark), was answered by a node that stays: what overtook the mark on its way was
    /// asked before. Gives whether the node had been going until now.
    #[inline]
    pub fn stays(&mut self, sent_at: Nanos) -> bool {
        self.marked.take_if(|marked| sent_at > *marked).is_some()
    }

    /// Something sent at `sent_at` was not answered in time: suspect, if nothing else was heard since.
    pub fn unanswered(&mut self, sent_at: Nanos, now: Nanos) {
        let silent =
            self.last_heard <= sent_at || now.since(self.last_heard) >= self.answers.timeout();
        if self.silence.is_none() && silent && self.closing.is_none() && self.leaving.is_none() {
            self.silence = Some(Silence {
                since: now,
                probes: 0,
                next: now,
                interval: PROBE_INTERVAL,
                dead: false,
            });
            self.window.silent(now);
            self.evidence.await_answer();
        }
    }

    /// What a suspect path wants now; with `haste` while reads wait for what comes of it.
    pub fn watch(&mut self, haste: bool, now: Nanos, random: &mut Random) -> Vigil {
        let timeout = self.answers.timeout();
        let Some(silence) = &mut self.silence else { return Vigil::Quiet };
        if now < silence.next {
            return Vigil::Quiet;
        }
        let (silent_max, silence_min) = patience(self.evidence.is_lossy());
        let patience = silence_min.max(timeout);
        let dies =
            !silence.dead && silence.probes >= silent_max && now.since(silence.since) >= patience;
        silence.dead |= dies;
        if silence.dead {
            silence.interval = Nanos((silence.interval.0 * 2).min(PROBE_INTERVAL_MAX.0));
            silence.next = now + random.jitter(silence.interval);
        } else if haste || silence.probes + 1 < LOST_AFTER_PROBES {
            silence.next = now + PROBE_INTERVAL;
        } else {
            silence.interval = Nanos((silence.interval.0 * 2).min(PROBE_INTERVAL_LOST_MAX.0));
            silence.next = now + silence.interval;
        }
        silence.probes += 1;
        if dies {
            Vigil::Died
        } else if self.evidence.is_lossy() {
            Vigil::ProbeAndRepeat
        } else {
            Vigil::Probe
        }
    }

    /// Whether a keep-alive is due; one that stayed unanswered makes the path suspect.
    pub fn keep_alive_due(&mut self, now: Nanos, random: &mut Random) -> bool {
        if self.closing.is_some() || self.leaving.is_some() {
            return false;
        }
        if let Some(sent_at) = self.keeping.unanswered
            && now.since(sent_at) >= self.answers.timeout()
        {
            self.keeping.unanswered = None;
            self.unanswered(sent_at, now);
        }
        if now < self.keeping.next {
            return false;
        }
        self.keeping.next = now + random.jitter(self.keeping.interval);
        true
    }

    /// Asks for a sign of life without waiting for the next keep-alive's time.
    pub fn check_soon(&mut self, now: Nanos) {
        if self.silence.is_none() && self.keeping.unanswered.is_none() {
            self.keeping.next = self.keeping.next.earlier(now);
        }
    }

    /// The number of the keep-alive that is sent now.
    pub fn next_sequence(&mut self, now: Nanos) -> u32 {
        self.keeping.sequence = self.keeping.sequence.wrapping_add(1);
        self.keeping.unanswered = Some(now);
        self.keeping.sequence
    }

    /// A keep-alive was answered; gives when it was sent when it was the last one. Where reads are `queued` at the node the answer overtook
    /// theirs, and says nothing of them.
    pub fn keep_alive_answered(&mut self, sequence: u32, queued: bool) -> Option<Nanos> {
        if sequence != self.keeping.sequence {
            return None;
        }
        let sent_at = self.keeping.unanswered.take()?;
        if !queued {
            self.evidence.answered(sent_at);
            self.queue_wait = Nanos::ZERO;
        }
        Some(sent_at)
    }

    /// Reads are queued at the node; gives how long to leave it alone.
    pub fn told_queued(&mut self) -> Nanos {
        let doubled = Nanos(self.queue_wait.0 * 2);
        self.queue_wait = doubled.max(self.answers.timeout()).earlier(QUEUE_WAIT_MAX);
        self.queue_wait
    }

    /// Begins to say goodbye: once to a node that does not answer, in case that only its answers are lost.
    pub fn close(&mut self, reason: CloseReason, now: Nanos) {
        let tries = if self.is_dead() { CLOSE_TRIES_MAX - 1 } else { 0 };
        self.closing = Some(Closing { reason, tries, next: now });
        self.silence = None;
        self.leaving = None;
    }

    /// The device reads elsewhere now. What the node was asked it may still answer.
    pub fn leave(&mut self, now: Nanos) {
        self.leaving = Some(now + LEAVE_PATIENCE);
        self.silence = None;
    }

    /// Whether a path that is being left can be closed: nothing is awaited any more, or it took too long.
    pub fn has_left(&self, now: Nanos) -> bool {
        self.leaving.is_some_and(|until| self.requests == 0 || until <= now)
    }

    /// Neither asked nor kept any more, though answers may still come.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether `SessionClose` is to be sent now; and whether the path can be forgotten.
    pub fn close_due(&mut self, now: Nanos) -> (Option<CloseReason>, bool) {
        let Some(closing) = &mut self.closing else { return (None, false) };
        if now < closing.next {
            return (None, false);
        }
        if closing.tries == CLOSE_TRIES_MAX {
            return (None, true);
        }
        closing.tries += 1;
        closing.next = now + CLOSE_INTERVAL;
        (Some(closing.reason), false)
    }

    /// When this path wants a tick.
    pub fn next_due(&self) -> Nanos {
        if let Some(closing) = &self.closing {
            return closing.next;
        }
        if let Some(until) = self.leaving {
            return until;
        }
        let answer = match self.keeping.unanswered {
            Some(sent_at) if self.silence.is_none() => sent_at + self.answers.timeout(),
            _ => Nanos::NEVER,
        };
        let vigil = self.silence.map_or(Nanos::NEVER, |silence| silence.next);
        self.keeping.next.earlier(answer).earlier(vigil).earlier(self.size_probe.next_due())
    }

    /// Goes on with another fragment size; the requests that are out must follow.
    pub fn set_size(&mut self, size: FragmentSize) {
        self.size = size;
        self.full_lost = 0;
        let ceiling = Window::receive_ceiling(self.receive_buffer_bytes, size);
        self.window.set_ceiling(ceiling.min(self.at.allowance));
    }

    /// What must hold between calls: the sums over the requests that name this path.
    pub fn check_invariants(&self, in_flight: u32, parked: u32, requests: u32) {
        assert_eq!(self.in_flight, in_flight, "fragments in flight are those of the requests");
        assert_eq!(self.parked, parked, "parked fragments are those of pending requests");
        assert_eq!(self.requests, requests, "requests out are those that name the path");
        assert!(self.window.fragments() <= self.window.ceiling());
    }
}

/// Unanswered probes, and the silence, after which a node counts as gone.
#[inline]
fn patience(lossy: bool) -> (u32, Nanos) {
    // Planted defect: the simulator must catch a device that is too quick to move.
    #[cfg(feature = "mutations")]
    if super::mutations::is_planted(super::mutations::Mutation::MoveAfterTwoProbes) {
        return (2, Nanos::ZERO);
    }
    let (clean, bad) = PROBES_SILENT_MAX;
    (if lossy { bad } else { clean }, SILENCE_MIN)
}
