//! The envelope: header and nonce in the clear, the rest sealed.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use diskstream_wire::limits::CONTROL_BYTES_MAX;
use diskstream_wire::{HEADER_BYTES, PEER_SEAL_BYTES, PeerHead, PeerSealed};

use super::counters::PeerRefusal;
use crate::trust::Keys;

/// Seals and opens. Nonces are the caller's.
pub(super) struct Envelope {
    cipher: XChaCha20Poly1305,
}

/// Bytes that sealing adds.
const AROUND: usize = PeerSealed::BYTES + PEER_SEAL_BYTES;

impl Envelope {
    pub(super) fn new(keys: &Keys) -> Envelope {
        Envelope { cipher: XChaCha20Poly1305::new(&keys.peer.into()) }
    }

    /// The datagram that carries `inner`, which is at most what a control datagram leaves.
    pub(super) fn seal(&self, nonce: [u8; 24], inner: &[u8]) -> Vec<u8> {
        let length = AROUND + inner.len();
        assert!(length <= CONTROL_BYTES_MAX, "bodies are bounded by PEER_BODY_BYTES_MAX");
        let mut out = vec![0; length];
        PeerSealed { nonce, ..PeerSealed::default() }.encode_head(length, &mut out);
        let (clear, rest) = out.split_at_mut(PeerSealed::BYTES);
        let (body, tag) = rest.split_at_mut(inner.len());
        body.copy_from_slice(inner);
        let made = self
            .cipher
            .encrypt_in_place_detached(&nonce.into(), &clear[..HEADER_BYTES], body)
            .expect("a datagram is far below the cipher's limit");
        tag.copy_from_slice(&made);
        out
    }

    /// What a datagram carries, opened in place.
    pub(super) fn open<'a>(&self, bytes: &'a mut [u8]) -> Result<&'a [u8], PeerRefusal> {
        if bytes.len() < AROUND + PeerHead::BYTES || bytes.len() > CONTROL_BYTES_MAX {
            return Err(PeerRefusal::Size);
        }
        let (sealed, tail) = PeerSealed::decode(bytes).map_err(|_| PeerRefusal::Header)?;
        // No padding: every byte is authenticated, or the datagram is none of ours.
        if tail.len() + PeerSealed::BYTES != bytes.len() {
            return Err(PeerRefusal::Header);
        }
        let (clear, rest) = bytes.split_at_mut(PeerSealed::BYTES);
        let (body, tag) = rest.split_at_mut(rest.len() - PEER_SEAL_BYTES);
        let tag: [u8; PEER_SEAL_BYTES] = (&*tag).try_into().expect("split at its length");
        self.cipher
            .decrypt_in_place_detached(
                &sealed.nonce.into(),
                &clear[..HEADER_BYTES],
                body,
                &tag.into(),
            )
            .map_err(|_| PeerRefusal::Seal)?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::FarmKey;

    #[test]
    fn every_byte_is_authenticated() {
        let envelope = Envelope::new(&Keys::derive(&FarmKey::new([7; 32])));
        let inner = [5; 90];
        let sealed = envelope.seal([9; 24], &inner);
        assert_eq!(envelope.open(&mut sealed.clone()), Ok(&inner[..]));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(envelope.open(&mut changed).is_err(), "byte {at}");
        }
        for cut in 0..sealed.len() {
            assert!(envelope.open(&mut sealed[..cut].to_vec()).is_err(), "{cut} bytes");
        }
        let mut longer = sealed.clone();
        longer.push(0);
        assert_eq!(envelope.open(&mut longer), Err(PeerRefusal::Header));
        let other = Envelope::new(&Keys::derive(&FarmKey::new([8; 32])));
        assert_eq!(other.open(&mut sealed.clone()), Err(PeerRefusal::Seal));
    }
}
