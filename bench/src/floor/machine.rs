//! What memory, sums and disk give: the floors of the steps that every read takes.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, DirectFile, HugePages, ReadPlan, Ring, RingConfig,
    Wait, clock,
};
use diskstream_wire::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::FloorArgs;
use crate::fleet::LATENCY;
use crate::image;
use crate::node_process::CpuTime;
use crate::random::Random;
use crate::read::{CORES, nanos_of, pin};
use crate::report::round;
use crate::spread::Spread;

/// Memory that no cache of a processor holds.
const LARGE_BYTES: usize = 256 << 20;
/// Memory that the second-level cache holds; a block of the node.
const BLOCK_BYTES: usize = 64 << 10;
/// A unit, which is summed and copied at once.
const UNIT_BYTES: usize = 4 << 10;
/// A measurement of memory is long enough after this share of the time that others get.
const SHORTER: f64 = 4.0;
/// Reads of the disk that are measured: bytes of each, how many outstanding.
const DISK_LOADS: [(u32, u16); 4] = [(4 << 10, 1), (4 << 10, 32), (64 << 10, 1), (64 << 10, 32)];

/// Rates of memory, in 2^30 bytes per second.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Copying units between places that no cache holds.
    pub copy_cold_gib_per_s: Spread,
    /// Copying a block that the cache holds.
    pub copy_hot_gib_per_s: Spread,
    /// CRC32C of units that no cache holds.
    pub crc32c_cold_gib_per_s: Spread,
    /// CRC32C of units of a block that the cache holds.
    pub crc32c_hot_gib_per_s: Spread,
}

/// Measures memory.
///
/// # Errors
/// When the thread cannot be had.
pub fn memory(args: &FloorArgs) -> anyhow::Result<Memory> {
    on_server_core(args, || {
        let from = filled(LARGE_BYTES, args.seed);
        let mut to = vec![1u8; LARGE_BYTES];
        let window = nanos_of(args.seconds / SHORTER);
        let mut rates = [const { Vec::new() }; 4];
        for _ in 0..args.rounds {
            rates[0].push(rate(window, LARGE_BYTES, |at| {
                to[at..at + UNIT_BYTES].copy_from_slice(&from[at..at + UNIT_BYTES]);
                black_box(to[at]);
            }));
            rates[1].push(rate(window, BLOCK_BYTES, |at| {
                to[at..at + UNIT_BYTES].copy_from_slice(&from[at..at + UNIT_BYTES]);
                black_box(to[at]);
            }));
            rates[2].push(rate(window, LARGE_BYTES, |at| {
                black_box(crc32c::crc32c(&from[at..at + UNIT_BYTES]));
            }));
            rates[3].push(rate(window, BLOCK_BYTES, |at| {
                black_box(crc32c::crc32c(&from[at..at + UNIT_BYTES]));
            }));
        }
        let [cold, hot, sum_cold, sum_hot] =
            rates.map(|each| Spread::of(each, 2).expect("at least one round"));
        Ok(Memory {
            copy_cold_gib_per_s: cold,
            copy_hot_gib_per_s: hot,
            crc32c_cold_gib_per_s: sum_cold,
            crc32c_hot_gib_per_s: sum_hot,
        })
    })
}

fn filled(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut memory = vec![0; bytes];
    for word in memory.as_chunks_mut::<8>().0 {
        *word = random.bits().to_le_bytes();
    }
    memory
}

/// Does something to each unit of so many bytes, over and over; 2^30 bytes per second.
#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn rate(window: Nanos, bytes: usize, mut each: impl FnMut(usize)) -> f64 {
    let start = clock::now();
    let mut done = 0u64;
    loop {
        // The clock is read once for each 16 MiB at least.
        for _ in 0..((16 << 20) / bytes).max(1) {
            for at in (0..bytes).step_by(UNIT_BYTES) {
                each(at);
            }
            done += bytes as u64;
        }
        let spent = clock::now().since(start);
        if spent >= window {
            return done as f64 / f64::from(1 << 30) / (spent.0 as f64 / 1e9);
        }
    }
}

/// Random reads past the page cache, through the ring that the node uses.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// Bytes of a read.
    pub read_bytes: u32,
    /// Reads outstanding.
    pub depth: u16,
    /// Reads per second.
    pub reads_per_s: Spread,
    /// 2^20 bytes per second.
    pub mib_per_s: Spread,
    /// Processor time per read.
    pub cpu_us_per_read: Spread,
    /// Latency of half of the reads at most.
    pub p50_us: Spread,
    /// Of 99 in 100.
    pub p99_us: Spread,
    /// False where the file system refused `O_DIRECT`: then the page cache was measured.
    pub direct: bool,
    /// Latencies of all rounds in nanoseconds, for pictures.
    #[serde(skip)]
    pub latency: Vec<Histogram<u64>>,
}

