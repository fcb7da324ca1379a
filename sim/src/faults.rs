//! What befalls a world, each at its time.

use std::net::IpAddr;

use diskstream_wire::Nanos;

/// One blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is gone at once, and starts again after this time; [`Nanos::NEVER`]: not by itself.
    Crash {
        /// Which.
        node: usize,
        /// For how long.
        down: Nanos,
    },
    /// A node that does not run starts.
    Start(usize),
    /// A node is told to stop; when it has ended it starts again after this time.
    Drain {
        /// Which.
        node: usize,
        /// For how long it stays away.
        down: Nanos,
    },
    /// A node is told to empty for maintenance; it goes on running.
    Maintain(usize),
    /// It takes devices again.
    Resume(usize),
    /// A node's process stands still; what comes in meanwhile waits in its socket.
    Pause {
        /// Which.
        node: usize,
        /// For how long.
        time: Nanos,
    },
    /// Nothing gets from one host to another any more.
    Cut {
        /// Source.
        from: IpAddr,
        /// Destination.
        to: IpAddr,
    },
    /// It does again.
    Mend {
        /// Source.
        from: IpAddr,
        /// Destination.
        to: IpAddr,
    },
    /// Reads of a vDisk at a node take so long; none: as usual again.
    Stuck {
        /// Which node.
        node: usize,
        /// Which vDisk, and how long.
        stuck: Option<(usize, Nanos)>,
    },
    /// A node's store is gone, or back.
    Lose {
        /// Which node.
        node: usize,
        /// Whether it is gone.
        lost: bool,
    },
    /// Somebody changed the file of a vDisk at a node.
    Changed {
        /// Which node.
        node: usize,
        /// Which vDisk.
        vdisk: usize,
    },
    /// A device is switched off and on.
    Detach(usize),
}

/// The blows of a world, the soonest last.
#[derive(Clone, Debug, Default)]
pub struct Plan(Vec<(Nanos, Fault)>);

impl Plan {
    /// Adds a blow; of those at the same time the first added comes first.
    pub fn add(&mut self, at: Nanos, fault: Fault) {
        let place = self.0.partition_point(|(other, _)| *other > at);
        self.0.insert(place, (at, fault));
    }

    /// When the next one comes.
    #[must_use]
    pub fn next(&self) -> Nanos {
        self.0.last().map_or(Nanos::NEVER, |(at, _)| *at)
    }

    /// Takes one that is due by `now`.
    pub fn pop(&mut self, now: Nanos) -> Option<Fault> {
        if self.next() > now { None } else { self.0.pop().map(|(_, fault)| fault) }
    }

    /// Forgets all but those that let nodes start.
    pub fn heal(&mut self) {
        self.0.retain(|(_, fault)| matches!(fault, Fault::Start(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blows_come_in_time_and_order() {
        let mut plan = Plan::default();
        plan.add(Nanos(5), Fault::Start(1));
        plan.add(Nanos(3), Fault::Start(2));
        plan.add(Nanos(5), Fault::Start(3));
        assert_eq!(plan.pop(Nanos(2)), None);
        assert_eq!(plan.pop(Nanos(4)), Some(Fault::Start(2)));
        assert_eq!(plan.pop(Nanos(9)), Some(Fault::Start(1)));
        assert_eq!(plan.pop(Nanos(9)), Some(Fault::Start(3)));
        assert_eq!(plan.next(), Nanos::NEVER);
    }
}
