//! Messages of the login, in the order in which a device meets them.

use crate::layout::{Field, message, record};
use crate::values::{
    BusyReason, Capabilities, ContentId, Endpoint, ImageMode, LoginKind, Mac, RejectReason,
    Reserved, Text, WriteCacheType,
};

message! {
    /// Step 1: a device asks any node of its list where to log in. As long as the answer, so that a forged source gains nothing.
    LoginPortRequest = 0x01, ToNode, bytes 192 {
        /// The device's hardware address.
        mac: Mac = "mac" @ 32,
        /// Why it logs in.
        login_kind: LoginKind = "login_kind" @ 38,
        /// The oldest protocol version that the device speaks.
        version_min: u8 = "u8" @ 39,
        /// The newest protocol version that the device speaks.
        version_max: u8 = "u8" @ 40,
        /// Fills the request up.
        padding: Reserved<151> = "reserved" @ 41,
    }
}

message! {
    /// Step 1, answer: where login goes on, and a cookie that proves the device's address when it comes back.
    LoginPortReply = 0x02, ToDevice, bytes 74 {
        /// Address and port at which to log in.
        login: Endpoint = "endpoint" @ 32,
        /// Proof of address: stateless, valid for some tens of seconds.
        cookie: [u8; 16] = "bytes" @ 50,
        /// The protocol version that the node chose.
        version: u8 = "u8" @ 66,
        /// Zero.
        reserved: Reserved<7> = "reserved" @ 67,
    }
}

message! {
    /// Step 2: the device says who it is. The tail is its ticket when it reconnects.
    LoginStart = 0x03, ToNode, bytes 192 {
        /// The device's hardware address.
        mac: Mac = "mac" @ 32,
        /// Why it logs in.
        login_kind: LoginKind = "login_kind" @ 38,
        /// The protocol version that both sides speak.
        version: u8 = "u8" @ 39,
        /// What the device can do.
        capabilities: Capabilities = "capabilities" @ 40,
        /// The cookie of step 1.
        cookie: [u8; 16] = "bytes" @ 48,
        /// Random bytes of the device, part of its proof.
        device_nonce: [u8; 16] = "bytes" @ 64,
        /// Keyed BLAKE3 over cookie, nonce, MAC under the device key; zero where the device has none.
        proof: [u8; 32] = "bytes" @ 80,
        /// The vDisk that the device wants; empty: the assigned one.
        vdisk: Text<64> = "text" @ 112,
        /// Bytes of the ticket in the tail; 0: none.
        ticket_bytes: u16 = "u16" @ 176,
        /// Zero.
        reserved: Reserved<14> = "reserved" @ 178,
    }
}

message! {
    /// Step 3, admitted: the I/O node, the facts of disk, client and policy, the node list and the ticket. The tail is
    /// `node_count` node entries, then `ticket_bytes` of ticket.
    LoginTransfer = 0x04, ToDevice, bytes 208 {
        /// The chosen I/O node: address and login port.
        node: Endpoint = "endpoint" @ 32,
        /// vDisks assigned to the device.
        vdisk_count: u8 = "u8" @ 50,
        /// How the image is used.
        image_mode: ImageMode = "image_mode" @ 51,
        /// Policy bits: 1 = pinned to one node (no failover).
        policy: u32 = "u32" @ 52,
        /// Bytes of the vDisk; 0: this node does not hold it, the I/O node tells.
        size_bytes: u64 = "u64" @ 56,
        /// The content that every node of the list must hold.
        content_id: ContentId = "content_id" @ 64,
        /// Name of the vDisk.
        vdisk: Text<64> = "text" @ 96,
        /// Name of the device.
        device_name: Text<32> = "text" @ 160,
        /// What both sides can do.
        capabilities: Capabilities = "capabilities" @ 192,
        /// Node entries in the tail.
        node_count: u8 = "u8" @ 200,
        /// Zero.
        reserved: Reserved<1> = "reserved" @ 201,
        /// Bytes of the ticket in the tail.
        ticket_bytes: u16 = "u16" @ 202,
        /// Seconds until the ticket ends, for the device's information.
        ticket_seconds: u32 = "u32" @ 204,
    }
}

message! {
    /// Step 3, later: come back. Not a failure, and not to be repeated sooner.
    LoginBusy = 0x05, ToDevice, bytes 40 {
        /// Milliseconds to wait, already jittered.
        wait_ms: u32 = "u32" @ 32,
        /// Why.
        reason: BusyReason = "busy_reason" @ 36,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 37,
    }
}

