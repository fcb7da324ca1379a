//! The entry of a send without a copy, and whether the kernel takes it, found out without sending anything.

use io_uring::{IoUring, opcode, squeue, types};

use crate::ring::receive::empty_message;

/// `sqe->ioprio` of a send: the buffer is registered; report whether it was copied.
const FIXED_BUFFER: u16 = 1 << 2;
const REPORT_USAGE: u16 = 1 << 3;

/// From the registered buffer of that index, with a report about copies; the crate's builder of `SENDMSG_ZC` cannot name a buffer.
pub(super) fn from_buffer(send: opcode::SendMsgZc, buffer: u16) -> squeue::Entry {
    /// `buf_index` in `struct io_uring_sqe` (io_uring_enter(2)): after opcode 1, flags 1, ioprio 2, fd 4, off 8, addr 8, len 4,
    /// flags 4 and user data 8 bytes.
    const BUFFER_INDEX: usize = 40;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() == 8);
    let flags = libc::MSG_DONTWAIT.cast_unsigned();
    let mut entry = send.flags(flags).ioprio(FIXED_BUFFER | REPORT_USAGE).build();
    let bytes = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is the kernel's `io_uring_sqe` and nothing else (`repr(C)`, 64 bytes as asserted), plain numbers all of
    // it; bytes 40 and 41 are inside it and aligned for 16 bits.
    unsafe { bytes.wrapping_add(BUFFER_INDEX).cast::<u16>().write(buffer) };
    entry
}

/// True from Linux 6.15 on. Asks with a send to no descriptor at all: kernels before (6.1 brought the operation) refuse the
/// combination when they read the entry (`EINVAL`, or `EFAULT` as this ring has no buffers), later ones get as far as to miss the
/// descriptor (`EBADF`).
pub(crate) fn takes_registered_buffers(mut ring: IoUring) -> bool {
    let mut byte = 0_u8;
    let mut range = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = empty_message();
    (message.msg_iov, message.msg_iovlen) = (&raw mut range, 1);
    let entry = from_buffer(opcode::SendMsgZc::new(types::Fd(-1), &raw const message), 0);
    // SAFETY: the message, its range and the byte outlive the ring, which this function drops; nothing is sent from them, for
    // there is no socket.
    if unsafe { ring.submission().push(&entry) }.is_err() || ring.submit_and_wait(1).is_err() {
        return false;
    }
    let result = ring.completion().next().map(|completion| completion.result());
    drop(ring);
    result == Some(-libc::EBADF)
}
