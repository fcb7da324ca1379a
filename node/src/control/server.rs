//! The socket: bound without ever taking a living node's place, and served so that no client can hurt.
//!
//! One thread accepts, one more serves each connection, [`CONNECTIONS_MAX`] at most: a further one takes the place of
//! the one that has been idle for longest. A connection that says nothing for [`IDLE_TIME`] is closed. Answers pass through a bounded [`Reply`]: the control
//! loop never waits for a client.

mod places;

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::places::{CONNECTIONS_MAX, Held, Places};
use super::{Answer, LINE_BYTES_MAX, Request};
use crate::lock::Mutex;

/// A connection that asks nothing for so long is closed. Guessed: longer than anybody types.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// A client that takes nothing of its answer for so long is dropped.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// Lines that wait for a client. Guessed: a drain's progress of 30 s; further ones are dropped, the last never.
const LINES_WAITING: usize = 32;
/// How long the end of the process waits for connections to take their last line. Guessed: a local client reads at once.
const FAREWELL: Duration = Duration::from_millis(500);
/// Before the next try when the kernel gives no connection (too many descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a socket's path that the kernel takes (`sun_path`, with its final zero).
const PATH_BYTES_MAX: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A living process listens there.
    #[error(
        "cannot make the control socket {}: a running process listens there, is it this node already? Stop it, or choose another \
         with --control PATH",
        path.display()
    )]
    Alive {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file, and it is no socket.
    #[error(
        "cannot make the control socket {}: there is a file of another kind; remove it, or choose another path with --control PATH",
        path.display()
    )]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel takes no path of this length.
    #[error(
        "cannot make the control socket {}: the path has more than {PATH_BYTES_MAX} bytes; choose a shorter one with --control PATH",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error(
        "cannot make the control socket {}: {what}: {source}; choose another path with --control PATH, or --control off",
        path.display()
    )]
    Os {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What came of it.
        source: io::Error,
    },
}

/// Takes answers for one request. A slow client loses progress, never the control loop's time.
#[derive(Clone, Debug)]
pub struct Reply {
    lines: SyncSender<Answer>,
    last: Arc<Mutex<Option<Answer>>>,
}

/// Where the answers arrive.
#[derive(Debug)]
pub struct Answers {
    lines: Receiver<Answer>,
    last: Arc<Mutex<Option<Answer>>>,
}

impl Reply {
    /// An answer, and where it arrives.
    #[must_use]
    pub fn channel() -> (Reply, Answers) {
        let (sender, receiver) = sync_channel(LINES_WAITING);
        let last = Arc::default();
        (Reply { lines: sender, last: Arc::clone(&last) }, Answers { lines: receiver, last })
    }

    /// Tells progress; nothing is lost with a line that a client has no room for.
    pub fn progress(&self, answer: Answer) {
        // Full: it does not read. Disconnected: it went away.
        let _: Result<(), TrySendError<Answer>> = self.lines.try_send(answer);
    }

    /// The answer, or the last of several; this one is kept however slow the client is.
    pub fn finish(self, answer: Answer) {
        *self.last.lock().expect("nothing panics under this lock") = Some(answer);
    }
}

impl Answers {
    /// The next answer; none when the request is over.
    #[must_use]
    pub fn next(&self) -> Option<Answer> {
        // The channel ends when the last clone of its reply is dropped, and what was said before comes first.
        self.lines
            .recv()
            .ok()
            .or_else(|| self.last.lock().expect("nothing panics under this lock").take())
    }
}

