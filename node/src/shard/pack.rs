//! From a job to datagrams: fragments of equal length, header and padding copied, data by reference.
//!
//! A large read has hundreds of fragments, and nearly all of a node's own work on it is here. So whatever is the same for all fragments of
//! a job is done once: the header is encoded, sums and bytes are found, and budget and room are turned into a number of datagrams.
//! What is left for each is a copy of the header, the stamp of its own fields, and two ranges.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_ring::SendPlan;
use diskstream_wire::limits::{SEND_BYTES_MAX, SEND_SEGMENTS_MAX, UNIT_BYTES};
use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, FragmentSize, ReadData};

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
const FITS: &str = "Train::room bounds segments and bytes; pieces and scratch are sized for them";

/// Bytes of the next datagram of a job that has one: header, padding and data.
#[inline]
pub(super) fn next_datagram_bytes(data: &Data) -> usize {
    HEAD + if are_equal(data) { data.size.bytes() } else { Fragment::next(data).bytes }
}

/// Whether each fragment is a part of a unit, so that all datagrams of the job are of one length and lie in one block.
#[inline]
fn are_equal(data: &Data) -> bool {
    !data.single && data.size.units_each() == 1
}

/// What one datagram consists of behind its header, where they are not equal: the one of a single read, or one of two units, of which
/// the last may be short (a pad is at most 255 bytes) and one may reach into the next block.
struct Fragment {
    number: usize,
    /// Where in the read, in bytes.
    at: usize,
    bytes: usize,
}

impl Fragment {
    /// The next one of a job that has one.
    fn next(data: &Data) -> Fragment {
        debug_assert!(data.wanted != 0, "a job without fragments is gone");
        let number = data.wanted.trailing_zeros() as usize;
        if data.single {
            return Fragment { number, at: 0, bytes: data.length as usize };
        }
        let range = data.size.range(number, data.length as usize).expect("wanted fragments exist");
        Fragment { number, at: range.offset, bytes: range.bytes }
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

    /// How many datagrams of `bytes` can join.
    #[inline]
    fn room(&self, bytes: usize) -> usize {
        let segment = usize::from(self.plan.segment_bytes);
        if self.closed || bytes > segment {
            return 0;
        }
        let room = SEND_BYTES_MAX - self.plan.payload_bytes();
        let most = (room / bytes).min(SEND_SEGMENTS_MAX - self.segments);
        if bytes < segment { most.min(1) } else { most }
    }

    /// Whether a datagram of `bytes` can join.
    #[inline]
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.closed
            && bytes <= usize::from(self.plan.segment_bytes)
            && self.plan.payload_bytes() + bytes <= SEND_BYTES_MAX
            && self.segments < SEND_SEGMENTS_MAX
    }

    /// Counts datagrams that joined.
    #[inline]
    pub(super) fn joined(&mut self, count: usize, bytes: usize) {
        self.segments += count;
        self.closed = bytes < usize::from(self.plan.segment_bytes);
    }
}

/// What one call packed.
pub(super) struct Packed {
    pub(super) fragments: u32,
    /// With headers and padding.
    pub(super) datagram_bytes: u32,
    pub(super) data_bytes: u64,
}

impl Packed {
    fn of(fragments: usize, datagram_bytes: usize, data_bytes: u64) -> Packed {
        const ONE_SEND: &str = "no more than a send holds";
        Packed {
            fragments: u32::try_from(fragments).expect(ONE_SEND),
            datagram_bytes: u32::try_from(datagram_bytes).expect(ONE_SEND),
            data_bytes,
        }
    }
}

