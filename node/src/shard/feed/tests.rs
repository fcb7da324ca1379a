use super::*;

const NOW: Nanos = Nanos::from_secs(100);

/// What is taken until a pass is over, or all of it.
fn taken(feed: &Feed, now: Nanos) -> (Vec<u32>, Next) {
    let mut blocks = Vec::new();
    loop {
        match feed.take(now) {
            Next::Block { block, .. } => blocks.push(block),
            end => return (blocks, end),
        }
    }
}

#[test]
fn a_list_is_taken_once_in_its_order_when_somebody_has_come() {
    let feed = Feed::of(Box::new([5, 3, 9]));
    assert_eq!((feed.is_active(), feed.take(NOW)), (false, Next::Over), "nobody has come");
    assert!(feed.start() && !feed.start(), "only one begins it");
    let mut blocks = Vec::new();
    while let Next::Block { place, block } = feed.take(NOW) {
        blocks.push(block);
        feed.settle(place);
    }
    assert_eq!(blocks, [5, 3, 9]);
    assert_eq!((feed.is_active(), feed.take(NOW), feed.done()), (false, Next::Over, 3));
    feed.settle(1);
    feed.settle(3);
    feed.settle(u32::MAX);
    assert_eq!(feed.done(), 3, "each counts once, and only what is in the list");
    let none = Feed::default();
    assert!(!none.start());
    assert_eq!((none.is_active(), none.take(NOW), none.blocks()), (false, Next::Over, 0));
}

#[test]
fn what_was_not_loaded_is_taken_again_after_pauses_that_grow() {
    let feed = Feed::all(130);
    let (first, Next::Pass(again)) = taken(&feed, NOW) else { panic!("130 are missing") };
    assert_eq!((first.len(), again), (130, NOW + Nanos::from_secs(1)));
    assert_eq!(feed.missing(), 0, "they may be on their way");
    (0..130).filter(|n| ![0, 64, 129].contains(n)).for_each(|n| feed.settle(n));
    let mut now = again;
    for seconds in [2, 4, 8, 16, 32, 64, 64, 64] {
        let (blocks, end) = taken(&feed, now);
        assert_eq!(blocks, [0, 64, 129], "only those");
        now = now + Nanos::from_secs(seconds);
        assert_eq!((end, feed.missing(), feed.done()), (Next::Pass(now), 3, 127));
    }
    [0, 64, 129].iter().for_each(|&n| feed.settle(n));
    assert_eq!((feed.take(now), feed.missing(), feed.is_active()), (Next::Over, 0, false));
}

#[test]
fn a_hint_is_not_followed_for_ever() {
    let feed = Feed::of(Box::new([7]));
    feed.start();
    let mut now = NOW;
    let mut times = 0;
    while feed.is_active() {
        times += taken(&feed, now).0.len();
        now = now + Nanos::from_secs(100);
    }
    assert_eq!((times, feed.done()), (3, 0));
    assert_eq!(feed.take(now), Next::Over);
}

#[test]
fn each_place_is_one_threads_in_a_pass() {
    let feed = Feed::all(10_000);
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&feed, NOW).0)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    all.sort_unstable();
    assert!(all.into_iter().eq(0..10_000));
}
