//! Opening, through the front door: refusals, sidecars, crashes, changes while hashing.
use super::*;
use crate::sidecar::{Damage, Stale, WriteStep};
use crate::{ForeignFormat, SidecarUse, VERIFY_BLOCK_BYTES};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use tempfile::TempDir;

const SIZE: usize = 3 * 65536 + 512;

fn content() -> Vec<u8> {
    (0..251_u8).cycle().take(SIZE).collect()
}

/// A directory with an image in it.
struct Store {
    directory: TempDir,
}

impl Store {
    fn new() -> Self {
        let store = Self { directory: TempDir::new().unwrap() };
        fs::write(store.image(), content()).unwrap();
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("disk.raw")
    }

    fn sidecar(&self) -> PathBuf {
        self.path("disk.raw.b3")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Opens as a node does, except that a just made image counts as settled: the tests do not
    /// wait two seconds.
    fn open(&self) -> Vdisk {
        open_settled(&self.image(), &OpenOptions::default()).unwrap()
    }
}

fn open_settled(path: &Path, options: &OpenOptions) -> Result<Vdisk, OpenError> {
    let mut hooks = Hooks { racy_secs: 0, before_write: &mut |_| Ok(()) };
    open::open(path, options, &mut |_, _| ControlFlow::Continue(()), &mut hooks)
}

fn refusal(path: &Path) -> OpenError {
    Vdisk::open(path, &OpenOptions::default()).unwrap_err()
}

fn why(vdisk: &Vdisk) -> &RehashReason {
    match vdisk.hash_source() {
        HashSource::Hashed { why, .. } => why,
        HashSource::Sidecar => panic!("taken from the sidecar"),
    }
}

fn is_from_sidecar(vdisk: &Vdisk) -> bool {
    matches!(vdisk.hash_source(), HashSource::Sidecar)
}

#[test]
fn an_image_is_what_its_bytes_are() {
    let store = Store::new();
    let vdisk = Vdisk::open(store.image(), &OpenOptions::default()).unwrap();
    assert_eq!(vdisk.path(), store.image());
    assert_eq!(vdisk.size_bytes(), u64::try_from(SIZE).unwrap());
    assert_eq!(vdisk.units(), 49, "48 whole units and one of 512 bytes");
    assert_eq!(vdisk.content_id(), ContentId::of(&content()));
    assert_eq!(vdisk.generation(), ContentId::of(&content()).generation());
    let metadata = fs::metadata(store.image()).unwrap();
    let identity = vdisk.identity();
    assert_eq!((identity.dev, identity.inode), (metadata.dev(), metadata.ino()));
    let [file] = vdisk.files() else { panic!("one file") };
    assert!(file.identity().unwrap().is_same_file(&identity));
    let block = &content()[65536..131_072];
    assert!(vdisk.block_hashes().verify(VERIFY_BLOCK_BYTES, block).is_match());
}

#[test]
fn the_file_reads_directly_or_through_the_cache() {
    let store = Store::new();
    let vdisk = store.open();
    let [file] = vdisk.files() else { panic!("one file") };
    let mut all = vec![0; SIZE];
    file.buffered().read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, content());
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.buffered().as_raw_fd()));
    let flags = flags
        .unwrap()
        .lines()
        .find_map(|line| Some(line.strip_prefix("flags:")?.trim().to_owned()));
    let flags = i32::from_str_radix(&flags.unwrap(), 8).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0, "io_uring fails reads of a non-blocking file");
    match file.alignment() {
        None => eprintln!("SKIPPED: no direct I/O on the temporary directory's file system"),
        Some(alignment) => {
            assert!(alignment.memory_bytes.is_power_of_two());
            assert!(alignment.offset_bytes.is_power_of_two());
            // A read into memory that is aligned by hand, across the end of the file: short.
            let align = usize::try_from(alignment.memory_bytes.max(4096)).unwrap();
            let mut buffer = vec![0; 65536 + align];
            let from = buffer.as_ptr().align_offset(align);
            let read = file.file().read_at(&mut buffer[from..from + 65536], 3 * 65536).unwrap();
            assert_eq!(buffer[from..from + read], content()[3 * 65536..]);
        }
    }
    let buffered = OpenOptions { direct_io: false, ..OpenOptions::default() };
    let vdisk = Vdisk::open(store.image(), &buffered).unwrap();
    assert_eq!(vdisk.files()[0].alignment(), None);
}

