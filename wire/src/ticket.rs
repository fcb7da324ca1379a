//! What a ticket says inside its seal. Devices carry it unread; every node of the farm can check it.

use crate::layout::record;
use crate::values::{ContentId, Mac, Reserved, Text};

record! {
    /// The body of a ticket, followed by `node_count` node entries. Sealed with XChaCha20-Poly1305 under the farm's
    /// ticket key: 24 bytes of nonce, the sealed body, 16 bytes of authenticator.
    TicketBody, bytes 216 {
        /// Layout of the ticket: 1.
        version: u8 = "u8" @ 0,
        /// Bits: 1 = pinned to one node; 2 = the device had a session, handshake done, before this was sealed.
        flags: u8 = "u8" @ 1,
        /// The device.
        mac: Mac = "mac" @ 2,
        /// BLAKE3 of the device's key; zero where it has none.
        device_key_hash: [u8; 32] = "bytes" @ 8,
        /// The farm epoch: raising it revokes every older ticket.
        farm_epoch: u64 = "u64" @ 40,
        /// Seconds since 1970 when it was sealed.
        issued: u64 = "u64" @ 48,
        /// Seconds since 1970 when it ends.
        expires: u64 = "u64" @ 56,
        /// The content that the device may read.
        content_id: ContentId = "content_id" @ 64,
        /// Name of the vDisk.
        vdisk: Text<64> = "text" @ 96,
        /// Name of the device.
        device_name: Text<32> = "text" @ 160,
        /// Random number of the ticket.
        serial: u64 = "u64" @ 192,
        /// Node entries that follow.
        node_count: u8 = "u8" @ 200,
        /// Zero.
        reserved: Reserved<15> = "reserved" @ 201,
    }
}
