//! The record's bytes and the judgement. Reading, writing and crashing: `vdisk/tests.rs`, through
//! the front door.
use super::record::HEADER_BYTES;
use super::*;
use crate::content::BlockHashes;
use crate::identity::{Identity, Stamp};
use proptest::prelude::*;

const BLOCK: usize = 64 * 1024;

fn at(secs: i64, nanos: u32) -> Stamp {
    Stamp { secs, nanos }
}

fn record(size_bytes: u64) -> Record {
    let (mtime, ctime) = (at(0x1112_1314, 0x0102_0304), at(0x2122_2324, 0x0506_0708));
    let identity = Identity { dev: 0, inode: 0x4142, size_bytes, mtime, ctime, links: 0 };
    Record { identity, hashed_at: at(0x3132_3334, 0x090a_0b0c) }
}

fn encoded(content: &[u8]) -> Vec<u8> {
    let record = record(u64::try_from(content.len()).unwrap());
    let hashes = BlockHashes::of(content);
    let (header, body) = record.encode(&hashes);
    [&header[..], body].concat()
}

/// Makes the checksum right again, as an attacker would.
fn seal(encoded: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&encoded[..104]);
    hasher.update(&encoded[HEADER_BYTES..]);
    encoded[104..136].copy_from_slice(hasher.finalize().as_bytes());
}

#[test]
fn the_bytes_are_laid_out_as_documented() {
    let content = [0xab; 512];
    let root = blake3::hash(&content);
    let mut golden = Vec::new();
    golden.extend(b"DSKSB3\r\n"); //                              0 magic
    golden.extend([1, 0, 0, 0]); //                               8 version
    golden.extend([0, 0, 1, 0]); //                              12 block_bytes
    golden.extend([0, 2, 0, 0, 0, 0, 0, 0]); //                  16 size_bytes
    golden.extend([0x42, 0x41, 0, 0, 0, 0, 0, 0]); //            24 inode
    golden.extend([0x14, 0x13, 0x12, 0x11, 0, 0, 0, 0]); //      32 mtime_secs
    golden.extend([0x24, 0x23, 0x22, 0x21, 0, 0, 0, 0]); //      40 ctime_secs
    golden.extend([0x34, 0x33, 0x32, 0x31, 0, 0, 0, 0]); //      48 hashed_secs
    golden.extend([4, 3, 2, 1]); //                              56 mtime_nanos
    golden.extend([8, 7, 6, 5]); //                              60 ctime_nanos
    golden.extend([12, 11, 10, 9]); //                           64 hashed_nanos
    golden.extend([0; 4]); //                                    68 reserved
    golden.extend(root.as_bytes()); //                           72 content_id
    golden.extend([0; 32]); //                                  104 checksum
    golden.extend(root.as_bytes()); //                          136 the only block: the root itself
    seal(&mut golden);
    assert_eq!(encoded(&content), golden);
    assert_eq!(Record::encoded_bytes(512), 168);
}

#[test]
fn what_was_written_is_read_back() {
    for len in [1, 512, BLOCK, BLOCK + 1, 5 * BLOCK - 512] {
        let content = vec![7; len];
        let size = u64::try_from(len).unwrap();
        let bytes = encoded(&content);
        assert_eq!(u64::try_from(bytes.len()).unwrap(), Record::encoded_bytes(size));
        let (read, hashes) = Record::decode(&bytes, size).unwrap();
        assert_eq!((read, hashes), (record(size), BlockHashes::of(&content)));
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    let content = vec![7; 3 * BLOCK];
    let size = u64::try_from(content.len()).unwrap();
    let good = encoded(&content);
    for len in 0..good.len() {
        assert!(Record::decode(&good[..len], size).is_err(), "cut to {len}");
    }
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 0x20;
        assert!(Record::decode(&bad, size).is_err(), "byte {i} changed");
    }
    let longer = [good, vec![0]].concat();
    assert_eq!(Record::decode(&longer, size).unwrap_err(), Damage::Checksum);
}

