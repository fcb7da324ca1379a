//! Every bound of the protocol, with its origin, and the arithmetic that ties them together.

use crate::fragment::FragmentSize;
use crate::header::HEADER_BYTES;

/// A unit: the granule of reads, of integrity sums and of zero marks. Derived: the page size and the usual block size of
/// file systems.
pub const UNIT_BYTES: usize = 4096;
/// Logical sector: offsets and lengths of single reads are multiples of it.
pub const SECTOR_BYTES: usize = 512;
/// The longest read of one request. Derived: 64 fragments of 1024 bytes, the width of the wanted-fragments bitmap.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// Units of the longest read: the width of the zero-units bitmap.
pub const READ_UNITS_MAX: usize = READ_BYTES_MAX / UNIT_BYTES;
/// The longest read in single-read mode: one fragment of the smallest size, so that a boot loader needs no reassembly.
pub const SINGLE_READ_BYTES_MAX: usize = 1024;
/// The largest UDP payload over IPv4 (65,535 − 20 − 8), hence of a GSO send.
pub const SEND_BYTES_MAX: usize = 65_507;
/// Segments of one GSO send that every kernel since 4.18 takes (`UDP_MAX_SEGMENTS` was 64 until 6.9, 128 since).
pub const SEND_SEGMENTS_MAX: usize = 64;
/// The largest control datagram: fits IPv6's minimum MTU of 1280 less 40 and 8.
pub const CONTROL_BYTES_MAX: usize = 1232;
/// The largest datagram of any kind that we send unsegmented: 8192 bytes of data and a header, in a 9000-byte MTU.
pub const DATAGRAM_BYTES_MAX: usize = 8192 + crate::ReadData::BYTES;
/// Nodes in one list. PVS: 4 in a BIOS boot strap, 32 in UEFI; 16 keep a login transfer within a control datagram.
pub const NODES_MAX: usize = 16;
/// A sealed ticket at most. Derived: nonce 24 + body + [`NODES_MAX`] nodes + authenticator 16.
pub const TICKET_BYTES_MAX: usize =
    24 + crate::TicketBody::BYTES + NODES_MAX * crate::NodeEntry::BYTES + 16;
/// Extents in one [`crate::Extents`] answer.
pub const EXTENTS_MAX: usize = 64;
/// Ports of a node, the same as PVS's, because firewalls already know them.
pub const LOGIN_PORT: u16 = 6910;
/// First and last streaming port of a node (PVS: 6910–6930, where 6910 is also the login port).
pub const IO_PORTS: (u16, u16) = (6911, 6930);
/// First and last port between nodes.
pub const PEER_PORTS: (u16, u16) = (6890, 6909);
/// A device's own port for login exchanges.
pub const DEVICE_LOGIN_PORT: u16 = 6901;
/// A device's own port for notices that a node sends of its own accord.
pub const DEVICE_NOTICE_PORT: u16 = 6902;
/// A device's own port for vDisk data.
pub const DEVICE_IO_PORT: u16 = 6905;

// IPv6 at the usual MTU: 1500 − 40 − 8 must hold a header and 1376 bytes; so 4 KiB is three fragments, 32 KiB is 24, as
// in PVS (measured there: 23 × 1464 + 440 bytes).
const _: () = assert!(crate::ReadData::BYTES + FragmentSize::B1376.bytes() <= 1500 - 40 - 8);
const _: () = assert!(crate::ReadData::BYTES == 76);
const _: () =
    assert!(FragmentSize::B1376.per_unit() == 3 && FragmentSize::B1376.count(32 * 1024) == 24);
// Three full fragments hold a unit with room: the last carries 1344 bytes and is padded to 1376.
const _: () = assert!(2 * 1376 < UNIT_BYTES && 3 * 1376 >= UNIT_BYTES);
// Jumbo sizes fit a 9000-byte MTU over IPv6 and hold whole units.
const _: () = assert!(crate::ReadData::BYTES + 8192 <= 9000 - 40 - 8);
const _: () = assert!(FragmentSize::B4096.per_unit() == 1 && FragmentSize::B8192.units_each() == 2);
// The wanted bitmap covers the longest read at every size; the zero bitmap covers its units.
const _: () = assert!(FragmentSize::B1024.count(READ_BYTES_MAX) == 64);
const _: () = assert!(FragmentSize::B1376.count(READ_BYTES_MAX) == 48);
const _: () = assert!(READ_UNITS_MAX == 16);
// One send carries 45 fragments of 1376 (15 units, several replies) within both bounds.
const _: () = assert!(FragmentSize::B1376.segments_per_send() == 45);
const _: () = assert!(FragmentSize::B1024.segments_per_send() <= SEND_SEGMENTS_MAX);
// A request is smaller than the smallest fragment's datagram, and a train of 64 requests fits one receive buffer of 8 KiB.
const _: () = assert!(crate::Read::BYTES == 80 && 64 * crate::Read::BYTES <= 8192);
// Nothing larger than the request goes to an address that has not echoed a cookie or a tag.
const _: () = assert!(crate::LoginPortRequest::BYTES >= crate::LoginPortReply::BYTES);
const _: () = assert!(crate::IoPortRequest::BYTES >= crate::IoPortReply::BYTES);
const _: () = assert!(crate::IoServiceStart::BYTES >= crate::LoginComplete::BYTES);
const _: () = assert!(crate::IoServiceStart::BYTES >= crate::LoginReject::BYTES);
const _: () = assert!(crate::LoginPortRequest::BYTES >= crate::LoginReject::BYTES);
const _: () = assert!(crate::LoginPortRequest::BYTES >= crate::LoginBusy::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::Read::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::KeepAlive::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::SessionClose::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::ExtentsRequest::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::PathProbe::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::NoticeAck::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::VdiskInfoRequest::BYTES);
const _: () = assert!(crate::UnknownSession::BYTES <= crate::Handshake::BYTES);
// The largest control messages stay within one unfragmented datagram.
const _: () = assert!(
    crate::LoginTransfer::BYTES + NODES_MAX * crate::NodeEntry::BYTES + TICKET_BYTES_MAX
        <= CONTROL_BYTES_MAX
);
const _: () = assert!(crate::LoginStart::BYTES + TICKET_BYTES_MAX <= CONTROL_BYTES_MAX);
const _: () = assert!(crate::IoServiceStart::BYTES + TICKET_BYTES_MAX <= CONTROL_BYTES_MAX);
const _: () =
    assert!(crate::Extents::BYTES + EXTENTS_MAX * crate::ExtentEntry::BYTES <= CONTROL_BYTES_MAX);
const _: () = assert!(HEADER_BYTES == 32);
