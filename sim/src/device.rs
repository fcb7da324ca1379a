//! A device in the world: the real session machine, and a reader above it who knows what the image holds.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use diskstream_device::session::{
    Channel, Counters, Event, Extent, MoveCause, ReadError, Session, SessionConfig,
};
use diskstream_wire::Nanos;
use diskstream_wire::limits::{DEVICE_IO_PORT, DEVICE_LOGIN_PORT, DEVICE_NOTICE_PORT, UNIT_BYTES};

use crate::figures::Stalls;
use crate::hosts::{device_ip, device_ip_changed, device_mac};
use crate::image::SimImage;
use crate::network::Datagram;
use crate::options::{Options, Workload};
use crate::random::Random;

/// Units of the longest read of a closed loop.
const CLOSED_UNITS_MAX: usize = 32;
/// Every so many reads a closed loop also asks where zeros are.
const EXTENTS_EVERY: u64 = 16;

/// A device went on with another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub at: Nanos,
    /// Login address of the node that it left.
    pub from: SocketAddr,
    /// And of the one that it went to.
    pub to: SocketAddr,
    /// What it says was the reason.
    pub cause: MoveCause,
    /// Since when it was at `from`.
    pub since: Nanos,
}

/// A read that is not answered yet.
struct Asked {
    offset: u64,
    planned: Nanos,
}

/// A device that reads random ranges.
pub struct SimDevice {
    number: usize,
    /// Its present address.
    ip: IpAddr,
    session: Session,
    config: SessionConfig,
    /// What the device's vDisk may hold: it must stay with the one that it opened.
    contents: Vec<SimImage>,
    opened: Option<usize>,
    workload: Workload,
    /// The unit to read next, where it reads in order.
    cursor: Option<usize>,
    /// Reads of a closed loop that are left.
    to_do: usize,
    /// When the next read of an open loop is planned.
    next_read: Nanos,
    /// Planned reads that the session had no room for.
    backlog: VecDeque<Nanos>,
    outstanding: BTreeMap<u64, Asked>,
    questions: BTreeMap<u64, (u64, u64)>,
    next_token: u64,
    detaching: bool,
    random: Random,
    train: Vec<u8>,
    here_since: Nanos,
    before: Counters,
    /// Moves that the world has not looked at.
    pub moved: Vec<Moved>,
    /// Store errors may reach the reader: every node that is left has lost its store.
    pub errors_allowed: bool,
    /// Reads that gave bytes.
    pub completed: usize,
    /// Reads that failed where they may.
    pub failed: usize,
    /// When the world healed.
    pub healed_at: Option<Nanos>,
    /// The longest that a read took from then on, or from when it was asked or the vDisk was first open if that was later.
    pub settled: Nanos,
    /// When it got in; a device may have to wait for others that boot.
    pub booted_at: Nanos,
    /// How long reads took since the last mark.
    pub stalls: Stalls,
    /// First completion since the last mark.
    pub first_completion: Option<Nanos>,
    /// When the last read was completed.
    pub last_completion: Nanos,
}

