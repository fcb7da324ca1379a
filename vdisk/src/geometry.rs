//! Sizes that the rest of the crate counts in.

/// A unit: what the protocol reads and the map resolves. From the protocol (reads are whole 4 KiB
/// units).
pub const UNIT_BYTES: u64 = 4096;

/// A sector: the granularity of an image's size. Firmware and operating systems address disks by
/// 512-byte sectors; an image that is not a whole number of them was cut short or is not a disk.
pub const SECTOR_BYTES: u64 = 512;

/// The piece of an image that carries its own hash: 64 chunks of BLAKE3, a whole subtree.
/// Chosen, not derived: hashing 64 KiB costs 14 to 20 µs on an idle core (measured: benches/cost),
/// small beside the disk read it follows; the hashes cost 512 MiB of memory per TiB of image.
pub const VERIFY_BLOCK_BYTES: u64 = 64 * 1024;

/// The largest image: every unit's index fits a `u32`, and so does their count (16 TiB less one
/// unit). Its block hashes alone would take 8 GiB.
pub const MAX_IMAGE_BYTES: u64 = u32::MAX as u64 * UNIT_BYTES;

const _: () = assert!(VERIFY_BLOCK_BYTES.is_power_of_two());
const _: () = assert!(VERIFY_BLOCK_BYTES.is_multiple_of(UNIT_BYTES));
const _: () = assert!(UNIT_BYTES.is_multiple_of(SECTOR_BYTES));

/// Bytes to an index into memory. Lossless on the 64-bit hosts that this builds for.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).expect("usize has 64 bits: asserted at compile time below")
}

/// A length in memory to bytes of an image.
pub(crate) fn bytes(value: usize) -> u64 {
    u64::try_from(value).expect("usize has 64 bits: asserted at compile time below")
}

const _: () = assert!(usize::BITS == 64, "nodes are 64-bit hosts");
