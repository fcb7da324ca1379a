//! Which versions a node holds: their digest, their parts on the wire, and putting the parts together.

use std::sync::Arc;

use diskstream_wire::{
    ContentId, PEER_VERSIONS_PER_DATAGRAM, PeerInventory, PeerInventoryRequest, PeerVersion, Text,
};

use super::limits::VERSIONS_MAX;
use crate::view::HeldVersion;

/// A version that this node holds: a [`HeldVersion`] of its own.
pub type OwnVersion = HeldVersion;

const PARTS_MAX: usize = VERSIONS_MAX.div_ceil(PEER_VERSIONS_PER_DATAGRAM);
// The request names parts in 128 bits.
const _: () = assert!(PARTS_MAX <= 128);

/// Digest of what is held: of names, content ids and eligibility, not of who uses it. The order does not matter.
#[must_use]
pub fn digest(versions: &[HeldVersion]) -> [u8; 16] {
    let mut records: Vec<[u8; PeerVersion::BYTES]> = versions.iter().map(record).collect();
    records.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key("diskstream 2026-11 versions held v1");
    for record in &records {
        hasher.update(record);
    }
    let mut first = [0; 16];
    hasher.finalize_xof().fill(&mut first);
    first
}

fn record(version: &HeldVersion) -> [u8; PeerVersion::BYTES] {
    let mut out = [0; PeerVersion::BYTES];
    PeerVersion {
        name: Text::new(&version.vdisk),
        content_id: version.content_id,
        eligible: u8::from(version.eligible),
        ..PeerVersion::default()
    }
    .encode(&mut out);
    out
}

/// This node's own versions, sorted, with their digest.
#[derive(Debug, Default)]
pub(super) struct OwnInventory {
    pub(super) versions: Vec<HeldVersion>,
    pub(super) digest: [u8; 16],
}

impl OwnInventory {
    /// Of these; what is beyond [`VERSIONS_MAX`] is left out.
    pub(super) fn new(mut versions: Vec<HeldVersion>) -> OwnInventory {
        versions.sort_by_key(record);
        versions.truncate(VERSIONS_MAX);
        let digest = digest(&versions);
        OwnInventory { versions, digest }
    }

    /// The parts that a request names, each as record and tail.
    pub(super) fn parts(
        &self,
        wanted: u128,
    ) -> impl Iterator<Item = (PeerInventory, Vec<u8>)> + '_ {
        let parts = self.versions.len().div_ceil(PEER_VERSIONS_PER_DATAGRAM).max(1);
        (0..parts).filter(move |part| wanted >> part & 1 == 1).map(move |part| {
            let from = part * PEER_VERSIONS_PER_DATAGRAM;
            let to = (from + PEER_VERSIONS_PER_DATAGRAM).min(self.versions.len());
            let tail = self.versions[from..to].iter().flat_map(record).collect();
            let head = PeerInventory {
                digest: self.digest,
                part: u16::try_from(part).expect("PARTS_MAX bounds the parts"),
                parts: u16::try_from(parts).expect("PARTS_MAX bounds the parts"),
                ..PeerInventory::default()
            };
            (head, tail)
        })
    }
}

/// A peer's inventory on its way.
#[derive(Debug)]
pub(super) struct Assembly {
    digest: [u8; 16],
    parts: Vec<Option<Vec<HeldVersion>>>,
}

/// What a part made of it.
#[derive(Debug)]
pub(super) enum Assembled {
    /// More is to come.
    Partly,
    /// All of it.
    Whole(Arc<[HeldVersion]>),
    /// Of another inventory than was asked for: late.
    Foreign,
    /// Impossible, or not what the digest says.
    Wrong,
}

impl Assembly {
    pub(super) fn new(digest: [u8; 16]) -> Assembly {
        Assembly { digest, parts: Vec::new() }
    }

    pub(super) fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// Asks for what is missing.
    pub(super) fn request(&self) -> PeerInventoryRequest {
        let missing = |n: usize| self.parts.get(n).is_none_or(Option::is_none);
        let bits =
            |from: usize| (0..64).filter(|n| missing(from + n)).fold(0, |all, n| all | 1 << n);
        PeerInventoryRequest { digest: self.digest, wanted_low: bits(0), wanted_high: bits(64) }
    }

    /// Takes a part; after `Wrong` it begins anew.
    pub(super) fn take(&mut self, head: &PeerInventory, tail: &[u8]) -> Assembled {
        if head.digest != self.digest {
            return Assembled::Foreign;
        }
        let (part, parts) = (usize::from(head.part), usize::from(head.parts));
        let Some(versions) = parse(tail) else { return Assembled::Wrong };
        if parts == 0 || parts > PARTS_MAX || part >= parts {
            return Assembled::Wrong;
        }
        if self.parts.len() != parts {
            self.parts = vec![None; parts];
        }
        self.parts[part] = Some(versions);
        if self.parts.iter().any(Option::is_none) {
            return Assembled::Partly;
        }
        let parts = std::mem::take(&mut self.parts);
        let whole: Arc<[HeldVersion]> = parts.into_iter().flatten().flatten().collect();
        if digest(&whole) == self.digest { Assembled::Whole(whole) } else { Assembled::Wrong }
    }
}

