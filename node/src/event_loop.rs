//! The thread of one shard: moves bytes between its ring and its machine, and decides nothing.
//!
//! One turn, in this order:
//!
//! ```text
//! 1 sleep?    only when the inbox is empty and the machine wants nothing before its deadline
//! 2 turn      one io_uring_enter: submits all that step 6 of the last turn queued, reaps into a fixed array
//! 3 reap      each completion becomes one or more inputs; buffers go back as soon as they are read
//! 4 inbox     what other shards and the control thread say: after the reap, so that a block loaded in this turn
//!             meets those that wait for it in the same one
//! 5 flush     the machine serves its sessions in turn and sets its timers: after all inputs, so that replies to one
//!             device share a send
//! 6 dispatch  sends, reads and messages are queued; they cost one system call together, in step 2
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use diskstream_ring::inbox::{Inbox, Sender};
use diskstream_ring::ring::RingError;
use diskstream_ring::{
    Completion, Completions, Errno, FileId, ReadPlan, Ring, SocketId, Wait, clock, pin,
};
use diskstream_wire::Nanos;
use diskstream_wire::canonical;

use crate::metrics::RingStats;
use crate::rebalance::Share;
use crate::shard::{Event, FORESEEN, Input, Outbox, Severity, Shard, ShardMessage, SocketRole};
use crate::view::DrainState;

/// Events of one kind that are logged in a second; the rest is counted and told with the next one. Guessed: what a
/// person can read.
const EVENTS_PER_SECOND: u32 = 20;

/// What a shard's thread is told from outside.
#[derive(Debug)]
pub enum Command {
    /// Another shard speaks.
    FromShard(ShardMessage),
    /// The file of a vDisk was changed.
    VdiskChanged(u32),
    /// Take no devices, and tell those that are here to move.
    Drain {
        /// For maintenance, or because the node ends.
        state: DrainState,
        /// When those that are left are given up.
        deadline: Nanos,
    },
    /// Take devices again.
    Resume,
    /// Ask some devices to go elsewhere.
    Rebalance {
        /// Of this vDisk.
        vdisk: u32,
        /// So many.
        count: u32,
        /// Where to.
        successors: Arc<[Share]>,
    },
    /// Another shard has nothing left to serve after a drain.
    OtherDrained,
    /// End the thread now.
    Stop,
}

/// A shard's machine with its ring, sockets and files.
pub struct ShardThread {
    /// The ring; nobody else uses it.
    pub ring: Ring,
    /// The machine.
    pub shard: Shard,
    /// The machine's outbox.
    pub out: Outbox,
    /// The node's login socket, at the one shard that has it.
    pub login: Option<SocketId>,
    /// The shard's own socket.
    pub io: SocketId,
    /// The ring's files, by vDisk and by file of the vDisk.
    pub files: Vec<Vec<FileId>>,
    /// What others say.
    pub inbox: Inbox<Command>,
    /// The other shards, by index; its own place is never used.
    pub others: Vec<Sender<Command>>,
    /// What others see.
    pub report: Arc<RingStats>,
    /// Names of the vDisks, for the log.
    pub vdisk_names: Vec<String>,
    /// Other shards that have drained.
    pub others_drained: usize,
    /// Whether the others know that this one has.
    pub told_drained: bool,
}

/// Completions of one turn. Guessed: enough for a full burst, small enough to stay in the cache.
const COMPLETIONS: usize = 512;

/// Completions of a turn from which there may be more behind them: the kernel hands out a multishot receive's datagrams in
/// portions of 32 (`MULTISHOT_MAX_RETRY`).
const MANY_COMPLETIONS: usize = 32;

impl ShardThread {
    /// Runs until it is told to stop, or has drained.
    ///
    /// # Errors
    /// When the kernel refuses a turn: the ring is of no further use.
    pub fn run(mut self) -> Result<(), RingError> {
        let mut done = Completions::new(COMPLETIONS);
        let mut log = EventLog::default();
        let mut now = clock::now();
        loop {
            self.turn(&mut done, now)?;
            now = clock::now();
            let more = done.len() >= MANY_COMPLETIONS;
            self.shard.step(Input::Turn { more }, now, &mut self.out);
            self.reap(&mut done, now);
            let stop = self.take_inbox(now);
            self.shard.flush(now, &mut self.out);
            self.dispatch(now);
            for event in self.out.events.drain(..) {
                log.write(event, now, &self.vdisk_names);
            }
            self.report.publish(self.ring.stats());
            self.report.publish_path(self.ring.zero_copy_paths(), self.ring.busy_polls());
            if stop || self.all_drained() {
                // The last answers (closings, notices) are still queued.
                let last = self.ring.turn(Wait::Never, &mut done);
                pin::give_way();
                return last;
            }
        }
    }

    /// True when no shard has anything left to serve. Until then all stay: the one with the login socket answers devices
    /// that come late, and what a shard waits for may be another's to load.
    fn all_drained(&mut self) -> bool {
        if !self.shard.drained() {
            return false;
        }
        if !self.told_drained {
            self.told_drained = true;
            let own = usize::from(self.shard.index());
            for (_, other) in self.others.iter().enumerate().filter(|(index, _)| *index != own) {
                let told = other.push_by(&mut self.ring, Command::OtherDrained);
                assert!(told.is_ok(), "an inbox has room for what it is told once");
            }
        }
        self.others_drained + 1 == self.others.len()
    }

