//! A running node: sockets, cache, one thread for each shard, and the handles to tell and ask them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use diskstream_ring::inbox::{Inbox, Sender, inbox};
use diskstream_ring::ring::RingError;
use diskstream_ring::{
    Arena, ArenaConfig, DirectFile, Features, QueueWatch, Ring, RingConfig, SocketConfig,
    UdpSocket, Waker, ZeroCopy, clock, pin,
};
use diskstream_vdisk::Vdisk;
use diskstream_wire::Nanos;

use crate::cache::Cache;
use crate::event_loop::{Command, ShardThread};
use crate::farm::Farm;
use crate::metrics::RingStats;
use crate::network::NetworkSource;
use crate::provision::{KnownBoots, Provided};
use crate::rebalance::{Share, split};
use crate::settings::Settings;
use crate::shard::{
    BootSlots, HungStores, Line, NodeShared, Outbox, STORES_MAX, Shard, VdiskEntry, WallClock,
};
use crate::trust::Keys;
use crate::view::{DrainState, FarmView, OwnLoad, ViewCell};

/// Payload bytes of a shard's receive buffer. Derived: a train of 64 requests of 80 bytes is 5,120; a padded path probe
/// is 8,268; rounded up to the page.
const RECEIVE_BUFFER_BYTES: u32 = 12 * 1024;
/// Room in an inbox for what the control thread says, besides what other shards say.
const CONTROL_COMMANDS: usize = 64;

/// The sockets of a node, bound before anything slow begins, so that a port in use is said at once.
pub struct Sockets {
    login: UdpSocket,
    io: Vec<UdpSocket>,
}

impl Sockets {
    /// Binds all of them.
    ///
    /// # Errors
    /// The first that cannot be bound, with its flag.
    pub fn bind(settings: &Settings) -> anyhow::Result<Sockets> {
        let wildcard = settings.listen.is_unspecified();
        let bind = |port: u16, flag: &str| {
            let config = SocketConfig {
                recv_buffer_bytes: settings.socket_buffer_bytes,
                send_buffer_bytes: settings.socket_buffer_bytes,
                gro: true,
                busy_poll_us: settings.network.busy_poll,
                packet_info: wildcard,
                dont_fragment: true,
                ..SocketConfig::new(SocketAddr::new(settings.listen, port))
            };
            UdpSocket::bind(&config)
                .with_context(|| format!("{flag} (another node? see `ss -lunp`)"))
        };
        let login = bind(settings.login_port, "--login-port")?;
        let io = (0..settings.shards())
            .map(|shard| bind(settings.io_ports.port(shard), "--io-ports"))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Sockets { login, io })
    }

    /// Where devices log in.
    #[must_use]
    pub fn login_addr(&self) -> SocketAddr {
        self.login.local_addr()
    }

    /// Where the shards serve.
    #[must_use]
    pub fn io_addrs(&self) -> Vec<SocketAddr> {
        self.io.iter().map(UdpSocket::local_addr).collect()
    }
}

/// A node that serves.
pub struct RunningNode {
    shared: Arc<NodeShared>,
    known: KnownBoots,
    vdisks: Vec<Option<Vdisk>>,
    commands: Vec<Sender<Command>>,
    reports: Vec<Arc<RingStats>>,
    counters: Vec<Arc<crate::shard::ShardCounters>>,
    threads: Vec<JoinHandle<Result<(), RingError>>>,
    login: SocketAddr,
    io: Vec<SocketAddr>,
    features: Features,
    /// Of each shard's socket, and of the login socket.
    queues: Arc<[QueueWatch]>,
    arena: Arc<Arena>,
    on_end: OnEnd,
}

/// Called by each shard's thread as the last thing that it does.
pub type OnEnd = Arc<dyn Fn() + Send + Sync>;

/// What a shard's thread says once it is set up.
type Ready = anyhow::Result<(u16, Features, Arc<crate::shard::ShardCounters>)>;

impl RunningNode {
    /// The memory of the cache.
    ///
    /// # Errors
    /// When the host has not as much: says how much there is.
    pub fn arena_for(settings: &Settings) -> anyhow::Result<Arc<Arena>> {
        let config = ArenaConfig { bytes: settings.cache_bytes, huge_pages: settings.huge_pages };
        let headers = match settings.network.zero_copy {
            ZeroCopy::Off => 0,
            ZeroCopy::Auto | ZeroCopy::On => settings.shards(),
        };
        let node = crate::provision::memory_node(settings)?;
        Ok(Arc::new(Arena::on_node(&config, headers, node).context("--cache")?))
    }

