//! From node to node: when to look for another, what happens to outstanding reads, and how the old one is left.
//!
//! | sign | what is done |
//! |---|---|
//! | notice, draining mark, store errors | reads go on at the old node until a session at another is open |
//! | probes unanswered | reads are held; the old node is probed on, and taken back if it answers first |
//! | unknown session, ended by node | reads are held; the same node is asked first |

use std::net::SocketAddr;

use diskstream_wire::{CloseReason, FragmentSize, Nanos};

use super::event::{DiskInfo, Event, MoveCause};
use super::limits::{FULL_SIZE_LOST_MAX, STEP_RETRY_FIRST};
use super::path::{Opening, Path};
use super::request::Phase;
use super::seek::{Context, Seek};
use super::{Held, Session};

impl Session {
    /// Calls the search, if one is under way, with what it needs of the device.
    pub(super) fn with_seek<T>(
        &mut self,
        call: impl FnOnce(&mut Seek, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let seek = self.seek.as_mut()?;
        let mut context = Context {
            config: &self.config,
            nodes: &mut self.nodes,
            admission: &mut self.admission,
            disk: self.disk.as_ref(),
            random: &mut self.random,
            counters: &mut self.counters,
            events: &mut self.events,
        };
        Some(call(seek, &mut context))
    }

    /// Looks for another node. A search that is under way goes on, and may now use every node if the reason is graver.
    pub(super) fn begin_move(
        &mut self,
        cause: MoveCause,
        preferred: Vec<SocketAddr>,
        avoid: Option<SocketAddr>,
        now: Nanos,
    ) {
        if self.is_ending() {
            return;
        }
        match &mut self.seek {
            Some(seek) if avoid.is_none() => seek.widen(preferred, now),
            Some(_) => {}
            None => {
                // Devices that lose a node lose it together: they do not all ask in the same instant.
                let at = if avoid.is_none() { now + self.random.jitter(SPREAD) } else { now };
                self.seek = Some(Seek::new(Some(cause), preferred, avoid, at));
            }
        }
    }

    /// The node is going to stop: look for a successor while it still serves.
    pub(super) fn on_draining(
        &mut self,
        index: usize,
        cause: MoveCause,
        successors: Vec<SocketAddr>,
        now: Nanos,
    ) {
        let Some(path) = &mut self.paths[index] else { return };
        if path.draining || self.serving != Some(index) {
            return;
        }
        path.draining = true;
        let node = path.at.node;
        self.begin_move(cause, successors, Some(node), now);
    }

    /// The node ended the session, or never knew it: hold the reads, and log in again.
    pub(super) fn on_session_gone(&mut self, index: usize, cause: MoveCause, now: Nanos) {
        let Some(path) = &self.paths[index] else { return };
        let node = path.at.node;
        let was_closing = path.is_closing();
        self.drop_path(index);
        self.end_if_alone();
        if was_closing || self.serving.is_some() || self.is_ending() {
            return;
        }
        self.hold(cause, now);
        self.left = Some(node);
        self.begin_move(cause, vec![node], None, now);
    }

    /// Probes stayed unanswered: hold the reads, and look for any node that answers.
    pub(super) fn on_dead(&mut self, index: usize, now: Nanos) {
        if self.serving == Some(index) {
            self.hold(MoveCause::NodeSilent, now);
            self.begin_move(MoveCause::NodeSilent, Vec::new(), None, now);
        }
    }

    /// A suspect node answered.
    pub(super) fn speaks_again(&mut self, index: usize, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let was_dead = path.heard(now);
        self.requests.look_soon(now);
        if !was_dead || self.serving != Some(index) {
            return;
        }
        self.counters.moves_averted += 1;
        let node = path.at.node;
        let only_silence =
            self.seek.as_ref().is_some_and(|s| s.cause == Some(MoveCause::NodeSilent));
        if only_silence {
            self.abandon_seek(now);
        }
        self.resume(node, now);
    }

    /// Ends a search; a session that it had half opened is closed.
    pub(super) fn abandon_seek(&mut self, now: Nanos) {
        if let Some(opening) = self.seek.take().and_then(|seek| seek.abandoned()) {
            let mut path = Path::new(opening, 0, now, &mut self.random);
            path.close(CloseReason::Detached, now);
            let index = self.free_path(now);
            self.paths[index] = Some(path);
        }
    }

    /// A session is open at a node: go on there, with everything that is outstanding.
    pub(super) fn adopt(&mut self, opening: Opening, disk: DiskInfo, now: Nanos) {
        let cause = self.seek.take().and_then(|seek| seek.cause);
        let buffer = self.config.receive_buffer_bytes;
        let path = Path::new(opening, buffer, now, &mut self.random);
        let old = self.serving.take();
        let index = self.free_path(now);
        self.paths[index] = Some(path);
        self.serving = Some(index);
        self.generation = disk.content_id.generation();
        let opened = self.disk.replace(disk).is_none();
        let from = old.and_then(|old| self.paths[old].as_ref()).map(|path| path.at.node);
        self.requeue_all(opening.size, now);
        if let Some(old) = old
            && let Some(path) = &mut self.paths[old]
        {
            path.close(CloseReason::Moved, now);
        }
        if opened {
            self.events.push_back(Event::Opened { disk, node: opening.node });
        }
        if let (Some(cause), Some(from)) = (cause, from.or(self.left.take())) {
            self.counters.moves += 1;
            self.counters.moves_by_cause[cause as usize] += 1;
            self.events.push_back(Event::Moved { from, to: opening.node, cause });
        }
        self.resume(opening.node, now);
    }

    /// Everything outstanding is asked anew at the present node. Whole units, and with the same fragment size every
    /// fragment, that have arrived stay: the content is identical.
    fn requeue_all(&mut self, size: FragmentSize, now: Nanos) {
        self.forget_refusals_of_old_list();
        for slot in 0..self.requests.capacity() {
            let phase = self.requests.get(slot).phase;
            if matches!(phase, Phase::Asked | Phase::Pending) {
                self.withdraw(slot);
            }
            if phase == Phase::Free {
                continue;
            }
            let request = self.requests.get_mut(slot);
            request.timeouts = 0;
            request.pendings = 0;
            request.change_size(size);
            self.requests.enqueue(slot);
        }
        self.requeue_questions(now);
    }

    /// Which nodes refused a request is a bitmap over the eligible list, whose order a new transfer changes, also while
    /// the old node still serves.
    pub(super) fn forget_refusals_of_old_list(&mut self) {
        if self.nodes.take_changed() {
            for slot in 0..self.requests.capacity() {
                self.requests.get_mut(slot).refused_by = 0;
            }
        }
    }

    /// A place for a path: a free one, or that of a node to which goodbye is being said.
    fn free_path(&mut self, _now: Nanos) -> usize {
        let free = self.paths.iter().position(Option::is_none);
        let index = free
            .or_else(|| self.paths.iter().position(|p| p.as_ref().is_some_and(Path::is_closing)))
            .expect("at most one path is not closing, and there is room for more");
        self.drop_path(index);
        index
    }

    /// Forgets a path; what was asked there waits for another.
    pub(super) fn drop_path(&mut self, index: usize) {
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            if matches!(request.phase, Phase::Asked | Phase::Pending)
                && usize::from(request.path) == index
            {
                self.withdraw(slot);
                self.requests.enqueue(slot);
            }
        }
        self.paths[index] = None;
        if self.serving == Some(index) {
            self.serving = None;
        }
    }

