use super::*;

const A: Option<IpAddr> = None;
const SEND: usize = 57_876;

/// What the ring asks of each send.
fn wants(choice: &mut Choice, from: Option<IpAddr>) -> Option<PathId> {
    let id = choice.considers(from)?;
    choice.wants(id, SEND).then_some(id)
}

/// Turns of two sends each, with these costs for each byte in picoseconds; gives the first verdict and how many turns it took.
fn drive(
    choice: &mut Choice,
    from: Option<IpAddr>,
    copy: u64,
    zero: u64,
) -> (Option<Verdict>, usize) {
    for turn in 0..1000 {
        let mut cpu_ns = 2000;
        for _ in 0..2 {
            let each = if wants(choice, from).is_some() { zero } else { copy };
            cpu_ns += each * SEND as u64 / 1000;
        }
        // Every seventh turn is disturbed.
        cpu_ns += if turn % 7 == 0 { 1_000_000 } else { 0 };
        let cost = choice.measuring().then_some(TurnCost { cpu_ns, bytes: 2 * SEND as u64 });
        let now = choice.now + Nanos::from_millis(1);
        if let Some(verdict) = choice.turn_over(cost, now) {
            return (Some(verdict), turn);
        }
    }
    (None, 1000)
}

#[test]
fn a_clear_win_switches_it_on_and_nothing_less() {
    for (copy, zero, on) in [(140, 20, true), (140, 90, true), (140, 130, false), (140, 280, false)]
    {
        let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
        let (verdict, turns) = drive(&mut choice, A, copy, zero);
        let verdict = verdict.expect("enough turns");
        assert_eq!(matches!(verdict, Verdict::On { .. }), on, "{copy} {zero} {verdict:?}");
        assert!(turns < 200, "{turns}");
        assert!(!choice.measuring());
        assert_eq!(wants(&mut choice, A).is_some(), on);
        assert_eq!(choice.paths_on(), usize::from(on));
    }
}

#[test]
fn a_copy_drops_it_at_once_in_a_trial_and_after() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
    let id = wants(&mut choice, A).unwrap();
    assert_eq!(choice.notified(id, false), None, "as expected");
    assert!(choice.is_wanted());
    assert_eq!(choice.notified(id, true), Some(Verdict::Copied { from: A }));
    assert_eq!(choice.notified(id, true), None, "further notifications are no news");
    assert_eq!(choice.notified(id, false), None, "nor is one of a send from before");
    assert!(!choice.is_wanted());
    assert!(wants(&mut choice, A).is_none());

    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    let id = loop {
        if let Some(id) = wants(&mut choice, A) {
            break id;
        }
        let cost = TurnCost { cpu_ns: 10_000, bytes: SEND as u64 };
        for _ in 0..2 {
            wants(&mut choice, A);
        }
        choice.turn_over(Some(cost), Nanos(1));
    };
    assert!(choice.notified(id, true).is_some());
    assert!(!choice.measuring() && !choice.on_trial());
    assert!(wants(&mut choice, A).is_none());
}

#[test]
fn verdicts_are_looked_at_again() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    assert!(matches!(drive(&mut choice, A, 140, 200).0, Some(Verdict::Off { .. })));
    assert!(wants(&mut choice, A).is_none() && !choice.measuring());
    let later = choice.now + AGAIN;
    assert_eq!(choice.turn_over(None, later), None);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
}

#[test]
fn disturbed_turns_do_not_hide_a_gain_and_a_close_trial_is_repeated_soon() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    // Two turns of three cost the double, whoever sends them.
    let mut turn = 0;
    let verdict = loop {
        turn += 1;
        let zero = wants(&mut choice, A).is_some();
        wants(&mut choice, A);
        let cpu_ns = if zero { 10_000 } else { 15_000 } << u64::from(turn % 3 != 0);
        let cost = choice.measuring().then_some(TurnCost { cpu_ns, bytes: 2 * SEND as u64 });
        if let Some(verdict) = choice.turn_over(cost, Nanos(turn)) {
            break verdict;
        }
    };
    assert!(matches!(verdict, Verdict::On { .. }), "{verdict:?}");

    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    assert!(matches!(drive(&mut choice, A, 140, 130).0, Some(Verdict::Off { .. })));
    let soon = choice.now + AGAIN_CLOSE;
    assert_eq!(choice.turn_over(None, soon), None);
    assert_eq!(drive(&mut choice, A, 140, 130).0, None, "said already");
    let soon = choice.now + AGAIN_CLOSE;
    assert_eq!(choice.turn_over(None, soon), None);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
}

