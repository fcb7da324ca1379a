//! Golden bytes: each message and record against a listing that was laid out by hand (`vectors/*.hex`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use diskstream_wire::*;

mod support {
    pub mod vectors;
}
use support::vectors;

const TRANSACTION: u64 = 0x0123_4567_89ab_cdef;
const SESSION_TAG: u64 = 0xa1b2_c3d4_e5f6_0718;
const REQUEST: u64 = 0xf00d_feed_cafe_0042;
const GENERATION: u64 = 0x9f86_d081_884c_7d65;
const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
const R1: Reserved<1> = Reserved;
const CONTENT: ContentId = ContentId([
    0x9f, 0x86, 0xd0, 0x81, 0x88, 0x4c, 0x7d, 0x65, 0x9a, 0x2f, 0xea, 0xa0, 0xc5, 0x5a, 0xd0, 0x15,
    0xa3, 0xbf, 0x4f, 0x1b, 0x2b, 0x0b, 0x82, 0x2c, 0xd1, 0x5d, 0x6c, 0x15, 0xb0, 0xf0, 0x0a, 0x08,
]);

/// `N` bytes that count up from `first`.
fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first + u8::try_from(i).expect("few bytes"))
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an address and a port").into()
}

/// What each listing says, written down a second time as values.
fn login_messages() -> Vec<(&'static str, Message)> {
    vec![
        (
            "LoginPortRequest",
            Message::LoginPortRequest(LoginPortRequest {
                flags: Flags::NONE,
                tag: TRANSACTION,
                mac: MAC,
                login_kind: LoginKind::Reconnect,
                version_min: 1,
                version_max: 3,
                padding: Reserved,
            }),
        ),
        (
            "LoginPortReply",
            Message::LoginPortReply(LoginPortReply {
                flags: Flags::NONE,
                tag: TRANSACTION,
                login: endpoint("10.20.30.40:6910"),
                cookie: counting(0xc0),
                version: 1,
                reserved: Reserved,
            }),
        ),
        (
            "LoginStart",
            Message::LoginStart(LoginStart {
                flags: Flags::NONE,
                tag: TRANSACTION,
                mac: MAC,
                login_kind: LoginKind::Reconnect,
                version: 1,
                capabilities: Capabilities::OURS,
                cookie: counting(0xc0),
                device_nonce: counting(0xd0),
                proof: counting(0xe0),
                vdisk: Text::new("win11-prod"),
                ticket_bytes: 5,
                reserved: Reserved,
            }),
        ),
        (
            "LoginTransfer",
            Message::LoginTransfer(LoginTransfer {
                flags: Flags::NONE,
                tag: TRANSACTION,
                node: endpoint("[2001:db8::7]:6910"),
                vdisk_count: 2,
                image_mode: ImageMode::Standard,
                policy: 1,
                size_bytes: 10 << 30,
                content_id: CONTENT,
                vdisk: Text::new("win11-prod"),
                device_name: Text::new("ws-0042"),
                capabilities: Capabilities(Capabilities::ZERO_MARKS | Capabilities::EXTENTS),
                node_count: 2,
                reserved: R1,
                ticket_bytes: 3,
                ticket_seconds: 7 * 24 * 3600,
            }),
        ),
        (
            "LoginBusy",
            Message::LoginBusy(LoginBusy {
                flags: Flags::NONE,
                tag: TRANSACTION,
                wait_ms: 11_000,
                reason: BusyReason::BootLimit,
                reserved: Reserved,
            }),
        ),
        (
            "LoginReject",
            Message::LoginReject(LoginReject {
                flags: Flags::NONE,
                tag: TRANSACTION,
                reason: RejectReason::DuplicateDevice,
                reserved: Reserved,
                text: Text::new("this MAC is alive at 10.20.30.99; detach it there first"),
            }),
        ),
        (
            "IoPortRequest",
            Message::IoPortRequest(IoPortRequest {
                flags: Flags::NONE,
                tag: TRANSACTION,
                mac: MAC,
                padding: Reserved,
            }),
        ),
        (
            "IoPortReply",
            Message::IoPortReply(IoPortReply {
                flags: Flags::NONE,
                tag: TRANSACTION,
                io: endpoint("10.20.30.40:6911"),
                reserved: Reserved,
            }),
        ),
        (
            "IoServiceStart",
            Message::IoServiceStart(IoServiceStart {
                flags: Flags::NONE,
                tag: TRANSACTION,
                mac: MAC,
                login_kind: LoginKind::Standby,
                version: 1,
                capabilities: Capabilities::OURS,
                device_nonce: counting(0xd0),
                proof: counting(0xe0),
                vdisk: Text::new("win11-prod"),
                ticket_bytes: 4,
                reserved: Reserved,
                former_tag: SESSION_TAG,
                reserved_end: Reserved,
            }),
        ),
        (
            "LoginComplete",
            Message::LoginComplete(LoginComplete {
                flags: Flags::NONE,
                tag: TRANSACTION,
                session: 42,
                boot_device: 1,
                reserved: Reserved,
                session_tag: SESSION_TAG,
                keep_alive_ms: 30_000,
                expiry_ms: 90_000,
                reserved_end: Reserved,
            }),
        ),
        (
            "VdiskInfoRequest",
            Message::VdiskInfoRequest(VdiskInfoRequest {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                padding: Reserved,
            }),
        ),
        (
            "VdiskInfo",
            Message::VdiskInfo(VdiskInfo {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                size_bytes: 10 << 30,
                content_id: CONTENT,
                block_bytes: 64 * 1024,
                version: 3,
                image_mode: ImageMode::Standard,
                write_cache: WriteCacheType::RamOverflow,
                reserved: Reserved,
                write_cache_bytes: 256 << 20,
                vdisk: Text::new("win11-prod"),
            }),
        ),
        (
            "Handshake",
            Message::Handshake(Handshake {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                datagram_bytes: 1452,
                notice_port: 6902,
                window: 64,
                receive_buffer_bytes: 4 << 20,
                capabilities: Capabilities::OURS,
                image_mode: ImageMode::Standard,
                write_cache: WriteCacheType::Ram,
                machine_secret: 1,
                reserved: Reserved,
                write_cache_bytes: 256 << 20,
                vdisk: Text::new("win11-prod"),
                device_name: Text::new("ws-0042"),
                software: Text::new("diskstream-device 0.1.0"),
            }),
        ),
        (
            "HandshakeReply",
            Message::HandshakeReply(HandshakeReply {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                window: 256,
                datagram_bytes: 1452,
                accepted: 1,
                reason: RejectReason::Other(0),
                capabilities: Capabilities(Capabilities::ZERO_MARKS | Capabilities::EXTENTS),
                read_bytes_max: 65_536,
                reads_max: 128,
                unix_seconds: 1_760_000_000,
                ticket_bytes: 3,
                reserved: Reserved,
                ticket_seconds: 7 * 24 * 3600,
            }),
        ),
    ]
}