/// A socket that is bound, but whose clients wait.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Binds the socket, mode 0600. Makes its directory; takes the place of a dead process's socket.
    ///
    /// # Errors
    /// [`ControlError`] names path, cause and remedy.
    pub fn bind(path: &Path) -> Result<ControlServer, ControlError> {
        let os = |what| move |source| ControlError::Os { path: path.to_owned(), what, source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(directory).map_err(os("its directory"))?;
        // Two nodes that start at once must not both find the same dead socket and take each other's place.
        let lock = File::open(directory).map_err(os("its directory"))?;
        lock.lock().map_err(os("locking its directory"))?;
        refuse_living(path)?;
        // Bound under another name and renamed, so that nobody ever meets it with other permissions.
        let hidden = hidden_name(directory, path);
        if hidden.as_os_str().len() > PATH_BYTES_MAX || path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(ControlError::TooLong { path: path.to_owned() });
        }
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(os("binding"))?;
        fs::set_permissions(&hidden, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&hidden, path))
            .map_err(os("naming it"))?;
        Ok(ControlServer { listener, path: path.to_owned() })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts to serve: each request goes to `grant`, with where its answers are to go.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        self,
        grant: impl Fn(Request, Reply) + Send + Sync + 'static,
    ) -> io::Result<RunningControl> {
        let state = Arc::new(State::default());
        let (path, grant) = (self.path, Arc::new(grant));
        let thread = {
            let state = Arc::clone(&state);
            let listener = self.listener;
            thread::Builder::new()
                .name("control".to_owned())
                .spawn(move || accept(&listener, &state, &grant))?
        };
        Ok(RunningControl { path, state, thread: Some(thread) })
    }
}

/// A name beside the socket's, of this process alone.
fn hidden_name(directory: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    directory.join(format!(".{name}.{}", std::process::id()))
}

/// What lies at the path must be nothing, or a socket that nobody answers.
fn refuse_living(path: &Path) -> Result<(), ControlError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Also when it may not be asked: then it is somebody else's.
        _ => Err(ControlError::Alive { path: path.to_owned() }),
    }
}

/// What the threads of the socket share.
#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    places: Arc<Places>,
}

/// A socket at work. Dropping it takes it away, after the last lines were taken or half a second.
#[derive(Debug)]
pub struct RunningControl {
    path: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl RunningControl {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunningControl {
    fn drop(&mut self) {
        self.state.stop.store(true, Relaxed);
        // Wakes the thread from accept; only then may the name go.
        let woken = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
        // Those that are being answered; idle ones end with the process.
        self.state.places.wait_answered(FAREWELL);
    }
}

fn accept<G: Fn(Request, Reply) + Send + Sync + 'static>(
    listener: &UnixListener,
    state: &Arc<State>,
    grant: &Arc<G>,
) {
    loop {
        let accepted = listener.accept();
        if state.stop.load(Relaxed) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("no connection for the control socket: {error}");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let held = match state.places.take(&stream) {
            Ok(Some(held)) => held,
            Ok(None) => {
                let reason =
                    format!("{CONNECTIONS_MAX} others are being answered; end one of them");
                let _ = stream.set_nonblocking(true);
                let _ = write_line(&stream, &Answer::Refused { reason });
                continue;
            }
            Err(error) => {
                tracing::warn!("no place for a control connection: {error}");
                continue;
            }
        };
        let grant = Arc::clone(grant);
        let spawned = thread::Builder::new().name("control-client".to_owned()).spawn(move || {
            // Whatever ends a connection is its client's business.
            let _ = converse(&stream, &held, &*grant);
        });
        if let Err(error) = spawned {
            tracing::warn!("no thread for a control connection: {error}");
        }
    }
}

fn converse(stream: &UnixStream, held: &Held, grant: &impl Fn(Request, Reply)) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_TIME))?;
    stream.set_write_timeout(Some(WRITE_TIME))?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).expect("4096") + 1;
        if lines.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() > LINE_BYTES_MAX {
            let reason = format!("a request has at most {LINE_BYTES_MAX} bytes, and ends its line");
            // What follows cannot be told from the rest of it.
            return write_line(stream, &Answer::Refused { reason });
        }
        let Some(busy) = held.begin() else { return Ok(()) };
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let (reply, answers) = Reply::channel();
                grant(request, reply);
                while let Some(answer) = answers.next() {
                    write_line(stream, &answer)?;
                }
            }
            Err(error) => {
                let reason = format!(
                    "no request: {error}; write one JSON object in a line, such as {{\"do\":\"status\"}}"
                );
                write_line(stream, &Answer::Refused { reason })?;
            }
        }
        drop(busy);
    }
}

fn write_line(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests;
