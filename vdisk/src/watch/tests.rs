use super::*;
use crate::identity::Stamp;
use crate::{OpenOptions, SidecarUse, sys};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

const SIZE: u64 = 128 * 1024;

/// An image that is open and watched.
struct Watched {
    directory: TempDir,
    image: PathBuf,
    /// Held open since before the watch began, as a forgotten virtual machine would.
    writer: File,
    watch: Watch,
}

impl Watched {
    /// `None`, and said so, where there is no inotify.
    fn new() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let image = directory.path().join("disk.raw");
        fs::write(&image, vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
        // Old, so that every later stamp differs, however coarse the clock.
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let writer = File::options().write(true).open(&image).unwrap();
        writer.set_times(fs::FileTimes::new().set_modified(long_ago)).unwrap();
        let options = OpenOptions { sidecar: SidecarUse::Off, ..OpenOptions::default() };
        let watch = Watch::new(&Vdisk::open(&image, &options).unwrap()).unwrap();
        if watch.fd().is_none() {
            eprintln!("SKIPPED: no inotify here");
            return None;
        }
        Some(Self { directory, image, writer, watch })
    }

    /// The change that the descriptor announces.
    fn awaited(&mut self) -> Option<Change> {
        let fd = self.watch.fd().expect("checked when made");
        assert!(sys::await_readable(fd, 10_000), "no event came within 10 s");
        self.watch.check()
    }

    /// Whether nothing is announced and nothing is found by comparing.
    fn is_quiet(&mut self) -> bool {
        let fd = self.watch.fd().expect("checked when made");
        !sys::await_readable(fd, 0) && self.watch.check().is_none()
    }
}

#[test]
fn an_untouched_image_is_quiet() {
    let Some(mut watched) = Watched::new() else { return };
    assert!(watched.is_quiet());
    // Being read, and being opened for writing without a write, is nobody's business.
    fs::read(&watched.image).unwrap();
    drop(File::options().write(true).open(&watched.image).unwrap());
    assert_eq!(watched.awaited(), None);
    assert!(watched.is_quiet());
}

#[test]
fn a_write_is_announced_once_and_blamed() {
    let Some(mut watched) = Watched::new() else { return };
    watched.writer.write_all_at(b"oops", 4096).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!((change, change.content()), (Change::Modified, Content::Changed));
    let writers = writers_of(&watched.watch.known);
    assert!(writers.iter().any(|writer| writer.pid == std::process::id()), "{writers:?}");
    let blame = Writers(writers).to_string();
    assert!(blame.starts_with("; open for writing by ") && blame.contains("(pid "), "{blame}");
    assert!(watched.is_quiet(), "once");
    watched.writer.write_all_at(b"again", 4096).unwrap();
    assert_eq!(watched.awaited(), Some(Change::Modified), "and anew for a new write");
}

#[test]
fn a_write_whose_time_is_set_back_is_a_write() {
    let Some(mut watched) = Watched::new() else { return };
    let modified = fs::metadata(&watched.image).unwrap().modified().unwrap();
    watched.writer.write_all_at(b"oops", 0).unwrap();
    watched.writer.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
    assert_eq!(watched.awaited(), Some(Change::Modified));
}

#[test]
fn a_size_that_changes_is_announced_with_both_sizes() {
    let Some(mut watched) = Watched::new() else { return };
    watched.writer.set_len(4096).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!(change, Change::Truncated { from_bytes: SIZE, to_bytes: 4096 });
    assert_eq!(change.content(), Content::Changed);
    watched.writer.set_len(8192).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!(change, Change::Grown { from_bytes: 4096, to_bytes: 8192 });
    assert_eq!(change.content(), Content::Suspect);
}

#[test]
fn a_deleted_image_is_intact_while_it_is_open() {
    let Some(mut watched) = Watched::new() else { return };
    fs::remove_file(&watched.image).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!((change, change.content()), (Change::Deleted, Content::Intact));
    assert!(watched.is_quiet());
}