fn stream_messages() -> Vec<(&'static str, Message)> {
    vec![
        (
            "Read",
            Message::Read(Read {
                flags: Flags::AGAIN,
                tag: SESSION_TAG,
                session: 42,
                fragment_size: FragmentSize::B1376,
                attempt: 1,
                reserved: Reserved,
                request_id: REQUEST,
                generation: GENERATION,
                offset: 0x1234_5000,
                length: 32 * 1024,
                reserved_deadline: Reserved,
                wanted: 0x00ff_ffff,
            }),
        ),
        (
            "Read.single",
            Message::Read(Read {
                flags: Flags::SINGLE,
                tag: SESSION_TAG,
                session: 42,
                fragment_size: FragmentSize::B1024,
                attempt: 0,
                reserved: Reserved,
                request_id: REQUEST + 1,
                generation: GENERATION,
                offset: 512,
                length: 512,
                reserved_deadline: Reserved,
                wanted: 1,
            }),
        ),
        (
            "ReadData",
            Message::ReadData(ReadData {
                flags: Flags::DRAINING,
                tag: SESSION_TAG,
                request_id: REQUEST,
                generation: GENERATION,
                offset: 0x1234_5000 + 2 * 1376,
                fragment: 2,
                pad_bytes: 32,
                data_bytes: 1344,
                unit_sum: 0x8a91_36aa,
                second_unit_sum: 0,
                service_us: 500,
                attempt: 1,
                reserved: Reserved,
            }),
        ),
        (
            "ReadData.jumbo",
            Message::ReadData(ReadData {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST + 2,
                generation: GENERATION,
                offset: 0x1234_5000 + 8192,
                fragment: 1,
                pad_bytes: 0,
                data_bytes: 8192,
                unit_sum: 0x8a91_36aa,
                second_unit_sum: 0x1c2d_3e4f,
                service_us: 12,
                attempt: 0,
                reserved: Reserved,
            }),
        ),
        (
            "ReadZero",
            Message::ReadZero(ReadZero {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST,
                generation: GENERATION,
                offset: 0x1234_5000,
                zero_units: 0b0100_0001,
                attempt: 1,
                reserved: Reserved,
                service_us: 3,
            }),
        ),
        (
            "ReadPending",
            Message::ReadPending(ReadPending {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST,
                waited_ms: 10,
                attempt: 2,
                reserved: Reserved,
            }),
        ),
        (
            "ReadBusy",
            Message::ReadBusy(ReadBusy {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST,
                wait_ms: 20,
                attempt: 3,
                reserved: Reserved,
            }),
        ),
        (
            "ReadError",
            Message::ReadError(ReadError {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST,
                offset: 0x1234_6000,
                length: 4096,
                code: ReadErrorCode::StoreError,
                attempt: 4,
                reserved: Reserved,
            }),
        ),
        (
            "UnknownSession",
            Message::UnknownSession(UnknownSession {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                reserved: Reserved,
                request_id: REQUEST,
            }),
        ),
        (
            "ExtentsRequest",
            Message::ExtentsRequest(ExtentsRequest {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                reserved: Reserved,
                request_id: REQUEST + 3,
                generation: GENERATION,
                offset: 1 << 20,
                length: 1 << 30,
            }),
        ),
        (
            "Extents",
            Message::Extents(Extents {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                request_id: REQUEST + 3,
                generation: GENERATION,
                offset: 1 << 20,
                count: 2,
                reserved: Reserved,
            }),
        ),
    ]
}