/// Measures the disk under each load.
///
/// # Errors
/// When the image or the ring cannot be had, or a read fails.
pub fn disk(args: &FloorArgs) -> anyhow::Result<Vec<Disk>> {
    let path = image::make(&image::folder()?, args.seed, args.cold_image_bytes)?;
    on_server_core(args, || {
        let rounds: Vec<Vec<DiskRun>> = (0..args.rounds)
            .map(|_| DISK_LOADS.iter().map(|&load| disk_run(args, &path, load)).collect())
            .collect::<anyhow::Result<_>>()?;
        let of = |(index, &(read_bytes, depth)): (usize, &(u32, u16))| {
            let spread = |figure: fn(&DiskRun) -> f64, decimals| {
                let each = rounds.iter().map(|round| figure(&round[index]));
                Spread::of(each, decimals).expect("at least one round")
            };
            Disk {
                read_bytes,
                depth,
                reads_per_s: spread(|run| run.reads_per_s, 0),
                mib_per_s: spread(|run| run.mib_per_s, 1),
                cpu_us_per_read: spread(|run| run.cpu_us_per_read, 2),
                p50_us: spread(|run| run.p50_us, 1),
                p99_us: spread(|run| run.p99_us, 1),
                direct: rounds.iter().all(|round| round[index].direct),
                latency: rounds.iter().map(|round| round[index].latency.clone()).collect(),
            }
        };
        Ok(DISK_LOADS.iter().enumerate().map(of).collect())
    })
}

struct DiskRun {
    reads_per_s: f64,
    mib_per_s: f64,
    cpu_us_per_read: f64,
    p50_us: f64,
    p99_us: f64,
    direct: bool,
    latency: Histogram<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
fn disk_run(args: &FloorArgs, path: &Path, (len, depth): (u32, u16)) -> anyhow::Result<DiskRun> {
    let bytes = len as usize * usize::from(depth);
    let arena = Arc::new(Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Off })?);
    let config = RingConfig { reads: depth, sockets: 0, files: 1, ..RingConfig::default() };
    let mut ring = Ring::new(&config, Some(arena))?;
    let opened = DirectFile::open(path)?;
    let direct = opened.is_direct();
    let file = ring.add_file(Arc::new(opened))?;
    let slots = args.cold_image_bytes / u64::from(len);
    let mut random = Random::new(args.seed ^ u64::from(len) ^ (u64::from(depth) << 32));
    let mut started = vec![Nanos::ZERO; usize::from(depth)];
    let mut completions = Completions::new(usize::from(depth) + 8);
    let mut ask = |ring: &mut Ring, token: u64, started: &mut [Nanos]| {
        let slot = usize::try_from(token).expect("a token is a slot's number");
        started[slot] = clock::now();
        let plan = ReadPlan {
            file,
            file_offset: random.below(slots) * u64::from(len),
            arena_offset: slot * len as usize,
            len,
            token,
        };
        ring.read(plan).context("a ring has room for as many reads as it was made for")
    };
    for token in 0..u64::from(depth) {
        ask(&mut ring, token, &mut started)?;
    }
    let mut latency = Histogram::<u64>::new_with_bounds(1_000, LATENCY.1, LATENCY.2)
        .expect("bounds and digits are those of the crate's page");
    let (begin, cpu) = (clock::now(), CpuTime::of_this_thread()?);
    let end = begin + nanos_of(args.seconds);
    let mut reads = 0u64;
    let mut now = begin;
    while now < end || ring.reads_outstanding() > 0 {
        ring.turn(Wait::Until(end + Nanos::from_secs(5)), &mut completions)?;
        now = clock::now();
        for completion in completions.drain() {
            let Completion::Read { token, result } = completion else { continue };
            result.with_context(|| format!("reading {}", path.display()))?;
            if now >= end {
                continue;
            }
            let slot = usize::try_from(token).expect("a token is a slot's number");
            reads += 1;
            latency.saturating_record(now.since(started[slot]).0.max(LATENCY.0));
            ask(&mut ring, token, &mut started)?;
        }
    }
    let seconds = end.since(begin).0 as f64 / 1e9;
    let used = CpuTime::of_this_thread()?.since(cpu).used_ns as f64;
    let at = |q: f64| latency.value_at_quantile(q) as f64 / 1e3;
    Ok(DiskRun {
        reads_per_s: reads as f64 / seconds,
        mib_per_s: round(reads as f64 * f64::from(len) / seconds / f64::from(1 << 20), 1),
        cpu_us_per_read: used / 1e3 / reads.max(1) as f64,
        p50_us: at(0.5),
        p99_us: at(0.99),
        direct,
        latency,
    })
}

/// On a thread of its own, on the servers' core: what is measured here is what a server does.
fn on_server_core<T: Send>(
    args: &FloorArgs,
    action: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if !args.no_pin {
                pin(CORES.0);
            }
            action()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the measurement panicked"))?
    })
}
