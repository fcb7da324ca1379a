//! One run: the plan of its moments, the event, and what is watched beside the fleet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use signal_hook::consts::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};

use super::args::{FailoverArgs, Mode};
use super::drive::{self, Outcome, Plan, Watch};
use super::farm::Farm;
use super::forgery::{Forged, Seen, Stranger};
use super::happening::Happening;
use super::moves::Moves;
use crate::fleet::{Counts, Devices};
use crate::net::Lan;
use crate::node_process::{CpuTime, NodeProcess};
use crate::random::Random;
use crate::read::{CORES, pin};
use crate::stop;

/// Reads before the measurement begins, so that windows and round trips have settled. Guessed; a device needs some 50 ms of
/// reads, and each of 4,000 devices reads five times a second.
const RAMP: Nanos = Nanos::from_secs(2);
/// Time from here to the first read: what is set up meanwhile is not to be late.
const BEGIN_IN: Nanos = Nanos::from_millis(100);
/// A paused node goes on after this.
const PAUSE: Nanos = Nanos::from_secs(10);

/// Reads that a device has outstanding at most while all nodes are gone, as a machine whose disk hangs stops asking. Guessed:
/// the depth of a SATA disk's queue.
const OUTAGE_DEPTH: usize = 32;

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    /// What devices noticed.
    pub outcome: Outcome,
    /// What was used since the measurement began.
    pub load: Load,
    /// When nodes that were all gone took logins again.
    pub returned: Option<Nanos>,
    /// From the event until the stopped node's process had ended.
    pub exited_after: Option<Nanos>,
    /// Devices that had moved by then.
    pub moved_before_exit: Option<usize>,
    /// The event was later than planned by this.
    pub event_late: Option<Nanos>,
    /// What forged datagrams came to.
    pub forged: Option<Forged>,
}

impl Run {
    /// From the moment when the first node was back until every device had a read answered.
    #[must_use]
    pub fn all_reading_after(&self) -> Option<Nanos> {
        let again = self.outcome.reading_again.iter().copied();
        let last = again.reduce(|a, b| Some(a?.max(b?)))??;
        Some(last.since(self.returned?))
    }
}

/// What was used.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Each node's processor time.
    pub nodes: Vec<CpuTime>,
    /// The fleet's thread's.
    pub fleet: CpuTime,
    /// The fleet's counters.
    pub counts: Counts,
    /// The devices' counters, summed, those that changed; lists are left out.
    pub devices: BTreeMap<String, u64>,
    /// Reads that were also asked at the standby.
    pub hedged: u64,
}

impl Load {
    fn of(nodes: &[NodeProcess], devices: &Devices) -> anyhow::Result<Load> {
        Ok(Load {
            // A node that has ended has none: what was seen before is kept.
            nodes: nodes.iter().map(|node| node.cpu().unwrap_or_default()).collect(),
            fleet: CpuTime::of_this_thread()?,
            counts: devices.counts(),
            devices: device_counters(devices)?,
            hedged: hedged_reads(devices),
        })
    }
}

fn device_counters(devices: &Devices) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for member in 0..devices.fleet().len() {
        let counters = serde_json::to_value(devices.fleet().session(member).counters())?;
        for (name, count) in counters.as_object().into_iter().flatten() {
            if let Some(count) = count.as_u64() {
                *sums.entry(name.clone()).or_default() += count;
            }
        }
    }
    Ok(sums)
}

fn hedged_reads(devices: &Devices) -> u64 {
    let members = 0..devices.fleet().len();
    members.map(|member| devices.fleet().session(member).counters().hedged_reads).sum()
}

/// Processes beside the fleet's.
#[derive(Debug)]
pub struct Beside {
    /// The nodes.
    pub nodes: Vec<NodeProcess>,
    /// Who forges datagrams.
    pub stranger: Option<Stranger>,
    /// Set when the program is told to end.
    pub stop: Arc<AtomicBool>,
}

