//! What the kernel is told about a datagram train (`UDP_SEGMENT`), for those who speak to it by hand.

use std::ptr;

/// `CMSG_SPACE(2)`: 16 bytes of header and a 16-bit number, padded to whole words.
pub const CONTROL_SPACE: usize = 24;
/// `CMSG_LEN(2)`.
const CONTROL_LEN: u64 = 18;

/// The control message that cuts a send into datagrams of so many bytes.
#[must_use]
pub fn control(segment_bytes: u16) -> [u64; CONTROL_SPACE / 8] {
    // struct cmsghdr { size_t len; int level; int type; } and the number behind it.
    let mut kind = [0; 8];
    kind[..4].copy_from_slice(&libc::IPPROTO_UDP.to_ne_bytes());
    kind[4..].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    let mut number = [0; 8];
    number[..2].copy_from_slice(&segment_bytes.to_ne_bytes());
    [CONTROL_LEN, u64::from_ne_bytes(kind), u64::from_ne_bytes(number)]
}

/// A message header that names nothing.
#[must_use]
pub fn message() -> libc::msghdr {
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}
