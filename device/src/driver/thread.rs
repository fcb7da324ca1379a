//! One device on a thread of its own, between the block-device front ends and its nodes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstream_ring::inbox::{Inbox, inbox};
use diskstream_ring::{Wait, Waker, clock};
use diskstream_wire::{Mac, Nanos};

use super::fleet::{Fleet, FleetConfig, Member};
use super::handle::{Command, Handle, INBOX_CAPACITY};
use super::sockets::Ports;
use super::{DriverError, log};
use crate::front::source::{UNIT_BYTES, push_extent};
use crate::front::{self, Done, ExtentsDone, ReadFailure};
use crate::session::{DiskInfo, Event, ReadError, RefusedReason, Session, SessionConfig, State};

/// Commands taken in one turn, so that datagrams get their turn too. Guess.
const COMMANDS_PER_TURN: usize = 256;

/// A unit as a length in memory.
const UNIT: usize = diskstream_wire::limits::UNIT_BYTES;

/// A vDisk that can be read, and the node that serves it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// What it is.
    pub disk: DiskInfo,
    /// The node's login address.
    pub node: SocketAddr,
}

/// A running device.
pub struct DeviceThread {
    handle: Handle,
    opened: mpsc::Receiver<Opened>,
    thread: Option<JoinHandle<Result<(), DriverError>>>,
}

impl DeviceThread {
    /// Opens the sockets and starts to log in.
    ///
    /// # Errors
    /// A setting, socket or ring that cannot be had: said before this returns.
    pub fn start(
        config: SessionConfig,
        ports: Ports,
        seed: [u8; 32],
    ) -> Result<DeviceThread, DriverError> {
        let system = |step| move |source| DriverError::System { step, source };
        let waker = Waker::new().map_err(system("make an eventfd"))?;
        let (sender, inbox) = inbox(INBOX_CAPACITY, waker.clone());
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let (opened_sender, opened) = mpsc::sync_channel(1);
        let size_bytes = Arc::new(AtomicU64::new(0));
        let ended = Arc::new(AtomicBool::new(false));
        let handle = Handle { sender, size_bytes: size_bytes.clone(), ended: ended.clone() };
        let body = move || {
            let mac = config.mac;
            let fleet_config = FleetConfig { waker: Some(waker), ..FleetConfig::default() };
            let added = Fleet::new(&fleet_config)
                .and_then(|mut fleet| fleet.add(config, ports, seed).map(|member| (fleet, member)));
            let (fleet, member) = match added {
                Ok(added) => added,
                Err(error) => {
                    // The starter waits for this.
                    let _gone = ready_sender.send(Err(error));
                    return Ok(());
                }
            };
            let _gone = ready_sender.send(Ok(()));
            let table = Table { mac, size_bytes, opened: opened_sender, ..Table::new() };
            let result = Loop { fleet, member, inbox, backlog: VecDeque::new(), table }.run(&ended);
            if let Err(error) = &result {
                tracing::error!(%mac, %error, "the device's thread ended");
            }
            result
        };
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(body)
            .map_err(system("start the device's thread"))?;
        let ended_early = std::io::Error::other("it ended before it was ready");
        ready.recv().map_err(|_| system("start the device's thread")(ended_early))??;
        Ok(DeviceThread { handle, opened, thread: Some(thread) })
    }

    /// Waits until the vDisk is open; none when `timeout` is over. Refusals are logged meanwhile.
    #[must_use]
    pub fn wait_opened(&self, timeout: Duration) -> Option<Opened> {
        self.opened.recv_timeout(timeout).ok()
    }

    /// Whether the device's thread still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.handle.ended.load(Ordering::Acquire)
    }

    /// The handle for front ends; its size is known once the vDisk is open.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Detaches: the node is told, outstanding reads fail, the thread ends.
    ///
    /// # Errors
    /// What had ended the thread before.
    pub fn detach(mut self) -> Result<(), DriverError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), DriverError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // A thread that has ended needs no telling.
        let _ended = self.handle.submit(Command::Detach);
        thread.join().expect("the device's thread does not panic")
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the device's thread had failed");
        }
    }
}

/// What is done with the answer to a token.
enum Waiting {
    Read { done: Done, length: usize, offset: u64 },
    Extents { done: ExtentsDone, length: u64, extents_max: usize, offset: u64 },
}

/// Who waits for what: a slab whose indices are the session's tokens.
struct Table {
    mac: Mac,
    size_bytes: Arc<AtomicU64>,
    opened: mpsc::SyncSender<Opened>,
    slots: Vec<Option<Waiting>>,
    free: Vec<usize>,
}

impl Table {
    fn new() -> Table {
        let (opened, _) = mpsc::sync_channel(1);
        let size_bytes = Arc::new(AtomicU64::new(0));
        Table { mac: Mac::default(), size_bytes, opened, slots: Vec::new(), free: Vec::new() }
    }

    fn add(&mut self, waiting: Waiting) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(waiting);
        slot as u64
    }

    fn take(&mut self, token: u64) -> Option<Waiting> {
        let slot = usize::try_from(token).ok()?;
        let waiting = self.slots.get_mut(slot)?.take();
        if waiting.is_some() {
            self.free.push(slot);
        }
        waiting
    }

    fn on_event(&mut self, event: Event) {
        log::event(self.mac, &event);
        match event {
            Event::ReadDone { token, mut buffer, result } => {
                if let Some(Waiting::Read { done, length, offset }) = self.take(token) {
                    buffer.truncate(length);
                    let size = self.size_bytes.load(Ordering::Relaxed);
                    done.call(buffer, result.map_err(|e| failure(e, offset, length as u64, size)));
                }
            }
            Event::ExtentsDone { token, result, .. } => {
                if let Some(Waiting::Extents { done, length, extents_max, offset }) =
                    self.take(token)
                {
                    let size = self.size_bytes.load(Ordering::Relaxed);
                    done.call(
                        result
                            .map(|runs| clip(&runs, length, extents_max))
                            .map_err(|e| failure(e, offset, length, size)),
                    );
                }
            }
            Event::Opened { disk, node } => {
                self.size_bytes.store(disk.size_bytes, Ordering::Release);
                // Whoever started the device may have stopped waiting.
                let _gone = self.opened.try_send(Opened { disk, node });
            }
            _ => {}
        }
    }
}

