//! Many connections of a stream protocol on one thread: what comes in is taken in as large pieces as there are, requests that follow
//! from one piece leave in one send. One poll, one receive and one send per answer at most: as lean as a client can be without
//! making its server's work lighter than real clients do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use mio::{Events, Interest, Poll, Token};

use super::wire::{Head, Wire};
use crate::book::{Asked, Book, Step};
use crate::fleet::{Job, Tally};
use crate::stop;

/// What one receive takes at most. More than the largest socket buffer that servers here fill at once.
const RECEIVE_BYTES: usize = 1 << 20;
/// Events of one poll.
const EVENTS: usize = 1024;
/// Wait for a server while a connection is set up: 500 of them at a busy server take a second. Guessed.
const SET_UP_LIMIT: Duration = Duration::from_secs(5);
/// The longest header of the protocols that we speak.
const HEADER_MAX: usize = 48;

/// Opens a connection on which requests leave at once.
///
/// # Errors
/// When nobody takes it.
pub fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, SET_UP_LIMIT)
        .with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SET_UP_LIMIT))?;
    Ok(stream)
}

/// Connections to one server.
pub struct Clients<W> {
    poll: Poll,
    connections: Vec<Connection<W>>,
    image_bytes: u64,
}

impl<W: Wire> Clients<W> {
    /// So many connections, made by `connect` (which is told the number of each).
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn connect(
        count: usize,
        connect: impl Fn(usize) -> anyhow::Result<(TcpStream, W, u64)>,
    ) -> anyhow::Result<Clients<W>> {
        assert!(W::HEADER <= HEADER_MAX, "a header fits its buffer");
        let poll = Poll::new().context("making a poll")?;
        let mut clients =
            Clients { poll, connections: Vec::with_capacity(count), image_bytes: u64::MAX };
        for number in 0..count {
            let opened = connect(number).with_context(|| format!("connection {number}"))?;
            let (stream, wire, image_bytes) = opened;
            stream.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            clients.poll.registry().register(&mut stream, Token(number), interest)?;
            clients.connections.push(Connection::new(number, stream, wire));
            clients.image_bytes = clients.image_bytes.min(image_bytes);
        }
        Ok(clients)
    }

    /// Bytes of what the server serves.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Does a job, of which the connections are the devices. `edge` is called when the window opens and when it closes.
    ///
    /// # Errors
    /// When the server closes a connection, breaks the protocol or falls silent, or `stop` is set.
    pub fn run(
        &mut self,
        job: Job,
        stop: &AtomicBool,
        mut edge: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Tally> {
        ensure!(job.devices == self.connections.len(), "one device for each connection");
        let depth = job.depth;
        let mut book = Book::new(job, self.image_bytes, clock::now()).with_samples();
        for connection in &mut self.connections {
            connection.begin(depth, &mut book)?;
        }
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            self.wait(&mut events, &book)?;
            for event in &events {
                self.connections[event.token().0].serve(&mut buffer, &mut book)?;
            }
            let now = clock::now();
            while let Some((member, due)) = book.due(now) {
                self.connections[member].ask(&mut book, due);
                self.connections[member].flush()?;
            }
            match book.step(now)? {
                Step::On => {}
                Step::Edge => edge()?,
                Step::Over => break,
            }
            stop::go_on(stop)?;
        }
        let left = self.connections.iter().flat_map(|c| c.slots.iter().filter_map(|s| s.asked));
        Ok(book.close(left, clock::now()))
    }

    /// Waits for something to arrive, or for the next read to be due.
    fn wait(&mut self, events: &mut Events, book: &Book) -> anyhow::Result<()> {
        // Polls know milliseconds only, rounded up: what is nearer is awaited without sleep.
        let rest = book.rest(clock::now()).unwrap_or(Nanos::ZERO).as_millis();
        match self.poll.poll(events, Some(Duration::from_millis(rest))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error).context("polling"),
            _ => Ok(()),
        }
    }
}

/// A read's place.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    asked: Option<Asked>,
    received: usize,
}

struct Connection<W> {
    number: usize,
    stream: mio::net::TcpStream,
    wire: W,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Requests that are not sent yet.
    out: Vec<u8>,
    /// The header that is arriving.
    header: [u8; HEADER_MAX],
    header_bytes: usize,
    /// The header whose data is arriving, and how much of data and padding has.
    head: Option<(Head, usize)>,
}