impl SimDevice {
    /// A device that begins to log in at these nodes.
    #[must_use]
    pub fn start(
        number: usize,
        options: &Options,
        servers: Vec<SocketAddr>,
        contents: Vec<SimImage>,
        now: Nanos,
        random: &mut Random,
    ) -> SimDevice {
        let mut config = SessionConfig::new(servers, device_mac(number));
        config.notice_port = DEVICE_NOTICE_PORT;
        config.device_name = format!("d{number}");
        if !options.plain_devices {
            config.request_bytes =
                u32::try_from(*random.pick(&[4096usize, 32 * 1024, 60 * 1024])).expect("small");
            config.receive_buffer_bytes = *random.pick(&[212_992, 4 << 20]);
            config.mtu = *random.pick(&[1500, 1500, 9000]);
        }
        let session =
            Session::new(config.clone(), random.seed(), now).expect("settings that can work");
        let (to_do, next_read) = match options.workload {
            Workload::Closed { reads, .. } => (reads, Nanos::NEVER),
            Workload::Open { every, .. } => (0, now + Nanos(random.below(every.0))),
            Workload::Idle => (0, Nanos::NEVER),
        };
        SimDevice {
            number,
            ip: device_ip(number),
            session,
            config,
            contents,
            opened: None,
            workload: options.workload,
            // A third of a MiB apart: some runs meet, others do not.
            cursor: options.in_order.then_some(number * 85),
            to_do,
            next_read,
            backlog: VecDeque::new(),
            outstanding: BTreeMap::new(),
            questions: BTreeMap::new(),
            next_token: 0,
            detaching: false,
            random: Random::new(random.bits()),
            train: Vec::new(),
            here_since: now,
            before: Counters::default(),
            moved: Vec::new(),
            errors_allowed: false,
            completed: 0,
            failed: 0,
            healed_at: None,
            settled: Nanos::ZERO,
            booted_at: now,
            stalls: Stalls::default(),
            first_completion: None,
            last_completion: now,
        }
    }