fn session_messages() -> Vec<(&'static str, Message)> {
    vec![
        (
            "KeepAlive",
            Message::KeepAlive(KeepAlive {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                sequence: 17,
                write_cache_used_bytes: 16 << 20,
                write_cache_bytes: 256 << 20,
                reads: 100_000,
                retries: 23,
                srtt_us: 250,
                rttvar_us: 50,
                moves: 2,
                write_cache: WriteCacheType::RamOverflow,
                role: SessionRole::Standby,
                moved: MoveReason::NodeSilent,
                reserved: Reserved,
                sum_mismatches: 5,
                outstanding: 32,
                ticket_age_s: 86_400,
                read_us_max: 50_000,
                hedges: 7,
                hedges_won: 6,
                nodes_digest: 0x5eed_0001,
            }),
        ),
        (
            "KeepAliveReply",
            Message::KeepAliveReply(KeepAliveReply {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                sequence: 17,
                ticket_bytes: 4,
                node_count: 0,
                reserved: Reserved,
                unix_seconds: 1_760_000_000,
                ticket_seconds: 604_800,
                reserved_end: Reserved,
            }),
        ),
        (
            "Notice",
            Message::Notice(Notice {
                flags: Flags::DRAINING,
                tag: SESSION_TAG,
                sequence: 6,
                deadline_ms: 15_000,
                reason: NoticeReason::Stopping,
                node_count: 1,
                reserved: Reserved,
            }),
        ),
        (
            "NoticeAck",
            Message::NoticeAck(NoticeAck {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                sequence: 6,
                reserved: Reserved,
            }),
        ),
        (
            "SessionClose",
            Message::SessionClose(SessionClose {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                reason: CloseReason::Moved,
                reserved: Reserved,
            }),
        ),
        (
            "SessionClosed",
            Message::SessionClosed(SessionClosed {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                reason: CloseReason::EndedByNode,
                reserved: Reserved,
            }),
        ),
        (
            "PathProbe",
            Message::PathProbe(PathProbe {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                session: 42,
                sequence: 9,
                probe_bytes: 1472,
                reserved: Reserved,
            }),
        ),
        (
            "PathProbeReply",
            Message::PathProbeReply(PathProbeReply {
                flags: Flags::NONE,
                tag: SESSION_TAG,
                sequence: 9,
                probe_bytes: 1472,
                reserved: Reserved,
            }),
        ),
    ]
}

fn messages() -> Vec<(&'static str, Message)> {
    [login_messages(), stream_messages(), session_messages()].concat()
}

#[test]
fn every_message_is_its_listing() {
    for (name, message) in messages() {
        let listing = vectors::named(name);
        let tail = listing.labelled("tail");
        let beyond = listing.labelled("beyond").len();
        let length = listing.bytes.len() - beyond;

        let mut encoded = vec![0xee; listing.bytes.len()];
        let written = message.encode_with_tail(&tail, &mut encoded);
        assert_eq!(written, message.kind().bytes() + tail.len(), "{name}: bytes written");
        assert_eq!(encoded[..written], listing.bytes[..length], "{name}: encoded");
        assert!(encoded[written..].iter().all(|&b| b == 0xee), "{name}: wrote past its length");

        let decoded = decode(&listing.bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decoded.message, message, "{name}: decoded");
        assert_eq!(decoded.tail, tail, "{name}: tail");
    }
}

#[test]
fn a_head_alone_is_the_start_of_the_datagram() {
    let listing = vectors::named("ReadData");
    let Message::ReadData(data) = decode(&listing.bytes).unwrap().message else {
        panic!("ReadData.hex is another message")
    };
    let mut head = [0xee; ReadData::BYTES];
    data.encode_head(listing.bytes.len(), &mut head);
    assert_eq!(head, listing.bytes[..ReadData::BYTES]);
}