fn failure(error: ReadError, offset: u64, length: u64, size: u64) -> ReadFailure {
    match error {
        ReadError::OutOfRange => ReadFailure::OutOfRange { offset, length, size },
        ReadError::Closed => ReadFailure::Shutdown,
        ReadError::Store | ReadError::HoldExpired => {
            ReadFailure::Store { offset, length, cause: error.to_string().into() }
        }
    }
}

fn clip(runs: &[crate::session::Extent], length: u64, extents_max: usize) -> Vec<front::Extent> {
    let mut clipped = Vec::with_capacity(runs.len().min(extents_max));
    let mut left = length;
    for run in runs {
        let length = run.length.min(left);
        left -= length;
        if !push_extent(&mut clipped, front::Extent { length, zero: run.zero }, extents_max) {
            break;
        }
    }
    clipped
}

/// The thread's own state.
struct Loop {
    fleet: Fleet,
    member: Member,
    inbox: Inbox<Command>,
    /// Commands that the session had no room for, oldest first.
    backlog: VecDeque<Command>,
    table: Table,
}

impl Loop {
    /// Commands in, one turn, events out; until the session is closed.
    fn run(mut self, ended: &AtomicBool) -> Result<(), DriverError> {
        let result = self.turns();
        ended.store(true, Ordering::Release);
        // Whoever pushed before that moment is answered; whoever comes later sees the flag.
        while let Some(command) = self.backlog.pop_front().or_else(|| self.inbox.pop()) {
            refuse(command);
        }
        for waiting in self.table.slots.iter_mut().filter_map(Option::take) {
            match waiting {
                Waiting::Read { done, length, .. } => {
                    done.call(vec![0; length], Err(ReadFailure::Shutdown));
                }
                Waiting::Extents { done, .. } => done.call(Err(ReadFailure::Shutdown)),
            }
        }
        result
    }

    fn turns(&mut self) -> Result<(), DriverError> {
        while self.fleet.session(self.member).state() != State::Closed {
            self.take_commands();
            let wait = if self.inbox.may_sleep() { Wait::Forever } else { Wait::Never };
            let table = &mut self.table;
            let result = self.fleet.turn(wait, |_, _, event, _| table.on_event(event));
            self.inbox.awake();
            result?;
        }
        Ok(())
    }

    fn take_commands(&mut self) {
        let now = clock::now();
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.backlog.pop_front().or_else(|| self.inbox.pop()) else {
                break;
            };
            let session = self.fleet.session_mut(self.member);
            if let Some(command) = start(session, &mut self.table, command, now) {
                self.backlog.push_front(command);
                break;
            }
        }
    }
}

/// Starts a command; gives it back when the session has no room for it now.
fn start(
    session: &mut Session,
    table: &mut Table,
    command: Command,
    now: Nanos,
) -> Option<Command> {
    match command {
        Command::Read(front::ReadRequest { offset, mut buffer, done }) => {
            // Only the vDisk's last unit may be short: it is read whole and cut.
            let length = buffer.len();
            buffer.resize(length.next_multiple_of(UNIT), 0);
            let token = table.add(Waiting::Read { done, length, offset });
            if let Err(refused) = session.read(token, offset, buffer, now) {
                let Some(Waiting::Read { done, .. }) = table.take(token) else { return None };
                let mut buffer = refused.buffer;
                buffer.truncate(length);
                if refused.reason == RefusedReason::Full {
                    return Some(Command::Read(front::ReadRequest { offset, buffer, done }));
                }
                done.call(buffer, Err(refusal(refused.reason, offset, length as u64)));
            }
        }
        Command::Extents(front::ExtentsRequest { offset, length, extents_max, done }) => {
            let whole = length.next_multiple_of(UNIT_BYTES);
            let token = table.add(Waiting::Extents { done, length, extents_max, offset });
            if let Err(reason) = session.extents(token, offset, whole, now) {
                let Some(Waiting::Extents { done, .. }) = table.take(token) else { return None };
                if reason == RefusedReason::Full {
                    let again = front::ExtentsRequest { offset, length, extents_max, done };
                    return Some(Command::Extents(again));
                }
                done.call(Err(refusal(reason, offset, length)));
            }
        }
        Command::WriteCacheFigures { used_bytes, capacity_bytes } => {
            session.set_write_cache_figures(used_bytes, capacity_bytes);
        }
        Command::Status(sender) => {
            // Whoever asked may have stopped waiting.
            let _gone = sender.try_send(session.status(now));
        }
        Command::Detach => session.detach(now),
    }
    None
}

fn refusal(reason: RefusedReason, offset: u64, length: u64) -> ReadFailure {
    match reason {
        RefusedReason::Closed => ReadFailure::Shutdown,
        _ => ReadFailure::Store { offset, length, cause: reason.to_string().into() },
    }
}

fn refuse(command: Command) {
    match command {
        Command::Read(request) => request.done.call(request.buffer, Err(ReadFailure::Shutdown)),
        Command::Extents(request) => request.done.call(Err(ReadFailure::Shutdown)),
        Command::WriteCacheFigures { .. } | Command::Status(_) | Command::Detach => {}
    }
}