message! {
    /// Step 3 or 5, refused: a typed reason and a text to show.
    LoginReject = 0x06, ToDevice, bytes 168 {
        /// Why.
        reason: RejectReason = "reject_reason" @ 32,
        /// Zero.
        reserved: Reserved<7> = "reserved" @ 33,
        /// What to show to the person in front of the device: the reason and the remedy.
        text: Text<128> = "text" @ 40,
    }
}

message! {
    /// Step 4: at the I/O node's login port, the device asks for the shard that will serve it.
    IoPortRequest = 0x07, ToNode, bytes 64 {
        /// The device's hardware address.
        mac: Mac = "mac" @ 32,
        /// Fills the request up.
        padding: Reserved<26> = "reserved" @ 38,
    }
}

message! {
    /// Step 4, answer: address and port of the shard, for single-read mode and all that follows.
    IoPortReply = 0x08, ToDevice, bytes 56 {
        /// Address and port of the I/O service.
        io: Endpoint = "endpoint" @ 32,
        /// Zero.
        reserved: Reserved<6> = "reserved" @ 50,
    }
}

message! {
    /// Step 5: start the I/O service. The tail is the ticket. Longer than its answers, so that a replay earns nothing.
    IoServiceStart = 0x09, ToNode, bytes 192 {
        /// The device's hardware address, as in the ticket.
        mac: Mac = "mac" @ 32,
        /// Why the device logs in.
        login_kind: LoginKind = "login_kind" @ 38,
        /// The protocol version that both sides speak.
        version: u8 = "u8" @ 39,
        /// What the device can do.
        capabilities: Capabilities = "capabilities" @ 40,
        /// Random bytes of the device, part of its proof.
        device_nonce: [u8; 16] = "bytes" @ 48,
        /// Keyed BLAKE3 over ticket, former tag, nonce, MAC under the device key; zero where the device has none.
        proof: [u8; 32] = "bytes" @ 64,
        /// The vDisk that the device wants.
        vdisk: Text<64> = "text" @ 96,
        /// Bytes of the ticket in the tail.
        ticket_bytes: u16 = "u16" @ 160,
        /// Zero.
        reserved: Reserved<6> = "reserved" @ 162,
        /// Tag of the device's last session at this node; 0: none. A device whose address changed takes that session's place at once.
        former_tag: u64 = "u64" @ 168,
        /// Zero.
        reserved_end: Reserved<16> = "reserved" @ 176,
    }
}

message! {
    /// Step 5, answer: the session. It serves nothing larger than its requests until one of them echoes `session_tag`.
    LoginComplete = 0x0a, ToDevice, bytes 64 {
        /// Index of the session at its shard: every request names it.
        session: u32 = "u32" @ 32,
        /// Boot device number that the image is to appear as (0 = first disk).
        boot_device: u8 = "u8" @ 36,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 37,
        /// The session's tag: the `tag` of every datagram from now on, in both directions.
        session_tag: u64 = "u64" @ 40,
        /// Milliseconds between keep-alives.
        keep_alive_ms: u32 = "u32" @ 48,
        /// Milliseconds of silence after which the node ends the session.
        expiry_ms: u32 = "u32" @ 52,
        /// Zero.
        reserved_end: Reserved<8> = "reserved" @ 56,
    }
}

message! {
    /// Step 6: what is the vDisk like?
    VdiskInfoRequest = 0x0b, ToNode, bytes 64 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Zero.
        padding: Reserved<28> = "reserved" @ 36,
    }
}

message! {
    /// Step 6, answer.
    VdiskInfo = 0x0c, ToDevice, bytes 160 {
        /// Bytes of the vDisk.
        size_bytes: u64 = "u64" @ 32,
        /// Content id; its first 8 bytes are the generation that every read names.
        content_id: ContentId = "content_id" @ 40,
        /// Bytes of a cache block of the node: reads that stay inside one are cheapest.
        block_bytes: u32 = "u32" @ 72,
        /// Number of the version; 0 is the base.
        version: u32 = "u32" @ 76,
        /// How the image is used.
        image_mode: ImageMode = "image_mode" @ 80,
        /// Where the device is to keep what it writes.
        write_cache: WriteCacheType = "write_cache_type" @ 81,
        /// Zero.
        reserved: Reserved<6> = "reserved" @ 82,
        /// Bytes of the write cache that the farm prescribes; 0: the device decides.
        write_cache_bytes: u64 = "u64" @ 88,
        /// Name of the vDisk.
        vdisk: Text<64> = "text" @ 96,
    }
}

