//! What a ring works with: its registrations with the kernel, sockets, files.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::op::Key;
use super::zero_copy::Credit;
use super::{FileId, FileSlot, Ring, RingError, SocketId, SocketSlot, receive};
use crate::file::DirectFile;
use crate::udp::UdpSocket;

impl Ring {
    /// Tells the kernel about the arena, the file table and the receive buffers.
    pub(super) fn register(&mut self) -> Result<(), RingError> {
        let resource = |what| move |source| RingError::Resource { what, source };
        let slots = u32::from(self.socket_capacity) + u32::from(self.file_capacity);
        if self.features.registered_files && slots > 0 {
            let made = self.queues.submitter().register_files_sparse(slots);
            self.features.registered_files = kept("registered_files", &made);
        }
        if self.features.registered_buffers
            && let Some(arena) = &self.owned.arena
        {
            // SAFETY: `owned` keeps the arena until every operation is over (or for ever, see drain.rs).
            let made = unsafe { arena.register_with(self.queues.submitter()) };
            self.features.registered_buffers = kept("registered_buffers", &made);
        }
        if self.features.zero_copy_send && !self.features.registered_buffers {
            tracing::warn!("all sends are copied: without a copy they name registered buffers");
            self.features.zero_copy_send = false;
            self.owned.zero_copy.give_up();
        }
        self.allow_workers();
        if let Some((address, entries)) = self.owned.receives.buffer_ring() {
            // SAFETY: the address is that of a mapping of `entries` entries, page-aligned and zeroed, that `owned` keeps
            // until every operation is over.
            let made = unsafe {
                self.queues.submitter().register_buf_ring_with_flags(
                    address,
                    entries,
                    receive::GROUP,
                    0,
                )
            };
            made.map_err(resource("register the receive buffers"))?;
            self.owned.receives.publish_all();
        }
        Ok(())
    }

    /// Lets every read have a worker of the kernel's, should all of them block: by default there are four for each processor, so that
    /// the reads of one file system that hangs would hold up those of all others that need one. They are made when they are needed.
    fn allow_workers(&self) {
        let reads = self.owned.reads.capacity();
        if reads > 0
            && let Err(error) = self.queues.submitter().register_iowq_max_workers(&mut [reads, 0])
        {
            tracing::warn!(
                "the kernel does not take a number of workers ({error}): a store that hangs may hold up the reads of others"
            );
        }
    }

    /// Gives a socket to the ring, which begins to receive with the next turn.
    ///
    /// # Errors
    /// When the ring has as many sockets as it was made for, or the kernel's table does not take it.
    pub fn add_socket(&mut self, mut socket: UdpSocket) -> Result<SocketId, RingError> {
        let full = RingError::TableFull { what: "sockets", capacity: self.socket_capacity };
        let key = self.owned.sockets.vacant().ok_or(full)?;
        if !self.features.gro {
            socket.disable_gro();
        }
        self.set_registered(u32::from(key.index), socket.as_raw_fd())?;
        self.owned.sockets.put(
            key,
            SocketSlot {
                socket,
                receives: 0,
                others: 0,
                closing: false,
                cancel_queued: false,
                credit: Credit::default(),
            },
        );
        self.sockets_stale = true;
        Ok(SocketId(key))
    }

    /// The socket's properties; `None` after its removal.
    #[must_use]
    pub fn socket(&self, id: SocketId) -> Option<&UdpSocket> {
        self.owned.sockets.get(id.0).filter(|slot| !slot.closing).map(|slot| &slot.socket)
    }

    /// Stops receiving and closes the socket when its last operation is over. Sends under way still complete; what was
    /// received and not reaped is dropped. Removing twice is harmless.
    pub fn remove_socket(&mut self, id: SocketId) {
        if let Some(slot) = self.owned.sockets.get_mut(id.0) {
            slot.closing = true;
            self.sockets_stale = true;
            self.close_if_idle(id);
        }
    }

    /// Lets reads name a file.
    ///
    /// # Errors
    /// When the ring has as many files as it was made for, or the kernel's table does not take it.
    pub fn add_file(&mut self, file: Arc<DirectFile>) -> Result<FileId, RingError> {
        let full = RingError::TableFull { what: "files", capacity: self.file_capacity };
        let key = self.owned.files.vacant().ok_or(full)?;
        self.set_registered(self.file_index(key), file.as_raw_fd())?;
        self.features.direct_io &= file.is_direct();
        self.owned.files.put(key, FileSlot { file, reads: 0, closing: false });
        Ok(FileId(key))
    }

    /// Lets go of a file when its last read is over. Removing twice is harmless.
    pub fn remove_file(&mut self, id: FileId) {
        if let Some(slot) = self.owned.files.get_mut(id.0) {
            slot.closing = true;
            self.release_file_if_idle(id);
        }
    }

    /// Files follow the sockets in the kernel's table.
    pub(super) fn file_index(&self, key: Key) -> u32 {
        u32::from(self.socket_capacity) + u32::from(key.index)
    }

    fn set_registered(&self, index: u32, fd: RawFd) -> Result<(), RingError> {
        if !self.features.registered_files {
            return Ok(());
        }
        let resource = |source| RingError::Resource { what: "register a descriptor", source };
        self.queues.submitter().register_files_update(index, &[fd]).map(drop).map_err(resource)
    }

    fn clear_registered(&self, index: u32) {
        if self.features.registered_files {
            // The kernel's table would keep the file open, no more; the next add_ replaces it.
            let _ = self.queues.submitter().register_files_update(index, &[-1]);
        }
    }

    pub(super) fn close_if_idle(&mut self, id: SocketId) {
        let idle = |slot: &SocketSlot| slot.closing && slot.receives == 0 && slot.others == 0;
        if self.owned.sockets.get(id.0).is_some_and(idle) {
            self.clear_registered(u32::from(id.0.index));
            drop(self.owned.sockets.take(id.0));
        }
    }

    pub(super) fn release_file_if_idle(&mut self, id: FileId) {
        if self.owned.files.get(id.0).is_some_and(|slot| slot.closing && slot.reads == 0) {
            self.clear_registered(self.file_index(id.0));
            drop(self.owned.files.take(id.0));
        }
    }
}

fn kept(feature: &'static str, made: &io::Result<()>) -> bool {
    if let Err(error) = made {
        tracing::warn!(
            feature,
            "refused ({error}), using the slower twin; remedy for ENOMEM: LimitMEMLOCK=infinity"
        );
    }
    made.is_ok()
}
