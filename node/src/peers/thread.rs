//! The machine on a socket: one ordinary thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_wire::limits::CONTROL_BYTES_MAX;

use super::config::{OwnReport, PeerConfig};
use super::counters::PeerCounters;
use super::machine::Peers;
use super::status::{PeerEvent, PeerStatus, RefusedBy};
use crate::lock::Mutex;
use crate::shard::NodeShared;
use crate::view::{HeldVersion, Load};

/// Datagrams taken before the view is published and answers are sent. Guessed: a farm's reports of a second.
const BATCH: usize = 256;
/// A socket is never waited on for less: zero would mean for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Starts the thread of the peers.
pub struct PeerThread;

/// The running thread.
pub struct PeerHandle {
    common: Arc<Common>,
    counters: Arc<PeerCounters>,
    local: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// What the thread shares with its handle.
struct Common {
    socket: UdpSocket,
    /// The socket's own address, as the target and the sender of wakes.
    own: SocketAddr,
    shared: Arc<NodeShared>,
    stop: AtomicBool,
    status: Mutex<Arc<[PeerStatus]>>,
    refused_by: Mutex<Arc<[RefusedBy]>>,
}

impl PeerThread {
    /// Binds the peers' port and starts the thread. It publishes to [`NodeShared::view`] and reads [`NodeShared::own`], the
    /// boot slots and the vDisks.
    ///
    /// # Errors
    /// Names the address when it cannot be bound, or the thread when it cannot be started.
    pub fn start(mut config: PeerConfig, shared: Arc<NodeShared>) -> io::Result<PeerHandle> {
        let bound = |error: io::Error| {
            let place = config.bind;
            io::Error::new(
                error.kind(),
                format!(
                    "cannot listen for peers at UDP {place}: {error}; is another node running \
                     there? Give this one another peer port"
                ),
            )
        };
        let socket = UdpSocket::bind(config.bind).map_err(bound)?;
        let local = socket.local_addr()?;
        config.bind.set_port(local.port());
        let machine = Peers::new(config, &shared.keys, clock::now());
        let counters = machine.counters();
        let common = Arc::new(Common {
            socket,
            own: own_address(local),
            shared,
            stop: AtomicBool::new(false),
            status: Mutex::new(machine.status().into()),
            refused_by: Mutex::default(),
        });
        let theirs = Arc::clone(&common);
        let thread = std::thread::Builder::new()
            .name("peers".to_owned())
            .spawn(move || theirs.run(machine))?;
        Ok(PeerHandle { common, counters, local, thread: Some(thread) })
    }
}

impl PeerHandle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<PeerCounters> {
        Arc::clone(&self.counters)
    }

    /// Every peer, as of the thread's last turn.
    ///
    /// # Panics
    /// When the thread panicked, which ends the process anyway.
    #[must_use]
    pub fn status(&self) -> Arc<[PeerStatus]> {
        Arc::clone(&self.common.status.lock().expect("nothing panics under this lock"))
    }

    /// A way to ask for the status that outlives this handle, for the scraping thread.
    #[must_use]
    pub fn status_source(&self) -> Box<dyn Fn() -> Arc<[PeerStatus]> + Send + Sync> {
        let common = Arc::clone(&self.common);
        Box::new(move || Arc::clone(&common.status.lock().expect("nothing panics under this lock")))
    }

    /// Nodes that refuse this one, as of the thread's last turn.
    ///
    /// # Panics
    /// When the thread panicked, which ends the process anyway.
    #[must_use]
    pub fn refused_by(&self) -> Arc<[RefusedBy]> {
        Arc::clone(&self.common.refused_by.lock().expect("nothing panics under this lock"))
    }

    /// The same for the scraping thread.
    #[must_use]
    pub fn refused_by_source(&self) -> Box<dyn Fn() -> Arc<[RefusedBy]> + Send + Sync> {
        let common = Arc::clone(&self.common);
        Box::new(move || {
            Arc::clone(&common.refused_by.lock().expect("nothing panics under this lock"))
        })
    }

    /// To be called when the drain state in [`NodeShared::own`] changed: the peers are told at once instead of within a
    /// quarter of a second.
    pub fn own_changed(&self) {
        self.wake();
    }

    /// Says good-bye to the peers and ends the thread. Dropping the handle does the same.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.common.stop.store(true, Relaxed);
        self.wake();
        // A panic in there has ended the process, or is the test's to see.
        let _ended = thread.join();
    }

    /// An empty datagram to ourselves ends the wait. When it is lost, the wait ends by itself within a quarter of a second.
    fn wake(&self) {
        let _lost = self.common.socket.send_to(&[], self.common.own);
    }
}

