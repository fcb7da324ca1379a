//! Sends without a copy: which plans can leave so, where their headers lie, and what they hold meanwhile.
//!
//! One registered buffer serves one send, so its blocks must lie in one piece of the arena, and its headers beside them: they
//! are copied from the plan to a slot of this ring's area in that piece. The kernel makes a page fragment of each range, and a
//! datagram train has 17 of them, whatever its bytes: 8 segments of header and data. A send is over with its *notification*,
//! which comes when the network has let go of the bytes; until then the plan keeps its pins and the slot its headers.

use io_uring::{opcode, squeue, types};

use super::op::{Class, Key, tag};
use super::{Completion, Ring, Target, on_target};
use crate::arena::{AREA_BYTES, Arena, PIECE_BYTES};
use crate::errno::Errno;
use crate::send::{Piece, SendPlan};
use crate::zero_copy::{Choice, PathId, TurnCost, Verdict, ZeroCopy};

/// Bytes of headers of one send.
const SLOT_BYTES: usize = 1024;
const SLOTS: u8 = 64;
const _: () = assert!(SLOT_BYTES * SLOTS as usize == AREA_BYTES);
/// Page fragments of one send (`MAX_SKB_FRAGS`, as the kernel is built unless somebody chose more).
const FRAGMENTS_MAX: usize = 17;
/// Payload from which it can pay. Below, what the notification costs is more than the copy.
const BYTES_MIN: usize = 8 * 1024;

/// `sqe->ioprio` of a send: the buffer is registered; report whether it was copied.
const FIXED_BUFFER: u16 = 1 << 2;
const REPORT_USAGE: u16 = 1 << 3;
/// In a notification's result: the kernel copied.
const COPIED: u32 = 1 << 31;

/// What a send without a copy holds besides its plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    slot: u8,
    piece: u16,
    pins: u32,
    path: PathId,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ZeroCopySends {
    choice: Choice,
    /// Ours in every piece; `None` when sends are copied.
    area: Option<u16>,
    free: Vec<u8>,
    pins: u32,
    pins_max: u32,
    /// Payload bytes of all sends queued since the last turn, copied or not.
    queued_bytes: u64,
}

impl ZeroCopySends {
    pub(crate) fn new(mode: ZeroCopy, pins_max: u32, arena: Option<&Arena>) -> ZeroCopySends {
        let area = arena.filter(|_| mode != ZeroCopy::Off && pins_max > 0);
        let area = area.and_then(Arena::claim_area);
        let mode = if area.is_some() { mode } else { ZeroCopy::Off };
        ZeroCopySends {
            choice: Choice::new(mode, crate::clock::now()),
            area,
            free: (0..SLOTS).rev().collect(),
            pins: 0,
            pins_max,
            queued_bytes: 0,
        }
    }

    /// No sends without a copy from here on; those under way go on.
    pub(crate) fn give_up(&mut self) {
        self.choice = Choice::new(ZeroCopy::Off, crate::clock::now());
    }

    /// The ring has ended, and none of its sends is under way.
    pub(crate) fn release_area(&mut self, arena: Option<&Arena>) {
        if let (Some(arena), Some(area)) = (arena, self.area.take()) {
            arena.release_area(area);
        }
    }

    /// What a plan that leaves without a copy holds; `None` when it shall be copied.
    fn claim(&mut self, plan: &SendPlan, arena: &Arena) -> Option<Held> {
        let piece = suitable(plan, arena)?;
        arena.area(piece, self.area?)?;
        let path = self.choice.wants(plan.local.map(|local| local.ip), plan.payload_bytes())?;
        let pins = u32::try_from(plan.pins().len()).expect("PINS_MAX at most");
        if self.pins + pins > self.pins_max {
            return None;
        }
        let slot = self.free.pop()?;
        self.pins += pins;
        let piece = u16::try_from(piece).expect("an arena has fewer pieces than that");
        Some(Held { slot, piece, pins, path })
    }

    fn release(&mut self, held: Held) {
        self.free.push(held.slot);
        self.pins -= held.pins;
    }

    /// Where the headers of a claimed send lie.
    fn headers(&self, held: Held, arena: &Arena) -> *mut u8 {
        let area = self.area.expect("a claim has an area");
        let area = arena.area(usize::from(held.piece), area).expect("checked by the claim");
        arena.address(area + usize::from(held.slot) * SLOT_BYTES, SLOT_BYTES)
    }
}

/// The piece of the arena that the whole plan lies in, if it can leave without a copy at all.
fn suitable(plan: &SendPlan, arena: &Arena) -> Option<usize> {
    if plan.payload_bytes() < BYTES_MIN || plan.scratch().len() > SLOT_BYTES {
        return None;
    }
    let (mut fragments, mut of) = (0, None);
    for piece in plan.pieces() {
        fragments += match *piece {
            Piece::Scratch { .. } => 1,
            Piece::Arena { offset, len } => {
                let (first, last) = (offset, offset + len as usize - 1);
                if last / PIECE_BYTES != *of.get_or_insert(first / PIECE_BYTES)
                    || first / PIECE_BYTES != last / PIECE_BYTES
                {
                    return None;
                }
                last / arena.page_bytes() - first / arena.page_bytes() + 1
            }
        };
    }
    of.filter(|_| fragments <= FRAGMENTS_MAX)
}

