//! How large a datagram does the path carry? Asked with padded probes, largest first, once a session is open; and of the size in use
//! when datagrams of it seem to be lost.

use diskstream_wire::{FragmentSize, Nanos};

use super::limits::{PATH_PROBE_AGAIN, PATH_PROBE_TRIES, PATH_PROBE_WAIT, PROBES_BELIEVED};

/// A probe that settled a doubt so long ago has nothing to do with a new one. Guess.
const PROBES_RECALLED: Nanos = Nanos(12 * PROBES_BELIEVED.0);
/// Doublings of the wait of a path whose probes mislead; then it is some seven days. Guess.
const MISLED_MAX: u32 = 10;

/// The search of one path.
#[derive(Clone, Copy, Debug)]
pub struct SizeProbe {
    /// What the path is known to carry, and what it might.
    floor: FragmentSize,
    hoped: FragmentSize,
    /// The size that is asked about.
    asking: Option<FragmentSize>,
    tries: u32,
    sequence: u32,
    next: Nanos,
    /// It is asked about the size in use: without an answer the path carries less.
    doubts: bool,
    /// When the search goes on once a doubt is settled.
    then: Nanos,
    /// When a probe settled a doubt; no data of that size arrived since.
    vouched: Option<Nanos>,
    /// Times that probes arrived and data did not.
    misled: u32,
}

impl SizeProbe {
    pub fn new(floor: FragmentSize, hoped: FragmentSize, now: Nanos) -> SizeProbe {
        let asking = (hoped > floor).then_some(hoped);
        let next = if asking.is_some() { now } else { Nanos::NEVER };
        let (doubts, then) = (false, Nanos::NEVER);
        let (vouched, misled) = (None, 0);
        SizeProbe {
            floor,
            hoped,
            asking,
            tries: 0,
            sequence: 0,
            next,
            doubts,
            then,
            vouched,
            misled,
        }
    }

    /// The probe to send now: its number and the datagram's bytes.
    pub fn due(&mut self, now: Nanos) -> Option<(u32, u16)> {
        if now < self.next || self.is_disproved(now) {
            return None;
        }
        if self.asking.is_some() && self.tries == PATH_PROBE_TRIES {
            self.asking = self.asking.and_then(smaller).filter(|&size| size > self.floor);
            self.tries = 0;
            if self.asking.is_none() {
                self.next = now + PATH_PROBE_AGAIN;
                return None;
            }
        }
        let asking = *self.asking.get_or_insert(self.hoped);
        self.tries += 1;
        self.sequence = self.sequence.wrapping_add(1);
        self.next = now + PATH_PROBE_WAIT;
        let bytes = u16::try_from(asking.datagram_bytes()).expect("a datagram fits 16 bits");
        Some((self.sequence, bytes))
    }

    /// A probe was answered in full; gives the size that the path carries.
    pub fn answered(
        &mut self,
        sequence: u32,
        probe_bytes: usize,
        now: Nanos,
    ) -> Option<FragmentSize> {
        let asking = self.asking?;
        if sequence != self.sequence || probe_bytes < asking.datagram_bytes() {
            return None;
        }
        self.asking = None;
        self.tries = 0;
        self.floor = asking;
        self.next = std::mem::replace(&mut self.then, Nanos::NEVER);
        if std::mem::take(&mut self.doubts) {
            self.vouched = Some(now);
        }
        Some(asking)
    }

    /// Data of the size in use arrived.
    pub fn carried(&mut self) {
        self.vouched = None;
    }

    /// Answers of the size in use did not come, and small ones did: does the path not carry them any more, or does the node only take
    /// its time? A node answers probes at once. Where they arrived and data still does not, the path is taken for one that carries less.
    pub fn doubt(&mut self, in_use: FragmentSize, now: Nanos) {
        let age = self.vouched.map(|since| now.since(since));
        if self.doubts || age.is_some_and(|age| age < PROBES_BELIEVED) {
            return;
        }
        let misled = age.is_some_and(|age| age < PROBES_RECALLED);
        self.misled += u32::from(misled);
        let tries = if misled { PATH_PROBE_TRIES } else { 0 };
        (self.then, self.doubts) = (self.next, true);
        (self.asking, self.tries, self.next) = (Some(in_use), tries, now);
    }

    /// Whether probes of the size in use were not answered either, or are no proof.
    pub fn is_disproved(&self, now: Nanos) -> bool {
        self.doubts && self.tries == PATH_PROBE_TRIES && now >= self.next
    }

