//! Every bound of a shard in one place.

use diskstream_wire::limits::READ_BYTES_MAX;
use diskstream_wire::time::Nanos;

/// Shards of one node: what the waiting-shards bitmap of the cache holds.
pub const SHARDS_MAX: usize = 64;
/// Stores of one node, at most. Guessed: a host has a handful of file systems with images; vDisks of more share the last number.
pub const STORES_MAX: usize = 16;
/// Bytes that one session may send before the next one's turn (design: at most 64 KiB).
pub const QUANTUM_BYTES: u32 = 64 * 1024;
/// Unconfirmed sessions of one MAC. Several, so that a replayer cannot push the true device's login aside. Guessed.
pub const UNCONFIRMED_PER_MAC: usize = 4;
/// The bound for everything that one session costs.
pub const SESSION_BYTES_MAX: usize = 512;
/// Jobs that exist for each session that may exist, as long as there are not more than [`JOBS_MAX`] of them.
pub const JOBS_PER_SESSION: usize = 8;
/// Jobs that a shard has at most. Sessions are many because most of them are idle: what is queued at once is bounded by what a core
/// answers. Derived: more than half a second's work at 100,000 reads a second; whoever asks then is better off with "busy".
pub const JOBS_MAX: usize = 65_536;
/// Plans that queued reads leave alone, so that logins, keep-alives and notices always get out. Guessed.
pub const PLANS_RESERVED: usize = 16;
/// Plans that one turn makes of queued reads at most, so that receiving never starves. Guessed: 64 × 62 KiB ≈ 4 MiB.
pub const PLANS_PER_TURN: usize = 64;

/// A read that the disk has not answered by then gets `ReadPending` (design).
pub const PENDING_AFTER: Nanos = Nanos::from_millis(10);
/// Milliseconds between keep-alives (as in PVS).
pub const KEEP_ALIVE_MS: u32 = 30_000;
/// Silence after which a session ends: three missed keep-alives and some grace.
pub const EXPIRY_MS: u32 = 3 * KEEP_ALIVE_MS + 10_000;
/// The same.
pub const EXPIRY: Nanos = Nanos::from_millis(EXPIRY_MS as u64);
/// Age of an unconfirmed session at which it is forgotten. Guessed: a device's own login patience is shorter.
pub const UNCONFIRMED_FOR: Nanos = Nanos::from_secs(10);
/// A device heard of more recently is alive: the same MAC at another address is refused. Guessed: longer than any pause
/// of a device that reads, short enough that a restarted one is let in on its second or third try.
pub const ALIVE_FOR: Nanos = Nanos::from_secs(5);
/// One in so many places of the session table is kept from standbys: serving logins that come together find room there, and the
/// standbys heard of longest ago make it anew. Guessed: 512 of 8192, what comes within a round trip of a herd.
pub const STANDBY_RESERVE: u32 = 16;
/// How a standby is found to be used like a serving session: so long after the last look, it answered more than half of its device's
/// reads and at least so many, twice in a row. Derived: two standby checks, which bring the device's own count; a failover lasts a
/// quarter of a second, and afterwards the device says itself that the session serves.
pub const LEAN_WINDOW: Nanos = Nanos::from_secs(20);
/// Fewer reads than this in a window are no load, whatever their share. Guessed.
pub const LEAN_READS_MIN: u64 = 20;
/// More reads than this in a window are load, whatever the device counts. Derived: the 2 % that may be hedged, of 10,000 reads a
/// second.
pub const LEAN_READS_MAX: u64 = 4_000;
/// A boot slot's life, unless the handshake frees it before (as in PVS).
pub const BOOT_SLOT_FOR: Nanos = Nanos::from_secs(60);
/// What a device is told to wait when the boot limit is reached (as in PVS), in milliseconds, before jitter.
pub const BOOT_PAUSE_MS: u32 = 10_000;
/// What a device is told to wait for a node that still hashes its images, before jitter.
pub const STARTING_PAUSE_MS: u32 = 1_000;
/// What a device is told to wait for a draining node without a successor, before jitter.
pub const DRAINING_PAUSE_MS: u32 = 2_000;
/// How often half of the devices is forgotten that were placed here and did not come. Guessed: a login takes far less.
pub const EXPECTED_HALVED_EVERY: Nanos = Nanos::from_secs(1);
/// How long a node waits at least for devices that have nowhere to go before it ends (design, section 6).
pub const DRAIN_ALONE: Nanos = Nanos::from_secs(2);
/// Distance of two reports about a drain, and of two looks for successors.
pub const DRAIN_REPORT_EVERY: Nanos = Nanos::from_secs(1);
/// How long the last `SessionClosed` may wait for plans. Guessed: sends come home within milliseconds.
pub const DRAIN_CLOSING_FOR: Nanos = Nanos::from_millis(250);
/// How long a device is asked to make room for others, and how long it is left alone after that.
pub const REBALANCE_FOR: (Nanos, Nanos) = (Nanos::from_secs(15), Nanos::from_secs(600));
/// Sessions that get a notice in one turn at most, each in two datagrams, and sessions looked at for that: reads are
/// served between the turns. Derived: 32 notices cost some 100 µs.
pub const NOTICES_PER_TURN: (usize, usize) = (32, 1024);
/// Lateness of a turn after which what the sockets kept meanwhile is old (design, section 4).
pub const PAUSE: Nanos = Nanos::from_millis(500);
/// Devices that may hear of their move for the first time in each [`NOTICES_FRESH_EVERY`]: 2,000 a second and shard. Derived: a move
/// costs a node some 50 µs and the first reads that come with it, so that the next node spends a tenth of a core on them, and a
/// thousand devices are told within half a second.
pub const NOTICES_FRESH: usize = 10;
/// See [`NOTICES_FRESH`].
pub const NOTICES_FRESH_EVERY: Nanos = Nanos::from_millis(5);
/// First and longest distance of two notices to one device.
pub const NOTICE_BACKOFF: (Nanos, Nanos) = (Nanos::from_millis(50), Nanos::from_millis(800));
/// Life of a ticket.
pub const TICKET_SECONDS: u32 = 7 * 24 * 3600;
/// A ticket older than this is renewed with the next keep-alive.
pub const TICKET_RENEW_SECONDS: u32 = 24 * 3600;
/// Life of a cookie slot; a cookie is good in its own slot and the next.
pub const COOKIE_SLOT: Nanos = Nanos::from_secs(30);
/// Distance of two sweeps over the sessions for expiry. Measured: a sweep over 100,000 sessions takes some 3 ms of a core.
pub const SWEEP_EVERY: Nanos = Nanos::from_secs(2);
/// Slots looked at in one turn of a sweep. Measured: some 10 ns each.
pub const SWEEP_SESSIONS: usize = 2048;

