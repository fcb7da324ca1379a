//! A relay that loses and delays datagrams on purpose, for testing on one machine.
//!
//! It stands in for a node at another address: the node is told `--advertise` with the relay's address, so devices
//! send everything here. Every client gets an upstream socket of its own, so the node sees one peer per client. What a node
//! sends of its own accord to a device's notice port does not pass: no datagram from there opened a way back.
//!
//! ```text
//! device ──> listen:port ──(lost? late?)──> forward:port     one upstream socket per (client, port)
//! device <── listen:port <──(lost? late?)── forward:port
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use mio::net::{UdpSocket, UnixStream};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Socket, Type};

use crate::random::Random;

/// Clients and ports at once; more are refused, so that a scan cannot eat the machine's sockets. Guessed.
const FLOWS_MAX: usize = 16_384;
/// Datagrams held back for their delay at once. Guessed: 4,000 devices with 16 each.
const DELAYED_MAX: usize = 65_536;
/// Datagrams taken from one socket before the next gets its turn.
const BATCH: usize = 64;
/// Buffers asked for, both ways; the kernel grants up to `net.core.rmem_max` and `wmem_max`. As much as devices ask for.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// The stream that says when to end.
const STOP: Token = Token(usize::MAX - 1);

/// What the relay does.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayArgs {
    /// Address to stand at.
    #[arg(long)]
    pub listen: IpAddr,
    /// Address of the node.
    #[arg(long)]
    pub forward: IpAddr,
    /// Ports to relay, FIRST-LAST; the same at both sides.
    #[arg(long, value_parser = parse_ports)]
    pub ports: (u16, u16),
    /// Share of datagrams to lose, 0 to 1, in each direction.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Delay of each datagram, uniform from 0 to this many milliseconds; reorders.
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u32,
    /// Seed of what is lost and delayed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err(format!("'{text}' is no port range: write FIRST-LAST, such as 6910-6930")),
    }
}

/// One client at one port: the upstream socket that speaks for it.
struct Flow {
    upstream: UdpSocket,
    client: SocketAddr,
    port_index: usize,
}

struct Delayed {
    to_client: bool,
    flow: usize,
    bytes: Vec<u8>,
}

/// What happened, for the closing line.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    relayed: u64,
    lost: u64,
    refused: u64,
}

struct Relay {
    args: RelayArgs,
    poll: Poll,
    /// Kept so that it stays registered.
    _stop: UnixStream,
    listeners: Vec<UdpSocket>,
    flows: Vec<Flow>,
    by_client: HashMap<(SocketAddr, usize), usize>,
    /// Sockets that may hold something, in turn.
    ready: VecDeque<usize>,
    /// When a held datagram goes on, by its id.
    late: BinaryHeap<Reverse<(Nanos, u64)>>,
    held: HashMap<u64, Delayed>,
    next_id: u64,
    random: Random,
    tally: Tally,
}

/// Relays until the process is told to end.
///
/// # Errors
/// When a port cannot be bound.
pub fn run(args: RelayArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.0..1.0).contains(&args.loss),
        "--loss {}: must be from 0 up to, not including, 1",
        args.loss
    );
    anyhow::ensure!(
        args.jitter_ms <= 10_000,
        "--jitter-ms {}: must be at most 10000",
        args.jitter_ms
    );
    let stop = stop_signals().context("listening for signals")?;
    let mut relay = Relay::bind(args, stop)?;
    let mut out = io::stdout();
    writeln!(
        out,
        "ready: {} -> {} ports {}-{} loss {} jitter {} ms",
        relay.args.listen,
        relay.args.forward,
        relay.args.ports.0,
        relay.args.ports.1,
        relay.args.loss,
        relay.args.jitter_ms
    )?;
    out.flush()?;
    relay.serve()?;
    let Tally { relayed, lost, refused } = relay.tally;
    let (flows, held) = (relay.flows.len(), relay.held.len());
    writeln!(out, "relayed {relayed} lost {lost} refused {refused} held {held} flows {flows}")?;
    out.flush()?;
    Ok(())
}

/// A stream that becomes readable when the process is told to end.
fn stop_signals() -> io::Result<UnixStream> {
    let (told, tell) = std::os::unix::net::UnixStream::pair()?;
    told.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
    }
    Ok(UnixStream::from_std(told))
}

/// A socket with room for the bursts that segmented sends arrive as: what the relay loses is what it was told to lose.
fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

