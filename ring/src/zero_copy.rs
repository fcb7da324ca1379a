//! Whether sends pay that the kernel does not copy, found out by trying: pure, with time as an argument.
//!
//! Nobody can know beforehand. A card that gathers and segments sends straight from the cache at a seventh of the cost of a
//! copy; an interface that hands datagrams to another socket of this host copies after all, and later, which costs more.
//! So each local address (which stands for the interface that its datagrams leave by) is tried on the sends that happen
//! anyway: some turns with, some without, and the processor time for each byte compared.
//!
//! ```text
//! trial ──(zero copy clearly cheaper)──► on ──(AGAIN)──► trial
//!   │ └──(not)──► off ──(AGAIN)──► trial  │
//!   └────(the kernel copied, or refused)──┴──► off
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use diskstream_wire::time::Nanos;

/// Addresses that are kept apart; sends from further ones are copied. Guessed: the addresses of a host with several cards.
const PATHS_MAX: usize = 8;
/// Turns that are compared, for each of the two. Guessed: enough for a median that a few disturbed turns do not move.
const SAMPLES: usize = 32;
/// Turns in a row of one kind, of which the first is not counted: it pays for the notifications of the kind before.
const RUN_TURNS: u8 = 5;
/// Bytes of a turn that is counted. Derived: below, the turn's other work (a receive costs 1 µs) outweighs what 64 KiB cost to copy (10 µs).
const TURN_BYTES_MIN: u64 = 64 * 1024;
/// A trial that is not over by then had too few full turns to matter.
const TRIAL_MAX: Nanos = Nanos::from_secs(30);
/// A verdict is looked at again: routes and cards change. Guessed.
const AGAIN: Nanos = Nanos::from_secs(600);

/// Whether sends may leave without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where a trial shows that it pays.
    #[default]
    Auto,
    /// Wherever the kernel takes it, even if it copies in the end.
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

/// Something was decided, to be logged. `None` is the address to which the socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Zero copy pays.
    On { from: Option<IpAddr>, copy_ns_per_mib: u64, zero_ns_per_mib: u64 },
    /// It does not.
    Off { from: Option<IpAddr>, copy_ns_per_mib: u64, zero_ns_per_mib: u64 },
    /// The kernel said that it copied.
    Copied { from: Option<IpAddr> },
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
    /// Its trial is to come.
    New,
    Trial,
    On {
        until: Nanos,
    },
    Off {
        until: Nanos,
    },
}

#[derive(Clone, Copy, Debug)]
struct Path {
    from: Option<IpAddr>,
    state: State,
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

    fn median(mut self) -> u64 {
        let costs = &mut self.costs[..self.count];
        costs.sort_unstable();
        costs.get(costs.len() / 2).copied().unwrap_or(0)
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

    /// True when the cost of the turn that is about to be submitted is wanted: reading it is a system call.
    pub(crate) fn measuring(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.bytes >= TURN_BYTES_MIN)
    }

    /// Addresses whose sends leave without a copy now.
    pub(crate) fn paths_on(&self) -> usize {
        match self.mode {
            ZeroCopy::Off => 0,
            ZeroCopy::On => self.paths.len(),
            ZeroCopy::Auto => {
                self.paths.iter().filter(|path| matches!(path.state, State::On { .. })).count()
            }
        }
    }

    /// Whether a send that could leave without a copy shall, and what to say about it later.
    pub(crate) fn wants(&mut self, from: Option<IpAddr>, bytes: usize) -> Option<PathId> {
        if self.mode == ZeroCopy::Off {
            return None;
        }
        let id = self.path(from)?;
        if self.mode == ZeroCopy::On {
            return Some(id);
        }
        let now = self.now;
        let path = &mut self.paths[usize::from(id.0)];
        let due = match path.state {
            State::New => true,
            State::On { until } | State::Off { until } => until <= now,
            State::Trial => false,
        };
        if due && self.trial.is_none() {
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
            State::On { .. } => Some(id),
            State::New | State::Off { .. } => None,
            State::Trial => {
                let trial = self.trial.as_mut().expect("the state says so");
                trial.bytes += bytes as u64;
                trial.zero.then_some(id)
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
        let (copy, zero, path) = (trial.copied.median(), trial.zeroed.median(), trial.path);
        self.trial = None;
        let path = &mut self.paths[usize::from(path.0)];
        let (from, until) = (path.from, now + AGAIN);
        // A clear win: four fifths, which the noise of a busy machine does not reach in a median of 32.
        if over && zero * 5 <= copy * 4 {
            path.state = State::On { until };
            return Some(Verdict::On { from, copy_ns_per_mib: copy, zero_ns_per_mib: zero });
        }
        path.state = State::Off { until };
        over.then_some(Verdict::Off { from, copy_ns_per_mib: copy, zero_ns_per_mib: zero })
    }

    /// The kernel said that it copied a send that was [wanted](Choice::wants) without, or would not take it.
    pub(crate) fn failed(&mut self, id: PathId) -> Option<Verdict> {
        let path = &mut self.paths[usize::from(id.0)];
        if self.mode != ZeroCopy::Auto || matches!(path.state, State::Off { .. }) {
            return None;
        }
        path.state = State::Off { until: self.now + AGAIN };
        if self.trial.as_ref().is_some_and(|trial| trial.path == id) {
            self.trial = None;
        }
        Some(Verdict::Copied { from: path.from })
    }

    fn path(&mut self, from: Option<IpAddr>) -> Option<PathId> {
        let found = self.paths.iter().position(|path| path.from == from);
        let index = match found {
            Some(index) => index,
            None if self.paths.len() == PATHS_MAX => return None,
            None => {
                self.paths.push(Path { from, state: State::New });
                self.paths.len() - 1
            }
        };
        Some(PathId(u8::try_from(index).expect("fewer than PATHS_MAX")))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Verdict::On { from, .. } | Verdict::Off { from, .. } | Verdict::Copied { from }) =
            *self;
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
                "zero copy is off: the kernel copies after all, as it does for this host's own sockets and for interfaces \
                 that cannot gather",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
