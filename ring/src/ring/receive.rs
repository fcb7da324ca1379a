//! Receive buffers: who has them, and what the kernel wrote into them.
//!
//! ```text
//! one buffer   header:16  name:32  control:64  payload:recv_buffer_bytes
//! ```
//!
//! That is what a multishot receive writes, given a name of 32 and control messages of 64 bytes. A single receive
//! (the twin) is pointed at the same places and its header is filled in afterwards, so that reading is one piece of code.
//!
//! A buffer is with the kernel (in the buffer ring, or named by an armed single receive), or free (twin only), or with
//! the caller as a [`super::Received`]. Only in the last state does this crate make references to its bytes.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, RecvMsgOut};
use memmap2::{MmapOptions, MmapRaw};

use crate::net::control;

/// Bytes reserved for the sender's address; a `sockaddr_in6` takes 28. 32 keeps the payload aligned to 16.
const NAME_BYTES: usize = 32;
const CONTROL_BYTES: usize = control::RECEIVE_BYTES;
const HEADER_BYTES: usize = 16;
const PAYLOAD_START: usize = HEADER_BYTES + NAME_BYTES + CONTROL_BYTES;
const _: () = assert!(CONTROL_BYTES == 64 && PAYLOAD_START == 112);

/// The buffer group of a ring; it has one.
pub(crate) const GROUP: u16 = 0;

/// All receive buffers of a ring.
#[derive(Debug)]
pub(crate) struct ReceiveBuffers {
    region: MmapRaw,
    stride: usize,
    count: u16,
    payload_bytes: usize,
    /// Where multishot receives take buffers from; `None` in the twin.
    ring: Option<BufferRing>,
    /// Buffers of the twin that no receive names.
    free: Vec<u16>,
    /// Buffers with the caller.
    outstanding: u16,
    /// What a receive operation is told about name and control lengths. Boxed: armed receives point to it.
    template: Box<libc::msghdr>,
    /// The twin's operations, one for each buffer.
    singles: Box<[Single]>,
}

/// The message header of a single receive.
#[derive(Debug)]
struct Single {
    message: libc::msghdr,
    range: libc::iovec,
}

impl ReceiveBuffers {
    /// Maps `count` buffers and hands them to nobody yet.
    pub(crate) fn new(count: u16, payload_bytes: u32, multishot: bool) -> io::Result<Self> {
        let payload_bytes = payload_bytes as usize;
        let stride = (PAYLOAD_START + payload_bytes).next_multiple_of(64);
        let region = anonymous(stride * usize::from(count))?;
        // Receiving must not begin with page faults.
        let _ = region.advise(memmap2::Advice::PopulateWrite);
        let ring = if multishot { Some(BufferRing::new(count)?) } else { None };
        let mut template = Box::new(empty_message());
        template.msg_namelen = u32::try_from(NAME_BYTES).expect("32");
        template.msg_controllen = CONTROL_BYTES;
        let singles = if multishot { 0 } else { count };
        let singles = (0..singles)
            .map(|_| Single {
                message: empty_message(),
                range: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            })
            .collect();
        let free = if multishot { Vec::new() } else { (0..count).rev().collect() };
        Ok(ReceiveBuffers {
            region,
            stride,
            count,
            payload_bytes,
            ring,
            free,
            outstanding: 0,
            template,
            singles,
        })
    }

    /// Address and entries of the buffer ring, to register.
    pub(crate) fn buffer_ring(&self) -> Option<(u64, u16)> {
        self.ring.as_ref().map(|ring| (ring.entries.as_mut_ptr() as u64, ring.mask + 1))
    }

    /// Hands all buffers to the registered buffer ring.
    pub(crate) fn publish_all(&mut self) {
        for buffer in 0..self.count {
            self.give_to_kernel(buffer);
        }
    }

    /// What multishot receives point to.
    pub(crate) fn template(&self) -> *const libc::msghdr {
        &raw const *self.template
    }

    /// Buffers with the caller.
    pub(crate) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// False when a receive armed now would find no buffer.
    pub(crate) fn available(&self) -> bool {
        match self.ring {
            Some(_) => self.outstanding < self.count,
            None => !self.free.is_empty(),
        }
    }

    /// Takes a free buffer for a single receive, and prepares its message header.
    pub(crate) fn arm_single(&mut self) -> Option<(u16, *mut libc::msghdr)> {
        let buffer = self.free.pop()?;
        let start = self.start(buffer);
        let single = &mut self.singles[usize::from(buffer)];
        single.range.iov_base = start.wrapping_add(PAYLOAD_START).cast();
        single.range.iov_len = self.payload_bytes;
        single.message = libc::msghdr {
            msg_name: start.wrapping_add(HEADER_BYTES).cast(),
            msg_iov: &raw mut single.range,
            msg_iovlen: 1,
            msg_control: start.wrapping_add(HEADER_BYTES + NAME_BYTES).cast(),
            ..*self.template
        };
        Some((buffer, &raw mut single.message))
    }