    /// Full-size datagrams do not arrive: go on with smaller ones.
    pub(super) fn fall_back(&mut self, index: usize, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        let size =
            if path.size > FragmentSize::B1376 { FragmentSize::B1376 } else { FragmentSize::B1024 };
        if size == path.size {
            return;
        }
        self.counters.size_fallbacks += 1;
        path.set_size(size);
        path.size_probe.fell_back(size, now);
        for slot in 0..self.requests.capacity() {
            let request = self.requests.get(slot);
            if request.phase == Phase::Free || usize::from(request.path) != index {
                continue;
            }
            if matches!(request.phase, Phase::Asked | Phase::Pending) {
                self.withdraw(slot);
            }
            self.requests.get_mut(slot).change_size(size);
            self.requests.enqueue(slot);
        }
    }

    /// A full-size answer was lost while small datagrams arrive.
    pub(super) fn full_size_lost(&mut self, index: usize, sent_at: Nanos, now: Nanos) {
        let Some(path) = &mut self.paths[index] else { return };
        if path.last_full >= sent_at || path.last_heard < sent_at {
            return;
        }
        path.full_lost += 1;
        if path.full_lost >= FULL_SIZE_LOST_MAX {
            self.fall_back(index, now);
        }
    }

    fn hold(&mut self, cause: MoveCause, now: Nanos) {
        if self.held.is_none() {
            self.held = Some(Held { since: now, cause: Some(cause), reported: false });
        }
    }

    fn resume(&mut self, node: SocketAddr, now: Nanos) {
        if let Some(held) = self.held.take()
            && held.reported
        {
            self.events.push_back(Event::Resumed { node, held: now.since(held.since) });
        }
    }
}

/// Over this time devices that lose a node together spread their first question.
const SPREAD: Nanos = Nanos(STEP_RETRY_FIRST.0 / 10);
