//! ARC (Megiddo and Modha, FAST 2003): two LRU lists, recent and frequent, whose share adapts to which of two ghost lists is asked for.

use super::list::List;
use super::policies::Policy;

/// See the module's documentation. Names as in the paper: T1, T2 hold blocks, B1, B2 remember.
pub struct Arc {
    recent: List,
    frequent: List,
    recent_ghost: List,
    frequent_ghost: List,
    recent_target: usize,
    frames: usize,
}

impl Arc {
    /// For blocks below `blocks`.
    pub fn new(blocks: usize, frames: usize) -> Arc {
        let list = || List::new(blocks);
        Arc {
            recent: list(),
            frequent: list(),
            recent_ghost: list(),
            frequent_ghost: list(),
            recent_target: 0,
            frames,
        }
    }

    /// Makes room for one block.
    fn replace(&mut self, in_frequent_ghost: bool) {
        let recent = self.recent.len();
        let over =
            recent > self.recent_target || (in_frequent_ghost && recent == self.recent_target);
        if recent > 0 && (over || self.frequent.len() == 0) {
            let block = self.recent.pop_back().expect("not empty");
            self.recent_ghost.push_front(block);
        } else if let Some(block) = self.frequent.pop_back() {
            self.frequent_ghost.push_front(block);
        }
    }

    fn miss(&mut self, block: u32) {
        let recent = self.recent.len() + self.recent_ghost.len();
        let all = recent + self.frequent.len() + self.frequent_ghost.len();
        if recent == self.frames {
            if self.recent.len() < self.frames {
                self.recent_ghost.pop_back();
                self.replace(false);
            } else {
                self.recent.pop_back();
            }
        } else if all >= self.frames {
            if all == 2 * self.frames {
                self.frequent_ghost.pop_back();
            }
            self.replace(false);
        }
        self.recent.push_front(block);
    }
}

impl Policy for Arc {
    fn access(&mut self, block: u32) -> bool {
        let ghosts = (self.recent_ghost.len(), self.frequent_ghost.len());
        if self.recent.remove(block) || self.frequent.remove(block) {
            self.frequent.push_front(block);
            return true;
        }
        if self.recent_ghost.remove(block) {
            let step = (ghosts.1 / ghosts.0).max(1);
            self.recent_target = (self.recent_target + step).min(self.frames);
            self.replace(false);
            self.frequent.push_front(block);
        } else if self.frequent_ghost.remove(block) {
            let step = (ghosts.0 / ghosts.1).max(1);
            self.recent_target = self.recent_target.saturating_sub(step);
            self.replace(true);
            self.frequent.push_front(block);
        } else {
            self.miss(block);
        }
        false
    }
}
