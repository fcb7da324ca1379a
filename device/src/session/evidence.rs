//! Whether a read that was not answered in time is lost, or only waits in a queue: what tells a bad link from a busy node.
//!
//! A repeat mends a loss and makes a queue longer: the node answers both. Thousands of devices that repeat what waits in one queue keep it
//! from ever ending. So a read is held for lost when something that was asked *after* it was answered (as RFC 8985 does for
//! TCP); until then a keep-alive is sent after it, which costs a node next to nothing, and whose answer is that evidence. It
//! costs a round trip, so a path that has just lost something repeats at once.

use diskstream_wire::Nanos;

use super::limits::REORDER_MIN;

/// Answers after a loss during which the path is thought to lose more. Derived: at 1 % loss a device that asks for 4 KiB (a request
/// and three fragments) meets the next one within 25.
const LOSSY_FOR: u8 = 32;

/// Quarters of a round trip by which the tolerance for reordering may grow (RFC 8985: up to a round trip).
const WIDENINGS_MAX: u8 = 3;
/// Answers after which one such quarter is taken back. Guess: a second of a machine that boots.
const WIDENED_FOR: u8 = 64;

/// What the answers of one path have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// The latest moment at which something was asked that was answered.
    answered_up_to: Nanos,
    /// Answers until the last loss is forgotten.
    lossy_for: u8,
    /// Something waits for the answer to a keep-alive.
    awaited: bool,
    /// Quarters of a round trip that the tolerance for reordering has grown by, and answers until the next is taken back.
    widened: u8,
    widened_for: u8,
}

impl Evidence {
    /// Something asked at `sent_at` was answered.
    #[inline]
    pub fn answered(&mut self, sent_at: Nanos) {
        self.answered_up_to = self.answered_up_to.max(sent_at);
        self.lossy_for = self.lossy_for.saturating_sub(1);
        if self.widened > 0 {
            self.widened_for = self.widened_for.saturating_sub(1);
            if self.widened_for == 0 {
                self.widened -= 1;
                self.widened_for = WIDENED_FOR;
            }
        }
    }

    /// After this long behind the last fragment that arrived, the holes of an answer count as lost.
    pub fn reorder(&self, smoothed: Nanos) -> Nanos {
        Nanos(smoothed.0 / 4 * u64::from(1 + self.widened)).max(REORDER_MIN)
    }

    /// A fragment arrived that had been held for lost, and asked for again: the way mixes its datagrams more than was tolerated.
    pub fn overtook_more(&mut self) {
        self.widened = (self.widened + 1).min(WIDENINGS_MAX);
        self.widened_for = WIDENED_FOR;
    }

    /// A repeat, or a hole in an answer, has shown that something was lost.
    pub fn lost(&mut self) {
        self.lossy_for = LOSSY_FOR;
    }

    /// Whether something asked at `sent_at` and not answered is to be asked again now.
    pub fn speaks_for_loss(&self, sent_at: Nanos) -> bool {
        // What is sent in one turn has one time: nothing follows from their order.
        self.answered_up_to > sent_at || self.is_lossy()
    }

    /// The path has just lost something.
    pub fn is_lossy(&self) -> bool {
        self.lossy_for > 0
    }

    /// A read waits for the answer to the next keep-alive.
    pub fn await_answer(&mut self) {
        self.awaited = true;
    }

    /// The answer to a keep-alive came; whether a read waits for that.
    pub fn take_awaited(&mut self) -> bool {
        std::mem::take(&mut self.awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_later_speaks_for_a_loss() {
        let mut evidence = Evidence::default();
        let at = Nanos::from_millis;
        assert!(!evidence.speaks_for_loss(at(10)));
        evidence.answered(at(9));
        evidence.answered(at(10));
        assert!(
            !evidence.speaks_for_loss(at(10)),
            "what was asked before it, or with it, was answered"
        );
        evidence.answered(at(11));
        assert!(evidence.speaks_for_loss(at(10)));
        evidence.answered(at(5));
        assert!(evidence.speaks_for_loss(at(10)), "a late answer takes nothing back");
    }

    #[test]
    fn the_tolerance_for_reordering_grows_to_a_round_trip_and_shrinks_again() {
        let (rtt, mut evidence) = (Nanos::from_millis(20), Evidence::default());
        assert_eq!(evidence.reorder(Nanos::from_micros(100)), REORDER_MIN);
        for quarters in [1, 2, 3, 4, 4] {
            assert_eq!(evidence.reorder(rtt), Nanos::from_millis(5 * quarters));
            evidence.overtook_more();
        }
        for _ in 0..3 * usize::from(WIDENED_FOR) {
            assert!(evidence.reorder(rtt) > Nanos::from_millis(5));
            evidence.answered(Nanos::ZERO);
        }
        assert_eq!(evidence.reorder(rtt), Nanos::from_millis(5));
    }

    #[test]
    fn a_loss_is_remembered_for_some_answers() {
        let mut evidence = Evidence::default();
        evidence.lost();
        for _ in 1..LOSSY_FOR {
            evidence.answered(Nanos::ZERO);
            assert!(evidence.speaks_for_loss(Nanos::from_secs(1)));
        }
        evidence.answered(Nanos::ZERO);
        assert!(!evidence.is_lossy());
    }
}
