//! What travels between Diskstream devices and nodes: messages, limits, codecs.
//!
//! Pure: no I/O, no clock, no randomness, and decoding neither allocates nor panics for any input. Every message comes
//! from one layout table (see [`layout`]); the struct, its encoder and decoder, the tables in `docs/protocol.md` and the
//! Wireshark dissector are all made from it. All integers travel in network byte order.
//!
//! ```
//! use diskstream_wire::{Message, ReadPending, decode};
//! let mut bytes = [0u8; 64];
//! let length = ReadPending { tag: 7, request_id: 9, ..Default::default() }.encode(&mut bytes);
//! let decoded = decode(&bytes[..length]).unwrap();
//! assert!(matches!(decoded.message, Message::ReadPending(p) if p.request_id == 9));
//! ```
#![forbid(unsafe_code)]
#![no_std]

#[cfg(test)]
extern crate std;

pub mod fragment;
pub mod header;
pub mod layout;
pub mod limits;
mod login;
mod message;
mod peer;
mod refusal;
mod session;
mod stream;
mod ticket;
pub mod time;
pub mod values;

pub use fragment::FragmentSize;
pub use header::{Flags, HEADER_BYTES, PROTOCOL_VERSION};
pub use layout::{Field, Row, Table};
pub use login::*;
pub use message::{Decoded, Kind, Message, decode, tables};
pub use peer::*;
pub use refusal::Refusal;
pub use session::*;
pub use stream::*;
pub use ticket::*;
pub use time::Nanos;
pub use values::*;
