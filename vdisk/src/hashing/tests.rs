use super::*;
use crate::content::ContentId;
use crate::formats::raw;
use crate::map::FlatMap;

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn content(len: usize) -> Vec<u8> {
    (0..251_u8).cycle().take(len).collect()
}

fn file_of(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn parallel_hashes_equal_those_of_the_whole() {
    const PIECE: usize = PIECE_BLOCKS * 65536;
    let whole = content(3 * PIECE + 2 * 65536 + 512);
    for len in [512, 65536, 65536 + 512, PIECE - 512, PIECE, PIECE + 512, 2 * PIECE, whole.len()] {
        let file = file_of(&whole[..len]);
        let map = FlatMap::dense(bytes(len));
        for count in [1, 2, 5, 1000] {
            let hashes = hash(&file, &map, threads(count), &mut go_on).unwrap();
            assert_eq!(hashes, BlockHashes::of(&whole[..len]), "{len} bytes, {count} threads");
        }
    }
}

#[test]
fn holes_hash_as_zeroes_without_being_read() {
    const SIZE: usize = 20 * 1024 * 1024 + 512;
    let mut expected = vec![0; SIZE];
    expected[5_000_000..5_100_000].copy_from_slice(&content(100_000));
    expected[SIZE - 3..].copy_from_slice(b"end");
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes(SIZE)).unwrap();
    file.write_all_at(&expected[5_000_000..5_100_000], 5_000_000).unwrap();
    file.write_all_at(b"end", bytes(SIZE) - 3).unwrap();
    let map = raw::map(&file, bytes(SIZE)).unwrap();
    let hashes = hash(&file, &map, threads(3), &mut go_on).unwrap();
    assert_eq!(hashes.content_id(), ContentId::of(&expected));

    // A map that says "all zeroes" of a file that is shorter: nothing is read, so nothing fails.
    let all_hole = crate::map::FlatMapBuilder::new(bytes(SIZE)).finish();
    let hashes = hash(&file_of(b""), &all_hole, threads(2), &mut go_on).unwrap();
    assert_eq!(hashes.content_id(), ContentId::of(&vec![0; SIZE]));
}

#[test]
fn progress_rises_to_the_total_and_cancels() {
    const SIZE: usize = 40 * 1024 * 1024;
    let map = crate::map::FlatMapBuilder::new(bytes(SIZE)).finish();
    let file = file_of(b"");
    let mut seen = Vec::new();
    hash(&file, &map, threads(2), &mut |done, total| {
        assert_eq!(total, bytes(SIZE));
        seen.push(done);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&bytes(SIZE)), "{seen:?}");

    let mut calls = 0;
    let failure = hash(&file, &map, threads(2), &mut |_, _| {
        calls += 1;
        ControlFlow::Break(())
    })
    .unwrap_err();
    assert_eq!(calls, 1, "nobody is called after having cancelled");
    assert!(matches!(failure, HashFailure::Cancelled { .. }));

    // Even with the last piece: who asked to stop is not given a result.
    let map = FlatMap::dense(512);
    let failure = hash(&file_of(&[1; 512]), &map, threads(1), &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(failure, Err(HashFailure::Cancelled { done_bytes: 512 })));
}

#[test]
fn a_file_that_ends_early_is_named_with_the_offset() {
    let len = 10 * 1024 * 1024;
    let file = file_of(&content(len - 5));
    let failure = hash(&file, &FlatMap::dense(bytes(len)), threads(2), &mut go_on).unwrap_err();
    let HashFailure::Shrunk { offset } = failure else { panic!("{failure:?}") };
    assert_eq!(offset, bytes(len - 5));
}

#[test]
fn a_failed_read_is_named_with_its_place() {
    // A directory opens for reading, and refuses to be read.
    let directory = tempfile::tempdir().unwrap();
    let file = File::open(directory.path()).unwrap();
    let failure = hash(&file, &FlatMap::dense(1 << 20), threads(1), &mut go_on).unwrap_err();
    let HashFailure::Read { offset: 0, len, source } = failure else { panic!("{failure:?}") };
    assert_eq!((len, source.kind()), (1 << 20, io::ErrorKind::IsADirectory));
}

#[test]
fn hashing_works_without_uncached_reads() {
    let whole = content(300_000);
    let file = file_of(&whole);
    let map = FlatMap::dense(bytes(whole.len()));
    let reader = Reader { file: &file, map: &map, uncached: AtomicBool::new(false) };
    let mut read = vec![0; whole.len()];
    assert!(reader.read(0, &mut read).unwrap());
    assert_eq!(read, whole);
}
