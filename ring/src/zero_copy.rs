//! Whether sends pay that the kernel does not copy, found out by trying: pure, with time as an argument.
//!
//! Nobody can know beforehand. A card that gathers and segments sends straight from the cache at less than half of what a
//! copy costs (docs/tuning-network.md); an interface that hands datagrams to another socket of this host copies after all, and later, which costs more.
//! So each local address (which stands for the interface that its datagrams leave by) is tried on the sends that happen
//! anyway: some turns with, some without, and the processor time for each byte compared.
//!
//! ```text
//!           ┌──(clearly cheaper)──► on ─────(AGAIN)──► trial
//! new ──► trial ──(not)──► off ─(AGAIN; sooner if it was close)──► trial
//!   ▲       │ └──(too few full turns)──► new, after a while
//!   └───────┘
//! trial, on ──(the kernel copied)──► copied ──(AGAIN)──► trial
//! trial, on ──(the kernel refuses what it takes with a copy)──► refused ──(AGAIN)──► trial
//! ```
//!
//! Told to use it ([`ZeroCopy::On`]), there are no trials, but what the kernel says is kept the same way: an address counts as
//! one that sends without a copy once a notification said so, and not while notifications say the contrary.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use diskstream_wire::time::Nanos;

use crate::errno::Errno;

/// Addresses that are kept apart; sends from further ones are copied. Guessed: the addresses of a host with several cards.
const PATHS_MAX: usize = 8;
/// Turns that are compared, for each of the two. Guessed: enough for a quartile that many disturbed turns do not move.
const SAMPLES: usize = 32;
/// Turns in a row of one kind, of which the first is not counted: it pays for the notifications of the kind before.
const RUN_TURNS: u8 = 5;
/// Bytes of a turn that is counted. Derived: below, the turn's other work (a receive costs 1 µs) outweighs what 64 KiB cost to copy (10 µs).
const TURN_BYTES_MIN: u64 = 64 * 1024;
/// A trial that is not over by then had too few full turns to matter; so long the others have their turn, then it begins anew.
const TRIAL_MAX: Nanos = Nanos::from_secs(30);
/// A verdict is looked at again: routes and cards change. Guessed.
const AGAIN: Nanos = Nanos::from_secs(600);
/// So is one that was close, sooner: other work on the machine may have hidden a gain. Guessed; a trial takes some 70 turns.
const AGAIN_CLOSE: Nanos = Nanos::from_secs(60);

/// Whether sends may leave without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where a trial shows that it pays.
    #[default]
    Auto,
    /// Wherever the kernel takes it, even if it copies in the end (the log and [`crate::Ring::zero_copy_paths`] tell).
    On,
    /// Never.
    Off,
}

impl fmt::Display for ZeroCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ZeroCopy::Auto => "auto",
            ZeroCopy::On => "on",
            ZeroCopy::Off => "off",
        })
    }
}

/// The text is not one of `auto`, `on`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("zero copy is one of: auto, on, off")]
pub struct UnknownZeroCopy;

impl FromStr for ZeroCopy {
    type Err = UnknownZeroCopy;
    fn from_str(text: &str) -> Result<ZeroCopy, UnknownZeroCopy> {
        match text {
            "auto" => Ok(ZeroCopy::Auto),
            "on" => Ok(ZeroCopy::On),
            "off" => Ok(ZeroCopy::Off),
            _ => Err(UnknownZeroCopy),
        }
    }
}

/// A local address of [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathId(u8);

/// Something was decided, to be logged. `from: None` is the address to which the socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Zero copy pays.
    On { from: Option<IpAddr>, copy_ns_per_mib: u64, zero_ns_per_mib: u64 },
    /// It does not.
    Off { from: Option<IpAddr>, copy_ns_per_mib: u64, zero_ns_per_mib: u64 },
    /// The kernel took the bytes without a copy, and copied them later.
    Copied { from: Option<IpAddr> },
    /// The kernel does not take without a copy what it takes with one.
    Refused { from: Option<IpAddr>, error: Errno },
    /// A trial had too few full turns.
    Undecided { from: Option<IpAddr> },
}

