//! Listening on a path: the stale file of a dead predecessor is replaced, a living one is never disturbed.
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// `sockaddr_un.sun_path` holds 108 bytes with the closing NUL (Linux `unix(7)`).
const PATH_BYTES_MAX: usize = 107;
/// What the private name that a socket has before it is renamed may add to its path: `.new` and a process id.
const PRIVATE_SUFFIX_BYTES_MAX: usize = 15;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("{}: another process is listening there; stop it or choose another socket path", path.display())]
    InUse {
        /// The socket path.
        path: PathBuf,
    },
    /// The path names something that is not a socket; it is left alone.
    #[error("{}: exists and is not a socket; remove it or choose another socket path", path.display())]
    NotASocket {
        /// The socket path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("{}: a socket path may have {max} bytes at most; choose a shorter one", path.display())]
    TooLong {
        /// The socket path.
        path: PathBuf,
        /// The bound in bytes.
        max: usize,
    },
    /// The system refused a step.
    #[error("{}: cannot {step}: {error}", path.display())]
    System {
        /// The socket path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A listening socket with mode 0600 whose file disappears with it.
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our socket file: only that file is removed at the end.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`. The socket is made under a private name, given its mode, and renamed into place, so nobody
    /// sees it with another mode, and a stale file is replaced in one step.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let max = PATH_BYTES_MAX - PRIVATE_SUFFIX_BYTES_MAX;
        if path.as_os_str().len() > max {
            return Err(SocketError::TooLong { path: path.to_owned(), max });
        }
        refuse_the_living(path)?;
        let system = |step| move |error| SocketError::System { path: path.to_owned(), step, error };
        let mut private = path.as_os_str().to_owned();
        private.push(format!(".new{}", std::process::id()));
        let private = PathBuf::from(private);
        match fs::remove_file(&private) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(system("remove a leftover private socket")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&private).map_err(system("bind the socket"))?;
        let placed = fs::set_permissions(&private, Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&private))
            .and_then(|metadata| fs::rename(&private, path).map(|()| identity(&metadata)));
        match placed {
            Ok(identity) => Ok(Self { listener, path: path.to_owned(), identity }),
            Err(error) => {
                // Best effort: the error that matters is the one reported.
                let _ = fs::remove_file(&private);
                Err(system("put the socket in place")(error))
            }
        }
    }

    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    /// A handle that ends a blocked [`accept`](Self::accept) from another thread: on Linux, shutting a listening Unix
    /// socket down wakes its acceptors with `EINVAL`. The standard library offers `shutdown` on streams only, and both
    /// types are nothing but a descriptor.
    pub(super) fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(UnixStream::from(OwnedFd::from(self.listener.try_clone()?))))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// See [`Listener::stopper`].
pub(super) struct Stopper(UnixStream);

impl Stopper {
    pub(super) fn stop(&self) {
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            tracing::warn!(%error, "cannot shut a listening socket down");
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Fails when `path` is anything but absent or the socket of a process that no longer listens.
fn refuse_the_living(path: &Path) -> Result<(), SocketError> {
    let system = |step, error| SocketError::System { path: path.to_owned(), step, error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at the socket path", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a process that is gone");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(system("find out whether somebody listens on the socket", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_replaced_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap()); // the standard library leaves the file behind
        assert!(path.exists());
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&path), Err(SocketError::InUse { .. })));
        drop(listener);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_plain_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(Listener::bind(&long), Err(SocketError::TooLong { .. })));
    }

    #[test]
    fn a_successors_socket_survives_our_end_and_accept_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let stopper = listener.stopper().unwrap();
        let waiter = std::thread::spawn(move || {
            let stopped = listener.accept();
            (listener, stopped.is_err())
        });
        stopper.stop();
        let (listener, stopped) = waiter.join().unwrap();
        assert!(stopped);
        let successor = Listener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(successor);
    }
}
