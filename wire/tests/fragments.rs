//! The arithmetic of fragments against an oracle that knows only the rule in words: walk through the read unit by unit
//! (or, where a fragment holds two units, two by two) and cut off as many bytes as a fragment carries.

use diskstream_wire::FragmentSize;
use diskstream_wire::ReadData;
use diskstream_wire::fragment::FragmentRange;
use diskstream_wire::limits::{
    READ_BYTES_MAX, READ_UNITS_MAX, SEND_BYTES_MAX, SEND_SEGMENTS_MAX, UNIT_BYTES,
};

/// Every fragment of a read as (offset, bytes), by walking.
fn walk(size: FragmentSize, read_bytes: usize) -> Vec<(usize, usize)> {
    let group = if size.bytes() > UNIT_BYTES { size.bytes() } else { UNIT_BYTES };
    let mut fragments = Vec::new();
    let mut start = 0;
    while start < read_bytes {
        let stop = read_bytes.min(start + group);
        let mut at = start;
        while at < stop {
            let bytes = size.bytes().min(stop - at);
            fragments.push((at, bytes));
            at += bytes;
        }
        start = stop;
    }
    fragments
}

fn every_read() -> impl Iterator<Item = (FragmentSize, usize)> {
    FragmentSize::ALL
        .into_iter()
        .flat_map(|size| (0..=READ_UNITS_MAX).map(move |units| (size, units * UNIT_BYTES)))
}

#[test]
fn ranges_are_those_of_the_walk() {
    for (size, read_bytes) in every_read() {
        let walked = walk(size, read_bytes);
        assert_eq!(size.count(read_bytes), walked.len(), "{size:?} {read_bytes}");
        for (index, &(offset, bytes)) in walked.iter().enumerate() {
            assert_eq!(
                size.range(index, read_bytes),
                Some(FragmentRange { offset, bytes }),
                "{size:?} {read_bytes} {index}"
            );
        }
        for index in walked.len()..walked.len() + 70 {
            assert_eq!(size.range(index, read_bytes), None, "{size:?} {read_bytes} {index}");
        }
        assert_eq!(size.range(usize::MAX, read_bytes), None);
    }
}

#[test]
fn every_byte_is_carried_exactly_once() {
    for (size, read_bytes) in every_read() {
        let mut carried = vec![0u8; read_bytes];
        for index in 0..size.count(read_bytes) {
            let range = size.range(index, read_bytes).unwrap();
            assert!(range.bytes > 0 && range.bytes <= size.bytes());
            for byte in &mut carried[range.offset..range.offset + range.bytes] {
                *byte += 1;
            }
        }
        assert!(carried.iter().all(|&times| times == 1), "{size:?} {read_bytes}");
    }
}

#[test]
fn no_fragment_crosses_a_unit_unless_it_holds_whole_units() {
    for (size, read_bytes) in every_read() {
        for index in 0..size.count(read_bytes) {
            let FragmentRange { offset, bytes } = size.range(index, read_bytes).unwrap();
            let crosses = offset / UNIT_BYTES != (offset + bytes - 1) / UNIT_BYTES;
            let whole = offset % UNIT_BYTES == 0 && bytes % UNIT_BYTES == 0;
            assert!(!crosses || whole, "{size:?} {read_bytes} {index}");
        }
    }
}

#[test]
fn a_fragment_names_the_same_bytes_in_every_longer_read() {
    for (size, read_bytes) in every_read() {
        let longest = walk(size, READ_BYTES_MAX);
        for (index, (offset, bytes)) in walk(size, read_bytes).into_iter().enumerate() {
            assert_eq!(offset, longest[index].0);
            let last = offset + bytes == read_bytes;
            assert!(bytes == longest[index].1 || last, "{size:?} {read_bytes} {index}");
        }
    }
}

#[test]
fn units_and_fragments_agree() {
    for (size, read_bytes) in every_read() {
        let mut seen = 0u64;
        for unit in 0..read_bytes / UNIT_BYTES {
            let mut touching = 0u64;
            for index in 0..size.count(read_bytes) {
                let FragmentRange { offset, bytes } = size.range(index, read_bytes).unwrap();
                let (first, last) = (offset / UNIT_BYTES, (offset + bytes - 1) / UNIT_BYTES);
                assert_eq!(size.first_unit(index), first, "{size:?} {read_bytes} {index}");
                if (first..=last).contains(&unit) {
                    touching |= 1 << index;
                }
            }
            assert_eq!(size.of_unit(unit), touching, "{size:?} {read_bytes} unit {unit}");
            seen |= touching;
        }
        assert_eq!(size.all(read_bytes), seen, "{size:?} {read_bytes}");
    }
}

#[test]
fn a_read_that_is_no_whole_number_of_units_counts_as_the_next_one() {
    for size in FragmentSize::ALL {
        for read_bytes in 0..=READ_BYTES_MAX {
            let rounded = read_bytes.next_multiple_of(UNIT_BYTES);
            assert_eq!(size.count(read_bytes), walk(size, rounded).len(), "{size:?} {read_bytes}");
            for index in [0, 1, 2, 3, size.count(read_bytes).saturating_sub(1)] {
                assert_eq!(size.range(index, read_bytes), size.range(index, rounded));
            }
        }
    }
}

