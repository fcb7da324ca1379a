//! The clients' loop: one socket, one ring, one queue of deadlines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use diskstream_ring::{
    Completion, Completions, LocalAddr, Ring, RingConfig, SendPlan, SocketConfig, SocketId,
    UdpSocket, Wait, clock,
};
use diskstream_wire::{Nanos, SessionRole, decode};

use super::client::{Client, Common, DATAGRAM_BYTES_MAX, Next, Stage, To, role_of};

/// Address of the first client; the others follow it.
const FIRST: u32 = u32::from_be_bytes([127, 128, 0, 0]);
/// Logins under way at once: as many datagrams at most lie in the node's receive buffer. Guessed.
const LOGINS_AT_ONCE: u32 = 128;
/// A login of which no step was answered for so long begins anew. Guessed.
const LOGIN_PATIENCE: Nanos = Nanos::from_secs(1);
/// No login ends for so long: something is wrong.
const STALL_LIMIT: Nanos = Nanos::from_secs(30);
/// The longest turn without anything to do.
const TURN_MAX: Nanos = Nanos::from_millis(100);
/// Sends and receives under way at once.
const SENDS: u16 = 512;
const RECEIVES: u16 = 1024;
/// Bytes of the socket's buffers, each way.
const SOCKET_BYTES: usize = 4 << 20;

/// When who says that it lives.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Of a serving session.
    pub keep_alive: Nanos,
    /// Of a standby session.
    pub standby_check: Nanos,
    /// Sessions of a hundred that stand by.
    pub standby_percent: u32,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Keep-alives sent.
    pub keep_alives: u64,
    /// Of them not answered until the next was due.
    pub unanswered: u64,
    /// Sessions that the node ended.
    pub lost: u64,
    /// Logins begun anew.
    pub repeats: u64,
}

/// All clients.
pub struct Herd {
    ring: Ring,
    socket: SocketId,
    completions: Completions,
    #[expect(clippy::vec_box, reason = "the ring takes and gives back boxes")]
    plans: Vec<Box<SendPlan>>,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<(Nanos, u32)>>,
    node: SocketAddr,
    common: Common,
    intervals: Intervals,
    started: u32,
    open: u32,
    counts: Counts,
    refused: Option<String>,
}