#[test]
fn what_is_not_a_file_is_refused_by_name() {
    let store = Store::new();
    assert_eq!(refusal(&store.path("none")).label(), "missing");
    assert_eq!(refusal(&store.image().join("below-a-file")).label(), "missing");
    assert_eq!(refusal(store.directory.path()).label(), "directory");
    assert_eq!(refusal(Path::new("/dev/zero")).label(), "other_type");
    let _listener = UnixListener::bind(store.path("socket")).unwrap();
    assert_eq!(refusal(&store.path("socket")).label(), "other_type");
    symlink("loop", store.path("loop")).unwrap();
    assert_eq!(refusal(&store.path("loop")).label(), "other");
    symlink("disk.raw", store.path("link")).unwrap();
    assert!(Vdisk::open(store.path("link"), &OpenOptions::default()).is_ok());
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let store = Store::new();
    let made = std::process::Command::new("mkfifo").arg(store.path("pipe")).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no mkfifo here");
        return;
    }
    let error = refusal(&store.path("pipe"));
    assert!(matches!(error, OpenError::OtherType { found: "pipe", .. }), "{error}");
    // And a pipe in the sidecar's place costs a hash, not a hang.
    fs::rename(store.path("pipe"), store.sidecar()).unwrap();
    assert!(matches!(why(&store.open()), RehashReason::Unreadable(_)));
}

#[test]
fn a_block_device_is_refused_with_the_way_out() {
    let devices = fs::read_dir("/dev").unwrap().flatten();
    let block = devices.map(|entry| entry.path()).find(|path| {
        use std::os::unix::fs::FileTypeExt;
        fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
            && File::open(path).is_ok()
    });
    let Some(block) = block else {
        eprintln!("SKIPPED: no block device here that may be read");
        return;
    };
    let error = refusal(&block);
    assert_eq!(error.label(), "block_device");
    assert!(error.to_string().contains("dd if="), "{error}");
}

#[test]
fn a_file_without_permission_is_refused_with_the_reason() {
    let store = Store::new();
    fs::set_permissions(store.image(), fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(store.image()).is_ok() {
        eprintln!("SKIPPED: this user may read everything; the mapping is tested below");
    } else {
        assert_eq!(refusal(&store.image()).label(), "permission_denied");
    }
    let denied = io::Error::from_raw_os_error(libc::EACCES);
    let error = OpenError::from_open("/x".into(), denied);
    assert_eq!(error.label(), "permission_denied");
    assert!(error.to_string().contains("setfacl -m u:USER:r \"/x\""), "{error}");
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    let store = Store::new();
    let image = store.image();
    let resize = |size| File::options().write(true).open(&image).unwrap().set_len(size);
    resize(0).unwrap();
    assert_eq!(refusal(&image).label(), "empty");
    for size in [1, 511, 513, 4095, 65537] {
        resize(size).unwrap();
        let error = refusal(&image);
        assert!(matches!(error, OpenError::OddSize { size_bytes, .. } if size_bytes == size));
        assert!(error.to_string().contains("truncate -s %512"), "{error}");
    }
    // The smallest disk there is.
    resize(512).unwrap();
    assert_eq!(Vdisk::open(&image, &OpenOptions::default()).unwrap().units(), 1);
    match resize(crate::MAX_IMAGE_BYTES + 4096) {
        Ok(()) => assert_eq!(refusal(&image).label(), "too_large"),
        Err(error) => eprintln!("SKIPPED: this file system has no files that large: {error}"),
    }
}

#[test]
fn other_formats_are_refused_unless_allowed() {
    let store = Store::new();
    let image = File::options().write(true).open(store.image()).unwrap();
    image.write_all_at(b"QFI\xfb", 0).unwrap();
    let error = refusal(&store.image());
    assert!(matches!(error, OpenError::ForeignFormat { found: ForeignFormat::Qcow2, .. }));
    assert!(error.to_string().contains("qemu-img convert -f qcow2 -O raw"), "{error}");
    let allow = OpenOptions { allow_foreign_content: true, ..OpenOptions::default() };
    assert!(Vdisk::open(store.image(), &allow).is_ok());

    image.write_all_at(&[0; 4], 0).unwrap();
    image.write_all_at(b"conectix", u64::try_from(SIZE).unwrap() - 512).unwrap();
    let error = refusal(&store.image());
    assert!(matches!(error, OpenError::ForeignFormat { found: ForeignFormat::Vhd, .. }));

    // Compressed, hence odd-sized: the explanation that helps comes first.
    fs::write(store.image(), [0x1f, 0x8b, 8, 0, 1]).unwrap();
    let error = refusal(&store.image());
    assert!(matches!(error, OpenError::ForeignFormat { found: ForeignFormat::Gzip, .. }));
}

#[test]
fn a_real_qcow2_and_vhd_are_recognised() {
    let store = Store::new();
    for (format, found) in [
        ("qcow2", ForeignFormat::Qcow2),
        ("vpc", ForeignFormat::Vhd),
        ("vhdx", ForeignFormat::Vhdx),
        ("vmdk", ForeignFormat::Vmdk),
        ("vdi", ForeignFormat::Vdi),
    ] {
        let path = store.path(format);
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .arg(&path)
            .arg("4M")
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: qemu-img makes no {format} here");
            continue;
        }
        let error = refusal(&path);
        assert!(
            matches!(error, OpenError::ForeignFormat { found: f, .. } if f == found),
            "{format}: {error}"
        );
    }
}

