//! Any bytes as the sidecar of an image: opening neither panics nor believes them. The content id is the image's own,
//! because a sidecar's checksum cannot be guessed.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use diskstream_vdisk::{ContentId, OpenOptions, SidecarUse, Vdisk};
use libfuzzer_sys::fuzz_target;

/// An image of two blocks and a bit in memory, and its content id.
fn image() -> &'static (PathBuf, ContentId) {
    static IMAGE: OnceLock<(PathBuf, ContentId)> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = PathBuf::from(format!("/dev/shm/diskstream-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder in memory");
        let path = folder.join("disk.img");
        let bytes: Vec<u8> = (0..140 * 1024u32).map(|i| (i * 7 + i / 251) as u8).collect();
        fs::write(&path, bytes).expect("an image");
        let options =
            OpenOptions { sidecar: SidecarUse::Off, direct_io: false, ..Default::default() };
        let own = Vdisk::open(&path, &options).expect("a good image").content_id();
        (path, own)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (path, own) = image();
    fs::write(path.with_extension("img.b3"), bytes).expect("a sidecar");
    let options =
        OpenOptions { sidecar: SidecarUse::ReadOnly, direct_io: false, ..Default::default() };
    let vdisk = Vdisk::open(path, &options).expect("a bad sidecar is no defect of the image");
    assert_eq!(vdisk.content_id(), *own, "{:?}", vdisk.hash_source());
});