#[test]
fn addresses_are_tried_one_after_the_other() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    let other = Some("192.0.2.1".parse().unwrap());
    assert!(wants(&mut choice, A).is_none());
    assert!(wants(&mut choice, other).is_none());
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { from: None, .. })));
    assert!(
        matches!(drive(&mut choice, other, 140, 300).0, Some(Verdict::Off { from, .. }) if from == other)
    );
    assert!(wants(&mut choice, A).is_some() && wants(&mut choice, other).is_none());
    for host in 2..=u8::try_from(PATHS_MAX).unwrap() + 2 {
        wants(&mut choice, Some(IpAddr::from([192, 0, 2, host])));
    }
    assert_eq!(choice.paths.len(), PATHS_MAX);
}

#[test]
fn turns_of_other_traffic_tell_nothing() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    for turn in 0..1000 {
        wants(&mut choice, A);
        wants(&mut choice, A);
        let cost = TurnCost { cpu_ns: 100_000, bytes: 4 * SEND as u64 };
        assert_eq!(choice.turn_over(Some(cost), Nanos(turn)), None);
    }
    assert!(wants(&mut choice, A).is_none(), "no run of zero copy has begun");
    // Nor does it go on for ever, and that is said once.
    let over = TRIAL_MAX + Nanos(1);
    assert_eq!(choice.turn_over(None, over), Some(Verdict::Undecided { from: A }));
    assert!(!choice.measuring() && choice.considers(A).is_none());
    // It is no verdict: the address is tried again, after the others had their turn and not in ten minutes.
    let again = over + TRIAL_MAX;
    assert_eq!(choice.turn_over(None, again), None);
    assert!(choice.considers(A).is_some());
    wants(&mut choice, A);
    assert!(choice.on_trial());
    assert_eq!(choice.turn_over(None, again + TRIAL_MAX), None, "said already");
    assert_eq!(choice.turn_over(None, again + TRIAL_MAX + TRIAL_MAX), None);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
}

#[test]
fn what_the_kernel_refuses_is_copied_for_a_while() {
    for mode in [ZeroCopy::Auto, ZeroCopy::On] {
        let mut choice = Choice::new(mode, Nanos::ZERO);
        if mode == ZeroCopy::Auto {
            assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
        }
        let id = wants(&mut choice, A).unwrap();
        let error = Errno(libc::EMSGSIZE);
        assert_eq!(choice.refused(id, error), Some(Verdict::Refused { from: A, error }));
        assert_eq!(choice.refused(id, error), None, "one line");
        assert_eq!((choice.considers(A), choice.paths_on(), choice.is_wanted()), (None, 0, false));
        let later = choice.now + AGAIN;
        choice.turn_over(None, later);
        assert!(choice.considers(A).is_some());
    }
}

#[test]
fn given_up_it_still_knows_the_addresses_of_sends_under_way() {
    let mut choice = Choice::new(ZeroCopy::On, Nanos::ZERO);
    let id = wants(&mut choice, A).unwrap();
    choice.give_up();
    assert_eq!((choice.notified(id, true), choice.refused(id, Errno::EINVAL)), (None, None));
    assert!(wants(&mut choice, A).is_none() && !choice.wants(id, SEND));
    assert_eq!(choice.paths_on(), 0);
}

#[test]
fn on_and_off_are_not_argued_with() {
    let mut on = Choice::new(ZeroCopy::On, Nanos::ZERO);
    let id = wants(&mut on, A).unwrap();
    assert_eq!(on.paths_on(), 0, "tried is not done");
    assert_eq!(on.notified(id, false), None);
    assert_eq!(on.paths_on(), 1);
    // The log and the gauge say that the kernel copies; sends go on as asked.
    assert_eq!(on.notified(id, true), Some(Verdict::Copied { from: A }));
    assert_eq!((on.notified(id, true), on.notified(id, false)), (None, None));
    assert_eq!((on.paths_on(), on.measuring()), (0, false));
    assert!(wants(&mut on, A).is_some());
    // Looked at again, with what notifications say then.
    let later = on.now + AGAIN;
    on.turn_over(None, later);
    assert_eq!(on.notified(id, false), None);
    assert_eq!(on.paths_on(), 1);
    let mut off = Choice::new(ZeroCopy::Off, Nanos::ZERO);
    assert!(wants(&mut off, A).is_none() && !off.measuring());
}

#[test]
fn words_round_trip() {
    for mode in [ZeroCopy::Auto, ZeroCopy::On, ZeroCopy::Off] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert_eq!("yes".parse::<ZeroCopy>(), Err(UnknownZeroCopy));
}