#[test]
fn the_second_open_takes_the_sidecar() {
    let store = Store::new();
    let first = store.open();
    assert!(matches!(why(&first), RehashReason::NoSidecar));
    assert!(matches!(
        first.hash_source(),
        HashSource::Hashed { sidecar: SidecarWrite::Written, .. }
    ));
    assert_eq!(store.names(), ["disk.raw", "disk.raw.b3"], "no temporary file is left");
    let second = store.open();
    assert!(is_from_sidecar(&second));
    assert_eq!(second.block_hashes(), first.block_hashes());
}

#[test]
fn a_fresh_image_gets_no_sidecar() {
    let store = Store::new();
    let vdisk = Vdisk::open(store.image(), &OpenOptions::default()).unwrap();
    assert!(matches!(
        vdisk.hash_source(),
        HashSource::Hashed { sidecar: SidecarWrite::TooFresh, .. }
    ));
    assert_eq!(store.names(), ["disk.raw"]);
    // One that was kept by more trusting software is not believed either.
    store.open();
    let vdisk = Vdisk::open(store.image(), &OpenOptions::default()).unwrap();
    assert!(matches!(why(&vdisk), RehashReason::Stale(Stale::Racy)));
}

#[test]
fn the_options_decide_about_the_sidecar() {
    let store = Store::new();
    let with = |sidecar| {
        open_settled(&store.image(), &OpenOptions { sidecar, ..OpenOptions::default() }).unwrap()
    };
    for sidecar in [SidecarUse::Off, SidecarUse::ReadOnly] {
        let vdisk = with(sidecar);
        assert!(matches!(
            vdisk.hash_source(),
            HashSource::Hashed { sidecar: SidecarWrite::NotAsked, .. }
        ));
        assert_eq!(store.names(), ["disk.raw"]);
    }
    store.open();
    assert!(is_from_sidecar(&with(SidecarUse::ReadOnly)));
    assert!(matches!(why(&with(SidecarUse::Off)), RehashReason::Asked));
    let before = fs::metadata(store.sidecar()).unwrap().ino();
    let rehashed = with(SidecarUse::Rewrite);
    assert!(matches!(
        rehashed.hash_source(),
        HashSource::Hashed { why: RehashReason::Asked, sidecar: SidecarWrite::Written }
    ));
    assert_ne!(fs::metadata(store.sidecar()).unwrap().ino(), before, "a new file");
}

