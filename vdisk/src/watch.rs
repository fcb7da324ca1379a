//! Noticing that somebody touches an open image.
//!
//! # What is used, and what was not
//!
//! *inotify* on the open inode says at once that something happened on this host, and wakes a
//! poller. *statx* of the open file and of its path says what, and also sees what another client
//! of a file server did; so [`Watch::check`] must be called now and then (a second or so) even if
//! the descriptor stays silent.
//!
//! A *read lease* (`F_SETLEASE`) would speak up before the first byte changes. It was evaluated and
//! is not held: the writer's `open` blocks until the node answers, up to 45 s, so a busy node
//! would hang an administrator's `cp`; it needs the file's owner or CAP_LEASE, which a node
//! without root seldom is; its break is a signal, which belongs to the program and not to a library;
//! and a break that is only polled for comes no sooner than inotify. What it does well is to answer
//! "does anybody have the file open for writing right now", and for that it is taken and given
//! back when the image is opened.
//!
//! fanotify would name the writer, but needs CAP_SYS_ADMIN; [`writers_of`] looks in /proc instead.
//!
//! None of this protects the devices: every block is checked against its hash before it is
//! served. It is here so that devices move *before* they ask for a block that nobody has any
//! more, and so that the log says who is to blame.
mod blame;
mod events;

pub(crate) use blame::has_writer;
pub use blame::{Writer, Writers, writers_of};

use crate::identity::Identity;
use crate::vdisk::Vdisk;
use events::{Events, Inotify};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// What a change means for the bytes that the open file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// The same as when it was opened: keep serving.
    Intact,
    /// Cannot be told: hash again, or wait for a block that fails its check.
    Suspect,
    /// Changed: the version is not eligible any more.
    Changed,
}

/// What happened to an open image, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The open file cannot be asked any more: its file server forgot it, or its disk is gone.
    Unreachable {
        /// The system's reason.
        kind: io::ErrorKind,
    },
    /// It became shorter.
    Truncated {
        /// Size before, in bytes.
        from_bytes: u64,
        /// Size now.
        to_bytes: u64,
    },
    /// It became longer. The bytes that were there are probably the same.
    Grown {
        /// Size before, in bytes.
        from_bytes: u64,
        /// Size now.
        to_bytes: u64,
    },
    /// It was written to.
    Modified,
    /// Its modification time moved, and no write was seen: `touch`, `rsync -t`, a write through a
    /// memory mapping or by another client of the file server.
    TimeMoved,
    /// The path names another file now. The one that is open lives on, nameless.
    Replaced,
    /// It was deleted. It lives on until it is closed.
    Deleted,
    /// It was moved away: the path names nothing, the file has a name elsewhere.
    Moved,
    /// Its owner, mode or number of names changed; the sidecar is stale from now on.
    AttributesChanged,
}

impl Change {
    /// What this means for the content.
    #[must_use]
    pub fn content(self) -> Content {
        match self {
            Self::Unreachable { .. } | Self::Truncated { .. } | Self::Modified => Content::Changed,
            Self::Grown { .. } | Self::TimeMoved => Content::Suspect,
            Self::Replaced | Self::Deleted | Self::Moved | Self::AttributesChanged => {
                Content::Intact
            }
        }
    }

    /// A stable name, fit for a counter's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Truncated { .. } => "truncated",
            Self::Grown { .. } => "grown",
            Self::Modified => "modified",
            Self::TimeMoved => "time_moved",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
            Self::AttributesChanged => "attributes_changed",
        }
    }
}

impl fmt::Display for Change {
    /// What happened, what it means, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { kind } => write!(
                f,
                "the open image cannot be asked about any more ({kind}); check its disk or file server"
            ),
            Self::Truncated { from_bytes, to_bytes } => write!(
                f,
                "the image was truncated from {from_bytes} to {to_bytes} bytes; restore it, and \
                 give changed content a new version"
            ),
            Self::Grown { from_bytes, to_bytes } => write!(
                f,
                "the image grew from {from_bytes} to {to_bytes} bytes; give changed content a new \
                 version"
            ),
            Self::Modified => f.write_str(
                "the image was changed in place; restore it, and give changed content a new version",
            ),
            Self::TimeMoved => f.write_str(
                "the image's modification time moved though no write was seen; if it was not \
                 `touch`, the content changed: hash it again to find out",
            ),
            Self::Replaced => f.write_str(
                "the image's path names another file now; the old content is served until the \
                 vDisk is opened again",
            ),
            Self::Deleted => f.write_str(
                "the image was deleted; it is served until this node closes it, and cannot be \
                 opened again",
            ),
            Self::Moved => f.write_str(
                "the image was moved away from its path; it is served until this node closes it",
            ),
            Self::AttributesChanged => f.write_str(
                "the image's owner, mode or links changed; the content is the same, and the next \
                 open hashes it again",
            ),
        }
    }
}

