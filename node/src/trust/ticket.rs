//! Tickets: what a node of the farm said about a device, sealed so that every other node can believe it.
//!
//! `nonce:24 | sealed (body:216, node entries:24 each) | authenticator:16`, XChaCha20-Poly1305 under the farm's ticket key.
//! A nonce is random: 192 bits make a repetition under one key negligible (2^96 tickets for even odds), so nodes need no
//! common counter.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use diskstream_wire::limits::{NODES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::{Mac, NodeEntry, RejectReason, TicketBody};

use super::Keys;

/// How long a ticket lives.
pub const TICKET_SECONDS: u64 = 7 * 24 * 3600;
/// How much the clocks of two nodes may differ before tickets suffer.
pub const TICKET_SKEW_SECONDS: u64 = 24 * 3600;

const NONCE_BYTES: usize = 24;
const SEAL_BYTES: usize = 16;
const VERSION: u8 = 1;
/// Names what is sealed, so that nothing else sealed with the key is taken for a ticket.
const ASSOCIATED: &[u8] = b"diskstream ticket";

const _: () = assert!(
    NONCE_BYTES + TicketBody::BYTES + NODES_MAX * NodeEntry::BYTES + SEAL_BYTES == TICKET_BYTES_MAX
);

/// An opened ticket that checked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What it says.
    pub body: TicketBody,
    nodes: [NodeEntry; NODES_MAX],
}

/// What a ticket must fit.
#[derive(Clone, Copy, Debug)]
pub struct TicketExpectation {
    /// The device that presents it.
    pub mac: Mac,
    /// The farm's epoch.
    pub farm_epoch: u64,
    /// Now, in seconds since 1970.
    pub unix_seconds: u64,
}

/// Why a ticket is not believed. Each is also a counter label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TicketError {
    /// Too short or too long for a ticket.
    #[error("the ticket has an impossible length")]
    Length,
    /// Damaged, forged, or sealed with another key.
    #[error("the ticket was not sealed with this farm's key")]
    Seal,
    /// Sealed with our key, but of a layout that we do not know.
    #[error("the ticket has another layout than this version of the software knows")]
    Layout,
    /// Of another device.
    #[error("the ticket is another device's")]
    Device,
    /// The farm's epoch is another one: tickets were revoked.
    #[error("the ticket is of another farm epoch")]
    Epoch,
    /// From the future, by more than clocks may differ.
    #[error("the ticket was sealed in the future; compare the clocks of the nodes")]
    NotYet,
    /// Its days are over.
    #[error("the ticket has expired")]
    Expired,
}

impl TicketError {
    /// Every reason.
    pub const ALL: [TicketError; 7] = [
        TicketError::Length,
        TicketError::Seal,
        TicketError::Layout,
        TicketError::Device,
        TicketError::Epoch,
        TicketError::NotYet,
        TicketError::Expired,
    ];

    /// A stable label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            TicketError::Length => "length",
            TicketError::Seal => "seal",
            TicketError::Layout => "layout",
            TicketError::Device => "device",
            TicketError::Epoch => "epoch",
            TicketError::NotYet => "not_yet",
            TicketError::Expired => "expired",
        }
    }

    /// What to tell the device. A ticket under another key means full login, not failure; a foreign device's does not.
    #[must_use]
    pub const fn reject_reason(self) -> RejectReason {
        match self {
            TicketError::Length | TicketError::Device => RejectReason::BadProof,
            _ => RejectReason::TicketExpired,
        }
    }
}

impl Ticket {
    /// The nodes that it names, the best first.
    #[must_use]
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes[..usize::from(self.body.node_count)]
    }
}