#[test]
fn a_stale_sidecar_is_replaced() {
    let store = Store::new();
    let old = store.open().content_id();
    let file = File::options().write(true).open(store.image()).unwrap();
    await_tick(&store);
    file.write_all_at(b"changed", 1000).unwrap();
    let vdisk = store.open();
    assert!(matches!(why(&vdisk), RehashReason::Stale(Stale::Mtime | Stale::Ctime)));
    assert_ne!(vdisk.content_id(), old);
    assert!(is_from_sidecar(&store.open()));

    // Times set back by hand: the change time tells.
    let times =
        fs::FileTimes::new().set_modified(fs::metadata(store.image()).unwrap().modified().unwrap());
    await_tick(&store);
    file.write_all_at(b"again", 1000).unwrap();
    file.set_times(times).unwrap();
    assert!(matches!(why(&store.open()), RehashReason::Stale(Stale::Ctime)));

    file.set_len(u64::try_from(SIZE).unwrap() + 65536).unwrap();
    assert!(matches!(why(&store.open()), RehashReason::Stale(Stale::Size)));
    file.set_len(u64::try_from(SIZE).unwrap() + 65536 + 512).unwrap();
    assert!(matches!(why(&store.open()), RehashReason::Stale(Stale::Size)));

    // Another file under the same name, with the sidecar of the old one.
    fs::copy(store.image(), store.path("copy")).unwrap();
    fs::rename(store.path("copy"), store.image()).unwrap();
    assert!(matches!(why(&store.open()), RehashReason::Stale(Stale::Inode)));
}

#[test]
fn a_damaged_sidecar_is_hashed_again_and_replaced() {
    let store = Store::new();
    let content_id = store.open().content_id();
    let good = fs::read(store.sidecar()).unwrap();
    type Case = (Vec<u8>, fn(&Damage) -> bool);
    let damages: [Case; 6] = [
        (Vec::new(), |d| matches!(d, Damage::Length { found_bytes: 0, .. })),
        (good[..200].to_vec(), |d| matches!(d, Damage::Length { found_bytes: 200, .. })),
        ([&good[..], b"x"].concat(), |d| matches!(d, Damage::Length { .. })),
        (vec![0; good.len()], |d| matches!(d, Damage::Magic)),
        ([&good[..good.len() - 1], b"x"].concat(), |d| matches!(d, Damage::Checksum)),
        ([&good[..8], &[9], &good[9..]].concat(), |d| matches!(d, Damage::Version(9))),
    ];
    for (damaged, is_expected) in damages {
        fs::write(store.sidecar(), damaged).unwrap();
        let vdisk = store.open();
        let RehashReason::Damaged(damage) = why(&vdisk) else { panic!("{:?}", why(&vdisk)) };
        assert!(is_expected(damage), "{damage}");
        assert_eq!(vdisk.content_id(), content_id);
        assert_eq!(fs::read(store.sidecar()).unwrap().len(), good.len());
        assert!(is_from_sidecar(&store.open()), "it was replaced by a good one");
    }
}

#[test]
fn a_forged_sidecar_gives_blocks_that_fail_their_check() {
    let store = Store::new();
    store.open();
    // A sidecar of other content, forged onto this image's identity.
    let mut lie = content();
    lie[0] ^= 1;
    let identity = Identity::of(&fs::metadata(store.image()).unwrap());
    let hashed_at = crate::Stamp { secs: identity.ctime.secs + 10, nanos: 0 };
    let record = sidecar::Record { identity, hashed_at };
    let hashes = BlockHashes::of(&lie);
    let (header, body) = record.encode(&hashes);
    fs::write(store.sidecar(), [&header[..], body].concat()).unwrap();
    let vdisk = store.open();
    assert!(is_from_sidecar(&vdisk), "it cannot be told from a true one");
    assert!(!vdisk.block_hashes().verify(0, &content()[..65536]).is_match(), "but its blocks can");
}