/// What one turn cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TurnCost {
    /// Processor time of this thread in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Payload bytes of all sends.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known. Its trial may begin from then on.
    New {
        from: Nanos,
    },
    Trial,
    /// It pays; or, without trials, the kernel said that it did not copy.
    On {
        until: Nanos,
    },
    /// It does not pay.
    Off {
        until: Nanos,
    },
    /// The kernel copied.
    Copied {
        until: Nanos,
    },
    /// The kernel would not take it.
    Refused {
        until: Nanos,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// A trial had too few full turns.
    Undecided,
    Off,
}

#[derive(Clone, Copy, Debug)]
struct Path {
    from: Option<IpAddr>,
    state: State,
    /// What the log says of it, where saying it again would be no news.
    told: Option<Told>,
}

/// Costs of the turns of one kind, in nanoseconds for each MiB.
#[derive(Clone, Copy, Debug)]
struct Samples {
    costs: [u64; SAMPLES],
    count: usize,
}

impl Samples {
    const NONE: Samples = Samples { costs: [0; SAMPLES], count: 0 };

    fn add(&mut self, cost: TurnCost) {
        if let Some(slot) = self.costs.get_mut(self.count) {
            *slot = (cost.cpu_ns << 20) / cost.bytes.max(1);
            self.count += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.count == SAMPLES
    }

    /// The lower quartile: what disturbs a turn only adds to it. Beside compilers on both cores six trials of one interface compared by
    /// medians gave 0.77 to 1.05 of the copy, where it costs 0.6 undisturbed.
    fn undisturbed(mut self) -> u64 {
        let costs = &mut self.costs[..self.count];
        costs.sort_unstable();
        costs.get(costs.len() / 4).copied().unwrap_or(0)
    }
}

/// The trial that is going on; one at a time.
#[derive(Clone, Copy, Debug)]
struct Trial {
    path: PathId,
    since: Nanos,
    zero: bool,
    run: u8,
    /// Bytes of this turn's sends from the path that could leave without a copy.
    bytes: u64,
    copied: Samples,
    zeroed: Samples,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Choice {
    mode: ZeroCopy,
    paths: Vec<Path>,
    trial: Option<Trial>,
    now: Nanos,
}

impl Choice {
    pub(crate) fn new(mode: ZeroCopy, now: Nanos) -> Choice {
        Choice { mode, paths: Vec::with_capacity(PATHS_MAX), trial: None, now }
    }

    /// Never again. Addresses stay known: sends under way name them.
    pub(crate) fn give_up(&mut self) {
        self.mode = ZeroCopy::Off;
        self.trial = None;
    }

    /// True when the cost of the turn that is about to be submitted is wanted: reading it is a system call.
    pub(crate) fn measuring(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.bytes >= TURN_BYTES_MIN)
    }

    /// True while a trial is going on, whose end is a matter of time.
    pub(crate) fn on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Addresses whose sends leave without a copy now: as far as the kernel has said, which is not before the first notification.
    pub(crate) fn paths_on(&self) -> usize {
        match self.mode {
            ZeroCopy::Off => 0,
            ZeroCopy::On | ZeroCopy::Auto => {
                self.paths.iter().filter(|path| matches!(path.state, State::On { .. })).count()
            }
        }
    }

    /// True when some address's sends may leave without a copy now.
    pub(crate) fn is_wanted(&self) -> bool {
        let wanted = |path: &Path| match path.state {
            State::On { .. } | State::Trial => true,
            State::New { .. } | State::Copied { .. } => self.mode == ZeroCopy::On,
            State::Off { .. } | State::Refused { .. } => false,
        };
        self.mode != ZeroCopy::Off && self.paths.iter().any(wanted)
    }

