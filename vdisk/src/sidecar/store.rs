//! The sidecar's file: read with suspicion, written so that a crash at any point leaves the old
//! one or the new one. The order of the steps is explained at [`WriteStep`].
use super::record::{HEADER_BYTES, Record};
use super::{Damage, RehashReason, SidecarWrite, Stale, WriteStep};
use crate::content::BlockHashes;
use crate::geometry::index;
use crate::identity::{Identity, Stamp};
use crate::open::Hooks;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Temporary files older than this are left over from a crash: writing one takes milliseconds. A
/// guess, long enough for the slowest store.
const LEFTOVER_SECS: i64 = 3600;

/// How many names to try for a temporary file. They carry the process id and a count, so only
/// another pid namespace's leftovers are in the way.
const NAME_TRIES: usize = 16;

/// `IMAGE.b3`.
pub(crate) fn sidecar_path(image: &Path) -> PathBuf {
    with_suffix(image, ".b3")
}

pub(crate) fn with_suffix(image: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(suffix);
    PathBuf::from(name)
}

/// The hashes of an image in the state `now`, if a sound and fresh sidecar has them.
pub(crate) fn load(
    image: &Path,
    now: &Identity,
    racy_secs: i64,
) -> Result<BlockHashes, RehashReason> {
    let encoded = read(&sidecar_path(image), now.size_bytes)?;
    let (record, hashes) =
        Record::decode(&encoded, now.size_bytes).map_err(RehashReason::Damaged)?;
    record.judge(now, racy_secs).map_err(RehashReason::Stale)?;
    Ok(hashes)
}

/// The hashes in the sidecar of an image of this size, whether they are of its present state or not; and what tells that
/// they are not. For comparing, never for serving.
pub(crate) fn load_any(
    image: &Path,
    now: &Identity,
) -> Result<(BlockHashes, Option<Stale>), RehashReason> {
    let encoded = read(&sidecar_path(image), now.size_bytes)?;
    let (record, hashes) =
        Record::decode(&encoded, now.size_bytes).map_err(RehashReason::Damaged)?;
    let stale = record.judge(now, 0).err();
    Ok((hashes, stale.filter(|stale| *stale != Stale::Racy)))
}

/// Reads a sidecar whole, but never more than an image of this size gives, plus a byte that shows
/// that it is longer.
fn read(path: &Path, size_bytes: u64) -> Result<Vec<u8>, RehashReason> {
    // Non-blocking, as a pipe under this name must not hang the node.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RehashReason::NoSidecar);
        }
        Err(error) => return Err(RehashReason::Unreadable(error)),
    };
    let metadata = file.metadata().map_err(RehashReason::Unreadable)?;
    if !metadata.is_file() {
        return Err(RehashReason::Unreadable(io::Error::other("it is not a file")));
    }
    let expected_bytes = Record::encoded_bytes(size_bytes);
    let found_bytes = metadata.len();
    if found_bytes != expected_bytes {
        return Err(wrong_length(&file, size_bytes, found_bytes));
    }
    let mut encoded = Vec::with_capacity(index(expected_bytes));
    file.take(expected_bytes).read_to_end(&mut encoded).map_err(RehashReason::Unreadable)?;
    Ok(encoded)
}

/// Tells a sidecar of the image in another size from one that was cut short. The header is not
/// vouched for by its checksum here: it decides about the words of a log line, nothing else.
fn wrong_length(file: &File, size_bytes: u64, found_bytes: u64) -> RehashReason {
    let mut header = [0; HEADER_BYTES];
    let named = file.read_exact_at(&mut header, 0).ok().and_then(|()| Record::size_named(&header));
    if named.is_some_and(|named| named != size_bytes) {
        return RehashReason::Stale(Stale::Size);
    }
    let expected_bytes = Record::encoded_bytes(size_bytes);
    RehashReason::Damaged(Damage::Length { found_bytes, expected_bytes })
}