fn parse(tail: &[u8]) -> Option<Vec<HeldVersion>> {
    if tail.len() > PEER_VERSIONS_PER_DATAGRAM * PeerVersion::BYTES {
        return None;
    }
    let chunks = tail.chunks_exact(PeerVersion::BYTES);
    let whole = chunks.remainder().is_empty();
    let versions = chunks.map(|chunk| {
        let (version, _) = PeerVersion::decode(chunk)?;
        Some(HeldVersion {
            vdisk: version.name.as_str().to_owned(),
            content_id: ContentId(version.content_id.0),
            eligible: version.eligible == 1,
            sessions: 0,
        })
    });
    versions.collect::<Option<Vec<_>>>().filter(|_| whole)
}

/// Gives versions the sessions of a report's tail, and a new list only where a number changed.
pub(super) fn with_sessions(versions: &Arc<[HeldVersion]>, tail: &[u8]) -> Arc<[HeldVersion]> {
    let mut sessions = tail
        .chunks_exact(4)
        .map(|four| u32::from_be_bytes(four.try_into().expect("chunks of four")));
    let told: Vec<u32> = versions.iter().map(|_| sessions.next().unwrap_or(0)).collect();
    if versions.iter().zip(&told).all(|(version, &told)| version.sessions == told) {
        return Arc::clone(versions);
    }
    let with = versions.iter().zip(told);
    with.map(|(version, sessions)| HeldVersion { sessions, ..version.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(count: usize) -> Vec<HeldVersion> {
        let one = |n: usize| HeldVersion {
            vdisk: format!("vdisk-{n}"),
            content_id: ContentId([u8::try_from(n % 251).unwrap(); 32]),
            eligible: !n.is_multiple_of(3),
            sessions: 7,
        };
        (0..count).map(one).collect()
    }

    fn fetch(own: &OwnInventory, wanted: &mut Assembly) -> Option<Arc<[HeldVersion]>> {
        let request = wanted.request();
        let bits = u128::from(request.wanted_high) << 64 | u128::from(request.wanted_low);
        let mut whole = None;
        for (head, tail) in own.parts(bits).collect::<Vec<_>>().into_iter().rev() {
            if let Assembled::Whole(versions) = wanted.take(&head, &tail) {
                whole = Some(versions);
            }
        }
        whole
    }

    #[test]
    fn every_size_arrives_whole_in_any_order() {
        for count in [0, 1, 11, 12, 200, VERSIONS_MAX, VERSIONS_MAX + 5] {
            let own = OwnInventory::new(versions(count));
            let whole = fetch(&own, &mut Assembly::new(own.digest)).expect("all parts came");
            assert_eq!(whole.len(), count.min(VERSIONS_MAX));
            assert_eq!(digest(&whole), own.digest);
        }
    }

    #[test]
    fn only_missing_parts_are_asked_for() {
        let own = OwnInventory::new(versions(100));
        let mut wanted = Assembly::new(own.digest);
        for (head, tail) in own.parts(u128::MAX).filter(|(head, _)| head.part != 4) {
            assert!(matches!(wanted.take(&head, &tail), Assembled::Partly));
        }
        let request = wanted.request();
        assert_eq!(request.wanted_low & 0x3ff, 1 << 4);
        assert_eq!(fetch(&own, &mut wanted).unwrap().len(), 100);
    }

    #[test]
    fn lies_are_refused() {
        let own = OwnInventory::new(versions(30));
        let mut parts: Vec<_> = own.parts(u128::MAX).collect();
        let mut wanted = Assembly::new(own.digest);
        parts[2].1[70] ^= 1;
        let last = parts.iter().map(|(head, tail)| wanted.take(head, tail)).last().unwrap();
        assert!(matches!(last, Assembled::Wrong), "one changed byte of a content id");
        let (head, tail) = &parts[0];
        assert!(matches!(wanted.take(head, &tail[1..]), Assembled::Wrong));
        for (part, parts) in [(0, 0), (3, 3), (0, 500), (u16::MAX, u16::MAX)] {
            let head = PeerInventory { part, parts, ..*head };
            assert!(matches!(wanted.take(&head, tail), Assembled::Wrong), "{part} of {parts}");
        }
        let other = PeerInventory { digest: [1; 16], ..*head };
        assert!(matches!(wanted.take(&other, tail), Assembled::Foreign));
    }

    #[test]
    fn the_digest_is_of_content_not_of_use_or_order() {
        let mut some = versions(5);
        let before = digest(&some);
        some.reverse();
        some[1].sessions += 1;
        assert_eq!(digest(&some), before);
        some[1].eligible = !some[1].eligible;
        assert_ne!(digest(&some), before);
    }

    #[test]
    fn sessions_make_a_new_list_only_when_they_changed() {
        let held: Arc<[HeldVersion]> = versions(3).into();
        let same = with_sessions(&held, &[0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0, 7]);
        assert!(Arc::ptr_eq(&held, &same));
        let other = with_sessions(&held, &[0, 0, 0, 9]);
        assert_eq!(other.iter().map(|v| v.sessions).collect::<Vec<_>>(), [9, 0, 0]);
    }
}