/// Sizes that an operator or a driver chooses, validated by [`Limits::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of one shard.
    pub sessions_max: u32,
    /// Blocks that one shard waits for, from its own disk reads and from other shards' together.
    pub flights_max: u16,
    /// Send plans of one shard: what bounds the bytes it hands to its sockets at once.
    pub plans: u16,
    /// Reads of one session, queued and waiting together, each counted once for every block it touches.
    pub session_jobs_max: u16,
    /// Fragments queued for one session.
    pub session_fragments_max: u32,
    /// Bytes of one session in sends that are not complete.
    pub session_inflight_bytes_max: u32,
    /// Reads that a device may have outstanding; told in the handshake.
    pub reads_max: u32,
    /// A disk read that takes longer is answered with a store error.
    pub disk_deadline: Nanos,
    /// Whether blocks are read ahead of devices that read in order.
    pub read_ahead: bool,
    /// Stores that the vDisks lie on: each gets its share of the flights.
    pub stores: u16,
    /// Reads that one shard asks each store at once; further ones wait in the shard.
    pub store_depths: [u16; STORES_MAX],
}

/// Reads that a shard may have out only to see whether a store that hangs still does, of each store; they have flights, frames and reads of
/// their own. Derived: each is asked after twice the time, so that the eighth is for a store that has hung for 21 minutes.
pub const PROBES_MAX: u16 = 8;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A farm of two nodes holds 4,000 devices: each serves half, and has to take the other half.
            sessions_max: 8192,
            flights_max: 256,
            plans: 256,
            // 64 reads, each of which may straddle two blocks.
            session_jobs_max: 128,
            // 64 reads of 48 fragments.
            session_fragments_max: 64 * 64,
            session_inflight_bytes_max: 512 * 1024,
            reads_max: 64,
            disk_deadline: Nanos::from_secs(10),
            read_ahead: true,
            stores: 1,
            store_depths: [256; STORES_MAX],
        }
    }
}

/// A limit that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// No or too many sessions.
    #[error("a shard takes between 1 and 1048576 sessions, not {0}")]
    Sessions(u32),
    /// No or too many blocks in flight.
    #[error("a shard waits for between 1 and 4096 blocks, not {0}")]
    Flights(u16),
    /// No, too many or more stores than flights.
    #[error(
        "vDisks lie on between 1 and {STORES_MAX} stores, each with a flight of its own, not on {0}"
    )]
    Stores(u16),
    /// A store that is never asked.
    #[error("a store is asked for at least one block at once")]
    StoreDepth,
    /// Too few plans.
    #[error("a shard needs at least {min} send plans, not {got}")]
    Plans {
        /// At least.
        min: usize,
        /// Given.
        got: u16,
    },
    /// A session could not even have its longest read.
    #[error("a session needs room for at least one read of 64 KiB")]
    Session,
}

impl Limits {
    /// Whether these limits can work.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), BadLimits> {
        if self.sessions_max == 0 || self.sessions_max > 1 << 20 {
            return Err(BadLimits::Sessions(self.sessions_max));
        }
        if self.flights_max == 0 || self.flights_max > 4096 {
            return Err(BadLimits::Flights(self.flights_max));
        }
        if self.stores == 0
            || usize::from(self.stores) > STORES_MAX
            || self.stores > self.flights_max
        {
            return Err(BadLimits::Stores(self.stores));
        }
        if self.store_depths.contains(&0) {
            return Err(BadLimits::StoreDepth);
        }
        if usize::from(self.plans) < PLANS_RESERVED * 2 {
            return Err(BadLimits::Plans { min: PLANS_RESERVED * 2, got: self.plans });
        }
        if self.session_jobs_max < 32
            || self.session_fragments_max < 64
            || (self.session_inflight_bytes_max as usize) < READ_BYTES_MAX
            || self.reads_max == 0
        {
            return Err(BadLimits::Session);
        }
        Ok(())
    }

    /// Flights of one shard, with those that only look whether a store still hangs: each may be a disk read.
    #[must_use]
    pub fn flights(&self) -> u16 {
        self.flights_max + self.stores * PROBES_MAX
    }

    /// Jobs of one shard: the sessions' shares as far as a shard can serve so many, and at least what a handful of greedy
    /// sessions can fill.
    #[must_use]
    pub fn jobs(&self) -> usize {
        let shares = (self.sessions_max as usize * JOBS_PER_SESSION).min(JOBS_MAX);
        shares + 16 * usize::from(self.session_jobs_max)
    }
}
