//! When each member of a fleet is due: a heap that knows where each member stands in it, so that a deadline is moved in place.
//!
//! A turn moves the deadlines of the members that did something, and asks for the first: both are O(log n) at most, whereas
//! looking at all of 4,000 members costs each turn more than its work. A heap with lazy deletion would not do: deadlines
//! jump between milliseconds (a read is out) and half a minute (nothing is), and what is left behind there piles up.

use diskstream_wire::Nanos;

use super::fleet::Member;

/// Deadlines of members 0 to n − 1.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// A binary heap of members by deadline, the earliest first.
    heap: Vec<(Nanos, Member)>,
    /// Where each member stands in the heap.
    places: Vec<usize>,
}

impl Deadlines {
    /// Adds the next member.
    pub fn push(&mut self, at: Nanos) {
        let member = self.places.len();
        self.places.push(self.heap.len());
        self.heap.push((at, member));
        self.up(self.heap.len() - 1);
    }

    /// The earliest deadline.
    pub fn first(&self) -> Nanos {
        self.heap.first().map_or(Nanos::NEVER, |&(at, _)| at)
    }

    /// A member that is due; its deadline becomes `NEVER`.
    pub fn take_due(&mut self, now: Nanos) -> Option<Member> {
        let &(at, member) = self.heap.first()?;
        if at > now || at == Nanos::NEVER {
            return None;
        }
        self.set(member, Nanos::NEVER);
        Some(member)
    }

    /// Moves a member's deadline.
    pub fn set(&mut self, member: Member, at: Nanos) {
        let place = self.places[member];
        let before = std::mem::replace(&mut self.heap[place].0, at);
        if at < before {
            self.up(place);
        } else if at > before {
            self.down(place);
        }
    }

    fn up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn down(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].0) else { break };
            if self.heap[place].0 <= self.heap[least].0 {
                break;
            }
            self.swap(place, least);
            place = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1] = a;
        self.places[self.heap[b].1] = b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_scan(
            members in 1usize..40,
            changes in proptest::collection::vec((any::<usize>(), 0u64..50, any::<bool>()), 1..300),
        ) {
            let mut deadlines = Deadlines::default();
            let mut plain = vec![Nanos::NEVER; members];
            for _ in 0..members {
                deadlines.push(Nanos::NEVER);
            }
            for (member, at, take) in changes {
                if take {
                    let now = Nanos(at);
                    let mut due = Vec::new();
                    while let Some(member) = deadlines.take_due(now) {
                        due.push(member);
                    }
                    due.sort_unstable();
                    let expected: Vec<_> = (0..members).filter(|&m| plain[m] <= now).collect();
                    expected.iter().for_each(|&m| plain[m] = Nanos::NEVER);
                    prop_assert_eq!(due, expected);
                } else {
                    plain[member % members] = Nanos(at);
                    deadlines.set(member % members, Nanos(at));
                }
                prop_assert_eq!(deadlines.first(), plain.iter().copied().min().unwrap());
            }
        }
    }
}