#[test]
fn a_replaced_image_is_intact_while_it_is_open() {
    let Some(mut watched) = Watched::new() else { return };
    let new = watched.directory.path().join("new");
    fs::write(&new, b"other").unwrap();
    fs::rename(&new, &watched.image).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!((change, change.content()), (Change::Replaced, Content::Intact));
    assert!(watched.is_quiet());
    // A write to the old file, which only its writers still have, is still noticed.
    watched.writer.write_all_at(b"oops", 0).unwrap();
    assert_eq!(watched.awaited(), Some(Change::Modified));
}

#[test]
fn an_image_that_is_moved_away_and_back() {
    let Some(mut watched) = Watched::new() else { return };
    let away = watched.directory.path().join("away");
    fs::rename(&watched.image, &away).unwrap();
    assert_eq!(watched.awaited(), Some(Change::Moved));
    fs::rename(&away, &watched.image).unwrap();
    assert_eq!(watched.awaited().map(Change::content), Some(Content::Intact));
    assert!(watched.is_quiet());
}

#[test]
fn attributes_and_times_are_told_from_writes() {
    let Some(mut watched) = Watched::new() else { return };
    fs::set_permissions(&watched.image, fs::Permissions::from_mode(0o640)).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!((change, change.content()), (Change::AttributesChanged, Content::Intact));
    let touched = UNIX_EPOCH + Duration::from_secs(1_100_000_000);
    // Both times, as `touch` does: of the modification time alone the kernel says "modified".
    let times = fs::FileTimes::new().set_modified(touched).set_accessed(touched);
    watched.writer.set_times(times).unwrap();
    let change = watched.awaited().unwrap();
    assert_eq!((change, change.content()), (Change::TimeMoved, Content::Suspect));
}

#[test]
fn what_happened_before_the_watch_began_is_found() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("disk.raw");
    fs::write(&image, vec![1; 4096]).unwrap();
    let vdisk = Vdisk::open(&image, &OpenOptions::default()).unwrap();
    File::options().write(true).open(&image).unwrap().set_len(512).unwrap();
    let mut watch = Watch::new(&vdisk).unwrap();
    assert_eq!(watch.check(), Some(Change::Truncated { from_bytes: 4096, to_bytes: 512 }));
    assert_eq!(watch.check(), None);
}

#[test]
fn comparing_alone_finds_the_same() {
    let Some(mut watched) = Watched::new() else { return };
    watched.watch.inotify = None;
    assert!(watched.watch.fd().is_none());
    assert_eq!(watched.watch.check(), None);
    watched.writer.write_all_at(b"oops", 0).unwrap();
    assert_eq!(watched.watch.check(), Some(Change::TimeMoved), "a write that nobody saw");
    fs::remove_file(&watched.image).unwrap();
    assert_eq!(watched.watch.check(), Some(Change::Deleted));
    assert_eq!(watched.watch.check(), None);
}

#[test]
fn lost_events_and_moved_times_make_a_write() {
    let at = |secs| Stamp { secs, nanos: 0 };
    let before = Identity { dev: 1, inode: 1, size_bytes: 1, mtime: at(1), ctime: at(1), links: 1 };
    let moved = Identity { mtime: at(2), ..before };
    let lost = Events { lost: true, ..Events::UNSEEN };
    assert_eq!(content_change(&before, &before, lost), None);
    assert_eq!(content_change(&before, &moved, lost), Some(Change::Modified));
    assert_eq!(content_change(&before, &moved, Events::UNSEEN), Some(Change::TimeMoved));
}

#[test]
fn every_change_says_what_to_do() {
    let changes = [
        Change::Unreachable { kind: io::ErrorKind::StaleNetworkFileHandle },
        Change::Truncated { from_bytes: 2, to_bytes: 1 },
        Change::Grown { from_bytes: 1, to_bytes: 2 },
        Change::Modified,
        Change::TimeMoved,
        Change::Replaced,
        Change::Deleted,
        Change::Moved,
        Change::AttributesChanged,
    ];
    let mut labels: Vec<&str> = changes.iter().map(|change| change.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), changes.len(), "labels are distinct");
    for change in changes {
        assert!(change.to_string().starts_with("the "), "{change}");
        // Who serves on must be told that it goes on.
        let serves_on = change.content() == Content::Intact;
        assert_eq!(
            change.to_string().contains("served") || change.to_string().contains("same"),
            serves_on,
            "{change}"
        );
    }
}