message! {
    /// Step 8: the device's driver takes over from single-read mode; from here many reads are outstanding.
    Handshake = 0x0d, ToNode, bytes 200 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Largest UDP payload that the path to the device carries, as far as it knows.
        datagram_bytes: u16 = "u16" @ 36,
        /// Port at which the device listens for notices (PVS: 6902); 0: none.
        notice_port: u16 = "u16" @ 38,
        /// Reads that the device wants to have outstanding.
        window: u32 = "u32" @ 40,
        /// Bytes of the device's granted receive buffer.
        receive_buffer_bytes: u32 = "u32" @ 44,
        /// What the device can do.
        capabilities: Capabilities = "capabilities" @ 48,
        /// How the device uses the image.
        image_mode: ImageMode = "image_mode" @ 56,
        /// Where it keeps what it writes.
        write_cache: WriteCacheType = "write_cache_type" @ 57,
        /// 1: the node is to keep and rotate the machine's secret (PVS: AD machine password). Not served yet.
        machine_secret: u8 = "u8" @ 58,
        /// Zero.
        reserved: Reserved<5> = "reserved" @ 59,
        /// Bytes of the write cache.
        write_cache_bytes: u64 = "u64" @ 64,
        /// Name of the vDisk.
        vdisk: Text<64> = "text" @ 72,
        /// Name of the device, as it calls itself.
        device_name: Text<32> = "text" @ 136,
        /// Name and version of the device's software.
        software: Text<32> = "text" @ 168,
    }
}

message! {
    /// Step 8, answer: what holds from now on. The tail is a fresh ticket, which proves that the device was let in, or nothing.
    HandshakeReply = 0x0e, ToDevice, bytes 72 {
        /// Fragments in flight that the node allows the device (its allowance).
        window: u32 = "u32" @ 32,
        /// Largest UDP payload that either side may send; more after a path probe.
        datagram_bytes: u16 = "u16" @ 36,
        /// 1: accepted; 0: refused, see `reason`.
        accepted: u8 = "u8" @ 38,
        /// Why not.
        reason: RejectReason = "reject_reason" @ 39,
        /// What both sides can do.
        capabilities: Capabilities = "capabilities" @ 40,
        /// Longest read of one request.
        read_bytes_max: u32 = "u32" @ 48,
        /// Reads that may be outstanding.
        reads_max: u32 = "u32" @ 52,
        /// Seconds since 1970 at the node, for the device's log.
        unix_seconds: u64 = "u64" @ 56,
        /// Bytes of the ticket in the tail; 0: none.
        ticket_bytes: u16 = "u16" @ 64,
        /// Zero.
        reserved: Reserved<2> = "reserved" @ 66,
        /// Seconds until the ticket in the tail ends.
        ticket_seconds: u32 = "u32" @ 68,
    }
}

record! {
    /// A node in a list: those that hold the identical content, the best first.
    NodeEntry, bytes 24 {
        /// Address and login port.
        login: Endpoint = "endpoint" @ 0,
        /// Power rating in hundredths (100 = 1.0).
        rating: u16 = "u16" @ 18,
        /// Bits: 1 = draining when the list was made.
        state: u8 = "u8" @ 20,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 21,
    }
}

/// Reads up to `count` node entries from a tail, and gives what follows them.
///
/// Short tails give fewer entries: the list is advice, and the caller bounds it by [`crate::limits::NODES_MAX`].
pub fn node_entries(mut tail: &[u8], count: u8, mut each: impl FnMut(NodeEntry)) -> &[u8] {
    for _ in 0..count {
        let Some((entry, rest)) = NodeEntry::decode(tail) else { break };
        each(entry);
        tail = rest;
    }
    tail
}

/// A digest of a list of nodes, whatever its order: the exclusive or of the 32-bit FNV-1a hashes of the endpoints' 18 bytes. It
/// tells lists apart, and is no proof of anything. 0, which means "none", is told as 1.
#[must_use]
pub fn nodes_digest(logins: impl Iterator<Item = Endpoint>) -> u32 {
    let hash = |login: Endpoint| {
        let mut bytes = [0; <Endpoint as Field>::BYTES];
        login.store(&mut bytes);
        // Offset basis and prime of FNV-1a (draft-eastlake-fnv).
        bytes
            .iter()
            .fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    logins.map(hash).fold(0, |sum, hash| sum ^ hash).max(1)
}
