//! A scrub finds what is planted, and nothing else.
use super::*;
use crate::open::OpenOptions;
use std::fs::{self, File};

/// Three pieces and a bit, so that the last block is short.
const SIZE: u64 = 3 * SCRUB_PIECE_BYTES + 5 * VERIFY_BLOCK_BYTES + 512;

struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    fn new() -> Self {
        let image = Self { folder: tempfile::tempdir().expect("a folder") };
        let file = File::create(image.path()).expect("an image");
        let mut content = vec![0; index(SIZE)];
        blake3::Hasher::new_derive_key("scrub").finalize_xof().fill(&mut content);
        file.write_all_at(&content, 0).expect("written");
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    /// Hashes it and keeps the hashes.
    fn hashed(&self) -> Vdisk {
        let mut hooks = crate::open::Hooks { racy_secs: 0, before_write: &mut |_| Ok(()) };
        let options = OpenOptions::default();
        let path = self.path();
        crate::open::open(&path, &options, &mut |_, _| ControlFlow::Continue(()), &mut hooks)
            .expect("opens")
    }

    fn flip(&self, offset: u64) {
        let file = File::options().read(true).write(true).open(self.path()).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("read");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
        file.sync_all().expect("on the disk");
    }
}

fn all(scrub: &Scrub) -> ScrubFound {
    scrub.run(&mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_sound_image_is_clean_in_every_byte() {
    let image = Image::new();
    let vdisk = image.hashed();
    for scrub in
        [Scrub::of_vdisk(&vdisk).expect("open"), Scrub::of_image(&image.path()).expect("hashes")]
    {
        let found = all(&scrub);
        assert!(found.is_clean(), "{found:?}");
        assert_eq!(found.checked_bytes, SIZE);
        assert_eq!(scrub.size_bytes(), SIZE);
    }
}

#[test]
fn flipped_bytes_are_named_by_their_blocks() {
    let image = Image::new();
    let vdisk = image.hashed();
    let block = VERIFY_BLOCK_BYTES;
    // One in the middle of a piece, two in neighbouring blocks across a piece's end, one in the short last block.
    for offset in [3 * block + 7, 16 * block - 1, 16 * block, SIZE - 1] {
        image.flip(offset);
    }
    let bad = [3 * block..4 * block, 15 * block..17 * block, SIZE - 512..SIZE];
    let found = all(&Scrub::of_vdisk(&vdisk).expect("open"));
    assert_eq!(found.differing, bad);
    assert_eq!(found.bad_bytes, 3 * block + 512);
    assert!(found.unreadable.is_empty());
    let scrub = Scrub::of_image(&image.path()).expect("hashes of an older state");
    assert_eq!(scrub.stale(), Some(&Stale::Mtime));
    assert_eq!(all(&scrub).differing, bad);
}

#[test]
fn what_cannot_be_read_is_told_from_what_differs() {
    let image = Image::new();
    let vdisk = image.hashed();
    let left = 2 * SCRUB_PIECE_BYTES;
    File::options().write(true).open(image.path()).expect("opens").set_len(left).expect("cut");
    let found = all(&Scrub::of_vdisk(&vdisk).expect("open"));
    assert!(found.differing.is_empty(), "{found:?}");
    assert!(matches!(&found.unreadable[..], [range] if *range == (left..SIZE)), "{found:?}");
    assert!(found.unreadable_because.is_some());
}

#[test]
fn holes_count_as_zeroes_and_are_checked_too() {
    let image = Image::new();
    let path = image.path();
    fs::remove_file(&path).expect("removed");
    let file = File::create(&path).expect("an image");
    file.set_len(SIZE).expect("all holes");
    file.write_all_at(&[9; 4096], 5 * VERIFY_BLOCK_BYTES).expect("but for a page");
    let vdisk = image.hashed();
    let scrub = Scrub::of_vdisk(&vdisk).expect("open");
    assert!(all(&scrub).is_clean());
    assert_eq!(all(&scrub).checked_bytes, SIZE);
}

#[test]
fn no_hashes_is_an_answer_of_its_own() {
    let image = Image::new();
    let error = Scrub::of_image(&image.path()).expect_err("never hashed").to_string();
    assert!(error.contains("vdisk hash"), "{error}");
    let nothing = Scrub::of_image(&image.folder.path().join("nothing.img"));
    assert!(matches!(nothing, Err(ScrubError::Open(_))), "{nothing:?}");
}

#[test]
fn a_scrub_can_be_ended_between_two_pieces() {
    let image = Image::new();
    let scrub = Scrub::of_vdisk(&image.hashed()).expect("open");
    let mut turns = 0;
    let found = scrub.run(&mut |found| {
        turns += 1;
        assert_eq!(found.checked_bytes, (turns - 1) * SCRUB_PIECE_BYTES);
        if turns == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((turns, found.checked_bytes), (3, 2 * SCRUB_PIECE_BYTES));
}
