//! What a shard counts. Written by its owner only, read by whoever scrapes; no read-modify-write anywhere.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use diskstream_wire::time::Nanos;

/// A number with one writer. Adding is a load and a store, which cost what a plain addition costs.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the owner may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one. Only the owner may.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Sets a gauge. Only the owner may.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Reads. Anybody may.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of a histogram: 2^0 to 2^26 microseconds (67 s), and one for the rest.
pub const HISTOGRAM_BUCKETS: usize = 28;

/// Latencies in buckets of powers of two microseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; HISTOGRAM_BUCKETS],
    sum_ns: Counter,
}

impl Histogram {
    /// Counts one latency.
    #[inline]
    pub fn record(&self, latency: Nanos) {
        let us = latency.0.div_ceil(1000);
        // Bucket n holds what is at most 2^n µs.
        let bucket = if us <= 1 { 0 } else { 64 - (us - 1).leading_zeros() as usize };
        self.buckets[bucket.min(HISTOGRAM_BUCKETS - 1)].inc();
        self.sum_ns.add(latency.0);
    }

    /// How many were at most `upper bound` microseconds and more than the bound before; the last bound is `u64::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().map(|(n, count)| {
            let bound = if n == HISTOGRAM_BUCKETS - 1 { u64::MAX } else { 1 << n };
            (bound, count.get())
        })
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Sum of all, in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.get()
    }
}

/// How a metric behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Counts upwards.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts per bucket of latency.
    Histogram,
}

/// How to read a metric.
#[derive(Clone, Copy)]
pub enum Get {
    /// A counter or gauge.
    Value(fn(&ShardCounters) -> &Counter),
    /// A histogram of latencies.
    Histogram(fn(&ShardCounters) -> &Histogram),
}

/// One row of the table of metrics. Rows with the same name differ in their label.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Name without prefix; counters end in `_total`, latencies in `_seconds`.
    pub name: &'static str,
    /// Label and value, where the name has several rows.
    pub label: Option<(&'static str, &'static str)>,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// How to read it.
    pub get: Get,
}

macro_rules! label {
    () => {
        None
    };
    ($label:literal = $value:literal) => {
        Some(($label, $value))
    };
}

