//! A device's machine under datagrams of a hostile or broken node. Numbers that a stranger cannot know (transaction, tag,
//! request id) are put into the datagrams, so that the input gets behind those checks.
#![no_main]

use std::net::SocketAddr;

use diskstream_device::session::{Channel, Session, SessionConfig};
use diskstream_fuzz::{Cursor, datagram, peek_u64};
use diskstream_wire::{Flags, HEADER_BYTES, Mac, Nanos, Read, ReadData};
use libfuzzer_sys::fuzz_target;

/// CRC32C of a sector and of a unit of zeros.
const ZERO_SUMS: (u32, u32) = (0x30fcedc0, 0x98f94189);
/// More trains than this after one input: the machine would flood the network.
const TRAINS_MAX: usize = 4096;

/// Data of zeros under a right sum: what the input cannot find by itself.
fn make_sums_right(bytes: &mut [u8]) {
    let Ok((mut data, tail)) = ReadData::decode(bytes) else { return };
    let (single, tail) = (data.flags.has(Flags::SINGLE), vec![0; tail.len()]);
    data.unit_sum = if single { ZERO_SUMS.0 } else { ZERO_SUMS.1 };
    data.second_unit_sum = ZERO_SUMS.1;
    data.encode_with_tail(&tail, bytes);
}

fuzz_target!(|input: &[u8]| {
    let mut input = Cursor::new(input);
    let servers = vec!["10.0.0.1:6910".parse().expect("an address")];
    let config = SessionConfig::new(servers, Mac([2, 0, 0, 0, 0, 1]));
    let mut now = Nanos::from_secs(1);
    let mut session = Session::new(config, [7; 32], now).expect("good settings");
    let mut tag = 0;
    let mut request_id = 0u64;
    let mut node: SocketAddr = "10.0.0.1:6910".parse().expect("an address");
    let mut channel = Channel::Login;
    let mut train = Vec::new();
    for _ in 0..64 {
        let Some(op) = input.byte() else { break };
        match op % 8 {
            0 => {
                now = now + Nanos::from_millis(u64::from(input.byte().unwrap_or(0)) * 8);
                session.tick(now);
            }
            1 => {
                let due = session.next_deadline();
                now = if due == Nanos::NEVER || due < now {
                    now + Nanos::from_millis(1)
                } else {
                    due
                };
                session.tick(now);
            }
            2 => {
                let units = usize::from(input.byte().unwrap_or(0) % 20 + 1);
                let offset = u64::from(input.byte().unwrap_or(0)) * 4096;
                let _ = session.read(u64::from(op), offset, vec![0; units * 4096], now);
            }
            3 if op == 3 => session.detach(now),
            _ => {
                let mut bytes = datagram(&mut input, if op & 8 == 0 { tag } else { 1 });
                if op & 16 == 0 && bytes.len() >= HEADER_BYTES + 8 {
                    bytes[HEADER_BYTES..HEADER_BYTES + 8]
                        .copy_from_slice(&request_id.to_be_bytes());
                }
                if op & 64 == 0 {
                    make_sums_right(&mut bytes);
                }
                let from =
                    if op & 32 == 0 { node } else { "10.9.9.9:6911".parse().expect("an address") };
                session.handle_datagram(channel, from, &bytes, now);
            }
        }
        let mut trains = 0;
        while let Some(sent) = session.poll_send(now, &mut train) {
            trains += 1;
            assert!(trains <= TRAINS_MAX, "the machine floods");
            assert!(sent.segment_bytes > 0 && train.len() % sent.segment_bytes == 0);
            for bytes in train.chunks(sent.segment_bytes) {
                assert!(diskstream_wire::decode(bytes).is_ok(), "it sends what it could read");
                tag = peek_u64(bytes, 8);
                if bytes[3] == Read::KIND {
                    request_id = peek_u64(bytes, 40);
                }
            }
            (node, channel) = (sent.to, sent.channel);
        }
        while session.poll_event().is_some() {}
        session.check_invariants();
    }
});
