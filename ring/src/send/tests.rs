use super::*;

fn flat(plan: &SendPlan) -> Vec<u8> {
    let mut out = Vec::new();
    plan.copy_payload(&mut out, |offset, len, out| {
        out.extend((offset..offset + len).map(|at| u8::try_from(at % 251).unwrap()));
    });
    out
}

#[test]
fn pieces_keep_their_order_and_join() {
    let mut plan = SendPlan::new();
    plan.push_scratch(b"head").unwrap();
    plan.push_arena(100, 10).unwrap();
    plan.push_arena(110, 10).unwrap();
    plan.push_arena(0, 5).unwrap();
    plan.push_scratch(b"pad").unwrap();
    plan.push_scratch(b"head").unwrap();
    plan.push_arena(7, 0).unwrap();
    assert_eq!(
        plan.pieces(),
        [
            Piece::Scratch { start: 0, len: 4 },
            Piece::Arena { offset: 100, len: 20 },
            Piece::Arena { offset: 0, len: 5 },
            Piece::Scratch { start: 4, len: 7 },
        ]
    );
    assert_eq!(plan.payload_bytes(), 36);
    let bytes = flat(&plan);
    assert_eq!(bytes.len(), 36);
    assert_eq!(&bytes[..5], b"head\x64");
    assert_eq!(&bytes[29..], b"padhead");
}

#[test]
fn counts_segments() {
    let mut plan = SendPlan::new();
    assert_eq!(plan.segments(), 0);
    plan.push_arena(0, 1000).unwrap();
    assert_eq!(plan.segments(), 1);
    for (segment, expected) in [(1000, 1), (999, 2), (500, 2), (499, 3), (1, 1000)] {
        plan.segment_bytes = segment;
        assert_eq!(plan.segments(), expected);
    }
}

#[test]
fn refuses_past_every_bound_and_stays_whole() {
    let mut plan = SendPlan::new();
    plan.push_scratch(&[1; SCRATCH_BYTES]).unwrap();
    assert_eq!(plan.push_scratch(&[2]), Err(PlanFull));
    assert_eq!(plan.payload_bytes(), SCRATCH_BYTES);
    plan.push_arena(0, PAYLOAD_BYTES_MAX - SCRATCH_BYTES).unwrap();
    assert_eq!(plan.push_arena(0, 1), Err(PlanFull));
    assert_eq!(plan.push_arena(0, usize::MAX), Err(PlanFull));
    assert_eq!(flat(&plan).len(), PAYLOAD_BYTES_MAX);

    plan.reset();
    for pin in 0..PINS_MAX {
        plan.push_pin(pin as u64).unwrap();
    }
    assert_eq!(plan.push_pin(0), Err(PlanFull));
    assert_eq!(plan.drain_pins().count(), PINS_MAX);
    assert!(plan.pins().is_empty());
    for piece in 0..PIECES_MAX {
        plan.push_arena(piece * 10, 5).unwrap();
    }
    assert_eq!(plan.push_arena(5, 5), Err(PlanFull));
    assert_eq!(plan.push_scratch(b"x"), Err(PlanFull));
    // A refused copy leaves no orphaned bytes behind.
    assert!(plan.scratch().is_empty());
    // Continuing the last range needs no new piece.
    plan.push_arena((PIECES_MAX - 1) * 10 + 5, 5).unwrap();
}

#[test]
fn never_reallocates() {
    let mut plan = SendPlan::new();
    let before = (plan.scratch.as_ptr(), plan.pieces.as_ptr(), plan.pins.as_ptr());
    for _ in 0..3 {
        plan.reset();
        while plan.push_scratch(&[0; 76]).is_ok()
            && plan.push_arena(plan.pieces.len() * 9999, 100).is_ok()
            && plan.push_pin(1).is_ok()
        {}
        assert_eq!(before, (plan.scratch.as_ptr(), plan.pieces.as_ptr(), plan.pins.as_ptr()));
    }
}

#[test]
fn a_headed_piece_is_a_header_and_a_range_or_nothing() {
    let mut plan = SendPlan::new();
    plan.push_headed(b"abcd", 100, 10).unwrap()[3] = b'x';
    plan.push_headed(b"ef", 110, 5).unwrap();
    plan.push_scratch(b"pad").unwrap();
    plan.push_headed(b"g", 7, 2).unwrap();
    assert_eq!(
        plan.pieces(),
        [
            Piece::Scratch { start: 0, len: 4 },
            Piece::Arena { offset: 100, len: 10 },
            Piece::Scratch { start: 4, len: 2 },
            Piece::Arena { offset: 110, len: 5 },
            Piece::Scratch { start: 6, len: 4 },
            Piece::Arena { offset: 7, len: 2 },
        ]
    );
    assert_eq!((plan.scratch(), plan.payload_bytes()), (&b"abcxefpadg"[..], 27));
    assert_eq!(plan.arena_end(), 115);
    let whole = flat(&plan);
    for (offset, len) in [(0, 0), (0, PAYLOAD_BYTES_MAX), (usize::MAX, 1), (0, usize::MAX)] {
        assert_eq!(plan.push_headed(b"head", offset, len), Err(PlanFull), "{offset} {len}");
        assert_eq!(flat(&plan), whole, "nothing was appended");
    }
    while plan.push_headed(b"head", 0, 1).is_ok() {}
    assert!(plan.pieces().len() >= PIECES_MAX - 1, "only the pieces ran out");
    plan.reset();
    assert_eq!(plan.arena_end(), 0);
    plan.push_scratch(&[0; SCRATCH_BYTES - 3]).unwrap();
    assert_eq!(plan.push_headed(b"head", 0, 1), Err(PlanFull));
    plan.push_headed(b"hea", 0, 1).unwrap();
}

#[test]
fn the_end_in_the_arena_is_that_of_the_furthest_piece() {
    let mut plan = SendPlan::new();
    plan.push_arena(1000, 24).unwrap();
    plan.push_arena(1024, 6).unwrap();
    plan.push_arena(5, 5).unwrap();
    plan.push_arena(9000, 0).unwrap();
    assert_eq!(plan.arena_end(), 1030);
}
