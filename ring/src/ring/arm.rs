//! What a ring queues for itself at the start of a turn. Entries and completions for it are reserved (`config.rs`).

use io_uring::{opcode, types};

use super::op::{Class, Key, tag};
use super::{Ring, SocketId, Target, on_target, receive};

impl Ring {
    /// Queues what the ring wants for itself: receives, cancellations, the eventfd's read.
    pub(super) fn arm(&mut self) {
        if !self.bell_armed {
            let fd = types::Fd(self.owned.waker.event_fd());
            let bell = (&raw mut *self.owned.bell).cast::<u8>();
            let entry = opcode::Read::new(fd, bell, 8).build();
            let entry = entry.user_data(tag(Class::Bell, Key::NONE));
            // SAFETY: the eight bytes are boxed in `owned`, and nothing else uses them.
            self.bell_armed = unsafe { self.queues.push(&entry) }.is_ok();
        }
        if self.sockets_stale {
            self.sockets_stale = false;
            for index in 0..self.socket_capacity {
                self.arm_socket(index);
            }
        }
    }

    fn arm_socket(&mut self, index: u16) {
        let Some(key) = self.owned.sockets.key(index) else { return };
        if self.owned.sockets.get(key).is_some_and(|slot| slot.closing) {
            self.cancel_receives(key);
            return;
        }
        let target = self.target(u32::from(index), self.socket_fd(SocketId(key)));
        let owned = &mut *self.owned;
        let slot = owned.sockets.get_mut(key).expect("just found");
        while slot.receives < self.sizes.receives_each {
            if !owned.receives.available() {
                // Arming now would only fail; `sockets_stale` brings us back in the next turn.
                self.stats.receives_starved += u64::from(slot.receives == 0);
                self.sockets_stale = true;
                return;
            }
            let entry = if self.features.multishot_receive {
                let template = owned.receives.template();
                on_target!(target, |fd| opcode::RecvMsgMulti::new(fd, template, receive::GROUP)
                    .build()
                    .user_data(tag(Class::Receive, key)))
            } else {
                let (buffer, message) = owned.receives.arm_single().expect("available");
                let single = Key { index: buffer, generation: u32::from(index) };
                on_target!(target, |fd| opcode::RecvMsg::new(fd, message)
                    .build()
                    .user_data(tag(Class::ReceiveOne, single)))
            };
            // SAFETY: the message header (the shared template, or the buffer's own), the buffers and the buffer ring are
            // boxed or mapped in `owned`. A buffer named here is not handed out before its receive is over.
            unsafe { self.queues.push(&entry) }.expect("entries for every socket are reserved");
            slot.receives += 1;
        }
    }

    /// Ends the receives of a socket that closes.
    fn cancel_receives(&mut self, key: Key) {
        let target = self.target(u32::from(key.index), self.socket_fd(SocketId(key)));
        let slot = self.owned.sockets.get_mut(key).expect("just found");
        if slot.receives == 0 || slot.cancel_queued {
            return;
        }
        let entry =
            on_target!(target, |fd| opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd).all())
                .build());
        let entry = entry.user_data(tag(Class::Cancel, key));
        // SAFETY: the entry points to no memory.
        slot.cancel_queued = unsafe { self.queues.push(&entry) }.is_ok();
        slot.others += u32::from(slot.cancel_queued);
        self.sockets_stale |= !slot.cancel_queued;
    }
}
