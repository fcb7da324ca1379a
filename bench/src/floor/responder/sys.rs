//! `io_uring` by hand, with as little around it as can be: see the module above.
//!
//! The kernel reads a slot (message header, name, control message, ranges, headers) and the image from when an entry is pushed
//! until that send's completion. A slot is off the free list as long, so nothing writes to it; the image is never written
//! after it was loaded; both live in the ring's owner and are dropped after the ring (fields are dropped in order).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context;
use diskstream_ring::{Arena, ArenaConfig, Backing, HugePages, UdpSocket};
use io_uring::types::{BufRingEntry, Fixed, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::super::bare::{Cut, HEADER_BYTES, Header, Request};
use super::super::gso::{CONTROL_SPACE, control, message};

/// Sends under way at once, and entries of the submission queue: 8 reads of 1 MiB have 136. Guessed: many times that.
const SENDS: usize = 2048;
/// Completions that may wait.
const COMPLETIONS: u32 = 8192;
/// Receive buffers, and the bytes of each: a request is 16 bytes behind 32 of the kernel's. As in `udprr.c`.
const BUFFERS: u16 = 512;
const BUFFER_BYTES: usize = 256;
/// Segments of a send at most ([`Cut::new`]).
const SEGMENTS: usize = 64;
/// Bytes of a `sockaddr_in6`, the longest that comes.
const NAME_BYTES: usize = 28;
/// Marks the receive among the completions; sends are marked with their slots.
const RECEIVE: u64 = u64::MAX;

/// An image in memory, in huge pages where there are any. Nobody writes to it once it is loaded.
pub struct Image {
    arena: Arena,
    len: usize,
}

impl Image {
    /// Reads a file.
    ///
    /// # Errors
    /// When there is no room for it, or it cannot be read.
    pub fn load(path: &Path) -> anyhow::Result<Image> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let len = usize::try_from(file.metadata()?.len()).context("an image beyond all memory")?;
        let arena = Arena::new(&ArenaConfig { bytes: len, huge_pages: HugePages::Auto })?;
        // SAFETY: the arena was just made, so nothing else refers to its bytes, and the slice ends with this function.
        let bytes = unsafe { arena.bytes_mut(0, len) };
        file.read_exact(bytes).with_context(|| format!("reading {}", path.display()))?;
        Ok(Image { arena, len })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: only `load` writes, before there is an `Image`.
        unsafe { self.arena.bytes(0, self.len) }
    }

    /// Which pages it has.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.arena.backing()
    }
}

/// Whoever asked.
#[derive(Clone, Copy)]
pub struct Peer {
    name: [u8; NAME_BYTES],
    len: u32,
}

/// All that the kernel reads for one send.
#[repr(C)]
struct Slot {
    message: libc::msghdr,
    control: [u64; CONTROL_SPACE / 8],
    name: [u8; NAME_BYTES],
    ranges: [libc::iovec; 2 * SEGMENTS],
    headers: [[u8; HEADER_BYTES]; SEGMENTS],
}

/// The buffer ring's entries: 16 bytes each, in whole pages.
#[repr(C, align(4096))]
struct BufferEntries([[u64; 2]; BUFFERS as usize]);

/// A ring with one socket.
pub struct BareRing {
    /// First, so that it is dropped first: it waits for nothing, but the process ends with it.
    ring: IoUring,
    entries: Box<BufferEntries>,
    tail: u16,
    buffers: Box<[[u8; BUFFER_BYTES]]>,
    template: Box<libc::msghdr>,
    armed: bool,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    reaped: Vec<cqueue::Entry>,
    image: Image,
    cut: Cut,
    _socket: UdpSocket,
}

impl BareRing {
    /// A ring that serves `image` through `socket`.
    pub fn new(socket: UdpSocket, image: Image, cut: Cut) -> io::Result<BareRing> {
        assert!(cut.segments <= SEGMENTS);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(u32::try_from(SENDS).expect("2048"))?;
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        let entries = Box::new(BufferEntries([[0; 2]; BUFFERS as usize]));
        let address = ptr::from_ref(&*entries) as u64;
        // SAFETY: the entries are page-aligned, zeroed, `BUFFERS` long, and live in a box beside the ring, which is dropped first.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, BUFFERS, 0, 0) }?;
        let mut template = Box::new(message());
        template.msg_namelen = u32::try_from(NAME_BYTES).expect("28");
        let mut bare = BareRing {
            ring,
            entries,
            tail: 0,
            buffers: vec![[0; BUFFER_BYTES]; usize::from(BUFFERS)].into(),
            template,
            armed: false,
            slots: slots(cut),
            free: (0..u16::try_from(SENDS).expect("2048")).rev().collect(),
            reaped: Vec::with_capacity(COMPLETIONS as usize),
            image,
            cut,
            _socket: socket,
        };
        for buffer in 0..BUFFERS {
            bare.give(buffer);
        }
        bare.publish();
        Ok(bare)
    }

    /// Which pages the image has.
    pub fn backing(&self) -> Backing {
        self.image.backing()
    }

