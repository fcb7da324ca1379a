//! Keep-alives are worth no wake-up each: when they are all that comes, they are let gather for some milliseconds.
//!
//! A shard that sleeps between two keep-alives pays for each of them what a sleep and a wake-up cost, several times what it
//! costs to answer one: with 100,000 idle sessions and 2,500 keep-alives a second a shard used 14 % of a core that way, of
//! which half was sleeping and waking (`perf`, on a virtual machine). Nobody waits for these answers.
//!
//! Everything else that comes in ends the gathering at once, so that reads and logins wait for at most one such period, and only
//! after a pause of [`QUIET`]. Rejected: to end the period with the first few completions, so that a read waits less. Nothing tells a read from
//! a keep-alive before it is received, so a few keep-alives would end it as well: at 2,500 a second four of them come within 1.6 ms, and
//! already a period of 5 ms costs more of a core than 100,000 idle sessions may.

use diskstream_wire::time::Nanos;

/// How long what arrives may gather. Measured at 2,500 keep-alives a second: 14.6 % of a core without, 4.5 to 5.5 % with 5 ms, 4.0 to
/// 4.2 % with 10 ms, as each wake-up finds cold caches (3.1 to 3.4 % since sweeps cost less). Bound: half of the shortest time after which a device asks its standby as
/// well (20 ms).
const GATHER_FOR: Nanos = Nanos::from_millis(10);
/// Nothing but keep-alives for so long: nobody reads. Guessed: longer than the pauses of a machine that boots or works.
const QUIET: Nanos = Nanos::from_millis(200);
/// Keep-alives within [`QUIET`] that are worth it: two for each period, 200 a second. Fewer cost little either way.
const WORTH: u32 = 40;

/// What came in lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gather {
    /// When something came last that somebody waits for.
    active_at: Nanos,
    /// Beginning of the period in which keep-alives are counted.
    since: Nanos,
    count: u32,
    /// The last whole period had enough of them.
    worth: bool,
}

impl Gather {
    pub(super) const NONE: Gather =
        Gather { active_at: Nanos::ZERO, since: Nanos::ZERO, count: 0, worth: false };

    /// Something came that somebody waits for.
    #[inline]
    pub(super) fn active(&mut self, now: Nanos) {
        self.active_at = now;
    }

    /// A keep-alive came.
    pub(super) fn keep_alive(&mut self, now: Nanos) {
        self.look(now);
        self.count += 1;
    }

    /// How long the next datagrams may gather; zero: each is wanted at once.
    pub(super) fn period(&mut self, now: Nanos) -> Nanos {
        self.look(now);
        let quiet = now.since(self.active_at) >= QUIET;
        if quiet && self.worth { GATHER_FOR } else { Nanos::ZERO }
    }

    fn look(&mut self, now: Nanos) {
        let passed = now.since(self.since);
        if passed >= QUIET {
            // A period that ended long ago says nothing of now.
            self.worth = self.count >= WORTH && passed < QUIET + QUIET;
            (self.since, self.count) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keep-alives at this distance, from `from` to `to` milliseconds; the period that the last one finds.
    fn come(gather: &mut Gather, from: u64, to: u64, every_us: u64) -> Nanos {
        let mut now = Nanos::from_millis(from);
        while now < Nanos::from_millis(to) {
            gather.keep_alive(now);
            now = now + Nanos(every_us * 1000);
        }
        gather.period(Nanos::from_millis(to))
    }

    #[test]
    fn many_keep_alives_and_nothing_else_gather() {
        let mut gather = Gather::NONE;
        assert_eq!(come(&mut gather, 1000, 1100, 400), Nanos::ZERO, "not known yet");
        assert_eq!(come(&mut gather, 1100, 1500, 400), GATHER_FOR);
        assert_eq!(come(&mut gather, 1500, 2500, 10_000), Nanos::ZERO, "100 a second are too few");
    }

    #[test]
    fn a_read_ends_it_until_it_is_quiet_again() {
        let mut gather = Gather::NONE;
        assert_eq!(come(&mut gather, 1000, 1500, 400), GATHER_FOR);
        gather.active(Nanos::from_millis(1500));
        assert_eq!(come(&mut gather, 1500, 1690, 400), Nanos::ZERO);
        assert_eq!(come(&mut gather, 1690, 1701, 400), GATHER_FOR);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut gather = Gather::NONE;
        assert_eq!(come(&mut gather, 1000, 1500, 400), GATHER_FOR);
        assert_eq!(gather.period(Nanos::from_millis(9000)), Nanos::ZERO);
    }
}
