//! Who writes to an image. Best effort, for log lines: what /proc shows of other users' processes
//! depends on the node's rights, and a writer may be gone before anybody looks.
use crate::identity::Identity;
use crate::sys;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process that has an image open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Process id.
    pub pid: u32,
    /// The program's name, as the kernel keeps it (15 bytes at most).
    pub command: String,
}

/// The most writers that are named: enough for a log line.
const WRITERS_MAX: usize = 8;

/// Who has the file open for writing on this host, as far as this process may see. Walks /proc,
/// which takes milliseconds on a busy host: not for a shard's thread.
#[must_use]
pub fn writers_of(image: &Identity) -> Vec<Writer> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            writes(&entry.path(), image).then(|| Writer { pid, command: command(&entry.path()) })
        })
        .take(WRITERS_MAX)
        .collect()
}

/// Whether a process (by its directory in /proc) has the file open for writing.
fn writes(process: &Path, image: &Identity) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let Ok(metadata) = fs::metadata(descriptor.path()) else { return false };
        (metadata.dev(), metadata.ino()) == (image.dev, image.inode)
            && is_writable(&process.join("fdinfo").join(descriptor.file_name()))
    })
}

/// Reads the open flags from fdinfo: "flags:\t0100002", octal.
fn is_writable(fdinfo: &Path) -> bool {
    let Ok(info) = fs::read_to_string(fdinfo) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn command(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    // A program can name itself as it likes: control characters stay out of the log.
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether somebody has an open image open for writing; `None`: the kernel will not say.
pub(crate) fn has_writer(image: &File) -> Option<bool> {
    // A lease belongs to a description; this one is private, so nothing else is affected.
    let own = File::open(format!("/proc/self/fd/{}", image.as_raw_fd())).ok()?;
    sys::has_writer(&own)
}

/// Writers, as the tail of a sentence: nothing, or "; open for writing by qemu (pid 4242)".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writers(pub Vec<Writer>);

impl fmt::Display for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Writer { pid, command }) in self.0.iter().enumerate() {
            let before = if i == 0 { "; open for writing by " } else { ", " };
            write!(f, "{before}{command} (pid {pid})")?;
        }
        Ok(())
    }
}
