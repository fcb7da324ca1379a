//! A node that was paused (a stopped process, a frozen virtual machine, a host that swaps) and goes on: what its sockets
//! kept meanwhile is old, and what it believes of the farm too.
//!
//! How a shard notices: it said when it wanted to turn again, and turned more than [`PAUSE`] after that. Being idle for long
//! is no pause; a shard that has sessions wants to turn once a second, so a pause of 1.5 s is always seen, and one of 0.5 s
//! whenever there was work. Rejected: the distance of two turns, which would drop the first read after every quiet second.
//!
//! What is old: what the first turn brings, and the turns after it as long as they bring many datagrams at once, because the
//! kernel hands out a full socket in portions. A busy node's turns bring many too, so that ends after [`BACKLOG_FOR`].

use diskstream_wire::time::Nanos;

use super::limits::PAUSE;

/// How long after a pause datagrams may be taken for old ones. Guessed: ten times what a full socket of 4 MiB takes.
const BACKLOG_FOR: Nanos = Nanos::from_millis(50);

/// Watches over a shard's turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// When the last turn wanted the next one at the latest.
    promised: Nanos,
    /// What comes in is from before the shard went on; until then at most.
    backlog_until: Option<Nanos>,
    /// The last turn brought many datagrams.
    more: bool,
}

impl Pause {
    pub(super) const NONE: Pause =
        Pause { promised: Nanos::NEVER, backlog_until: None, more: false };

    /// A turn begins; `more`: it brings so many datagrams that there may be more. Gives the time by which it is late if that
    /// is a pause.
    pub(super) fn begin_turn(&mut self, more: bool, now: Nanos) -> Option<Nanos> {
        let late = now.since(self.promised);
        let paused = self.promised != Nanos::NEVER && late > PAUSE;
        if paused {
            self.backlog_until = Some(now + BACKLOG_FOR);
        } else if self.backlog_until.is_some_and(|until| !self.more || now >= until) {
            self.backlog_until = None;
        }
        self.more = more;
        paused.then_some(late)
    }

    /// A turn ends; the next one is wanted at `deadline`.
    pub(super) fn end_turn(&mut self, deadline: Nanos, now: Nanos) {
        self.promised = if deadline < now { now } else { deadline };
    }

    /// Whether what comes in is old.
    #[inline]
    pub(super) fn in_backlog(&self) -> bool {
        self.backlog_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Nanos {
        Nanos::from_millis(n)
    }

    #[test]
    fn late_is_paused_and_idle_is_not() {
        let mut pause = Pause::NONE;
        assert_eq!(pause.begin_turn(false, ms(1)), None);
        pause.end_turn(Nanos::NEVER, ms(1));
        assert_eq!(pause.begin_turn(true, ms(100_000)), None, "nothing was promised");
        pause.end_turn(ms(101_000), ms(100_000));
        assert_eq!(pause.begin_turn(false, ms(101_500)), None, "half a second late is in time");
        pause.end_turn(Nanos::ZERO, ms(101_500));
        assert_eq!(
            pause.begin_turn(false, ms(102_001)),
            Some(ms(501)),
            "it wanted to go on at once"
        );
        assert!(pause.in_backlog());
    }

    #[test]
    fn the_backlog_ends_with_a_small_turn_or_in_time() {
        let paused = |more| {
            let mut pause = Pause::NONE;
            pause.end_turn(ms(10), ms(10));
            assert_eq!(pause.begin_turn(more, ms(10_010)), Some(ms(10_000)));
            pause.end_turn(ms(10_011), ms(10_010));
            pause
        };
        let mut small = paused(false);
        assert!(small.in_backlog(), "the first turn is old whatever it brings");
        small.begin_turn(true, ms(10_011));
        assert!(!small.in_backlog());
        let mut large = paused(true);
        for at in 10_011..10_060 {
            large.begin_turn(true, ms(at));
            large.end_turn(ms(at + 1), ms(at));
            assert!(large.in_backlog(), "{at}");
        }
        large.begin_turn(true, ms(10_060));
        assert!(!large.in_backlog(), "a busy node goes on");
        let mut emptied = paused(true);
        emptied.begin_turn(false, ms(10_011));
        assert!(emptied.in_backlog(), "the rest of what the large turn left");
        emptied.begin_turn(false, ms(10_012));
        assert!(!emptied.in_backlog());
    }
}
