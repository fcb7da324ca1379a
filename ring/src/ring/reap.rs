//! Completions, one by one: what they end, and what the caller gets to see.

use io_uring::cqueue;

use super::op::{Class, Key, classify};
use super::{Completion, Received, Ring, SocketId};
use crate::errno::Errno;
use crate::net::{address, control};

impl Ring {
    /// One completion makes at most one of the caller's.
    pub(super) fn reap(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let (class, key) = classify(entry.user_data());
        if class == Class::Send && cqueue::notif(entry.flags()) {
            // Its result is a set of marks, not a number.
            return self.reap_notification(key, entry.result().cast_unsigned());
        }
        let result = match u32::try_from(entry.result()) {
            Ok(value) => Ok(value),
            Err(_) => Err(Errno(-entry.result())),
        };
        match class {
            Class::Receive => self.reap_receive(key, result, entry.flags()),
            Class::ReceiveOne => self.reap_single(key, result),
            Class::Send => self.reap_send(key, result, cqueue::more(entry.flags())),
            Class::Read => Some(self.reap_read(key, result)),
            Class::Bell => {
                self.bell_armed = false;
                // Anything but eight bytes is a cancellation, while the ring ends.
                if result == Ok(8) { self.woken() } else { None }
            }
            Class::Messaged => self.woken(),
            Class::Message => {
                self.reap_message(key, result);
                None
            }
            Class::Cancel => {
                // How many it found does not matter: each of them completes by itself.
                self.release_socket(SocketId(key));
                None
            }
        }
    }

    fn woken(&mut self) -> Option<Completion> {
        self.owned.waker.lower();
        self.stats.wakes_received += 1;
        Some(Completion::Woken)
    }

    fn reap_message(&mut self, key: Key, result: Result<u32, Errno>) {
        let waker = self.owned.messages.get_mut(key).take().expect("set when it was queued");
        self.owned.messages.release(key);
        if result.is_ok() {
            self.stats.wakes_messaged += 1;
        } else {
            // The other ring is gone, or out of memory; the eventfd serves whoever listens.
            self.stats.wakes_written += 1;
            waker.ring_bell();
        }
    }

    fn reap_receive(
        &mut self,
        key: Key,
        result: Result<u32, Errno>,
        flags: u32,
    ) -> Option<Completion> {
        let socket = SocketId(key);
        // Before anything that may free the socket's slot.
        let completion = match result {
            Ok(len) => {
                let buffer =
                    cqueue::buffer_select(flags).expect("a receive with data has a buffer");
                self.owned.receives.hand_out();
                self.receive(socket, buffer, len as usize)
            }
            Err(error) => self.receive_failed(socket, error),
        };
        if !cqueue::more(flags) {
            self.end_receive(socket);
        }
        completion
    }

    /// The twin. Its key is the buffer, and in place of a generation the socket's slot: a socket's slot is not reused
    /// before all its receives are over.
    fn reap_single(&mut self, key: Key, result: Result<u32, Errno>) -> Option<Completion> {
        let index = u16::try_from(key.generation).expect("made from a 16-bit index");
        let socket =
            SocketId(self.owned.sockets.key(index).expect("a socket outlives its receives"));
        let completion = match result {
            Ok(payload_bytes) => {
                let len = self.owned.receives.finish_single(key.index, payload_bytes);
                self.owned.receives.hand_out();
                self.receive(socket, key.index, len)
            }
            Err(error) => {
                self.owned.receives.disarm_single(key.index);
                self.receive_failed(socket, error)
            }
        };
        self.end_receive(socket);
        completion
    }

    /// A buffer with `len` bytes in use arrived.
    fn receive(&mut self, socket: SocketId, buffer: u16, len: usize) -> Option<Completion> {
        let received = self.understand(socket, buffer, len);
        match received {
            Some(received) => Some(Completion::Received(received)),
            None => {
                self.owned.receives.take_back(buffer);
                None
            }
        }
    }