#[test]
fn an_unwritable_place_costs_the_sidecar_and_nothing_else() {
    // A directory in the sidecar's place.
    let store = Store::new();
    fs::create_dir(store.sidecar()).unwrap();
    let vdisk = store.open();
    let HashSource::Hashed { why: RehashReason::Unreadable(_), sidecar } = vdisk.hash_source()
    else {
        panic!("{:?}", vdisk.hash_source())
    };
    assert!(matches!(sidecar, SidecarWrite::Failed { step: WriteStep::Rename, .. }), "{sidecar:?}");
    assert_eq!(store.names(), ["disk.raw", "disk.raw.b3"], "the temporary file is gone");

    // A name so long that no temporary file fits beside it: nothing can be created there.
    let long = store.path(&"x".repeat(250));
    fs::write(&long, content()).unwrap();
    let vdisk = open_settled(&long, &OpenOptions::default()).unwrap();
    let HashSource::Hashed { sidecar, .. } = vdisk.hash_source() else { panic!("hashed") };
    assert!(matches!(sidecar, SidecarWrite::Failed { step: WriteStep::CreateTemporary, .. }));
    assert_eq!(vdisk.content_id(), ContentId::of(&content()));
}

/// Every step of writing fails once, at first without and then with an old sidecar in place.
/// Whatever the point, the sidecar is the old one or the new one, and the image opens.
#[test]
fn a_crash_between_any_two_steps_leaves_the_old_sidecar_or_the_new() {
    use WriteStep::{CreateTemporary, Rename, SyncDirectory, SyncTemporary, WriteTemporary};
    let steps = [CreateTemporary, WriteTemporary, SyncTemporary, Rename, SyncDirectory];
    for crash_at in steps {
        for has_old in [false, true] {
            let store = Store::new();
            if has_old {
                store.open();
                let file = File::options().write(true).open(store.image()).unwrap();
                await_tick(&store);
                file.write_all_at(b"new content", 0).unwrap();
            }
            let old = fs::read(store.sidecar()).ok();
            let mut seen = Vec::new();
            let mut crash = |step| {
                seen.push(step);
                if step != crash_at {
                    return Ok(());
                }
                // A crash removes nothing, so what is on the disk now gets a second name.
                for name in store.names().iter().filter(|name| name.contains(".tmp-")) {
                    fs::hard_link(store.path(name), store.path("disk.raw.b3.tmp-crashed")).unwrap();
                }
                Err(io::Error::other("power cut"))
            };
            let mut hooks = Hooks { racy_secs: 0, before_write: &mut crash };
            let mut go_on = |_, _| ControlFlow::Continue(());
            let options = OpenOptions::default();
            let vdisk = open::open(&store.image(), &options, &mut go_on, &mut hooks).unwrap();
            assert_eq!(seen, steps[..seen.len()], "the order is the documented one");
            let HashSource::Hashed { sidecar: SidecarWrite::Failed { step, .. }, .. } =
                vdisk.hash_source()
            else {
                panic!("{:?}", vdisk.hash_source())
            };
            assert_eq!(*step, crash_at);

            let renamed = crash_at == SyncDirectory;
            if !renamed {
                assert_eq!(fs::read(store.sidecar()).ok(), old, "crash at {crash_at}");
            }
            let after = store.open();
            assert_eq!(is_from_sidecar(&after), renamed, "crash at {crash_at}");
            assert_eq!(after.content_id(), vdisk.content_id());
            assert!(is_from_sidecar(&store.open()));
        }
    }
}

/// What syncing before renaming prevents: a power cut that keeps the name and loses the bytes.
/// Should a disk lie about the sync, any torn file is still recognised.
#[test]
fn a_torn_sidecar_is_never_believed() {
    let store = Store::new();
    let content_id = store.open().content_id();
    let good = fs::read(store.sidecar()).unwrap();
    for keep in (0..good.len()).step_by(17) {
        let mut torn = good[..keep].to_vec();
        torn.resize(good.len(), 0);
        fs::write(store.sidecar(), torn).unwrap();
        let identity = Identity::of(&fs::metadata(store.image()).unwrap());
        assert!(sidecar::load(&store.image(), &identity, 0).is_err(), "{keep} bytes survived");
    }
    assert_eq!(store.open().content_id(), content_id);
}

