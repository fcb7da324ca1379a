//! The other end of the control socket, for the commands of this program.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ANSWER_BYTES_MAX, Answer, Request};

/// A node that says nothing for so long is stuck. Guessed: its control loop answers in milliseconds, a drain speaks every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no node answers at {}: {source}; is it running, and was it started with this --name or --control?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says nothing.
    #[error(
        "the node at {} does not answer within {} s; a node that is still hashing its images answers when that is done: see its log",
        path.display(), PATIENCE.as_secs()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The conversation broke off.
    #[error("the node at {} broke off: {source}; see its log", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// It said something that is no answer.
    #[error("the node at {} gave no answer that this program understands ({source}); are they of one version?", path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It refused.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// A connection to a node.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Client { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks, and gives the first answer.
    ///
    /// # Errors
    /// As [`Client::next`].
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.send(request)?;
        self.next()
    }

    /// Asks.
    ///
    /// # Errors
    /// [`ClientError::Broken`] or [`ClientError::Silent`].
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|source| self.broken(source))
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the node refused, broke off or is silent.
    #[expect(clippy::should_implement_trait, reason = "an iterator would have to end; this fails")]
    pub fn next(&mut self) -> Result<Answer, ClientError> {
        let mut line = Vec::new();
        let limit = u64::try_from(ANSWER_BYTES_MAX).expect("8 MiB");
        let read = self.stream.by_ref().take(limit).read_until(b'\n', &mut line);
        read.map_err(|source| self.broken(source))?;
        if line.last() != Some(&b'\n') {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Refused { reason }) => Err(ClientError::Refused(reason)),
            Ok(answer) => Ok(answer),
            Err(source) => Err(ClientError::Nonsense { path: self.path.clone(), source }),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            // What Linux gives for a socket's timeout is the first; the second is what others give.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent { path },
            _ => ClientError::Broken { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_silent_is_told_apart_from_one_that_breaks_off() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let mut client = Client { path: "/run/a.sock".into(), stream: BufReader::new(ours) };
        let error = client.next().expect_err("nobody answers").to_string();
        assert!(error.contains("/run/a.sock does not answer within 10 s"), "{error}");
        drop(theirs);
        assert!(matches!(client.next(), Err(ClientError::Broken { .. })));
    }
}