    /// The address, if its sends may leave without a copy at all: asked of every send, before anything dearer is looked at.
    pub(crate) fn considers(&mut self, from: Option<IpAddr>) -> Option<PathId> {
        if self.mode == ZeroCopy::Off {
            return None;
        }
        let id = self.path(from)?;
        let path = &self.paths[usize::from(id.0)];
        let considered = match (self.mode, path.state) {
            (_, State::On { .. } | State::Trial) => true,
            (ZeroCopy::On, State::New { .. } | State::Copied { .. }) => true,
            (ZeroCopy::On, State::Off { until } | State::Refused { until }) => until <= self.now,
            _ => self.trial.is_none() && is_due(path.state, self.now),
        };
        considered.then_some(id)
    }

    /// Whether a send that could leave without a copy shall: `id` from [`Choice::considers`].
    pub(crate) fn wants(&mut self, id: PathId, bytes: usize) -> bool {
        let now = self.now;
        let Some(path) = self.paths.get_mut(usize::from(id.0)) else { return false };
        match self.mode {
            ZeroCopy::Off => return false,
            ZeroCopy::On => return true,
            ZeroCopy::Auto => {}
        }
        if self.trial.is_none() && is_due(path.state, now) {
            path.state = State::Trial;
            self.trial = Some(Trial {
                path: id,
                since: now,
                zero: false,
                run: 0,
                bytes: 0,
                copied: Samples::NONE,
                zeroed: Samples::NONE,
            });
        }
        match path.state {
            State::On { .. } => true,
            State::New { .. }
            | State::Off { .. }
            | State::Copied { .. }
            | State::Refused { .. } => false,
            State::Trial => {
                let trial = self.trial.as_mut().expect("the state says so");
                trial.bytes += bytes as u64;
                trial.zero
            }
        }
    }

    /// A turn is over; `cost` is what it took, where it was [wanted](Choice::measuring).
    pub(crate) fn turn_over(&mut self, cost: Option<TurnCost>, now: Nanos) -> Option<Verdict> {
        self.now = now;
        let trial = self.trial.as_mut()?;
        let bytes = std::mem::take(&mut trial.bytes);
        // Only turns in which hardly anything else was sent tell something.
        let counted = cost.filter(|c| bytes >= TURN_BYTES_MIN && bytes * 8 >= c.bytes * 7);
        if let Some(cost) = counted {
            if trial.run > 0 {
                let samples = if trial.zero { &mut trial.zeroed } else { &mut trial.copied };
                samples.add(cost);
            }
            trial.run += 1;
            if trial.run == RUN_TURNS {
                (trial.run, trial.zero) = (0, !trial.zero);
            }
        }
        let over = trial.copied.is_full() && trial.zeroed.is_full();
        if !over && now.since(trial.since) < TRIAL_MAX {
            return None;
        }
        let trial = self.trial.take().expect("looked at above");
        let path = &mut self.paths[usize::from(trial.path.0)];
        let from = path.from;
        if !over {
            path.state = State::New { from: now + TRIAL_MAX };
            let told = path.told.replace(Told::Undecided);
            return (told != Some(Told::Undecided)).then_some(Verdict::Undecided { from });
        }
        let (copy_ns_per_mib, zero_ns_per_mib) =
            (trial.copied.undisturbed(), trial.zeroed.undisturbed());
        // A clear win: four fifths. Guessed.
        if zero_ns_per_mib * 5 <= copy_ns_per_mib * 4 {
            path.state = State::On { until: now + AGAIN };
            path.told = None;
            return Some(Verdict::On { from, copy_ns_per_mib, zero_ns_per_mib });
        }
        let close = zero_ns_per_mib < copy_ns_per_mib;
        path.state = State::Off { until: now + if close { AGAIN_CLOSE } else { AGAIN } };
        let told = path.told.replace(Told::Off);
        (told != Some(Told::Off)).then_some(Verdict::Off { from, copy_ns_per_mib, zero_ns_per_mib })
    }

