//! Small exact cache policies to compare with: single-threaded, over blocks numbered from 0.

use std::collections::{BTreeSet, VecDeque};

use super::list::List;

/// A cache of blocks that says whether it had one, and has it afterwards.
pub trait Policy {
    /// Uses a block; whether it was there.
    fn access(&mut self, block: u32) -> bool;
}

/// The names that [`make`] knows, in the order of the report.
pub const NAMES: [&str; 7] = ["lru", "clock", "sieve", "s3fifo", "arc", "wtinylfu", "best"];

/// A policy by its name, for `blocks` different blocks in `frames` frames. `future` is all that will be asked, for the one that
/// knows it.
pub fn make(name: &str, blocks: usize, frames: usize, future: &[u32]) -> Box<dyn Policy> {
    match name {
        "lru" => Box::new(Lru::new(blocks, frames)),
        "clock" => Box::new(Clock::new(blocks, frames)),
        "sieve" => Box::new(Sieve::new(blocks, frames)),
        "s3fifo" => Box::new(S3Fifo::new(blocks, frames)),
        "arc" => Box::new(super::arc::Arc::new(blocks, frames)),
        "wtinylfu" => Box::new(super::tiny_lfu::TinyLfu::new(blocks, frames)),
        "best" => Box::new(Best::new(blocks, frames, future)),
        _ => unreachable!("one of NAMES"),
    }
}

/// Evicts what was used longest ago.
struct Lru {
    order: List,
    frames: usize,
}

impl Lru {
    fn new(blocks: usize, frames: usize) -> Lru {
        Lru { order: List::new(blocks), frames }
    }
}

impl Policy for Lru {
    fn access(&mut self, block: u32) -> bool {
        let hit = self.order.remove(block);
        if !hit && self.order.len() == self.frames {
            self.order.pop_back();
        }
        self.order.push_front(block);
        hit
    }
}

/// A ring of frames with one bit each: used since the hand came by.
struct Clock {
    ring: VecDeque<u32>,
    present: Vec<bool>,
    used: Vec<bool>,
    frames: usize,
}

impl Clock {
    fn new(blocks: usize, frames: usize) -> Clock {
        Clock {
            ring: VecDeque::new(),
            present: vec![false; blocks],
            used: vec![false; blocks],
            frames,
        }
    }
}

impl Policy for Clock {
    fn access(&mut self, block: u32) -> bool {
        let at = block as usize;
        if self.present[at] {
            self.used[at] = true;
            return true;
        }
        while self.ring.len() == self.frames {
            let old = self.ring.pop_front().expect("full");
            if std::mem::take(&mut self.used[old as usize]) {
                self.ring.push_back(old);
            } else {
                self.present[old as usize] = false;
            }
        }
        self.ring.push_back(block);
        self.present[at] = true;
        false
    }
}

/// SIEVE (Zhang et al., NSDI 2024): like CLOCK, but survivors keep their place and newcomers enter at the head.
struct Sieve {
    order: List,
    used: Vec<bool>,
    hand: Option<u32>,
    frames: usize,
}

impl Sieve {
    fn new(blocks: usize, frames: usize) -> Sieve {
        Sieve { order: List::new(blocks), used: vec![false; blocks], hand: None, frames }
    }

    fn evict(&mut self) {
        let mut at = self.hand.or_else(|| self.order.back()).expect("full");
        while std::mem::take(&mut self.used[at as usize]) {
            at = self.order.before(at).or_else(|| self.order.back()).expect("full");
        }
        self.hand = self.order.before(at);
        self.order.remove(at);
    }
}

impl Policy for Sieve {
    fn access(&mut self, block: u32) -> bool {
        if self.order.contains(block) {
            self.used[block as usize] = true;
            return true;
        }
        if self.order.len() == self.frames {
            self.evict();
        }
        self.order.push_front(block);
        false
    }
}

/// S3-FIFO as published (Yang et al., SOSP 2023): every use counts, up to three.
struct S3Fifo {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: List,
    uses: Vec<u8>,
    present: Vec<bool>,
    frames: usize,
    small_target: usize,
}

impl S3Fifo {
    fn new(blocks: usize, frames: usize) -> S3Fifo {
        S3Fifo {
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: List::new(blocks),
            uses: vec![0; blocks],
            present: vec![false; blocks],
            frames,
            small_target: (frames / 10).max(1),
        }
    }

