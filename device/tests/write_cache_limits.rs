//! The write cache where it ends: full RAM, a full disk under the overflow file, files that are not its own.
#![expect(clippy::unwrap_used, reason = "tests may")]
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use diskstream_device::front::disk::{
    Disk, ReadOnlyDisk, WriteDone, WriteFailure, WriteRequest, ZeroMode, ZeroRequest,
};
use diskstream_device::front::source::{ExtentsRequest, check_range};
use diskstream_device::front::write_cache::OverflowError;
use diskstream_device::front::{
    BlockSource, Done, MemorySource, ReadFailure, ReadRequest, WriteCache,
};

const UNIT: usize = 4096;
const MIB: usize = 1 << 20;

fn call(start: impl FnOnce(WriteDone)) -> Result<(), WriteFailure> {
    let (sender, receiver) = channel();
    start(WriteDone::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn write(disk: &dyn Disk, offset: usize, bytes: Vec<u8>) -> Result<(), WriteFailure> {
    let offset = u64::try_from(offset).unwrap();
    call(|done| disk.write(WriteRequest { offset, bytes, done }))
}

fn discard(disk: &dyn Disk, offset: usize, length: usize) -> Result<(), WriteFailure> {
    let (offset, length) = (u64::try_from(offset).unwrap(), u64::try_from(length).unwrap());
    call(|done| disk.zero(ZeroRequest { offset, length, mode: ZeroMode::Discard, done }))
}

fn read(disk: &dyn Disk, offset: usize, length: usize) -> Result<Vec<u8>, ReadFailure> {
    let (sender, receiver) = channel();
    let done = Done::new(move |buffer, result| sender.send(result.map(|()| buffer)).unwrap());
    let offset = u64::try_from(offset).unwrap();
    disk.read(ReadRequest { offset, buffer: vec![9; length], done });
    receiver.recv().unwrap()
}

fn source(bytes: usize) -> Arc<MemorySource> {
    Arc::new(MemorySource::new(vec![3; bytes]))
}

#[test]
fn full_ram_refuses_new_units_and_nothing_else() {
    let cache = WriteCache::new(source(8 * MIB), 1 << 20, None).unwrap();
    for unit in 0..256 {
        write(&cache, unit * UNIT, vec![1; UNIT]).unwrap();
    }
    let fill = cache.fill();
    assert_eq!(fill.snapshot().percent(), 100);
    assert_eq!(write(&cache, 300 * UNIT, vec![2; UNIT]), Err(WriteFailure::NoSpace));
    assert_eq!(write(&cache, 300 * UNIT + 5, vec![2; 7]), Err(WriteFailure::NoSpace));
    assert_eq!(fill.snapshot().writes_refused, 2);
    // Reads go on, of the refused unit too, and so do rewrites.
    assert_eq!(read(&cache, 300 * UNIT, UNIT).unwrap(), vec![3; UNIT]);
    write(&cache, 5 * UNIT + 1, vec![4; 2 * UNIT]).unwrap();
    assert_eq!(read(&cache, 5 * UNIT, 2).unwrap(), [1, 4]);
    // A discard holds no storage and gives some back.
    discard(&cache, 0, 4 * MIB).unwrap();
    assert_eq!(fill.snapshot().used_bytes(), 0);
    assert_eq!(read(&cache, 2 * MIB, UNIT).unwrap(), vec![0; UNIT]);
    write(&cache, 300 * UNIT, vec![2; UNIT]).unwrap();
    assert_eq!(fill.snapshot().used_bytes(), 4096);
}

#[test]
fn outside_the_disk_and_read_only() {
    let cache = WriteCache::new(source(MIB), 1 << 20, None).unwrap();
    assert!(matches!(write(&cache, MIB - 1, vec![0; 2]), Err(WriteFailure::OutOfRange { .. })));
    assert!(matches!(read(&cache, MIB, 1), Err(ReadFailure::OutOfRange { .. })));
    assert!(matches!(discard(&cache, usize::MAX, 2), Err(WriteFailure::OutOfRange { .. })));
    let none = ReadOnlyDisk(source(MIB));
    assert!(none.read_only());
    assert_eq!(write(&none, 0, vec![0]), Err(WriteFailure::ReadOnly));
    assert_eq!(discard(&none, 0, UNIT), Err(WriteFailure::ReadOnly));
}

/// Fails reads of its second MiB.
struct HalfBroken;

impl BlockSource for HalfBroken {
    fn size_bytes(&self) -> u64 {
        2 << 20
    }
    fn read(&self, request: ReadRequest) {
        let ReadRequest { offset, mut buffer, done } = request;
        let length = u64::try_from(buffer.len()).unwrap();
        let failure = ReadFailure::Store { offset, length, cause: "broken".into() };
        let result = check_range(offset, length, 1 << 20).map_err(|_| failure);
        buffer.fill(3);
        done.call(buffer, result);
    }
    fn extents(&self, request: ExtentsRequest) {
        request.done.call(Err(ReadFailure::Shutdown));
    }
}

#[test]
fn a_base_that_fails_fails_only_what_needs_it() {
    let cache = WriteCache::new(Arc::new(HalfBroken), 1 << 20, None).unwrap();
    let failed = write(&cache, MIB + 10, vec![1; 10]);
    assert!(matches!(failed, Err(WriteFailure::Base(ReadFailure::Store { .. }))));
    assert!(matches!(read(&cache, MIB, UNIT), Err(ReadFailure::Store { .. })));
    // A whole unit needs no base, and then the unit is whole.
    write(&cache, MIB, vec![1; UNIT]).unwrap();
    write(&cache, MIB + 10, vec![2; 10]).unwrap();
    assert_eq!(read(&cache, MIB + 9, 2).unwrap(), [1, 2]);
    assert_eq!(cache.fill().snapshot().used_bytes(), 4096);
}

/// Never answers: drops what it is asked.
struct Forgetful;

impl BlockSource for Forgetful {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }
    fn read(&self, _: ReadRequest) {}
    fn extents(&self, _: ExtentsRequest) {}
}

#[test]
fn a_dropped_request_is_reported_not_lost() {
    let cache = WriteCache::new(Arc::new(Forgetful), 1 << 20, None).unwrap();
    assert_eq!(read(&cache, 0, 10), Err(ReadFailure::Dropped));
    assert_eq!(write(&cache, 1, vec![1]), Err(WriteFailure::Base(ReadFailure::Dropped)));
}

#[test]
fn only_an_overflow_file_of_ours_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| WriteCache::new(source(4 * MIB), 1 << 20, Some(path.to_owned()));
    let foreign = dir.path().join("foreign");
    fs::write(&foreign, "thesis").unwrap();
    assert!(matches!(open(&foreign), Err(OverflowError::Foreign(_))));
    assert_eq!(fs::read(&foreign).unwrap(), b"thesis");
    assert!(matches!(open(Path::new("/dev/null")), Err(OverflowError::Foreign(_))));
    assert!(matches!(open(&dir.path().join("no/such")), Err(OverflowError::System { .. })));
    let path = dir.path().join("overflow");
    let first = open(&path).unwrap();
    write(&first, 0, vec![1; 2 * MIB]).unwrap();
    call(|done| first.flush(done)).unwrap();
    assert_eq!(first.fill().snapshot().overflow_bytes, 1 << 20);
    assert!(matches!(open(&path), Err(OverflowError::Locked(_))));
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    drop(first);
    // The threads let go of the file a moment after the cache.
    let second = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        open(&path).ok()
    });
    assert_eq!(read(&second.unwrap(), 0, 1).unwrap(), [3]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 32);
}