    /// `now`: when the turn before began its work; what may gather does not need to know better.
    fn turn(&mut self, done: &mut Completions, now: Nanos) -> Result<(), RingError> {
        let wait = match (self.shard.next_deadline(), self.shard.gathers_for(now)) {
            (Nanos::NEVER, Nanos::ZERO) => Wait::Forever,
            (deadline, Nanos::ZERO) => Wait::Until(deadline),
            (deadline, period) => Wait::Gather(deadline.earlier(now + period)),
        };
        if self.inbox.may_sleep() {
            let turned = self.ring.turn(wait, done);
            self.inbox.awake();
            turned
        } else {
            self.ring.turn(Wait::Never, done)
        }
    }

    fn reap(&mut self, done: &mut Completions, now: Nanos) {
        let mut done = done.drain();
        let mut foreseen = 0;
        loop {
            if foreseen == 0 {
                foreseen = look_ahead(&self.ring, &mut self.shard, done.as_slice());
            }
            foreseen = foreseen.saturating_sub(1);
            let Some(completion) = done.next() else { break };
            match completion {
                Completion::Received(received) => {
                    let datagram = self.ring.datagram(&received);
                    let socket = if Some(datagram.socket) == self.login {
                        SocketRole::Login
                    } else {
                        SocketRole::Io
                    };
                    let from = canonical(datagram.from);
                    for bytes in datagram.segments() {
                        let input = Input::Datagram { socket, from, local: datagram.local, bytes };
                        self.shard.step(input, now, &mut self.out);
                    }
                    self.ring.recycle(received);
                }
                Completion::Sent { plan, result, .. } => {
                    self.shard.step(Input::Sent { plan, result }, now, &mut self.out);
                }
                Completion::Read { token, result } => {
                    self.shard.step(Input::DiskDone { token, result }, now, &mut self.out);
                }
                Completion::Woken => {}
                Completion::SocketError { error, .. } => {
                    self.shard.step(Input::SocketFailed { error }, now, &mut self.out);
                }
            }
        }
    }

    fn take_inbox(&mut self, now: Nanos) -> bool {
        let mut stop = false;
        while let Some(command) = self.inbox.pop() {
            let input = match &command {
                Command::FromShard(message) => Input::FromShard(*message),
                Command::VdiskChanged(vdisk) => Input::VdiskChanged { vdisk: *vdisk },
                Command::Drain { state, deadline } => {
                    Input::Drain { state: *state, deadline: *deadline }
                }
                Command::Resume => Input::Resume,
                Command::Rebalance { vdisk, count, successors } => {
                    Input::Rebalance { vdisk: *vdisk, count: *count, successors }
                }
                Command::OtherDrained => {
                    self.others_drained += 1;
                    continue;
                }
                Command::Stop => {
                    stop = true;
                    continue;
                }
            };
            self.shard.step(input, now, &mut self.out);
        }
        stop
    }

    fn dispatch(&mut self, now: Nanos) {
        for (shard, message) in self.out.messages.drain(..) {
            let sent = self.others[usize::from(shard)]
                .push_by(&mut self.ring, Command::FromShard(message));
            assert!(sent.is_ok(), "an inbox has room for every block that its shard can wait for");
        }
        for read in self.out.reads.drain(..) {
            let file = self.files[index(read.file.vdisk)][usize::from(read.file.file_index)];
            let plan = ReadPlan {
                file,
                file_offset: read.file_offset,
                arena_offset: read.arena_offset,
                len: read.len,
                token: read.token,
            };
            let queued = self.ring.read(plan);
            assert!(
                queued.is_ok(),
                "the ring has room for every block that its shard can wait for"
            );
        }
        // The machine answers a refused send at once (the plan comes home), which may not queue another.
        let mut refused = Vec::new();
        for (role, plan) in self.out.sends.drain(..) {
            let socket = match role {
                SocketRole::Login => self.login.unwrap_or(self.io),
                SocketRole::Io => self.io,
            };
            if let Err((_, plan)) = self.ring.send(socket, plan) {
                refused.push(plan);
            }
        }
        for plan in refused {
            let result = Err(Errno::EAGAIN);
            self.shard.step(Input::Sent { plan, result }, now, &mut self.out);
        }
    }
}

/// Lets the machine look at the next datagrams before it takes them in. Gives the completions looked at.
fn look_ahead(ring: &Ring, shard: &mut Shard, next: &[Completion]) -> usize {
    let next = &next[..next.len().min(FORESEEN)];
    for completion in next {
        if let Completion::Received(received) = completion {
            for bytes in ring.datagram(received).segments() {
                shard.foresee(bytes);
            }
        }
    }
    shard.foresee_frames();
    next.len()
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit an index")
}

/// Writes events, a bounded number of each kind in a second.
#[derive(Debug, Default)]
struct EventLog {
    kinds: HashMap<&'static str, (Nanos, u32, u64)>,
}

impl EventLog {
    fn write(&mut self, event: Event, now: Nanos, vdisks: &[String]) {
        let (since, written, kept_back) = self.kinds.entry(event.label()).or_insert((now, 0, 0));
        if now.since(*since) >= Nanos::from_secs(1) {
            (*since, *written) = (now, 0);
        }
        if *written >= EVENTS_PER_SECOND {
            *kept_back += 1;
            return;
        }
        *written += 1;
        let vdisk = event.vdisk().and_then(|v| vdisks.get(index(v)));
        let of = vdisk.map_or_else(String::new, |name| format!("vDisk {name}: "));
        let more = match std::mem::take(kept_back) {
            0 => String::new(),
            n => format!(" ({n} more of this kind were not logged)"),
        };
        match event.severity() {
            Severity::Info => tracing::info!("{of}{event}{more}"),
            Severity::Warning => tracing::warn!("{of}{event}{more}"),
            Severity::Error => tracing::error!("{of}{event}{more}"),
        }
    }
}
