//! The export against programs that other people wrote: libnbd's, qemu's, fio.
#![expect(clippy::unwrap_used, reason = "tests may")]

mod nbd_support;

use std::fs;
use std::sync::Arc;

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use diskstream_device::front::nbd::client::{Client, ClientError};
use diskstream_device::front::{FileSource, MemorySource, ReadOnlyDisk, WriteCache};
use nbd_support::{Export, MIB, have, image, run, try_run};

fn read_only(bytes: &[u8]) -> Export {
    Export::new(Arc::new(ReadOnlyDisk(MemorySource::new(bytes))))
}

fn cached(bytes: &[u8], ram_bytes: u64, overflow: Option<&Path>) -> Export {
    let source = Arc::new(MemorySource::new(bytes));
    let cache = WriteCache::new(source, ram_bytes, overflow.map(Path::to_owned)).unwrap();
    Export::new(Arc::new(cache))
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

#[test]
fn qemu_io_writes_zeroes_and_discards() {
    if !have("qemu-io") {
        return;
    }
    let mut bytes = image(8 * MIB);
    let export = cached(&bytes, 4 << 20, None);
    let uri = export.uri();
    let commands = [
        "write -P 17 1000 70000",
        "write -f -P 18 5M 64k",
        "write -z 1M 100k",
        "write -z -u 1500k 3000",
        "discard 6M 1M",
        "flush",
        "read -P 17 1000 70000",
        "read -P 18 5M 64k",
        "read -P 0 1M 100k",
        "read -P 0 6M 1M",
    ];
    let arguments: Vec<&str> = ["-f", "raw", "-d", "unmap"]
        .into_iter()
        .chain(commands.iter().flat_map(|command| ["-c", *command]))
        .chain([uri.as_str()])
        .collect();
    let output = run("qemu-io", &arguments);
    assert!(!output.contains("verification failed"), "{output}");
    bytes[1000..71_000].fill(17);
    bytes[5 * MIB..5 * MIB + 65_536].fill(18);
    bytes[MIB..MIB + 102_400].fill(0);
    bytes[1500 * 1024..1500 * 1024 + 3000].fill(0);
    bytes[6 * MIB..7 * MIB].fill(0);
    let path = export.file("expected");
    fs::write(&path, &bytes).unwrap();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, path.to_str().unwrap()]);
}

#[test]
fn a_full_cache_is_enospc_for_qemu_io_and_reads_go_on() {
    if !have("qemu-io") {
        return;
    }
    let export = cached(&image(8 * MIB), 1 << 20, None);
    let arguments = ["-f", "raw", "-c", "write -P 1 0 2M", "-c", "read 0 8M", &export.uri()];
    let output = try_run("qemu-io", &arguments);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.contains("read 8388608/8388608"), "{text}");
}

#[test]
fn nbdcopy_fills_the_disk_through_the_overflow_file() {
    if !have("nbdcopy") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let export = cached(&vec![1; 24 * MIB], 2 << 20, Some(&dir.path().join("overflow")));
    let bytes = image(24 * MIB);
    let (from, back) = (export.file("from"), export.file("back"));
    fs::write(&from, &bytes).unwrap();
    run("nbdcopy", &["--flush", from.to_str().unwrap(), &export.uri()]);
    run("nbdcopy", &[&export.uri(), back.to_str().unwrap()]);
    assert!(fs::read(&back).unwrap() == bytes);
}

#[test]
fn fio_verifies_random_writes() {
    if !have("fio") {
        return;
    }
    let engines = run("fio", &["--enghelp"]);
    if !engines.lines().any(|line| line.trim() == "nbd") {
        println!("SKIPPED: this fio has no nbd engine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let export = cached(&image(32 * MIB), 4 << 20, Some(&dir.path().join("overflow")));
    let uri = format!("--uri={}", export.uri());
    let common = [
        "--ioengine=nbd",
        &uri,
        "--size=32m",
        "--verify=crc32c",
        "--iodepth=32",
        "--verify_state_save=0",
    ];
    for shape in [
        &[
            "--name=mixed",
            "--rw=randwrite",
            "--bssplit=4k/40:512/20:7k/20:64k/20",
            "--bs_unaligned",
        ][..],
        &[
            "--name=jobs",
            "--rw=randwrite",
            "--bs=4k",
            "--numjobs=4",
            "--size=8m",
            "--offset_increment=8m",
        ],
        &["--name=trims", "--rw=randtrimwrite", "--bs=16k"],
    ] {
        run("fio", &[&common[..], shape, &["--group_reporting"]].concat());
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The client is not only right with our own server.
#[test]
fn our_client_reads_and_writes_a_qemu_nbd() {
    if !have("qemu-nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = (dir.path().join("raw"), dir.path().join("s"));
    let mut bytes = image(4 * MIB);
    fs::write(&path, &bytes).unwrap();
    let server = Command::new("qemu-nbd")
        .args(["-f", "raw", "--persistent", "-x", "there", "-k", socket.to_str().unwrap()])
        .arg(&path)
        .spawn()
        .unwrap();
    let _server = Running(server);
    let patience = Some(Duration::from_secs(30));
    let mut client = (0..500)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Client::connect(&socket, "there", patience).ok()
        })
        .expect("qemu-nbd listens");
    assert_eq!(client.size_bytes(), 4 << 20);
    assert!(client.has_block_status() && !client.read_only());
    client.write(12_345, &[7; 5000]).unwrap();
    bytes[12_345..17_345].fill(7);
    client.write_zeroes(MIB as u64, 8192, false).unwrap();
    bytes[MIB..MIB + 8192].fill(0);
    client.flush().unwrap();
    let mut seen = Vec::new();
    client
        .read_pipelined(0..4 << 20, 100_000, 16, |offset, piece| {
            assert_eq!(offset, seen.len() as u64);
            seen.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    assert!(seen == bytes);
    assert!(!client.block_status(0, 4 << 20).unwrap().is_empty());
    client.disconnect().unwrap();
    let refused = Client::connect(&socket, "elsewhere", patience).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
}
