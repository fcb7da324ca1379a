//! What a device tells about itself: counters and a snapshot for people.

use std::net::SocketAddr;

use diskstream_wire::Nanos;
use serde::{Serialize, Serializer};

use super::Session;
use super::event::MoveCause;
use super::stalls::STALL_BUCKETS_MS;

/// Plain counters; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Callers' reads completed without error.
    pub reads: u64,
    /// Callers' reads that ended with an error.
    pub reads_failed: u64,
    /// Bytes of completed reads.
    pub read_bytes: u64,
    /// Requests sent, repeats included.
    pub requests: u64,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Fragments that were new.
    pub fragments: u64,
    /// Fragments that had arrived before, or whose read was over.
    pub fragments_late: u64,
    /// Units marked as zeros.
    pub zero_units: u64,
    /// Units whose integrity sum did not match.
    pub sum_mismatches: u64,
    /// `Pending` answers.
    pub pending: u64,
    /// `Busy` answers.
    pub busy: u64,
    /// `StoreError` answers.
    pub store_errors: u64,
    /// `WrongGeneration` answers, and nodes with another content.
    pub wrong_content: u64,
    /// `UnknownSession` answers.
    pub unknown_session: u64,
    /// Probes of a silent node.
    pub probes: u64,
    /// Requests asked at the standby, as copies or instead.
    pub hedges: u64,
    /// Callers' reads of which such a request was part.
    pub hedged_reads: u64,
    /// Those of them that the standby answered before the serving node did.
    pub hedges_won: u64,
    /// Standbys opened.
    pub standbys_opened: u64,
    /// Standbys given up.
    pub standbys_lost: u64,
    /// Keep-alives sent to a standby.
    pub standby_checks: u64,
    /// Moves that made the standby the serving node, without a login.
    pub promotions: u64,
    /// Moves to another node, or new sessions at the same.
    pub moves: u64,
    /// The same by cause, in the order of [`MoveCause::ALL`]; in JSON an object with the causes' labels.
    #[serde(serialize_with = "by_cause")]
    pub moves_by_cause: [u64; MoveCause::ALL.len()],
    /// Times that a node fell silent and spoke again, or was going and then stayed, before the device had moved.
    pub moves_averted: u64,
    /// Full logins completed.
    pub logins: u64,
    /// Logins by ticket completed.
    pub reconnects: u64,
    /// Refusals at login.
    pub rejects: u64,
    /// Notices acknowledged.
    pub notices: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Datagrams that are no message of ours.
    pub malformed: u64,
    /// Datagrams with a foreign tag or transaction, or from an address that was not asked.
    pub foreign: u64,
    /// Datagrams of our session that say what cannot be (a fragment that does not fit its read, an endpoint outside
    /// the node list).
    pub implausible: u64,
    /// Lost full-size datagrams that made the fragment size fall back.
    pub size_fallbacks: u64,
}

/// Whoever reads the figures must not have to know the order of an enumeration.
fn by_cause<S: Serializer>(
    counts: &[u64; MoveCause::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(MoveCause::ALL.iter().map(|cause| cause.label()).zip(counts))
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet admitted.
    LoggingIn,
    /// Reads are served.
    Streaming,
    /// Reads are served while the device logs in at another node.
    Moving,
    /// No node serves; reads are held.
    Holding,
    /// Saying goodbye.
    Closing,
    /// Over.
    Closed,
}

impl State {
    /// A label for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            State::LoggingIn => "logging in",
            State::Streaming => "streaming",
            State::Moving => "moving",
            State::Holding => "holding",
            State::Closing => "closing",
            State::Closed => "closed",
        }
    }
}