/// Plays a run.
///
/// # Errors
/// When the event cannot be prepared or does not happen, the fleet fails, or the program is told to end.
pub fn play(
    args: &FailoverArgs,
    farm: &Arc<Farm>,
    beside: Beside,
    lan: Option<&Lan>,
    devices: &mut Devices,
    random: Random,
) -> anyhow::Result<Run> {
    let begins = clock::now() + BEGIN_IN;
    let opens = begins + RAMP;
    let event = (args.mode != Mode::None).then(|| opens + Nanos(args.length().0 / 2));
    let outage = Nanos::from_secs(if args.all { args.gone_seconds.into() } else { 0 });
    let plan = Plan {
        begins,
        opens,
        event,
        closes: opens + args.length() + outage,
        per_second: if args.idle { 0 } else { args.rate },
        size: usize::try_from(args.size).context("--size")?,
        seed: args.seed,
        depth_max: args.all.then_some(OUTAGE_DEPTH),
    };
    let victims = match event {
        None => Vec::new(),
        Some(_) if args.all => (0..args.nodes).map(|number| farm.login(number)).collect(),
        Some(_) => vec![farm.login(0)],
    };
    let moves = Moves::new(usize::from(args.devices), victims, event);
    let mut scene = Scene::new(beside);
    if let Some(event) = event {
        scene.prepare(args, farm, lan, event)?;
    }
    let seen = scene.watch_stranger(args, lan, devices)?;
    let outcome = drive::run(devices, plan, moves, random, &mut scene)?;
    let forged = seen.map(|seen| scene.end_stranger(args, lan, devices, &seen)).transpose()?;
    Ok(Run { forged: forged.flatten(), ..scene.end(devices, outcome, event)? })
}

/// What is beside the fleet.
struct Scene {
    nodes: Vec<NodeProcess>,
    stranger: Option<Stranger>,
    stop: Arc<AtomicBool>,
    happening: Option<Happening>,
    /// So many nodes, the first ones, are expected to end.
    ends: usize,
    /// When a paused node goes on.
    resume_at: Option<Nanos>,
    exited: Option<(Nanos, usize)>,
    first: Load,
    /// Each node's processor time when it was last looked at before the event.
    before_event: Vec<CpuTime>,
    event: Nanos,
    opened: bool,
}

impl Scene {
    fn new(beside: Beside) -> Scene {
        Scene {
            nodes: beside.nodes,
            stranger: beside.stranger,
            stop: beside.stop,
            happening: None,
            ends: 0,
            resume_at: None,
            exited: None,
            first: Load::default(),
            before_event: Vec::new(),
            event: Nanos::NEVER,
            opened: false,
        }
    }

    /// Gets the stranger ready, if there is one; gives what is counted before it begins.
    fn watch_stranger(
        &mut self,
        args: &FailoverArgs,
        lan: Option<&Lan>,
        devices: &Devices,
    ) -> anyhow::Result<Option<Seen>> {
        let (Some(stranger), Some(lan)) = (&mut self.stranger, lan) else { return Ok(None) };
        stranger.prepare(args, devices)?;
        Seen::now(&self.nodes, devices, lan).map(Some)
    }

    /// Ends the stranger, and tells what it came to.
    fn end_stranger(
        &mut self,
        args: &FailoverArgs,
        lan: Option<&Lan>,
        devices: &Devices,
        before: &Seen,
    ) -> anyhow::Result<Option<Forged>> {
        let (Some(stranger), Some(lan)) = (self.stranger.take(), lan) else { return Ok(None) };
        let sent = stranger.end()?;
        let seen = Seen::now(&self.nodes, devices, lan)?;
        Ok(Some(seen.since(before, args.forged, sent)))
    }

    /// Gets ready what happens at `event`.
    fn prepare(
        &mut self,
        args: &FailoverArgs,
        farm: &Arc<Farm>,
        lan: Option<&Lan>,
        event: Nanos,
    ) -> anyhow::Result<()> {
        if args.all {
            return self.prepare_outage(args, farm, event);
        }
        let victim = &self.nodes[0];
        let signals = victim.signals();
        self.event = event;
        let happening = match args.mode {
            Mode::Stop => Happening::at(event, move |_| signals.send(SIGTERM)),
            Mode::Kill => {
                // Held until the run is over: nobody refuses for the dead node.
                let silence = if args.refusals { Vec::new() } else { victim.udp_sockets()? };
                Happening::at(event, move |_| signals.send(SIGKILL).map(|()| silence))
            }
            Mode::Pause => {
                self.resume_at = Some(event + PAUSE);
                Happening::at(event, move |_| signals.send(SIGSTOP))
            }
            Mode::Cut => {
                let plug = lan.context("only namespaces have interfaces to cut")?.plug(0)?;
                Happening::at(event, move |_| plug.pull().map(|()| plug))
            }
            Mode::None => return Ok(()),
        };
        self.ends = usize::from(matches!(args.mode, Mode::Stop | Mode::Kill));
        self.happening = Some(happening?);
        Ok(())
    }

