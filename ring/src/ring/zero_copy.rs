//! Sends without a copy: which plans can leave so, where their headers lie, and what they hold meanwhile.
//!
//! One registered buffer serves one send, so its blocks must lie in one piece of the arena, and its headers beside them: they
//! are copied from the plan to a slot of this ring's area in that piece. The kernel makes a page fragment of each range, and a
//! datagram train has 17 of them, whatever its bytes: 8 segments of header and data. A send is over with its *notification*,
//! which comes when the network has let go of the bytes; until then the plan keeps its pins and the slot its headers.
//!
//! **What it costs a socket's send buffer.** The kernel charges a fragment that lies at offset `o` of a huge page, `n` bytes long,
//! with `o + n` bytes, whole pages (`io_sg_from_iter`): a train of seven pieces from anywhere in 2 MiB pages costs 7 MiB for 57 KiB,
//! until the card is done with it. Past the buffer every send of that socket is `EAGAIN`. So a socket gets a larger buffer while
//! its sends leave without a copy, and what they are charged is summed up here: past that surplus sends are copied, and the buffer
//! that the socket had before is left to those. Pages of 1 GiB cost 512 MiB a fragment: no sends without a copy.

use io_uring::{opcode, squeue, types};

use super::op::{Class, Key, tag};
use super::{Completion, Completions, Ring, RingError, SocketSlot, Target, on_target};
use crate::arena::{AREA_BYTES, Arena, Backing, PIECE_BYTES};
use crate::errno::Errno;
use crate::send::{Piece, SendPlan};
use crate::zero_copy::{Choice, PathId, TurnCost, Verdict, ZeroCopy};

mod entry;
pub(crate) use entry::takes_registered_buffers;

/// Bytes of headers of one send.
const SLOT_BYTES: usize = 1024;
const SLOTS: u8 = 64;
const _: () = assert!(SLOT_BYTES * SLOTS as usize == AREA_BYTES);
/// Page fragments of one send (`MAX_SKB_FRAGS`, as the kernel is built unless somebody chose more).
const FRAGMENTS_MAX: usize = 17;
/// Payload from which it can pay. Below, what the notification costs is more than the copy.
const BYTES_MIN: usize = 8 * 1024;

/// What a fragment's charge is counted within, whatever the arena was asked for: the kernel may have joined its pages to 2 MiB ones
/// by itself.
const FOLIO_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;
/// Send buffer wanted for sends without a copy. Derived: what the 64 slots cost with seven pieces each, anywhere in 2 MiB pages (the
/// mean is 7.2 MiB), rounded up. It is an allowance, not memory.
const CREDIT_BYTES: usize = 512 << 20;

/// In a notification's result: the kernel copied.
const COPIED: u32 = 1 << 31;

/// What a send without a copy holds besides its plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    slot: u8,
    piece: u16,
    pins: u32,
    /// Bytes of the socket's send buffer.
    charge: usize,
    path: PathId,
}

/// What a socket's send buffer has for sends without a copy, besides what it had before.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    /// It was asked for.
    asked: bool,
    bytes: usize,
    /// Charged by sends under way.
    used: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ZeroCopySends {
    choice: Choice,
    /// Ours in every piece; `None` when sends are copied.
    area: Option<u16>,
    /// Binary logarithm of the bytes of the arena's pages.
    page_shift: u32,
    free: Vec<u8>,
    pins: u32,
    pins_max: u32,
    /// Payload bytes of all sends queued since the last turn, copied or not.
    queued_bytes: u64,
    /// Turns until the clock is read again, for verdicts to be looked at again.
    clock_in: u8,
    /// Some socket has a larger send buffer than it was made with.
    widened: bool,
    /// The log has a line that a send buffer cannot be large enough.
    told_small: bool,
}

