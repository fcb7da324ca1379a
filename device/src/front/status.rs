//! The status socket: one JSON object for each connection, then the end of the stream.
//!
//! For `diskstream-device status`, monitoring agents, and `socat - UNIX:...`. The server never reads from a client.
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::unix_socket::{Listener, SocketError, Stopper};

/// A client that does not take its answer within this time is cut off: one thread serves all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// A status longer than this is not one; it bounds what [`read`] allocates.
const STATUS_BYTES_MAX: u64 = 16 << 20;

/// What a status socket tells.
pub trait StatusSource: Send + Sync {
    /// The status now. Called on the status thread; should not wait for anything that may hang.
    fn json(&self) -> Value;
}

/// A running status socket. Dropping it ends it and removes the socket.
pub struct Server {
    stopping: Arc<AtomicBool>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Server {
    /// Serves `source` at `path` (mode 0600).
    pub fn start(path: &Path, source: Arc<dyn StatusSource>) -> Result<Self, SocketError> {
        let listener = Listener::bind(path)?;
        let system = |step| {
            let path = path.to_owned();
            move |error| SocketError::System { path, step, error }
        };
        let stopper = listener.stopper().map_err(system("duplicate the listening socket"))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name("status".to_owned())
            .spawn(move || serve(&listener, &*source, &watched))
            .map_err(system("start the status thread"))?;
        Ok(Self { stopping, stopper, thread: Some(thread), path: path.to_owned() })
    }

    /// Where it listens.
    pub fn socket_path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the status thread panicked");
        }
    }
}

fn serve(listener: &Listener, source: &dyn StatusSource, stopping: &AtomicBool) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = accepted.and_then(|stream| answer(&stream, source)) {
            tracing::debug!(socket = %listener.path().display(), %error, "a status was not delivered");
            // Without a pause an exhausted descriptor table would make this a busy loop.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn answer(mut stream: &UnixStream, source: &dyn StatusSource) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut text = source.json().to_string();
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

/// Why a status could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens there.
    #[error("{}: {error}; is the device running, and is this its --status-socket?", path.display())]
    Connect {
        /// The socket path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The answer did not come, or broke off.
    #[error("{}: no status: {error}", path.display())]
    Read {
        /// The socket path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The answer is not JSON.
    #[error("{}: not a status socket: {error}", path.display())]
    Json {
        /// The socket path.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Reads the status at `path`, waiting at most `timeout` for each part of it.
pub fn read(path: &Path, timeout: Duration) -> Result<Value, StatusError> {
    let owned = || path.to_owned();
    let stream =
        UnixStream::connect(path).map_err(|error| StatusError::Connect { path: owned(), error })?;
    let mut text = Vec::new();
    stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.take(STATUS_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| StatusError::Read { path: owned(), error })?;
    serde_json::from_slice(&text).map_err(|error| StatusError::Json { path: owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    struct Counting(AtomicU64);

    impl StatusSource for Counting {
        fn json(&self) -> Value {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            // Larger than a socket buffer, so that delivery takes several writes.
            serde_json::json!({ "asked": asked, "padding": "x".repeat(1 << 20) })
        }
    }

    #[test]
    fn each_connection_gets_one_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.sock");
        let server = Server::start(&path, Arc::new(Counting(AtomicU64::new(0)))).unwrap();
        assert_eq!(server.socket_path(), path);
        let patience = Duration::from_secs(20);
        assert_eq!(read(&path, patience).unwrap()["asked"], 0);
        // A client that leaves at once costs the next one nothing.
        drop(UnixStream::connect(&path).unwrap());
        assert_eq!(read(&path, patience).unwrap()["asked"], 2);
        drop(server);
        assert!(matches!(read(&path, patience), Err(StatusError::Connect { .. })));
        assert!(!path.exists());
    }
}
