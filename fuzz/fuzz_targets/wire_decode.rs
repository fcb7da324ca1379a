//! A whole datagram: decoding never panics; what decodes, encodes to something that decodes to the same.
#![no_main]

use diskstream_wire::limits::{READ_BYTES_MAX, UNIT_BYTES};
use diskstream_wire::{FragmentSize, Message, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(decoded) = decode(bytes) else { return };
    let length = decoded.message.kind().bytes() + decoded.tail.len();
    assert!(length <= bytes.len(), "a message is no longer than its datagram");

    let mut again = vec![0xee; length];
    assert_eq!(decoded.message.encode_with_tail(decoded.tail, &mut again), length);
    assert_eq!(decode(&again), Ok(decoded), "what was decoded survives encoding");

    // What a node does with numbers that a stranger chose.
    if let Message::Read(read) = decoded.message {
        let length = usize::try_from(read.length).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
        for size in FragmentSize::ALL {
            if let Some(range) = size.range(usize::from(read.attempt), length) {
                assert!(range.bytes > 0 && range.bytes <= size.bytes());
                assert!(range.offset + range.bytes <= length.next_multiple_of(UNIT_BYTES));
            }
        }
    }
    if let Message::LoginTransfer(transfer) = decoded.message {
        let _ =
            (transfer.vdisk.as_str(), transfer.device_name.as_str(), transfer.node.socket_addr());
    }
});
