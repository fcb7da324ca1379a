//! The server: accepts connections, keeps track of them, ends them.
use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::connection::{Connection, ConnectionLimits, Place};
use super::counters::{Counters, add};
use super::handshake::{ExportInfo, HandshakeEnd, Negotiated, negotiate};
use super::requests::{ReaderEnd, Service};
use crate::front::disk::Disk;
use crate::front::unix_socket::{Listener, SocketError, Stopper};

/// Requests of 28 bytes are read through this buffer; payloads of writes go around it.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// The largest request that the protocol lets us announce without special clients.
const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// How long a stopping server waits for `ESHUTDOWN` replies to leave, for clients that do not read.
const FAREWELL: Duration = Duration::from_secs(1);

/// How an export is offered.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen. The socket has mode 0600.
    pub socket_path: PathBuf,
    /// The export's name; clients may also ask for the empty name. At most 4096 bytes.
    pub export_name: String,
    /// For people; shown by `nbdinfo`. At most 4096 bytes.
    pub description: String,
    /// Connections at once; more are closed at once, logged and counted.
    pub connections_max: usize,
    /// Bounds of each.
    pub limits: ConnectionLimits,
    /// How long a client may be silent during the handshake.
    pub handshake_timeout: Duration,
}

impl ServerConfig {
    /// Defaults for `socket_path`.
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self {
            socket_path: socket_path.into(),
            export_name: String::new(),
            description: "Diskstream vDisk".to_owned(),
            // qemu and nbdcopy open up to 4; times 32 MiB is what the process may hold for clients.
            connections_max: 16,
            limits: ConnectionLimits::default(),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

struct Peer {
    stream: UnixStream,
    /// Present once the handshake is done.
    connection: Option<Arc<Connection>>,
}

#[derive(Default)]
struct Registry {
    peers: HashMap<u64, Peer>,
    threads: Vec<JoinHandle<()>>,
    next_id: u64,
}

struct Shared {
    disk: Arc<dyn Disk>,
    export: ExportInfo,
    config: ServerConfig,
    counters: Arc<Counters>,
    stopping: AtomicBool,
    registry: Mutex<Registry>,
    /// Signalled when a peer leaves.
    left: Condvar,
}

/// A running NBD server. Dropping it stops it without grace.
pub struct Server {
    shared: Arc<Shared>,
    stopper: Stopper,
    acceptor: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Server {
    /// Listens and serves `disk`.
    ///
    /// # Errors
    /// [`SocketError`] when the socket cannot be opened.
    pub fn start(disk: Arc<dyn Disk>, mut config: ServerConfig) -> Result<Self, SocketError> {
        config.limits.request_bytes_max =
            config.limits.request_bytes_max.clamp(1, REQUEST_BYTES_MAX);
        config.limits.requests_max = config.limits.requests_max.max(1);
        truncate(&mut config.export_name);
        truncate(&mut config.description);
        let listener = Listener::bind(&config.socket_path)?;
        let system = |step| {
            let path = config.socket_path.clone();
            move |error| SocketError::System { path, step, error }
        };
        let stopper = listener.stopper().map_err(system("duplicate the listening socket"))?;
        let export = ExportInfo {
            name: config.export_name.clone(),
            description: config.description.clone(),
            size_bytes: disk.size_bytes(),
            read_only: disk.read_only(),
            request_bytes_max: config.limits.request_bytes_max,
        };
        let spawn_failed = system("start the accepting thread");
        let path = config.socket_path.clone();
        let shared = Arc::new(Shared {
            disk,
            export,
            config,
            counters: Arc::default(),
            stopping: AtomicBool::new(false),
            registry: Mutex::default(),
            left: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || accept_loop(&accepting, &listener))
            .map_err(spawn_failed)?;
        tracing::info!(
            socket = %path.display(),
            size_bytes = shared.export.size_bytes,
            read_only = shared.export.read_only,
            "NBD export is up"
        );
        Ok(Self { shared, stopper, acceptor: Some(acceptor), path })
    }

    /// Where it listens.
    pub fn socket_path(&self) -> &Path {
        &self.path
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Serves a connected stream as if it had come through the socket, with the handshake.
    pub fn adopt(&self, stream: UnixStream) -> io::Result<()> {
        admit(&self.shared, stream, None)
    }

    /// Serves a connected stream that is in transmission already, with simple replies and no handshake: the other end
    /// of a socket pair that the kernel's nbd driver was given over netlink.
    pub fn adopt_in_transmission(&self, stream: UnixStream) -> io::Result<()> {
        admit(&self.shared, stream, Some(Negotiated::default()))
    }

    /// The transmission flags that a kernel which was given a stream by netlink must be told.
    pub fn transmission_flags(&self) -> u16 {
        self.shared.export.flags(false)
    }

    /// Stops: accepts nothing more, lets requests in flight finish for `grace`, answers the rest with `ESHUTDOWN`,
    /// closes the connections, joins the threads and removes the socket.
    pub fn shutdown(mut self, grace: Duration) {
        self.stop(grace);
    }

    fn stop(&mut self, grace: Duration) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        self.stopper.stop();
        join(acceptor);
        self.shared.each_peer(|peer| match &peer.connection {
            Some(connection) => connection.server_stops(),
            None => hang_up(&peer.stream),
        });
        if !self.shared.wait_until_empty(grace) {
            self.shared.each_peer(|peer| {
                if let Some(connection) = &peer.connection {
                    connection.fail_pending();
                }
            });
            self.shared.wait_until_empty(FAREWELL);
        }
        self.shared.each_peer(|peer| match &peer.connection {
            Some(connection) => connection.close(),
            None => hang_up(&peer.stream),
        });
        let threads = std::mem::take(&mut self.shared.registry().threads);
        threads.into_iter().for_each(join);
        tracing::info!(socket = %self.path.display(), "NBD export is down");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no code panics while it holds the registry")
    }

    fn each_peer(&self, mut act: impl FnMut(&Peer)) {
        self.registry().peers.values().for_each(&mut act);
    }

    /// False: some were still there after `limit`.
    fn wait_until_empty(&self, limit: Duration) -> bool {
        let registry = self.registry();
        let (_registry, waited) = self
            .left
            .wait_timeout_while(registry, limit, |registry| !registry.peers.is_empty())
            .expect("see registry");
        !waited.timed_out()
    }
}

fn accept_loop(shared: &Arc<Shared>, listener: &Listener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        match accepted.and_then(|stream| admit(shared, stream, None)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(
                    socket = %listener.path().display(), %error,
                    "cannot take an NBD connection; trying on (out of descriptors or threads?)"
                );
                // Without a pause an exhausted descriptor table would make this a busy loop.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Takes a connection in, or closes it at once when too many are open.
fn admit(shared: &Arc<Shared>, stream: UnixStream, agreed: Option<Negotiated>) -> io::Result<()> {
    let counters = &shared.counters;
    let open = counters.connections_open.fetch_add(1, Ordering::AcqRel);
    let place = Arc::new(Place(Arc::clone(counters)));
    if open >= shared.config.connections_max as u64 {
        add(&counters.connections_refused_total, 1);
        tracing::warn!(
            max = shared.config.connections_max,
            "refusing an NBD connection: too many are open, or closed ones still wait for their reads"
        );
        return Ok(());
    }
    add(&counters.connections_total, 1);
    let mut registry = shared.registry();
    if shared.stopping.load(Ordering::Acquire) {
        return Ok(());
    }
    let id = registry.next_id;
    registry.next_id += 1;
    let serving = Arc::clone(shared);
    let peer = Peer { stream: stream.try_clone()?, connection: None };
    let thread = thread::Builder::new().name(format!("nbd-read-{id}")).spawn(move || {
        serve(&serving, id, stream, agreed, place);
        serving.registry().peers.remove(&id);
        serving.left.notify_all();
    })?;
    registry.peers.insert(id, peer);
    registry.threads.retain(|thread| !thread.is_finished());
    registry.threads.push(thread);
    Ok(())
}

/// One connection from its first byte to its last.
fn serve(
    shared: &Arc<Shared>,
    id: u64,
    mut stream: UnixStream,
    agreed: Option<Negotiated>,
    place: Arc<Place>,
) {
    let agreed = match agreed.map_or_else(|| shake_hands(shared, &mut stream), Ok) {
        Ok(agreed) => agreed,
        Err(HandshakeEnd::Left) => return,
        Err(end) => {
            add(&shared.counters.handshakes_failed_total, 1);
            tracing::warn!(connection = id, reason = %end, "NBD handshake failed");
            return;
        }
    };
    let limits = shared.config.limits;
    let writing = match stream.try_clone() {
        Ok(writing) => writing,
        Err(error) => {
            tracing::warn!(connection = id, %error, "cannot serve an NBD connection");
            return;
        }
    };
    let connection = Arc::new(Connection::new(writing, agreed.structured, limits, place));
    let stopping = {
        let mut registry = shared.registry();
        let peer =
            registry.peers.get_mut(&id).expect("a peer leaves only at the end of its thread");
        peer.connection = Some(Arc::clone(&connection));
        shared.stopping.load(Ordering::Acquire)
    };
    if stopping {
        connection.server_stops();
    }
    let service = Service {
        connection: Arc::clone(&connection),
        disk: Arc::clone(&shared.disk),
        base_allocation: agreed.base_allocation,
        request_bytes_max: limits.request_bytes_max,
    };
    transmit(shared, id, &stream, &service);
}

fn shake_hands(shared: &Shared, stream: &mut UnixStream) -> Result<Negotiated, HandshakeEnd> {
    stream.set_read_timeout(Some(shared.config.handshake_timeout)).map_err(HandshakeEnd::Stream)?;
    let agreed = negotiate(stream, &shared.export)?;
    stream.set_read_timeout(None).map_err(HandshakeEnd::Stream)?;
    Ok(agreed)
}

fn transmit(shared: &Shared, id: u64, stream: &UnixStream, service: &Service) {
    let connection = &service.connection;
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name(format!("nbd-write-{id}"))
            .spawn_scoped(scope, || connection.write_loop());
        if let Err(error) = writer {
            tracing::warn!(connection = id, %error, "cannot start the writer of an NBD connection");
            return connection.close();
        }
        match service.read_loop(&mut BufReader::with_capacity(READ_BUFFER_BYTES, stream)) {
            ReaderEnd::Disconnect => connection.drain(),
            ReaderEnd::HangUp if connection.is_server_stopping() => connection.drain(),
            ReaderEnd::HangUp => connection.close(),
            ReaderEnd::Stream(error) => {
                tracing::debug!(connection = id, %error, "an NBD connection failed");
                connection.close();
            }
            end @ (ReaderEnd::Magic(_) | ReaderEnd::WriteTooBig { .. }) => {
                add(&shared.counters.protocol_errors_total, 1);
                tracing::warn!(connection = id, reason = %end, "cutting an NBD connection");
                connection.close();
            }
        }
    });
}

fn hang_up(stream: &UnixStream) {
    // Fails only when the peer is gone already.
    let _ = stream.shutdown(Shutdown::Both);
}

fn join(thread: JoinHandle<()>) {
    assert!(thread.join().is_ok(), "a thread of the NBD server panicked");
}

/// Cuts a string to what the protocol allows.
fn truncate(text: &mut String) {
    let mut length = text.len().min(super::protocol::STRING_BYTES_MAX);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    text.truncate(length);
}
