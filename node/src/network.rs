//! How datagrams leave and come in: the flags of the network path, and what was granted of them.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use diskstream_ring::{QueueWatch, ZeroCopy};
use diskstream_wire::Nanos;

use crate::metrics::{Kind, RingStats, Samples, Source, as_float};

/// Flags of the network path.
#[derive(Clone, Copy, Debug, Args)]
pub struct NetworkArgs {
    /// Send straight from the cache, without a copy: auto (where a trial on live sends shows that it pays), on or off. It takes Linux
    /// 6.15, reserved huge pages of 2 MiB, jumbo frames (MTU 9000), a card that gathers, and CAP_NET_ADMIN for larger send buffers;
    /// all else is copied. See docs/tuning-network.md.
    #[arg(long, default_value_t = ZeroCopy::Auto)]
    pub zero_copy: ZeroCopy,
    /// Microseconds for which a shard that waits polls its card's queue in the kernel; 0: not. Costs a core what it saves in latency.
    /// It takes Linux 6.9 and a card with NAPI queues: a loopback or a veth has none.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub busy_poll: u32,
    /// Microseconds for which a shard that waits looks for work before it sleeps; 0: not. Costs a core what it saves in latency.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub spin: u32,
    /// Bits that the node sends in a second at most, Ethernet's own among them, such as 900M: what the path to the devices takes without
    /// losing any. auto: the speed of the link of the address that --listen names; not paced where that is all addresses, or the speed
    /// is not known.
    #[arg(long, value_name = "auto|off|BITS_PER_SECOND", default_value_t = Pace::Auto)]
    pub pace: Pace,
}

impl fmt::Display for NetworkArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "zero copy {}, busy poll {} µs, spin {} µs, pace {}",
            self.zero_copy, self.busy_poll, self.spin, self.pace
        )
    }
}

/// How fast shards send at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the link is, where its speed is known.
    Auto,
    /// As fast as they can.
    Off,
    /// Bits in a second.
    Bits(u64),
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::Auto => f.write_str("auto"),
            Pace::Off => f.write_str("off"),
            Pace::Bits(bits) => write!(f, "{bits}"),
        }
    }
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Pace, String> {
        let (digits, factor) = match text {
            "auto" => return Ok(Pace::Auto),
            "off" => return Ok(Pace::Off),
            text => match text.bytes().last() {
                Some(b'K' | b'k') => (&text[..text.len() - 1], 1000),
                Some(b'M' | b'm') => (&text[..text.len() - 1], 1_000_000),
                Some(b'G' | b'g') => (&text[..text.len() - 1], 1_000_000_000),
                _ => (text, 1),
            },
        };
        let bits = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bits.filter(|bits| *bits >= BITS_MIN).map(Pace::Bits).ok_or_else(|| {
            format!("'{text}' is no pace: write auto, off, or bits in a second from {BITS_MIN}, such as 900M (powers of 1000)")
        })
    }
}

/// A slower pace than that is a mistake in the unit: one device boots with more.
const BITS_MIN: u64 = 1_000_000;

impl Pace {
    /// Bytes that a node sends in a second at most, with everything that Ethernet adds; none: as many as it can. Says so.
    #[must_use]
    pub fn bytes_per_second(self, listen: IpAddr) -> Option<u64> {
        let bits = match self {
            Pace::Off => None,
            Pace::Bits(bits) => Some(bits),
            Pace::Auto => match link_bits(listen) {
                Ok(bits) => {
                    tracing::info!(bits, "sends are paced to the speed of the link");
                    Some(bits)
                }
                Err(why) => {
                    tracing::info!("sends are not paced: {why}; --pace sets a rate");
                    None
                }
            },
        };
        bits.map(|bits| bits / 8)
    }
}

/// Bits in a second of the interface that has an address, or why that is not known.
fn link_bits(listen: IpAddr) -> Result<u64, String> {
    if listen.is_unspecified() {
        // Any of the host's interfaces may be the one, a slow one for its management as well.
        return Err("the node serves all interfaces of this host".to_owned());
    }
    let addresses = diskstream_ring::udp::interfaces().map_err(|error| error.to_string())?;
    let (name, _) = addresses
        .into_iter()
        .find(|(_, ip)| *ip == listen)
        .ok_or_else(|| format!("no interface has {listen}"))?;
    speed_of(&name).ok_or_else(|| format!("the kernel does not know the speed of {name}"))
}

fn speed_of(interface: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    megabits(&text)
}

/// `speed` holds megabits in a second, or -1.
fn megabits(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().filter(|megabits| *megabits > 0)?.checked_mul(1_000_000)
}

/// What was granted of the network path, by shard.
pub struct NetworkSource {
    /// Each shard's ring.
    pub rings: Vec<Arc<RingStats>>,
    /// Each shard's socket, and behind them the login socket.
    pub queues: Arc<[QueueWatch]>,
    /// What all shards send in a second at most; 0: no bound.
    pub pace_bytes_per_second: u64,
}