impl Relay {
    fn bind(args: RelayArgs, mut stop: UnixStream) -> anyhow::Result<Relay> {
        let poll = Poll::new().context("making a poll instance")?;
        poll.registry().register(&mut stop, STOP, Interest::READABLE)?;
        let mut listeners = Vec::new();
        for port in args.ports.0..=args.ports.1 {
            let addr = SocketAddr::new(args.listen, port);
            let mut socket = bind(addr).with_context(|| {
                format!("binding {addr}: is another program on that port? choose other --ports")
            })?;
            poll.registry().register(&mut socket, Token(listeners.len()), Interest::READABLE)?;
            listeners.push(socket);
        }
        let random = Random::new(args.seed);
        Ok(Relay {
            args,
            poll,
            _stop: stop,
            listeners,
            flows: Vec::new(),
            by_client: HashMap::new(),
            ready: VecDeque::new(),
            late: BinaryHeap::new(),
            held: HashMap::new(),
            next_id: 0,
            random,
            tally: Tally::default(),
        })
    }

    /// Relays until the stop stream is readable.
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0u8; 65_536];
        loop {
            let wait = if self.ready.is_empty() {
                let first = self.late.peek();
                first.map(|Reverse((at, _))| at.since(clock::now()).as_duration())
            } else {
                Some(Duration::ZERO)
            };
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => other.context("waiting for datagrams")?,
            }
            for event in &events {
                if event.token() == STOP {
                    return Ok(());
                }
                let token = event.token().0;
                if !self.ready.contains(&token) {
                    self.ready.push_back(token);
                }
            }
            for _ in 0..self.ready.len() {
                let Some(token) = self.ready.pop_front() else { break };
                // mio reports edges: a socket stays in the queue until it was seen empty.
                if !self.take_batch(token, &mut buffer) {
                    self.ready.push_back(token);
                }
            }
            self.send_due();
        }
    }

    /// Takes some of what one socket holds; true when it is empty.
    fn take_batch(&mut self, token: usize, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH {
            let taken = if token < self.listeners.len() {
                self.listeners[token].recv_from(buffer)
            } else {
                self.flows[token - self.listeners.len()].upstream.recv_from(buffer)
            };
            match taken {
                Ok((bytes, from)) => self.relay(token, from, &buffer[..bytes]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                // An ICMP error of an earlier send; the datagram it speaks of is lost, as on any network.
                Err(_) => {}
            }
        }
        false
    }

    fn relay(&mut self, token: usize, from: SocketAddr, bytes: &[u8]) {
        if self.random.chance(self.args.loss) {
            self.tally.lost += 1;
            return;
        }
        let to_client = token >= self.listeners.len();
        let flow = if to_client {
            token - self.listeners.len()
        } else {
            match self.flow_of(from, token) {
                Ok(flow) => flow,
                Err(_) => {
                    self.tally.refused += 1;
                    return;
                }
            }
        };
        if self.args.jitter_ms == 0 {
            self.send(to_client, flow, bytes);
        } else if self.held.len() < DELAYED_MAX {
            let delay = self.random.below(u64::from(self.args.jitter_ms) * 1_000_000);
            self.late.push(Reverse((clock::now() + Nanos(delay), self.next_id)));
            self.held.insert(self.next_id, Delayed { to_client, flow, bytes: bytes.to_vec() });
            self.next_id += 1;
        } else {
            self.tally.refused += 1;
        }
    }

    fn flow_of(&mut self, client: SocketAddr, port_index: usize) -> io::Result<usize> {
        if let Some(&flow) = self.by_client.get(&(client, port_index)) {
            return Ok(flow);
        }
        if self.flows.len() >= FLOWS_MAX {
            return Err(io::Error::other("too many flows"));
        }
        let mut upstream = bind(SocketAddr::new(self.args.listen, 0))?;
        let flow = self.flows.len();
        let token = Token(self.listeners.len() + flow);
        self.poll.registry().register(&mut upstream, token, Interest::READABLE)?;
        self.flows.push(Flow { upstream, client, port_index });
        self.by_client.insert((client, port_index), flow);
        Ok(flow)
    }

    fn send(&mut self, to_client: bool, flow: usize, bytes: &[u8]) {
        let Flow { upstream, client, port_index } = &self.flows[flow];
        let sent = if to_client {
            self.listeners[*port_index].send_to(bytes, *client)
        } else {
            let port =
                self.args.ports.0 + u16::try_from(*port_index).expect("at most 65,535 ports");
            upstream.send_to(bytes, SocketAddr::new(self.args.forward, port))
        };
        match sent {
            Ok(_) => self.tally.relayed += 1,
            Err(_) => self.tally.refused += 1,
        }
    }

    fn send_due(&mut self) {
        let now = clock::now();
        while let Some(&Reverse((at, id))) = self.late.peek() {
            if at > now {
                break;
            }
            self.late.pop();
            if let Some(delayed) = self.held.remove(&id) {
                self.send(delayed.to_client, delayed.flow, &delayed.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_parse_or_say_why() {
        assert_eq!(parse_ports("6910-6930"), Ok((6910, 6930)));
        assert_eq!(parse_ports("7"), Ok((7, 7)));
        for bad in ["0", "9-8", "x", "", "1-99999"] {
            assert!(parse_ports(bad).unwrap_err().contains("is no port range"), "{bad}");
        }
    }
}
