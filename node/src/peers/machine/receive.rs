//! What comes in, once it was opened.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::time::Nanos;
use diskstream_wire::{PeerHead, PeerInventory, PeerInventoryRequest, PeerKind, PeerReport};

use super::super::counters::PeerRefusal;
use super::super::inventory::{self, Assembled, Assembly};
use super::super::limits::{HELLO_BACKOFF, INVENTORY_EVERY, VERSIONS_MAX};
use super::super::status::Why;
use super::Peers;
use crate::view::{DrainState, Load};

impl Peers {
    pub(super) fn receive(
        &mut self,
        from: SocketAddr,
        inner: &[u8],
        now: Nanos,
    ) -> Result<(), PeerRefusal> {
        let (head, body) = PeerHead::decode(inner).ok_or(PeerRefusal::Malformed)?;
        if head.sender == 0 || self.left {
            return Err(PeerRefusal::Malformed);
        }
        if head.sender == self.incarnation {
            return Err(PeerRefusal::Reflected);
        }
        match head.kind {
            PeerKind::Hello => return self.hello(from, &head, body, now),
            PeerKind::HelloReply => return self.hello_reply(&head, body, now),
            PeerKind::Nothing | PeerKind::Other(_) => return Err(PeerRefusal::Malformed),
            _ => {}
        }
        let n = self.by_incarnation.get(&head.sender).copied();
        if head.receiver != self.incarnation {
            self.nudge(from, n, now);
            return Err(PeerRefusal::Receiver);
        }
        let Some(n) = n else {
            self.nudge(from, None, now);
            return Err(PeerRefusal::Sender);
        };
        let session = self.peers[n].session.as_mut().expect("indexed by its session");
        if !session.window.accept(head.sequence) {
            return Err(PeerRefusal::Replay);
        }
        self.heard(n, now);
        match head.kind {
            PeerKind::Membership => self.membership_data(body, now),
            PeerKind::Report => self.take_report(n, head.sequence, body, from, now),
            PeerKind::InventoryRequest => self.inventory_request(n, body, now),
            PeerKind::Inventory => self.take_inventory(n, body),
            PeerKind::Leave => {
                self.take_leave(n, head.sender, now);
                Ok(())
            }
            _ => Err(PeerRefusal::Malformed),
        }
    }

    pub(super) fn heard(&mut self, n: usize, now: Nanos) {
        let peer = &mut self.peers[n];
        peer.heard = Some(now);
        if peer.trusted {
            peer.hello_backoff = HELLO_BACKOFF.0;
        }
    }

    fn membership_data(&mut self, body: &[u8], now: Nanos) -> Result<(), PeerRefusal> {
        self.counters.membership_in.inc();
        self.members_moved = true;
        if self.membership.handle(body, now) { Ok(()) } else { Err(PeerRefusal::Membership) }
    }

    fn take_report(
        &mut self,
        n: usize,
        sequence: u64,
        body: &[u8],
        from: SocketAddr,
        now: Nanos,
    ) -> Result<(), PeerRefusal> {
        let (report, sessions) = PeerReport::decode(body).ok_or(PeerRefusal::Malformed)?;
        if sessions.len() % 4 != 0 || usize::from(report.versions) > VERSIONS_MAX {
            return Err(PeerRefusal::Malformed);
        }
        self.counters.reports_in.inc();
        let peer = &mut self.peers[n];
        if sequence <= peer.report_sequence {
            // Overtaken by a newer one: nothing in it is news.
            return Ok(());
        }
        peer.report_sequence = sequence;
        peer.learn(report.login, report.rating, from);
        peer.load = Load {
            sessions: report.sessions,
            standbys: report.standbys,
            boot_slots_in_use: report.boot_slots_in_use,
            boot_limit: report.boot_limit,
        };
        peer.drain = DrainState::from_code(report.drain);
        peer.reported = Some(now);
        peer.placed.store(0, Relaxed);
        self.changed = true;
        if report.digest == peer.digest {
            peer.assembly = None;
            peer.versions = inventory::with_sessions(&peer.versions, sessions);
            return Ok(());
        }
        if peer.assembly.as_ref().is_none_or(|a| a.digest() != report.digest) {
            peer.assembly = Some(Assembly::new(report.digest));
        }
        self.request_inventory(n);
        Ok(())
    }

    fn inventory_request(&mut self, n: usize, body: &[u8], now: Nanos) -> Result<(), PeerRefusal> {
        let (request, _) = PeerInventoryRequest::decode(body).ok_or(PeerRefusal::Malformed)?;
        if request.digest != self.inventory.digest {
            // It changed meanwhile: the next report says so, and is on its way.
            return Ok(());
        }
        let peer = &mut self.peers[n];
        if peer.inventory_sent.is_some_and(|at| now.since(at) < INVENTORY_EVERY) {
            return Err(PeerRefusal::Rate);
        }
        peer.inventory_sent = Some(now);
        let wanted = u128::from(request.wanted_high) << 64 | u128::from(request.wanted_low);
        self.send_inventory(n, wanted);
        Ok(())
    }

    fn take_inventory(&mut self, n: usize, body: &[u8]) -> Result<(), PeerRefusal> {
        let (head, tail) = PeerInventory::decode(body).ok_or(PeerRefusal::Malformed)?;
        let peer = &mut self.peers[n];
        let Some(assembly) = &mut peer.assembly else { return Ok(()) };
        match assembly.take(&head, tail) {
            Assembled::Partly | Assembled::Foreign => Ok(()),
            Assembled::Wrong => Err(PeerRefusal::Inventory),
            Assembled::Whole(versions) => {
                peer.digest = assembly.digest();
                peer.versions = versions;
                peer.assembly = None;
                self.counters.inventories_in.inc();
                self.changed = true;
                Ok(())
            }
        }
    }

    fn take_leave(&mut self, n: usize, incarnation: u64, now: Nanos) {
        let peer = &mut self.peers[n];
        peer.gone = Some(Why::Left);
        peer.drain = DrainState::Stopping;
        self.changed = true;
        self.membership.declare_down(incarnation, now);
        self.members_moved = true;
    }
}
