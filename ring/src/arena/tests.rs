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
    if host::free_huge_pages(ONE_GIB, None) == 0 {
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

/// A host with one memory node, 0, of which the kernel says this.
fn nodes(meminfo: &str, free_two_mib: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("node0/hugepages/hugepages-2048kB");
    std::fs::create_dir_all(&pages).unwrap();
    std::fs::write(folder.path().join("node0/meminfo"), meminfo).unwrap();
    std::fs::write(pages.join("free_hugepages"), free_two_mib).unwrap();
    folder
}

/// 128 MiB, of which 2 MiB are the kernel's own; 10 MiB are free, and 4 can be made free.
const SMALL_NODE: &str = "\
Node 0 MemTotal:         131072 kB
Node 0 MemFree:           10240 kB
Node 0 Active:            90000 kB
Node 0 Active(file):       1024 kB
Node 0 Inactive(file):     2048 kB
Node 0 Shmem:             50000 kB
Node 0 SReclaimable:       1024 kB
";

#[test]
fn what_a_node_has_is_free_or_can_be_made_free() {
    let folder = nodes(SMALL_NODE, "3\n");
    assert_eq!(host::node_available_bytes(folder.path(), 0), Some(12 << 20));
    assert_eq!(host::node_available_bytes(folder.path(), 1), None);
    let room = |len, pages| numa::check_room(folder.path(), 0, len, pages);
    assert!(room(12 << 20, None).is_ok());
    assert!(room((12 << 20) + 1, None).unwrap_err().to_string().contains("memory node 0"));
    assert!(room(6 << 20, Some(TWO_MIB)).is_ok());
    assert!(room(8 << 20, Some(TWO_MIB)).is_err());
    assert!(room(1 << 30, Some(ONE_GIB)).is_err());
    assert!(numa::check_room(folder.path(), 1, 1 << 40, None).is_ok(), "nothing is known of it");
}

#[test]
fn a_node_with_too_little_memory_is_an_error_before_any_page_is_touched() {
    let folder = nodes(SMALL_NODE, "0");
    let arena = |bytes, huge_pages| {
        let config = ArenaConfig { bytes, huge_pages };
        Arena::told_of_nodes(&config, 0, Some(0), folder.path())
    };
    match arena(1 << 20, HugePages::Off) {
        Ok(small) if small.node().is_some() => {}
        other => {
            println!("SKIPPED: the kernel binds no memory to a node here: {other:?}");
            return;
        }
    }
    for huge_pages in [HugePages::Off, HugePages::Auto] {
        let error = arena(64 << 20, huge_pages).unwrap_err();
        assert!(
            matches!(error, ArenaError::NoNodeMemory { node: 0, available_bytes, .. } if available_bytes == 12 << 20),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("67108864") && text.contains("--numa-node"), "{text}");
    }
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
