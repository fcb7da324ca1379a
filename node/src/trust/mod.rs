//! What makes logins unforgeable: the farm key and what is derived from it, cookies, tickets, and the proofs of devices.
//!
//! | what | proves | made with | lives |
//! |---|---|---|---|
//! | [`FarmKey`] | membership of the farm | the operator's file | until replaced |
//! | cookie | that an address receives what is sent to it | keyed BLAKE3 | 30 to 60 s |
//! | [`Ticket`] | that a node of this farm admitted a device | XChaCha20-Poly1305 | 7 days |
//! | device proof | possession of the device's key | keyed BLAKE3 | one login |
//!
//! Nothing here reads a clock or a random source: time is seconds since 1970 (every node of the farm must agree on it, to
//! the slack stated at each item), random bytes are arguments. No bytes panic.

mod cookie;
mod key;
mod proof;
mod ticket;

pub use cookie::COOKIE_SLOT_SECONDS;
pub use key::{DeviceKey, FarmKey, KeyError, Keys, LoadedFarmKey};
pub use ticket::{TICKET_SECONDS, TICKET_SKEW_SECONDS, Ticket, TicketError, TicketExpectation};

/// Compares without telling by its duration where the difference is.
fn same_bytes<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    let difference = a.iter().zip(b).fold(0, |any, (a, b)| any | (a ^ b));
    // Keeps the compiler from seeing that any set bit decides already.
    std::hint::black_box(difference) == 0
}