impl Source for NetworkSource {
    fn collect(&self, samples: &mut Samples) {
        samples.number(
            "pace_bytes_per_second",
            "Bytes that all shards together send in a second at most, with Ethernet's own; 0: no bound (--pace).",
            Kind::Gauge,
            Vec::new(),
            as_float(self.pace_bytes_per_second),
        );
        self.receive_queues(samples);
        for (shard, (ring, queue)) in self.rings.iter().zip(self.queues.iter()).enumerate() {
            let labels = || vec![("shard", shard.to_string().into())];
            let mut gauge = |name, help, value: u64| {
                samples.number(name, help, Kind::Gauge, labels(), as_float(value));
            };
            gauge(
                "shard_zero_copy_addresses",
                "Local addresses whose sends leave without a copy: with --zero-copy auto, where a trial showed that it pays; with on, \
                 where the kernel said that it did not copy.",
                ring.zero_copy_addresses(),
            );
            gauge(
                "shard_busy_poll",
                "1 where the kernel took the wish to busy-poll.",
                u64::from(ring.busy_polls()),
            );
            gauge(
                "shard_busy_poll_queue",
                "The card's queue that the last datagram came in by; 0: none that can be polled (a loopback, a veth).",
                u64::from(queue.queue()),
            );
        }
    }
}

impl NetworkSource {
    /// What comes faster than it is taken.
    fn receive_queues(&self, samples: &mut Samples) {
        for (at, queue) in self.queues.iter().enumerate() {
            let labels = || match at < self.rings.len() {
                true => vec![("socket", "io".into()), ("shard", at.to_string().into())],
                false => vec![("socket", "login".into())],
            };
            let help = "Datagrams that came while the socket's receive buffer was full, and are lost (--socket-buffer).";
            samples.counter("receive_drops_total", help, labels(), queue.drops().into());
            let help = "Bytes in the socket's receive buffer, with what the kernel keeps beside them: what came and is not taken yet.";
            let waiting = as_float(queue.waiting_bytes().into());
            samples.number("receive_waiting_bytes", help, Kind::Gauge, labels(), waiting);
        }
    }
}

/// Tells the log of datagrams that found no room.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// What each socket had lost at the last look.
    seen: Vec<u32>,
    untold: u64,
    next_told: Nanos,
}

/// Distance of two log lines about lost datagrams. Guessed: a node past its capacity loses some every second.
const LOSSES_TOLD_EVERY: Nanos = Nanos::from_secs(10);

impl Losses {
    /// How many datagrams are to be told of now, which were lost since the last time; none: nothing to say, or it was said just now.
    pub(crate) fn look(&mut self, drops: impl Iterator<Item = u32>, now: Nanos) -> Option<u64> {
        for (at, drops) in drops.enumerate() {
            if self.seen.len() == at {
                self.seen.push(0);
            }
            self.untold += u64::from(drops.wrapping_sub(self.seen[at]));
            self.seen[at] = drops;
        }
        if self.untold == 0 || now < self.next_told {
            return None;
        }
        self.next_told = now + LOSSES_TOLD_EVERY;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_once_and_not_too_often() {
        let (mut losses, second) = (Losses::default(), Nanos::from_secs);
        assert_eq!(losses.look([0, 0].into_iter(), second(1)), None);
        assert_eq!(losses.look([3, 4].into_iter(), second(2)), Some(7));
        assert_eq!(losses.look([3, 5].into_iter(), second(3)), None, "told a second ago");
        assert_eq!(losses.look([2, 5].into_iter(), second(12)), Some(u64::from(u32::MAX) + 1));
        assert_eq!(losses.look([2, 5].into_iter(), second(30)), None);
    }

    #[test]
    fn paces_are_understood() {
        assert_eq!("auto".parse(), Ok(Pace::Auto));
        assert_eq!("off".parse(), Ok(Pace::Off));
        assert_eq!("900M".parse(), Ok(Pace::Bits(900_000_000)));
        assert_eq!("2.5G".parse::<Pace>().ok(), None);
        assert_eq!("10G".parse(), Ok(Pace::Bits(10_000_000_000)));
        assert_eq!("2000000".parse(), Ok(Pace::Bits(2_000_000)));
        let error = "100".parse::<Pace>().unwrap_err();
        assert!(error.contains("bits in a second"), "{error}");
        for pace in [Pace::Auto, Pace::Off, Pace::Bits(5_000_000)] {
            assert_eq!(pace.to_string().parse(), Ok(pace));
        }
    }

    #[test]
    fn a_speed_that_is_not_known_is_no_bound() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(Pace::Bits(8_000_000).bytes_per_second(loopback), Some(1_000_000));
        assert_eq!(Pace::Off.bytes_per_second(loopback), None);
        assert_eq!(Pace::Auto.bytes_per_second(loopback), None, "a loopback has no speed");
        let any = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(Pace::Auto.bytes_per_second(any), None, "which interface is meant?");
    }

    #[test]
    fn speeds_are_those_of_the_kernel() {
        assert_eq!(megabits("10000\n"), Some(10_000_000_000));
        assert_eq!(megabits("-1\n"), None);
        assert_eq!(megabits("0"), None);
        assert_eq!(megabits(""), None);
    }
}
