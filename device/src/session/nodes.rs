//! Which nodes may be asked, and when: the operator's servers, the list that came with the ticket, and the ticket.

use std::net::{IpAddr, SocketAddr};

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::{Nanos, NodeEntry, nodes_digest};

/// A node that may be asked, and not before when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Login address.
    pub login: SocketAddr,
    /// A refusal or "busy" holds until then.
    pub not_before: Nanos,
    /// The same for a standby's session: what is said to that does not keep the device from going there in need.
    pub no_standby_before: Nanos,
    /// Tag of the last session there; 0: none was.
    pub former_tag: u64,
}

impl Node {
    fn new(login: SocketAddr) -> Node {
        Node { login, not_before: Nanos::ZERO, no_standby_before: Nanos::ZERO, former_tag: 0 }
    }
}

/// How a candidate is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// With the ticket, at a node of its list: `IoPortRequest` first.
    Ticket,
    /// From the start, at a server: `LoginPortRequest` first.
    Full,
    /// As with `Ticket`, for a session that is only kept warm.
    Standby,
}

/// The nodes that a device knows.
#[derive(Debug)]
pub struct Nodes {
    servers: Vec<Node>,
    /// From the last transfer; never longer than `NODES_MAX`.
    eligible: Vec<Node>,
    /// The eligible list was replaced: bitmaps over the old one mean nothing.
    changed: bool,
    ticket: Vec<u8>,
    ticket_at: Nanos,
    ticket_lives: Nanos,
}

impl Nodes {
    pub fn new(servers: &[SocketAddr]) -> Nodes {
        let servers =
            servers.iter().map(|&login| Node::new(diskstream_wire::canonical(login))).collect();
        Nodes {
            servers,
            eligible: Vec::new(),
            changed: false,
            ticket: Vec::new(),
            ticket_at: Nanos::ZERO,
            ticket_lives: Nanos::ZERO,
        }
    }

    /// Takes the list and ticket of a transfer. `chosen` is in the list even where the farm left it out.
    pub fn admit(
        &mut self,
        chosen: SocketAddr,
        list: impl Iterator<Item = NodeEntry>,
        ticket: &[u8],
        lives: Nanos,
        now: Nanos,
    ) {
        self.changed = true;
        let before = std::mem::take(&mut self.eligible);
        let logins = list.filter_map(|entry| entry.login.socket_addr());
        for login in std::iter::once(chosen).chain(logins) {
            if self.eligible.len() < NODES_MAX && self.index_of(login).is_none() {
                let known = before.iter().find(|node| node.login == login);
                let former_tag = known.map_or(0, |node| node.former_tag);
                self.eligible.push(Node { former_tag, ..Node::new(login) });
            }
        }
        self.renew_ticket(ticket, lives, now);
    }

    /// A session is open at a node.
    pub fn remember_tag(&mut self, login: SocketAddr, tag: u64) {
        if let Some(node) = self.eligible.iter_mut().find(|node| node.login == login) {
            node.former_tag = tag;
        }
    }

    /// The tag of the last session at a node; 0: none was.
    pub fn former_tag(&self, login: SocketAddr) -> u64 {
        self.index_of(login).map_or(0, |index| self.eligible[index].former_tag)
    }

    /// The serving node names other nodes than were known: one joined the farm, or came back. What is known to refuse for now stays
    /// so.
    pub fn renew_list(&mut self, chosen: SocketAddr, list: impl Iterator<Item = NodeEntry>) {
        let before = std::mem::take(&mut self.eligible);
        let logins = list.filter_map(|entry| entry.login.socket_addr());
        for login in std::iter::once(chosen).chain(logins) {
            if self.eligible.len() < NODES_MAX && self.index_of(login).is_none() {
                let known = before.iter().find(|node| node.login == login);
                self.eligible.push(known.copied().unwrap_or_else(|| Node::new(login)));
            }
        }
        self.changed = true;
    }

    /// What tells this list from another.
    pub fn digest(&self) -> u32 {
        nodes_digest(self.eligible.iter().map(|node| node.login.into()))
    }

    /// A fresh ticket came.
    pub fn renew_ticket(&mut self, ticket: &[u8], lives: Nanos, now: Nanos) {
        self.ticket.clear();
        self.ticket.extend_from_slice(ticket);
        self.ticket_at = now;
        self.ticket_lives = lives;
    }

    /// The ticket is refused: only a full login helps.
    pub fn drop_ticket(&mut self) {
        self.ticket.clear();
    }

    pub fn ticket(&self) -> Option<&[u8]> {
        (!self.ticket.is_empty()).then_some(self.ticket.as_slice())
    }

    /// The ticket's age in seconds, if there is one.
    pub fn ticket_age_s(&self, now: Nanos) -> Option<u64> {
        self.ticket().map(|_| now.since(self.ticket_at).as_millis() / 1000)
    }

    /// Half of the ticket's life is over: time for another.
    pub fn ticket_is_old(&self, now: Nanos) -> bool {
        self.ticket.is_empty() || now.since(self.ticket_at).0 >= self.ticket_lives.0 / 2
    }

    /// The node's number in the eligible list.
    pub fn index_of(&self, login: SocketAddr) -> Option<usize> {
        self.eligible.iter().position(|node| node.login == login)
    }

