//! What a world is like, drawn from its seed: some kinds of fault are off, others extreme ("swarm testing", Groce et
//! al. 2012), so that bugs which need the absence of a fault are found as well.

use diskstream_wire::Nanos;

use crate::random::Random;

/// Faults of every link, in millionths and nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFaults {
    /// Datagrams lost.
    pub loss_ppm: u32,
    /// Datagrams that arrive twice.
    pub duplicate_ppm: u32,
    /// Datagrams of which a bit is flipped.
    pub corrupt_ppm: u32,
    /// Every datagram takes this long at least.
    pub delay: Nanos,
    /// And up to this much longer, drawn for each: reorders.
    pub jitter: Nanos,
}

/// Faults of every disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// A read takes up to this long.
    pub latency: Nanos,
    /// Reads that take `slow` instead.
    pub slow_ppm: u32,
    /// See `slow_ppm`.
    pub slow: Nanos,
    /// Reads of the bad node's disk that fail with EIO.
    pub error_ppm: u32,
    /// Reads of the bad node's disk that come back with a wrong byte.
    pub rot_ppm: u32,
}

/// One world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes that serve the image.
    pub nodes: usize,
    /// Shards of each.
    pub shards: usize,
    /// Devices that read it.
    pub devices: usize,
    /// Bytes of the image.
    pub image_bytes: usize,
    /// Blocks that a node's cache holds.
    pub frames: usize,
    /// Reads that each device does.
    pub reads_each: usize,
    /// Reads that a device has outstanding.
    pub depth: usize,
    /// Link faults while the world is unsafe.
    pub link: LinkFaults,
    /// Disk faults; those of the bad node end when the world heals.
    pub disk: DiskFaults,
    /// Node whose disk errs and rots; none when there is only one node.
    pub bad_node: Option<usize>,
    /// Crashes (with restart) to stage.
    pub crashes: usize,
    /// Graceful stops (with restart) to stage.
    pub drains: usize,
    /// Partitions to stage, each between one device or node and one node, one way or both.
    pub cuts: usize,
    /// Pauses of a whole node to stage.
    pub pauses: usize,
    /// Datagrams of an attacker off the path, in each simulated second.
    pub forgeries_per_second: u64,
    /// Longest delay between shards of a node.
    pub shard_delay: Nanos,
    /// When faults end.
    pub heal_at: Nanos,
}

impl Options {
    /// The world of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Options {
        let r = &mut Random::new(seed ^ 0x0b5e_55ed);
        let nodes = *r.pick(&[1, 2, 2, 3]);
        let quiet = r.chance_ppm(150_000);
        let mut ppm = |choices: &[u32]| if quiet { 0 } else { *r.pick(choices) };
        let link = LinkFaults {
            loss_ppm: ppm(&[0, 0, 1_000, 20_000, 50_000, 200_000]),
            duplicate_ppm: ppm(&[0, 0, 10_000, 200_000]),
            corrupt_ppm: ppm(&[0, 0, 1_000, 30_000]),
            delay: Nanos::from_micros(r.between(20, 2_000)),
            jitter: Nanos::from_micros(*r.pick(&[0, 50, 1_000, 20_000])),
        };
        let disk = DiskFaults {
            latency: Nanos::from_micros(*r.pick(&[100, 2_000, 30_000])),
            slow_ppm: *r.pick(&[0, 0, 10_000]),
            slow: Nanos::from_millis(*r.pick(&[100, 2_000])),
            error_ppm: *r.pick(&[0, 0, 20_000, 500_000]),
            rot_ppm: *r.pick(&[0, 0, 0, 5_000]),
        };
        let mut count = |choices: &[usize]| if quiet { 0 } else { *r.pick(choices) };
        let (crashes, drains, cuts, pauses) =
            (count(&[0, 0, 1, 3]), count(&[0, 0, 1, 2]), count(&[0, 0, 2, 4]), count(&[0, 0, 1]));
        Options {
            nodes,
            shards: r.index(2) + 2,
            devices: *r.pick(&[1, 2, 4, 8]),
            image_bytes: (*r.pick(&[1usize, 3, 8]) << 20) + 512 * r.index(16),
            frames: *r.pick(&[16, 24, 64]),
            reads_each: *r.pick(&[40, 120]),
            depth: *r.pick(&[1, 4, 16]),
            link,
            disk,
            bad_node: (nodes > 1).then(|| r.index(nodes)),
            crashes,
            drains,
            cuts,
            pauses,
            forgeries_per_second: *r.pick(&[0, 200, 2_000]),
            shard_delay: Nanos::from_micros(*r.pick(&[0, 100, 5_000])),
            heal_at: Nanos::from_secs(r.between(3, 8)),
        }
    }

    /// The same world without faults: what liveness is judged in.
    #[must_use]
    pub fn healed(&self) -> (LinkFaults, DiskFaults) {
        let link = LinkFaults { delay: self.link.delay, ..LinkFaults::default() };
        (link, DiskFaults { latency: self.disk.latency, ..DiskFaults::default() })
    }
}
