use super::*;

const A: Option<IpAddr> = None;
const SEND: usize = 57_876;

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
            let each = if choice.wants(from, SEND).is_some() { zero } else { copy };
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
        assert_eq!(choice.wants(A, SEND).is_some(), on);
        assert_eq!(choice.paths_on(), usize::from(on));
    }
}

#[test]
fn a_copy_drops_it_at_once_in_a_trial_and_after() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
    let id = choice.wants(A, SEND).unwrap();
    assert_eq!(choice.failed(id), Some(Verdict::Copied { from: A }));
    assert_eq!(choice.failed(id), None, "further notifications are no news");
    assert!(choice.wants(A, SEND).is_none());

    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    let id = loop {
        if let Some(id) = choice.wants(A, SEND) {
            break id;
        }
        let cost = TurnCost { cpu_ns: 10_000, bytes: SEND as u64 };
        for _ in 0..2 {
            choice.wants(A, SEND);
        }
        choice.turn_over(Some(cost), Nanos(1));
    };
    assert!(choice.failed(id).is_some());
    assert!(!choice.measuring());
    assert!(choice.wants(A, SEND).is_none());
}

#[test]
fn verdicts_are_looked_at_again() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    assert!(matches!(drive(&mut choice, A, 140, 200).0, Some(Verdict::Off { .. })));
    assert!(choice.wants(A, SEND).is_none() && !choice.measuring());
    let later = choice.now + AGAIN;
    assert_eq!(choice.turn_over(None, later), None);
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { .. })));
}

#[test]
fn addresses_are_tried_one_after_the_other() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    let other = Some("192.0.2.1".parse().unwrap());
    assert!(choice.wants(A, SEND).is_none());
    assert!(choice.wants(other, SEND).is_none());
    assert!(matches!(drive(&mut choice, A, 140, 20).0, Some(Verdict::On { from: None, .. })));
    assert!(
        matches!(drive(&mut choice, other, 140, 300).0, Some(Verdict::Off { from, .. }) if from == other)
    );
    assert!(choice.wants(A, SEND).is_some() && choice.wants(other, SEND).is_none());
    for host in 2..=u8::try_from(PATHS_MAX).unwrap() + 2 {
        choice.wants(Some(IpAddr::from([192, 0, 2, host])), SEND);
    }
    assert_eq!(choice.paths.len(), PATHS_MAX);
}

#[test]
fn turns_of_other_traffic_tell_nothing() {
    let mut choice = Choice::new(ZeroCopy::Auto, Nanos::ZERO);
    for turn in 0..1000 {
        choice.wants(A, SEND);
        choice.wants(A, SEND);
        let cost = TurnCost { cpu_ns: 100_000, bytes: 4 * SEND as u64 };
        assert_eq!(choice.turn_over(Some(cost), Nanos(turn)), None);
    }
    assert!(choice.wants(A, SEND).is_none(), "no run of zero copy has begun");
    // Nor does it go on for ever.
    assert_eq!(choice.turn_over(None, TRIAL_MAX + Nanos(1)), None);
    assert!(!choice.measuring());
}

#[test]
fn on_and_off_are_not_argued_with() {
    let mut on = Choice::new(ZeroCopy::On, Nanos::ZERO);
    let id = on.wants(A, SEND).unwrap();
    assert_eq!((on.failed(id), on.measuring()), (None, false));
    assert!(on.wants(A, SEND).is_some());
    let mut off = Choice::new(ZeroCopy::Off, Nanos::ZERO);
    assert!(off.wants(A, SEND).is_none() && !off.measuring());
}

#[test]
fn words_round_trip() {
    for mode in [ZeroCopy::Auto, ZeroCopy::On, ZeroCopy::Off] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert_eq!("yes".parse::<ZeroCopy>(), Err(UnknownZeroCopy));
}
