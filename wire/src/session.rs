//! Messages that keep, move and end a session.

use crate::layout::message;
use crate::values::{CloseReason, MoveReason, NoticeReason, Reserved, SessionRole, WriteCacheType};

message! {
    /// The node does not know this session (it restarted, or ended it): log in again at once. Echoes the tag of what it
    /// answers, and is no longer than that.
    UnknownSession = 0x26, ToDevice, bytes 48 {
        /// The session index that was named.
        session: u32 = "u32" @ 32,
        /// Zero.
        reserved: Reserved<4> = "reserved" @ 36,
        /// The request's number; 0 where it had none.
        request_id: u64 = "u64" @ 40,
    }
}

message! {
    /// The device lives, and says how it fares. Every 30 s, as in PVS.
    KeepAlive = 0x40, ToNode, bytes 120 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Number of this keep-alive, echoed.
        sequence: u32 = "u32" @ 36,
        /// Bytes kept in the write cache.
        write_cache_used_bytes: u64 = "u64" @ 40,
        /// Bytes that the write cache can keep; 0: no bound of its own.
        write_cache_bytes: u64 = "u64" @ 48,
        /// Reads completed since the device started.
        reads: u64 = "u64" @ 56,
        /// Requests sent again because fragments did not arrive, since the device started.
        retries: u64 = "u64" @ 64,
        /// Smoothed round trip in microseconds.
        srtt_us: u32 = "u32" @ 72,
        /// Round-trip variation in microseconds.
        rttvar_us: u32 = "u32" @ 76,
        /// Moves to another node since the device started.
        moves: u32 = "u32" @ 80,
        /// Where the device keeps what it writes.
        write_cache: WriteCacheType = "write_cache_type" @ 84,
        /// What this session is to the device. A node counts a standby as no load.
        role: SessionRole = "session_role" @ 85,
        /// Why the device moved last; `none`: it has not.
        moved: MoveReason = "move_reason" @ 86,
        /// Zero.
        reserved: Reserved<1> = "reserved" @ 87,
        /// Units whose integrity sum did not match, since the device started.
        sum_mismatches: u64 = "u64" @ 88,
        /// Reads that are outstanding.
        outstanding: u32 = "u32" @ 96,
        /// Seconds since the device asked for a fresh ticket; `u32::MAX`: it wants one now.
        ticket_age_s: u32 = "u32" @ 100,
        /// Microseconds of the longest read since the last keep-alive.
        read_us_max: u32 = "u32" @ 104,
        /// Reads that were asked at the standby as well, since the device started.
        hedges: u32 = "u32" @ 108,
        /// Those of them that the standby answered first.
        hedges_won: u32 = "u32" @ 112,
        /// Which nodes the device knows: [`crate::nodes_digest`] of its list; 0: it does not want to be told of others.
        nodes_digest: u32 = "u32" @ 116,
    }
}

message! {
    /// Answer to a keep-alive. The tail is `node_count` node entries, where the device knows other nodes than this one would name now,
    /// and then a fresh ticket, or nothing.
    KeepAliveReply = 0x41, ToDevice, bytes 64 {
        /// The keep-alive's number.
        sequence: u32 = "u32" @ 32,
        /// Bytes of the ticket in the tail; 0: none.
        ticket_bytes: u16 = "u16" @ 36,
        /// Node entries in the tail: they replace the device's list.
        node_count: u8 = "u8" @ 38,
        /// Zero.
        reserved: Reserved<1> = "reserved" @ 39,
        /// Seconds since 1970 at the node.
        unix_seconds: u64 = "u64" @ 40,
        /// Seconds until the ticket in the tail ends.
        ticket_seconds: u32 = "u32" @ 48,
        /// Zero.
        reserved_end: Reserved<12> = "reserved" @ 52,
    }
}

message! {
    /// Move: the node will stop serving. Sent to the device's notice port and from the session's own port until it is
    /// acknowledged. The tail is `node_count` node entries: the successors, the best first.
    Notice = 0x42, ToDevice, bytes 48 {
        /// Number of the notice, echoed by its acknowledgement.
        sequence: u32 = "u32" @ 32,
        /// Milliseconds until the node stops serving.
        deadline_ms: u32 = "u32" @ 36,
        /// Why.
        reason: NoticeReason = "notice_reason" @ 40,
        /// Node entries in the tail; 0: look for yourself.
        node_count: u8 = "u8" @ 41,
        /// Zero.
        reserved: Reserved<6> = "reserved" @ 42,
    }
}

message! {
    /// The device has the notice.
    NoticeAck = 0x43, ToNode, bytes 48 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// The notice's number.
        sequence: u32 = "u32" @ 36,
        /// Zero.
        reserved: Reserved<8> = "reserved" @ 40,
    }
}

message! {
    /// The session's end, said by either side. A device sends it when it has moved, so that the old node may stop.
    SessionClose = 0x44, ToNode, bytes 48 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Why.
        reason: CloseReason = "close_reason" @ 36,
        /// Zero.
        reserved: Reserved<11> = "reserved" @ 37,
    }
}

message! {
    /// The session is closed.
    SessionClosed = 0x45, ToDevice, bytes 48 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Why.
        reason: CloseReason = "close_reason" @ 36,
        /// Zero.
        reserved: Reserved<11> = "reserved" @ 37,
    }
}

message! {
    /// Does the path carry datagrams of this size? Padded to `probe_bytes`, sent with DF set.
    PathProbe = 0x46, ToNode, bytes 48 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Number of the probe, echoed.
        sequence: u32 = "u32" @ 36,
        /// Bytes of this datagram, padding included; the answer is as long.
        probe_bytes: u16 = "u16" @ 40,
        /// Zero.
        reserved: Reserved<6> = "reserved" @ 42,
    }
}

message! {
    /// Yes: padded to the probe's size, sent with DF set.
    PathProbeReply = 0x47, ToDevice, bytes 48 {
        /// The probe's number.
        sequence: u32 = "u32" @ 32,
        /// Bytes of the probe as it arrived, and of this answer.
        probe_bytes: u16 = "u16" @ 36,
        /// Zero.
        reserved: Reserved<10> = "reserved" @ 38,
    }
}
