//! Socket options that neither the standard library nor `socket2` sets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const ON: libc::c_int = 1;

/// Joins received datagrams to trains. Linux 5.0.
pub(super) fn set_gro(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_UDP, libc::UDP_GRO, libc::c_int::from(on))
}

/// True when the kernel cuts sends to segments. Linux 4.18.
pub(crate) fn takes_segment_size(fd: BorrowedFd<'_>) -> bool {
    // 0 means none, so the socket stays as it was.
    set(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// True when the kernel joins received datagrams.
pub(crate) fn takes_gro(fd: BorrowedFd<'_>) -> bool {
    set_gro(fd, true).is_ok()
}

pub(super) fn set_packet_info(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    match v6 {
        true => set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, ON),
        false => set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, ON),
    }
}

pub(super) fn set_dont_fragment(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    match v6 {
        true => set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
        false => set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
    }
}

/// 0 leaves the system's default.
pub(super) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    set_buffer(fd, bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)
}

/// 0 leaves the system's default.
pub(super) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    set_buffer(fd, bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)
}

/// The forced option passes the system's limit but needs a capability; the other is cut to the limit.
fn set_buffer(fd: BorrowedFd<'_>, bytes: usize, forced: i32, limited: i32) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // The kernel doubles the value in an int.
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX).min(i32::MAX / 2);
    set(fd, libc::SOL_SOCKET, forced, bytes).or_else(|_| set(fd, libc::SOL_SOCKET, limited, bytes))
}

/// Polls the card's queue when there is nothing to receive, and asks it to hold interrupts back meanwhile. Linux 3.11, 5.11.
pub(super) fn set_busy_poll(fd: BorrowedFd<'_>, micros: u32) -> io::Result<()> {
    let micros = i32::try_from(micros).unwrap_or(i32::MAX);
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros)?;
    set(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, ON)
}

/// The queue by which the last datagram came in; 0 for none. Linux 4.12.
pub(super) fn incoming_queue(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut queue: libc::c_uint = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&queue)).expect("an int is four bytes");
    // SAFETY: the descriptor is open for the borrow; `queue` and `len` are valid, exclusively borrowed, and outlive the call,
    // which writes `len` bytes at most; no crate of ours offers this option.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_NAPI_ID,
            (&raw mut queue).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(queue) }
}

/// What a socket holds and has lost, by `SK_MEMINFO_*` of `linux/sock_diag.h`. Linux 4.12.
const MEMORY_INFO: usize = 9;
/// Bytes that wait to be received, with what the kernel keeps beside them.
const RECEIVE_QUEUE: usize = 0;
/// Datagrams that were dropped since the socket was made.
const DROPS: usize = 8;

/// Bytes that wait to be received, with what the kernel keeps beside them; and datagrams that were dropped, modulo 2^32.
pub(super) fn receive_queue(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = [0u32; MEMORY_INFO];
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).expect("36");
    // SAFETY: the descriptor is open for the borrow; `info` and `len` are valid, exclusively borrowed, and outlive the call,
    // which writes `len` bytes at most; no crate of ours offers this option.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((info[RECEIVE_QUEUE], info[DROPS]))
    }
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is four bytes");
    // SAFETY: the descriptor is open for the borrow, and `value` is readable for `len` bytes during the call; no crate of
    // ours offers these options.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