    /// Gets ready that all nodes end at `event`, and new ones are started later.
    fn prepare_outage(
        &mut self,
        args: &FailoverArgs,
        farm: &Arc<Farm>,
        event: Nanos,
    ) -> anyhow::Result<()> {
        let signal = if args.mode == Mode::Stop { SIGTERM } else { SIGKILL };
        let gone = Duration::from_secs(args.gone_seconds.into());
        let signals: Vec<_> = self.nodes.iter().map(NodeProcess::signals).collect();
        let (farm, no_pin) = (Arc::clone(farm), args.no_pin);
        self.event = event;
        self.ends = self.nodes.len();
        self.happening = Some(Happening::at(event, move |told| {
            // Nodes must not inherit the fleet's core from this thread.
            let _ = no_pin || pin(CORES.0);
            signals.iter().try_for_each(|node| node.send(signal))?;
            std::thread::sleep(gone);
            let mut nodes = Vec::new();
            for number in 0..farm.nodes() {
                nodes.push(farm.start(number, |_| ())?);
                // Devices can log in as soon as there is one.
                told.node_returned();
            }
            Ok(nodes)
        })?);
        Ok(())
    }

    fn end(
        mut self,
        devices: &Devices,
        outcome: Outcome,
        event: Option<Nanos>,
    ) -> anyhow::Result<Run> {
        let mut load = Load::of(&self.nodes, devices)?;
        for (number, node) in load.nodes.iter_mut().enumerate() {
            if node.used_ns == 0 {
                *node = self.before_event.get(number).copied().unwrap_or_default();
            }
            *node = node.since(self.first.nodes.get(number).copied().unwrap_or_default());
        }
        load.fleet = load.fleet.since(self.first.fleet);
        load.counts.retries -= self.first.counts.retries;
        load.counts.probes -= self.first.counts.probes;
        load.counts.starved -= self.first.counts.starved;
        load.counts.enters -= self.first.counts.enters;
        load.hedged -= self.first.hedged;
        for (name, count) in &mut load.devices {
            *count -= self.first.devices.get(name).copied().unwrap_or_default();
        }
        load.devices.retain(|_, count| *count > 0);
        let returned = self.returned();
        let mut began = None;
        if let Some(happening) = self.happening.take() {
            began = happening.began();
            happening.end()?;
        }
        Ok(Run {
            returned,
            exited_after: self.exited.zip(event).map(|((at, _), event)| at.since(event)),
            moved_before_exit: self.exited.map(|(_, moved)| moved),
            event_late: began.zip(event).map(|(began, event)| began.since(event)),
            forged: None,
            outcome,
            load,
        })
    }
}

impl Watch for Scene {
    fn opens(&mut self, devices: &Devices) -> anyhow::Result<()> {
        self.opened = true;
        self.first = Load::of(&self.nodes, devices)?;
        self.stranger.as_mut().map_or(Ok(()), Stranger::begin)
    }

    fn look(&mut self, now: Nanos, moves: &Moves) -> anyhow::Result<()> {
        stop::go_on(&self.stop)?;
        // The last look before the event: 5 ms and more before it.
        if self.before_event.is_empty() && now + Nanos::from_millis(50) >= self.event {
            let seen = self.nodes.iter().map(|node| node.cpu().unwrap_or_default());
            self.before_event = seen.collect();
        }
        if let Some(happening) = self.happening.take_if(|happening| happening.has_failed()) {
            happening.end().context("what was to happen did not")?;
        }
        if self.resume_at.is_some_and(|at| now >= at) {
            self.resume_at = None;
            self.nodes[0].signals().send(SIGCONT)?;
        }
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if !node.has_ended() {
                continue;
            }
            let expected = number < self.ends && now >= self.event;
            ensure!(expected, "node {} ended by itself; its reason is above", number + 1);
            if number == 0 {
                self.exited.get_or_insert((now, moves.devices_moved()));
            }
        }
        Ok(())
    }

    fn returned(&self) -> Option<Nanos> {
        self.happening.as_ref().and_then(Happening::returned)
    }
}
