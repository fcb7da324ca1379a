//! What other threads hold of a device: they submit reads, and are answered on the device's thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diskstream_ring::inbox::Sender;

use crate::front::{BlockSource, ExtentsRequest, ReadFailure, ReadRequest};
use crate::session::SessionStatus;

/// Requests that may wait for the device's thread. Guess: the reads of some NBD connections.
pub(super) const INBOX_CAPACITY: usize = 1024;
/// Pause of a thread that finds the inbox full: it waits for the device, which is what a bounded queue is for.
const FULL_PAUSE: Duration = Duration::from_micros(50);
/// How long a status may take: the thread is busy for milliseconds at most.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a thread asks of a device.
pub(super) enum Command {
    Read(ReadRequest),
    Extents(ExtentsRequest),
    WriteCacheFigures { used_bytes: u64, capacity_bytes: u64 },
    Status(mpsc::SyncSender<SessionStatus>),
    Detach,
}

/// A device's handle: `Send + Sync`, cheap to clone. It speaks whole units; wrap it in [`crate::front::UnitAligned`].
#[derive(Clone)]
pub struct Handle {
    pub(super) sender: Sender<Command>,
    /// Set before the handle is given out; the size of a vDisk never changes.
    pub(super) size_bytes: Arc<AtomicU64>,
    /// The device's thread has ended.
    pub(super) ended: Arc<std::sync::atomic::AtomicBool>,
}

impl Handle {
    /// Queues a command, waiting while the inbox is full. Gives it back when the device has ended.
    pub(super) fn submit(&self, mut command: Command) -> Result<(), Command> {
        loop {
            if self.ended.load(Ordering::Acquire) {
                return Err(command);
            }
            match self.sender.push(command) {
                Ok(()) => return Ok(()),
                Err(back) => command = back,
            }
            std::thread::sleep(FULL_PAUSE);
        }
    }

    /// Tells the figures of the write cache, which the node shows.
    pub fn set_write_cache_figures(&self, used_bytes: u64, capacity_bytes: u64) {
        // Figures of a device that has ended interest nobody.
        let _ended = self.submit(Command::WriteCacheFigures { used_bytes, capacity_bytes });
    }

    /// A snapshot; none when the device has ended.
    #[must_use]
    pub fn status(&self) -> Option<SessionStatus> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(Command::Status(sender)).ok()?;
        receiver.recv_timeout(STATUS_TIMEOUT).ok()
    }
}

impl BlockSource for Handle {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn read(&self, request: ReadRequest) {
        if let Err(Command::Read(request)) = self.submit(Command::Read(request)) {
            request.done.call(request.buffer, Err(ReadFailure::Shutdown));
        }
    }

    fn extents(&self, request: ExtentsRequest) {
        if let Err(Command::Extents(request)) = self.submit(Command::Extents(request)) {
            request.done.call(Err(ReadFailure::Shutdown));
        }
    }
}