impl Keys {
    /// Seals a ticket for what `body` says; layout version, times and node count are filled in here. Gives the bytes of
    /// `out` that are the ticket. Of more than [`NODES_MAX`] nodes the first are named.
    #[must_use]
    pub fn seal_ticket<'a>(
        &self,
        body: &TicketBody,
        nodes: &[NodeEntry],
        unix_seconds: u64,
        nonce: [u8; 24],
        out: &'a mut [u8; TICKET_BYTES_MAX],
    ) -> &'a [u8] {
        let nodes = &nodes[..nodes.len().min(NODES_MAX)];
        let body = TicketBody {
            version: VERSION,
            issued: unix_seconds,
            expires: unix_seconds.saturating_add(TICKET_SECONDS),
            node_count: u8::try_from(nodes.len()).expect("NODES_MAX fits a byte"),
            ..*body
        };
        let plain_bytes = TicketBody::BYTES + nodes.len() * NodeEntry::BYTES;
        let (nonce_out, rest) = out.split_at_mut(NONCE_BYTES);
        let (plain, rest) = rest.split_at_mut(plain_bytes);
        nonce_out.copy_from_slice(&nonce);
        body.encode(&mut plain[..TicketBody::BYTES]);
        let entries = plain[TicketBody::BYTES..].chunks_exact_mut(NodeEntry::BYTES);
        entries.zip(nodes).for_each(|(bytes, node)| node.encode(bytes));
        let seal = self
            .ticket_cipher()
            .encrypt_in_place_detached(&nonce.into(), ASSOCIATED, plain)
            .expect("a ticket is far shorter than the cipher's limit of 2^38 bytes");
        rest[..SEAL_BYTES].copy_from_slice(&seal);
        &out[..NONCE_BYTES + plain_bytes + SEAL_BYTES]
    }

    /// Opens a ticket and checks it.
    ///
    /// # Errors
    /// The first reason not to believe it; what a device is told is [`TicketError::reject_reason`].
    pub fn open_ticket(
        &self,
        sealed: &[u8],
        expected: &TicketExpectation,
    ) -> Result<Ticket, TicketError> {
        let ticket = self.unseal(sealed)?;
        let body = &ticket.body;
        let now = expected.unix_seconds;
        if body.mac != expected.mac {
            return Err(TicketError::Device);
        }
        if body.farm_epoch != expected.farm_epoch {
            return Err(TicketError::Epoch);
        }
        if body.issued > now.saturating_add(TICKET_SKEW_SECONDS) {
            return Err(TicketError::NotYet);
        }
        if now > body.expires.saturating_add(TICKET_SKEW_SECONDS) {
            return Err(TicketError::Expired);
        }
        Ok(ticket)
    }

    fn unseal(&self, sealed: &[u8]) -> Result<Ticket, TicketError> {
        if sealed.len() > TICKET_BYTES_MAX {
            return Err(TicketError::Length);
        }
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(TicketError::Length)?;
        let (plain, seal) = rest.split_last_chunk::<SEAL_BYTES>().ok_or(TicketError::Length)?;
        let Some(entries_bytes) = plain.len().checked_sub(TicketBody::BYTES) else {
            return Err(TicketError::Length);
        };
        let mut copy = [0; TICKET_BYTES_MAX];
        let copy = &mut copy[..plain.len()];
        copy.copy_from_slice(plain);
        self.ticket_cipher()
            .decrypt_in_place_detached(&(*nonce).into(), ASSOCIATED, copy, &(*seal).into())
            .map_err(|_| TicketError::Seal)?;
        let (body, mut entries) = TicketBody::decode(copy).ok_or(TicketError::Length)?;
        let count = usize::from(body.node_count);
        if body.version != VERSION || entries_bytes != count * NodeEntry::BYTES {
            return Err(TicketError::Layout);
        }
        let mut nodes = [NodeEntry::default(); NODES_MAX];
        // The length of the whole bounds the count.
        for node in &mut nodes[..count] {
            let (entry, rest) = NodeEntry::decode(entries).ok_or(TicketError::Layout)?;
            (*node, entries) = (entry, rest);
        }
        Ok(Ticket { body, nodes })
    }

    fn ticket_cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.ticket.into())
    }
}
