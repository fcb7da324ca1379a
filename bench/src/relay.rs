//! A relay that loses and delays datagrams on purpose, for testing on one machine.
//!
//! It stands in for a node at another address: the node is told `--advertise` with the relay's address, so devices
//! send everything here. Every client gets an upstream socket of its own, so the node sees one peer per client.
//!
//! ```text
//! device ──> listen:port ──(lost? late?)──> forward:port     one upstream socket per (client, port)
//! device <── listen:port <──(lost? late?)── forward:port
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_wire::Nanos;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::random::Random;

/// Clients and ports at once; more are refused, so that a scan cannot eat the machine's sockets. Guessed.
const FLOWS_MAX: usize = 16_384;
/// Datagrams held back for their delay at once. Guessed: 4,000 devices with 16 each.
const DELAYED_MAX: usize = 65_536;
/// Datagrams taken from one socket before the next gets its turn.
const BATCH: usize = 64;

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
    listeners: Vec<UdpSocket>,
    flows: Vec<Flow>,
    by_client: HashMap<(SocketAddr, usize), usize>,
    late: BinaryHeap<Reverse<(Nanos, u64)>>,
    held: HashMap<u64, Delayed>,
    next_id: u64,
    random: Random,
    tally: Tally,
}

/// Relays until the process is ended.
///
/// # Errors
/// When a port cannot be bound.
pub fn run(args: RelayArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.0..1.0).contains(&args.loss),
        "--loss {}: must be from 0 up to, not including, 1",
        args.loss
    );
    let mut relay = Relay::bind(args)?;
    println!(
        "ready: {} -> {} ports {}-{} loss {} jitter {} ms",
        relay.args.listen,
        relay.args.forward,
        relay.args.ports.0,
        relay.args.ports.1,
        relay.args.loss,
        relay.args.jitter_ms
    );
    io::stdout().flush()?;
    let mut events = Events::with_capacity(1024);
    loop {
        let wait = relay.late.peek().map(|Reverse((at, _))| at.since(clock::now()).as_duration());
        match relay.poll.poll(&mut events, wait) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other.context("waiting for datagrams")?,
        }
        for event in &events {
            relay.drain(event.token().0);
        }
        relay.send_due();
    }
}

impl Relay {
    fn bind(args: RelayArgs) -> anyhow::Result<Relay> {
        let poll = Poll::new().context("making a poll instance")?;
        let mut listeners = Vec::new();
        for port in args.ports.0..=args.ports.1 {
            let addr = SocketAddr::new(args.listen, port);
            let mut socket = UdpSocket::bind(addr).with_context(|| {
                format!("binding {addr}: is another program on that port? choose other --ports")
            })?;
            poll.registry().register(&mut socket, Token(listeners.len()), Interest::READABLE)?;
            listeners.push(socket);
        }
        let random = Random::new(args.seed);
        Ok(Relay {
            args,
            poll,
            listeners,
            flows: Vec::new(),
            by_client: HashMap::new(),
            late: BinaryHeap::new(),
            held: HashMap::new(),
            next_id: 0,
            random,
            tally: Tally::default(),
        })
    }

    /// Takes what one socket holds. mio reports edges, so the socket is emptied.
    fn drain(&mut self, token: usize) {
        let mut buffer = [0u8; 65_536];
        loop {
            for _ in 0..BATCH {
                let taken = if token < self.listeners.len() {
                    self.listeners[token].recv_from(&mut buffer)
                } else {
                    self.flows[token - self.listeners.len()].upstream.recv_from(&mut buffer)
                };
                match taken {
                    Ok((bytes, from)) => self.relay(token, from, &buffer[..bytes]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                    // An ICMP error of an earlier send; the datagram it speaks of is lost, as on any network.
                    Err(_) => {}
                }
            }
            self.send_due();
        }
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
        let mut upstream = UdpSocket::bind(SocketAddr::new(self.args.listen, 0))?;
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