#[test]
fn old_leftovers_are_removed_and_young_or_foreign_files_are_not() {
    let store = Store::new();
    let young = "disk.raw.b3.tmp-1-1";
    fs::write(store.path(young), b"").unwrap();
    fs::write(store.path("other.raw.b3.tmp-1-1"), b"").unwrap();
    store.open();
    assert!(store.names().contains(&young.to_owned()), "another node may be writing it");
    let now = Identity::of(&fs::metadata(store.path(young)).unwrap()).ctime;
    let later = crate::Stamp { secs: now.secs + 3601, ..now };
    sidecar::remove_leftovers(&store.image(), store.directory.path(), later);
    assert_eq!(store.names(), ["disk.raw", "disk.raw.b3", "other.raw.b3.tmp-1-1"]);
}

#[test]
fn an_image_that_changes_while_it_is_hashed_is_refused() {
    type Case = (&'static str, fn(&Path));
    let changes: [Case; 4] = [
        ("its modification time moved", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(b"x", 0).unwrap();
        }),
        ("its size differs", |path| {
            File::options().append(true).open(path).unwrap().set_len(1 << 20).unwrap();
        }),
        ("its size differs", |path| {
            File::options().write(true).open(path).unwrap().set_len(512).unwrap();
        }),
        ("its change time moved", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let store = Store::new();
        // Stamps are as coarse as the kernel's tick; the image is made old, so that any later
        // one differs.
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let file = File::options().write(true).open(store.image()).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(long_ago)).unwrap();
        drop(file);
        await_tick(&store);
        let image = store.image();
        let mut progress = |_, _| {
            change(&image);
            ControlFlow::Continue(())
        };
        let mut hooks = Hooks { racy_secs: 0, before_write: &mut |_| Ok(()) };
        let options = OpenOptions::default();
        let error = open::open(&image, &options, &mut progress, &mut hooks).unwrap_err();
        assert_eq!(error.label(), "changed_while_hashing");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(store.names(), ["disk.raw"], "and no sidecar is kept");
    }
}

/// Waits until the file system's clock has moved past the image's change time.
fn await_tick(store: &Store) {
    let image = Identity::of(&fs::metadata(store.image()).unwrap()).ctime;
    while sidecar::file_system_clock(&store.image()).unwrap() <= image {
        std::thread::yield_now();
    }
}

#[test]
fn cancelling_names_how_far_it_got_and_keeps_nothing() {
    let store = Store::new();
    let error = Vdisk::open_with_progress(store.image(), &OpenOptions::default(), &mut |_, _| {
        ControlFlow::Break(())
    })
    .unwrap_err();
    assert_eq!(error.label(), "cancelled");
    assert_eq!(store.names(), ["disk.raw"]);
}

#[test]
fn a_writer_is_noticed_at_open() {
    let store = Store::new();
    let writer = File::options().write(true).open(store.image()).unwrap();
    let vdisk = store.open();
    if vdisk.writer_at_open() == WriterAtOpen::Unknown {
        eprintln!("SKIPPED: no leases on the temporary directory's file system");
        return;
    }
    assert_eq!(vdisk.writer_at_open(), WriterAtOpen::Present);
    let writers = crate::writers_of(&vdisk.identity());
    assert!(writers.iter().any(|writer| writer.pid == std::process::id()), "{writers:?}");
    drop(writer);
    // Another test's child process may hold a copy of the descriptor between fork and exec.
    while store.open().writer_at_open() != WriterAtOpen::None {
        std::thread::yield_now();
    }
    assert!(crate::writers_of(&vdisk.identity()).is_empty(), "readers are not writers");
}

#[test]
fn a_sparse_image_opens_with_its_holes() {
    let store = Store::new();
    let image = File::create(store.image()).unwrap();
    image.set_len(64 << 20).unwrap();
    image.write_all_at(&[1; 4096], 1 << 20).unwrap();
    drop(image);
    let vdisk = store.open();
    let expected = fs::read(store.image()).unwrap();
    assert_eq!(vdisk.content_id(), ContentId::of(&expected));
    if vdisk.map().zero_bytes() == 0 {
        eprintln!("SKIPPED: the file system of the temporary directory knows no holes");
        return;
    }
    assert!(vdisk.map().data_bytes() < 1 << 20);
}
