//! A send under way: the plan, and the plan as the kernel wants it.
//!
//! With segmentation a plan is one message with a `UDP_SEGMENT` control message; without it (the twin), one message for
//! each segment. Either way everything lies in one slab slot until the last message's completion.

use crate::arena::Arena;
use crate::errno::Errno;
use crate::net::address::Name;
use crate::net::control::Control;
use crate::ring::SocketId;
use crate::ring::op::Key;
use crate::ring::receive::empty_message;
use crate::ring::zero_copy::Held;
use crate::send::{PIECES_MAX, Piece, SEGMENTS_MAX, SendPlan};
use crate::zero_copy::PathId;

/// Every piece, and one more range wherever a segment's end cuts a piece in two.
const RANGES_MAX: usize = PIECES_MAX + SEGMENTS_MAX;

/// A slot of the send slab.
///
/// In the order of their use, what every send touches first and side by side: hundreds of slots are under way, and between two uses
/// of one the kernel copies as much as a second-level cache holds.
#[repr(C)]
pub(crate) struct SendOp {
    pub(crate) socket: SocketId,
    /// Completions to come.
    pub(crate) remaining: u16,
    /// Payload bytes of the messages that went out.
    pub(crate) sent_bytes: u32,
    /// The first failure.
    pub(crate) error: Option<Errno>,
    /// One message with a segment size, not one for each segment.
    pub(crate) segmented: bool,
    /// It goes out with a copy because the kernel refused it without.
    pub(crate) refused: Option<(PathId, Errno)>,
    /// What it holds if it leaves without a copy, and where its header bytes are then.
    held: Option<(Held, *mut u8)>,
    plan: Option<Box<SendPlan>>,
    connected: bool,
    name: Name,
    control: Control,
    message: libc::msghdr,
    ranges: [libc::iovec; RANGES_MAX],
    /// The second message and those after it: the twin's.
    more_messages: [libc::msghdr; SEGMENTS_MAX - 1],
}

impl SendOp {
    pub(crate) fn new() -> SendOp {
        SendOp {
            socket: SocketId(Key::NONE),
            remaining: 0,
            sent_bytes: 0,
            error: None,
            segmented: false,
            refused: None,
            held: None,
            plan: None,
            connected: false,
            name: Name::EMPTY,
            control: Control::EMPTY,
            message: empty_message(),
            ranges: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RANGES_MAX],
            more_messages: [empty_message(); SEGMENTS_MAX - 1],
        }
    }

    /// Takes a plan in.
    pub(crate) fn start(&mut self, socket: SocketId, plan: Box<SendPlan>, connected: bool) {
        assert!(self.plan.is_none(), "a free slot holds no plan");
        self.socket = socket;
        self.refused = None;
        self.name = Name::of(plan.peer);
        self.connected = connected;
        self.plan = Some(plan);
    }

    /// Lays the messages out; returns how many. Every pointer goes into this slot, the plan's box or the arena.
    pub(crate) fn lay_out(&mut self, arena: Option<&Arena>, segmentation: bool) -> u16 {
        let plan = self.plan.as_deref().expect("a busy slot holds its plan");
        self.segmented = segmentation && plan.segments() > 1;
        let segment_bytes = if self.segmented { plan.segment_bytes } else { 0 };
        self.control.build(plan.local, segment_bytes);
        let (name, control) = (self.name.bytes(), self.control.bytes());
        let mut template = empty_message();
        if !self.connected {
            template.msg_name = name.as_ptr().cast_mut().cast();
            template.msg_namelen = u32::try_from(name.len()).expect("28 at most");
        }
        if !control.is_empty() {
            template.msg_control = control.as_ptr().cast_mut().cast();
            template.msg_controllen = control.len();
        }
        let scratch =
            self.held.map_or(plan.scratch().as_ptr(), |(_, headers)| headers.cast_const());
        let base = arena.map_or(std::ptr::null_mut(), |arena| arena.address(0, plan.arena_end()));
        self.remaining = if self.segmented || plan.segments() == 1 {
            // The kernel cuts, or nobody: each piece is a range.
            for (range, piece) in self.ranges.iter_mut().zip(plan.pieces()) {
                let (iov_base, iov_len) = locate(scratch, base, piece);
                *range = libc::iovec { iov_base: iov_base.cast(), iov_len };
            }
            template.msg_iov = self.ranges.as_mut_ptr();
            template.msg_iovlen = plan.pieces().len();
            self.message = template;
            1
        } else {
            self.cut(template, scratch, base)
        };
        self.sent_bytes = 0;
        self.error = None;
        self.remaining
    }

    /// The twin's way: one message for each segment.
    #[cold]
    fn cut(&mut self, template: libc::msghdr, scratch: *const u8, base: *mut u8) -> u16 {
        let plan = self.plan.as_deref().expect("a busy slot holds its plan");
        let message_bytes = usize::from(plan.segment_bytes);
        let (mut messages, mut ranges) = (0, 0);
        let (mut first, mut room) = (0, message_bytes);
        let list = self.ranges.as_mut_ptr();
        let (message, more) = (&mut self.message, &mut self.more_messages);
        let mut finish = |messages: &mut usize, first: usize, end: usize| {
            let message = if *messages == 0 { &mut *message } else { &mut more[*messages - 1] };
            *message = template;
            message.msg_iov = list.wrapping_add(first);
            message.msg_iovlen = end - first;
            *messages += 1;
        };
        for piece in plan.pieces() {
            let (mut at, mut left) = locate(scratch, base, piece);
            while left > 0 {
                let take = left.min(room);
                self.ranges[ranges] = libc::iovec { iov_base: at.cast(), iov_len: take };
                ranges += 1;
                at = at.wrapping_add(take);
                left -= take;
                room -= take;
                if room == 0 {
                    finish(&mut messages, first, ranges);
                    (first, room) = (ranges, message_bytes);
                }
            }
        }
        if first < ranges {
            finish(&mut messages, first, ranges);
        }
        u16::try_from(messages).expect("64 at most")
    }

    /// The messages laid out last.
    pub(crate) fn message(&self, index: u16) -> *const libc::msghdr {
        match usize::from(index) {
            0 => &raw const self.message,
            further => &raw const self.more_messages[further - 1],
        }
    }

    /// It leaves without a copy, with its header bytes at `headers`.
    pub(crate) fn hold(&mut self, held: Held, headers: *mut u8) {
        assert!(self.held.is_none(), "a send holds one slot for headers");
        self.held = Some((held, headers));
    }

    /// What it holds, if it leaves without a copy.
    pub(crate) fn held(&self) -> Option<Held> {
        self.held.map(|(held, _)| held)
    }

    /// It is over, or will be copied.
    pub(crate) fn let_go(&mut self) -> Option<Held> {
        self.held.take().map(|(held, _)| held)
    }

    /// The plan under way.
    pub(crate) fn plan(&self) -> &SendPlan {
        self.plan.as_deref().expect("a busy slot holds its plan")
    }

    /// Gives the plan back, when nothing is under way any more.
    pub(crate) fn finish(&mut self) -> Box<SendPlan> {
        assert!(self.remaining == 0, "the kernel still uses the plan");
        self.plan.take().expect("a busy slot holds its plan")
    }
}

