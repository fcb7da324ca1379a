//! Laws that every message and record obeys, for all values of all fields.

use diskstream_wire::header::{Header, MAGIC};
use diskstream_wire::limits::{CONTROL_BYTES_MAX, EXTENTS_MAX, NODES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::*;
use proptest::prelude::*;

/// A datagram of this kind around `body`: header laid out here, not by the encoder.
fn datagram(kind: u8, flags: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_BYTES + body.len()).expect("a short datagram");
    let mut bytes = MAGIC.to_be_bytes().to_vec();
    bytes.extend([PROTOCOL_VERSION, kind]);
    bytes.extend(flags.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

/// What a decoder followed by an encoder makes of a field's bytes: the same, but for what the protocol says is not kept.
fn kept(row: &Row, raw: &[u8]) -> Vec<u8> {
    match row.ty {
        "reserved" => vec![0; raw.len()],
        // Unknown sizes mean the usual one.
        "fragment_size" if !(1..=4).contains(&raw[0]) => vec![2],
        _ => raw.to_vec(),
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    (0..Kind::ALL.len()).prop_map(|i| Kind::ALL[i])
}

/// A kind, any bytes for all its fields, and any tail.
fn any_datagram() -> impl Strategy<Value = (Kind, Vec<u8>, u16, u64)> {
    any_kind().prop_flat_map(|kind| {
        let fixed = kind.bytes() - HEADER_BYTES;
        let body = proptest::collection::vec(any::<u8>(), fixed..=fixed + 96);
        (Just(kind), body, any::<u16>(), any::<u64>())
    })
}

fn table(kind: Kind) -> &'static Table {
    tables().find(|t| t.kind == Some(kind.code())).expect("every kind has a table")
}

proptest! {
    #[test]
    fn any_field_values_survive_decoding_and_encoding((kind, body, flags, tag) in any_datagram()) {
        let original = datagram(kind.code(), flags, tag, &body);
        let decoded = decode(&original).unwrap();
        prop_assert_eq!(decoded.message.kind(), kind);
        prop_assert_eq!(decoded.tail, &original[kind.bytes()..]);

        let mut again = vec![0xee; original.len()];
        let written = decoded.message.encode_with_tail(decoded.tail, &mut again);
        prop_assert_eq!(written, original.len());
        prop_assert_eq!(written, kind.bytes() + decoded.tail.len());
        prop_assert_eq!(&again[..HEADER_BYTES], &original[..HEADER_BYTES]);
        for row in table(kind).rows {
            let at = row.offset..row.offset + row.bytes;
            prop_assert_eq!(&again[at.clone()], kept(row, &original[at]), "{}", row.name);
        }
        prop_assert_eq!(&again[kind.bytes()..], &original[kind.bytes()..]);
        prop_assert_eq!(decode(&again).unwrap(), decoded);
    }

    #[test]
    fn padding_behind_the_length_is_ignored(
        (kind, body, flags, tag) in any_datagram(),
        padding in proptest::collection::vec(any::<u8>(), 1..2000),
    ) {
        let bare = datagram(kind.code(), flags, tag, &body);
        let padded = [bare.clone(), padding].concat();
        prop_assert_eq!(decode(&padded).unwrap(), decode(&bare).unwrap());
    }

    #[test]
    fn the_authenticator_is_ignored((kind, body, flags, tag) in any_datagram(), auth in any::<[u8; 16]>()) {
        let bare = datagram(kind.code(), flags, tag, &body);
        let mut marked = bare.clone();
        marked[16..32].copy_from_slice(&auth);
        prop_assert_eq!(decode(&marked).unwrap(), decode(&bare).unwrap());
    }

    #[test]
    fn any_bytes_give_a_message_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = Header::load(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_good_start_give_a_message_or_a_reason(
        kind in any::<u8>(),
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [&MAGIC.to_be_bytes()[..], &[PROTOCOL_VERSION, kind], &rest].concat();
        if let Ok(decoded) = decode(&bytes) {
            prop_assert_eq!(decoded.message.kind().code(), kind);
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            prop_assert_eq!(decoded.message.kind().bytes() + decoded.tail.len(), length);
        }
    }

    #[test]
    fn any_tail_gives_at_most_the_entries_it_holds(
        tail in proptest::collection::vec(any::<u8>(), 0..600),
        count in any::<u8>(),
    ) {
        let mut seen = 0;
        let rest = node_entries(&tail, count, |_| seen += 1);
        prop_assert_eq!(seen, (tail.len() / NodeEntry::BYTES).min(usize::from(count)));
        prop_assert_eq!(rest, &tail[seen * NodeEntry::BYTES..]);
    }

    #[test]
    fn records_keep_their_fields(raw in proptest::collection::vec(any::<u8>(), TicketBody::BYTES..400)) {
        fn law(table: &Table, raw: &[u8], coded: &[u8]) -> Result<(), TestCaseError> {
            for row in table.rows {
                let at = row.offset..row.offset + row.bytes;
                prop_assert_eq!(&coded[at.clone()], kept(row, &raw[at]), "{}", row.name);
            }
            Ok(())
        }
        let (node, rest) = NodeEntry::decode(&raw).unwrap();
        prop_assert_eq!(rest, &raw[NodeEntry::BYTES..]);
        let mut coded = [0xee; NodeEntry::BYTES];
        node.encode(&mut coded);
        law(&NodeEntry::TABLE, &raw, &coded)?;

        let (extent, rest) = ExtentEntry::decode(&raw).unwrap();
        prop_assert_eq!(rest, &raw[ExtentEntry::BYTES..]);
        let mut coded = [0xee; ExtentEntry::BYTES];
        extent.encode(&mut coded);
        law(&ExtentEntry::TABLE, &raw, &coded)?;

        let (ticket, rest) = TicketBody::decode(&raw).unwrap();
        prop_assert_eq!(rest, &raw[TicketBody::BYTES..]);
        let mut coded = [0xee; TicketBody::BYTES];
        ticket.encode(&mut coded);
        law(&TicketBody::TABLE, &raw, &coded)?;
    }
}

#[test]
fn every_truncation_is_refused() {
    for &kind in Kind::ALL {
        let body = vec![0x5a; kind.bytes() - HEADER_BYTES + 7];
        let whole = datagram(kind.code(), 0, 1, &body);
        assert!(decode(&whole).is_ok());
        for length in 0..whole.len() {
            let expected =
                if length < HEADER_BYTES { Refusal::TooShort } else { Refusal::BadLength };
            assert_eq!(decode(&whole[..length]), Err(expected), "{} cut to {length}", kind.name());
        }
    }
}

#[test]
fn every_length_field_is_believed_only_within_what_arrived() {
    for &kind in Kind::ALL {
        let whole = datagram(kind.code(), 0, 1, &vec![0x5a; kind.bytes() - HEADER_BYTES + 7]);
        for claimed in 0..=u16::MAX {
            let mut bytes = whole.clone();
            bytes[6..8].copy_from_slice(&claimed.to_be_bytes());
            let claimed = usize::from(claimed);
            let result = decode(&bytes);
            if claimed < HEADER_BYTES || claimed > whole.len() {
                assert_eq!(result, Err(Refusal::BadLength), "{} {claimed}", kind.name());
            } else if claimed < kind.bytes() {
                assert_eq!(result, Err(Refusal::TooShort), "{} {claimed}", kind.name());
            } else {
                let tail = result.unwrap().tail.len();
                assert_eq!(tail, claimed - kind.bytes(), "{} {claimed}", kind.name());
            }
        }
    }
}

#[test]
fn records_cut_short_are_none() {
    let raw = [0x5a; TicketBody::BYTES];
    for length in 0..TicketBody::BYTES {
        assert_eq!(NodeEntry::decode(&raw[..length]).is_some(), length >= NodeEntry::BYTES);
        assert_eq!(ExtentEntry::decode(&raw[..length]).is_some(), length >= ExtentEntry::BYTES);
        assert_eq!(TicketBody::decode(&raw[..length]), None);
    }
}

#[test]
fn foreign_datagrams_are_refused_by_name() {
    let body = [0; 300];
    for kind in 0..=u8::MAX {
        let bytes = datagram(kind, 0, 1, &body);
        match Kind::from_code(kind) {
            Some(known) => assert_eq!(decode(&bytes).unwrap().message.kind(), known),
            None => assert_eq!(decode(&bytes), Err(Refusal::UnknownKind), "{kind:#x}"),
        }
    }
    let good = datagram(Read::KIND, 0, 1, &body);
    for at in 0..2 {
        for wrong in (0..=u8::MAX).filter(|&b| b != good[at]) {
            let mut bytes = good.clone();
            bytes[at] = wrong;
            assert_eq!(decode(&bytes), Err(Refusal::BadMagic));
        }
    }
    for version in (0..=u8::MAX).filter(|&v| v != PROTOCOL_VERSION) {
        let mut bytes = good.clone();
        bytes[2] = version;
        assert_eq!(decode(&bytes), Err(Refusal::UnsupportedVersion));
    }
}

#[test]
fn a_message_is_not_read_as_another() {
    let read = datagram(Read::KIND, 0, 1, &[0; 300]);
    assert!(Read::decode(&read).is_ok());
    assert_eq!(ReadData::decode(&read), Err(Refusal::UnknownKind));
    assert_eq!(KeepAlive::decode(&read), Err(Refusal::UnknownKind));
}

#[test]
#[should_panic(expected = "range end index 80 out of range")]
fn encoding_into_too_little_room_is_the_callers_mistake() {
    Read::default().encode(&mut [0; Read::BYTES - 1]);
}

#[test]
fn refusals_have_distinct_labels() {
    let labels: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(labels.len(), Refusal::ALL.len());
    for refusal in Refusal::ALL {
        assert_eq!(refusal.to_string(), refusal.label());
    }
}

#[test]
fn the_tables_are_whole() {
    let all: Vec<&Table> = tables().collect();
    assert_eq!(all.len(), Kind::ALL.len() + 3);
    for table in all {
        let mut at = if table.kind.is_some() { HEADER_BYTES } else { 0 };
        assert!(!table.doc.trim().is_empty(), "{}", table.name);
        for row in table.rows {
            assert_eq!(row.offset, at, "{}.{}", table.name, row.name);
            assert!(row.bytes > 0 && !row.doc.trim().is_empty(), "{}.{}", table.name, row.name);
            let bytes = match row.ty {
                "u8" | "fragment_size" | "login_kind" | "reject_reason" | "busy_reason"
                | "read_error" | "image_mode" | "write_cache_type" | "notice_reason"
                | "close_reason" | "session_role" | "move_reason" => Some(1),
                "u16" => Some(2),
                "u32" => Some(4),
                "u64" | "capabilities" => Some(8),
                "mac" => Some(6),
                "endpoint" => Some(18),
                "content_id" => Some(32),
                "bytes" | "text" | "reserved" => None,
                other => panic!("{}.{}: {other} is no type of the protocol", table.name, row.name),
            };
            assert_eq!(bytes.unwrap_or(row.bytes), row.bytes, "{}.{}", table.name, row.name);
            at += row.bytes;
        }
        assert_eq!(at, table.bytes, "{}", table.name);
        if let Some(code) = table.kind {
            let kind = Kind::from_code(code).unwrap();
            assert_eq!((kind.name(), kind.code(), kind.bytes()), (table.name, code, table.bytes));
        }
    }
}

/// The sides of the protocol, as they follow from the sum of their terms.
#[test]
fn the_longest_control_datagrams_are_what_the_limits_say() {
    let nodes = NODES_MAX * NodeEntry::BYTES;
    let longest = [
        LoginTransfer::BYTES + nodes + TICKET_BYTES_MAX,
        LoginStart::BYTES + TICKET_BYTES_MAX,
        IoServiceStart::BYTES + TICKET_BYTES_MAX,
        HandshakeReply::BYTES + TICKET_BYTES_MAX,
        KeepAliveReply::BYTES + TICKET_BYTES_MAX,
        Notice::BYTES + nodes,
        Extents::BYTES + EXTENTS_MAX * ExtentEntry::BYTES,
    ];
    assert_eq!(longest.iter().max(), Some(&CONTROL_BYTES_MAX), "the login transfer is just full");
    assert!(tables().all(|t| t.bytes <= CONTROL_BYTES_MAX));
}

/// Before a cookie or a tag is echoed, no answer is longer than what it answers (design, section 5).
#[test]
fn no_answer_to_a_stranger_is_longer_than_the_question() {
    let pairs = [
        (Kind::LoginPortRequest, Kind::LoginPortReply),
        (Kind::LoginPortRequest, Kind::LoginBusy),
        (Kind::LoginPortRequest, Kind::LoginReject),
        (Kind::LoginStart, Kind::LoginBusy),
        (Kind::LoginStart, Kind::LoginReject),
        (Kind::IoPortRequest, Kind::IoPortReply),
        (Kind::IoPortRequest, Kind::LoginBusy),
        (Kind::IoServiceStart, Kind::LoginComplete),
        (Kind::IoServiceStart, Kind::LoginBusy),
        (Kind::IoServiceStart, Kind::LoginReject),
        (Kind::SessionClose, Kind::SessionClosed),
        (Kind::PathProbe, Kind::PathProbeReply),
        (Kind::KeepAlive, Kind::KeepAliveReply),
        (Kind::Handshake, Kind::HandshakeReply),
        (Kind::Read, Kind::ReadZero),
        (Kind::Read, Kind::ReadPending),
        (Kind::Read, Kind::ReadBusy),
        (Kind::Read, Kind::ReadError),
    ];
    for (question, answer) in pairs {
        assert!(answer.bytes() <= question.bytes(), "{} {}", question.name(), answer.name());
    }
    for &kind in Kind::ALL {
        let table = tables().find(|t| t.kind == Some(kind.code())).unwrap();
        if table.direction == layout::Direction::ToNode && kind.code() >= VdiskInfoRequest::KIND {
            assert!(UnknownSession::BYTES <= kind.bytes(), "UnknownSession after {}", kind.name());
        }
    }
}