#[test]
fn sound_checksums_over_nonsense_are_refused_by_name() {
    let content = vec![7; 3 * BLOCK];
    let size = u64::try_from(content.len()).unwrap();
    let damaged = |at: usize, with: &[u8]| {
        let mut bad = encoded(&content);
        bad[at..at + with.len()].copy_from_slice(with);
        seal(&mut bad);
        Record::decode(&bad, size).unwrap_err()
    };
    assert_eq!(damaged(0, b"NOT"), Damage::Magic);
    assert_eq!(damaged(8, &[2]), Damage::Version(2));
    assert_eq!(damaged(12, &[1]), Damage::Field("block_bytes"));
    assert_eq!(damaged(68, &[1]), Damage::Field("reserved"));
    assert_eq!(damaged(56, &1_000_000_000_u32.to_le_bytes()), Damage::Field("mtime_nanos"));
    assert_eq!(damaged(60, &[255; 4]), Damage::Field("ctime_nanos"));
    assert_eq!(damaged(64, &[255; 4]), Damage::Field("hashed_nanos"));
    assert_eq!(damaged(16, &[0; 8]), Damage::Field("size_bytes"));
    assert_eq!(damaged(16, &[255; 8]), Damage::Field("size_bytes"), "nothing is allocated by it");
    let claimed = crate::MAX_IMAGE_BYTES;
    let expected_bytes = Record::encoded_bytes(claimed);
    let found_bytes = u64::try_from(encoded(&content).len()).unwrap();
    assert_eq!(damaged(16, &claimed.to_le_bytes()), Damage::Length { found_bytes, expected_bytes });
    assert_eq!(damaged(72, &[0; 32]), Damage::Root, "another content id");
    assert_eq!(damaged(HEADER_BYTES, &[0; 32]), Damage::Root, "another block hash");
    // The size within the same number of blocks is bound by the tree's shape only here:
    // `judge` compares it with the image's.
    let (named, _) = Record::decode(
        &{
            let mut other = encoded(&content);
            other[16..24].copy_from_slice(&(size - 512).to_le_bytes());
            seal(&mut other);
            other
        },
        size,
    )
    .unwrap();
    let now = Identity { size_bytes: size, ..named.identity };
    assert_eq!(named.judge(&now, 2), Err(Stale::Size));
}

#[test]
fn an_image_in_any_other_state_is_stale() {
    let then = Record { hashed_at: at(100, 0), ..record(512) };
    let identity = Identity { ctime: at(98, 0), ..then.identity };
    let then = Record { identity, ..then };
    assert_eq!(then.judge(&identity, 2), Ok(()));
    let elsewhere = Identity { dev: 9, links: 3, ..identity };
    assert_eq!(then.judge(&elsewhere, 2), Ok(()), "device numbers may differ after a reboot");
    let cases = [
        (Identity { size_bytes: 1024, ..identity }, Stale::Size),
        (Identity { inode: 1, ..identity }, Stale::Inode),
        (Identity { mtime: at(1, 1), ..identity }, Stale::Mtime),
        (Identity { ctime: at(98, 1), ..identity }, Stale::Ctime),
    ];
    for (now, why) in cases {
        assert_eq!(then.judge(&now, 2), Err(why));
    }
}

#[test]
fn a_change_just_before_hashing_proves_nothing() {
    let racy = |ctime, hashed_at| {
        let identity = Identity { ctime, ..record(512).identity };
        Record { identity, hashed_at }.judge(&identity, RACY_SECS)
    };
    assert_eq!(racy(at(98, 0), at(100, 0)), Ok(()));
    assert_eq!(racy(at(98, 1), at(100, 0)), Err(Stale::Racy));
    assert_eq!(racy(at(100, 0), at(100, 0)), Err(Stale::Racy));
    assert_eq!(racy(at(200, 0), at(100, 0)), Err(Stale::Racy), "a clock that was set back");
}

proptest! {
    #[test]
    fn random_bytes_give_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..600), size in any::<u64>()) {
        prop_assert!(Record::decode(&bytes, size).is_err());
    }

    /// Random fields under a sound checksum: a record or a reason, never a panic.
    #[test]
    fn sealed_random_fields_never_panic(
        fields in prop::collection::vec(any::<u8>(), 92), size in 0..(1_u64 << 20),
        body in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = encoded(&[1; 512]);
        bytes[12..104].copy_from_slice(&fields);
        bytes[12..16].copy_from_slice(&65536_u32.to_le_bytes());
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes.truncate(HEADER_BYTES);
        bytes.extend(body);
        seal(&mut bytes);
        let _ = Record::decode(&bytes, size);
    }

    #[test]
    fn any_record_is_read_back(
        inode in any::<u64>(), secs in any::<[i64; 3]>(), nanos in prop::array::uniform3(0..1_000_000_000_u32),
    ) {
        let identity = Identity {
            inode, mtime: at(secs[0], nanos[0]), ctime: at(secs[1], nanos[1]), ..record(512).identity
        };
        let written = Record { identity, hashed_at: at(secs[2], nanos[2]) };
        let hashes = BlockHashes::of(&[5; 512]);
        let (header, body) = written.encode(&hashes);
        prop_assert_eq!(Record::decode(&[&header[..], body].concat(), 512), Ok((written, hashes)));
        // Judging never overflows either.
        let _ = written.judge(&identity, RACY_SECS);
    }
}