    /// `None` for what is dropped here: cut off, for a socket that closes, or of a family we never bind.
    fn understand(&mut self, socket: SocketId, buffer: u16, len: usize) -> Option<Received> {
        if self.owned.sockets.get(socket.0).is_none_or(|slot| slot.closing) {
            return None;
        }
        let parsed = self.owned.receives.parse(buffer, len)?;
        let reported = control::parse(parsed.control_data());
        let from = address::parse(parsed.name_data())?;
        let mut payload_bytes = parsed.payload_data().len();
        let truncated = parsed.is_payload_truncated();
        let segment = usize::from(reported.segment_bytes);
        self.stats.receives_truncated += u64::from(truncated);
        if truncated {
            // Of a train, the whole datagrams that fit are as good as any.
            payload_bytes -= payload_bytes.checked_rem(segment)?;
        }
        let segment = if segment == 0 { payload_bytes } else { segment.min(payload_bytes) };
        if truncated && payload_bytes == 0 {
            return None;
        }
        let segment_bytes = u16::try_from(segment).ok()?;
        self.stats.trains_received += 1;
        self.stats.datagrams_received += payload_bytes.div_ceil(segment.max(1)).max(1) as u64;
        self.stats.bytes_received += payload_bytes as u64;
        Some(Received {
            ring: self.id,
            buffer,
            segment_bytes,
            payload_bytes: u32::try_from(payload_bytes).expect("a train is shorter than a buffer"),
            interface: reported.interface,
            socket,
            from,
            local: reported.local,
        })
    }