macro_rules! counters {
    (
        values { $( $field:ident : $kind:ident, $name:literal $([$label:literal = $value:literal])?, $help:literal; )* }
        histograms { $( $hfield:ident : $hname:literal, $hhelp:literal; )* }
    ) => {
        /// Everything that a shard counts.
        #[derive(Debug, Default)]
        pub struct ShardCounters {
            $( #[doc = $help] pub $field: Counter, )*
            $( #[doc = $hhelp] pub $hfield: Histogram, )*
        }

        /// The table of metrics, in the order in which they are shown.
        pub const METRICS: &[Metric] = &[
            $( Metric {
                name: $name,
                label: label!($($label = $value)?),
                help: $help,
                kind: MetricKind::$kind,
                get: Get::Value(|c| &c.$field),
            }, )*
            $( Metric {
                name: $hname,
                label: None,
                help: $hhelp,
                kind: MetricKind::Histogram,
                get: Get::Histogram(|c| &c.$hfield),
            }, )*
        ];
    };
}

counters! {
    values {
        logins_transferred: Counter, "logins_total"["outcome" = "transferred"], "Logins by outcome.";
        logins_reconnected: Counter, "logins_total"["outcome" = "reconnected"], "Logins by outcome.";
        logins_standby: Counter, "logins_total"["outcome" = "standby"], "Logins by outcome.";
        logins_busy_boot_limit: Counter, "logins_total"["outcome" = "busy_boot_limit"], "Logins by outcome.";
        logins_busy_draining: Counter, "logins_total"["outcome" = "busy_draining"], "Logins by outcome.";
        logins_busy_starting: Counter, "logins_total"["outcome" = "busy_starting"], "Logins by outcome.";
        logins_unknown_device: Counter, "logins_total"["outcome" = "unknown_device"], "Logins by outcome.";
        logins_disabled: Counter, "logins_total"["outcome" = "disabled"], "Logins by outcome.";
        logins_no_vdisk_assigned: Counter, "logins_total"["outcome" = "no_vdisk_assigned"], "Logins by outcome.";
        logins_vdisk_locked: Counter, "logins_total"["outcome" = "vdisk_locked"], "Logins by outcome.";
        logins_no_eligible_node: Counter, "logins_total"["outcome" = "no_eligible_node"], "Logins by outcome.";
        logins_version_missing: Counter, "logins_total"["outcome" = "version_missing"], "Logins by outcome.";
        logins_version_pending: Counter, "logins_total"["outcome" = "version_pending"], "Logins by outcome.";
        logins_protocol_too_old: Counter, "logins_total"["outcome" = "protocol_too_old"], "Logins by outcome.";
        logins_bad_proof: Counter, "logins_total"["outcome" = "bad_proof"], "Logins by outcome.";
        logins_duplicate_device: Counter, "logins_total"["outcome" = "duplicate_device"], "Logins by outcome.";
        logins_ticket_expired: Counter, "logins_total"["outcome" = "ticket_expired"], "Logins by outcome.";
        logins_no_room: Counter, "logins_total"["outcome" = "no_room"], "Logins by outcome.";
        placed_here: Counter, "placements_total"["outcome" = "here"], "Logins that were given a node, by which.";
        placed_elsewhere: Counter, "placements_total"["outcome" = "elsewhere"], "Logins that were given a node, by which.";
        placed_unknown: Counter, "placements_total"["outcome" = "unknown"], "Logins that were given a node, by which.";
        placed_far: Counter, "placements_outside_subnet_total", "Logins that were given a node outside the device's subnet although the vDisk prefers a near one.";
        place_refused_boot_slots: Counter, "placements_refused_total"["reason" = "boot_slots"], "Logins that were given no node, by reason.";
        place_refused_subnet: Counter, "placements_refused_total"["reason" = "subnet"], "Logins that were given no node, by reason.";
        place_refused_pinned: Counter, "placements_refused_total"["reason" = "pinned"], "Logins that were given no node, by reason.";
        place_refused_draining: Counter, "placements_refused_total"["reason" = "draining"], "Logins that were given no node, by reason.";
        place_refused_none_takes_devices: Counter, "placements_refused_total"["reason" = "none_takes_devices"], "Logins that were given no node, by reason.";
        place_refused_other_version: Counter, "placements_refused_total"["reason" = "other_version"], "Logins that were given no node, by reason.";
        place_refused_missing: Counter, "placements_refused_total"["reason" = "missing"], "Logins that were given no node, by reason.";
        login_ports_told: Counter, "login_ports_told_total", "Answers to the question where to log in.";
        io_ports_told: Counter, "io_ports_told_total", "Answers to the question which shard serves a device.";
        sessions: Gauge, "sessions", "Sessions that are open, confirmed or not.";
        sessions_unconfirmed: Gauge, "sessions_unconfirmed", "Sessions whose device has not echoed its tag yet.";
        sessions_serving: Gauge, "sessions_by_role"["role" = "serving"], "Sessions that are open, by what they are to their device.";
        sessions_standby: Gauge, "sessions_by_role"["role" = "standby"], "Sessions that are open, by what they are to their device.";
        standbys_promoted: Counter, "standby_promotions_total", "Standby sessions that their device began to use.";
        sessions_demoted: Counter, "standby_demotions_total", "Serving sessions that their device made its standby.";
        standby_checks: Counter, "standby_checks_total", "Keep-alives that checked a standby session.";
        moves_node_silent: Counter, "moves_total"["cause" = "node_silent"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_notice: Counter, "moves_total"["cause" = "notice"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_draining: Counter, "moves_total"["cause" = "draining"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_unknown_session: Counter, "moves_total"["cause" = "unknown_session"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_ended_by_node: Counter, "moves_total"["cause" = "ended_by_node"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_store_errors: Counter, "moves_total"["cause" = "store_errors"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_wrong_content: Counter, "moves_total"["cause" = "wrong_content"], "Devices that came to this node, by why they left another or logged in again here.";
        moves_other: Counter, "moves_total"["cause" = "other"], "Devices that came to this node, by why they left another or logged in again here.";
        sessions_started: Counter, "sessions_started_total", "Sessions confirmed by their device.";
        sessions_closed_detached: Counter, "sessions_ended_total"["reason" = "detached"], "Sessions ended, by reason.";
        sessions_closed_moved: Counter, "sessions_ended_total"["reason" = "moved"], "Sessions ended, by reason.";
        sessions_closed_replaced: Counter, "sessions_ended_total"["reason" = "replaced"], "Sessions ended, by reason.";
        sessions_closed_expired: Counter, "sessions_ended_total"["reason" = "expired"], "Sessions ended, by reason.";
        sessions_closed_unconfirmed: Counter, "sessions_ended_total"["reason" = "unconfirmed"], "Sessions ended, by reason.";
        sessions_closed_drained: Counter, "sessions_ended_total"["reason" = "drained"], "Sessions ended, by reason.";
        sessions_readdressed: Counter, "sessions_readdressed_total", "Sessions that were replaced because their device logged in again from another address.";
        sessions_unproven: Counter, "sessions_unproven_total", "Sessions whose device claimed to go on without a ticket that proves it, so that they took a boot slot.";
        sessions_closed_evicted: Counter, "sessions_ended_total"["reason" = "evicted"], "Sessions ended, by reason.";
        standbys_leaning: Counter, "standbys_leaning_total", "Standby sessions that count as load because their device has its reads answered there.";
        handshakes: Counter, "handshakes_total", "Handshakes accepted.";
        handshakes_refused: Counter, "handshakes_refused_total", "Handshakes refused.";
        keep_alives: Counter, "keep_alives_total", "Keep-alives answered.";
        tickets_renewed: Counter, "tickets_renewed_total", "Fresh tickets given with keep-alives.";
        node_lists_renewed: Counter, "node_lists_renewed_total", "Devices that were told of nodes that they did not know.";
        path_probes: Counter, "path_probes_total", "Path probes answered.";
        extents_answers: Counter, "extents_answers_total", "Questions about extents answered.";
        device_retries: Counter, "device_retries_total", "Requests that devices sent again, by their own count.";
        device_sum_mismatches: Counter, "device_sum_mismatches_total", "Integrity sums that devices found wrong, by their own count.";
        device_moves: Counter, "device_moves_total", "Moves to another node, by the devices' own count.";
        device_hedges: Counter, "device_hedges_total", "Reads that devices asked at their standby as well, by their own count.";
        device_hedges_won: Counter, "device_hedges_won_total", "Reads that devices asked at their standby as well, and that it answered first, by their own count.";
        reads: Counter, "reads_total", "Valid reads received, repeats included.";
        reads_again: Counter, "reads_again_total", "Reads that said that they were sent before.";
        reads_single: Counter, "reads_single_total", "Reads in single-read mode.";
        reads_hedged: Counter, "reads_hedged_total", "Reads that another node was asked first.";
        reads_stale: Counter, "reads_stale_total", "Reads dropped because they came while the node was paused.";
        pauses: Counter, "pauses_total", "Times that the shard found itself paused for more than half a second.";
        reads_joined: Counter, "reads_joined_total", "Repeats that found their first copy still queued or waiting.";
        read_pending: Counter, "read_pending_total", "Answers that a read waits for the disk.";
        read_busy_queue: Counter, "read_busy_total"["reason" = "session_queue"], "Answers that a read must come back, by the bound it met.";
        read_busy_jobs: Counter, "read_busy_total"["reason" = "jobs"], "Answers that a read must come back, by the bound it met.";
        read_busy_flights: Counter, "read_busy_total"["reason" = "disk_queue"], "Answers that a read must come back, by the bound it met.";
        read_busy_cache: Counter, "read_busy_total"["reason" = "cache_full"], "Answers that a read must come back, by the bound it met.";
        read_errors_store: Counter, "read_errors_total"["code" = "store_error"], "Reads answered with an error, by code.";
        read_errors_timeout: Counter, "read_errors_total"["code" = "store_timeout"], "Reads answered with an error, by code.";
        read_errors_range: Counter, "read_errors_total"["code" = "out_of_range"], "Reads answered with an error, by code.";
        read_errors_generation: Counter, "read_errors_total"["code" = "wrong_generation"], "Reads answered with an error, by code.";
        read_errors_negotiation: Counter, "read_errors_total"["code" = "not_negotiated"], "Reads answered with an error, by code.";
        data_fragments: Counter, "data_fragments_total", "Fragments of vDisk data sent.";
        data_bytes: Counter, "data_bytes_total", "Bytes of vDisk data sent.";
        zero_marks: Counter, "zero_marks_total", "Zero marks sent.";
        zero_units: Counter, "zero_units_total", "Units answered with a mark instead of bytes.";
        cache_hits: Counter, "cache_lookups_total"["outcome" = "hit"], "Lookups of blocks for reads, by outcome.";
        cache_misses: Counter, "cache_lookups_total"["outcome" = "miss"], "Lookups of blocks for reads, by outcome.";
        cache_coalesced: Counter, "cache_lookups_total"["outcome" = "coalesced"], "Lookups of blocks for reads, by outcome.";
        cache_full: Counter, "cache_lookups_total"["outcome" = "full"], "Lookups of blocks for reads, by outcome.";
        ahead_sequential: Counter, "ahead_loads_total"["reason" = "sequential"], "Blocks that the shard began to load before anybody asked for them, by reason.";
        ahead_listed: Counter, "ahead_loads_total"["reason" = "listed"], "Blocks that the shard began to load before anybody asked for them, by reason.";
        ahead_late: Counter, "ahead_late_total", "Blocks that were asked for while they were being read ahead.";
        ahead_no_room: Counter, "ahead_no_room_total", "Times that read-ahead gave way to misses, or to a store or cache without room.";
        flights: Gauge, "flights", "Blocks on their way from a disk, early loads that nobody waits for among them.";
        jobs: Gauge, "jobs", "Reads queued or waiting, counted once for each block they touch.";
        disk_reads: Counter, "disk_reads_total", "Disk reads started.";
        disk_queued: Counter, "disk_reads_queued_total", "Disk reads that waited for their store's turn.";
        disk_read_bytes: Counter, "disk_read_bytes_total", "Bytes read from disks.";
        disk_errors: Counter, "disk_errors_total"["reason" = "errno"], "Disk reads that gave no usable block, by reason.";
        disk_short: Counter, "disk_errors_total"["reason" = "short"], "Disk reads that gave no usable block, by reason.";
        disk_overdue: Counter, "disk_errors_total"["reason" = "overdue"], "Disk reads that gave no usable block, by reason.";
        disk_mismatches: Counter, "disk_errors_total"["reason" = "content_differs"], "Disk reads that gave no usable block, by reason.";
        datagrams_in: Counter, "datagrams_received_total", "Datagrams received.";
        socket_errors: Counter, "socket_errors_total", "Errors that sockets reported by themselves; they go on receiving.";
        bytes_in: Counter, "datagram_bytes_received_total", "Bytes of datagrams received.";
        datagrams_out: Counter, "datagrams_sent_total", "Datagrams handed to a socket.";
        bytes_out: Counter, "datagram_bytes_sent_total", "Bytes of datagrams handed to a socket.";
        sends: Counter, "sends_total", "Sends, each of one or more datagrams.";
        sends_dropped: Counter, "sends_failed_total"["reason" = "buffer_full"], "Sends that came to nothing, by reason.";
        sends_failed: Counter, "sends_failed_total"["reason" = "error"], "Sends that came to nothing, by reason.";
        replies_dropped: Counter, "sends_failed_total"["reason" = "no_room"], "Sends that came to nothing, by reason.";
        turns_paced: Counter, "turns_paced_total", "Turns in which sessions had to wait because of the pace.";
        sends_no_plan: Counter, "sends_failed_total"["reason" = "no_plan"], "Sends that came to nothing, by reason.";
        refused_too_short: Counter, "refusals_total"["reason" = "too_short"], "Datagrams that were refused, by reason.";
        refused_bad_magic: Counter, "refusals_total"["reason" = "bad_magic"], "Datagrams that were refused, by reason.";
        refused_unsupported_version: Counter, "refusals_total"["reason" = "unsupported_version"], "Datagrams that were refused, by reason.";
        refused_unknown_kind: Counter, "refusals_total"["reason" = "unknown_kind"], "Datagrams that were refused, by reason.";
        refused_bad_length: Counter, "refusals_total"["reason" = "bad_length"], "Datagrams that were refused, by reason.";
        refused_not_ours: Counter, "refusals_total"["reason" = "not_for_a_node"], "Datagrams that were refused, by reason.";
        refused_wrong_socket: Counter, "refusals_total"["reason" = "wrong_port"], "Datagrams that were refused, by reason.";
        refused_unknown_session: Counter, "refusals_total"["reason" = "unknown_session"], "Datagrams that were refused, by reason.";
        refused_wrong_tag: Counter, "refusals_total"["reason" = "wrong_tag"], "Datagrams that were refused, by reason.";
        refused_wrong_address: Counter, "refusals_total"["reason" = "wrong_address"], "Datagrams that were refused, by reason.";
        refused_bad_cookie: Counter, "refusals_total"["reason" = "bad_cookie"], "Datagrams that were refused, by reason.";
        refused_bad_value: Counter, "refusals_total"["reason" = "bad_value"], "Datagrams that were refused, by reason.";
        notices_sent: Counter, "notices_sent_total", "Notices sent, repeats and both ways counted.";
        notices_acked: Counter, "notices_acked_total", "Sessions that acknowledged their notice.";
        notices_expired: Counter, "notices_expired_total", "Notices not acknowledged when the session ended or the node gave up.";
        rebalance_told: Counter, "rebalance_notices_total", "Sessions told to move to make the load even.";
        draining: Gauge, "draining", "1 while the shard drains.";
        drain_left: Gauge, "drain_left_behind", "Sessions that were still served when the shard's last drain was over.";
        events_dropped: Counter, "events_dropped_total", "Log events dropped because one turn had too many.";
        stale_messages: Counter, "stale_shard_messages_total", "Wake-ups from other shards that nobody waited for.";
    }
    histograms {
        device_read_longest: "device_read_longest_seconds", "Longest read of a device since its last keep-alive, one for each keep-alive.";
        disk_latency: "disk_read_seconds", "Time of disk reads.";
        request_latency: "request_seconds", "Time from a read's arrival to the last of its fragments being handed to a socket, for each block it touches.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_row_of_its_own() {
        let counters = ShardCounters::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut values = 0;
        for metric in METRICS {
            assert!(seen.insert((metric.name, metric.label)), "{} twice", metric.name);
            assert!(!metric.help.is_empty() && metric.help.ends_with('.'));
            match metric.get {
                Get::Value(get) => {
                    assert_eq!(get(&counters).get(), 0, "{} shares a field", metric.name);
                    get(&counters).inc();
                    values += 1;
                    let total = metric.name.ends_with("_total");
                    assert_eq!(total, metric.kind == MetricKind::Counter, "{}", metric.name);
                }
                Get::Histogram(_) => assert!(metric.name.ends_with("_seconds")),
            }
        }
        let histograms = METRICS.len() - values;
        let expected = values * size_of::<Counter>() + histograms * size_of::<Histogram>();
        assert_eq!(size_of::<ShardCounters>(), expected);
    }

    #[test]
    fn latencies_fall_into_the_right_bucket() {
        let histogram = Histogram::default();
        let ns = [0, 1_000, 1_001, 2_000, 2_001, 4_000, 1 << 62];
        ns.iter().for_each(|&n| histogram.record(Nanos(n)));
        let counts: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[2]), (2, 2, 2));
        assert_eq!(histogram.count(), 7);
        assert_eq!(histogram.buckets().last(), Some((u64::MAX, 1)));
        assert_eq!(histogram.sum_ns(), ns.iter().sum::<u64>());
    }
}
