//! The course of a drain: when to say what to whom, and when to give up. The control loop tells it the time and who is left.

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
    /// A signal asked for it, or joined in.
    signalled: bool,
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
            signalled: false,
            listeners: Vec::new(),
        }
    }

    /// Told again: a stop outranks maintenance, of two alike the earlier deadline holds, and the count begins anew
    /// when the first was over.
    pub(super) fn again(&mut self, state: DrainState, now: Nanos, patience: Nanos) {
        let deadline = now + patience;
        if self.over {
            *self = Drain {
                listeners: std::mem::take(&mut self.listeners),
                ..Drain::begin(state, self.left, now, patience)
            };
        } else if self.state == state {
            self.deadline = self.deadline.earlier(deadline);
        } else if state == DrainState::Stopping {
            // The shards begin anew as well.
            (self.state, self.deadline) = (state, deadline);
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
        self.left = left;
        self.next_look = now + LOOK_EVERY;
        if now >= self.next_say {
            self.next_say = now + SAY_EVERY;
            self.say(now);
        }
        // A node that stops says the last word when its threads have ended.
        if !self.stops() && (self.left == 0 || now >= self.deadline) {
            self.ended(left, now);
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

    /// A signal to stop came. One during a drain that a command began is the first: `drain --seconds 600` and the service
    /// manager's stop do not know of each other.
    pub(super) fn signalled(&mut self) {
        self.signalled = true;
    }

    /// True when a signal asked for this end already: whoever sends another waits no longer.
    pub(super) fn stops_by_signal(&self) -> bool {
        self.signalled && self.stops()
    }

    /// The patience is over now.
    pub(super) fn give_up(&mut self, now: Nanos) {
        self.deadline = self.deadline.earlier(now);
    }

    /// True when the shards should have ended and have not.
    pub(super) fn is_overdue(&self, now: Nanos) -> bool {
        now >= self.deadline + LAST_TURN
    }

    /// It is over: everybody has moved, or `left` have not and are waited for no longer.
    pub(super) fn ended(&mut self, left: u32, now: Nanos) {
        if self.over {
            return;
        }
        self.over = true;
        self.left = left;
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

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Nanos = Nanos::from_secs;

    fn drain(state: DrainState) -> (Drain, crate::control::Answers) {
        let mut drain = Drain::begin(state, 9, S(100), S(15));
        let (reply, answers) = Reply::channel();
        drain.listen(reply);
        (drain, answers)
    }

    #[test]
    fn maintenance_is_over_when_the_last_has_left() {
        let (mut drain, answers) = drain(DrainState::Maintenance);
        drain.turn(9, S(100));
        drain.turn(4, S(101));
        let progress = Answer::Draining { left: 4, of: 9, seconds: 1.0, patience: 14.0 };
        assert_eq!(answers.next(), Some(progress));
        drain.turn(0, S(101) + Nanos::from_millis(500));
        let end = Answer::Drained { left: 0, of: 9, seconds: 1.5, stays: true };
        assert_eq!((answers.next(), answers.next()), (Some(end), None));
        assert_eq!(drain.next_deadline(), Nanos::NEVER, "nothing is left to look at");
    }

    #[test]
    fn who_is_left_at_the_deadline_is_told() {
        let (mut drain, answers) = drain(DrainState::Maintenance);
        drain.turn(2, S(115));
        let last = std::iter::from_fn(|| answers.next()).last();
        assert_eq!(last, Some(Answer::Drained { left: 2, of: 9, seconds: 15.0, stays: true }));
    }

    #[test]
    fn a_node_that_stops_says_the_last_word_when_its_shards_have_ended() {
        let (mut drain, answers) = drain(DrainState::Stopping);
        drain.turn(0, S(100));
        drain.turn(3, S(115));
        assert!(!drain.is_overdue(S(115)), "the shards have their last turn");
        assert!(drain.is_overdue(S(115) + LAST_TURN));
        drain.ended(3, S(115));
        let last = std::iter::from_fn(|| answers.next()).last();
        assert_eq!(last, Some(Answer::Drained { left: 3, of: 9, seconds: 15.0, stays: false }));
    }

    #[test]
    fn a_stop_outranks_maintenance_and_of_two_alike_the_earlier_deadline_holds() {
        let (mut drain, _answers) = drain(DrainState::Maintenance);
        drain.again(DrainState::Stopping, S(110), S(15));
        assert!(drain.stops() && !drain.is_overdue(S(120)), "the stop has its own patience");
        drain.again(DrainState::Stopping, S(111), S(2));
        assert!(drain.is_overdue(S(114)));
        drain.again(DrainState::Maintenance, S(111), S(60));
        assert!(drain.stops() && drain.is_overdue(S(114)), "maintenance changes nothing any more");
    }

    #[test]
    fn the_first_signal_during_a_command_shortens_and_the_second_ends() {
        let (mut drain, _answers) = drain(DrainState::Stopping);
        drain.again(DrainState::Stopping, S(101), S(5));
        assert!(!drain.stops_by_signal(), "the command was no signal");
        drain.signalled();
        assert!(!drain.is_overdue(S(105)) && drain.is_overdue(S(107)), "5 s from the signal");
        assert!(drain.stops_by_signal());
        drain.give_up(S(102));
        assert!(!drain.is_overdue(S(102)), "the shards have their last turn");
        assert!(drain.is_overdue(S(102) + LAST_TURN));
    }

    #[test]
    fn a_second_drain_after_the_first_counts_anew() {
        let (mut drain, answers) = drain(DrainState::Maintenance);
        drain.turn(2, S(115));
        while answers.next().is_some() {}
        drain.again(DrainState::Maintenance, S(200), S(15));
        let (reply, answers) = Reply::channel();
        drain.listen(reply);
        drain.turn(0, S(203));
        let last = std::iter::from_fn(|| answers.next()).last();
        assert_eq!(last, Some(Answer::Drained { left: 0, of: 2, seconds: 3.0, stays: true }));
    }

    #[test]
    fn resuming_ends_the_waiting_of_those_who_asked() {
        let (drain, answers) = drain(DrainState::Maintenance);
        drain.cancelled();
        assert!(matches!(answers.next(), Some(Answer::Refused { .. })));
        assert_eq!(answers.next(), None);
    }
}