impl<W: Wire> Connection<W> {
    fn new(number: usize, stream: mio::net::TcpStream, wire: W) -> Connection<W> {
        Connection {
            number,
            stream,
            wire,
            slots: Vec::new(),
            free: Vec::new(),
            out: Vec::new(),
            header: [0; HEADER_MAX],
            header_bytes: 0,
            head: None,
        }
    }

    fn begin(&mut self, depth: usize, book: &mut Book) -> anyhow::Result<()> {
        self.slots = vec![Slot::default(); depth];
        self.free = (0..u32::try_from(depth)?).collect();
        let now = clock::now();
        for _ in 0..book.at_once() {
            self.ask(book, now);
        }
        self.flush()
    }

    fn ask(&mut self, book: &mut Book, since: Nanos) {
        let Some(asked) = book.ask(self.number, since) else { return };
        let tag = self.free.pop().expect("no more reads than slots are outstanding");
        self.slots[tag as usize] = Slot { asked: Some(asked), received: 0 };
        let bytes = u32::try_from(book.size()).expect("a read is below 4 GiB");
        self.wire.ask(tag, asked.offset, bytes, &mut self.out);
    }

    /// Sends what is to be sent, as far as the socket takes it; the rest follows when it can take more.
    fn flush(&mut self) -> anyhow::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending requests"),
            }
        }
        Ok(())
    }

    /// Takes what has arrived and asks for what follows from it.
    fn serve(&mut self, buffer: &mut [u8], book: &mut Book) -> anyhow::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed connection {}", self.number),
                Ok(bytes) => {
                    self.take(&buffer[..bytes], book, clock::now())?;
                    // A piece that did not fill the buffer was all there was: when more comes there is a new event (epoll(7)).
                    if bytes < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving answers"),
            }
        }
        self.flush()
    }

    /// Takes headers and data apart, however they are cut into pieces.
    fn take(&mut self, mut bytes: &[u8], book: &mut Book, now: Nanos) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.head.is_none() {
                let piece = bytes.len().min(W::HEADER - self.header_bytes);
                let to = &mut self.header[self.header_bytes..self.header_bytes + piece];
                to.copy_from_slice(&bytes[..piece]);
                bytes = &bytes[piece..];
                self.header_bytes += piece;
                if self.header_bytes < W::HEADER {
                    return Ok(());
                }
                self.header_bytes = 0;
                self.head = Some((self.head(book.size())?, 0));
            }
            let (head, taken) = self.head.expect("set above");
            let (used, over) = self.take_data(head, taken, bytes, book);
            bytes = &bytes[used..];
            self.head = (!over).then_some((head, taken + used));
            if over && head.done {
                self.end(head.tag, book, now)?;
            }
        }
        Ok(())
    }

    /// Reads the header that has arrived; what it names must have been asked for.
    fn head(&mut self, size: usize) -> anyhow::Result<Head> {
        let mut head = self.wire.head(&self.header[..W::HEADER])?;
        let bytes = *head.bytes.get_or_insert(size);
        let slot = self.slots.get(head.tag as usize);
        ensure!(slot.is_some_and(|s| s.asked.is_some()), "an answer to no read: {}", head.tag);
        let fits = head.at.checked_add(bytes).is_some_and(|end| end <= size);
        ensure!(fits, "an answer with {bytes} bytes at {} of {size}", head.at);
        Ok(head)
    }

    /// Takes data and padding; gives how much, and whether that was all.
    fn take_data(
        &mut self,
        head: Head,
        taken: usize,
        bytes: &[u8],
        book: &mut Book,
    ) -> (usize, bool) {
        let data = head.bytes.unwrap_or(0);
        let used = bytes.len().min(data + head.padding - taken);
        let piece = &bytes[..used.min(data.saturating_sub(taken))];
        let slot = &mut self.slots[head.tag as usize];
        if let Some(asked) = slot.asked.filter(|_| !piece.is_empty()) {
            slot.received += piece.len();
            book.check(asked, head.at + taken, piece);
        }
        (used, taken + used == data + head.padding)
    }

    /// A read is over.
    fn end(&mut self, tag: u32, book: &mut Book, now: Nanos) -> anyhow::Result<()> {
        let Slot { asked, received } = std::mem::take(&mut self.slots[tag as usize]);
        ensure!(received == book.size(), "a read got {received} of {} bytes", book.size());
        self.free.push(tag);
        let asked = asked.expect("looked at when the header came");
        if let Some(since) = book.ended(self.number, asked, now) {
            self.ask(book, since);
        }
        Ok(())
    }
}
