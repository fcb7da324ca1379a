//! Whether a read that was not answered in time is lost, or only waits in a queue: what tells a bad link from a busy node.
//!
//! A repeat mends a loss and makes a queue longer: the node answers both. Thousands of devices that repeat what waits in one queue keep it
//! from ever ending. So a read is held for lost when something that was asked *after* it was answered (as RFC 8985 does for
//! TCP); until then a keep-alive is sent after it, which costs a node next to nothing, and whose answer is that evidence. It
//! costs a round trip, so a path that has just lost something repeats at once.

use diskstream_wire::Nanos;

/// Answers after a loss during which the path is thought to lose more. Derived: at 1 % loss a device that asks for 4 KiB (a request
/// and three fragments) meets the next one within 25.
const LOSSY_FOR: u8 = 32;

/// What the answers of one path have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// The latest moment at which something was asked that was answered.
    answered_up_to: Nanos,
    /// Answers until the last loss is forgotten.
    lossy_for: u8,
    /// Something waits for the answer to a keep-alive.
    awaited: bool,
}

impl Evidence {
    /// Something asked at `sent_at` was answered.
    #[inline]
    pub fn answered(&mut self, sent_at: Nanos) {
        self.answered_up_to = self.answered_up_to.max(sent_at);
        self.lossy_for = self.lossy_for.saturating_sub(1);
    }

    /// A repeat, or a hole in an answer, has shown that something was lost.
    pub fn lost(&mut self) {
        self.lossy_for = LOSSY_FOR;
    }

    /// A repeat was answered by what it repeated: that had not been lost.
    pub fn was_not_lost(&mut self) {
        self.lossy_for = 0;
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
    fn a_loss_is_remembered_for_some_answers_unless_it_was_none() {
        let mut evidence = Evidence::default();
        evidence.lost();
        for _ in 1..LOSSY_FOR {
            evidence.answered(Nanos::ZERO);
            assert!(evidence.speaks_for_loss(Nanos::from_secs(1)));
        }
        evidence.answered(Nanos::ZERO);
        assert!(!evidence.is_lossy());
        evidence.lost();
        evidence.was_not_lost();
        assert!(!evidence.is_lossy());
    }
}
