//! What the policy keeps.

use super::*;

fn read(cache: &ShardCache, block: u64) -> bool {
    match cache.lookup(key(block)) {
        Lookup::Hit(pin) => {
            cache.unpin(pin);
            true
        }
        Lookup::Load(ticket) => {
            let (pin, _) = cache.publish(ticket, 0, Purpose::Demand);
            cache.unpin(pin);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_scan_leaves_the_boot_set_alone() {
    let cache = cache_of(640, UNIT_BYTES);
    // A boot set of 300 blocks, read by three devices one after the other.
    for _ in 0..3 {
        for block in 0..300 {
            read(&cache, block);
        }
        cache.tick();
    }
    // A copy of ten times the cache, each block in 16 requests, while one boot goes on slowly.
    let mut boot = (0..300).cycle();
    let mut misses = 0;
    for scanned in 10_000..16_400 {
        for _ in 0..16 {
            read(&cache, scanned);
        }
        if scanned % 10 == 0 && !read(&cache, boot.next().expect("endless")) {
            misses += 1;
        }
    }
    let kept = (0..300).filter(|&block| hits(&cache, key(block))).count();
    assert!(misses < 10, "{misses} of 640 reads of the boot set missed during the scan");
    assert!(kept > 290, "{kept} of 300 blocks of the boot set are left");
}

#[test]
fn a_block_that_comes_back_is_remembered() {
    let cache = cache_of(100, UNIT_BYTES);
    for block in 0..120 {
        read(&cache, block);
    }
    assert_eq!(cache.stats().evictions, 20);
    assert!(!read(&cache, 0), "the oldest went first");
    assert_eq!(cache.stats().ghost_hits, 1);
    assert_eq!(cache.stats().frames_main, 1);
    for block in 1000..1200 {
        read(&cache, block);
    }
    assert!(read(&cache, 0), "it proved useful and outlives the scan");
}

#[test]
fn everything_hot_still_gives_way() {
    let cache = cache_of(16, UNIT_BYTES);
    for _ in 0..6 {
        for block in 0..16 {
            read(&cache, block);
        }
        cache.tick();
    }
    assert!(!read(&cache, 99), "a miss");
    assert_eq!(cache.stats().full, 0);
    assert_eq!(cache.stats().evictions, 1);
}

fn load_as(cache: &ShardCache, block: u64, purpose: Purpose) {
    let Lookup::Load(ticket) = cache.lookup(key(block)) else { panic!("{block} is there") };
    let (pin, _) = cache.publish(ticket, 0, purpose);
    cache.unpin(pin);
}

#[test]
fn what_was_read_ahead_is_used_once_and_otherwise_wasted() {
    let cache = cache_of(100, UNIT_BYTES);
    assert_eq!(cache.known(key(0)), None);
    for block in 0..100 {
        load_as(&cache, block, Purpose::Ahead);
    }
    assert_eq!((cache.known(key(99)), cache.known(key(100))), (Some(Known::Here), None));
    for _ in 0..3 {
        for block in 0..10 {
            assert!(read(&cache, block));
        }
    }
    let stats = cache.stats();
    assert_eq!((stats.ahead, stats.ahead_used, stats.ahead_wasted), (100, 10, 0));
    assert_eq!(stats.frames_small, 100, "a guess is no proof");
    for block in 1000..1100 {
        read(&cache, block);
    }
    assert_eq!(cache.stats().ahead_wasted, 90);
    load_as(&cache, 50, Purpose::Ahead);
    assert_eq!(cache.stats().ghost_hits, 0, "guessed wrong twice proves nothing either");
}

#[test]
fn what_is_kept_outlives_every_scan() {
    let cache = cache_of(100, UNIT_BYTES);
    let keep = |block| BlockKey { generation: 77, block };
    for block in 0..50 {
        let Lookup::Load(ticket) = cache.lookup(keep(block)) else { panic!("{block}") };
        let (pin, _) = cache.publish(ticket, 0, Purpose::Keep);
        cache.unpin(pin);
    }
    for block in 0..2000 {
        read(&cache, block);
    }
    assert!((0..50).all(|block| hits(&cache, keep(block))));
    let stats = cache.stats();
    assert_eq!((stats.frames_kept, stats.frames_small + stats.frames_main), (50, 50));
}
