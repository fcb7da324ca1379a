use super::*;

/// A switch's queue of `room` bytes in front of a line of `rate` bytes in a second, which a node feeds.
struct Switch {
    rate: u64,
    room: u64,
    queued: u64,
    at: Nanos,
    lost: u64,
    passed: u64,
}

impl Switch {
    fn new(rate: u64, room: u64) -> Switch {
        Switch { rate, room, queued: 0, at: Nanos::ZERO, lost: 0, passed: 0 }
    }

    fn take(&mut self, datagram: u64, now: Nanos) {
        let gone = over(self.rate, now.since(self.at)).min(self.queued);
        if gone > 0 || self.queued == 0 {
            (self.queued, self.at) = (self.queued - gone, now);
        }
        if self.queued + datagram > self.room {
            self.lost += 1;
        } else {
            self.queued += datagram;
            self.passed += 1;
        }
    }
}

const DATAGRAM: u64 = 1452 + 28;
const PER_READ: u64 = 24;

/// `devices` ask for 32 KiB at one moment; the node's own link is `link` bytes in a second. Gives what was lost, and how long it took.
fn burst(pace: Option<u64>, devices: u64, link: u64, switch: &mut Switch) -> Nanos {
    let mut pace = Pace::new(pace);
    let mut now = Nanos::from_secs(1);
    switch.at = now;
    for _ in 0..devices {
        pace.fill(now);
        let mut woken = 0;
        while !pace.may_send() {
            // As late as a thread is woken.
            now = pace.due() + Nanos::from_micros(50);
            pace.fill(now);
            woken += 1;
            assert!(woken < 3, "a due moment is one at which something may be sent");
        }
        for _ in 0..PER_READ {
            switch.take(DATAGRAM, now);
            now = now + Nanos(DATAGRAM * 1_000_000_000 / link);
        }
        pace.sent(PER_READ * DATAGRAM);
    }
    now - Nanos::from_secs(1)
}

const GIGABIT: u64 = 125_000_000;

#[test]
fn a_burst_that_overflows_a_queue_does_not_when_paced() {
    // 100 devices behind one gigabit, the node at ten; a shallow queue of 512 KiB.
    let mut unpaced = Switch::new(GIGABIT, 512 << 10);
    burst(None, 100, 10 * GIGABIT, &mut unpaced);
    let mut paced = Switch::new(GIGABIT, 512 << 10);
    let took = burst(Some(GIGABIT), 100, 10 * GIGABIT, &mut paced);
    let all = 100 * PER_READ;
    assert_eq!((unpaced.lost + unpaced.passed, paced.lost + paced.passed), (all, all));
    assert!(unpaced.lost > all / 2, "lost {} of {all}", unpaced.lost);
    assert_eq!(paced.lost, 0, "of {all}");
    // And the line was kept busy: no more than a tenth longer than its speed allows.
    let least = Nanos(all * DATAGRAM * 1_000_000_000 / GIGABIT);
    assert!(took < least + Nanos(least.0 / 10), "{took:?} {least:?}");
}

#[test]
fn two_nodes_that_halve_the_pace_share_a_port() {
    let mut switch = Switch::new(GIGABIT, 512 << 10);
    // The other node's half is gone before ours comes: what is left of the line is ours.
    switch.rate /= 2;
    burst(Some(GIGABIT / 2), 50, 10 * GIGABIT, &mut switch);
    assert_eq!(switch.lost, 0);
}

#[test]
fn the_rate_is_kept_whatever_the_turns() {
    for turn_bytes in [100, 1452, 65_507, 500_000] {
        for rate in [1_000_000, GIGABIT, 100 * GIGABIT] {
            let mut pace = Pace::new(Some(rate));
            let (start, mut sent) = (Nanos::from_secs(5), 0);
            let mut now = start;
            let end = start + Nanos::from_secs(2);
            while now < end && sent < 4 * rate {
                pace.fill(now);
                if pace.may_send() {
                    pace.sent(turn_bytes);
                    sent += turn_bytes;
                    now = now + Nanos(50);
                } else {
                    now = pace.due();
                }
            }
            let allowed = 2 * rate + Pace::burst(rate) + 2 * turn_bytes;
            assert!(sent <= allowed, "{turn_bytes} {rate}: {sent} of {allowed}");
            assert!(sent * 20 >= 2 * rate * 19 || turn_bytes == 100, "{turn_bytes} {rate}: {sent}");
        }
    }
}

#[test]
fn without_a_rate_nothing_waits() {
    let mut pace = Pace::new(None);
    pace.fill(Nanos(5));
    pace.sent(u64::MAX);
    assert!(pace.may_send());
    assert_eq!(Pace::new(Some(0)).rate, Some(1));
}

#[test]
fn a_long_silence_saves_no_more_than_a_burst() {
    let mut pace = Pace::new(Some(GIGABIT));
    pace.fill(Nanos::from_secs(1));
    pace.fill(Nanos::from_secs(1000));
    assert_eq!(pace.tokens, i64::try_from(Pace::burst(GIGABIT)).unwrap());
}