impl Ring {
    /// Decides whether a claimed send leaves without a copy, and copies its headers to where they are registered.
    pub(super) fn choose_copy(&mut self, key: Key) {
        let features = self.features;
        let owned = &mut *self.owned;
        let op = owned.sends.get_mut(key);
        owned.zero_copy.queued_bytes += op.plan().payload_bytes() as u64;
        if !features.zero_copy_send || !(features.gso || op.plan().segments() == 1) {
            return;
        }
        let Some(arena) = owned.arena.as_deref() else { return };
        let Some(held) = owned.zero_copy.claim(op.plan(), arena) else { return };
        let headers = owned.zero_copy.headers(held, arena);
        let scratch = op.plan().scratch();
        // SAFETY: the slot has SLOT_BYTES, no fewer than the scratch bytes (`suitable`); it lies in the arena, in the area that
        // this ring alone has claimed, and no send under way uses it (it was free). The plan lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(scratch.as_ptr(), headers, scratch.len()) };
        op.hold(held, headers);
    }

    /// The entry for the one message of a send without a copy.
    pub(super) fn zero_copy_entry(&mut self, key: Key, held: Held) -> squeue::Entry {
        let op = self.owned.sends.get_mut(key);
        let (socket, message) = (op.socket, op.message(0));
        let target = self.target(u32::from(socket.0.index), self.socket_fd(socket));
        let flags = libc::MSG_DONTWAIT.cast_unsigned();
        let entry = on_target!(target, |fd| opcode::SendMsgZc::new(fd, message)
            .flags(flags)
            .ioprio(FIXED_BUFFER | REPORT_USAGE)
            .build());
        with_buffer(entry, held.piece).user_data(tag(Class::Send, key))
    }

    /// A notification: the network has let go of the bytes.
    pub(super) fn reap_notification(&mut self, key: Key, marks: u32) -> Option<Completion> {
        self.stats.zero_copy_notified += 1;
        let op = self.owned.sends.get_mut(key);
        let held = op.held().expect("only a send without a copy is notified of");
        if marks & COPIED != 0 {
            self.stats.zero_copy_copied += 1;
            report(self.owned.zero_copy.choice.failed(held.path));
        }
        self.end_message(key)
    }

    /// The kernel does not take a send without a copy: it goes out again with one. True when the plan is under way again.
    pub(super) fn copy_instead(&mut self, key: Key, error: Errno) -> bool {
        let op = self.owned.sends.get_mut(key);
        let Some(held) = op.held() else { return false };
        match error.0 {
            // No such operation, or none with registered buffers (before Linux 6.15): for good.
            libc::EINVAL | libc::EOPNOTSUPP => {
                tracing::warn!(
                    "the kernel refuses sends without a copy ({error}): all are copied; remedy: Linux 6.15"
                );
                self.features.zero_copy_send = false;
                self.owned.zero_copy.give_up();
            }
            // More fragments than it was built for, or no memory to account for them: for this address.
            libc::EMSGSIZE | libc::ENOMEM | libc::ENOBUFS | libc::EFAULT => {
                report(self.owned.zero_copy.choice.failed(held.path));
            }
            _ => return false,
        }
        self.release_hold(key);
        if !self.has_room(1) {
            return false;
        }
        self.stats.zero_copy_refused += 1;
        self.queue_send(key);
        true
    }

    /// A send is over, or will be copied.
    pub(super) fn release_hold(&mut self, key: Key) {
        let owned = &mut *self.owned;
        if let Some(held) = owned.sends.get_mut(key).let_go() {
            owned.zero_copy.release(held);
        }
    }

    /// Whether the next call's cost is wanted.
    pub(super) fn measures_sends(&self) -> bool {
        self.owned.zero_copy.choice.measuring()
    }

    /// The call that submitted this turn's sends is over.
    pub(super) fn sends_submitted(&mut self, cpu_ns: Option<u64>) {
        let zero_copy = &mut self.owned.zero_copy;
        let bytes = std::mem::take(&mut zero_copy.queued_bytes);
        if bytes == 0 {
            return;
        }
        let cost = cpu_ns.map(|cpu_ns| TurnCost { cpu_ns, bytes });
        if zero_copy.area.is_some() {
            report(zero_copy.choice.turn_over(cost, crate::clock::now()));
        }
    }

    /// Local addresses whose sends leave without a copy now.
    #[must_use]
    pub fn zero_copy_paths(&self) -> usize {
        self.owned.zero_copy.choice.paths_on()
    }

    /// A message of a send has no more completions to come; the send's end, if it was the last.
    pub(super) fn end_message(&mut self, key: Key) -> Option<Completion> {
        let op = self.owned.sends.get_mut(key);
        op.remaining -= 1;
        let (over, error, socket) = (op.remaining == 0, op.error, op.socket);
        if over
            && let Some(error) = error
            && self.goes_again(key, error)
        {
            self.release_socket(socket);
            return None;
        }
        let completion = over.then(|| self.finish_send(key, socket));
        self.release_socket(socket);
        completion
    }

    fn goes_again(&mut self, key: Key, error: Errno) -> bool {
        let segmented = self.owned.sends.get_mut(key).segmented;
        (segmented && error == Errno::EIO && self.downgrade(key)) || self.copy_instead(key, error)
    }
}

fn report(verdict: Option<Verdict>) {
    if let Some(verdict) = verdict {
        tracing::info!("{verdict}");
    }
}

/// Names the registered buffer of a send; the crate's builder of `SENDMSG_ZC` cannot.
fn with_buffer(mut entry: squeue::Entry, buffer: u16) -> squeue::Entry {
    /// `buf_index` in `struct io_uring_sqe` (io_uring_enter(2)): after opcode 1, flags 1, ioprio 2, fd 4, off 8, addr 8, len 4,
    /// flags 4 and user data 8 bytes.
    const BUFFER_INDEX: usize = 40;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() == 8);
    let bytes = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is the kernel's `io_uring_sqe` and nothing else (`repr(C)`, 64 bytes as asserted), plain numbers all of
    // it; bytes 40 and 41 are inside it and aligned for 16 bits.
    unsafe { bytes.wrapping_add(BUFFER_INDEX).cast::<u16>().write(buffer) };
    entry
}