    /// A single receive is over without data.
    pub(crate) fn disarm_single(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// A single receive delivered `payload_bytes`: writes the header that a multishot receive would have written.
    /// Returns the bytes of the buffer in use.
    pub(crate) fn finish_single(&mut self, buffer: u16, payload_bytes: u32) -> usize {
        let message = &self.singles[usize::from(buffer)].message;
        let words: [u32; 4] = [
            message.msg_namelen,
            u32::try_from(message.msg_controllen).expect("at most what was offered"),
            payload_bytes,
            message.msg_flags.cast_unsigned(),
        ];
        let len = PAYLOAD_START + payload_bytes as usize;
        let start = self.start(buffer).cast::<[u32; 4]>();
        // SAFETY: the buffer begins at `start`, is aligned to 64 bytes and longer than its header; its receive is over, so
        // the kernel does not touch it, and it was not handed to the caller yet, so no reference to it exists.
        unsafe { start.write(words) };
        len
    }

    /// Counts a buffer as the caller's.
    pub(crate) fn hand_out(&mut self) {
        self.outstanding += 1;
    }

    /// Reads a filled buffer of which `len` bytes are in use; `None` when the kernel's numbers make no sense.
    pub(crate) fn parse(&self, buffer: u16, len: usize) -> Option<RecvMsgOut<'_>> {
        RecvMsgOut::parse(self.bytes(buffer, len), &self.template).ok()
    }

    /// The payload of a buffer that the caller holds.
    pub(crate) fn payload(&self, buffer: u16, payload_bytes: u32) -> &[u8] {
        &self.bytes(buffer, PAYLOAD_START + payload_bytes as usize)[PAYLOAD_START..]
    }

    /// Takes a buffer back from the caller.
    pub(crate) fn take_back(&mut self, buffer: u16) {
        assert!(self.outstanding > 0, "a buffer was given back twice");
        self.outstanding -= 1;
        if self.ring.is_some() {
            self.give_to_kernel(buffer);
        } else {
            self.free.push(buffer);
        }
    }

    fn give_to_kernel(&mut self, buffer: u16) {
        let start = self.start(buffer);
        let len = PAYLOAD_START + self.payload_bytes;
        let len = u32::try_from(len).expect("bounded by the configuration's check");
        let ring = self.ring.as_mut().expect("only multishot receives take buffers by themselves");
        ring.publish(start as u64, len, buffer);
    }

    fn start(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < self.count, "the kernel named a buffer that does not exist");
        self.region.as_mut_ptr().wrapping_add(usize::from(buffer) * self.stride)
    }

    fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(len <= self.stride, "a receive is longer than its buffer");
        let start = self.start(buffer);
        // SAFETY: the buffer lies in the mapping, which lives as long as `self`, and `len` bytes are inside it (asserted).
        // The kernel filled it and does not touch it again before `give_to_kernel` or `arm_single`, which need `&mut self`
        // and hence the end of this borrow.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

/// The ring through which the kernel is given buffers (`IORING_REGISTER_PBUF_RING`).
#[derive(Debug)]
struct BufferRing {
    /// Page-aligned array of entries; the kernel reads it, we write it.
    entries: MmapRaw,
    mask: u16,
    tail: u16,
}

impl BufferRing {
    fn new(count: u16) -> io::Result<BufferRing> {
        let slots = count.next_power_of_two();
        let entries = anonymous(usize::from(slots) * size_of::<BufRingEntry>())?;
        Ok(BufferRing { entries, mask: slots - 1, tail: 0 })
    }

    fn publish(&mut self, address: u64, len: u32, buffer: u16) {
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        let slot = base.wrapping_add(usize::from(self.tail & self.mask));
        // SAFETY: the slot is inside the mapping (masked), aligned, and zeroed or written before, hence a valid entry. The
        // kernel does not read it before the tail passes it. It holds at most as many buffers as it has slots, so the
        // slot is not one that the kernel has yet to read.
        let entry = unsafe { &mut *slot };
        entry.set_addr(address);
        entry.set_len(len);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the address of the first entry of a mapped, initialized buffer ring.
        let tail = unsafe { BufRingEntry::tail(base) }.cast_mut();
        // SAFETY: the tail is two aligned bytes of the mapping that this thread alone writes, always atomically; the
        // kernel only reads them.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // Release: pairs with the kernel's acquire of the tail, so that it sees the entry.
        tail.store(self.tail, Ordering::Release);
    }
}

fn anonymous(len: usize) -> io::Result<MmapRaw> {
    Ok(MmapOptions::new().len(len).map_anon()?.into())
}

pub(crate) fn empty_message() -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}
