//! Who went where, when and why: the arithmetic of moves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use diskstream_device::driver::Member;
use diskstream_device::session::MoveCause;
use diskstream_wire::Nanos;

/// The moves of a run.
#[derive(Clone, Debug)]
pub struct Moves {
    /// Nodes that something happens to.
    victims: Vec<SocketAddr>,
    /// When; none: nothing happens.
    event: Option<Nanos>,
    /// Since when each device is served by a node that nothing happened to, once it has left a victim.
    away: Vec<Option<Nanos>>,
    /// How many, by cause.
    by_cause: BTreeMap<&'static str, u64>,
    unneeded: u64,
}

impl Moves {
    /// None yet.
    #[must_use]
    pub fn new(devices: usize, victims: Vec<SocketAddr>, event: Option<Nanos>) -> Moves {
        let away = vec![None; devices];
        Moves { victims, event, away, by_cause: BTreeMap::new(), unneeded: 0 }
    }

    /// A device goes on elsewhere, or anew at the same node.
    pub fn moved(
        &mut self,
        member: Member,
        from: SocketAddr,
        to: SocketAddr,
        cause: MoveCause,
        now: Nanos,
    ) {
        *self.by_cause.entry(cause.label()).or_default() += 1;
        let happened = self.event.is_some_and(|event| now >= event);
        // Nothing had happened yet, or nothing at all to the node that was left.
        if !happened || !self.victims.contains(&from) {
            self.unneeded += 1;
        }
        if self.victims.contains(&to) {
            self.away[member] = None;
        } else if happened && self.victims.contains(&from) {
            self.away[member].get_or_insert(now);
        }
    }

    /// Devices that left a victim and are served elsewhere.
    #[must_use]
    pub fn devices_moved(&self) -> usize {
        self.away.iter().flatten().count()
    }

    /// Moves away from a node that nothing had happened to.
    #[must_use]
    pub fn unneeded(&self) -> u64 {
        self.unneeded
    }

    /// From the event until every device was served elsewhere; none while one is not.
    #[must_use]
    pub fn all_moved_after(&self) -> Option<Nanos> {
        let last = self.away.iter().copied().reduce(|a, b| Some(a?.max(b?)))??;
        Some(last.since(self.event?))
    }

    /// Moves by cause.
    #[must_use]
    pub fn by_cause(&self) -> &BTreeMap<&'static str, u64> {
        &self.by_cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    fn node(number: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, number], 6910))
    }

    const SILENT: MoveCause = MoveCause::NodeSilent;

    #[test]
    fn all_moved_is_the_last_device_and_unknown_before() {
        let mut moves = Moves::new(2, vec![node(1)], Some(ms(100)));
        moves.moved(0, node(1), node(2), SILENT, ms(150));
        assert_eq!((moves.devices_moved(), moves.all_moved_after()), (1, None));
        moves.moved(1, node(1), node(3), MoveCause::Notice, ms(190));
        assert_eq!((moves.devices_moved(), moves.all_moved_after()), (2, Some(ms(90))));
        assert_eq!(moves.unneeded(), 0);
        assert_eq!(moves.by_cause().len(), 2);
    }

    #[test]
    fn moves_before_the_event_or_from_a_healthy_node_are_unneeded() {
        let mut moves = Moves::new(2, vec![node(1)], Some(ms(100)));
        moves.moved(0, node(1), node(2), SILENT, ms(99));
        moves.moved(1, node(1), node(2), SILENT, ms(150));
        moves.moved(1, node(2), node(3), SILENT, ms(160));
        assert_eq!(moves.unneeded(), 2);
        let mut quiet = Moves::new(1, vec![], None);
        quiet.moved(0, node(1), node(2), SILENT, ms(5));
        assert_eq!((quiet.unneeded(), quiet.devices_moved()), (1, 0));
    }

    #[test]
    fn a_device_that_comes_back_to_the_victim_is_not_away() {
        let mut moves = Moves::new(1, vec![node(1)], Some(ms(100)));
        moves.moved(0, node(1), node(2), SILENT, ms(150));
        moves.moved(0, node(2), node(1), SILENT, ms(200));
        assert_eq!((moves.devices_moved(), moves.all_moved_after()), (0, None));
        assert_eq!(moves.unneeded(), 1, "nothing had happened to the second node");
    }
}