impl ZeroCopySends {
    pub(crate) fn new(mode: ZeroCopy, pins_max: u32, arena: Option<&Arena>) -> ZeroCopySends {
        let wanted = arena.filter(|_| mode != ZeroCopy::Off && pins_max > 0);
        let arena = wanted.filter(|arena| arena.backing() != Backing::OneGiB);
        if wanted.is_some() && arena.is_none() {
            tracing::warn!(
                "all sends are copied: the arena lies in 1 GiB pages, of which one send without a copy would fill any send \
                 buffer; remedy: 2 MiB pages"
            );
        }
        let area = arena.and_then(Arena::claim_area);
        let mode = if area.is_some() { mode } else { ZeroCopy::Off };
        ZeroCopySends {
            choice: Choice::new(mode, crate::clock::now()),
            area,
            page_shift: arena.map_or(0, |arena| arena.page_bytes().trailing_zeros()),
            free: (0..SLOTS).rev().collect(),
            pins: 0,
            pins_max,
            queued_bytes: 0,
            clock_in: 0,
            widened: false,
            told_small: false,
        }
    }

    /// No sends without a copy from here on; those under way go on.
    pub(crate) fn give_up(&mut self) {
        self.choice.give_up();
    }

    /// The ring has ended, and none of its sends is under way.
    pub(crate) fn release_area(&mut self, arena: Option<&Arena>) {
        if let (Some(arena), Some(area)) = (arena, self.area.take()) {
            arena.release_area(area);
        }
    }

    /// What a plan that leaves without a copy holds; `None` when it shall be copied. The cheap questions come first: with zero
    /// copy off, or of no use, that is all there is to it.
    fn claim(&mut self, plan: &SendPlan, arena: &Arena, slot: &mut SocketSlot) -> Option<Held> {
        let area = self.area?;
        let path = self.choice.considers(plan.local.map(|local| local.ip))?;
        let Shape { piece, headers, charge } = suitable(plan, self.page_shift)?;
        let area = arena.area(piece, area)?;
        let pins = u32::try_from(plan.pins().len()).expect("PINS_MAX at most");
        let &free = self.free.last()?;
        let header_end = area + (usize::from(free) + 1) * SLOT_BYTES;
        let charge = charge + headers * charge_of(header_end - SLOT_BYTES, SLOT_BYTES) + PAGE_BYTES;
        if self.pins + pins > self.pins_max || !self.has_credit(slot, charge) {
            return None;
        }
        if !self.choice.wants(path, plan.payload_bytes()) {
            return None;
        }
        self.free.pop();
        self.pins += pins;
        slot.credit.used += charge;
        let piece = u16::try_from(piece).expect("an arena has fewer pieces than that");
        Some(Held { slot: free, piece, pins, charge, path })
    }

    fn release(&mut self, held: Held, credit: &mut Credit) {
        self.free.push(held.slot);
        self.pins -= held.pins;
        credit.used -= held.charge;
    }

    /// Whether the socket's send buffer takes so much more, after it was asked to be larger.
    fn has_credit(&mut self, slot: &mut SocketSlot, charge: usize) -> bool {
        let SocketSlot { socket, credit, .. } = slot;
        if !credit.asked {
            (credit.asked, self.widened) = (true, true);
            credit.bytes = socket.widen_send_buffer(CREDIT_BYTES);
            if credit.bytes < CREDIT_BYTES && !std::mem::replace(&mut self.told_small, true) {
                tracing::warn!(
                    granted_bytes = credit.bytes,
                    wanted_bytes = CREDIT_BYTES,
                    "fewer sends than could leave without a copy, or none: the send buffer of {} takes no more; \
                     remedy: CAP_NET_ADMIN, or a larger net.core.wmem_max",
                    socket.local_addr()
                );
            }
        }
        credit.used + charge <= credit.bytes
    }

    /// Where the headers of a claimed send lie.
    fn headers(&self, held: Held, arena: &Arena) -> *mut u8 {
        let area = self.area.expect("a claim has an area");
        let area = arena.area(usize::from(held.piece), area).expect("checked by the claim");
        arena.address(area + usize::from(held.slot) * SLOT_BYTES, SLOT_BYTES)
    }
}