/// A snapshot for `status` and the tray.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatus {
    /// What the device is doing.
    pub state: State,
    /// Login address of the node that serves.
    pub node: Option<SocketAddr>,
    /// Address and port of its I/O service.
    pub io: Option<SocketAddr>,
    /// Nodes that hold the identical content, this one included.
    pub eligible_nodes: usize,
    /// Whether the vDisk is pinned to one node, so that there is no failover.
    pub pinned: bool,
    /// Name of the vDisk.
    pub vdisk: String,
    /// Name that the farm has for this device.
    pub device_name: String,
    /// Number of the version.
    pub version: u32,
    /// Content id in hexadecimal digits.
    pub content_id: String,
    /// Bytes of the vDisk.
    pub size_bytes: u64,
    /// The node that is kept warm.
    pub standby: Option<StandbyStatus>,
    /// Reads asked at the standby too; the same as in the counters.
    pub hedges: u64,
    /// Those of them that it answered first.
    pub hedges_won: u64,
    /// Microseconds of the longest read since the start.
    pub stall_us_max: u64,
    /// Reads by how long they took: upper end of each bucket in milliseconds (none: beyond), and how many.
    pub stalls: Vec<(Option<u64>, u64)>,
    /// The last change of node.
    pub last_move: Option<MoveStatus>,
    /// Smoothed round trip in microseconds.
    pub srtt_us: u64,
    /// Its variation.
    pub rttvar_us: u64,
    /// Fragments that may be in flight.
    pub window_fragments: u32,
    /// Data bytes of a fragment.
    pub fragment_bytes: usize,
    /// Reads that wait for an answer.
    pub outstanding: usize,
    /// Repeats per request sent, since the start.
    pub retry_rate: f64,
    /// Milliseconds for which reads have been held; none: they are not.
    pub holding_ms: Option<u64>,
    /// Seconds since the ticket arrived.
    pub ticket_age_s: Option<u64>,
    /// The counters.
    pub counters: Counters,
}

/// The standby, for people.
#[derive(Clone, Debug, Serialize)]
pub struct StandbyStatus {
    /// Login address of the node.
    pub node: SocketAddr,
    /// `open`, `silent` (it is being probed) or `dead`.
    pub state: &'static str,
    /// Smoothed round trip in microseconds.
    pub srtt_us: u64,
}

/// A change of node, for people.
#[derive(Clone, Debug, Serialize)]
pub struct MoveStatus {
    /// The node that served before.
    pub from: SocketAddr,
    /// The node that served from then on.
    pub to: SocketAddr,
    /// Why.
    pub cause: &'static str,
    /// Milliseconds that the oldest outstanding read had waited by then.
    pub stall_ms: u64,
    /// Milliseconds since then.
    pub ago_ms: u64,
}

impl Session {
    /// A snapshot for people. Allocates.
    #[must_use]
    pub fn status(&self, now: Nanos) -> SessionStatus {
        let path = self.serving.and_then(|serving| self.paths[serving].as_ref());
        let disk = self.disk.as_ref();
        let requests = self.counters.requests.max(1);
        SessionStatus {
            state: self.state(),
            node: path.map(|path| path.at.node),
            io: path.map(|path| path.at.io),
            eligible_nodes: self.nodes.eligible().len(),
            pinned: disk.is_some_and(|disk| disk.pinned),
            vdisk: disk.map(|disk| disk.vdisk.as_str().to_owned()).unwrap_or_default(),
            device_name: disk.map(|disk| disk.device_name.as_str().to_owned()).unwrap_or_default(),
            version: disk.map_or(0, |disk| disk.version),
            content_id: disk.map(|disk| disk.content_id.to_string()).unwrap_or_default(),
            size_bytes: disk.map_or(0, |disk| disk.size_bytes),
            standby: self.standby_status(),
            hedges: self.counters.hedged_reads,
            hedges_won: self.counters.hedges_won,
            stall_us_max: self.stalls.longest.as_micros(),
            stalls: STALL_BUCKETS_MS
                .iter()
                .map(|&ms| Some(ms))
                .chain([None])
                .zip(self.stalls.counts)
                .collect(),
            last_move: self.last_move.map(|last| MoveStatus {
                from: last.from,
                to: last.to,
                cause: last.cause.label(),
                stall_ms: last.stall.as_millis(),
                ago_ms: now.since(last.at).as_millis(),
            }),
            srtt_us: path.map_or(0, |path| path.network.smoothed().as_micros()),
            rttvar_us: path.map_or(0, |path| path.network.variation().as_micros()),
            window_fragments: path.map_or(0, |path| path.window.fragments()),
            fragment_bytes: path.map_or(0, |path| path.size.bytes()),
            outstanding: self.reads.len(),
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            retry_rate: self.counters.retries as f64 / requests as f64,
            holding_ms: self.held.map(|held| now.since(held.since).as_millis()),
            ticket_age_s: self.nodes.ticket_age_s(now),
            counters: self.counters,
        }
    }

    fn standby_status(&self) -> Option<StandbyStatus> {
        let path = self.standby.and_then(|standby| self.paths[standby].as_ref())?;
        let state = match (path.is_dead(), path.is_suspect()) {
            (true, _) => "dead",
            (_, true) => "silent",
            _ => "open",
        };
        Some(StandbyStatus {
            node: path.at.node,
            state,
            srtt_us: path.network.smoothed().as_micros(),
        })
    }
}
