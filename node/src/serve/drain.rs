//! The course of a drain: when to say what to whom, and when to give up. Pure: the control loop tells it the time and who is left.

use diskstream_wire::Nanos;

use super::service;
use crate::control::{Answer, Reply};
use crate::view::DrainState;

/// Distance of two lines of progress.
const SAY_EVERY: Nanos = Nanos::from_secs(1);
/// Distance of two looks at who is left: their leaving is a count in shared memory, and no event. Guessed: not noticed by the one who
/// waits for the command, and nothing for the processor.
const LOOK_EVERY: Nanos = Nanos::from_millis(50);
/// Shards end by themselves at the deadline; this covers their last turn. Guessed.
const LAST_TURN: Nanos = Nanos::from_millis(500);

/// A node that moves its devices away.
pub(super) struct Drain {
    state: DrainState,
    /// Sessions when it began.
    of: u32,
    left: u32,
    began: Nanos,
    deadline: Nanos,
    next_say: Nanos,
    next_look: Nanos,
    /// Told the end already; in maintenance the drain stays, so that nobody is told twice.
    over: bool,
    listeners: Vec<Reply>,
}

impl Drain {
    pub(super) fn begin(state: DrainState, sessions: u32, now: Nanos, patience: Nanos) -> Drain {
        Drain {
            state,
            of: sessions,
            left: sessions,
            began: now,
            deadline: now + patience,
            next_say: now + SAY_EVERY,
            next_look: now,
            over: false,
            listeners: Vec::new(),
        }
    }

    /// Told again: a stop outranks maintenance, the earlier deadline of two stops holds, and the count begins anew when the first was over.
    pub(super) fn again(&mut self, state: DrainState, now: Nanos, patience: Nanos) {
        let deadline = now + patience;
        if self.over {
            *self = Drain {
                listeners: std::mem::take(&mut self.listeners),
                ..Drain::begin(state, self.left, now, patience)
            };
        } else {
            self.state = state;
            self.deadline = self.deadline.earlier(deadline);
        }
    }

    /// Whether the node ends with it.
    pub(super) fn stops(&self) -> bool {
        self.state == DrainState::Stopping
    }

    /// Somebody wants to know how it goes.
    pub(super) fn listen(&mut self, reply: Reply) {
        self.listeners.push(reply);
        self.over = false;
    }

    /// When to look again.
    pub(super) fn next_deadline(&self) -> Nanos {
        if self.over && !self.stops() { Nanos::NEVER } else { self.next_look }
    }

    /// So many are left now.
    pub(super) fn turn(&mut self, left: u32, now: Nanos) {
        if self.over {
            self.next_look = now + LOOK_EVERY;
            return;
        }
        // What the shards close at the deadline did not move: the count before it stands.
        if now < self.deadline {
            self.left = left;
        }
        self.next_look = now + LOOK_EVERY;
        if now >= self.next_say {
            self.next_say = now + SAY_EVERY;
            self.say(now);
        }
        // A node that stops says the last word when its threads have ended.
        if !self.stops() && (self.left == 0 || now >= self.deadline) {
            self.ended(now);
        }
    }

    fn say(&mut self, now: Nanos) {
        let (left, of, patience) = (self.left, self.of, self.deadline.since(now));
        tracing::info!(
            "draining: {left} of {of} sessions left, {} s to go",
            patience.as_millis() / 1000
        );
        let line = format!("draining: {left} of {of} sessions left");
        if self.stops() {
            service::draining(&line, patience);
        } else {
            service::status(&line);
        }
        let seconds = |t: Nanos| t.as_duration().as_secs_f64();
        for reply in &self.listeners {
            let (seconds, patience) = (seconds(now.since(self.began)), seconds(patience));
            reply.progress(Answer::Draining { left, of, seconds, patience });
        }
    }

    /// The patience is over now.
    pub(super) fn give_up(&mut self, now: Nanos) {
        self.deadline = self.deadline.earlier(now);
    }

    /// True when the shards should have ended and have not.
    pub(super) fn is_overdue(&self, now: Nanos) -> bool {
        now >= self.deadline + LAST_TURN
    }

    /// It is over: everybody has moved, or the deadline passed.
    pub(super) fn ended(&mut self, now: Nanos) {
        if self.over {
            return;
        }
        self.over = true;
        let (left, of, stays) = (self.left, self.of, !self.stops());
        let seconds = now.since(self.began).as_duration().as_secs_f64();
        if left == 0 {
            tracing::info!("drained: all {of} sessions have moved, in {seconds:.1} s");
        } else {
            tracing::warn!("drained: {left} of {of} sessions had not moved after {seconds:.1} s");
        }
        if stays {
            service::status(&format!("maintenance: {left} sessions left"));
        }
        for reply in self.listeners.drain(..) {
            reply.finish(Answer::Drained { left, of, seconds, stays });
        }
    }

    /// The node takes devices again before it was over.
    pub(super) fn cancelled(self) {
        for reply in self.listeners {
            let reason = "somebody resumed the node meanwhile".to_owned();
            reply.finish(Answer::Refused { reason });
        }
    }
}
