//! From a job to datagrams: fragments of equal length, header and padding copied, data by reference.
//!
//! A large read has hundreds of fragments, and nearly all of a node's own work on it is here. So the header is encoded once for each
//! job, each copy is stamped with what is its own, and the loop keeps little at hand.

use diskstream_ring::SendPlan;
use diskstream_wire::limits::{SEND_BYTES_MAX, SEND_SEGMENTS_MAX, UNIT_BYTES};
use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, ReadData};

use super::jobs::{Data, Job};
use super::read::to_usize;
use super::serve::micros;
use super::session::Session;
use crate::cache::Cache;

/// The padding of a fragment whose datagram is padded: 1376 bytes in which 1344 are data.
const PAD_BYTES: usize = 32;
const _: () = assert!(3 * 1376 - UNIT_BYTES == PAD_BYTES);
const HEAD: usize = ReadData::BYTES;
const PADDED_HEAD: usize = HEAD + PAD_BYTES;

/// What one datagram of a data job consists of, behind its header.
pub(super) struct Fragment {
    /// Where in the read, in bytes.
    at: usize,
    pad: usize,
    data: usize,
}

impl Fragment {
    /// The next one of a job that has one.
    #[inline]
    pub(super) fn next(data: &Data) -> Fragment {
        debug_assert!(data.wanted != 0, "a job without fragments is gone");
        if data.single {
            return Fragment { at: 0, pad: 0, data: data.length as usize };
        }
        let number = data.wanted.trailing_zeros() as usize;
        let range = data.size.range(number, data.length as usize).expect("wanted fragments exist");
        // The first unit of a datagram of two that lacks its second is short, not padded: a pad is at most 255 bytes.
        let pad = if data.size.units_each() == 1 { data.size.bytes() - range.bytes } else { 0 };
        Fragment { at: range.offset, pad, data: range.bytes }
    }

    /// Header, padding and data.
    #[inline]
    pub(super) fn datagram_bytes(&self) -> usize {
        HEAD + self.pad + self.data
    }
}

/// A send that is being made: datagrams of one size, of which the last may be shorter.
pub(super) struct Train {
    pub(super) plan: Box<SendPlan>,
    pub(super) segments: usize,
    /// A shorter datagram was the last.
    closed: bool,
}

impl Train {
    pub(super) fn new(plan: Box<SendPlan>) -> Train {
        Train { plan, segments: 0, closed: false }
    }

    /// Whether a datagram of `bytes` can join.
    #[inline]
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.closed
            && bytes <= usize::from(self.plan.segment_bytes)
            && self.plan.payload_bytes() + bytes <= SEND_BYTES_MAX
            && self.segments < SEND_SEGMENTS_MAX
    }

    /// Counts a datagram that joined.
    #[inline]
    pub(super) fn joined(&mut self, bytes: usize) {
        self.segments += 1;
        self.closed = bytes < usize::from(self.plan.segment_bytes);
    }
}

/// What one call packed.
#[derive(Default)]
pub(super) struct Packed {
    pub(super) fragments: u32,
    /// With headers and padding.
    pub(super) datagram_bytes: u32,
    pub(super) data_bytes: u64,
}

/// Appends the datagrams of one job to a send.
pub(super) struct Packer {
    header: ReadData,
    /// The read's first byte.
    offset: u64,
    /// The header as encoded for datagrams of `encoded_for` bytes, and padding.
    head: [u8; PADDED_HEAD],
    encoded_for: usize,
}

impl Packer {
    pub(super) fn new(job: &Job, session: &Session, flags: Flags, now: Nanos) -> Packer {
        let header = ReadData {
            flags,
            tag: session.tag,
            request_id: job.request_id,
            generation: session.generation,
            service_us: micros(now.since(job.arrived)),
            attempt: job.attempt,
            ..Default::default()
        };
        Packer { header, offset: job.offset, head: [0; PADDED_HEAD], encoded_for: 0 }
    }

    /// Takes fragments off the job for as long as there are any, `budget` pays for their bytes, and the train has room.
    // Not inlined: beside all that its caller has at hand, the loop would keep its own on the stack.
    #[inline(never)]
    pub(super) fn pack(
        &mut self,
        data: &mut Data,
        budget: u32,
        train: &mut Train,
        cache: &Cache,
    ) -> Packed {
        let mut packed = Packed::default();
        while data.wanted != 0 {
            let next = Fragment::next(data);
            let datagram = next.datagram_bytes();
            let bytes = u32::try_from(datagram).expect("a datagram");
            if budget - packed.datagram_bytes < bytes || !train.has_room(datagram) {
                break;
            }
            self.push(data, &next, train, cache);
            data.wanted &= data.wanted - 1;
            packed.fragments += 1;
            packed.datagram_bytes += bytes;
            packed.data_bytes += next.data as u64;
        }
        packed
    }

    #[inline]
    fn push(&mut self, data: &Data, fragment: &Fragment, train: &mut Train, cache: &Cache) {
        const FITS: &str =
            "Train::has_room bounds segments and bytes; pieces and scratch are sized for them";
        let pin = data.pin.as_ref().expect("a queued job has its blocks");
        let block_bytes = cache.block_bytes();
        let offset = self.offset + fragment.at as u64;
        let within = in_block(offset, block_bytes);
        self.describe(data, fragment, offset, within, cache);
        let datagram = fragment.datagram_bytes();
        if datagram != self.encoded_for {
            self.header.encode_head(datagram, &mut self.head);
            self.encoded_for = datagram;
        }
        let plan = &mut train.plan;
        let here = fragment.data.min(block_bytes - within);
        let from = cache.arena_offset(pin) + within;
        if fragment.pad == 0 {
            let head = self.head.first_chunk::<HEAD>().expect("a header");
            self.header.stamp(plan.push_headed(head, from, here).expect(FITS));
        } else {
            debug_assert!(fragment.pad == PAD_BYTES, "only one size is padded");
            self.header.stamp(plan.push_headed(&self.head, from, here).expect(FITS));
        }
        if here < fragment.data {
            let second = data.second.as_ref().expect("a job that straddles has two blocks");
            plan.push_arena(cache.arena_offset(second), fragment.data - here).expect(FITS);
        }
        train.joined(datagram);
    }

    /// Sets what is a fragment's own in the header.
    #[inline]
    fn describe(
        &mut self,
        data: &Data,
        fragment: &Fragment,
        offset: u64,
        within: usize,
        cache: &Cache,
    ) {
        let pin = data.pin.as_ref().expect("a queued job has its blocks");
        let header = &mut self.header;
        header.offset = offset;
        header.data_bytes = u16::try_from(fragment.data).expect("at most 8192");
        if data.single {
            header.flags = header.flags.with(Flags::SINGLE);
            header.unit_sum = crc32c::crc32c(&cache.bytes(pin)[within..within + fragment.data]);
            return;
        }
        let unit = within / UNIT_BYTES;
        header.fragment = u8::try_from(data.wanted.trailing_zeros()).expect("below 64");
        header.pad_bytes = u8::try_from(fragment.pad).expect("PAD_BYTES fits");
        header.unit_sum = cache.unit_sum(pin, unit);
        header.second_unit_sum = match &data.second {
            _ if fragment.data <= UNIT_BYTES => 0,
            Some(second) => cache.unit_sum(second, 0),
            None => cache.unit_sum(pin, unit + 1),
        };
    }
}

/// Where in its block an offset of the image lies; block sizes are powers of two (the cache takes no others).
#[inline]
fn in_block(offset: u64, block_bytes: usize) -> usize {
    to_usize(offset & (block_bytes as u64 - 1))
}
