//! Sends by hand: one message header and one range of memory each, as bare as the kernel takes them.
//!
//! A slot is off the free list from when its entry is pushed until its last completion (for a send without a copy the
//! notification), so nothing writes to it meanwhile; the memory that is sent is never written after it was filled. Both
//! outlive the ring, which is dropped first (fields are dropped in order) and only when nothing is under way.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use diskstream_ring::{Arena, ArenaConfig, HugePages, UdpSocket};
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::super::gso::{CONTROL_SPACE, control, message};
use crate::random::Random;

/// Sends that may be under way: without a copy they wait for notifications. As `udpstream.c` has it.
const SENDS: usize = 64;
/// Sends that go out with one call.
const BATCH: usize = 16;
/// `sqe->ioprio` of a send: the buffer is registered; report whether it was copied.
const FIXED_BUFFER: u16 = 1 << 2;
const REPORT_USAGE: u16 = 1 << 3;
/// In a notification's result: the kernel copied.
const COPIED: u32 = 1 << 31;
/// Where the index of the registered buffer stands in an entry; the crate does not offer it for this operation.
const BUFFER_INDEX_AT: usize = 40;
const ENTRY_BYTES: usize = 64;
const _: () = assert!(size_of::<squeue::Entry>() == ENTRY_BYTES);

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Payload bytes that the kernel took.
    pub bytes: u64,
    /// Sends that it took.
    pub sends: u64,
    /// Sends that it refused.
    pub errors: u64,
    /// Notifications of sends without a copy, and how many of them say that it copied after all.
    pub notified: u64,
    /// See `notified`.
    pub copied: u64,
}

#[repr(C)]
struct Slot {
    message: libc::msghdr,
    range: libc::iovec,
    control: [u64; CONTROL_SPACE / 8],
}

/// A sender with one connected socket.
pub struct BareSender {
    ring: IoUring,
    slots: Box<[Slot]>,
    free: Vec<u8>,
    memory: Arena,
    /// Of one send: so many bytes, at the next multiple of so many.
    bytes: usize,
    stride: usize,
    next: usize,
    zero_copy: bool,
    reaped: Vec<cqueue::Entry>,
    sent: Sent,
    _socket: UdpSocket,
}

impl BareSender {
    /// Sends `segments` datagrams of `payload` bytes at a time, from `memory_bytes` of memory in turn.
    pub fn new(
        socket: UdpSocket,
        (payload, segments): (u16, usize),
        memory_bytes: usize,
        zero_copy: bool,
    ) -> anyhow::Result<BareSender> {
        let memory = Arena::new(&ArenaConfig { bytes: memory_bytes, huge_pages: HugePages::Auto })?;
        // SAFETY: the arena was just made: nothing else refers to its bytes, and the slice ends with the loop.
        let filled = unsafe { memory.bytes_mut(0, memory_bytes) };
        let mut random = Random::new(1);
        for word in filled.as_chunks_mut::<8>().0 {
            *word = random.bits().to_le_bytes();
        }
        let start = filled.as_mut_ptr();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(1024)
            .build(u32::try_from(SENDS).expect("64"))?;
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        if zero_copy {
            let whole = libc::iovec { iov_base: start.cast(), iov_len: memory_bytes };
            // SAFETY: the range is the arena's mapping, which outlives the ring.
            unsafe { ring.submitter().register_buffers(&[whole]) }?;
        }
        let bytes = usize::from(payload) * segments;
        let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: bytes };
        let make = |_| Slot { message: message(), range: empty, control: control(payload) };
        let mut slots: Box<[Slot]> = (0..SENDS).map(make).collect();
        for slot in &mut slots {
            slot.message.msg_iov = &raw mut slot.range;
            slot.message.msg_iovlen = 1;
            slot.message.msg_control = slot.control.as_mut_ptr().cast();
            slot.message.msg_controllen = CONTROL_SPACE;
        }
        Ok(BareSender {
            ring,
            slots,
            free: (0..u8::try_from(SENDS).expect("64")).rev().collect(),
            memory,
            bytes,
            stride: bytes.next_multiple_of(4096),
            next: 0,
            zero_copy,
            reaped: Vec::with_capacity(1024),
            sent: Sent::default(),
            _socket: socket,
        })
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Sends a batch, and waits until there is room for the next one.
    pub fn batch(&mut self) -> io::Result<()> {
        for _ in 0..BATCH {
            let Some(index) = self.free.pop() else { break };
            let entry = self.entry(index);
            // SAFETY: the entry points to a slot that is off the free list and to memory that nobody writes; see the head of
            // this file.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("there are as many entries as slots");
        }
        self.turn(BATCH)
    }

    /// Waits until nothing is under way.
    pub fn finish(&mut self) -> io::Result<()> {
        self.turn(SENDS)
    }

    fn entry(&mut self, index: u8) -> squeue::Entry {
        if self.next + self.bytes > self.memory.len() {
            self.next = 0;
        }
        // SAFETY: nobody writes to the memory after it was filled.
        let part = unsafe { self.memory.bytes(self.next, self.bytes) };
        self.next += self.stride;
        let slot = &mut self.slots[usize::from(index)];
        slot.range.iov_base = part.as_ptr().cast_mut().cast();
        let message = &raw const slot.message;
        let entry = if self.zero_copy {
            let entry = opcode::SendMsgZc::new(Fixed(0), message);
            with_buffer(entry.ioprio(FIXED_BUFFER | REPORT_USAGE).build(), 0)
        } else {
            opcode::SendMsg::new(Fixed(0), message).build()
        };
        entry.user_data(index.into())
    }

    /// Submits, and reaps until so many slots are free.
    fn turn(&mut self, free: usize) -> io::Result<()> {
        loop {
            let want = free.saturating_sub(self.free.len());
            match self.ring.submit_and_wait(want) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                other => other?,
            };
            let mut reaped = std::mem::take(&mut self.reaped);
            reaped.extend(self.ring.completion());
            for entry in reaped.drain(..) {
                self.count(&entry);
                if !cqueue::more(entry.flags()) {
                    self.free.push(u8::try_from(entry.user_data()).expect("the number of a slot"));
                }
            }
            self.reaped = reaped;
            if self.free.len() >= free {
                return Ok(());
            }
        }
    }

    fn count(&mut self, entry: &cqueue::Entry) {
        if cqueue::notif(entry.flags()) {
            self.sent.notified += 1;
            self.sent.copied += u64::from(entry.result().cast_unsigned() & COPIED != 0);
        } else if let Ok(bytes) = u64::try_from(entry.result()) {
            self.sent.sends += 1;
            self.sent.bytes += bytes;
        } else {
            self.sent.errors += 1;
        }
    }
}

/// Names the registered buffer of an entry.
fn with_buffer(entry: squeue::Entry, index: u16) -> squeue::Entry {
    // SAFETY: an entry is `struct io_uring_sqe`: 64 bytes of plain numbers (its size is asserted above).
    let mut bytes: [u8; ENTRY_BYTES] = unsafe { std::mem::transmute(entry) };
    bytes[BUFFER_INDEX_AT..BUFFER_INDEX_AT + 2].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: as above; every pattern of bytes is an entry.
    unsafe { std::mem::transmute(bytes) }
}
