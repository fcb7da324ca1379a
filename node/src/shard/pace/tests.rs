use super::*;

/// Bytes at a rate in a time.
fn over(rate: u64, time: Nanos) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(time.0) / 1_000_000_000).unwrap_or(u64::MAX)
}

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

const PAYLOAD: u64 = 1452;
const DATAGRAM: u64 = PAYLOAD + BESIDES_PAYLOAD;
const PER_READ: u64 = 24;

/// `devices` ask for 32 KiB each of one of `shards` at one moment; the node's own link is `link` bytes in a second. Gives what was lost,
/// and how long it took.
fn burst(
    pace: Option<u64>,
    (devices, shards): (u64, usize),
    link: u64,
    switch: &mut Switch,
) -> Nanos {
    let (line, mut paces) = (Line::new(pace), vec![Pace::default(); shards]);
    let mut now = Nanos::from_secs(1);
    switch.at = now;
    for device in 0..devices {
        let pace = &mut paces[usize::try_from(device).unwrap() % shards];
        pace.begin(now);
        let mut woken = 0;
        while !pace.may_send(&line) {
            // As late as a thread is woken.
            now = pace.due(&line) + Nanos::from_micros(50);
            pace.begin(now);
            woken += 1;
            assert!(woken < 3, "a due moment is one at which something may be sent");
        }
        for _ in 0..PER_READ {
            switch.take(DATAGRAM, now);
            now = now + Nanos(DATAGRAM * 1_000_000_000 / link);
        }
        let payload = usize::try_from(PER_READ * PAYLOAD).unwrap();
        pace.sent(&line, on_the_line(payload, usize::try_from(PER_READ).unwrap(), false));
        pace.end(&line);
    }
    now - Nanos::from_secs(1)
}

const GIGABIT: u64 = 125_000_000;

#[test]
fn a_burst_that_overflows_a_queue_does_not_when_paced() {
    // 100 devices behind one gigabit, the node at ten; a shallow queue of 512 KiB.
    for shards in [1, 2, 7] {
        let mut unpaced = Switch::new(GIGABIT, 512 << 10);
        burst(None, (100, shards), 10 * GIGABIT, &mut unpaced);
        let mut paced = Switch::new(GIGABIT, 512 << 10);
        let took = burst(Some(GIGABIT), (100, shards), 10 * GIGABIT, &mut paced);
        let all = 100 * PER_READ;
        assert_eq!((unpaced.lost + unpaced.passed, paced.lost + paced.passed), (all, all));
        assert!(unpaced.lost > all / 2, "lost {} of {all}", unpaced.lost);
        assert_eq!(paced.lost, 0, "of {all}");
        // And the line was kept busy: no more than a tenth longer than its speed allows.
        let least = Nanos(all * DATAGRAM * 1_000_000_000 / GIGABIT);
        assert!(took < least + Nanos(least.0 / 10), "{shards}: {took:?} {least:?}");
    }
}

#[test]
fn two_nodes_that_halve_the_pace_share_a_port() {
    let mut switch = Switch::new(GIGABIT, 512 << 10);
    // The other node's half is gone before ours comes: what is left of the line is ours.
    switch.rate /= 2;
    burst(Some(GIGABIT / 2), (50, 1), 10 * GIGABIT, &mut switch);
    assert_eq!(switch.lost, 0);
}

/// Shards that always have something to send, in turns of so many bytes; what they sent in two seconds.
fn greedy(rate: u64, shards: usize, turn_bytes: u64) -> Vec<u64> {
    let (line, mut paces) = (Line::new(Some(rate)), vec![Pace::default(); shards]);
    let mut sent = vec![0; shards];
    let mut now = Nanos::from_secs(5);
    let end = now + Nanos::from_secs(2);
    while now < end && sent.iter().sum::<u64>() < 4 * rate {
        let mut next = Nanos::NEVER;
        for (pace, sent) in paces.iter_mut().zip(&mut sent) {
            pace.begin(now);
            if pace.may_send(&line) {
                pace.sent(&line, turn_bytes);
                pace.end(&line);
                *sent += turn_bytes;
                next = now + Nanos(50);
            } else {
                next = next.earlier(pace.due(&line));
            }
        }
        now = next;
    }
    sent
}

#[test]
fn the_rate_is_kept_whatever_the_turns_and_the_shards() {
    for shards in [1, 3] {
        for turn_bytes in [100, 1452, 65_507, 500_000] {
            for rate in [1_000_000, GIGABIT, 100 * GIGABIT] {
                let all: u64 = greedy(rate, shards, turn_bytes).iter().sum();
                let lead = over(rate, Line::new(Some(rate)).lead());
                let allowed = 2 * rate + lead + shards as u64 * turn_bytes;
                assert!(all <= allowed, "{shards} {turn_bytes} {rate}: {all} of {allowed}");
                let little = turn_bytes == 100 && rate == 100 * GIGABIT;
                assert!(all * 20 >= 2 * rate * 19 || little, "{shards} {turn_bytes} {rate}: {all}");
            }
        }
    }
}

#[test]
fn a_shard_alone_has_the_whole_rate() {
    let line = Line::new(Some(GIGABIT));
    let mut busy = Pace::default();
    let (mut now, mut sent) = (Nanos::from_secs(1), 0);
    let end = now + Nanos::from_secs(1);
    while now < end {
        busy.begin(now);
        if busy.may_send(&line) {
            busy.sent(&line, 10_000);
            busy.end(&line);
            sent += 10_000;
        } else {
            now = busy.due(&line);
        }
    }
    assert!(sent * 20 > GIGABIT * 19, "{sent}");
}

#[test]
fn without_a_rate_nothing_waits() {
    let (line, mut pace) = (Line::new(None), Pace::default());
    pace.begin(Nanos(5));
    pace.sent(&line, u64::MAX);
    assert!(pace.may_send(&line));
    assert_eq!(Line::new(Some(0)).rate, 1);
}

#[test]
fn shards_with_little_to_send_do_not_wait_for_each_other() {
    // What sixteen shards send at one moment is a quarter of what may be on its way.
    let line = Line::new(Some(10 * GIGABIT));
    for _ in 0..16 {
        let mut pace = Pace::default();
        pace.begin(Nanos::from_secs(1));
        assert!(pace.may_send(&line));
        pace.sent(&line, 4096);
        pace.end(&line);
    }
}

#[test]
fn a_long_silence_saves_no_more_than_the_lead() {
    let (line, mut pace) = (Line::new(Some(GIGABIT)), Pace::default());
    pace.begin(Nanos::from_secs(1));
    pace.sent(&line, 1000);
    pace.end(&line);
    pace.begin(Nanos::from_secs(1000));
    let mut sent = 0;
    while pace.may_send(&line) {
        pace.sent(&line, 1000);
        sent += 1000;
    }
    assert!(sent <= over(GIGABIT, line.lead()) + 1000, "{sent}");
}