impl Herd {
    /// Clients that have not begun.
    ///
    /// # Errors
    /// When the ring or the socket cannot be had.
    pub fn new(node: SocketAddr, count: u32, intervals: Intervals) -> anyhow::Result<Herd> {
        let config = RingConfig {
            recv_buffers: RECEIVES,
            recv_buffer_bytes: 2048,
            sends: SENDS,
            reads: 0,
            sockets: 1,
            files: 0,
            ..RingConfig::default()
        };
        let mut ring = Ring::new(&config, None)?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut socket = SocketConfig::new(any);
        socket.packet_info = true;
        (socket.recv_buffer_bytes, socket.send_buffer_bytes) = (SOCKET_BYTES, SOCKET_BYTES);
        let bound = UdpSocket::bind(&socket).context("opening the clients' socket")?;
        let socket = ring.add_socket(bound)?;
        Ok(Herd {
            ring,
            socket,
            completions: Completions::new(usize::from(RECEIVES) + usize::from(SENDS)),
            plans: (0..SENDS).map(|_| SendPlan::new()).collect(),
            clients: vec![Client::default(); count as usize],
            due: BinaryHeap::with_capacity(2 * count as usize),
            node,
            common: Common { digest: 0 },
            intervals,
            started: 0,
            open: 0,
            counts: Counts::default(),
            refused: None,
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Logs everybody in.
    ///
    /// # Errors
    /// When the node refuses somebody, or nobody gets in for [`STALL_LIMIT`].
    pub fn log_in(&mut self, mut progress: impl FnMut(u32)) -> anyhow::Result<()> {
        let all = u32::try_from(self.clients.len()).expect("made of a u32");
        let mut moved_on = (0, clock::now());
        while self.open < all {
            let now = clock::now();
            while self.started < all && self.started - self.open < LOGINS_AT_ONCE {
                let number = self.started;
                self.started += 1;
                self.wake(number, now);
            }
            self.turn(now + TURN_MAX)?;
            if let Some(refused) = self.refused.take() {
                bail!("the node refused a login: {refused}");
            }
            if self.open != moved_on.0 {
                moved_on = (self.open, now);
                progress(self.open);
            } else if now.since(moved_on.1) > STALL_LIMIT {
                bail!("{} of {all} sessions are open, and no login ends any more", self.open);
            }
        }
        Ok(())
    }

    /// Keeps everybody alive until then.
    ///
    /// # Errors
    /// When the ring fails.
    pub fn live(&mut self, until: Nanos, mut progress: impl FnMut(u32)) -> anyhow::Result<()> {
        let mut shown = u64::MAX;
        loop {
            let now = clock::now();
            if now >= until {
                return Ok(());
            }
            let left = until.since(now).as_millis() / 1000;
            if left != shown {
                shown = left;
                progress(u32::try_from(left).unwrap_or(u32::MAX));
            }
            self.turn(until.earlier(now + TURN_MAX))?;
        }
    }

    /// Does what is due, waits until then at most, and takes what arrived.
    fn turn(&mut self, until: Nanos) -> anyhow::Result<()> {
        let now = clock::now();
        while let Some(&Reverse((at, number))) = self.due.peek() {
            // Without a plan it stays due: a send's end brings one.
            if at > now || self.plans.is_empty() {
                break;
            }
            self.due.pop();
            if self.clients[number as usize].due == at {
                self.wake(number, now);
            }
        }
        let next = self.due.peek().map_or(Nanos::NEVER, |&Reverse((at, _))| at);
        // A client that slept would be woken by each answer, and on loopback that is the sender's, the node's, time: several
        // microseconds on a virtual machine. On a network the card pays for it.
        self.ring.turn(Wait::Gather(until.earlier(next)), &mut self.completions)?;
        let now = clock::now();
        let mut completions = std::mem::replace(&mut self.completions, Completions::new(1));
        for completion in completions.drain() {
            match completion {
                Completion::Received(received) => {
                    let mut bytes = [0; DATAGRAM_BYTES_MAX * 2];
                    let datagram = self.ring.datagram(&received);
                    let (local, length) = (datagram.local, datagram.payload.len().min(bytes.len()));
                    bytes[..length].copy_from_slice(&datagram.payload[..length]);
                    self.ring.recycle(received);
                    self.take(local, &bytes[..length], now);
                }
                Completion::Sent { plan, .. } => self.plans.push(plan),
                Completion::Read { .. } | Completion::Woken | Completion::SocketError { .. } => {}
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn role(&self, number: u32) -> SessionRole {
        role_of(number, self.intervals.standby_percent)
    }

    fn interval(&self, number: u32) -> Nanos {
        if self.role(number) == SessionRole::Standby {
            self.intervals.standby_check
        } else {
            self.intervals.keep_alive
        }
    }

    /// A client's time has come.
    fn wake(&mut self, number: u32, now: Nanos) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let (role, interval, common) = (self.role(number), self.interval(number), self.common);
        let client = &mut self.clients[number as usize];
        let (next, after) = match client.stage {
            Stage::Away => (client.begin(number, &mut out), LOGIN_PATIENCE),
            Stage::LoggingIn => {
                self.counts.repeats += 1;
                (client.begin(number, &mut out), LOGIN_PATIENCE)
            }
            Stage::Open => {
                self.counts.keep_alives += 1;
                self.counts.unanswered += u64::from(!client.answered);
                (client.keep_alive(role, common, &mut out), interval)
            }
            Stage::Lost => return,
        };
        self.set_due(number, now + after);
        self.act(number, next, &out, now);
    }

    fn set_due(&mut self, number: u32, at: Nanos) {
        self.clients[number as usize].due = at;
        self.due.push(Reverse((at, number)));
    }

    /// A datagram for the client with this address.
    fn take(&mut self, local: Option<LocalAddr>, bytes: &[u8], now: Nanos) {
        let Some(LocalAddr { ip: IpAddr::V4(ip), .. }) = local else { return };
        let Some(number) = u32::from(ip).checked_sub(FIRST) else { return };
        let (role, Ok(decoded)) = (self.role(number), decode(bytes)) else { return };
        let Some(client) = self.clients.get_mut(number as usize) else { return };
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let next = client.take(number, role, &mut self.common, &decoded, &mut out);
        self.act(number, next, &out, now);
    }

    fn act(&mut self, number: u32, next: Next, out: &[u8], now: Nanos) {
        match next {
            Next::Send(to, length) => self.send(number, to, &out[..length]),
            Next::Opened => {
                self.open += 1;
                // Devices were not all switched on at once: their keep-alives are spread evenly (fractions of the golden ratio).
                let phase = u64::from(number.wrapping_mul(0x9e37_79b9));
                let wait = (u128::from(self.interval(number).0) * u128::from(phase)) >> 32;
                self.set_due(number, now + Nanos(u64::try_from(wait).unwrap_or(0)));
            }
            Next::Lost => self.counts.lost += 1,
            Next::Refused(why) => self.refused = Some(why),
            // A login that is told to wait begins anew when its patience ends.
            Next::Busy | Next::Alive | Next::Nothing => {}
        }
    }

    fn send(&mut self, number: u32, to: To, bytes: &[u8]) {
        // Whoever finds no plan is repeated when it is due again; with 512 of them that does not happen to keep-alives.
        let Some(mut plan) = self.plans.pop() else { return };
        plan.reset();
        plan.peer = self.node;
        if to == To::Shard {
            plan.peer.set_port(self.clients[number as usize].io_port);
        }
        plan.local = Some(LocalAddr::new(Ipv4Addr::from(FIRST + number).into()));
        plan.push_scratch(bytes).expect("a datagram is shorter than a plan's scratch memory");
        if let Err((_, plan)) = self.ring.send(self.socket, plan) {
            self.plans.push(plan);
        }
    }
}
