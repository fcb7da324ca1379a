//! The 32 bytes that every datagram starts with.
//!
//! ```text
//!  0        2    3    4        6         8                16                                32
//! +--------+----+----+--------+---------+----------------+---------------------------------+
//! | magic  |ver |kind| flags  | length  | tag            | auth                            |
//! +--------+----+----+--------+---------+----------------+---------------------------------+
//! ```
//!
//! `tag` is the session's unguessable tag, in both directions, once there is a session; before that it is the device's
//! random transaction number, which the answer echoes. `auth` is room for a datagram authenticator (16 bytes, a GMAC);
//! until a capability negotiates it, it is zero and ignored. `length` counts header, fixed part and tail; bytes behind
//! it are padding and ignored.

use crate::refusal::Refusal;

/// "DS": tells our datagrams from strays on the same ports.
pub const MAGIC: u16 = 0x4453;
/// The version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// Bytes of the common header.
pub const HEADER_BYTES: usize = 32;

/// Marks that any datagram may carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// No mark.
    pub const NONE: Flags = Flags(0);
    /// The node is draining: move to another one. On every reply of an open stream.
    pub const DRAINING: Flags = Flags(1 << 0);
    /// `auth` holds an authenticator over the rest of the datagram.
    pub const AUTHENTICATED: Flags = Flags(1 << 1);
    /// A read in single-read mode, or the reply to one.
    pub const SINGLE: Flags = Flags(1 << 2);
    /// A copy of a read that another node was asked first.
    pub const HEDGED: Flags = Flags(1 << 3);
    /// A request that was sent before, in whole or in part.
    pub const AGAIN: Flags = Flags(1 << 4);
    /// Reads of this session wait at the node for their turn to be sent. On the answer to a keep-alive.
    pub const QUEUED: Flags = Flags(1 << 5);

    /// Names of the bits, lowest first, for documents and the dissector.
    pub const NAMES: [&'static str; 6] =
        ["draining", "authenticated", "single", "hedged", "again", "queued"];

    /// Whether every mark of `other` is set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of marks.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The common header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What kind of message follows.
    pub kind: u8,
    /// Marks.
    pub flags: Flags,
    /// Bytes of header, fixed part and tail.
    pub length: usize,
    /// Session tag, or transaction number before there is a session.
    pub tag: u64,
}

impl Header {
    /// Reads and checks the common header of a datagram.
    ///
    /// # Errors
    /// The reason why these bytes are none of our messages.
    pub fn load(bytes: &[u8]) -> Result<Header, Refusal> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Refusal::TooShort);
        };
        if u16::from_be_bytes([head[0], head[1]]) != MAGIC {
            return Err(Refusal::BadMagic);
        }
        if head[2] != PROTOCOL_VERSION {
            return Err(Refusal::UnsupportedVersion);
        }
        let length = usize::from(u16::from_be_bytes([head[6], head[7]]));
        if length < HEADER_BYTES || length > bytes.len() {
            return Err(Refusal::BadLength);
        }
        let mut tag = [0u8; 8];
        tag.copy_from_slice(&head[8..16]);
        Ok(Header {
            kind: head[3],
            flags: Flags(u16::from_be_bytes([head[4], head[5]])),
            length,
            tag: u64::from_be_bytes(tag),
        })
    }

    /// Writes the common header; `auth` is left zero.
    ///
    /// # Panics
    /// When `out` is shorter than the header or `length` exceeds 65,535: both are the caller's constants.
    pub fn store(kind: u8, flags: Flags, length: usize, tag: u64, out: &mut [u8]) {
        let length = u16::try_from(length).expect("a datagram is at most 65,507 bytes");
        out[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        out[2] = PROTOCOL_VERSION;
        out[3] = kind;
        out[4..6].copy_from_slice(&flags.0.to_be_bytes());
        out[6..8].copy_from_slice(&length.to_be_bytes());
        out[8..16].copy_from_slice(&tag.to_be_bytes());
        out[16..32].fill(0);
    }

    /// The kind byte of a datagram, without checking anything else; none when there are too few bytes.
    #[must_use]
    pub fn peek_kind(bytes: &[u8]) -> Option<u8> {
        bytes.get(3).copied()
    }
}
