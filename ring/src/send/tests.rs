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
fn a_run_is_headers_and_ranges_in_turn() {
    let mut plan = SendPlan::new();
    plan.push_scratch(b"before").unwrap();
    let own = [(4, 100), (2, 200), (3, 50)];
    let mut next = own.into_iter();
    plan.push_run(3, 10, b"abcd", |head| {
        assert_eq!(head, b"abcd", "each gets a copy of its own");
        head[1] = b'x';
        next.next().unwrap()
    })
    .unwrap();
    plan.push_scratch(b"pad").unwrap();
    assert_eq!(
        plan.pieces(),
        [
            Piece::Scratch { start: 0, len: 6 },
            Piece::Scratch { start: 6, len: 4 },
            Piece::Arena { offset: 100, len: 6 },
            Piece::Scratch { start: 10, len: 2 },
            Piece::Arena { offset: 200, len: 8 },
            Piece::Scratch { start: 12, len: 3 },
            Piece::Arena { offset: 50, len: 7 },
            Piece::Scratch { start: 15, len: 3 },
        ]
    );
    assert_eq!((plan.scratch(), plan.payload_bytes()), (&b"beforeaxcdaxaxcpad"[..], 39));
    assert_eq!(plan.arena_end(), 208);
    assert_eq!(flat(&plan).len(), 39);
}

#[test]
fn a_run_fits_whole_or_not_at_all() {
    let refused = |plan: &mut SendPlan, count, datagram_bytes| {
        let (pieces, payload) = (plan.pieces().to_vec(), plan.payload_bytes());
        let pushed =
            plan.push_run(count, datagram_bytes, &[7; 108], |_| unreachable!("asked first"));
        assert_eq!(pushed, Err(PlanFull), "{count} of {datagram_bytes}");
        assert_eq!((plan.pieces(), plan.payload_bytes()), (&pieces[..], payload));
    };
    let mut plan = SendPlan::new();
    refused(&mut plan, SEGMENTS_MAX + 1, 200);
    refused(&mut plan, 1, PAYLOAD_BYTES_MAX + 1);
    refused(&mut plan, 46, 1452);
    refused(&mut plan, usize::MAX, usize::MAX);
    plan.push_run(45, 1452, &[7; 108], |_| (76, 0)).unwrap();
    refused(&mut plan, 1, 1452);
    assert_eq!((plan.pieces().len(), plan.payload_bytes()), (90, 45 * 1452));

    plan.reset();
    plan.push_scratch(&[0; SCRATCH_BYTES - 107]).unwrap();
    refused(&mut plan, 1, 200);
    plan.reset();
    plan.push_scratch(&[0; SCRATCH_BYTES - 108]).unwrap();
    plan.push_run(1, 200, &[7; 108], |_| (108, 0)).unwrap();

    plan.reset();
    for at in 0..PIECES_MAX - 1 {
        plan.push_arena(2 * at, 1).unwrap();
    }
    refused(&mut plan, 1, 200);
}

#[test]
#[should_panic(expected = "109 bytes of a head of 108")]
fn a_run_sends_no_more_of_a_head_than_there_is() {
    let _ = SendPlan::new().push_run(1, 200, &[7; 108], |_| (109, 0));
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