    fn evict(&mut self) {
        while self.small.len() + self.main.len() == self.frames {
            if self.small.len() >= self.small_target || self.main.is_empty() {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
    }

    fn evict_small(&mut self) {
        let Some(block) = self.small.pop_front() else { return };
        if self.uses[block as usize] > 1 {
            self.uses[block as usize] = 0;
            self.main.push_back(block);
        } else {
            self.present[block as usize] = false;
            if self.ghost.len() >= self.frames - self.small_target {
                self.ghost.pop_back();
            }
            self.ghost.push_front(block);
        }
    }

    fn evict_main(&mut self) {
        let block = self.main.pop_front().expect("not empty");
        if self.uses[block as usize] > 0 {
            self.uses[block as usize] -= 1;
            self.main.push_back(block);
        } else {
            self.present[block as usize] = false;
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, block: u32) -> bool {
        let at = block as usize;
        if self.present[at] {
            self.uses[at] = (self.uses[at] + 1).min(3);
            return true;
        }
        let remembered = self.ghost.remove(block);
        self.evict();
        self.uses[at] = 0;
        self.present[at] = true;
        let queue = if remembered { &mut self.main } else { &mut self.small };
        queue.push_back(block);
        false
    }
}

/// Belady's: evicts what is needed again last. Nothing does better; it knows the future.
struct Best {
    /// When each access's block is asked for again.
    next: Vec<usize>,
    at: usize,
    /// Blocks that are here, by when they are needed again.
    due: BTreeSet<(usize, u32)>,
    due_of: Vec<Option<usize>>,
    frames: usize,
}

impl Best {
    fn new(blocks: usize, frames: usize, future: &[u32]) -> Best {
        let mut last = vec![usize::MAX; blocks];
        let mut next = vec![usize::MAX; future.len()];
        for (at, &block) in future.iter().enumerate().rev() {
            next[at] = std::mem::replace(&mut last[block as usize], at);
        }
        Best { next, at: 0, due: BTreeSet::new(), due_of: vec![None; blocks], frames }
    }
}

impl Policy for Best {
    fn access(&mut self, block: u32) -> bool {
        let next = self.next[self.at];
        self.at += 1;
        let was_due = self.due_of[block as usize].replace(next);
        if let Some(due) = was_due {
            self.due.remove(&(due, block));
        } else if self.due.len() == self.frames {
            let (_, victim) = self.due.pop_last().expect("full");
            self.due_of[victim as usize] = None;
        }
        self.due.insert((next, block));
        was_due.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these accesses hit, as a word.
    fn run(name: &str, frames: usize, blocks: &[u32]) -> String {
        let mut policy = make(name, 64, frames, blocks);
        blocks.iter().map(|&block| if policy.access(block) { 'h' } else { '.' }).collect()
    }

    #[test]
    fn each_policy_by_hand() {
        assert_eq!(run("lru", 2, &[1, 2, 1, 3, 1, 2]), "..h.h.");
        // The hand spares 1 once, then takes it.
        assert_eq!(run("clock", 2, &[1, 2, 1, 3, 1, 4, 1]), "..h.h.h");
        // The hand spares 1, takes 2, and goes on to 3 instead of the newcomer.
        assert_eq!(run("sieve", 3, &[1, 2, 3, 1, 4, 5, 1, 4, 5, 3]), "...h..hhh.");
        // 2 and 3 flow through the small queue; 1 was used twice and went to the main one.
        assert_eq!(run("s3fifo", 2, &[1, 1, 1, 2, 3, 4, 1]), ".hh...h");
        assert_eq!(run("best", 2, &[1, 2, 3, 1, 2, 3]), "...h.h");
    }

    #[test]
    fn a_cache_that_holds_everything_misses_each_block_once() {
        let blocks: Vec<u32> = (0..3).flat_map(|_| 0..20).collect();
        for name in NAMES {
            let hits = run(name, 64, &blocks).matches('h').count();
            assert_eq!(hits, 40, "{name}");
        }
    }

    #[test]
    fn nothing_beats_the_best() {
        let mut random = crate::random::Random::new(5);
        let blocks: Vec<u32> = (0..5_000)
            .map(|_| u32::try_from(random.below(64).min(random.below(64))).expect("small"))
            .collect();
        let hits = |name| run(name, 12, &blocks).matches('h').count();
        for name in NAMES {
            assert!(hits(name) <= hits("best"), "{name}");
            assert!(hits(name) > 1_000, "{name}: {}", hits(name));
        }
    }
}
