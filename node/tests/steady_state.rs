//! The hit path of a whole node, event loop and ring included, in its steady state: no allocation, no lock, and no system call but
//! the one of a turn, which serves many datagrams. Two shards share the cache, whose blocks are all kept.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

#[path = "steady_support/sys.rs"]
mod counting;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use diskstream_device::driver::{Fleet, FleetConfig, Ports};
use diskstream_device::session::{Event, Session, SessionConfig};
use diskstream_node::cli::{Cli, Command as Word};
use diskstream_node::lock;
use diskstream_node::running::{RunningNode, Sockets};
use diskstream_node::serve::open_vdisks;
use diskstream_node::settings::Settings;
use diskstream_ring::{Wait, clock};
use diskstream_wire::{Mac, Nanos};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Bytes of the image: all of it stays in the cache.
const IMAGE_BYTES: u64 = 8 << 20;
const BLOCK: u64 = 64 << 10;
const UNIT: u64 = 4096;
/// Devices, and reads that each keeps outstanding.
const LOAD: (usize, usize) = (8, 16);
/// Reads of a measurement.
const READS: u64 = 40_000;
/// Nothing here takes so long.
const PATIENCE: Nanos = Nanos::from_secs(120);

/// A node with these shards, in this process.
fn node(image: &std::path::Path, cores: &str) -> RunningNode {
    let image = image.to_str().unwrap();
    let flags = "--login-port 0 --io-ports 0 --cache 64M --cache-pinned --http off \
                 --boot-limit 0";
    let words = ["diskstream-node", "serve", image, "--cores", cores].into_iter();
    let words = words.chain(flags.split_whitespace());
    let Word::Serve(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
    let settings = Settings::resolve(&args).unwrap();
    let sockets = Sockets::bind(&settings).unwrap();
    let arena = RunningNode::arena_for(&settings).unwrap();
    let vdisks = open_vdisks(&settings, &AtomicBool::new(false)).unwrap().unwrap();
    RunningNode::start(&settings, &arena, sockets, vdisks, Arc::new(|| {})).unwrap()
}

/// Devices that ask for the next read when one is answered.
struct Load {
    fleet: Fleet,
    next: u64,
    done: u64,
}

impl Load {
    fn new(node: &RunningNode) -> Load {
        let (devices, depth) = LOAD;
        let mut fleet = Fleet::new(&FleetConfig {
            sockets: 64,
            shared_notices: true,
            ..FleetConfig::default()
        })
        .unwrap();
        for number in 0..devices {
            let mac = Mac([2, 0, 0, 0, 7, u8::try_from(number).unwrap()]);
            let config = SessionConfig::new(vec![node.login()], mac);
            fleet.add(config, Ports::Free, [u8::try_from(number).unwrap(); 32]).unwrap();
        }
        let mut load = Load { fleet, next: 0, done: 0 };
        let (mut opened, limit) = (0, clock::now() + PATIENCE);
        while opened < devices {
            assert!(clock::now() < limit, "{opened} of {devices} devices logged in");
            let until = Wait::Until(limit);
            load.fleet
                .turn(until, |_, _, event, _| {
                    opened += usize::from(matches!(event, Event::Opened { .. }));
                })
                .unwrap();
        }
        for member in 0..devices {
            for _ in 0..depth {
                let (offset, now) = (load.offset(), clock::now());
                let session = load.fleet.session_mut(member);
                session.read(0, offset, vec![0; 4096], now).unwrap();
            }
        }
        load
    }

    fn offset(&mut self) -> u64 {
        self.next += 1;
        // A prime stride over all units.
        self.next * 769 % (IMAGE_BYTES / UNIT) * UNIT
    }

    /// Goes on until `enough` says so.
    fn run(&mut self, mut enough: impl FnMut(u64) -> bool) {
        let limit = clock::now() + PATIENCE;
        let begin = self.done;
        while !enough(self.done - begin) {
            assert!(clock::now() < limit, "{} reads were answered", self.done - begin);
            let (next, done) = (&mut self.next, &mut self.done);
            let again = |_: usize, session: &mut Session, event: Event, now: Nanos| {
                let Event::ReadDone { buffer, result, .. } = event else { return };
                result.unwrap();
                *done += 1;
                *next += 1;
                let offset = *next * 769 % (IMAGE_BYTES / UNIT) * UNIT;
                session.read(0, offset, buffer, now).unwrap();
            };
            self.fleet.turn(Wait::Until(limit), again).unwrap();
        }
    }
}

/// A shard's thread of this process.
fn shard_thread(name: &str) -> u32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let named = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let shard = tasks.map(|task| task.unwrap().path()).find(|path| named(path)).unwrap();
    shard.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// What a thread asks of the kernel while the load goes on: system calls by name. None where nobody may look.
fn system_calls(load: &mut Load, thread: u32) -> Option<Vec<(String, u64)>> {
    let summary = tempfile::NamedTempFile::new().unwrap();
    let looker = Command::new("timeout")
        .args(["-s", "INT", "2", "strace", "-qq", "-c", "-U", "name,calls", "-p"])
        .arg(thread.to_string())
        .arg("-o")
        .arg(summary.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut looker) = looker else {
        println!("SKIPPED: system calls are not counted, `timeout` is not installed");
        return None;
    };
    load.run(|_| looker.try_wait().unwrap().is_some());
    let text = std::fs::read_to_string(summary.path()).unwrap();
    // Two columns; lines of other words (head, rule) have no number.
    let pair = |line: &str| {
        let (name, calls) = line.trim().split_once(' ')?;
        Some((name.to_owned(), calls.trim().parse().ok()?))
    };
    let calls: Vec<(String, u64)> =
        text.lines().filter_map(pair).filter(|(name, _)| name != "total").collect();
    if calls.is_empty() {
        let error = std::io::read_to_string(looker.stderr.take().unwrap()).unwrap_or_default();
        println!("SKIPPED: system calls are not counted, strace says: {}{error}", text.trim());
        return None;
    }
    Some(calls)
}

/// What the shards did for some tens of thousands of reads.
#[derive(Debug)]
struct Hits {
    /// Of each shard.
    reads: Vec<u64>,
    misses: u64,
    /// Of the shards' threads. (Others look around now and then.)
    allocations: u64,
    /// None in a build that does not count them.
    locks: Option<u64>,
    enters: u64,
    datagrams: u64,
}

fn measure(node: &RunningNode, load: &mut Load, threads: &[u32]) -> Hits {
    let figure =
        |name: &str| -> u64 { node.ring_stats().iter().map(|ring| ring.get(name).unwrap()).sum() };
    let misses = || -> u64 { node.counters().iter().map(|shard| shard.cache_misses.get()).sum() };
    let reads = || -> Vec<u64> { node.counters().iter().map(|shard| shard.reads.get()).collect() };
    let datagrams = || figure("datagrams_sent") + figure("datagrams_received");
    let allocations = || -> u64 { threads.iter().map(|&of| counting::allocations_of(of)).sum() };
    let locks = || lock::acquisitions("shard-");
    let before = (reads(), misses(), allocations(), locks(), figure("enters"), datagrams());
    let counted = threads.iter().all(|&of| counting::allocations_of(of) > 0);
    assert!(counted, "each shard allocated at its start, and that was counted");
    let served = |now: Vec<u64>| -> Vec<u64> {
        now.into_iter().zip(&before.0).map(|(now, then)| now - then).collect()
    };
    // Until each shard has done its part, and the ring's figures, which may be a tenth of a second old, tell of it: a host that is
    // shared may keep one of the two cores for itself for a while.
    load.run(|done| {
        done >= READS
            && served(reads()).iter().all(|&reads| reads > READS / 10)
            && datagrams() - before.5 >= 2 * READS
    });
    Hits {
        allocations: allocations() - before.2,
        misses: misses() - before.1,
        reads: served(reads()),
        locks: locks().zip(before.3).map(|(now, then)| now - then),
        enters: figure("enters") - before.4,
        datagrams: datagrams() - before.5,
    }
}

impl Hits {
    fn check(&self) {
        println!("{self:?}");
        assert_eq!(self.allocations, 0, "the node allocates on the hit path: {self:?}");
        // A shard takes locks at logins, to see the farm, and tries one at keep-alives, to note a slow device: now and then, however many
        // reads come. A lock on the hit path is taken at least once a turn.
        if let Some(locks) = self.locks {
            assert!(locks * 50 < self.enters, "{locks} locks: {self:?}");
        } else {
            println!("SKIPPED: locks are not counted, this build is without debug assertions");
        }
        assert!(self.reads.iter().sum::<u64>() > READS / 2, "the shards' own counts: {self:?}");
        assert_eq!(self.misses, 0, "these were to be hits: {self:?}");
        // A call a turn, not a datagram: 128 reads are outstanding, each is asked for in one datagram and answered in three.
        assert!(self.enters * 4 < self.datagrams, "{self:?}");
    }
}

#[test]
fn the_hit_path_of_a_node_allocates_nothing_locks_nothing_and_calls_the_kernel_once_a_turn() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("steady.img");
    let bytes: Vec<u8> = (0..IMAGE_BYTES).map(|n| u8::try_from(n % 251).unwrap()).collect();
    std::fs::write(&image, bytes).unwrap();
    let shards = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    if shards == 1 {
        println!("SKIPPED: the second shard, there is one core");
    }
    let mut node = node(&image, ["0", "0,1"][shards - 1]);
    let mut load = Load::new(&node);
    // Every unit was read twice and is kept: what is read now are hits, and windows have settled.
    let kept = || node.shared().cache.stats().frames_kept;
    load.run(|done| done >= 2 * IMAGE_BYTES / UNIT && kept() == IMAGE_BYTES / BLOCK);
    let threads: Vec<u32> = (0..shards).map(|n| shard_thread(&format!("shard-{n}"))).collect();
    let hits = measure(&node, &mut load, &threads);
    hits.check();
    for (shard, &thread) in threads.iter().enumerate() {
        let Some(calls) = system_calls(&mut load, thread) else { continue };
        println!("system calls of shard {shard} in two seconds: {calls:?}");
        let others: Vec<_> = calls.iter().filter(|(name, _)| name != "io_uring_enter").collect();
        assert!(calls.len() > others.len(), "the shard runs: {calls:?}");
        assert!(others.is_empty(), "the hit path asks for more than io_uring_enter: {others:?}");
    }
    node.stop();
}
