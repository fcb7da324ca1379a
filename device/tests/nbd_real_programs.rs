//! The export against programs that other people wrote: libnbd's, qemu's, fio.
mod nbd_support;

use std::fs;
use std::sync::Arc;

use diskstream_device::front::{FileSource, MemorySource, ReadOnlyDisk};
use nbd_support::{Export, MIB, have, image, run, try_run};

fn read_only(bytes: &[u8]) -> Export {
    Export::new(Arc::new(ReadOnlyDisk(MemorySource::new(bytes))))
}

#[test]
fn nbdinfo_sees_what_we_announce() {
    if !have("nbdinfo") {
        return;
    }
    let export = read_only(&image(8 * MIB));
    let json = run("nbdinfo", &["--json", &export.uri()]);
    let info: serde_json::Value = serde_json::from_str(&json).unwrap();
    let shown = &info["exports"][0];
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(shown["export-size"], 8 * MIB);
    assert_eq!(shown["contexts"][0], "base:allocation");
    assert_eq!(shown["is_read_only"], true);
    assert_eq!(shown["can_multi_conn"], true);
    assert_eq!(shown["can_df"], true);
    assert_eq!(shown["block_size_minimum"], 1);
    assert_eq!(shown["block_size_preferred"], 4096);
    assert_eq!(shown["block_size_maximum"], 32 * MIB);
    let list = run("nbdinfo", &["--list", &export.uri()]);
    assert!(list.contains("export=\"vdisk\""), "{list}");
    let missing = format!("nbd+unix:///other?socket={}", export.socket().display());
    let refused = try_run("nbdinfo", &[&missing]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("No such file"), "{text}");
}

#[test]
fn nbdinfo_maps_the_zero_ranges() {
    if !have("nbdinfo") {
        return;
    }
    let bytes = image(MIB);
    let export = read_only(&bytes);
    let map = run("nbdinfo", &["--map", "--json", &export.uri()]);
    let extents: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let mut at = 0;
    for extent in &extents {
        assert_eq!(extent["offset"], at);
        let length = usize::try_from(extent["length"].as_u64().unwrap()).unwrap();
        let zero = bytes[at..at + length].iter().all(|byte| *byte == 0);
        assert_eq!(extent["type"], if zero { 3 } else { 0 }, "at {at}");
        at += length;
    }
    assert_eq!(at, MIB);
    assert!(extents.len() > 8);
}

#[test]
fn nbdcopy_copies_every_byte() {
    if !have("nbdcopy") {
        return;
    }
    let bytes = image(16 * MIB + 1000);
    let export = read_only(&bytes);
    let copy = export.file("copy");
    run("nbdcopy", &[&export.uri(), copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == bytes);
    let one_by_one = export.file("synchronous");
    run("nbdcopy", &["--synchronous", &export.uri(), one_by_one.to_str().unwrap()]);
    assert!(fs::read(&one_by_one).unwrap() == bytes);
}

#[test]
fn qemu_img_compares_equal_with_the_file_behind_it() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.raw");
    fs::write(&path, image(8 * MIB)).unwrap();
    let export = Export::new(Arc::new(ReadOnlyDisk(FileSource::open(&path).unwrap())));
    let uri = export.uri();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, path.to_str().unwrap()]);
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(map.contains("\"zero\": true"), "{map}");
    // Writes to a read-only export are refused before they are sent.
    let refused = try_run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri]);
    assert!(!refused.status.success());
}