    /// Nodes that hold the identical content.
    pub fn eligible(&self) -> &[Node] {
        &self.eligible
    }

    /// A bitmap of the eligible list.
    pub fn all_mask(&self) -> u16 {
        self.eligible.iter().enumerate().fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// The nodes outside a bitmap.
    pub fn outside(&self, mask: u16) -> Vec<SocketAddr> {
        let nodes = self.eligible.iter().enumerate();
        nodes.filter(|(i, _)| mask & 1 << i == 0).map(|(_, node)| node.login).collect()
    }

    /// Whether the eligible list was replaced since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether an address belongs to a node of the sealed list.
    pub fn is_eligible_ip(&self, ip: IpAddr) -> bool {
        self.eligible.iter().any(|node| node.login.ip() == ip)
    }

    /// Do not ask this node on this route before then.
    pub fn defer(&mut self, login: SocketAddr, route: Route, until: Nanos) {
        let list = match route {
            Route::Ticket | Route::Standby => &mut self.eligible,
            Route::Full => &mut self.servers,
        };
        for node in list.iter_mut().filter(|node| node.login == login) {
            let before = match route {
                Route::Standby => &mut node.no_standby_before,
                Route::Ticket | Route::Full => &mut node.not_before,
            };
            *before = (*before).max(until);
        }
    }

    /// The candidates for a standby, in the farm's order: nodes of the ticket's list at which there is no session.
    pub fn standby_candidates(
        &self,
        taken: &[Option<SocketAddr>],
        now: Nanos,
        mut each: impl FnMut(SocketAddr, Route),
    ) {
        if self.ticket.is_empty() {
            return;
        }
        let free =
            |node: &&Node| node.no_standby_before <= now && !taken.contains(&Some(node.login));
        self.eligible.iter().filter(free).for_each(|node| each(node.login, Route::Standby));
    }

    /// The candidates of a round, in the order in which they are asked: first the `preferred` ones (named by a notice,
    /// or known to live), then the list of the ticket, then the servers. `avoid` is left out.
    pub fn candidates(
        &self,
        preferred: &[SocketAddr],
        avoid: Option<SocketAddr>,
        with_servers: bool,
        now: Nanos,
        mut each: impl FnMut(SocketAddr, Route),
    ) {
        let may = |node: &Node| node.not_before <= now && Some(node.login) != avoid;
        if !self.ticket.is_empty() {
            let named =
                |login: &SocketAddr| self.eligible.iter().any(|n| n.login == *login && may(n));
            preferred
                .iter()
                .filter(|login| named(login))
                .for_each(|&login| each(login, Route::Ticket));
            self.eligible
                .iter()
                .filter(|node| may(node) && !preferred.contains(&node.login))
                .for_each(|node| each(node.login, Route::Ticket));
        }
        if with_servers || self.ticket.is_empty() {
            self.servers.iter().filter(|n| may(n)).for_each(|n| each(n.login, Route::Full));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskstream_wire::Endpoint;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6910))
    }

    fn entry(last: u8) -> NodeEntry {
        NodeEntry { login: Endpoint::from(addr(last)), ..NodeEntry::default() }
    }

    fn candidates(
        nodes: &Nodes,
        preferred: &[SocketAddr],
        avoid: Option<u8>,
        servers: bool,
        now: u64,
    ) -> Vec<(SocketAddr, Route)> {
        let mut seen = Vec::new();
        nodes.candidates(preferred, avoid.map(addr), servers, Nanos(now), |a, r| seen.push((a, r)));
        seen
    }

    #[test]
    fn without_a_ticket_only_servers_are_asked() {
        let nodes = Nodes::new(&[addr(1), addr(2)]);
        assert_eq!(
            candidates(&nodes, &[], None, false, 0),
            [(addr(1), Route::Full), (addr(2), Route::Full)]
        );
    }

    #[test]
    fn the_order_is_preferred_then_listed_then_servers() {
        let mut nodes = Nodes::new(&[addr(9)]);
        let list = [entry(1), entry(2), entry(3), NodeEntry::default()];
        nodes.admit(addr(1), list.into_iter(), b"ticket", Nanos::from_secs(9), Nanos::ZERO);
        assert_eq!(nodes.eligible().len(), 3);
        assert_eq!(nodes.all_mask(), 0b111);
        // A successor that is not in the sealed list is not asked.
        let order = candidates(&nodes, &[addr(3), addr(66)], Some(1), true, 0);
        assert_eq!(
            order,
            [(addr(3), Route::Ticket), (addr(2), Route::Ticket), (addr(9), Route::Full)]
        );
    }

    #[test]
    fn a_deferred_node_is_left_out_until_its_time() {
        let mut nodes = Nodes::new(&[addr(1)]);
        nodes.defer(addr(1), Route::Full, Nanos(100));
        assert!(candidates(&nodes, &[], None, true, 99).is_empty());
        assert_eq!(candidates(&nodes, &[], None, true, 100).len(), 1);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut nodes = Nodes::new(&[addr(1)]);
        nodes.admit(addr(1), (0..=255).map(entry), b"t", Nanos::ZERO, Nanos::ZERO);
        assert_eq!(nodes.eligible().len(), NODES_MAX);
    }
}
