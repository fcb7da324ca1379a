//! Scrub by command, and by a node that serves.

mod control_support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use control_support::{Place, Serve, run, stderr, stdout};

const BYTES: usize = 3 << 20;
const BAD: u64 = 5 * 65_536 + 100;

/// Flips a bit and puts the file's times back, as a rotten disk would.
fn rot(image: &Path) {
    let file = File::options().read(true).write(true).open(image).expect("opens");
    let modified = file.metadata().expect("metadata").modified().expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, BAD).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], BAD).expect("written");
    file.set_modified(modified).expect("as before");
    file.sync_all().expect("on the disk");
}

#[test]
fn scrub_by_command_names_the_bad_block() {
    let place = Place::new();
    let image = place.image("disk.img", BYTES);
    let name = image.to_str().expect("UTF-8");
    let unhashed = run(&["vdisk", "scrub", name]);
    assert_eq!(unhashed.status.code(), Some(1));
    assert!(stderr(&unhashed).contains("vdisk hash"), "{}", stderr(&unhashed));
    // A file that was written a moment ago gets no sidecar: its times could not tell a change in the same moment.
    let file = File::options().write(true).open(&image).expect("opens");
    let hour_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    file.set_modified(hour_ago).expect("older");
    let deadline = diskstream_ring::clock::now() + control_support::PATIENCE;
    while !place.path("disk.img.b3").exists() {
        assert!(run(&["vdisk", "hash", name]).status.success());
        assert!(diskstream_ring::clock::now() < deadline, "no sidecar");
    }
    let clean = run(&["vdisk", "scrub", name]);
    assert!(clean.status.success(), "{}", stderr(&clean));
    assert_eq!(stdout(&clean), format!("{name}: {BYTES} bytes checked, all are right\n"));
    rot(&image);
    let bad = run(&["vdisk", "scrub", name]);
    assert_eq!(bad.status.code(), Some(2), "{}", stderr(&bad));
    assert_eq!(
        stdout(&bad),
        format!(
            "{name}: bytes 327680..393216 differ from their hashes\n{name}: {BYTES} bytes checked, 65536 of them in bad blocks\n"
        )
    );
}

#[test]
fn a_node_scrubs_what_it_serves_and_stops_serving_what_is_rotten() {
    let place = Place::new();
    let image = place.image("disk.img", BYTES);
    let control = place.path("node.sock");
    let mut node = Serve::start(&control, &[image.to_str().expect("UTF-8"), "--scrub-delay", "0"]);
    node.wait_line("scrub: every byte is right");
    let metrics = node.metrics();
    assert!(
        metrics.contains("diskstream_scrub_checked_bytes{vdisk=\"disk\"} 3145728"),
        "{metrics}"
    );
    assert!(metrics.contains("diskstream_scrub_bad_bytes{vdisk=\"disk\"} 0"), "{metrics}");
    assert_eq!(node.status()["vdisks"][0]["holders"][0]["eligible"], true);
    drop(node);
    // Unnoticed by the watch: the rot comes while the node starts, after its hashing. So the node hashes a good image, and its scrub,
    // which comes later, meets a bad one.
    let mut node = Serve::start(&control, &[image.to_str().expect("UTF-8"), "--scrub-delay", "1"]);
    rot(&image);
    node.wait_line("scrub: bytes 327680..393216 differ from their hashes");
    let status = node.await_status("ineligible", |status| {
        status["vdisks"][0]["holders"][0]["eligible"] == false
    });
    assert!(status["differences"][0].as_str().expect("text").contains("takes no devices for disk"));
    assert!(node.metrics().contains("diskstream_scrub_bad_bytes{vdisk=\"disk\"} 65536"));
}
