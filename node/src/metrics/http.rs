//! A very small HTTP server: three pages, one thread, one request per connection.
//!
//! Whoever connects gets [`REQUEST_TIME`] to send a head of at most [`HEAD_BYTES_MAX`], and [`ANSWER_TIME`] to take the
//! answer; then the next in the kernel's queue has its turn. So a hostile client can slow scrapes down, and no more: it
//! costs no memory, no thread, and nothing on the data path.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_wire::time::Nanos;

use super::{Exporter, Health};

/// A request's head is no longer. Guessed: ten times what Prometheus and curl send.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Until the head is there. Guessed: far more than a scraper in a data centre needs.
const REQUEST_TIME: Nanos = Nanos::from_secs(2);
/// Until the answer is taken.
const ANSWER_TIME: Nanos = Nanos::from_secs(5);
/// Before the next try when the kernel gives no connection (too many descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "diskstream-node\n\n/metrics   figures for Prometheus\n/healthz   200 while the node takes devices\n";

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else listens there.
    #[error(
        "cannot serve metrics at {address}: the port is in use; choose another with --http ADDRESS:PORT, or --http off"
    )]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Any other reason.
    #[error(
        "cannot serve metrics at {address}: {source}; choose another with --http ADDRESS:PORT, or --http off"
    )]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A server that listens but does not answer yet: binding is validation, which comes before anything starts.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// A server at work. Dropping it stops it, after the request at hand ([`REQUEST_TIME`] and [`ANSWER_TIME`] at most).
#[derive(Debug)]
pub struct RunningHttp {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`HttpError`] names the flag.
    pub fn bind(address: SocketAddr) -> Result<HttpServer, HttpError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse { address },
            _ => HttpError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(HttpServer { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to answer, from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(self, exporter: Exporter, health: Arc<Health>) -> io::Result<RunningHttp> {
        let (address, stop) = (self.address, Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || run(&self.listener, &stopped, &Pages { exporter, health }))?;
        Ok(RunningHttp { address, stop, thread: Some(thread) })
    }
}

impl RunningHttp {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for RunningHttp {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes the thread from accept. If even that fails, the thread ends with the process.
        let woken = TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // A panic was printed by its own thread; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Where a listener at an unspecified address is reached from this host.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

struct Pages {
    exporter: Exporter,
    health: Arc<Health>,
}

fn run(listener: &TcpListener, stop: &AtomicBool, pages: &Pages) {
    loop {
        let accepted = listener.accept();
        if stop.load(Relaxed) {
            return;
        }
        match accepted {
            // A client that went away or was too slow is its own business.
            Ok((stream, _)) => drop(serve(&stream, pages)),
            Err(error) => {
                tracing::warn!("no connection for metrics: {error}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve(stream: &TcpStream, pages: &Pages) -> io::Result<()> {
    let head = read_head(stream)?;
    let answer = match &head {
        Head::Whole(head) => answer(head, pages),
        Head::TooLong => Answer::text(431, "the request's head is too long\n"),
        Head::Gone => return Ok(()),
    };
    let with_body = !matches!(&head, Head::Whole(head) if head.starts_with(b"HEAD "));
    write_all(stream, &answer.bytes(with_body))?;
    stream.shutdown(Shutdown::Write)?;
    // Takes what is left of an overlong request, so that closing does not reset the answer away.
    let mut rest = [0; 4096];
    let deadline = clock::now() + Nanos::from_millis(200);
    for _ in 0..64 {
        if read_some(stream, &mut rest, deadline)? == 0 {
            break;
        }
    }
    Ok(())
}

enum Head {
    Whole(Vec<u8>),
    TooLong,
    /// The client closed before the end.
    Gone,
}

fn read_head(stream: &TcpStream) -> io::Result<Head> {
    let deadline = clock::now() + REQUEST_TIME;
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        let count = read_some(stream, &mut chunk, deadline)?;
        if count == 0 {
            return Ok(Head::Gone);
        }
        head.extend_from_slice(&chunk[..count]);
        let end = |mark: &[u8]| head.windows(mark.len()).any(|window| window == mark);
        if end(b"\r\n\r\n") || end(b"\n\n") {
            return Ok(Head::Whole(head));
        }
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
    }
}

fn read_some(mut stream: &TcpStream, chunk: &mut [u8], deadline: Nanos) -> io::Result<usize> {
    stream.set_read_timeout(Some(time_left(deadline)?))?;
    stream.read(chunk)
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = clock::now() + ANSWER_TIME;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(time_left(deadline)?))?;
        let written = stream.write(bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Each wait is for what is left of the whole, so that a byte now and then buys nobody time.
fn time_left(deadline: Nanos) -> io::Result<Duration> {
    match deadline.since(clock::now()) {
        Nanos::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left.as_duration()),
    }
}

struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: u16, body: &str) -> Answer {
        Answer { status, content_type: TEXT, body: body.to_owned() }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            _ => "Service Unavailable",
        };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
            if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" },
        );
        let body = if with_body { self.body.as_str() } else { "" };
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

fn answer(head: &[u8], pages: &Pages) -> Answer {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let mut words = line.trim_end().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Answer::text(400, "the request line is not METHOD PATH HTTP/1.1\n");
    };
    if !version.starts_with("HTTP/1.") {
        return Answer::text(400, "this server speaks HTTP/1.1\n");
    }
    if method != "GET" && method != "HEAD" {
        return Answer::text(405, "this server answers GET and HEAD\n");
    }
    match target.split('?').next().unwrap_or_default() {
        "/" => Answer::text(200, INDEX),
        "/healthz" => {
            let (status, text) = pages.health.answer();
            Answer::text(status, &text)
        }
        "/metrics" => match pages.exporter.render() {
            Ok(body) => Answer { status: 200, content_type: METRICS_TEXT, body },
            Err(error) => Answer::text(500, &format!("{error}\n")),
        },
        _ => Answer::text(404, "there are /, /metrics and /healthz\n"),
    }
}
