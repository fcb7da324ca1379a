//! How a shard makes room: it asks some of its devices to go to nodes that have less to do. How many and where to was
//! decided by [`crate::rebalance`].

use diskstream_wire::limits::NODES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{NodeEntry, NoticeReason, SessionRole};

use super::limits::REBALANCE_FOR;
use super::session::{Cold, Phase, Session, Told};
use super::{Event, Outbox, Shard};
use crate::placement::{NodeList, steady};
use crate::rebalance::Share;

/// Where devices go that make room.
pub(super) struct Rebalance {
    shares: [Share; NODES_MAX],
    count: usize,
}

/// Sessions that were idle for between 2^(n-1) and 2^n milliseconds, in place n.
type Idle = [u32; 40];

fn idle_class(session: &Session, now: Nanos) -> usize {
    let ms = session.read_at.ago(now).as_millis();
    let bits = 64 - ms.leading_zeros() as usize;
    bits.min(size_of::<Idle>() / size_of::<u32>() - 1)
}

impl Shard {
    pub(super) fn on_rebalance(
        &mut self,
        vdisk: u32,
        count: u32,
        successors: &[Share],
        now: Nanos,
        out: &mut Outbox,
    ) {
        if self.drain.is_some() || successors.is_empty() || count == 0 {
            return;
        }
        let nobody = Share { node: NodeEntry::default(), devices: 0 };
        let mut rebalance = Rebalance { shares: [nobody; NODES_MAX], count: 0 };
        for (place, share) in rebalance.shares.iter_mut().zip(successors) {
            *place = *share;
            rebalance.count += 1;
        }
        self.rebalance = Some(rebalance);
        let (told, of) = self.ask_idle(vdisk, count, now);
        self.counters.rebalance_told.add(u64::from(told));
        self.event(Event::RebalanceStarted { vdisk, sessions: of, told }, out);
    }

    /// Asks the sessions of a vDisk that have been idle for longest: those notice a move least. Exact to a factor of two in
    /// their time, because sorting them would need memory that a shard does not take. Gives how many, and of how many.
    fn ask_idle(&mut self, vdisk: u32, count: u32, now: Nanos) -> (u32, u32) {
        let mut idle: Idle = [0; 40];
        let mut of = 0;
        for (index, session) in self.sessions.iter() {
            let cold = self.sessions.cold(index);
            of += u32::from(session.vdisk == vdisk && cold.role == SessionRole::Serving);
            if may_be_asked(session, cold, vdisk, now) {
                idle[idle_class(session, now)] += 1;
            }
        }
        // All of the classes above the border, and of the border's as many as are still wanted.
        let mut wanted = count;
        let mut border = 0;
        for class in (0..idle.len()).rev() {
            border = class;
            match wanted.checked_sub(idle[class]) {
                Some(rest) if rest > 0 => wanted = rest,
                _ => break,
            }
        }
        let (ask_for, alone_for) = REBALANCE_FOR;
        let mut told = 0;
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            let session = self.sessions.get(index);
            let cold = self.sessions.cold(index);
            if told == count || !may_be_asked(session, cold, vdisk, now) {
                continue;
            }
            let class = idle_class(session, now);
            if class < border || (class == border && wanted == 0) {
                continue;
            }
            wanted -= u32::from(class == border);
            told += 1;
            self.sessions.cold_mut(index).left_alone_until = now + alone_for;
            self.begin_notice(index, NoticeReason::Rebalance, now + ask_for, now);
        }
        (told, of)
    }

    /// Where a device is to go that makes room: to one of the nodes that have some, in proportion to it.
    pub(super) fn rebalance_successors(&mut self, session: u32) -> NodeList {
        let Some(Rebalance { mut shares, count }) = self.rebalance else { return NodeList::new() };
        let mut random = steady(self.sessions.get(session).tag);
        let list = self.with_successors(session, |found| {
            for share in &mut shares[..count] {
                // Whoever is no longer eligible gets nobody.
                if !found.is_eligible(&share.node) {
                    share.devices = 0;
                }
            }
            let mut list = NodeList::new();
            loop {
                let total: u64 = shares[..count].iter().map(|share| u64::from(share.devices)).sum();
                let Some(mut left) = random().checked_rem(total) else { break };
                for share in &mut shares[..count] {
                    match left.checked_sub(u64::from(share.devices)) {
                        Some(rest) => left = rest,
                        None => {
                            list.push(share.node);
                            share.devices = 0;
                            break;
                        }
                    }
                }
            }
            list
        });
        list.unwrap_or_default()
    }

    /// Nobody is asked to make room any more.
    pub(super) fn end_rebalance(&mut self) {
        if self.rebalance.take().is_none() {
            return;
        }
        for n in 0..self.sessions.len() {
            let index = self.sessions.nth(n).expect("none is closed meanwhile");
            let notice = self.sessions.cold(index).notice;
            if notice.is_some_and(|notice| notice.reason == NoticeReason::Rebalance) {
                self.end_notice(index);
            }
        }
    }
}

/// Whether a session counts for a rebalance: it reads here, it is not told to move already, and was not of late.
fn may_be_asked(session: &Session, cold: &Cold, vdisk: u32, now: Nanos) -> bool {
    session.vdisk == vdisk
        && cold.role == SessionRole::Serving
        && session.phase == Phase::Open
        && session.told == Told::Nothing
        && now >= cold.left_alone_until
}
