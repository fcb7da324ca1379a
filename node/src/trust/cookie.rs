//! Cookies: an address proves that it receives what is sent to it, and the node remembers nothing meanwhile.

use std::net::{IpAddr, SocketAddr};

use diskstream_wire::{Mac, canonical};

use super::{Keys, same_bytes};

/// A cookie is valid in the slot in which it was made and in the next one. Derived: a login step is repeated for at most a
/// few seconds, and the clocks of two nodes may differ by about as much as one slot.
pub const COOKIE_SLOT_SECONDS: u64 = 30;

impl Keys {
    /// The cookie for a device that asks from `peer`.
    #[must_use]
    pub fn cookie(&self, peer: SocketAddr, mac: Mac, unix_seconds: u64) -> [u8; 16] {
        self.cookie_of_slot(peer, mac, unix_seconds / COOKIE_SLOT_SECONDS)
    }

    /// Whether a node of this farm gave `cookie` to this address, port and MAC in this time slot or the one before.
    #[must_use]
    pub fn cookie_is_valid(
        &self,
        cookie: &[u8; 16],
        peer: SocketAddr,
        mac: Mac,
        unix_seconds: u64,
    ) -> bool {
        let slot = unix_seconds / COOKIE_SLOT_SECONDS;
        let current = same_bytes(cookie, &self.cookie_of_slot(peer, mac, slot));
        let previous = same_bytes(cookie, &self.cookie_of_slot(peer, mac, slot.saturating_sub(1)));
        current | previous
    }

    fn cookie_of_slot(&self, peer: SocketAddr, mac: Mac, slot: u64) -> [u8; 16] {
        // Fixed lengths and places, so that no two inputs give the same bytes.
        let mut input = [0; 32];
        let peer = canonical(peer);
        let ip = match peer.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        input[..16].copy_from_slice(&ip.octets());
        input[16..18].copy_from_slice(&peer.port().to_be_bytes());
        input[18..24].copy_from_slice(&mac.0);
        input[24..].copy_from_slice(&slot.to_be_bytes());
        let hash = blake3::keyed_hash(&self.cookie, &input);
        let (cookie, _) = hash.as_bytes().split_first_chunk().expect("32 bytes hold 16");
        *cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::FarmKey;

    fn keys() -> Keys {
        Keys::derive(&FarmKey::new([7; 32]))
    }

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lives_one_to_two_slots() {
        let keys = keys();
        let cookie = keys.cookie(peer("10.0.0.1:6901"), MAC, 89);
        for (at, valid) in
            [(60, true), (89, true), (90, true), (119, true), (120, false), (59, false)]
        {
            assert_eq!(
                keys.cookie_is_valid(&cookie, peer("10.0.0.1:6901"), MAC, at),
                valid,
                "{at}"
            );
        }
    }

    #[test]
    fn is_bound_to_address_port_mac_and_farm() {
        let keys = keys();
        let cookie = keys.cookie(peer("10.0.0.1:6901"), MAC, 1000);
        let valid = |p: &str, mac| keys.cookie_is_valid(&cookie, peer(p), mac, 1000);
        assert!(valid("10.0.0.1:6901", MAC));
        assert!(valid("[::ffff:10.0.0.1]:6901", MAC), "one peer has one spelling");
        assert!(!valid("10.0.0.2:6901", MAC));
        assert!(!valid("10.0.0.1:6902", MAC));
        assert!(!valid("10.0.0.1:6901", Mac([2, 0, 0, 0, 0, 2])));
        let foreign = Keys::derive(&FarmKey::new([8; 32]));
        assert!(!foreign.cookie_is_valid(&cookie, peer("10.0.0.1:6901"), MAC, 1000));
        assert!(!keys.cookie_is_valid(&[0; 16], peer("10.0.0.1:6901"), MAC, 0));
    }

    #[test]
    fn every_bit_counts() {
        let keys = keys();
        let cookie = keys.cookie(peer("10.0.0.1:6901"), MAC, 1000);
        for bit in 0..128 {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys.cookie_is_valid(&forged, peer("10.0.0.1:6901"), MAC, 1000));
        }
    }
}
