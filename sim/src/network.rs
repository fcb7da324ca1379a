//! Links: every datagram on its way, with what the world does to it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use diskstream_wire::header::Header;
use diskstream_wire::{Nanos, ReadData};

use crate::options::LinkFaults;
use crate::random::Random;

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// Payload.
    pub bytes: Vec<u8>,
}

/// Datagrams on their way at most. Past it links lose them, as full queues do; the judge checks that healthy worlds
/// stay far below.
pub const IN_FLIGHT_MAX: usize = 200_000;

/// Flips a bit of the vDisk's data, as memory of a switch or a card does behind the UDP checksum (Stone and Partridge,
/// "When the CRC and TCP checksum disagree", 2000). Headers are what that checksum is trusted for.
fn corrupt(bytes: &mut [u8], random: &mut Random) {
    if Header::peek_kind(bytes) == Some(ReadData::KIND)
        && let Some(data) = bytes.get_mut(ReadData::BYTES..)
        && !data.is_empty()
    {
        let at = random.index(data.len());
        data[at] ^= 1 << random.below(8);
    }
}

/// All links of a world.
pub struct Network {
    faults: LinkFaults,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    on_the_way: HashMap<u64, Datagram>,
    next: u64,
    cut: HashSet<(IpAddr, IpAddr)>,
    /// Nothing gets through to this port, anywhere.
    pub blocked_port: Option<u16>,
    random: Random,
    /// What makes each way as long as it is.
    salt: u64,
    /// Most datagrams that were ever on their way.
    pub peak: usize,
}

impl Network {
    /// Links with these faults.
    #[must_use]
    pub fn new(faults: LinkFaults, random: Random) -> Network {
        Network {
            salt: random.clone().bits(),
            faults,
            queue: BinaryHeap::new(),
            on_the_way: HashMap::new(),
            next: 0,
            cut: HashSet::new(),
            blocked_port: None,
            random,
            peak: 0,
        }
    }

    /// Changes what happens to datagrams sent from now on, and ends all cuts.
    pub fn heal(&mut self, faults: LinkFaults) {
        self.faults = faults;
        self.cut.clear();
    }

    /// Changes what happens to datagrams sent from now on.
    pub fn set_faults(&mut self, faults: LinkFaults) {
        self.faults = faults;
    }

    /// Lets nothing through from one host to another, or everything again.
    pub fn set_cut(&mut self, from: IpAddr, to: IpAddr, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// How much longer than the shortest the way from one host to another is.
    fn detour(&self, from: IpAddr, to: IpAddr) -> Nanos {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() & u128::from(u64::MAX)).expect("masked"),
        };
        let way = number(from).rotate_left(32) ^ number(to);
        Nanos(Random::new(self.salt ^ way).below(self.faults.spread.0 + 1))
    }

    /// Takes a datagram.
    pub fn send(&mut self, now: Nanos, datagram: Datagram) {
        let faults = self.faults;
        if self.cut.contains(&(datagram.from.ip(), datagram.to.ip()))
            || self.blocked_port == Some(datagram.to.port())
            || self.random.chance_ppm(faults.loss_ppm)
            || self.on_the_way.len() >= IN_FLIGHT_MAX
        {
            return;
        }
        if self.random.chance_ppm(faults.duplicate_ppm) {
            self.put_on_the_way(now, datagram.clone());
        }
        self.put_on_the_way(now, datagram);
        self.peak = self.peak.max(self.on_the_way.len());
    }

    fn put_on_the_way(&mut self, now: Nanos, mut datagram: Datagram) {
        let faults = self.faults;
        if self.random.chance_ppm(faults.corrupt_ppm) {
            corrupt(&mut datagram.bytes, &mut self.random);
        }
        let detour = self.detour(datagram.from.ip(), datagram.to.ip());
        let at = now + faults.delay + detour + Nanos(self.random.below(faults.jitter.0 + 1));
        self.hold(datagram, at);
    }

    /// Delivers a datagram later: its receiver is not looking.
    pub fn hold(&mut self, datagram: Datagram, until: Nanos) {
        self.queue.push(Reverse((until, self.next)));
        self.on_the_way.insert(self.next, datagram);
        self.next += 1;
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Nanos {
        self.queue.peek().map_or(Nanos::NEVER, |Reverse((at, _))| *at)
    }

    /// A datagram that has arrived by `now`.
    pub fn receive(&mut self, now: Nanos) -> Option<Datagram> {
        let &Reverse((at, id)) = self.queue.peek()?;
        if at > now {
            return None;
        }
        self.queue.pop();
        self.on_the_way.remove(&id)
    }
}
