//! The warm standby: a session at a second node of the list, opened after each login and move, checked now and then, and lost
//! without harm. It never disturbs the serving path: refusals that it meets hold for it alone, and it waits while a
//! search for a serving node is under way.
//!
//! ```text
//!   opened or moved ── 0–500 ms ──> search (patient, for ever) ──> open, checked every 10 s ──> lost: search again
//!                                                                      └──> promoted (see `promote`)
//! ```
//!
//! A device that writes will keep the same standby, but not with a lease: its promotion is a new lease with a higher fencing
//! number, asked for in `promote`, before the first write goes out again. Until then a vDisk that is not read-only has none.

use std::net::SocketAddr;

use diskstream_wire::{Capabilities, CloseReason, ImageMode, Nanos};

use super::event::{Event, StandbyEnd};
use super::limits::{REFUSED_WAIT_LATE, REFUSED_WAIT_SOON, STANDBY_SPREAD};
use super::nodes::Route;
use super::path::{Opening, Path};
use super::request::Phase;
use super::seek::{Context, Seek};
use super::{PATHS_MAX, Session};

impl Session {
    /// The standby's path, if reads can be asked there.
    pub(super) fn helper(&self) -> Option<usize> {
        self.standby.filter(|&index| self.paths[index].as_ref().is_some_and(Path::can_help))
    }

    /// Whether this device may have a standby, and does not.
    fn wants_standby(&self) -> bool {
        // An unknown mode is one that this device reads as if it were read-only.
        let read_only = |mode| matches!(mode, ImageMode::Standard | ImageMode::Other(_));
        let can = self.disk.is_some_and(|disk| !disk.pinned && read_only(disk.image_mode));
        let knows = self.admission.is_some_and(|a| a.capabilities.has(Capabilities::STANDBY));
        can && knows
            && self.standby.is_none()
            && self.serving.is_some()
            && self.nodes.eligible().len() > 1
            && !self.is_ending()
    }

    /// Looks for a standby where one is wanted; begins anew where one was being looked for.
    pub(super) fn seek_standby(&mut self, now: Nanos) {
        self.abandon_standby_seek(now);
        if self.wants_standby() {
            let at = now + self.random.below(STANDBY_SPREAD);
            self.standby_seek = Some(Seek::standby(at));
        }
    }

    /// Ends the search for a standby; a session that it had half opened is closed.
    pub(super) fn abandon_standby_seek(&mut self, now: Nanos) {
        if let Some(opening) = self.standby_seek.take().and_then(|seek| seek.abandoned()) {
            // Where the device has just logged in, the node has ended its other sessions itself.
            if self.taken().contains(&Some(opening.node)) {
                return;
            }
            let mut path = Path::new(opening, 0, now, &mut self.random);
            path.close(CloseReason::Detached, now);
            let index = self.free_path();
            self.paths[index] = Some(path);
        }
    }

    /// Nodes at which the device has a session, or is saying goodbye.
    pub(super) fn taken(&self) -> [Option<SocketAddr>; PATHS_MAX] {
        std::array::from_fn(|index| self.paths[index].as_ref().map(|path| path.at.node))
    }

    /// Calls the search for a standby, if one is under way and nothing graver is.
    pub(super) fn with_standby_seek<T>(
        &mut self,
        call: impl FnOnce(&mut Seek, &mut Context<'_>) -> T,
    ) -> Option<T> {
        if self.seek.is_some() {
            return None;
        }
        let taken = self.taken();
        let seek = self.standby_seek.as_mut()?;
        let mut context = Context {
            config: &self.config,
            nodes: &mut self.nodes,
            admission: &mut self.admission,
            disk: self.disk.as_ref(),
            random: &mut self.random,
            counters: &mut self.counters,
            events: &mut self.standby_events,
            taken,
        };
        let result = call(seek, &mut context);
        self.tell_standby_refusals();
        Some(result)
    }

    /// When the search for a standby goes on.
    pub(super) fn standby_seek_due(&self) -> Nanos {
        match &self.standby_seek {
            Some(seek) if self.seek.is_none() => seek.next_due(),
            _ => Nanos::NEVER,
        }
    }

    /// What refuses a standby is not what refuses the device: it is told as such, and once for each node in a row.
    fn tell_standby_refusals(&mut self) {
        while let Some(event) = self.standby_events.pop_front() {
            let (node, end) = match event {
                Event::Rejected { node, reason, .. } => (node, StandbyEnd::Rejected(reason)),
                Event::WrongContent { node, .. } => (node, StandbyEnd::WrongContent),
                Event::Busy { node, .. } => (node, StandbyEnd::Busy),
                _ => continue,
            };
            if self.standby_refused != Some((node, end)) {
                self.standby_refused = Some((node, end));
                self.events.push_back(Event::StandbyRefused { node, why: end });
            }
        }
    }

    /// A session for a standby is open.
    pub(super) fn adopt_standby(&mut self, opening: Opening, now: Nanos) {
        self.standby_seek = None;
        self.standby_refused = None;
        let buffer = self.config.receive_buffer_bytes;
        let path = Path::standby(opening, buffer, now, &mut self.random);
        let index = self.free_path();
        self.paths[index] = Some(path);
        self.standby = Some(index);
        self.events.push_back(Event::StandbyOpened { node: opening.node });
    }

    /// The standby is of no use any more: what was asked there is asked elsewhere, and another is sought.
    pub(super) fn lose_standby(&mut self, why: StandbyEnd, now: Nanos) {
        let Some(index) = self.standby.take() else { return };
        let Some(path) = &self.paths[index] else { return };
        let node = path.at.node;
        let patience = match why {
            StandbyEnd::WrongContent => Some(REFUSED_WAIT_LATE),
            StandbyEnd::Draining | StandbyEnd::StoreErrors => Some(REFUSED_WAIT_SOON),
            StandbyEnd::Silent | StandbyEnd::Gone | StandbyEnd::Busy | StandbyEnd::Rejected(_) => {
                None
            }
        };
        if let Some(patience) = patience {
            let until = now + self.random.later(patience);
            self.nodes.defer(node, Route::Standby, until);
        }
        self.take_back(index);
        match why {
            StandbyEnd::Gone => self.paths[index] = None,
            _ => {
                if let Some(path) = &mut self.paths[index] {
                    path.close(CloseReason::Moved, now);
                }
            }
        }
        self.counters.standbys_lost += 1;
        self.events.push_back(Event::StandbyLost { node, why });
        self.seek_standby(now);
    }

    /// Everything that is out at a path waits for another.
    pub(super) fn take_back(&mut self, index: usize) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            let here = usize::from(request.path) == index;
            if request.is_hedged() && usize::from(request.hedge.path) == index {
                self.withdraw_hedge(slot);
            }
            if here && matches!(self.requests.get(slot).phase, Phase::Asked | Phase::Pending) {
                self.withdraw(slot);
                self.requests.enqueue(slot);
            }
        }
    }
}
