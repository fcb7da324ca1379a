//! How fast a node sends: one rate for all shards, so that a fleet's burst does not overflow a queue behind this host.
//!
//! The card sends what it is given as fast as its link is. Where a switch's way on to the devices is slower (a rack's uplink,
//! many nodes that send to one port), what does not fit its queue is lost, and each loss costs a device a round trip and more.
//!
//! [`Line`] is the moment until which the line is busy with what all shards have sent. A shard whose session wants a turn looks at it, and
//! may send as long as that is not far ahead ([`Line::lead`]); what its turns sent it adds, once for every 64 KiB and at the end of
//! its round ([`Pace`]). So a shard alone has the whole rate, and nobody waits for room that another one holds and does not use. A turn
//! may overdraw the line; the next ones wait until it is level. Which session is next is for the round to decide (`serve.rs`), so the
//! rate is shared as fairly as everything else.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::time::Nanos;

/// How far ahead of the line shards may send. Derived: the kernel wakes a thread up to 50 µs late (timer slack), and the line shall not
/// be idle meanwhile.
const LEAD: Nanos = Nanos::from_micros(200);
/// The same in bytes at least, or a slow pace would never send any; and what a shard sends before it says so. Derived: the largest send.
const LEAD_BYTES_MIN: u64 = 64 * 1024;

/// Bytes of a line besides a datagram's payload: UDP's 8, IPv4's 20, and 42 of Ethernet (addresses, type, checksum, preamble,
/// gap). Those of IPv6 have 20 more.
const BESIDES_PAYLOAD: u64 = 8 + 20 + 42;

/// What a number of datagrams are on the line, in bytes.
pub(super) fn on_the_line(payload_bytes: usize, datagrams: usize, ipv6: bool) -> u64 {
    let besides = BESIDES_PAYLOAD + if ipv6 { 20 } else { 0 };
    payload_bytes as u64 + datagrams as u64 * besides
}

/// The line that all shards of a node send on. On a cache line of its own: where there is a pace, each turn of each shard writes it, and what lies
/// beside it in what shards share is read with every read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Line {
    /// Bytes in a second, with everything that Ethernet adds; 0: no bound.
    rate: u64,
    /// The moment until which it is busy.
    busy_until: AtomicU64,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// A line of that many bytes in a second; none: shards send as fast as they can.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Line {
        // A rate of nothing would never end a read.
        Line { rate: bytes_per_second.map_or(0, |rate| rate.max(1)), ..Line::default() }
    }

    /// Bytes in a second; 0: no bound.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.rate
    }

    fn lead(&self) -> Nanos {
        LEAD.max(self.time(LEAD_BYTES_MIN))
    }

    /// How long so many bytes keep it busy.
    fn time(&self, bytes: u64) -> Nanos {
        // Rounded up: short turns on a fast line would else be for nothing.
        let time = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.rate));
        Nanos(u64::try_from(time).unwrap_or(u64::MAX))
    }

    fn busy_until(&self) -> Nanos {
        Nanos(self.busy_until.load(Relaxed))
    }

    /// So many more bytes are on their way.
    fn add(&self, bytes: u64, now: Nanos) {
        let time = self.time(bytes).0;
        let after = |busy: u64| busy.max(now.0).saturating_add(time);
        // Nothing is published with it: only the number counts.
        let added = self.busy_until.fetch_update(Relaxed, Relaxed, |busy| Some(after(busy)));
        added.expect("the closure always has an answer");
    }
}

/// What one shard has to do with the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes that have left, and of which the line does not know yet.
    unsaid: u64,
    now: Nanos,
}

impl Pace {
    /// A round of turns begins.
    pub(super) fn begin(&mut self, now: Nanos) {
        self.now = now;
    }

    /// Whether a session may take its turn now.
    pub(super) fn may_send(&self, line: &Line) -> bool {
        if line.rate == 0 {
            return true;
        }
        let busy = line.busy_until().max(self.now) + line.time(self.unsaid);
        busy.since(self.now) < line.lead()
    }

    /// That many bytes have left ([`on_the_line`]).
    pub(super) fn sent(&mut self, line: &Line, bytes: u64) {
        if line.rate > 0 {
            self.unsaid = self.unsaid.saturating_add(bytes);
            if self.unsaid >= LEAD_BYTES_MIN {
                self.end(line);
            }
        }
    }

    /// The round is over.
    pub(super) fn end(&mut self, line: &Line) {
        let bytes = std::mem::take(&mut self.unsaid);
        if bytes > 0 {
            line.add(bytes, self.now);
        }
    }

    /// When to try again, after a turn that might not be taken: when a quarter of the lead is to be had, so that a wake-up is worth it
    /// and comes before the line is idle.
    pub(super) fn due(&self, line: &Line) -> Nanos {
        if line.rate == 0 {
            return Nanos::ZERO;
        }
        Nanos(line.busy_until().0.saturating_sub(line.lead().0 / 4 * 3))
    }
}

#[cfg(test)]
mod tests;
