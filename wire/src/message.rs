//! All messages as one type, and the list of their tables.

use crate::header::Header;
use crate::layout::Table;
use crate::refusal::Refusal;
#[allow(clippy::wildcard_imports, reason = "the one place that lists every message")]
use crate::*;

macro_rules! messages {
    ($($name:ident,)*) => {
        /// Any message that this version defines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is the message of the same name, documented there")]
        pub enum Message {
            $( $name($name), )*
        }

        /// The kind of a message, without its content.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each variant is the message of the same name, documented there")]
        pub enum Kind {
            $( $name, )*
        }

        impl Kind {
            /// Every kind, in the order of the tables.
            pub const ALL: &'static [Kind] = &[ $( Kind::$name, )* ];

            /// The kind with this number on the wire.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Kind> {
                match code {
                    $( $name::KIND => Some(Kind::$name), )*
                    _ => None,
                }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $( Kind::$name => $name::KIND, )*
                }
            }

            /// Bytes of the fixed part.
            #[must_use]
            pub const fn bytes(self) -> usize {
                match self {
                    $( Kind::$name => $name::BYTES, )*
                }
            }

            /// The name of the message.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Kind::$name => stringify!($name), )*
                }
            }
        }

        impl Message {
            /// What kind it is.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $( Message::$name(_) => Kind::$name, )*
                }
            }

            /// Writes the message with its tail; gives the bytes written.
            ///
            /// # Panics
            /// When `out` is too short.
            pub fn encode_with_tail(&self, tail: &[u8], out: &mut [u8]) -> usize {
                match self {
                    $( Message::$name(m) => m.encode_with_tail(tail, out), )*
                }
            }
        }

        /// Reads a datagram.
        ///
        /// # Errors
        /// The reason why the bytes are no message.
        pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Refusal> {
            let header = Header::load(bytes)?;
            match header.kind {
                $( $name::KIND => {
                    let (message, tail) = $name::load(&header, bytes)?;
                    Ok(Decoded { message: Message::$name(message), tail })
                } )*
                _ => Err(Refusal::UnknownKind),
            }
        }

        const MESSAGE_TABLES: &[Table] = &[ $( $name::TABLE, )* ];

        // No two messages share a kind.
        const _: () = {
            let mut i = 0;
            while i < MESSAGE_TABLES.len() {
                let mut j = i + 1;
                while j < MESSAGE_TABLES.len() {
                    match (MESSAGE_TABLES[i].kind, MESSAGE_TABLES[j].kind) {
                        (Some(a), Some(b)) => assert!(a != b, "two messages share a kind"),
                        _ => panic!("a message without a kind"),
                    }
                    j += 1;
                }
                i += 1;
            }
        };
    };
}

messages! {
    LoginPortRequest, LoginPortReply, LoginStart, LoginTransfer, LoginBusy, LoginReject,
    IoPortRequest, IoPortReply, IoServiceStart, LoginComplete, VdiskInfoRequest, VdiskInfo,
    Handshake, HandshakeReply,
    Read, ReadData, ReadZero, ReadPending, ReadBusy, ReadError, UnknownSession,
    ExtentsRequest, Extents,
    KeepAlive, KeepAliveReply, Notice, NoticeAck, SessionClose, SessionClosed,
    PathProbe, PathProbeReply,
}

/// A datagram as read: the message, and the bytes behind its fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The fixed part.
    pub message: Message,
    /// What follows it, up to the header's length.
    pub tail: &'a [u8],
}

/// Every table of the protocol: messages first, then the records inside them.
pub fn tables() -> impl Iterator<Item = &'static Table> {
    const RECORDS: &[Table] = &[NodeEntry::TABLE, ExtentEntry::TABLE, TicketBody::TABLE];
    MESSAGE_TABLES.iter().chain(RECORDS)
}

// Kinds 0x28–0x2b and 0x30–0x3f are kept for writes and flushes, 0x60–0x7f for datagrams between nodes.
const _: () = {
    let mut i = 0;
    while i < MESSAGE_TABLES.len() {
        if let Some(kind) = MESSAGE_TABLES[i].kind {
            assert!(
                !(kind >= 0x28 && kind <= 0x2b)
                    && !(kind >= 0x30 && kind <= 0x3f)
                    && !(kind >= 0x60 && kind <= 0x7f)
            );
        }
        i += 1;
    }
};