/// The clock of the file system that holds the image, read by making a file there: the only clock
/// that the image's stamps can be compared with. It also finds out whether the directory can be
/// written to before the image is read for minutes.
pub(crate) fn file_system_clock(image: &Path) -> io::Result<Stamp> {
    let temporary = Temporary::create(image)?;
    Ok(Identity::of_file(&temporary.file)?.ctime)
}

/// Writes the sidecar; see [`WriteStep`].
pub(crate) fn save(
    image: &Path,
    record: &Record,
    hashes: &BlockHashes,
    hooks: &mut Hooks<'_>,
) -> SidecarWrite {
    if record.is_racy(hooks.racy_secs) {
        return SidecarWrite::TooFresh;
    }
    match write(image, record, hashes, hooks) {
        Ok(()) => SidecarWrite::Written,
        Err((step, source)) => SidecarWrite::Failed { step, source },
    }
}

fn write(
    image: &Path,
    record: &Record,
    hashes: &BlockHashes,
    hooks: &mut Hooks<'_>,
) -> Result<(), (WriteStep, io::Error)> {
    let (header, body) = record.encode(hashes);
    let written_at = write_beside(image, ".b3", &[&header, body], hooks.before_write)?;
    remove_leftovers(image, &directory_of(image), written_at);
    Ok(())
}

/// Writes a file beside the image, or replaces it, by the steps of [`WriteStep`]. Gives the file system's time.
pub(crate) fn write_beside(
    image: &Path,
    suffix: &str,
    parts: &[&[u8]],
    before: &mut dyn FnMut(WriteStep) -> io::Result<()>,
) -> Result<Stamp, (WriteStep, io::Error)> {
    let mut run = |step, action: &mut dyn FnMut() -> io::Result<()>| {
        before(step).and_then(|()| action()).map_err(|source| (step, source))
    };
    let mut slot = None;
    run(WriteStep::CreateTemporary, &mut || {
        slot = Some(Temporary::create(image)?);
        Ok(())
    })?;
    let mut temporary = slot.expect("the step before filled it");
    run(WriteStep::WriteTemporary, &mut || {
        parts.iter().try_for_each(|part| temporary.file.write_all(part))
    })?;
    run(WriteStep::SyncTemporary, &mut || temporary.file.sync_all())?;
    let written_at = Identity::of_file(&temporary.file).map_err(|e| (WriteStep::Rename, e))?.ctime;
    run(WriteStep::Rename, &mut || temporary.rename(&with_suffix(image, suffix)))?;
    run(WriteStep::SyncDirectory, &mut || File::open(directory_of(image))?.sync_all())?;
    Ok(written_at)
}

fn directory_of(image: &Path) -> PathBuf {
    match image.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file that goes away unless it is renamed.
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    fn create(image: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut tries = 0;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let suffix = format!("{TEMPORARY_INFIX}{}-{count}", std::process::id());
            let path = with_suffix(image, &suffix);
            let opened = File::options().write(true).create_new(true).mode(0o644).open(&path);
            tries += 1;
            match opened {
                Ok(file) => return Ok(Self { file, path: Some(path) }),
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && tries < NAME_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rename(&mut self, to: &Path) -> io::Result<()> {
        let from = self.path.as_ref().expect("renamed once");
        std::fs::rename(from, to)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(?path, %error, "a temporary file is left over");
        }
    }
}

const TEMPORARY_INFIX: &str = ".b3.tmp-";

/// Removes what crashes left behind. Failing costs a few bytes of disk, so it is only a debug line.
pub(crate) fn remove_leftovers(image: &Path, directory: &Path, now: Stamp) {
    let Some(image_name) = image.file_name() else { return };
    let mut prefix = image_name.to_owned();
    prefix.push(TEMPORARY_INFIX);
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && Identity::of(&metadata).ctime.is_before_by_secs(now, LEFTOVER_SECS)
        {
            let removed = std::fs::remove_file(entry.path());
            tracing::debug!(?name, ?removed, "removed a leftover temporary file");
        }
    }
}