    /// The network is done with a send that was [wanted](Choice::wants) and went well; `copied`: the kernel copied it after all.
    pub(crate) fn notified(&mut self, id: PathId, copied: bool) -> Option<Verdict> {
        let now = self.now;
        let path = self.paths.get_mut(usize::from(id.0))?;
        match (self.mode, path.state) {
            (ZeroCopy::Off, _) => return None,
            // Further notifications of sends that were under way are no news; and where one address reaches both kinds of
            // interface, a line now and then tells as much as one for each send.
            (_, State::Copied { until }) if until > now => return None,
            (ZeroCopy::Auto, State::On { .. } | State::Trial) if copied => {}
            (ZeroCopy::On, _) if copied => {}
            (ZeroCopy::On, State::New { .. } | State::Copied { .. } | State::Refused { .. }) => {
                path.state = State::On { until: Nanos::NEVER };
                return None;
            }
            _ => return None,
        }
        (path.state, path.told) = (State::Copied { until: now + AGAIN }, None);
        let from = path.from;
        self.end_trial_of(id);
        Some(Verdict::Copied { from })
    }

    /// The kernel took with a copy what it had refused without one.
    pub(crate) fn refused(&mut self, id: PathId, error: Errno) -> Option<Verdict> {
        let now = self.now;
        let path = self.paths.get_mut(usize::from(id.0))?;
        if self.mode == ZeroCopy::Off
            || matches!(path.state, State::Refused { until } if until > now)
        {
            return None;
        }
        (path.state, path.told) = (State::Refused { until: now + AGAIN }, None);
        let from = path.from;
        self.end_trial_of(id);
        Some(Verdict::Refused { from, error })
    }

    fn end_trial_of(&mut self, id: PathId) {
        self.trial.take_if(|trial| trial.path == id);
    }

    fn path(&mut self, from: Option<IpAddr>) -> Option<PathId> {
        let found = self.paths.iter().position(|path| path.from == from);
        let index = match found {
            Some(index) => index,
            None if self.paths.len() == PATHS_MAX => return None,
            None => {
                let state = State::New { from: Nanos::ZERO };
                self.paths.push(Path { from, state, told: None });
                self.paths.len() - 1
            }
        };
        Some(PathId(u8::try_from(index).expect("fewer than PATHS_MAX")))
    }
}

/// Whether a path's (next) trial may begin.
fn is_due(state: State, now: Nanos) -> bool {
    match state {
        State::Trial => false,
        State::New { from } => from <= now,
        State::On { until }
        | State::Off { until }
        | State::Copied { until }
        | State::Refused { until } => until <= now,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Verdict::On { from, .. }
        | Verdict::Off { from, .. }
        | Verdict::Copied { from }
        | Verdict::Refused { from, .. }
        | Verdict::Undecided { from }) = *self;
        match from {
            Some(from) => write!(f, "sends from {from}: ")?,
            None => f.write_str("sends: ")?,
        }
        match *self {
            Verdict::On { copy_ns_per_mib, zero_ns_per_mib, .. } => write!(
                f,
                "zero copy is on: {zero_ns_per_mib} ns of processor for each MiB, {copy_ns_per_mib} with a copy"
            ),
            Verdict::Off { copy_ns_per_mib, zero_ns_per_mib, .. } => write!(
                f,
                "zero copy stays off: {zero_ns_per_mib} ns of processor for each MiB, {copy_ns_per_mib} with a copy"
            ),
            Verdict::Copied { .. } => f.write_str(
                "zero copy does not happen: the kernel copies after all, as it does for this host's own sockets and for \
                 interfaces that cannot gather",
            ),
            Verdict::Refused { error, .. } => write!(
                f,
                "zero copy is off: the kernel refuses without a copy ({error}) what it takes with one"
            ),
            Verdict::Undecided { .. } => write!(
                f,
                "zero copy is not decided: too little was sent at once within {} s to compare; sends are copied until a \
                 later trial has enough (this line comes once)",
                TRIAL_MAX.0 / 1_000_000_000
            ),
        }
    }
}

#[cfg(test)]
mod tests;