/// A tmpfs that is unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "diskstream-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the overflow threads may still hold the file.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_under_the_overflow_file_is_enospc() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED: cannot mount a tmpfs (needs root)");
        return;
    };
    let path = disk.0.path().join("overflow");
    let cache = WriteCache::new(source(16 * MIB), 1 << 20, Some(path)).unwrap();
    let results: Vec<_> = (0..16).map(|mib| write(&cache, mib * MIB, vec![1; MIB])).collect();
    assert_eq!(results[0], Ok(()));
    assert_eq!(results[1], Ok(()));
    assert_eq!(results[15], Err(WriteFailure::NoSpace));
    let fill = cache.fill().snapshot();
    assert!(fill.writes_refused >= 13 && fill.overflow_bytes <= 2 << 20, "{fill:?}");
    // What was acknowledged is there; what was refused reads as before.
    assert_eq!(read(&cache, 0, 2 * MIB).unwrap(), vec![1; 2 * MIB]);
    assert_eq!(read(&cache, 15 * MIB, UNIT).unwrap(), vec![3; UNIT]);
    // Room that a discard gives back is used again.
    discard(&cache, 0, 2 * MIB).unwrap();
    write(&cache, 15 * MIB, vec![5; MIB]).unwrap();
    assert_eq!(read(&cache, 15 * MIB, MIB).unwrap(), vec![5; MIB]);
}