#[test]
fn every_record_is_its_listing() {
    let node = NodeEntry {
        login: endpoint("[2001:db8::7]:6910"),
        rating: 200,
        state: 1,
        reserved: Reserved,
    };
    let extent = ExtentEntry { length: 2 << 20, zero: 1, reserved: Reserved };
    let ticket = TicketBody {
        version: 1,
        flags: 3,
        mac: MAC,
        device_key_hash: counting(0x20),
        farm_epoch: 4,
        issued: 1_760_000_000,
        expires: 1_760_604_800,
        content_id: CONTENT,
        vdisk: Text::new("win11-prod"),
        device_name: Text::new("ws-0042"),
        serial: 0x0bad_c0de_0bad_f00d,
        node_count: 2,
        reserved: Reserved,
    };
    let check = |name: &str, encode: &dyn Fn(&mut [u8]), equal: &dyn Fn(&[u8]) -> bool| {
        let listing = vectors::named(name);
        let mut encoded = vec![0xee; listing.bytes.len()];
        encode(&mut encoded);
        assert_eq!(encoded, listing.bytes, "{name}: encoded");
        assert!(equal(&listing.bytes), "{name}: decoded");
    };
    check("NodeEntry", &|out| node.encode(out), &|b| NodeEntry::decode(b) == Some((node, &[])));
    check("ExtentEntry", &|out| extent.encode(out), &|b| {
        ExtentEntry::decode(b) == Some((extent, &[]))
    });
    check("TicketBody", &|out| ticket.encode(out), &|b| {
        TicketBody::decode(b) == Some((ticket, &[]))
    });
}

#[test]
fn every_field_has_its_line_in_the_listing() {
    let header = ["magic", "version", "kind", "flags", "length", "tag", "auth"];
    let mut listed = BTreeSet::new();
    for listing in vectors::all() {
        let name = &listing.name;
        let table = tables()
            .find(|t| t.name == listing.of())
            .unwrap_or_else(|| panic!("{name}.hex: no such message or record"));
        listed.insert(table.name);
        let mut lines = listing.lines.iter();
        if table.kind.is_some() {
            for label in header {
                assert_eq!(lines.next().unwrap().label, label, "{name}.hex");
            }
        }
        for row in table.rows {
            let line = lines.next().unwrap_or_else(|| panic!("{name}.hex: {} missing", row.name));
            assert_eq!(
                (line.label.as_str(), line.offset, line.bytes),
                (row.name, row.offset, row.bytes),
                "{name}.hex"
            );
        }
        for line in lines {
            assert!(
                table.kind.is_some() && ["tail", "beyond"].contains(&line.label.as_str()),
                "{name}.hex: {} is behind the last field",
                line.label
            );
        }
    }
    let missing: Vec<_> = tables().map(|t| t.name).filter(|n| !listed.contains(n)).collect();
    assert!(missing.is_empty(), "no listing for {missing:?}");
    let valued: BTreeSet<_> = messages().into_iter().map(|(_, m)| m.kind()).collect();
    assert_eq!(valued.len(), Kind::ALL.len(), "every message has its values written down here");
}

#[test]
fn tails_of_listings_hold_the_records_they_say() {
    let listing = vectors::named("LoginTransfer");
    let decoded = decode(&listing.bytes).unwrap();
    let Message::LoginTransfer(transfer) = decoded.message else { panic!("another message") };
    let mut nodes = Vec::new();
    let ticket = node_entries(decoded.tail, transfer.node_count, |n| nodes.push(n));
    let seen: Vec<_> = nodes.iter().map(|n| (n.login, n.rating, n.state)).collect();
    assert_eq!(
        seen,
        [(endpoint("[2001:db8::7]:6910"), 200, 0), (endpoint("10.20.30.41:6910"), 100, 1)]
    );
    assert_eq!(ticket, [0x7a, 0x7b, 0x7c]);
    assert_eq!(ticket.len(), usize::from(transfer.ticket_bytes));

    let listing = vectors::named("Extents");
    let decoded = decode(&listing.bytes).unwrap();
    let (first, rest) = ExtentEntry::decode(decoded.tail).unwrap();
    let (second, rest) = ExtentEntry::decode(rest).unwrap();
    assert_eq!((first.length, first.zero), (2 << 20, 1));
    assert_eq!((second.length, second.zero), (4096, 0));
    assert!(rest.is_empty());
}

#[test]
fn the_generation_of_a_read_is_the_start_of_the_content_id() {
    assert_eq!(CONTENT.generation(), GENERATION);
}