/// A plan that can leave without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// The piece of the arena that all of it lies in.
    piece: usize,
    /// Fragments that come from the plan itself.
    headers: usize,
    /// What the others are charged with.
    charge: usize,
}

/// What the plan is, if it can leave without a copy at all, from an arena of pages of this size.
fn suitable(plan: &SendPlan, page_shift: u32) -> Option<Shape> {
    if plan.pieces().len() > FRAGMENTS_MAX
        || plan.payload_bytes() < BYTES_MIN
        || plan.scratch().len() > SLOT_BYTES
    {
        return None;
    }
    let (mut headers, mut fragments, mut charge, mut of) = (0, 0, 0, None);
    for piece in plan.pieces() {
        match *piece {
            Piece::Scratch { .. } => headers += 1,
            Piece::Arena { offset, len } => {
                let (first, last) = (offset, offset + len as usize - 1);
                if last / PIECE_BYTES != *of.get_or_insert(first / PIECE_BYTES)
                    || first / PIECE_BYTES != last / PIECE_BYTES
                {
                    return None;
                }
                fragments += (last >> page_shift) - (first >> page_shift) + 1;
                charge += charge_of(offset, len as usize);
            }
        }
    }
    let piece = of.filter(|_| headers + fragments <= FRAGMENTS_MAX)?;
    Some(Shape { piece, headers, charge })
}

