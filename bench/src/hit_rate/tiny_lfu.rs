//! W-TinyLFU (Einziger et al., ACM TOS 2017): a small LRU window before a segmented LRU, and an admission that compares how often the
//! newcomer and the victim were used lately.

use super::list::List;
use super::policies::Policy;

/// See the module's documentation. Frequencies are counted exactly instead of in a sketch, up to 15 and halved after ten uses per frame: the
/// numbers of blocks are small here, and a sketch could only do worse.
pub struct TinyLfu {
    window: List,
    probation: List,
    protected: List,
    uses: Vec<u8>,
    counted: usize,
    window_frames: usize,
    main_frames: usize,
}

impl TinyLfu {
    /// For blocks below `blocks`: 1 % window, 80 % of the rest protected, as published.
    pub fn new(blocks: usize, frames: usize) -> TinyLfu {
        let window_frames = (frames / 100).max(1);
        TinyLfu {
            window: List::new(blocks),
            probation: List::new(blocks),
            protected: List::new(blocks),
            uses: vec![0; blocks],
            counted: 0,
            window_frames,
            main_frames: frames - window_frames,
        }
    }

    fn count(&mut self, block: u32) {
        let uses = &mut self.uses[block as usize];
        *uses = (*uses + 1).min(15);
        self.counted += 1;
        if self.counted >= 10 * (self.window_frames + self.main_frames) {
            self.counted = 0;
            self.uses.iter_mut().for_each(|uses| *uses /= 2);
        }
    }

    /// A block that leaves the window asks to be let in.
    fn admit(&mut self, candidate: u32) {
        if self.probation.len() + self.protected.len() < self.main_frames {
            return self.probation.push_front(candidate);
        }
        let victim = self.probation.back().or_else(|| self.protected.back());
        let Some(victim) = victim else { return };
        if self.uses[candidate as usize] > self.uses[victim as usize] {
            let _ = self.probation.remove(victim) || self.protected.remove(victim);
            self.probation.push_front(candidate);
        }
    }
}

impl Policy for TinyLfu {
    fn access(&mut self, block: u32) -> bool {
        self.count(block);
        if self.window.remove(block) {
            self.window.push_front(block);
            return true;
        }
        if self.protected.remove(block) || self.probation.remove(block) {
            self.protected.push_front(block);
            if self.protected.len() > self.main_frames * 4 / 5 {
                let demoted = self.protected.pop_back().expect("not empty");
                self.probation.push_front(demoted);
            }
            return true;
        }
        self.window.push_front(block);
        if self.window.len() > self.window_frames {
            let candidate = self.window.pop_back().expect("not empty");
            self.admit(candidate);
        }
        false
    }
}