/// Where the kernel finds a piece. It only reads there. `base`: where the arena begins; that it has all bytes that the plan names was
/// asserted.
#[inline]
fn locate(scratch: *const u8, base: *mut u8, piece: &Piece) -> (*mut u8, usize) {
    match *piece {
        Piece::Scratch { start, len } => {
            (scratch.wrapping_add(usize::from(start)).cast_mut(), usize::from(len))
        }
        Piece::Arena { offset, len } => (base.wrapping_add(offset), len as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flatten(op: &SendOp, messages: u16) -> Vec<Vec<u8>> {
        (0..messages)
            .map(|index| {
                // SAFETY: the slot is alive, and holds as many messages as it just laid out.
                let message = unsafe { &*op.message(index) };
                let mut out = Vec::new();
                for range in 0..message.msg_iovlen {
                    // SAFETY: the message names that many ranges of the same slot.
                    let range = unsafe { &*message.msg_iov.wrapping_add(range) };
                    // SAFETY: each range names bytes of the plan or of the arena, which both outlive this call.
                    let bytes = unsafe {
                        std::slice::from_raw_parts(range.iov_base.cast::<u8>(), range.iov_len)
                    };
                    out.extend_from_slice(bytes);
                }
                out
            })
            .collect()
    }

    fn plan(len: usize, segment_bytes: u16) -> Box<SendPlan> {
        let mut plan = SendPlan::new();
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for (at, chunk) in bytes.chunks(700).enumerate() {
            // Alternating kinds would join otherwise; an arena is not needed to cut ranges.
            plan.push_scratch(chunk).unwrap();
            assert!(at < PIECES_MAX);
        }
        plan.segment_bytes = segment_bytes;
        plan
    }

    #[test]
    fn messages_are_the_segments() {
        let mut op = Box::new(SendOp::new());
        for (len, segment) in [(1, 0), (1, 1), (5000, 0), (5000, 1000), (5001, 1000), (64, 1)] {
            for segmentation in [true, false] {
                let plan = plan(len, segment);
                let segments = plan.segments();
                let mut whole = Vec::new();
                plan.copy_payload(&mut whole, |_, _, _| unreachable!("no arena"));
                op.start(SocketId(Key::NONE), plan, false);
                let messages = op.lay_out(None, segmentation);
                let got = flatten(&op, messages);
                assert_eq!(got.concat(), whole);
                if segmentation {
                    assert_eq!(messages, 1);
                } else {
                    assert_eq!(usize::from(messages), segments);
                    let all_but_last = &got[..got.len() - 1];
                    assert!(all_but_last.iter().all(|bytes| bytes.len() == usize::from(segment)));
                }
                op.remaining = 0;
                op.finish();
            }
        }
    }
}