/// What the kernel charges a range of the arena with, at most: for each page the range's end in it, as whole small pages.
fn charge_of(offset: usize, len: usize) -> usize {
    let (first, last) = (offset / FOLIO_BYTES, (offset + len - 1) / FOLIO_BYTES);
    let end = offset + len - last * FOLIO_BYTES;
    (last - first) * FOLIO_BYTES + end.next_multiple_of(PAGE_BYTES)
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
        let slot = owned.sockets.get_mut(op.socket.0).expect("a socket outlives its sends");
        let Some(held) = owned.zero_copy.claim(op.plan(), arena, slot) else { return };
        let headers = owned.zero_copy.headers(held, arena);
        let scratch = op.plan().scratch();
        // SAFETY: the slot has SLOT_BYTES, no fewer than the scratch bytes (`suitable`); it lies in the arena, in the area that
        // this ring alone has claimed, and no send under way uses it (it was free). The plan lies elsewhere. No disk read writes
        // there (`Ring::read` refuses), and nobody has a reference to it (`Arena::bytes`).
        unsafe { std::ptr::copy_nonoverlapping(scratch.as_ptr(), headers, scratch.len()) };
        op.hold(held, headers);
    }

    /// The entry for the one message of a send without a copy.
    pub(super) fn zero_copy_entry(&mut self, key: Key, held: Held) -> squeue::Entry {
        let op = self.owned.sends.get_mut(key);
        let (socket, message) = (op.socket, op.message(0));
        let target = self.target(u32::from(socket.0.index), self.socket_fd(socket));
        let entry = on_target!(target, |fd| {
            entry::from_buffer(opcode::SendMsgZc::new(fd, message), held.piece)
        });
        entry.user_data(tag(Class::Send, key))
    }

    /// A notification: the network has let go of the bytes.
    pub(super) fn reap_notification(&mut self, key: Key, marks: u32) -> Option<Completion> {
        self.stats.zero_copy_notified += 1;
        let op = self.owned.sends.get_mut(key);
        let held = op.held().expect("only a send without a copy is notified of");
        // A send that failed is marked as copied too: nothing of it left without a copy.
        if op.error.is_none() {
            let copied = marks & COPIED != 0;
            self.stats.zero_copy_copied += u64::from(copied);
            let verdict = self.owned.zero_copy.choice.notified(held.path, copied);
            self.report(verdict);
        }
        self.end_message(key)
    }

    /// The kernel may have refused a send because it was without a copy: it goes out again with one, and if that is taken, that was
    /// it (`finish_send`). True when the plan is under way again.
    fn copy_instead(&mut self, key: Key, error: Errno) -> bool {
        let Some(held) = self.owned.sends.get_mut(key).held() else { return false };
        let may_be = matches!(
            error.0,
            // No such operation; more fragments than the kernel was built for, or a datagram that is too long for the path either
            // way; no memory to account for them; a buffer that is not registered.
            libc::EINVAL
                | libc::EOPNOTSUPP
                | libc::EMSGSIZE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EFAULT
        );
        if !may_be {
            return false;
        }
        self.release_hold(key);
        if !self.has_room(1) {
            return false;
        }
        self.owned.sends.get_mut(key).refused = Some((held.path, error));
        self.stats.zero_copy_refused += 1;
        self.queue_send(key);
        true
    }

    /// A send is over; what was refused without a copy was taken with one, or not.
    pub(super) fn judge_refusal(&mut self, refused: Option<(PathId, Errno)>, taken: bool) {
        if let Some((path, error)) = refused.filter(|_| taken) {
            let verdict = self.owned.zero_copy.choice.refused(path, error);
            self.report(verdict);
        }
    }

    /// A send is over, or will be copied.
    pub(super) fn release_hold(&mut self, key: Key) {
        let owned = &mut *self.owned;
        let op = owned.sends.get_mut(key);
        if let Some(held) = op.let_go() {
            let slot = owned.sockets.get_mut(op.socket.0).expect("a socket outlives its sends");
            owned.zero_copy.release(held, &mut slot.credit);
        }
    }

    /// Submits what is queued, in a call of its own, and gives how many completions it brought, if a trial wants to know what that
    /// costs: waiting, which may poll a card's queue, is no part of it. Notifications that come while the ring waits are not counted
    /// then; one is 3 % of what copying its 64 KiB costs.
    pub(super) fn submit_measured(
        &mut self,
        done: &mut Completions,
    ) -> Result<Option<u32>, RingError> {
        if !self.owned.zero_copy.choice.measuring() {
            return Ok(None);
        }
        let began = crate::clock::thread_cpu();
        let reaped = self.enter(0, None, done)?;
        self.sends_submitted(Some(crate::clock::thread_cpu().since(began).0));
        Ok(Some(reaped))
    }

    /// The call that submitted this turn's sends is over.
    pub(super) fn sends_submitted(&mut self, cpu_ns: Option<u64>) {
        let zero_copy = &mut self.owned.zero_copy;
        let bytes = std::mem::take(&mut zero_copy.queued_bytes);
        if bytes == 0 || zero_copy.area.is_none() {
            return;
        }
        // Without a trial only verdicts grow old, in minutes.
        if !zero_copy.choice.on_trial() && zero_copy.clock_in > 0 {
            zero_copy.clock_in -= 1;
            return;
        }
        zero_copy.clock_in = u8::MAX;
        let cost = cpu_ns.map(|cpu_ns| TurnCost { cpu_ns, bytes });
        let verdict = zero_copy.choice.turn_over(cost, crate::clock::now());
        self.report(verdict);
        // A trial may end without a word.
        self.narrow_send_buffers();
    }

    /// Says it; and send buffers get their size back when no send leaves without a copy any more.
    fn report(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            tracing::info!("{verdict}");
            self.narrow_send_buffers();
        }
    }

    fn narrow_send_buffers(&mut self) {
        if !self.owned.zero_copy.widened || self.owned.zero_copy.choice.is_wanted() {
            return;
        }
        self.owned.zero_copy.widened = false;
        for index in 0..self.socket_capacity {
            let Some(key) = self.owned.sockets.key(index) else { continue };
            let slot = self.owned.sockets.get_mut(key).expect("just found");
            if std::mem::take(&mut slot.credit.asked) {
                slot.credit.bytes = slot.socket.widen_send_buffer(0);
            }
        }
    }

    /// Local addresses whose sends leave without a copy now, as the kernel has confirmed by a notification or a trial has shown.
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

#[cfg(test)]
mod tests;
