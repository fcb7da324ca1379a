//! A device in the world: the real session machine, and a reader above it who knows what the image holds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use diskstream_device::session::{Channel, Event, Session, SessionConfig};
use diskstream_wire::limits::{DEVICE_IO_PORT, DEVICE_LOGIN_PORT, DEVICE_NOTICE_PORT, UNIT_BYTES};
use diskstream_wire::{Mac, Nanos};

use crate::image::SimImage;
use crate::network::Datagram;
use crate::options::Options;
use crate::random::Random;

/// The address of a device.
#[must_use]
pub fn device_ip(device: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, u8::try_from(device + 1).expect("few devices")))
}

/// The MAC of a device.
#[must_use]
pub fn device_mac(device: usize) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, u8::try_from(device + 1).expect("few devices")])
}

/// A device that reads random ranges until it has done its share.
pub struct SimDevice {
    number: usize,
    session: Session,
    image: SimImage,
    outstanding: HashMap<u64, u64>,
    next_token: u64,
    to_do: usize,
    depth: usize,
    random: Random,
    train: Vec<u8>,
    /// Reads that gave bytes.
    pub completed: usize,
    /// Reads that failed although they may not.
    pub failed: usize,
    /// When the last read was completed.
    pub last_completion: Nanos,
}

impl SimDevice {
    /// A device that begins to log in at all nodes.
    #[must_use]
    pub fn start(
        number: usize,
        options: &Options,
        servers: Vec<SocketAddr>,
        image: &SimImage,
        now: Nanos,
        random: &mut Random,
    ) -> SimDevice {
        let mut config = SessionConfig::new(servers, device_mac(number));
        config.notice_port = DEVICE_NOTICE_PORT;
        config.device_name = format!("d{number}");
        config.request_bytes =
            u32::try_from(*random.pick(&[4096usize, 32 * 1024, 60 * 1024])).expect("small");
        config.receive_buffer_bytes = *random.pick(&[212_992, 4 << 20]);
        config.mtu = *random.pick(&[1500, 1500, 9000]);
        let session = Session::new(config, random.seed(), now).expect("settings that can work");
        SimDevice {
            number,
            session,
            image: image.clone(),
            outstanding: HashMap::new(),
            next_token: 0,
            to_do: options.reads_each,
            depth: options.depth,
            random: Random::new(random.bits()),
            train: Vec::new(),
            completed: 0,
            failed: 0,
            last_completion: now,
        }
    }

    /// True when all reads are done.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.to_do == 0 && self.outstanding.is_empty()
    }

    /// When something happens here by itself.
    #[must_use]
    pub fn next_event(&self) -> Nanos {
        self.session.next_deadline()
    }

    /// Hands a datagram to the machine.
    pub fn receive(&mut self, datagram: &Datagram, now: Nanos, sent: &mut Vec<Datagram>) {
        let channel = match datagram.to.port() {
            DEVICE_LOGIN_PORT => Channel::Login,
            DEVICE_IO_PORT => Channel::Io,
            DEVICE_NOTICE_PORT => Channel::Notice,
            _ => return,
        };
        self.session.handle_datagram(channel, datagram.from, &datagram.bytes, now);
        self.turn(now, sent);
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        if self.session.next_deadline() <= now {
            self.session.tick(now);
        }
        self.turn(now, sent);
    }

    fn turn(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        loop {
            while let Some(event) = self.session.poll_event() {
                self.on_event(event, now);
            }
            if !self.issue(now) {
                break;
            }
        }
        while let Some(train) = self.session.poll_send(now, &mut self.train) {
            let port = match train.channel {
                Channel::Login => DEVICE_LOGIN_PORT,
                Channel::Io => DEVICE_IO_PORT,
                Channel::Notice => DEVICE_NOTICE_PORT,
            };
            let from = SocketAddr::new(device_ip(self.number), port);
            for bytes in self.train.chunks(train.segment_bytes.max(1)) {
                sent.push(Datagram { from, to: train.to, bytes: bytes.to_vec() });
            }
        }
        self.session.check_invariants();
    }

    fn on_event(&mut self, event: Event, now: Nanos) {
        if let Event::ReadDone { token, buffer, result } = event {
            let offset =
                self.outstanding.remove(&token).expect("judge of reads: a read is answered once");
            match result {
                Ok(()) => {
                    let at = usize::try_from(offset).expect("a small image");
                    let right = &self.image.padded[at..at + buffer.len()];
                    assert!(
                        buffer == right,
                        "judge of bytes: wrong bytes at offset {offset} of device {}",
                        self.number
                    );
                    self.completed += 1;
                }
                Err(error) => {
                    self.failed += 1;
                    panic!(
                        "judge of reads: device {} was given {error} at offset {offset}",
                        self.number
                    );
                }
            }
            self.last_completion = now;
        }
    }

    /// Asks for what is left; true when something was asked.
    fn issue(&mut self, now: Nanos) -> bool {
        let mut issued = false;
        let units = self.image.padded.len() / UNIT_BYTES;
        while self.to_do > 0 && self.outstanding.len() < self.depth {
            let first = self.random.index(units);
            let count = (self.random.index(32) + 1).min(units - first);
            let buffer = vec![0xA5; count * UNIT_BYTES];
            let offset = (first * UNIT_BYTES) as u64;
            if self.session.read(self.next_token, offset, buffer, now).is_err() {
                break;
            }
            self.outstanding.insert(self.next_token, offset);
            self.next_token += 1;
            self.to_do -= 1;
            issued = true;
        }
        issued
    }

    /// One line for a failure report.
    #[must_use]
    pub fn describe(&self, now: Nanos) -> String {
        format!(
            "device {}: {} done, {} outstanding, {} to do; {:?}",
            self.number,
            self.completed,
            self.outstanding.len(),
            self.to_do,
            self.session.status(now)
        )
    }
}
