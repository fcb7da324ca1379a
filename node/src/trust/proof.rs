//! Proofs of devices: keyed BLAKE3 under the device's key.
//!
//! `LoginStart` binds the cookie and `IoServiceStart` the ticket and the tag of a former session, each followed by the device's nonce and its MAC. The two
//! cannot be taken for each other, because nonce and MAC have fixed lengths at the end, and no ticket is as short as a cookie.

use diskstream_wire::Mac;

use super::{DeviceKey, same_bytes};

impl DeviceKey {
    /// What a device with this key sends.
    #[must_use]
    pub fn proof(&self, bound: &[u8], nonce: &[u8; 16], mac: Mac) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(bound).update(nonce).update(&mac.0);
        *hasher.finalize().as_bytes()
    }

    /// Whether `proof` was made with this key. `bound` is the cookie, or the sealed ticket.
    #[must_use]
    pub fn proves(&self, proof: &[u8; 32], bound: &[u8], nonce: &[u8; 16], mac: Mac) -> bool {
        same_bytes(proof, &self.proof(bound, nonce, mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_every_part() {
        let (key, mac, nonce) = (DeviceKey::new([5; 32]), Mac([2, 0, 0, 0, 0, 1]), [9; 16]);
        let cookie = [3; 16];
        let proof = key.proof(&cookie, &nonce, mac);
        assert!(key.proves(&proof, &cookie, &nonce, mac));
        assert!(!DeviceKey::new([6; 32]).proves(&proof, &cookie, &nonce, mac));
        assert!(!key.proves(&proof, &[4; 16], &nonce, mac));
        assert!(!key.proves(&proof, &cookie, &[8; 16], mac));
        assert!(!key.proves(&proof, &cookie, &nonce, Mac([2, 0, 0, 0, 0, 2])));
        assert!(!key.proves(&[0; 32], &cookie, &nonce, mac));
    }

    /// The form that devices compute; see the layout of `LoginStart`: "keyed BLAKE3 over cookie, nonce, MAC".
    #[test]
    fn is_what_the_wire_says() {
        let (key, mac, nonce) = (DeviceKey::new([5; 32]), Mac([2, 0, 0, 0, 0, 1]), [9; 16]);
        let input = [&[3; 16][..], &nonce, &mac.0].concat();
        assert_eq!(
            key.proof(&[3; 16], &nonce, mac),
            *blake3::keyed_hash(&[5; 32], &input).as_bytes()
        );
    }
}
