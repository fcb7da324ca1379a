//! Runs that are found, runs that are not, and what mistakes cost.

use std::collections::BTreeSet;

use super::*;

/// A device's reads, and what was read ahead of them.
#[derive(Default)]
struct Trial {
    ahead: Option<Ahead>,
    asked: BTreeSet<u32>,
    issued: BTreeSet<u32>,
    /// Blocks that were there before they were asked for.
    early: usize,
}

impl Trial {
    fn ask(&mut self, block: u32) {
        let ahead = self.ahead.get_or_insert(Ahead::new(false));
        let given = ahead.asks(u64::from(block));
        self.early += usize::from(self.asked.insert(block) && self.issued.contains(&block));
        if let Some((from, count)) = given {
            assert!(from > block, "only what comes is read ahead");
            for block in from..from + u32::from(count) {
                assert!(self.issued.insert(block), "block {block} is given twice");
            }
        }
    }

    fn wasted(&self) -> usize {
        self.issued.difference(&self.asked).count()
    }
}

#[test]
fn a_sequential_reader_finds_nearly_all_there() {
    let mut trial = Trial::default();
    (0..1000).for_each(|block| trial.ask(block));
    assert!(trial.early > 990, "{} of 1000 were early", trial.early);
    assert!(trial.wasted() <= usize::from(WINDOW_MAX));
}

#[test]
fn small_reads_of_a_block_are_one_step() {
    let mut trial = Trial::default();
    (0..1600).for_each(|read| trial.ask(read / 16));
    assert!(trial.early > 90 && trial.wasted() <= usize::from(WINDOW_MAX), "{}", trial.early);
}

#[test]
fn several_runs_at_once_are_told_apart() {
    let mut trial = Trial::default();
    for step in 0..200 {
        for run in 0..4 {
            trial.ask(run * 10_000 + step);
        }
    }
    assert!(trial.early > 4 * 190, "{} of 800 were early", trial.early);
}

#[test]
fn reordered_requests_are_still_a_run() {
    let mut trial = Trial::default();
    // Blocks 2 and 1 of each three change places, as the network does to requests of one call.
    for three in 0..100 {
        [0, 2, 1].iter().for_each(|at| trial.ask(three * 3 + at));
    }
    assert!(trial.early > 280, "{} of 300 were early", trial.early);
}

#[test]
fn random_reads_and_short_files_are_left_alone() {
    let mut trial = Trial::default();
    // A multiplicative generator over 2^20 blocks: no two neighbours in a row.
    let mut block = 1u32;
    for _ in 0..10_000 {
        block = (block.wrapping_mul(69_069) + 1) % (1 << 20);
        trial.ask(block);
    }
    assert!(trial.issued.len() < 10, "{} blocks for nothing", trial.issued.len());
    let mut trial = Trial::default();
    for file in 0..1000 {
        (0..3).for_each(|at| trial.ask(file * 100 + at));
    }
    assert_eq!(trial.issued.len(), 0);
}

#[test]
fn who_was_wrong_often_must_show_longer_runs() {
    // Files of five blocks: long enough to be believed once, too short to be worth it.
    let mut trial = Trial::default();
    (0..1000).for_each(|file| (0..5).for_each(|at| trial.ask(file * 100 + at)));
    let wasted = trial.wasted();
    assert!(wasted < 100, "{wasted} blocks for nothing, of 5000 read");
    // And then a long one, which earns the trust back.
    let before = trial.early;
    (500_000..501_000).for_each(|block| trial.ask(block));
    assert!(trial.early - before > 950);
}

#[test]
fn what_was_not_looked_up_is_given_again() {
    let mut ahead = Ahead::new(false);
    let given = (0..4).find_map(|block| ahead.asks(block)).expect("a run");
    ahead.take_back(given.1);
    let again = ahead.asks(4).expect("the run goes on");
    assert_eq!(again.0, 5, "the block after the one that is asked for now");
    ahead.take_back(u8::MAX);
}

#[test]
fn the_ends_of_what_can_be_numbered() {
    let mut ahead = Ahead::new(false);
    for block in [u64::MAX, u64::from(u32::MAX), u64::from(u32::MAX) - 1, 1 << 40] {
        assert_eq!(ahead.asks(block), None);
    }
    assert_eq!(ahead, Ahead::new(false));
    let last = u64::from(u32::MAX) - 2;
    let given: Vec<_> = (last - 20..=last).filter_map(|block| ahead.asks(block)).collect();
    assert!(!given.is_empty(), "a run at the end is a run");
    assert!((0..20).filter_map(|block| ahead.asks(block)).count() > 0);
}