    fn receive_failed(&mut self, socket: SocketId, error: Errno) -> Option<Completion> {
        let closing = self.owned.sockets.get(socket.0).is_none_or(|slot| slot.closing);
        match error.0 {
            libc::ENOBUFS => {
                self.stats.receives_starved += 1;
                None
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => None,
            _ if closing => None,
            _ => Some(Completion::SocketError { socket, error }),
        }
    }

    fn end_receive(&mut self, socket: SocketId) {
        let slot = self.owned.sockets.get_mut(socket.0).expect("a socket outlives its receives");
        slot.receives -= 1;
        self.sockets_stale = true;
        self.close_if_idle(socket);
    }

    pub(super) fn release_socket(&mut self, socket: SocketId) {
        let slot = self.owned.sockets.get_mut(socket.0).expect("a socket outlives its operations");
        slot.others -= 1;
        self.close_if_idle(socket);
    }

    /// What became of one message. `notified`: a notification will tell its end.
    pub(super) fn reap_send(
        &mut self,
        key: Key,
        result: Result<u32, Errno>,
        notified: bool,
    ) -> Option<Completion> {
        self.expected -= 1;
        let op = self.owned.sends.get_mut(key);
        match result {
            Ok(bytes) => op.sent_bytes += bytes,
            Err(error) => op.error = op.error.or(Some(error)),
        }
        if !op.segmented && result.is_ok() {
            self.stats.datagrams_sent += 1;
        }
        if notified { None } else { self.end_message(key) }
    }

    pub(super) fn finish_send(&mut self, key: Key, socket: SocketId) -> Completion {
        let op = self.owned.sends.get_mut(key);
        let (error, bytes, segmented) = (op.error, op.sent_bytes, op.segmented);
        let refused = op.refused.take();
        let plan = op.finish();
        if op.held().is_some() && error.is_none() {
            self.stats.sends_zero_copy += 1;
            self.stats.bytes_zero_copy += u64::from(bytes);
        }
        self.release_hold(key);
        self.owned.sends.release(key);
        self.judge_refusal(refused, error.is_none());
        self.stats.bytes_sent += u64::from(bytes);
        match error {
            None if segmented => self.stats.datagrams_sent += plan.segments() as u64,
            None => {}
            Some(error) if error.is_throttle() => self.stats.sends_dropped += 1,
            Some(_) => self.stats.sends_failed += 1,
        }
        Completion::Sent { socket, plan, result: error.map_or(Ok(bytes), Err) }
    }

    /// A segmented send failed with `EIO`: the interface cannot checksum, so it cannot segment either. Uses the twin from
    /// here on, and for this plan too, if there is room. True when the plan is under way again.
    pub(super) fn downgrade(&mut self, key: Key) -> bool {
        if self.features.gso {
            self.features.gso = false;
            tracing::warn!(
                "a segmented send failed with EIO; this ring sends one datagram at a time from here on; \
                 remedy: switch on checksum offload (ethtool -K <interface> tx on)"
            );
        }
        self.release_hold(key);
        let segments = self.owned.sends.get_mut(key).plan().segments();
        if !self.has_room(segments) {
            return false;
        }
        self.stats.sends_downgraded += 1;
        self.queue_send(key);
        true
    }

    fn reap_read(&mut self, key: Key, result: Result<u32, Errno>) -> Completion {
        self.expected -= 1;
        let op = self.owned.reads.get_mut(key);
        let (token, file, len) = (op.token, op.file, op.len);
        self.owned.reads.release(key);
        match result {
            Ok(bytes) => {
                assert!(bytes <= len, "a read is longer than asked");
                self.stats.bytes_read += u64::from(bytes);
            }
            Err(_) => self.stats.reads_failed += 1,
        }
        let slot = self.owned.files.get_mut(file.0).expect("a file outlives its reads");
        slot.reads -= 1;
        self.release_file_if_idle(file);
        Completion::Read { token, result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::features::Features;
    use crate::ring::{Completions, RingConfig, Wait};
    use crate::send::SendPlan;
    use crate::udp::{SocketConfig, UdpSocket};
    use diskstream_wire::time::Nanos;

    const PATIENCE: Nanos = Nanos::from_secs(20);

    /// An interface without checksum offload answered `EIO` until Linux 6.11; newer kernels cannot be made to, so the
    /// answer is put into the completion's place.
    fn fail_segmented_send() -> (Ring, SocketId) {
        let mut ring = Ring::new(&RingConfig::default(), None).unwrap();
        let any = SocketConfig::new("127.0.0.1:0".parse().unwrap());
        let socket = UdpSocket::bind(&any).unwrap();
        let to = socket.local_addr();
        let id = ring.add_socket(socket).unwrap();
        let mut plan = SendPlan::new();
        plan.push_scratch(&[3; 2500]).unwrap();
        plan.segment_bytes = 1000;
        plan.peer = to;
        ring.send(id, plan).unwrap();
        ring.queues.enter(1, None).unwrap();
        let entry = ring.queues.pop().expect("a loopback takes a send at once");
        let (class, key) = classify(entry.user_data());
        assert_eq!((class, entry.result()), (Class::Send, 2500));
        assert!(ring.reap_send(key, Err(Errno::EIO), false).is_none(), "it goes out again");
        (ring, id)
    }

    #[test]
    fn an_interface_that_cannot_segment_gets_single_datagrams() {
        if !Features::probe().gso {
            eprintln!("SKIPPED: needs GSO");
            return;
        }
        let (mut ring, id) = fail_segmented_send();
        assert!(!ring.features().gso);
        let mut done = Completions::new(16);
        let (mut lengths, mut sent) = (Vec::new(), None);
        let deadline = clock::now() + PATIENCE;
        // The three of the send that was declared failed, and the three that went out instead.
        while sent.is_none() || lengths.len() < 6 {
            assert!(clock::now() < deadline);
            ring.turn(Wait::Until(deadline), &mut done).unwrap();
            for completion in done.drain() {
                match completion {
                    Completion::Sent { socket, result, .. } => {
                        assert_eq!(socket, id);
                        sent = Some(result);
                    }
                    Completion::Received(received) => {
                        lengths.push(ring.datagram(&received).payload.len());
                        ring.recycle(received);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(sent, Some(Ok(2500)));
        assert_eq!(lengths[3..], [1000, 1000, 500]);
        assert_eq!((ring.stats().sends_downgraded, ring.stats().sends_failed), (1, 0));
        assert_eq!(ring.sends_outstanding(), 0);
    }
}
