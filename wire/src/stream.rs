//! Reads, their replies, and questions about extents.

use crate::FragmentSize;
use crate::layout::{message, record};
use crate::values::{ReadErrorCode, Reserved};

message! {
    /// Asks for whole units of the vDisk, or for the missing fragments of such a read. Idempotent and self-describing:
    /// the node keeps nothing for a repeat. With the flag `single`: 512 to 1024 bytes in whole sectors within one unit.
    Read = 0x20, ToNode, bytes 80 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Data bytes of each fragment.
        fragment_size: FragmentSize = "fragment_size" @ 36,
        /// How often this read was sent before; echoed, so that the round trip is timed rightly.
        attempt: u8 = "u8" @ 37,
        /// Zero.
        reserved: Reserved<2> = "reserved" @ 38,
        /// Unpredictable number of the read; its replies carry it.
        request_id: u64 = "u64" @ 40,
        /// First 8 bytes of the content id that the device reads.
        generation: u64 = "u64" @ 48,
        /// First byte, a multiple of 4096 (512 with `single`).
        offset: u64 = "u64" @ 56,
        /// Bytes, a multiple of 4096 up to 65,536 (512 or 1024 with `single`).
        length: u32 = "u32" @ 64,
        /// Zero; room for a deadline.
        reserved_deadline: Reserved<4> = "reserved" @ 68,
        /// Bitmap of the fragments wanted, bit 0 = the first.
        wanted: u64 = "u64" @ 72,
    }
}

message! {
    /// One fragment of a reply. `pad_bytes` of padding, then `data_bytes` of data follow; header, padding and data of
    /// every fragment of one size make equally long datagrams.
    ReadData = 0x21, ToDevice, bytes 76 {
        /// The read that this answers.
        request_id: u64 = "u64" @ 32,
        /// First 8 bytes of the content id that the bytes are from.
        generation: u64 = "u64" @ 40,
        /// Where the data lies in the vDisk.
        offset: u64 = "u64" @ 48,
        /// Number of the fragment in its read.
        fragment: u8 = "u8" @ 56,
        /// Bytes of padding between header and data.
        pad_bytes: u8 = "u8" @ 57,
        /// Bytes of data.
        data_bytes: u16 = "u16" @ 58,
        /// CRC32C of the whole unit that the fragment is part of (the first of two units at 8192), the vDisk's last unit
        /// filled up with zeros; with `single` of exactly the data.
        unit_sum: u32 = "u32" @ 60,
        /// CRC32C of the second unit at 8192; else 0.
        second_unit_sum: u32 = "u32" @ 64,
        /// Microseconds that the request spent inside the node, so that the device can tell path from disk.
        service_us: u32 = "u32" @ 68,
        /// The request's `attempt`.
        attempt: u8 = "u8" @ 72,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 73,
    }
}

impl ReadData {
    /// Overwrites, in a header that was encoded before, the fields in which fragments of one read differ: `offset`,
    /// `fragment`, `pad_bytes`, `data_bytes` and the sums. All fragments of one size make equally long datagrams, so the rest
    /// of the header is the same for all of them and need not be encoded again.
    ///
    /// # Panics
    /// When `head` is shorter than [`ReadData::BYTES`].
    #[inline]
    pub fn stamp(&self, head: &mut [u8]) {
        let fields: &mut [u8; 20] =
            (&mut head[48..68]).try_into().expect("a header holds its fields");
        fields[0..8].copy_from_slice(&self.offset.to_be_bytes());
        fields[8] = self.fragment;
        fields[9] = self.pad_bytes;
        fields[10..12].copy_from_slice(&self.data_bytes.to_be_bytes());
        fields[12..16].copy_from_slice(&self.unit_sum.to_be_bytes());
        fields[16..20].copy_from_slice(&self.second_unit_sum.to_be_bytes());
    }
}

message! {
    /// Marks units of a read as zeros instead of sending them.
    ReadZero = 0x22, ToDevice, bytes 76 {
        /// The read that this answers.
        request_id: u64 = "u64" @ 32,
        /// First 8 bytes of the content id.
        generation: u64 = "u64" @ 40,
        /// The read's first byte.
        offset: u64 = "u64" @ 48,
        /// Bitmap of the read's units that are zeros, bit 0 = the first.
        zero_units: u16 = "u16" @ 56,
        /// The request's `attempt`.
        attempt: u8 = "u8" @ 58,
        /// Zero.
        reserved: Reserved<13> = "reserved" @ 59,
        /// Microseconds that the request spent inside the node.
        service_us: u32 = "u32" @ 72,
    }
}

message! {
    /// The node has the read and waits for its disk: a sign of life, which stops repeats and forbids a move.
    ReadPending = 0x23, ToDevice, bytes 48 {
        /// The read.
        request_id: u64 = "u64" @ 32,
        /// Milliseconds that the node has waited so far.
        waited_ms: u32 = "u32" @ 40,
        /// The request's `attempt`.
        attempt: u8 = "u8" @ 44,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 45,
    }
}

message! {
    /// The node's queues are full: ask again later. Never silence.
    ReadBusy = 0x24, ToDevice, bytes 48 {
        /// The read.
        request_id: u64 = "u64" @ 32,
        /// Milliseconds after which to ask again.
        wait_ms: u32 = "u32" @ 40,
        /// The request's `attempt`.
        attempt: u8 = "u8" @ 44,
        /// Zero.
        reserved: Reserved<3> = "reserved" @ 45,
    }
}

message! {
    /// The read cannot be answered with bytes here.
    ReadError = 0x25, ToDevice, bytes 64 {
        /// The read.
        request_id: u64 = "u64" @ 32,
        /// First byte of the range that failed.
        offset: u64 = "u64" @ 40,
        /// Its bytes.
        length: u32 = "u32" @ 48,
        /// Why.
        code: ReadErrorCode = "read_error" @ 52,
        /// The request's `attempt`.
        attempt: u8 = "u8" @ 53,
        /// Zero.
        reserved: Reserved<10> = "reserved" @ 54,
    }
}

message! {
    /// Which parts of a range are zeros? For block status; transfers no data.
    ExtentsRequest = 0x2c, ToNode, bytes 72 {
        /// Index of the session.
        session: u32 = "u32" @ 32,
        /// Zero.
        reserved: Reserved<4> = "reserved" @ 36,
        /// Unpredictable number of the question.
        request_id: u64 = "u64" @ 40,
        /// First 8 bytes of the content id.
        generation: u64 = "u64" @ 48,
        /// First byte, a multiple of 4096.
        offset: u64 = "u64" @ 56,
        /// Bytes, a multiple of 4096.
        length: u64 = "u64" @ 64,
    }
}

message! {
    /// Answer: the tail is `count` extent entries that follow each other from `offset`. May cover less than was asked
    /// (at least one unit): ask on from there.
    Extents = 0x2d, ToDevice, bytes 64 {
        /// The question.
        request_id: u64 = "u64" @ 32,
        /// First 8 bytes of the content id.
        generation: u64 = "u64" @ 40,
        /// First byte.
        offset: u64 = "u64" @ 48,
        /// Extent entries in the tail.
        count: u8 = "u8" @ 56,
        /// Zero.
        reserved: Reserved<7> = "reserved" @ 57,
    }
}

record! {
    /// A run of bytes that is all zeros, or that may hold data.
    ExtentEntry, bytes 16 {
        /// Bytes, a multiple of 4096.
        length: u64 = "u64" @ 0,
        /// 1: zeros; 0: data.
        zero: u8 = "u8" @ 8,
        /// Zero.
        reserved: Reserved<7> = "reserved" @ 9,
    }
}