/// Where a socket that is bound here reaches itself, and what it then sees as the sender.
fn own_address(local: SocketAddr) -> SocketAddr {
    let loopback = match local.ip() {
        ip if !ip.is_unspecified() => return local,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, local.port())
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Common {
    fn run(&self, mut machine: Peers) {
        let mut buffer = [0; CONTROL_BYTES_MAX + 1];
        while !self.stop.load(Relaxed) {
            machine.set_own(self.own());
            machine.tick(clock::now());
            self.show(&mut machine);
            let wait = machine.next_deadline().since(clock::now()).as_duration().max(WAIT_MIN);
            if let Err(error) = self.socket.set_read_timeout(Some(wait)) {
                tracing::error!("peers: cannot wait on UDP {:?}: {error}", self.socket);
            }
            self.take(&mut machine, &mut buffer);
            self.show(&mut machine);
        }
        machine.set_own(self.own());
        machine.leave(clock::now());
        self.show(&mut machine);
    }

    /// Waits for a datagram, then takes what there is.
    fn take(&self, machine: &mut Peers, buffer: &mut [u8]) {
        for taken in 0..BATCH {
            match self.socket.recv_from(buffer) {
                // A wake. From anybody else it is refused like other garbage, and the batch goes on: empty datagrams would
                // otherwise make each turn as short as one datagram.
                Ok((0, from)) if from == self.own => return,
                Ok((length, from)) => machine.handle(from, &buffer[..length], clock::now()),
                // Nothing came; or a peer's port was closed, which its silence tells better.
                Err(_) => return,
            }
            if taken == 0 && self.socket.set_nonblocking(true).is_err() {
                return;
            }
        }
    }

    /// Sends, publishes and logs what the last turns made.
    fn show(&self, machine: &mut Peers) {
        // The wait is the socket's only blocking call.
        let _cannot_fail = self.socket.set_nonblocking(false);
        while let Some((to, bytes)) = machine.poll_send() {
            if self.socket.send_to(&bytes, to).is_err() {
                machine.counters().not_sent.inc();
            }
        }
        if machine.take_changed() {
            self.shared.view.publish(machine.view());
            let status = machine.status().into();
            *self.status.lock().expect("nothing panics under this lock") = status;
            let refused_by = machine.refused_by().into();
            *self.refused_by.lock().expect("nothing panics under this lock") = refused_by;
        }
        while let Some(event) = machine.poll_event() {
            log(&event);
        }
    }

    /// How this node fares.
    fn own(&self) -> OwnReport {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let slots = &self.shared.boot_slots;
        let held = self.shared.vdisks().unwrap_or_default().iter().map(|vdisk| HeldVersion {
            vdisk: vdisk.name.clone(),
            content_id: vdisk.content_id,
            eligible: vdisk.is_eligible(),
            sessions: vdisk.sessions.load(Relaxed),
        });
        OwnReport {
            load: Load {
                sessions: self.shared.own.sessions.load(Relaxed),
                standbys: self.shared.own.standbys.load(Relaxed),
                boot_slots_in_use: number(slots.in_use(clock::now())),
                boot_limit: number(slots.limit()),
            },
            drain: self.shared.own.drain(),
            versions: held.collect(),
        }
    }
}

/// One line for each thing that an operator may have to act on.
fn log(event: &PeerEvent) {
    match event {
        PeerEvent::State(change) => {
            let (from, to) = (change.from.label(), change.to.label());
            let (name, addr, why) = (&change.name, change.addr, change.why);
            let lasted = change.lasted.as_millis();
            tracing::info!(
                "peer {name} ({addr}) is {to}, was {from} for {}.{:03} s: {why}",
                lasted / 1000,
                lasted % 1000
            );
        }
        PeerEvent::OwnNameTaken { addr } => tracing::error!(
            "the node at {addr} has this node's own name and is refused; start one of both with \
             another --name"
        ),
        PeerEvent::NameTaken { name, addr, holder } => tracing::error!(
            "the node at {addr} is refused: it calls itself {name}, and so does the live node at \
             {holder}; start one of both with another --name"
        ),
        PeerEvent::RefusedBy { name, addr, verdict } => {
            tracing::error!("peer {name} ({addr}) refuses this node: {verdict}; it is tried again");
        }
        PeerEvent::Full { addr } => tracing::error!(
            "the node at {addr} is refused: this node knows {} peers and takes no more",
            super::limits::PEERS_MAX
        ),
        PeerEvent::AddressChanged { name, from, to } => {
            tracing::warn!("peer {name} is at {to} now, was at {from}");
        }
        PeerEvent::UnexpectedName { addr, expected, found } => tracing::warn!(
            "at {addr}, where {expected} was expected, {found} answers; correct the farm file"
        ),
        PeerEvent::Joined { name, addr } => tracing::info!("peer {name} ({addr}) joined"),
        PeerEvent::Paused { lasted } => tracing::warn!(
            "this node stood still for {} ms; every peer is unknown until it is heard again",
            lasted.as_millis()
        ),
    }
}