/// What the image's path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    TheImage,
    AnotherFile,
    Nothing,
}

/// Watches one open image. Polled: no thread, no signal.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    file: File,
    /// The state that was last reported, at first that in which the image was opened.
    known: Identity,
    named: Named,
    reachable: bool,
    inotify: Option<Inotify>,
}

impl Watch {
    /// Starts to watch, from the moment on at which the vDisk was opened: what happened since is
    /// reported by the first [`Watch::check`]. Without inotify (limits, no /proc) the watch falls
    /// back to comparing, and one log line says so.
    ///
    /// # Errors
    /// When the image's descriptor cannot be duplicated.
    pub fn new(vdisk: &Vdisk) -> io::Result<Self> {
        let [image] = vdisk.files() else { unreachable!("a raw image is one file") };
        let file = image.buffered().try_clone()?;
        let inotify = match Inotify::on(&file) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                tracing::warn!(
                    path = ?vdisk.path(), %error,
                    "no inotify on the image: changes are only noticed by comparing its times \
                     (see fs.inotify.max_user_instances and max_user_watches)"
                );
                None
            }
        };
        Ok(Self {
            path: vdisk.path().to_owned(),
            file,
            known: vdisk.identity(),
            named: Named::TheImage,
            reachable: true,
            inotify,
        })
    }

    /// Readable when something happened on this host; `None` without inotify.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// What happened since the last call: the worst of it, once. Call it when [`Watch::fd`] is
    /// readable and every second or so; after a change was returned, call again until `None`.
    ///
    /// Asks the file system, which may wait for a file server: not for a shard's thread.
    pub fn check(&mut self) -> Option<Change> {
        let events = self.inotify.as_mut().map_or(Events::UNSEEN, Inotify::drain);
        let now = match Identity::of_file(&self.file) {
            Ok(now) => now,
            Err(error) => {
                let news = std::mem::replace(&mut self.reachable, false);
                return news.then(|| Change::Unreachable { kind: error.kind() });
            }
        };
        self.reachable = true;
        let before = std::mem::replace(&mut self.known, now);
        content_change(&before, &now, events)
            .or_else(|| self.name_change(&now))
            .or_else(|| (now.ctime != before.ctime).then_some(Change::AttributesChanged))
    }

    /// Compares what the path names with what it named.
    fn name_change(&mut self, now: &Identity) -> Option<Change> {
        let named = named(&self.path, now);
        if std::mem::replace(&mut self.named, named) == named {
            return None;
        }
        match named {
            // Moved back, or a mount that went away and came back: nothing to do about it.
            Named::TheImage => None,
            Named::AnotherFile => Some(Change::Replaced),
            Named::Nothing if now.links == 0 => Some(Change::Deleted),
            Named::Nothing => Some(Change::Moved),
        }
    }
}

/// What happened to the content, by the file's state and what was seen of writes. Pure.
fn content_change(before: &Identity, now: &Identity, events: Events) -> Option<Change> {
    let (from_bytes, to_bytes) = (before.size_bytes, now.size_bytes);
    if to_bytes < from_bytes {
        Some(Change::Truncated { from_bytes, to_bytes })
    } else if to_bytes > from_bytes {
        Some(Change::Grown { from_bytes, to_bytes })
    } else if events.wrote || (events.lost && now.mtime != before.mtime) {
        Some(Change::Modified)
    } else if now.mtime != before.mtime {
        Some(Change::TimeMoved)
    } else {
        None
    }
}

fn named(path: &Path, image: &Identity) -> Named {
    match std::fs::metadata(path) {
        Ok(metadata) if Identity::of(&metadata).is_same_file(image) => Named::TheImage,
        Ok(_) => Named::AnotherFile,
        Err(_) => Named::Nothing,
    }
}

#[cfg(test)]
mod tests;
