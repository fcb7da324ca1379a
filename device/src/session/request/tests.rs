use super::*;

/// A read of `units` units at 1 MiB with recognisable bytes.
fn request(units: usize, size: FragmentSize) -> (Request, Vec<u8>) {
    let length = units * UNIT_BYTES;
    let bytes: Vec<u8> = (0..length).map(|i| ((i * 7 + i / 4096) % 251).to_le_bytes()[0]).collect();
    (Request { offset: 1 << 20, length, size, ..Request::default() }, bytes)
}

fn fragment(request: &Request, bytes: &[u8], index: usize) -> (ReadData, Vec<u8>) {
    let range = request.size.range(index, request.length).unwrap();
    let unit = request.size.first_unit(index);
    let sum = |unit: usize| {
        bytes.get(unit * UNIT_BYTES..(unit + 1) * UNIT_BYTES).map_or(0, crc32c::crc32c)
    };
    let pad = request.size.bytes() - range.bytes;
    let mut tail = vec![0xee; pad.min(255)];
    let pad_bytes = u8::try_from(tail.len()).unwrap();
    tail.extend_from_slice(&bytes[range.offset..range.offset + range.bytes]);
    let message = ReadData {
        offset: request.offset + range.offset as u64,
        fragment: u8::try_from(index).unwrap(),
        pad_bytes,
        data_bytes: u16::try_from(range.bytes).unwrap(),
        unit_sum: sum(unit),
        second_unit_sum: if request.size.units_each() == 2 { sum(unit + 1) } else { 0 },
        ..ReadData::default()
    };
    (message, tail)
}

#[test]
fn fragments_in_any_order_make_the_read_at_every_size() {
    for size in FragmentSize::ALL {
        for units in 1..=16 {
            let (mut request, bytes) = request(units, size);
            request.outstanding = request.all();
            let mut buffer = vec![0u8; bytes.len()];
            let count = size.count(request.length);
            for step in 0..count {
                let index = (step * 29 + 5) % count;
                let index = if count.is_multiple_of(29) { step } else { index };
                let (message, tail) = fragment(&request, &bytes, index);
                assert_eq!(request.take(&message, &tail, &mut buffer), Taken::New);
                assert_eq!(request.take(&message, &tail, &mut buffer), Taken::Late);
            }
            assert!(request.is_complete() && request.outstanding == 0);
            assert_eq!(buffer, bytes);
        }
    }
}

#[test]
fn a_flipped_byte_makes_its_unit_be_asked_for_again_and_no_other() {
    let (mut request, bytes) = request(2, FragmentSize::B1376);
    let mut buffer = vec![0u8; bytes.len()];
    for index in 0..6 {
        let (message, mut tail) = fragment(&request, &bytes, index);
        if index == 4 {
            *tail.last_mut().unwrap() ^= 1;
        }
        let taken = request.take(&message, &tail, &mut buffer);
        assert_eq!(taken == Taken::WrongSum, index == 5);
    }
    assert_eq!(request.missing(), 0b11_1000);
    for index in 3..6 {
        let (message, tail) = fragment(&request, &bytes, index);
        assert_eq!(request.take(&message, &tail, &mut buffer), Taken::New);
    }
    assert!(request.is_complete());
    assert_eq!(buffer, bytes);
}

#[test]
fn fragments_that_do_not_fit_are_refused() {
    let (mut request, bytes) = request(2, FragmentSize::B1376);
    let mut buffer = vec![0u8; bytes.len()];
    let (good, tail) = fragment(&request, &bytes, 1);
    let wrong = [
        ReadData { fragment: 6, ..good },
        ReadData { fragment: 255, ..good },
        ReadData { offset: good.offset + 1, ..good },
        ReadData { data_bytes: good.data_bytes - 1, ..good },
        ReadData { data_bytes: u16::MAX, ..good },
        ReadData { pad_bytes: 255, ..good },
    ];
    for message in wrong {
        assert_eq!(request.take(&message, &tail, &mut buffer), Taken::Implausible, "{message:?}");
    }
    assert_eq!(request.received, 0);
}

#[test]
fn zero_marks_fill_units_and_count_once() {
    for size in FragmentSize::ALL {
        let (mut request, _) = request(5, size);
        request.outstanding = request.all();
        let mut buffer = vec![1u8; request.length];
        assert!(request.take_zeros(0b1_0011, &mut buffer) > 0);
        assert_eq!(request.take_zeros(0b1_0011, &mut buffer), 0);
        assert!(buffer[..2 * UNIT_BYTES].iter().all(|&b| b == 0));
        assert!(buffer[2 * UNIT_BYTES..4 * UNIT_BYTES].iter().all(|&b| b == 1));
        assert!(buffer[4 * UNIT_BYTES..].iter().all(|&b| b == 0));
        request.take_zeros(u16::MAX, &mut buffer);
        assert!(request.is_complete() && request.outstanding == 0);
        assert!(buffer.iter().all(|&b| b == 0));
    }
}

#[test]
fn a_change_of_size_keeps_whole_units() {
    let (mut request, bytes) = request(4, FragmentSize::B1376);
    let mut buffer = vec![0u8; bytes.len()];
    for index in [0, 1, 2, 3, 6, 7, 8, 9, 10, 11] {
        let (message, tail) = fragment(&request, &bytes, index);
        request.take(&message, &tail, &mut buffer);
    }
    let whole = request.clone();
    request.change_size(FragmentSize::B1024);
    assert_eq!(request.received, 0xff0f);
    request = whole.clone();
    request.change_size(FragmentSize::B4096);
    assert_eq!(request.received, 0b1101);
    request = whole;
    request.change_size(FragmentSize::B8192);
    assert_eq!(request.received, 0b10);
}
