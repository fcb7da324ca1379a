//! The loop that decides for the whole node: it sleeps until somebody wishes something or a second is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, RecvTimeoutError};

use diskstream_ring::{clock, pin};
use diskstream_wire::{Mac, Nanos};
use signal_hook::consts::SIGHUP;

use super::drain::Drain;
use super::farm_watch::{Differences, seen};
use super::rebalance::{self, Decisions};
use super::watch::{Weighing, bad_block, damaged, health_of, hung, judge};
use super::{Wish, service};
use crate::control::{Answer, Figures, Reply, Request, SlowDevice};
use crate::metrics::{Health, HealthState};
use crate::network::Losses;
use crate::peers::PeerHandle;
use crate::running::RunningNode;
use crate::settings::Settings;
use crate::shard::{Counter, NodeShared, ShardCounters};
use crate::status::{OwnFacts, Status, own_load};
use crate::view::DrainState;

/// Distance of two looks at clocks and peers. Guessed: a change is named within a second.
const LOOK_EVERY: Nanos = Nanos::from_secs(1);
/// A drain that a client asks for may last so long. Guessed: a day; more is a typing mistake.
const DRAIN_SECONDS_MAX: u32 = 86_400;

/// Whether the loop goes on.
pub(super) enum Next {
    Go,
    End,
}

/// The node, and everything that happens to it from outside its shards.
pub(super) struct ControlLoop<'s> {
    settings: &'s Settings,
    node: RunningNode,
    outside: Outside,
    own: OwnFacts,
    /// vDisks whose files were changed: out of service until the node starts again.
    changed: BTreeSet<usize>,
    weighing: Weighing,
    losses: Losses,
    differences: Differences,
    drain: Option<Drain>,
    next_look: Nanos,
    next_rebalance: Nanos,
}

/// What a node has besides its shards.
pub(super) struct Outside {
    /// What is to be done.
    pub(super) wishes: mpsc::Receiver<Wish>,
    /// What `/healthz` says.
    pub(super) health: Arc<Health>,
    /// The thread that speaks to other nodes.
    pub(super) peers: Option<PeerHandle>,
    /// What was decided about balance.
    pub(super) decisions: Arc<Decisions>,
}

