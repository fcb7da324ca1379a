use super::*;

fn arena(bytes: usize, huge_pages: HugePages) -> Arena {
    Arena::new(&ArenaConfig { bytes, huge_pages }).unwrap()
}

#[test]
fn plain_pages_are_zeroed_and_writable() {
    let arena = arena(10_000, HugePages::Off);
    assert_eq!(arena.len(), 12_288);
    assert_eq!(arena.backing(), Backing::Plain);
    // SAFETY: nothing else uses this arena.
    let bytes = unsafe { arena.bytes_mut(0, 12_288) };
    assert!(bytes.iter().all(|byte| *byte == 0));
    bytes[12_287] = 7;
    // SAFETY: the mutable borrow above is no longer used.
    assert_eq!(unsafe { arena.bytes(12_287, 1) }, [7]);
}

#[test]
#[should_panic(expected = "outside the arena")]
fn ranges_are_checked() {
    let arena = arena(4096, HugePages::Off);
    // SAFETY: nothing else uses this arena; the call panics.
    let _ = unsafe { arena.bytes(4096, 1) };
}

#[test]
#[should_panic(expected = "outside the arena")]
fn ranges_cannot_wrap() {
    let arena = arena(4096, HugePages::Off);
    // SAFETY: nothing else uses this arena; the call panics.
    let _ = unsafe { arena.bytes(usize::MAX, 2) };
}

#[test]
fn falls_back_without_reserved_pages() {
    // Far more 1 GiB pages than a test host reserves.
    let arena = arena(32 << 20, HugePages::OneGiB);
    assert!(arena.len() >= 32 << 20);
    if host::free_huge_pages(ONE_GIB) == 0 {
        assert!(arena.backing() < Backing::OneGiB);
    }
}

#[test]
fn errors_name_the_numbers() {
    let error = Arena::new(&ArenaConfig { bytes: 0, huge_pages: HugePages::Auto }).unwrap_err();
    assert!(matches!(error, ArenaError::Empty));
    let bytes = usize::MAX / 2;
    for huge_pages in [HugePages::Auto, HugePages::OneGiB, HugePages::Off] {
        let error = Arena::new(&ArenaConfig { bytes, huge_pages }).unwrap_err();
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
    }
    let bytes = 1 << 50;
    let error = Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Auto }).unwrap_err();
    assert!(matches!(error, ArenaError::NoMemory { available_bytes, .. } if available_bytes > 0));
    assert!(error.to_string().contains("smaller size"), "{error}");
}

#[test]
fn pieces_cover_it_all() {
    let arena = arena(3 << 20, HugePages::Off);
    let pieces: Vec<_> = arena.pieces().map(|piece| piece.iov_len).collect();
    assert_eq!(pieces, [3 << 20]);
}

#[test]
fn words_round_trip() {
    for wanted in [HugePages::Auto, HugePages::TwoMiB, HugePages::OneGiB, HugePages::Off] {
        assert_eq!(wanted.to_string().parse(), Ok(wanted));
    }
    assert!("2m".parse::<HugePages>().is_err());
}

#[test]
fn candidates_end_with_plain_pages() {
    for wanted in [HugePages::Auto, HugePages::TwoMiB, HugePages::OneGiB, HugePages::Off] {
        assert_eq!(candidates(wanted, 5).last(), Some(Backing::Plain));
    }
    assert_eq!(candidates(HugePages::Auto, 2 * ONE_GIB).next(), Some(Backing::OneGiB));
    assert_eq!(candidates(HugePages::Auto, ONE_GIB + 1).next(), Some(Backing::TwoMiB));
}

#[test]
fn rings_share_one_registration_across_threads() {
    if !crate::Features::probe().registered_buffers {
        eprintln!("SKIPPED: needs registered buffers");
        return;
    }
    let arena = std::sync::Arc::new(arena(1 << 20, HugePages::Off));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let arena = std::sync::Arc::clone(&arena);
            std::thread::spawn(move || {
                let ring = crate::Ring::new(&crate::RingConfig::default(), Some(arena)).unwrap();
                assert!(ring.features().registered_buffers);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let ring = io_uring::IoUring::new(1).unwrap();
    if !arena.donor.lend(&arena, &ring.submitter()) {
        eprintln!("SKIPPED: this kernel clones no registrations, every ring made its own");
    }
}