    /// Submits what was pushed, waits for something, and hands out the requests that have arrived.
    pub fn turn(&mut self, mut on_request: impl FnMut(Peer, Request)) -> io::Result<()> {
        if !self.armed {
            let receive = opcode::RecvMsgMulti::new(Fixed(0), &raw const *self.template, 0)
                .build()
                .user_data(RECEIVE);
            self.push(&receive);
            self.armed = true;
        }
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut given = false;
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion());
        for entry in reaped.drain(..) {
            if entry.user_data() == RECEIVE {
                self.armed = cqueue::more(entry.flags());
                // No free buffer ends the receive; it is armed again, and what waits in the socket comes then.
                let (Some(buffer), Ok(len)) =
                    (cqueue::buffer_select(entry.flags()), usize::try_from(entry.result()))
                else {
                    continue;
                };
                if let Some((peer, request)) = self.read(buffer, len) {
                    on_request(peer, request);
                }
                self.give(buffer);
                given = true;
            } else {
                // A send that failed was a read that is not answered: its client asks again.
                self.free.push(u16::try_from(entry.user_data()).expect("the number of a slot"));
            }
        }
        self.reaped = reaped;
        if given {
            self.publish();
        }
        Ok(())
    }

    fn read(&self, buffer: u16, len: usize) -> Option<(Peer, Request)> {
        let bytes = self.buffers[usize::from(buffer)].get(..len)?;
        let parsed = RecvMsgOut::parse(bytes, &self.template).ok()?;
        let request = Request::parse(parsed.payload_data())?;
        let from = parsed.name_data();
        let mut peer = Peer { name: [0; NAME_BYTES], len: u32::try_from(from.len()).ok()? };
        peer.name.get_mut(..from.len())?.copy_from_slice(from);
        request.is_within(self.image.len as u64).then_some((peer, request))
    }

    /// Pushes one send of a read's bytes from `next` on; gives what comes after them. None: no send is free.
    pub fn send(&mut self, to: &Peer, request: &Request, next: u32) -> Option<u32> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.name = to.name;
        slot.message.msg_namelen = to.len;
        let data = self.cut.data;
        let first = usize::try_from(request.offset).expect("inside the image");
        let (length, mut at) = (request.length as usize, next as usize);
        let image = self.image.bytes();
        let mut segments = 0;
        while at < length && segments < self.cut.segments {
            let number = u32::try_from(at / data).expect("at most 1 MiB");
            let header = Header { tag: request.tag, number, length: request.length };
            slot.headers[segments] = header.bytes();
            let part = &image[first + at..first + length.min(at + data)];
            let range = &mut slot.ranges[2 * segments + 1];
            range.iov_base = part.as_ptr().cast_mut().cast();
            range.iov_len = part.len();
            at += part.len();
            segments += 1;
        }
        slot.message.msg_iovlen = 2 * segments;
        slot.message.msg_controllen = if segments > 1 { CONTROL_SPACE } else { 0 };
        let entry = opcode::SendMsg::new(Fixed(0), &raw const slot.message).build();
        self.push(&entry.user_data(index.into()));
        Some(u32::try_from(at).expect("at most 1 MiB"))
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to (the template, or a slot that is off the free list, and the image) lives in boxes
        // of this value, is not written until the completion, and outlives the ring; see the head of this file.
        let pushed = unsafe { self.ring.submission().push(entry) };
        if pushed.is_err() {
            // Full: the entries before it go out. What does not go out now is refused for good.
            let _ = self.ring.submit();
            // SAFETY: as above.
            let again = unsafe { self.ring.submission().push(entry) };
            again.expect("the queue was emptied");
        }
    }

    /// Puts a buffer behind the others; the kernel sees it after [`BareRing::publish`].
    fn give(&mut self, buffer: u16) {
        let address = self.buffers[usize::from(buffer)].as_ptr() as u64;
        let slot = usize::from(self.tail % BUFFERS);
        let base = (&raw mut *self.entries).cast::<BufRingEntry>();
        // SAFETY: `slot` is below `BUFFERS`, which is how many entries there are; an entry is 16 bytes of plain numbers, and the
        // kernel does not read it before the tail has passed it (there are as many buffers as entries).
        let entry = unsafe { &mut *base.wrapping_add(slot) };
        entry.set_addr(address);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("256"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        let base = (&raw mut *self.entries).cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of a registered buffer ring.
        let tail = unsafe { BufRingEntry::tail(base) }.cast_mut();
        // SAFETY: the tail is two aligned bytes inside the entries, written by this thread alone, always atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // Release: pairs with the kernel's acquire of the tail, so that it sees the entries.
        tail.store(self.tail, Ordering::Release);
    }
}

/// The sends, with everything in them that does not change.
fn slots(cut: Cut) -> Box<[Slot]> {
    let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let make = |_| Slot {
        message: message(),
        control: [0; CONTROL_SPACE / 8],
        name: [0; NAME_BYTES],
        ranges: [empty; 2 * SEGMENTS],
        headers: [[0; HEADER_BYTES]; SEGMENTS],
    };
    let mut slots: Box<[Slot]> = (0..SENDS).map(make).collect();
    let segment = u16::try_from(cut.payload).expect("a datagram fits 16 bits");
    for slot in &mut slots {
        slot.control = control(segment);
        slot.message.msg_name = slot.name.as_mut_ptr().cast();
        slot.message.msg_iov = slot.ranges.as_mut_ptr();
        slot.message.msg_control = slot.control.as_mut_ptr().cast();
        for (range, header) in slot.ranges.chunks_exact_mut(2).zip(&mut slot.headers) {
            range[0].iov_base = header.as_mut_ptr().cast();
            range[0].iov_len = HEADER_BYTES;
        }
    }
    slots
}