    /// True when nothing that was planned is left.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.to_do == 0 && self.next_read == Nanos::NEVER && self.nothing_outstanding()
    }

    fn nothing_outstanding(&self) -> bool {
        self.outstanding.is_empty() && self.backlog.is_empty() && self.questions.is_empty()
    }

    /// Plans no further reads.
    pub fn stop_reading(&mut self) {
        (self.to_do, self.next_read) = (0, Nanos::NEVER);
    }

    /// Plans no further reads of an open loop; those of a closed one are counted and go on.
    pub fn plan_no_more(&mut self) {
        self.next_read = Nanos::NEVER;
    }

    /// Whether it knows its vDisk.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The session machine, to look at.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Forgets what was measured so far.
    pub fn mark(&mut self) {
        self.stalls = Stalls::default();
        self.first_completion = None;
        self.before = *self.session.counters();
    }

    /// The counters at the last mark.
    #[must_use]
    pub fn counters_before(&self) -> &Counters {
        &self.before
    }

    /// Reads that are not answered.
    #[must_use]
    pub fn reads_waiting(&self) -> usize {
        self.outstanding.len() + self.backlog.len()
    }

    /// For how long the oldest read that is not answered has been waited for.
    #[must_use]
    pub fn waiting(&self, now: Nanos) -> Nanos {
        let asked = self.outstanding.values().map(|asked| asked.planned);
        let oldest = asked.chain(self.backlog.iter().copied()).fold(now, Nanos::earlier);
        now.since(oldest)
    }

    /// When something happens here by itself.
    #[must_use]
    pub fn next_event(&self) -> Nanos {
        self.session.next_deadline().earlier(self.next_read)
    }

    /// Gives the device another address, as a DHCP server does.
    pub fn change_address(&mut self) {
        self.ip = device_ip_changed(self.number);
    }

    /// Its present address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Switches the device off and on again: it says goodbye, and logs in anew.
    pub fn detach(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        if !self.detaching {
            self.detaching = true;
            self.session.detach(now);
            self.turn(now, sent);
        }
    }

    /// Hands a datagram to the machine.
    pub fn receive(&mut self, datagram: &Datagram, now: Nanos, sent: &mut Vec<Datagram>) {
        let channel = match datagram.to.port() {
            DEVICE_LOGIN_PORT => Channel::Login,
            DEVICE_IO_PORT => Channel::Io,
            DEVICE_NOTICE_PORT => Channel::Notice,
            _ => return,
        };
        self.session.handle_datagram(channel, datagram.from, &datagram.bytes, now);
        self.turn(now, sent);
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        if self.session.next_deadline() <= now {
            self.session.tick(now);
        }
        while let Workload::Open { every, .. } = self.workload
            && self.next_read <= now
        {
            self.backlog.push_back(self.next_read);
            // Half to one and a half times the interval: no two devices keep step.
            let gap = every.0 / 2 + self.random.below(every.0);
            self.next_read = self.next_read + Nanos(gap.max(1));
        }
        self.turn(now, sent);
    }

    fn turn(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        loop {
            self.take_events(now);
            self.send_all(now, sent);
            // The last goodbye ends the session.
            if !self.session.has_events() {
                break;
            }
        }
        self.session.check_invariants();
    }

    fn take_events(&mut self, now: Nanos) {
        loop {
            while let Some(event) = self.session.poll_event() {
                self.on_event(event, now);
            }
            if self.detaching || !self.issue(now) {
                break;
            }
        }
    }

    fn send_all(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        while let Some(train) = self.session.poll_send(now, &mut self.train) {
            let port = match train.channel {
                Channel::Login => DEVICE_LOGIN_PORT,
                Channel::Io => DEVICE_IO_PORT,
                Channel::Notice => DEVICE_NOTICE_PORT,
            };
            let from = SocketAddr::new(self.ip, port);
            for bytes in self.train.chunks(train.segment_bytes.max(1)) {
                sent.push(Datagram { from, to: train.to, bytes: bytes.to_vec() });
            }
        }
    }

    fn on_event(&mut self, event: Event, now: Nanos) {
        match event {
            Event::ReadDone { token, buffer, result } => {
                self.read_done(token, &buffer, result, now);
            }
            Event::ExtentsDone { token, offset, result } => {
                self.extents_done(token, offset, result);
            }
            Event::Opened { disk, .. } => {
                let known = self.contents.iter().position(|c| c.content_id() == disk.content_id);
                let known = known.unwrap_or_else(|| {
                    panic!("judge of bytes: device {} opened a foreign vDisk", self.number)
                });
                assert!(
                    self.opened.is_none_or(|opened| opened == known),
                    "judge of bytes: device {} went on with another content",
                    self.number
                );
                if self.opened.replace(known).is_none() {
                    self.booted_at = now;
                }
                self.here_since = now;
            }
            Event::Moved { from, to, cause, .. } => {
                let since = std::mem::replace(&mut self.here_since, now);
                self.moved.push(Moved { at: now, from, to, cause, since });
            }
            Event::Closed => self.attach_again(now),
            _ => {}
        }
    }

    fn attach_again(&mut self, now: Nanos) {
        assert!(self.detaching, "judge of sessions: a device ended that was not told to");
        self.detaching = false;
        self.opened = None;
        self.before = Counters::default();
        let seed = self.random.seed();
        self.session = Session::new(self.config.clone(), seed, now).expect("as before");
    }

    fn read_done(&mut self, token: u64, buffer: &[u8], result: Result<(), ReadError>, now: Nanos) {
        let asked =
            self.outstanding.remove(&token).expect("judge of reads: a read is answered once");
        match result {
            Ok(()) => {
                let content = self.opened.expect("judge of bytes: a read needs an opened vDisk");
                let at = usize::try_from(asked.offset).expect("a small image");
                let right = &self.contents[content].padded[at..at + buffer.len()];
                assert!(
                    buffer == right,
                    "judge of bytes: wrong bytes at offset {at} of device {}",
                    self.number
                );
                self.completed += 1;
                self.stalls.record(now.since(asked.planned));
                if let Some(healed) = self.healed_at {
                    let from = asked.planned.max(healed).max(self.booted_at);
                    self.settled = self.settled.max(now.since(from));
                }
                self.first_completion.get_or_insert(now);
                self.last_completion = now;
            }
            // What a device had outstanding when it was switched off.
            Err(ReadError::Closed) if self.detaching => {
                if matches!(self.workload, Workload::Closed { .. }) {
                    self.to_do += 1;
                }
            }
            Err(ReadError::Store) if self.errors_allowed => self.failed += 1,
            Err(error) => panic!(
                "judge of reads: device {} was given {error} at offset {}",
                self.number, asked.offset
            ),
        }
    }

    fn extents_done(&mut self, token: u64, offset: u64, result: Result<Vec<Extent>, ReadError>) {
        let (first, length) =
            self.questions.remove(&token).expect("judge of reads: a question is answered once");
        let runs = match result {
            Ok(runs) => runs,
            Err(_) if self.detaching || self.errors_allowed => return,
            Err(error) => panic!("judge of reads: a question about extents failed: {error}"),
        };
        assert!(offset == first && !runs.is_empty(), "judge of extents: not what was asked");
        let content = self.opened.expect("judge of bytes: an answer needs an opened vDisk");
        let padded = &self.contents[content].padded;
        let mut at = first;
        for run in runs {
            let end = at + run.length;
            assert!(end <= first + length, "judge of extents: more than was asked");
            let range = usize::try_from(at).expect("small")..usize::try_from(end).expect("small");
            assert!(
                !run.zero || padded[range].iter().all(|&byte| byte == 0),
                "judge of extents: device {} was told of zeros that are data at {at}",
                self.number
            );
            at = end;
        }
    }

    /// Asks for what is left; true when something was asked.
    fn issue(&mut self, now: Nanos) -> bool {
        match self.workload {
            Workload::Closed { depth, .. } => {
                let mut issued = false;
                while self.to_do > 0
                    && self.outstanding.len() < depth
                    && self.ask(CLOSED_UNITS_MAX, now, now)
                {
                    self.to_do -= 1;
                    issued = true;
                    if self.next_token.is_multiple_of(EXTENTS_EVERY) {
                        self.ask_extents(now);
                    }
                }
                issued
            }
            Workload::Open { units_max, .. } => {
                let mut issued = false;
                while let Some(&planned) = self.backlog.front()
                    && self.ask(units_max, planned, now)
                {
                    self.backlog.pop_front();
                    issued = true;
                }
                issued
            }
            Workload::Idle => false,
        }
    }

    fn ask(&mut self, units_max: usize, planned: Nanos, now: Nanos) -> bool {
        let units = self.contents[0].padded.len() / UNIT_BYTES;
        let first = self.cursor.map_or_else(|| self.random.index(units), |at| at % units);
        let count = (self.random.index(units_max) + 1).min(units - first);
        let buffer = vec![0xA5; count * UNIT_BYTES];
        let offset = (first * UNIT_BYTES) as u64;
        if self.session.read(self.next_token, offset, buffer, now).is_err() {
            return false;
        }
        self.outstanding.insert(self.next_token, Asked { offset, planned });
        self.cursor = self.cursor.map(|_| first + count);
        self.next_token += 1;
        true
    }

    fn ask_extents(&mut self, now: Nanos) {
        let units = self.contents[0].padded.len() / UNIT_BYTES;
        let first = self.random.index(units);
        let count = self.random.index(units - first) + 1;
        let (offset, length) = ((first * UNIT_BYTES) as u64, (count * UNIT_BYTES) as u64);
        if self.session.extents(self.next_token, offset, length, now).is_ok() {
            self.questions.insert(self.next_token, (offset, length));
            self.next_token += 1;
        }
    }

    /// One line for a failure report.
    #[must_use]
    pub fn describe(&self, now: Nanos) -> String {
        format!(
            "device {}: {} done, {} outstanding (oldest {} ms), {} to do; {:?}",
            self.number,
            self.completed,
            self.outstanding.len(),
            self.waiting(now).as_millis(),
            self.to_do + self.backlog.len(),
            self.session.status(now)
        )
    }
}

/// Where the machines of a world start to log in: every node, each device with another first.
#[must_use]
pub fn servers(device: usize, nodes: usize) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = (0..nodes).map(crate::hosts::node_login).collect();
    servers.rotate_left(device % nodes);
    servers
}