/// What makes one GSO send carry the replies of many reads: all its segments but the last are equally long.
#[test]
fn datagrams_with_padding_are_equally_long() {
    for (size, read_bytes) in every_read() {
        let count = size.count(read_bytes);
        for index in 0..count {
            let bytes = size.range(index, read_bytes).unwrap().bytes;
            let padding = size.bytes() - bytes;
            if size == FragmentSize::B8192 && padding > 0 {
                // The one exception: a read of an odd number of units ends with half a fragment. Its padding has no
                // room in `pad_bytes`, so this datagram is shorter, and must be the last segment of its send.
                assert_eq!((index, padding), (count - 1, UNIT_BYTES));
                assert_eq!(read_bytes / UNIT_BYTES % 2, 1);
            } else {
                assert!(u8::try_from(padding).is_ok(), "{size:?} {read_bytes} {index}: {padding}");
                assert_eq!(ReadData::BYTES + padding + bytes, size.datagram_bytes());
            }
        }
    }
}

#[test]
fn a_send_keeps_the_kernels_bounds_and_no_segment_more_would() {
    for size in FragmentSize::ALL {
        let segments = size.segments_per_send();
        let fits = |n: usize| n <= SEND_SEGMENTS_MAX && n * size.datagram_bytes() <= SEND_BYTES_MAX;
        assert!(segments >= 1 && fits(segments) && !fits(segments + 1), "{size:?} {segments}");
    }
    let all = FragmentSize::ALL.map(FragmentSize::segments_per_send);
    assert_eq!(all, [59, 45, 15, 7], "by hand: 65,507 ÷ (76 + size), rounded down");
}

#[test]
fn the_size_that_fits_is_the_largest_that_does() {
    for datagram_bytes in 0..=10_000 {
        let largest = FragmentSize::ALL
            .into_iter()
            .filter(|size| size.datagram_bytes() <= datagram_bytes)
            .max()
            .unwrap_or(FragmentSize::B1024);
        assert_eq!(FragmentSize::fitting(datagram_bytes), largest, "{datagram_bytes}");
    }
    // IPv6's minimum MTU, the usual MTU over IPv6 and IPv4, jumbo frames.
    let on = |mtu: usize, headers: usize| FragmentSize::fitting(mtu - headers);
    assert_eq!(on(1280, 48), FragmentSize::B1024);
    assert_eq!(on(1500, 48), FragmentSize::B1376);
    assert_eq!(on(1500, 28), FragmentSize::B1376);
    assert_eq!(on(9000, 48), FragmentSize::B8192);
}

#[test]
fn the_reads_of_pvs_have_as_many_fragments_as_theirs() {
    // PVS sends 32 KiB as 24 datagrams: 23 of 1464 bytes and one of 440 (theorypc.ca, 2017-01-05, measured).
    assert_eq!(FragmentSize::B1376.count(32 * 1024), 24);
    assert_eq!(FragmentSize::B1376.all(32 * 1024), 0x00ff_ffff);
    assert_eq!(FragmentSize::B1376.all(READ_BYTES_MAX), (1 << 48) - 1);
    assert_eq!(FragmentSize::B1024.all(READ_BYTES_MAX), u64::MAX);
    assert_eq!(FragmentSize::B4096.all(READ_BYTES_MAX), 0xffff);
    assert_eq!(FragmentSize::B8192.all(READ_BYTES_MAX), 0xff);
}

#[test]
#[should_panic(expected = "READ_BYTES_MAX")]
fn a_bitmap_of_a_longer_read_is_the_callers_mistake() {
    let _ = FragmentSize::B1024.all(READ_BYTES_MAX + 1);
}

#[test]
fn numbers_on_the_wire_and_back() {
    for code in 0..=u8::MAX {
        let size = FragmentSize::from_code(code);
        if (1..=4).contains(&code) {
            assert_eq!(size as u8, code);
        } else {
            assert_eq!(size, FragmentSize::B1376, "unknown sizes mean the usual one");
        }
    }
}

#[test]
fn a_stamped_header_is_the_header_of_that_fragment() {
    let first = ReadData {
        tag: 7,
        request_id: 8,
        generation: 9,
        service_us: 10,
        attempt: 1,
        ..Default::default()
    };
    let other = ReadData {
        offset: u64::MAX - 3,
        fragment: 47,
        pad_bytes: 32,
        data_bytes: 1344,
        unit_sum: 0x0102_0304,
        second_unit_sum: 0x0506_0708,
        ..first
    };
    let (mut stamped, mut whole) = ([0xff; ReadData::BYTES], [0; ReadData::BYTES]);
    first.encode_head(1452, &mut stamped);
    other.stamp(&mut stamped);
    other.encode_head(1452, &mut whole);
    assert_eq!(stamped, whole);
}