    /// Full-size datagrams were lost: the path carries less than was thought. Asked again much later, and twice as much later each time
    /// that its probes had misled.
    pub fn fell_back(&mut self, floor: FragmentSize, now: Nanos) {
        self.floor = floor;
        self.asking = None;
        self.tries = 0;
        (self.doubts, self.then, self.vouched) = (false, Nanos::NEVER, None);
        let again = Nanos(PATH_PROBE_AGAIN.0 << self.misled.min(MISLED_MAX));
        self.next = if self.hoped > floor { now + again } else { Nanos::NEVER };
    }

    pub fn next_due(&self) -> Nanos {
        self.next
    }
}

fn smaller(size: FragmentSize) -> Option<FragmentSize> {
    FragmentSize::ALL.iter().rev().find(|&&other| other < size).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_asked_first_and_smaller_ones_after_silence() {
        let mut now = Nanos::from_secs(1);
        let mut probe = SizeProbe::new(FragmentSize::B1376, FragmentSize::B8192, now);
        let mut asked = Vec::new();
        for _ in 0..20 {
            asked.extend(probe.due(now).map(|(_, bytes)| bytes));
            now = now + PATH_PROBE_WAIT;
        }
        assert_eq!(asked, [8268, 8268, 4172, 4172]);
        now = now + PATH_PROBE_AGAIN;
        let (sequence, bytes) = probe.due(now).unwrap();
        assert_eq!(bytes, 8268);
        assert_eq!(probe.answered(sequence.wrapping_sub(1), 8268, now), None);
        assert_eq!(probe.answered(sequence, 4172, now), None);
        assert_eq!(probe.answered(sequence, 8268, now), Some(FragmentSize::B8192));
        assert_eq!(probe.next_due(), Nanos::NEVER);
    }

    #[test]
    fn a_size_in_doubt_is_asked_about_before_it_is_given_up() {
        let start = Nanos::from_secs(1);
        let mut probe = SizeProbe::new(FragmentSize::B1376, FragmentSize::B1376, start);
        let mut now = start;
        for _ in 0..2 {
            probe.doubt(FragmentSize::B1376, now);
            let (sequence, bytes) = probe.due(now).unwrap();
            assert_eq!(bytes, 1452);
            now = now + PATH_PROBE_WAIT;
            assert!(!probe.is_disproved(now), "one may be lost");
            assert_eq!(probe.answered(sequence, 1452, now), Some(FragmentSize::B1376));
            assert_eq!(probe.next_due(), Nanos::NEVER);
            probe.carried();
        }
        probe.doubt(FragmentSize::B1376, now);
        for _ in 0..PATH_PROBE_TRIES {
            assert!(probe.due(now).is_some());
            // More that is lost meanwhile does not begin it anew.
            probe.doubt(FragmentSize::B1376, now);
            now = now + PATH_PROBE_WAIT;
        }
        assert!(probe.is_disproved(now) && probe.due(now).is_none());
        probe.fell_back(FragmentSize::B1024, now);
        assert!(!probe.is_disproved(now));
        assert_eq!(probe.next_due(), now + PATH_PROBE_AGAIN);
    }

    #[test]
    fn probes_that_mislead_are_believed_for_some_seconds_and_asked_ever_later() {
        let mut now = Nanos::from_secs(1);
        let mut probe = SizeProbe::new(FragmentSize::B1024, FragmentSize::B1376, now);
        for times in 1..4 {
            let (sequence, _) = probe.due(now).unwrap();
            assert_eq!(probe.answered(sequence, 1452, now), Some(FragmentSize::B1376));
            // Two tries, and an answer to the second: no data arrives, and nobody asks for the next seconds.
            probe.doubt(FragmentSize::B1376, now);
            assert!(probe.due(now).is_some());
            now = now + PATH_PROBE_WAIT;
            let (sequence, _) = probe.due(now).unwrap();
            probe.answered(sequence, 1452, now);
            probe.doubt(FragmentSize::B1376, now + Nanos(PROBES_BELIEVED.0 - 1));
            assert!(!probe.is_disproved(now + Nanos(PROBES_BELIEVED.0 - 1)));
            now = now + PROBES_BELIEVED;
            probe.doubt(FragmentSize::B1376, now);
            assert!(probe.is_disproved(now));
            probe.fell_back(FragmentSize::B1024, now);
            assert!(!probe.is_disproved(now));
            assert_eq!(probe.next_due(), now + Nanos(PATH_PROBE_AGAIN.0 << times));
            now = probe.next_due();
        }
    }

    #[test]
    fn a_usual_link_is_not_probed() {
        let probe = SizeProbe::new(FragmentSize::B1376, FragmentSize::B1376, Nanos::ZERO);
        assert_eq!(probe.next_due(), Nanos::NEVER);
    }
}