impl<'s> ControlLoop<'s> {
    pub(super) fn new(
        settings: &'s Settings,
        node: RunningNode,
        outside: Outside,
        own: OwnFacts,
    ) -> ControlLoop<'s> {
        ControlLoop {
            settings,
            node,
            outside,
            own,
            changed: BTreeSet::new(),
            weighing: Weighing::default(),
            losses: Losses::default(),
            differences: Differences::default(),
            drain: None,
            next_look: clock::now(),
            next_rebalance: clock::now() + rebalance::LOOK_EVERY,
        }
    }

    /// Runs until the node has stopped.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        loop {
            let now = clock::now();
            if now >= self.next_look {
                self.next_look = now + LOOK_EVERY;
                self.look(now);
            }
            if let Next::End = self.drain_turn(now)? {
                // What is left is to give memory back; other programs of this host need not wait for that.
                pin::give_way();
                return Ok(());
            }
            let due = self.drain.as_ref().map_or(Nanos::NEVER, Drain::next_deadline);
            let wait = self.next_look.earlier(due).since(clock::now());
            match self.outside.wishes.recv_timeout(wait.as_duration()) {
                Ok(Wish::Signal(SIGHUP)) => tracing::info!(
                    "SIGHUP: nothing can be reloaded yet; restart the node (its devices move meanwhile)"
                ),
                Ok(Wish::Signal(_)) => self.told_to_stop(),
                Ok(Wish::Request(request, reply)) => self.grant(&request, reply),
                Ok(Wish::BadBlock { vdisk, what }) => bad_block(&self.node, vdisk, &what),
                Ok(Wish::ImageChanged { vdisk, change }) => {
                    if judge(&self.node, vdisk, change) {
                        self.changed.insert(vdisk);
                    }
                }
                Ok(Wish::ShardEnded) => self.shard_ended()?,
                Err(RecvTimeoutError::Timeout) => {}
                // Signals have a sender for as long as the process lives; without them nobody could stop the node.
                Err(RecvTimeoutError::Disconnected) => self.told_to_stop(),
            }
        }
    }

    fn look(&mut self, now: Nanos) {
        let shared = self.node.shared();
        shared.wall_clock.set(clock::unix_seconds(), now);
        shared.cache.tick();
        self.differences.look(shared);
        self.weighing.look(&self.node, &self.changed, now);
        if let Some(lost) = self.losses.look(self.node.receive_drops(), now) {
            tracing::warn!(
                lost,
                "datagrams came while a socket's receive buffer was full, and are lost: devices ask again, but this node has more to do than \
                 it can, or does not get its cores. See receive_drops_total, add nodes or --cores, or raise --socket-buffer"
            );
        }
        if now >= self.next_rebalance {
            self.next_rebalance = now + rebalance::LOOK_EVERY;
            rebalance::by_itself(&self.node, &self.outside.decisions, now);
        }
        if self.drain.is_none() {
            self.outside.health.set(self.health());
        }
    }

    /// What wants a person, and is not said elsewhere in the status.
    fn problems(&self) -> Vec<String> {
        let refused_by = self.outside.peers.as_ref().map(PeerHandle::refused_by);
        let refused_by = refused_by.iter().flat_map(|all| all.iter()).map(ToString::to_string);
        let shared = self.node.shared();
        let hung = hung(&shared.hung_stores, shared.vdisks().unwrap_or_default());
        refused_by.chain(damaged(&self.node)).chain(hung).collect()
    }

    /// A node that its peers will not have serves those devices only that find it by themselves. One that has the bad luck to meet
    /// another of its own name goes on as before.
    fn health(&self) -> HealthState {
        let refused_by = self.outside.peers.as_ref().map(PeerHandle::refused_by);
        let by_other =
            refused_by.iter().flat_map(|all| all.iter()).find(|by| by.name != self.own.name);
        match (health_of(&self.node), by_other) {
            (HealthState::Ready, Some(refused)) => HealthState::Failing(refused.to_string()),
            (state, _) => state,
        }
    }

    fn grant(&mut self, request: &Request, reply: Reply) {
        let now = clock::now();
        match request {
            Request::Status => {
                let seen = seen(self.outside.peers.as_ref(), &self.node, self.own.since);
                let problems = self.problems();
                let status = Status::of(&self.own, self.node.shared(), seen, problems, now);
                reply.finish(Answer::Status(Box::new(status)));
            }
            Request::Figures => reply.finish(Answer::Figures(self.figures(now))),
            Request::Drain { stay, seconds } => self.asked_to_drain(*stay, *seconds, reply),
            Request::Resume => self.resume(reply),
            Request::Rebalance { vdisk, dry_run } => {
                let decisions = &self.outside.decisions;
                let vdisk = vdisk.as_deref();
                reply.finish(rebalance::by_command(&self.node, decisions, vdisk, *dry_run, now));
            }
        }
    }

    fn asked_to_drain(&mut self, stay: bool, seconds: Option<u32>, reply: Reply) {
        let state = if stay { DrainState::Maintenance } else { DrainState::Stopping };
        if let Some(seconds) = seconds.filter(|s| *s > DRAIN_SECONDS_MAX) {
            let most = DRAIN_SECONDS_MAX;
            return reply.finish(refused(&format!("--seconds {seconds}: at most {most}")));
        }
        if stay && self.drain.as_ref().is_some_and(Drain::stops) {
            return reply
                .finish(refused("it is stopping already; maintenance is for nodes that stay"));
        }
        let patience = self.patience(seconds);
        self.begin_drain(state, patience, "asked at the control socket");
        if let Some(drain) = &mut self.drain {
            drain.listen(reply);
        }
    }

    /// A signal: to stop, or, the second time, to stop at once. The first one during a drain that a command began shortens its
    /// patience: whoever stops a service counts on what `--drain-seconds` says.
    fn told_to_stop(&mut self) {
        if let Some(drain) = self.drain.as_mut().filter(|drain| drain.stops_by_signal()) {
            tracing::warn!("told again: stopping without waiting for the devices");
            let now = clock::now();
            drain.give_up(now);
            // The shards tell those who are left that their sessions end, and have their last turn for it.
            self.node.drain(DrainState::Stopping, now);
            return;
        }
        let patience = self.patience(None);
        self.begin_drain(DrainState::Stopping, patience, "told to stop");
        if let Some(drain) = &mut self.drain {
            drain.signalled();
        }
    }

    /// As long as was asked for. A node that ends and whose devices have nowhere to go gives up sooner: the shards see to that.
    fn patience(&self, seconds: Option<u32>) -> Nanos {
        Nanos::from_secs(u64::from(seconds.unwrap_or(self.settings.drain_seconds)))
    }

    fn begin_drain(&mut self, state: DrainState, patience: Nanos, why: &str) {
        let now = clock::now();
        let sessions = sessions(&self.node);
        let seconds = patience.as_millis() / 1000;
        tracing::info!(sessions, seconds, "{why}: draining, {}", state.label());
        self.outside.health.set(HealthState::Draining(why.to_owned()));
        if state == DrainState::Stopping {
            service::stopping();
        }
        match &mut self.drain {
            Some(drain) => drain.again(state, now, patience),
            None => self.drain = Some(Drain::begin(state, sessions, now, patience)),
        }
        // The peers first: from here on nobody is sent here.
        self.node.shared().own.drain.fetch_max(state as u8, Relaxed);
        self.tell_peers();
        self.node.drain(state, now + patience);
    }

    fn tell_peers(&self) {
        if let Some(peers) = &self.outside.peers {
            peers.own_changed();
        }
    }

    fn resume(&mut self, reply: Reply) {
        if self.drain.as_ref().is_some_and(Drain::stops) {
            return reply.finish(refused("it is stopping; start it again when it has"));
        }
        if let Some(drain) = self.drain.take() {
            drain.cancelled();
            self.node.shared().own.drain.store(DrainState::Serving as u8, Relaxed);
            self.node.resume();
            self.tell_peers();
            tracing::info!("maintenance is over: taking devices again");
            service::status("serving");
            self.outside.health.set(self.health());
        }
        reply.finish(Answer::Resumed);
    }

    /// Tells how the drain goes, and ends the node when it is over.
    fn drain_turn(&mut self, now: Nanos) -> anyhow::Result<Next> {
        let Some(drain) = &mut self.drain else { return Ok(Next::Go) };
        let left = sessions(&self.node);
        drain.turn(left, now);
        if !drain.stops() {
            return Ok(Next::Go);
        }
        if self.node.all_ended() {
            drain.ended(left_behind(&self.node), now);
            self.node.join()?;
            return Ok(Next::End);
        }
        if drain.is_overdue(now) {
            self.node.stop();
            drain.ended(left, now);
            return Ok(Next::End);
        }
        Ok(Next::Go)
    }

    /// In a drain that is what is waited for; otherwise nothing can be served any more.
    fn shard_ended(&mut self) -> anyhow::Result<()> {
        if self.drain.as_ref().is_some_and(Drain::stops) {
            return Ok(());
        }
        self.node.stop();
        anyhow::bail!("a shard ended unexpectedly; its reason is in the log above");
    }

    fn figures(&self, now: Nanos) -> Figures {
        let sum = |get: fn(&ShardCounters) -> &Counter| -> u64 {
            self.node.counters().iter().map(|shard| get(shard).get()).sum()
        };
        let hits = sum(|c| &c.cache_hits);
        let load = own_load(self.node.shared(), now);
        Figures {
            at: now.since(self.own.since).as_duration().as_secs_f64(),
            reads: sum(|c| &c.reads),
            data_bytes: sum(|c| &c.data_bytes),
            cache_hits: hits,
            cache_lookups: hits + sum(|c| &c.cache_misses) + sum(|c| &c.cache_coalesced),
            disk_reads: sum(|c| &c.disk_reads),
            sessions: load.sessions,
            standbys: load.standbys,
            boot_slots_in_use: load.boot_slots_in_use,
            notices: sum(|c| &c.notices_sent),
            slowest: slowest(self.node.shared(), now),
        }
    }
}

/// Sessions that a drain waits for.
fn sessions(node: &RunningNode) -> u32 {
    node.shared().own.sessions.load(Relaxed)
}

/// Sessions that the shards ended because their drain was over.
fn left_behind(node: &RunningNode) -> u32 {
    let left = node.counters().iter().map(|shard| shard.drain_left.get()).sum::<u64>();
    u32::try_from(left).unwrap_or(u32::MAX)
}

fn slowest(shared: &NodeShared, now: Nanos) -> Vec<SlowDevice> {
    let slow = |(mac, us): (Mac, u32)| SlowDevice { mac: mac.to_string(), read_us_max: us.into() };
    shared.own.slowest.list(now).into_iter().map(slow).collect()
}

fn refused(reason: &str) -> Answer {
    Answer::Refused { reason: reason.to_owned() }
}
