use super::*;
use proptest::prelude::*;

/// Bytes that repeat with no power of two, so that a block in the wrong place differs.
fn pattern(len: usize) -> Vec<u8> {
    (0..251_u8).cycle().take(len).collect()
}

const BLOCK: usize = 64 * 1024;

#[test]
fn the_root_over_blocks_is_the_hash_of_the_whole_at_every_awkward_size() {
    let mut sizes = vec![1, 63, 64, 65, 512, 1023, 1024, 1025, 4096];
    for blocks in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65] {
        for off in [-1025_i64, -1024, -512, -1, 0, 1, 511, 512, 1024, 1025] {
            let size = i64::try_from(blocks * BLOCK).unwrap() + off;
            sizes.push(usize::try_from(size).unwrap());
        }
    }
    for size in sizes {
        let content = pattern(size);
        let hashes = BlockHashes::of(&content);
        assert_eq!(hashes.content_id(), ContentId::of(&content), "{size} bytes");
        assert_eq!(hashes.len(), size.div_ceil(BLOCK));
        assert_eq!(hashes.size_bytes(), bytes(size));
        assert!(!hashes.is_empty());
    }
}

#[test]
fn content_ids_print_as_b3sum_does() {
    // The published vector for three bytes 0, 1, 2 (BLAKE3 test_vectors.json, input_len 3).
    let id = BlockHashes::of(&[0, 1, 2]).content_id();
    let printed = "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f";
    assert_eq!(id.to_string(), printed);
    assert_eq!(format!("{id:?}"), format!("ContentId({printed})"));
    assert_eq!(id.generation(), 0xe1be_4d7a_8ab5_560a, "the first eight bytes, big-endian");
}

#[test]
fn every_range_of_whole_blocks_verifies() {
    let content = pattern(5 * BLOCK + 512);
    let hashes = BlockHashes::of(&content);
    for first in 0..6 {
        for end in first + 1..=6 {
            let (from, to) = (first * BLOCK, (end * BLOCK).min(content.len()));
            assert_eq!(hashes.verify(bytes(from), &content[from..to]), Verdict::Match);
        }
    }
}

#[test]
fn an_image_of_one_block_verifies_against_its_root() {
    for size in [512, 4096, BLOCK - 512, BLOCK] {
        let mut content = pattern(size);
        let hashes = BlockHashes::of(&content);
        assert!(hashes.verify(0, &content).is_match());
        content[size - 1] ^= 1;
        assert_eq!(hashes.verify(0, &content), Verdict::Mismatch { block: 0 });
    }
}

#[test]
fn right_bytes_from_the_wrong_offset_do_not_verify() {
    let content = vec![7; 4 * BLOCK];
    let hashes = BlockHashes::of(&content);
    let mut swapped = pattern(4 * BLOCK);
    swapped.copy_within(BLOCK..2 * BLOCK, 0);
    let of_swapped = BlockHashes::of(&pattern(4 * BLOCK));
    assert!(hashes.verify(0, &content).is_match());
    assert_eq!(of_swapped.verify(0, &swapped[..BLOCK]), Verdict::Mismatch { block: 0 });
}

#[test]
fn what_cannot_be_checked_is_said_so_and_never_matches() {
    let content = pattern(2 * BLOCK + 512);
    let size = bytes(content.len());
    let hashes = BlockHashes::of(&content);
    let cases = [
        (4096, &content[4096..BLOCK], Unverifiable::StartsInsideABlock),
        (0, &content[..4096], Unverifiable::EndsInsideABlock),
        (0, &content[..BLOCK + 4096], Unverifiable::EndsInsideABlock),
        (0, &content[..0], Unverifiable::OutsideTheImage),
        (bytes(4 * BLOCK), &content[..BLOCK], Unverifiable::OutsideTheImage),
        // A frame with the zeroes that pad it: the caller must cut them off.
        (bytes(2 * BLOCK), &[0; 4096], Unverifiable::OutsideTheImage),
        (
            u64::MAX - u64::MAX % VERIFY_BLOCK_BYTES,
            &content[..BLOCK],
            Unverifiable::OutsideTheImage,
        ),
    ];
    for (offset, content, why) in cases {
        assert_eq!(hashes.verify(offset, content), Verdict::Unverifiable(why), "at {offset}");
    }
    assert!(hashes.verify(0, &content).is_match());
    assert_eq!(hashes.size_bytes(), size);
}

#[test]
fn only_cache_blocks_of_whole_verify_blocks_can_be_checked() {
    for kib in [64, 128, 256, 512, 1024] {
        assert!(BlockHashes::can_verify(kib * 1024));
    }
    for bytes in [0, 4096, 8192, 16384, 32768, 65536 + 4096] {
        assert!(!BlockHashes::can_verify(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any single changed bit is found, and in the right block.
    #[test]
    fn a_flipped_bit_is_found_in_its_block(
        size in 1..6 * BLOCK, at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let mut content = pattern(size);
        let hashes = BlockHashes::of(&content);
        let at = at.index(size);
        content[at] ^= 1 << bit;
        let block = u32::try_from(at / BLOCK).unwrap();
        prop_assert_eq!(hashes.verify(0, &content), Verdict::Mismatch { block });
        let from = at / BLOCK * BLOCK;
        let to = (from + BLOCK).min(size);
        prop_assert_eq!(
            hashes.verify(bytes(from), &content[from..to]),
            Verdict::Mismatch { block }
        );
    }
}
