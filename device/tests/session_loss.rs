//! Loss and jitter as issue 3 defines them: 5 % of datagrams each way, and uniformly 0 to 20 ms on each, which reorders them. What
//! is claimed: no move without a reason, few hedges, and a short stall when the node does die.
//!
//! Each device is a world of its own with a seed of its own; reads are open-loop, 20 a second, and a stall is completion less
//! scheduled time. The usual run has some ten thousand reads; `--run-ignored all` has more than a million.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use std::collections::HashMap;

use diskstream_device::session::Event;
use diskstream_wire::Nanos;
use session_support::{Fate, World};

const IMAGE: usize = 1 << 20;
const EVERY: Nanos = ms(50);
const LOSS_PERCENT: u64 = 5;
const JITTER_US: u64 = 20_000;

const fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What one device saw, or all of them.
#[derive(Default)]
struct Outcome {
    reads: u64,
    hedged_reads: u64,
    moves: u64,
    suspicions: u64,
    stalls: Vec<Nanos>,
    longest_each: Vec<Nanos>,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.reads += other.reads;
        self.hedged_reads += other.hedged_reads;
        self.moves += other.moves;
        self.suspicions += other.suspicions;
        self.longest_each.push(other.stalls.iter().copied().max().unwrap_or(Nanos::ZERO));
        self.stalls.extend(other.stalls);
    }

    fn print(&mut self, what: &str) {
        self.stalls.sort_unstable();
        self.longest_each.sort_unstable();
        let at = |list: &[Nanos], per_mille: usize| {
            list[(list.len() * per_mille / 1000).min(list.len() - 1)].as_millis()
        };
        let rate = self.hedged_reads * 100_000 / self.reads.max(1);
        println!(
            "{what}: {} devices, {} reads, {} moves, {} times silent and back, {} hedged ({}.{:03} %)",
            self.longest_each.len(),
            self.reads,
            self.moves,
            self.suspicions,
            self.hedged_reads,
            rate / 1000,
            rate % 1000,
        );
        for (name, list) in
            [("reads", &self.stalls), ("longest of each device", &self.longest_each)]
        {
            println!(
                "  {name}: ms p50 {} p90 {} p99 {} p99.9 {} max {}",
                at(list, 500),
                at(list, 900),
                at(list, 990),
                at(list, 999),
                at(list, 1000),
            );
        }
    }
}

/// A device reads for `time` over a lossy network; at `kill` its node falls silent for ever.
fn device(seed: u64, time: Nanos, kill: Option<Nanos>) -> Outcome {
    let mut world = World::with_seed(2, IMAGE, seed.to_le_bytes()[0]);
    world.open();
    world.run_until(ms(2000), |w| w.session.status(w.now).standby.is_some());
    let mut state = seed;
    let mut drawn = seed ^ 0xabcd;
    world.set_network(move |_, _| {
        if splitmix(&mut drawn) % 100 < LOSS_PERCENT {
            Fate::Drop
        } else {
            Fate::Late(Nanos::from_micros(splitmix(&mut drawn) % JITTER_US))
        }
    });
    let start = world.now;
    let end = start + time;
    let mut next = start + Nanos(splitmix(&mut state) % EVERY.0);
    let mut open = HashMap::new();
    let mut outcome = Outcome::default();
    while world.now < end || !open.is_empty() {
        if kill.is_some_and(|kill| world.now >= start + kill) {
            world.node(1).down = true;
        }
        if world.now >= next && world.now < end {
            // Every fifth unit is zeros, which is one datagram; the others are three.
            let unit = splitmix(&mut state) % 256;
            open.insert(world.start_read(unit * 4096, 4096), world.now);
            next = next + EVERY;
        }
        world.step(if world.now < end { next } else { world.now + ms(5) });
        for event in world.events.drain(..) {
            if let Event::ReadDone { token, result, .. } = event {
                result.unwrap();
                outcome.stalls.push(world.now.since(open.remove(&token).unwrap()));
            }
        }
        assert!(world.now < end + ms(30_000), "seed {seed}: reads do not end");
    }
    let counters = world.session.counters();
    outcome.reads = counters.reads;
    outcome.hedged_reads = counters.hedged_reads;
    outcome.moves = counters.moves;
    outcome.suspicions = counters.moves_averted;
    outcome
}

fn nobody_moves(devices: u64, minutes: u64) {
    let mut all = Outcome::default();
    for seed in 1..=devices {
        all.add(device(seed, Nanos::from_secs(60 * minutes), None));
    }
    all.print("5 % loss and 20 ms jitter");
    assert_eq!(all.moves, 0);
    assert!(all.hedged_reads * 100 <= all.reads, "at most 1 %");
    assert!(all.stalls.last().unwrap() < &ms(1000));
}

fn a_kill(devices: u64) {
    let mut all = Outcome::default();
    for seed in 1..=devices {
        let at = ms(5000) + Nanos(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_000);
        all.add(device(seed, ms(9000), Some(at)));
    }
    all.print("a kill at 5 % loss and 20 ms jitter");
    assert_eq!(all.moves, devices, "each moves once");
    assert!(all.longest_each.last().unwrap() <= &ms(500), "{:?}", all.longest_each.last());
}

#[test]
fn loss_and_jitter_move_nobody_and_hedge_little() {
    nobody_moves(12, 1);
}

#[test]
fn a_kill_under_loss_is_a_short_stall() {
    a_kill(60);
}

#[test]
#[ignore = "more than a million reads"]
fn loss_and_jitter_move_nobody_in_a_million_reads() {
    nobody_moves(280, 3);
}

#[test]
#[ignore = "two thousand devices"]
fn two_thousand_kills_under_loss() {
    a_kill(2000);
}
