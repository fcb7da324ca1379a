//! What the policy keeps.

use super::*;

fn read(cache: &Cache, block: u64) -> bool {
    match cache.lookup(key(block), 0) {
        Lookup::Hit(pin) => {
            cache.unpin(pin);
            true
        }
        Lookup::Load(ticket) => {
            let (pin, _) = cache.publish(ticket, 0);
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