/// Appends the datagrams of one job to a send.
pub(super) struct Packer {
    /// What is the same in all headers of the job.
    header: ReadData,
    /// The read's first byte.
    offset: u64,
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
        Packer { header, offset: job.offset }
    }

    /// Takes fragments off the job for as long as there are any, `budget` pays for their bytes, and the train has room.
    pub(super) fn pack(
        self,
        data: &mut Data,
        budget: u32,
        train: &mut Train,
        cache: &Cache,
    ) -> Packed {
        if !are_equal(data) {
            return self.pack_each(data, budget, train, cache);
        }
        match data.size {
            FragmentSize::B1024 => self.pack_equal::<1024>(data, budget, train, cache),
            FragmentSize::B1376 => self.pack_equal::<1376>(data, budget, train, cache),
            FragmentSize::B4096 => self.pack_equal::<4096>(data, budget, train, cache),
            FragmentSize::B8192 => unreachable!("two units are not a part of one"),
        }
    }

    /// Fragments of `BYTES`, padded where a unit ends before.
    // Not inlined: beside all that its caller has at hand, the loop would keep its own on the stack.
    #[inline(never)]
    fn pack_equal<const BYTES: usize>(
        self,
        data: &mut Data,
        budget: u32,
        train: &mut Train,
        cache: &Cache,
    ) -> Packed {
        let datagram = HEAD + BYTES;
        let paid = to_usize(u64::from(budget)) / datagram;
        let count = (data.wanted.count_ones() as usize).min(paid).min(train.room(datagram));
        let Packer { mut header, offset } = self;
        let mut head = [0; PADDED_HEAD];
        header.encode_head(datagram, &mut head);

        // All fragments lie in one block, which the read may begin before: places are counted from the first one's unit.
        let pin = data.pin.as_ref().expect("a queued job has its blocks");
        let each = const { UNIT_BYTES.div_ceil(BYTES) };
        let first = data.wanted.trailing_zeros() as usize / each;
        let within = in_block(offset + (first * UNIT_BYTES) as u64, cache.block_bytes());
        let from = cache.arena_offset(pin) + within;
        let sums = &cache.unit_sums(pin)[within / UNIT_BYTES..];

        let (mut wanted, mut data_bytes) = (data.wanted, 0);
        let packed = train.plan.push_run(count, datagram, &head, |head| {
            let number = wanted.trailing_zeros();
            wanted &= wanted - 1;
            let (unit, part) = (number as usize / each, number as usize % each);
            let bytes = BYTES.min(UNIT_BYTES - part * BYTES);
            let at = unit * UNIT_BYTES + part * BYTES;
            header.offset = offset + at as u64;
            header.fragment = number.to_le_bytes()[0];
            header.pad_bytes = (BYTES - bytes).to_le_bytes()[0];
            header.data_bytes = u16::try_from(bytes).expect("at most a unit");
            header.unit_sum = sums[unit - first].load(Relaxed);
            header.stamp(head);
            data_bytes += bytes as u64;
            (HEAD + BYTES - bytes, from + at - first * UNIT_BYTES)
        });
        packed.expect(FITS);
        data.wanted = wanted;
        train.joined(count, datagram);
        Packed::of(count, count * datagram, data_bytes)
    }

    /// Fragments one by one.
    #[inline(never)]
    fn pack_each(
        mut self,
        data: &mut Data,
        budget: u32,
        train: &mut Train,
        cache: &Cache,
    ) -> Packed {
        let (mut count, mut datagram_bytes, mut data_bytes) = (0, 0, 0);
        while data.wanted != 0 {
            let next = Fragment::next(data);
            let datagram = HEAD + next.bytes;
            if budget as usize - datagram_bytes < datagram || !train.has_room(datagram) {
                break;
            }
            self.push(data, &next, train, cache);
            data.wanted &= data.wanted - 1;
            count += 1;
            datagram_bytes += datagram;
            data_bytes += next.bytes as u64;
        }
        Packed::of(count, datagram_bytes, data_bytes)
    }

    fn push(&mut self, data: &Data, fragment: &Fragment, train: &mut Train, cache: &Cache) {
        let pin = data.pin.as_ref().expect("a queued job has its blocks");
        let block_bytes = cache.block_bytes();
        let header = &mut self.header;
        header.offset = self.offset + fragment.at as u64;
        header.data_bytes = u16::try_from(fragment.bytes).expect("at most 8192");
        let within = in_block(header.offset, block_bytes);
        if data.single {
            header.flags = header.flags.with(Flags::SINGLE);
            header.unit_sum = crc32c::crc32c(&cache.bytes(pin)[within..within + fragment.bytes]);
        } else {
            let unit = within / UNIT_BYTES;
            header.fragment = u8::try_from(fragment.number).expect("below 64");
            header.unit_sum = cache.unit_sum(pin, unit);
            header.second_unit_sum = match &data.second {
                _ if fragment.bytes <= UNIT_BYTES => 0,
                Some(second) => cache.unit_sum(second, 0),
                None => cache.unit_sum(pin, unit + 1),
            };
        }
        let mut head = [0; HEAD];
        let datagram = HEAD + fragment.bytes;
        header.encode_head(datagram, &mut head);
        let plan = &mut train.plan;
        plan.push_scratch(&head).expect(FITS);
        let here = fragment.bytes.min(block_bytes - within);
        plan.push_arena(cache.arena_offset(pin) + within, here).expect(FITS);
        if here < fragment.bytes {
            let second = data.second.as_ref().expect("a job that straddles has two blocks");
            plan.push_arena(cache.arena_offset(second), fragment.bytes - here).expect(FITS);
        }
        train.joined(1, datagram);
    }
}

/// Where in its block an offset of the image lies; block sizes are powers of two (the cache takes no others).
#[inline]
fn in_block(offset: u64, block_bytes: usize) -> usize {
    to_usize(offset & (block_bytes as u64 - 1))
}
