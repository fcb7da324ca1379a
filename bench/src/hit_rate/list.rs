//! A doubly linked list of numbered blocks, each in it at most once.

const NONE: u32 = u32::MAX;

/// See the module's documentation.
pub struct List {
    /// Neighbours of each block: towards the front, towards the back; `None` when it is not in the list.
    links: Vec<Option<(u32, u32)>>,
    front: u32,
    back: u32,
    len: usize,
}

impl List {
    /// An empty list for blocks below `blocks`.
    pub fn new(blocks: usize) -> List {
        List { links: vec![None; blocks], front: NONE, back: NONE, len: 0 }
    }

    /// Blocks in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a block is in it.
    pub fn contains(&self, block: u32) -> bool {
        self.links[block as usize].is_some()
    }

    /// The last block.
    pub fn back(&self) -> Option<u32> {
        (self.back != NONE).then_some(self.back)
    }

    /// The neighbour of a block of the list on the side of the front.
    pub fn before(&self, block: u32) -> Option<u32> {
        let (before, _) = self.links[block as usize].expect("in the list");
        (before != NONE).then_some(before)
    }

    /// Puts a block at the front that is not in the list.
    pub fn push_front(&mut self, block: u32) {
        assert!(!self.contains(block), "once");
        self.links[block as usize] = Some((NONE, self.front));
        match self.front {
            NONE => self.back = block,
            front => self.links[front as usize].as_mut().expect("in the list").0 = block,
        }
        self.front = block;
        self.len += 1;
    }

    /// Takes the last block out.
    pub fn pop_back(&mut self) -> Option<u32> {
        let back = self.back()?;
        self.remove(back);
        Some(back)
    }

    /// Takes a block out; whether it was in.
    pub fn remove(&mut self, block: u32) -> bool {
        let Some((before, after)) = self.links[block as usize].take() else { return false };
        match before {
            NONE => self.front = after,
            before => self.links[before as usize].as_mut().expect("in the list").1 = after,
        }
        match after {
            NONE => self.back = before,
            after => self.links[after as usize].as_mut().expect("in the list").0 = before,
        }
        self.len -= 1;
        true
    }
}
