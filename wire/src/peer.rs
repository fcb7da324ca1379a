//! What nodes say to each other: one kind of datagram, and the records sealed inside it (`docs/peers.md`).
//!
//! ```text
//! header:32 | nonce:24 | sealed( PeerHead:32 | record by PeerKind | tail ) | authenticator:16
//! ```
//!
//! Devices neither send nor understand these; [`crate::decode`] does not know the kind, so a shard refuses it.

use core::fmt;

use crate::layout::{Field, Table, message, record};
use crate::limits::CONTROL_BYTES_MAX;
use crate::values::{ContentId, Endpoint, Reserved, Text, meaning};

/// Bytes of the authenticator behind what is sealed.
pub const PEER_SEAL_BYTES: usize = 16;
/// The longest record and tail of a peer's message: what a control datagram leaves.
pub const PEER_BODY_BYTES_MAX: usize =
    CONTROL_BYTES_MAX - PeerSealed::BYTES - PEER_SEAL_BYTES - PeerHead::BYTES;
/// Versions in one [`PeerInventory`].
pub const PEER_VERSIONS_PER_DATAGRAM: usize =
    (PEER_BODY_BYTES_MAX - PeerInventory::BYTES) / PeerVersion::BYTES;
/// Versions whose sessions fit the tail of one [`PeerReport`]; those behind them are told without.
pub const PEER_REPORT_SESSIONS_MAX: usize = (PEER_BODY_BYTES_MAX - PeerReport::BYTES) / 4;

message! {
    /// Whatever one node says to another. The tail is sealed with XChaCha20-Poly1305 under a key derived from the farm's;
    /// the header is authenticated with it. `tag` is zero.
    PeerSealed = 0x60, BetweenNodes, bytes 56 {
        /// Random; 24 bytes make a repetition under one key negligible without a common counter.
        nonce: [u8; 24] = "bytes" @ 32,
    }
}

meaning! {
    /// What is sealed.
    PeerKind = "peer_kind" {
        /// Nothing that this version sends.
        Nothing = 0, "nothing";
        /// I am here: who I am, and a challenge. Padded, so that the answer is no longer.
        Hello = 1, "hello";
        /// Answer to a hello, or to the challenge in an answer.
        HelloReply = 2, "hello_reply";
        /// A datagram of the membership library (SWIM).
        Membership = 3, "membership";
        /// How busy I am.
        Report = 4, "report";
        /// Tell me the versions that you hold.
        InventoryRequest = 5, "inventory_request";
        /// Some of the versions that I hold.
        Inventory = 6, "inventory";
        /// I stop now.
        Leave = 7, "leave";
    }
}

meaning! {
    /// Whether a node takes another one for a peer.
    PeerVerdict = "peer_verdict" {
        /// It does.
        Welcome = 0, "welcome";
        /// Another live node has the same name.
        NameTaken = 1, "name_taken";
        /// It knows as many peers as it can.
        Full = 2, "full";
    }
}

record! {
    /// The head of everything sealed.
    PeerHead, bytes 32 {
        /// What follows.
        kind: PeerKind = "peer_kind" @ 0,
        /// Zero.
        reserved: Reserved<7> = "reserved" @ 1,
        /// The sender's incarnation: a random number of its process; never 0.
        sender: u64 = "u64" @ 8,
        /// The receiver's incarnation as the sender knows it; 0 only in a hello.
        receiver: u64 = "u64" @ 16,
        /// Number of the datagram, ascending for each pair of incarnations. Each is accepted once.
        sequence: u64 = "u64" @ 24,
    }
}

record! {
    /// A hello or the answer to one.
    PeerHello, bytes 120 {
        /// A random number that the answer must echo; 0: none is asked for.
        challenge: u64 = "u64" @ 0,
        /// The challenge that this answers; 0 in a hello.
        echo: u64 = "u64" @ 8,
        /// The sender's name.
        name: Text<32> = "text" @ 16,
        /// Where it answers logins.
        login: Endpoint = "endpoint" @ 48,
        /// The receiver's address as the sender sees it.
        seen: Endpoint = "endpoint" @ 66,
        /// Power rating in hundredths.
        rating: u16 = "u16" @ 84,
        /// Whether the sender takes the receiver for a peer.
        verdict: PeerVerdict = "peer_verdict" @ 86,
        /// Zero.
        reserved: Reserved<33> = "reserved" @ 87,
    }
}

record! {
    /// How a node fares. The tail is one `u32` for each version, in the inventory's order: its sessions.
    PeerReport, bytes 64 {
        /// Digest of the versions held: of names, content ids and eligibility only.
        digest: [u8; 16] = "bytes" @ 0,
        /// Sessions that are served.
        sessions: u32 = "u32" @ 16,
        /// Standby sessions.
        standbys: u32 = "u32" @ 20,
        /// Devices that are booting.
        boot_slots_in_use: u32 = "u32" @ 24,
        /// How many may; 0: any number.
        boot_limit: u32 = "u32" @ 28,
        /// Where it answers logins.
        login: Endpoint = "endpoint" @ 32,
        /// Power rating in hundredths.
        rating: u16 = "u16" @ 50,
        /// Versions held.
        versions: u16 = "u16" @ 52,
        /// Whether it takes devices: 0 serving, 1 maintenance, 2 stopping.
        drain: u8 = "u8" @ 54,
        /// Zero.
        reserved: Reserved<9> = "reserved" @ 55,
    }
}

record! {
    /// Asks for an inventory, or for the parts of it that are missing.
    PeerInventoryRequest, bytes 32 {
        /// Digest of the inventory that is wanted.
        digest: [u8; 16] = "bytes" @ 0,
        /// Which of the parts 0–63 are wanted, the lowest bit first.
        wanted_low: u64 = "u64" @ 16,
        /// Which of the parts 64–127 are wanted.
        wanted_high: u64 = "u64" @ 24,
    }
}

record! {
    /// A part of an inventory. The tail is its versions.
    PeerInventory, bytes 24 {
        /// Digest of the whole inventory.
        digest: [u8; 16] = "bytes" @ 0,
        /// Number of this part, from 0.
        part: u16 = "u16" @ 16,
        /// Parts of the whole.
        parts: u16 = "u16" @ 18,
        /// Zero.
        reserved: Reserved<4> = "reserved" @ 20,
    }
}

record! {
    /// A version that a node holds.
    PeerVersion, bytes 100 {
        /// Name of the vDisk.
        name: Text<64> = "text" @ 0,
        /// What its bytes are.
        content_id: ContentId = "content_id" @ 64,
        /// 1: it takes devices. 0: its file is missing or was changed.
        eligible: u8 = "u8" @ 96,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 97,
    }
}

/// Every table of the datagrams between nodes.
pub const PEER_TABLES: &[Table] = &[
    PeerSealed::TABLE,
    PeerHead::TABLE,
    PeerHello::TABLE,
    PeerReport::TABLE,
    PeerInventoryRequest::TABLE,
    PeerInventory::TABLE,
    PeerVersion::TABLE,
];

/// The numbered meanings in them.
pub const PEER_MEANINGS: &[crate::layout::Meaning] = &[PeerKind::MEANING, PeerVerdict::MEANING];

// Within the range that devices' messages leave alone.
const _: () = assert!(PeerSealed::KIND >= 0x60 && PeerSealed::KIND <= 0x7f);
const _: () = assert!(PEER_VERSIONS_PER_DATAGRAM == 11);