    /// Starts the shards over this memory, these sockets and images.
    ///
    /// # Errors
    /// When memory, a ring or a core cannot be had; every thread that was started is ended again.
    pub fn start(
        settings: &Settings,
        arena: &Arc<Arena>,
        sockets: Sockets,
        vdisks: Vec<Option<Vdisk>>,
        on_end: OnEnd,
    ) -> anyhow::Result<RunningNode> {
        let (login, io) = (sockets.login_addr(), sockets.io_addrs());
        let (shared, known) = share(settings, arena, &vdisks, login, &io)?;
        let mut node = RunningNode {
            shared: Arc::new(shared),
            known,
            vdisks,
            commands: Vec::new(),
            reports: Vec::new(),
            counters: Vec::new(),
            threads: Vec::new(),
            login,
            io,
            features: Features::probe(),
            queues: Arc::new([]),
            arena: Arc::clone(arena),
            on_end,
        };
        node.spawn(settings, sockets, arena)?;
        Ok(node)
    }

    fn spawn(
        &mut self,
        settings: &Settings,
        sockets: Sockets,
        arena: &Arc<Arena>,
    ) -> anyhow::Result<()> {
        let shards = usize::from(settings.shards());
        // Every shard may answer each wait of another, and a stray bit of the cache's waiter mask may double it; and it is said once that
        // the list of a vDisk is started, and now and then how a store is.
        let room = 2 * usize::from(self.shared.limits.flights()) * shards
            + 2 * STORES_MAX * shards
            + self.vdisks.len()
            + CONTROL_COMMANDS;
        let mut inboxes = Vec::new();
        for _ in 0..shards {
            let waker = Waker::new()
                .context("making an event descriptor: raise LimitNOFILE (ulimit -n)")?;
            let (sender, inbox) = inbox::<Command>(room, waker.clone());
            self.commands.push(sender);
            self.reports.push(Arc::new(RingStats::default()));
            inboxes.push((inbox, waker));
        }
        let (ready, heard) = mpsc::channel::<Ready>();
        self.queues = sockets
            .io
            .iter()
            .chain([&sockets.login])
            .map(UdpSocket::queue_watch)
            .collect::<Result<Arc<[_]>, _>>()
            .context("duplicating a socket's descriptor: raise LimitNOFILE (ulimit -n)")?;
        let mut login = Some(sockets.login);
        for (index, ((inbox, waker), io)) in inboxes.into_iter().zip(sockets.io).enumerate() {
            let setup = Setup {
                index: u16::try_from(index).expect("settings bound the shards"),
                core: settings.cores[index],
                ring: ring_config(settings, &self.shared, waker),
                login: login.take(),
                io,
                files: self.vdisks.iter().map(open_files).collect::<anyhow::Result<_>>()?,
                names: self.vdisks_names(),
                inbox,
                others: self.commands.clone(),
                report: Arc::clone(&self.reports[index]),
                shared: Arc::clone(&self.shared),
                arena: Arc::clone(arena),
            };
            let ready = ready.clone();
            let on_end = CallAtEnd(Arc::clone(&self.on_end));
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || {
                    let ended = setup.run(&ready);
                    drop(on_end);
                    ended
                })
                .context("starting a thread")?;
            self.threads.push(thread);
        }
        drop(ready);
        self.hear(&heard, shards)
    }

    fn hear(&mut self, heard: &mpsc::Receiver<Ready>, shards: usize) -> anyhow::Result<()> {
        let mut counters: Vec<_> = (0..shards).map(|_| None).collect();
        for _ in 0..shards {
            let said =
                heard.recv().unwrap_or_else(|_| Err(anyhow!("a shard ended before it was ready")));
            match said {
                Ok((index, features, of_shard)) => {
                    self.features = self.features.and(features);
                    counters[usize::from(index)] = Some(of_shard);
                }
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        self.counters = counters.into_iter().flatten().collect();
        Ok(())
    }

    fn vdisks_names(&self) -> Vec<String> {
        self.shared.vdisks().unwrap_or_default().iter().map(|v| v.name.clone()).collect()
    }

    /// Where devices log in.
    #[must_use]
    pub fn login(&self) -> SocketAddr {
        self.login
    }

    /// Where the shards serve.
    #[must_use]
    pub fn io(&self) -> &[SocketAddr] {
        &self.io
    }

    /// What the shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// The open images, in the order of [`NodeShared::vdisks`]; none where there is none here.
    #[must_use]
    pub fn vdisks(&self) -> &[Option<Vdisk>] {
        &self.vdisks
    }

    /// What was known of the vDisks' boots at the start; once.
    pub(crate) fn take_known_boots(&mut self) -> KnownBoots {
        std::mem::take(&mut self.known)
    }

    /// What each shard counts.
    #[must_use]
    pub fn counters(&self) -> &[Arc<crate::shard::ShardCounters>] {
        &self.counters
    }

    /// What each shard's ring counts.
    #[must_use]
    pub fn ring_stats(&self) -> &[Arc<RingStats>] {
        &self.reports
    }

    /// Datagrams that the sockets had no room for, of each shard's and then of the login socket, modulo 2^32.
    pub(crate) fn receive_drops(&self) -> impl Iterator<Item = u32> {
        self.queues.iter().map(QueueWatch::drops)
    }

    /// What was granted of the network path, for metrics.
    #[must_use]
    pub fn network_source(&self) -> NetworkSource {
        let pace_bytes_per_second = self.shared.line.bytes_per_second();
        let (rings, queues) = (self.reports.clone(), Arc::clone(&self.queues));
        NetworkSource { rings, queues, pace_bytes_per_second }
    }

    /// What the kernel gave all rings.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// What the cache lies in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Takes a vDisk out of service: its file was changed.
    pub fn vdisk_changed(&self, vdisk: u32) {
        self.tell(|| Command::VdiskChanged(vdisk));
    }

    /// Takes no devices any more, and tells those that are here to go to other nodes of the farm's view. With
    /// [`DrainState::Stopping`] the threads end when they have, or at the deadline; with [`DrainState::Maintenance`] the node
    /// stays, goes on serving whoever is left, and can be resumed. `OwnLoad::drain` says so from here on.
    pub fn drain(&self, state: DrainState, deadline: Nanos) {
        // At once, so that the peers' next report and the next login know.
        let own = &self.shared.own.drain;
        own.fetch_max(state as u8, std::sync::atomic::Ordering::Relaxed);
        self.tell(|| Command::Drain { state, deadline });
    }

    /// Takes devices again after maintenance, and ends a rebalance. A node that is going to end does not.
    pub fn resume(&self) {
        self.tell(|| Command::Resume);
    }

    /// Asks `count` devices of a vDisk to go to nodes with less to do, as [`crate::rebalance::plan`] decided.
    pub fn rebalance(&self, vdisk: u32, count: u32, successors: &[Share]) {
        let successors: Arc<[Share]> = successors.into();
        let serving: Vec<u64> = self.counters.iter().map(|c| c.sessions_serving.get()).collect();
        let counts = split(count, &serving);
        for (sender, count) in self.commands.iter().zip(counts) {
            let successors = Arc::clone(&successors);
            let _told = sender.push(Command::Rebalance { vdisk, count, successors });
        }
    }

    /// True when a shard's thread has ended.
    #[must_use]
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// True when every shard's thread has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the threads, whatever they do, and waits for them.
    pub fn stop(&mut self) {
        self.tell(|| Command::Stop);
        let _ = self.join();
    }

    /// Waits for all threads.
    ///
    /// # Errors
    /// The first reason why a ring could not go on.
    pub fn join(&mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread.join().map_err(|_| anyhow!("a shard panicked"));
            let ended = ended.and_then(|result| result.context("a shard's ring"));
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for (shard, sender) in self.commands.iter().enumerate() {
            // Control commands are rare and have room of their own; a full inbox means a shard that does not turn.
            if sender.push(command()).is_err() {
                tracing::error!(shard, "a shard does not take commands; is its core overloaded?");
            }
        }
    }
}

/// Calls when it is dropped: also when the thread panics.
struct CallAtEnd(OnEnd);

impl Drop for CallAtEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Everything that a shard's thread needs to begin.
struct Setup {
    index: u16,
    core: usize,
    ring: RingConfig,
    login: Option<UdpSocket>,
    io: UdpSocket,
    files: Vec<Vec<Arc<DirectFile>>>,
    names: Vec<String>,
    inbox: Inbox<Command>,
    others: Vec<Sender<Command>>,
    report: Arc<RingStats>,
    shared: Arc<NodeShared>,
    arena: Arc<Arena>,
}

impl Setup {
    fn run(self, ready: &mpsc::Sender<Ready>) -> Result<(), RingError> {
        let index = self.index;
        match self.build() {
            Ok(thread) => {
                let said = (index, thread.ring.features(), thread.shard.counters());
                let _ = ready.send(Ok(said));
                thread.run()
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    }

    fn build(self) -> anyhow::Result<ShardThread> {
        pin::pin_current_thread(self.core).context("--cores")?;
        let mut ring = Ring::new(&self.ring, Some(self.arena))?;
        let login = self.login.map(|socket| ring.add_socket(socket)).transpose()?;
        let io = ring.add_socket(self.io)?;
        let files = self
            .files
            .into_iter()
            .map(|of_vdisk| of_vdisk.into_iter().map(|file| ring.add_file(file)).collect())
            .collect::<Result<Vec<Vec<_>>, _>>()?;
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow!("the kernel gives no random bytes: {e}"))?;
        let out = Outbox::new(&self.shared.limits);
        let shard = Shard::new(self.index, self.shared, seed);
        Ok(ShardThread {
            ring,
            shard,
            out,
            login,
            io,
            files,
            inbox: self.inbox,
            others: self.others,
            report: self.report,
            vdisk_names: self.names,
            others_drained: 0,
            told_drained: false,
        })
    }
}

fn ring_config(settings: &Settings, shared: &NodeShared, waker: Waker) -> RingConfig {
    RingConfig {
        entries: settings.ring_entries,
        recv_buffers: settings.receive_buffers,
        recv_buffer_bytes: RECEIVE_BUFFER_BYTES,
        sends: shared.limits.plans,
        reads: shared.limits.flights(),
        sockets: 2,
        zero_copy: settings.network.zero_copy,
        // A quarter of the cache for all shards together: a card that is stuck must not keep it from turning over.
        zero_copy_pins_max: u32::try_from(
            settings.cache_bytes / settings.block_bytes / 4 / usize::from(settings.shards()).max(1),
        )
        .unwrap_or(u32::MAX),
        busy_poll_us: settings.network.busy_poll,
        spin: Nanos::from_micros(settings.network.spin.into()),
        files: u16::try_from(shared.vdisks().unwrap_or_default().len().max(1)).unwrap_or(u16::MAX),
        waker: Some(waker),
        ..RingConfig::default()
    }
}

fn open_files(vdisk: &Option<Vdisk>) -> anyhow::Result<Vec<Arc<DirectFile>>> {
    let Some(vdisk) = vdisk else { return Ok(Vec::new()) };
    vdisk
        .files()
        .iter()
        .map(|file| {
            let clone = file
                .file()
                .try_clone()
                .context("duplicating an image's descriptor: raise LimitNOFILE")?;
            Ok(Arc::new(DirectFile::from_file(clone, vdisk.path())?))
        })
        .collect()
}

/// A copy that is not what the farm file prescribes takes no devices; what is pinned to one node is said once.
fn check_content(farm: &Farm, entries: &[Arc<VdiskEntry>]) {
    for (vdisk, entry) in farm.vdisks.iter().zip(entries) {
        if let Some(wanted) = vdisk.content_id
            && entry.is_here()
            && entry.content_id != wanted
        {
            entry.eligible.store(false, std::sync::atomic::Ordering::Relaxed);
            tracing::error!(
                vdisk = vdisk.name,
                path = %vdisk.path.display(),
                "the copy here is {}, and the farm file prescribes {wanted}: it takes no devices. Copy the right one here, or \
                 change content_id in the farm file",
                entry.content_id
            );
        }
        if let Some(node) = vdisk.pinned {
            tracing::warn!(
                vdisk = vdisk.name,
                "pinned to node {}: its devices have no failover",
                farm.nodes[node].name
            );
        }
    }
}

fn share(
    settings: &Settings,
    arena: &Arc<Arena>,
    vdisks: &[Option<Vdisk>],
    login: SocketAddr,
    io: &[SocketAddr],
) -> anyhow::Result<(NodeShared, KnownBoots)> {
    let cache = Arc::new(
        Cache::new(Arc::clone(arena), settings.block_bytes).context("--cache and --block")?,
    );
    assert!(
        diskstream_vdisk::BlockHashes::can_verify(settings.block_bytes as u64),
        "the flags allow only blocks that can be checked against the content id"
    );
    let Provided { entries, limits, stores, known } =
        crate::provision::provide(settings, vdisks, cache.usable_frames())?;
    let line = Line::new(settings.network.pace.bytes_per_second(settings.listen));
    let advertised = |addr: SocketAddr| -> SocketAddr {
        let ip: IpAddr = settings.advertise.unwrap_or(addr.ip());
        SocketAddr::new(ip, addr.port())
    };
    let mut placement_seed = [0u8; 32];
    getrandom::fill(&mut placement_seed)
        .map_err(|e| anyhow!("the kernel gives no random bytes: {e}"))?;
    let login_endpoint = advertised(login);
    let (farm, own_node) = settings.farm(login_endpoint)?;
    check_content(&farm, &entries);
    let view = ViewCell::default();
    view.publish(FarmView::of_farm(&farm, own_node));
    let cell = OnceLock::new();
    assert!(cell.set(entries).is_ok(), "a new cell is empty");
    let shared = NodeShared {
        keys: Keys::derive(&settings.farm_key),
        farm: Arc::new(farm),
        own_node,
        vdisks: cell,
        cache,
        boot_slots: BootSlots::new(settings.boot_limit),
        login_endpoint,
        io_endpoints: io.iter().copied().map(advertised).collect(),
        placement_seed,
        wall_clock: WallClock::new(clock::unix_seconds(), clock::now()),
        limits,
        hung_stores: HungStores::named(stores),
        line,
        view,
        own: OwnLoad::default(),
    };
    Ok((shared, known))
}
