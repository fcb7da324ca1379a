//! A scripted device: says exactly what a test tells it to, and checks what it gets.

use std::net::SocketAddr;

use diskstream_node::shard::{Input, SocketRole};
use diskstream_node::trust::DeviceKey;
use diskstream_wire::limits::{READ_BYTES_MAX, TICKET_BYTES_MAX};
use diskstream_wire::{
    Capabilities, Flags, FragmentSize, Handshake, HandshakeReply, ImageMode, IoPortRequest,
    IoServiceStart, LoginKind, LoginPortRequest, LoginStart, LoginTransfer, Mac, Message, Read,
    ReadErrorCode, Text, TicketBody, node_entries,
};

use super::{Mail, UNIT, World, local};

#[derive(Clone, Debug)]
pub struct Device {
    pub mac: Mac,
    pub at: SocketAddr,
    pub key: Option<DeviceKey>,
    pub kind: LoginKind,
    pub capabilities: Capabilities,
    pub nonce: [u8; 16],
    pub cookie: [u8; 16],
    pub ticket: Vec<u8>,
    pub vdisk: String,
    pub generation: u64,
    pub shard: usize,
    pub session: u32,
    pub tag: u64,
    pub fragment_size: FragmentSize,
    pub next_request: u64,
    /// Tag of the session that it says it had.
    pub former_tag: u64,
}

/// What a read came to.
#[derive(Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    /// Fragments that came as data.
    pub fragments: u64,
    pub zero_units: u16,
    pub zero_marks: usize,
    pub pending: usize,
    pub busy: Vec<u32>,
    pub errors: Vec<ReadErrorCode>,
    pub draining: bool,
    /// Nothing is missing.
    pub complete: bool,
}

impl Device {
    pub fn new(n: u8) -> Device {
        Device {
            mac: Mac([2, 0, 0, 0, 0, n]),
            at: SocketAddr::from(([10, 0, 1, n], 6905)),
            key: None,
            kind: LoginKind::Boot,
            capabilities: Capabilities::OURS,
            nonce: [n; 16],
            cookie: [0; 16],
            ticket: Vec::new(),
            vdisk: String::new(),
            generation: 0,
            shard: 0,
            session: 0,
            tag: 0,
            fragment_size: FragmentSize::B1376,
            next_request: u64::from(n) << 32,
            former_tag: 0,
        }
    }

    /// A device of the given number whose MAC belongs to a shard.
    pub fn on_shard(world: &World, shard: usize, from: u8) -> Device {
        let at = |n| Device::new(n);
        let mut devices = (from..=255).map(at);
        let fits = |d: &Device| usize::from(world.shared.shard_of(d.mac)) == shard;
        devices.find(fits).expect("every shard has some MAC")
    }

    pub fn login_port_request(&self) -> LoginPortRequest {
        LoginPortRequest {
            tag: 0x1111,
            mac: self.mac,
            login_kind: self.kind,
            version_min: 1,
            version_max: 1,
            ..Default::default()
        }
    }

    /// Asks for the login port; keeps the cookie.
    pub fn get_cookie(&mut self, world: &mut World) {
        let replies = self.ask_login(world, |buf, d| d.login_port_request().encode(buf));
        let [mail] = &replies[..] else { panic!("one answer, not {replies:?}") };
        let Message::LoginPortReply(reply) = mail.message() else { panic!("{mail:?}") };
        assert_eq!(reply.tag, 0x1111);
        assert_eq!(reply.login.socket_addr(), Some("10.0.0.1:6910".parse().unwrap()));
        self.cookie = reply.cookie;
    }

    pub fn login_start(&self) -> LoginStart {
        let proof = self.key.as_ref().map(|k| k.proof(&self.cookie, &self.nonce, self.mac));
        LoginStart {
            tag: 0x2222,
            mac: self.mac,
            login_kind: self.kind,
            version: 1,
            capabilities: self.capabilities,
            cookie: self.cookie,
            device_nonce: self.nonce,
            proof: proof.unwrap_or([0; 32]),
            vdisk: Text::new(&self.vdisk),
            ticket_bytes: self.ticket.len() as u16,
            ..Default::default()
        }
    }

    /// Cookie and login start; gives the answer.
    pub fn try_login(&mut self, world: &mut World) -> Mail {
        self.get_cookie(world);
        let replies =
            self.ask_login(world, |buf, d| d.login_start().encode_with_tail(&d.ticket, buf));
        let [mail] = &replies[..] else { panic!("one answer, not {replies:?}") };
        mail.clone()
    }

    pub fn login(&mut self, world: &mut World) -> LoginTransfer {
        let mail = self.try_login(world);
        let decoded = mail.decode();
        let Message::LoginTransfer(transfer) = decoded.message else {
            panic!("not let in: {:?}", decoded.message)
        };
        assert_eq!(transfer.tag, 0x2222);
        let ticket = node_entries(decoded.tail, transfer.node_count, |_| {});
        assert_eq!(ticket.len(), usize::from(transfer.ticket_bytes));
        self.ticket = ticket.to_vec();
        self.vdisk = transfer.vdisk.as_str().to_owned();
        self.generation = transfer.content_id.generation();
        transfer
    }

    /// Asks which shard serves the device.
    pub fn get_io_port(&mut self, world: &mut World) {
        let request = IoPortRequest { tag: 0x3333, mac: self.mac, ..Default::default() };
        let replies = self.ask_login(world, |buf, _| request.encode(buf));
        let Message::IoPortReply(reply) = replies[0].message() else { panic!("{replies:?}") };
        let io = reply.io.socket_addr().expect("an endpoint");
        assert_eq!(io.ip(), local().unwrap().ip);
        self.shard = usize::from(io.port() - 6911);
    }

    pub fn start(&self) -> IoServiceStart {
        let bound = [&self.ticket[..], &self.former_tag.to_le_bytes()].concat();
        let proof = self.key.as_ref().map(|k| k.proof(&bound, &self.nonce, self.mac));
        IoServiceStart {
            tag: 0x4444,
            mac: self.mac,
            login_kind: self.kind,
            version: 1,
            capabilities: self.capabilities,
            device_nonce: self.nonce,
            proof: proof.unwrap_or([0; 32]),
            vdisk: Text::new(&self.vdisk),
            ticket_bytes: self.ticket.len() as u16,
            former_tag: self.former_tag,
            ..Default::default()
        }
    }

    pub fn try_start(&mut self, world: &mut World) -> Mail {
        let replies = self.ask(world, |buf, d| d.start().encode_with_tail(&d.ticket, buf));
        let [mail] = &replies[..] else { panic!("one answer, not {replies:?}") };
        if let Message::LoginComplete(complete) = mail.message() {
            assert_eq!(complete.tag, 0x4444);
            (self.session, self.tag) = (complete.session, complete.session_tag);
        }
        mail.clone()
    }

    pub fn handshake(&self) -> Handshake {
        Handshake {
            tag: self.tag,
            session: self.session,
            datagram_bytes: self.fragment_size.datagram_bytes() as u16,
            notice_port: 6902,
            window: 16,
            receive_buffer_bytes: 1 << 20,
            capabilities: self.capabilities,
            image_mode: ImageMode::Standard,
            vdisk: Text::new(&self.vdisk),
            device_name: Text::new("a test"),
            software: Text::new("scripted 1"),
            ..Default::default()
        }
    }

    /// Ends the boot; keeps the ticket that comes with it.
    pub fn shake_hands(&mut self, world: &mut World) -> HandshakeReply {
        let replies = self.ask(world, |buf, d| d.handshake().encode(buf));
        let decoded = replies[0].decode();
        let Message::HandshakeReply(reply) = decoded.message else { panic!("{replies:?}") };
        assert_eq!(decoded.tail.len(), usize::from(reply.ticket_bytes));
        if reply.ticket_bytes > 0 {
            self.ticket = decoded.tail.to_vec();
        }
        reply
    }

    /// Everything up to many outstanding reads.
    pub fn connect(mut self, world: &mut World) -> Device {
        self.login(world);
        self.get_io_port(world);
        let mail = self.try_start(world);
        assert!(matches!(mail.message(), Message::LoginComplete(_)), "{:?}", mail.message());
        assert_eq!(self.shake_hands(world).accepted, 1);
        self
    }

    /// Everything up to many outstanding reads for a session of the device's own kind, which is given its ticket by a boot.
    pub fn connect_as(mut self, world: &mut World) -> Device {
        let kind = std::mem::replace(&mut self.kind, LoginKind::Boot);
        self.login(world);
        self.get_io_port(world);
        self.kind = kind;
        let mail = self.try_start(world);
        assert!(matches!(mail.message(), Message::LoginComplete(_)), "{:?}", mail.message());
        assert_eq!(self.shake_hands(world).accepted, 1);
        self
    }

    /// A session for one of thousands: with a ticket that the test seals itself, and without running the node to rest.
    pub fn connect_quietly(&mut self, world: &mut World) {
        let shared = &world.shared;
        let body = TicketBody {
            mac: self.mac,
            content_id: shared.vdisk(0).content_id,
            vdisk: Text::new(&shared.vdisk(0).name),
            farm_epoch: shared.farm.epoch,
            flags: 2,
            ..Default::default()
        };
        let mut sealed = [0; TICKET_BYTES_MAX];
        let seconds = shared.wall_clock.unix_seconds(world.now);
        let ticket = shared.keys.seal_ticket(&body, &[], seconds, [3; 24], &mut sealed);
        self.ticket = ticket.to_vec();
        self.kind = LoginKind::Reconnect;
        self.generation = shared.vdisk(0).generation;
        self.shard = usize::from(shared.shard_of(self.mac));
        for step in 0..2 {
            let mut buf = [0; 1400];
            let length = match step {
                0 => self.start().encode_with_tail(&self.ticket, &mut buf),
                _ => self.handshake().encode(&mut buf),
            };
            world.datagram(self.shard, SocketRole::Io, self.at, &buf[..length]);
            world.settle(self.shard);
            let mail = world.mail.pop().expect("an answer");
            match mail.message() {
                Message::LoginComplete(done) => {
                    (self.session, self.tag) = (done.session, done.session_tag);
                }
                Message::HandshakeReply(reply) => assert_eq!(reply.accepted, 1),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends to the login port of any shard (the device's own), and takes what comes back at once.
    pub fn ask_login(
        &self,
        world: &mut World,
        write: impl FnOnce(&mut [u8], &Device) -> usize,
    ) -> Vec<Mail> {
        self.ask_at(world, SocketRole::Login, write)
    }

    pub fn ask(
        &self,
        world: &mut World,
        write: impl FnOnce(&mut [u8], &Device) -> usize,
    ) -> Vec<Mail> {
        self.ask_at(world, SocketRole::Io, write)
    }

    fn ask_at(
        &self,
        world: &mut World,
        socket: SocketRole,
        write: impl FnOnce(&mut [u8], &Device) -> usize,
    ) -> Vec<Mail> {
        let mut buf = [0; 1400];
        let length = write(&mut buf, self);
        world.datagram(self.shard, socket, self.at, &buf[..length]);
        world.run();
        world.mail_for(self.at)
    }

    pub fn read_message(&mut self, offset: u64, length: usize) -> Read {
        self.next_request += 1;
        Read {
            tag: self.tag,
            session: self.session,
            fragment_size: self.fragment_size,
            request_id: self.next_request,
            generation: self.generation,
            offset,
            length: length as u32,
            wanted: self.fragment_size.all(length.min(READ_BYTES_MAX)),
            ..Default::default()
        }
    }

    pub fn send_read(&self, world: &mut World, read: &Read) {
        let mut buf = [0; 128];
        let length = read.encode(&mut buf);
        let input = Input::Datagram {
            socket: SocketRole::Io,
            from: self.at,
            local: local(),
            bytes: &buf[..length],
        };
        world.step(self.shard, input);
    }

    /// Reads, runs the node to rest, and gives what came.
    pub fn read(&mut self, world: &mut World, offset: u64, length: usize) -> Reply {
        let read = self.read_message(offset, length);
        self.send_read(world, &read);
        world.run();
        let mail = world.mail_for(self.at);
        self.assemble(&read, &mail)
    }

    /// Reads and expects exactly the image's bytes, zeros past its end.
    pub fn read_right(&mut self, world: &mut World, offset: u64, length: usize) -> Reply {
        let reply = self.read(world, offset, length);
        assert!(reply.complete, "{offset}+{length}: {reply:?}");
        assert_eq!(reply.bytes, expected(world, offset, length), "{offset}+{length}");
        reply
    }

    /// Puts together what came for a read, checking every sum and field.
    pub fn assemble(&self, read: &Read, mail: &[Mail]) -> Reply {
        let length = read.length as usize;
        let mut reply = Reply { bytes: vec![0; length], ..Reply::default() };
        for mail in mail {
            let decoded = mail.decode();
            match decoded.message {
                Message::ReadData(data) if data.request_id == read.request_id => {
                    assert_eq!((data.tag, data.generation), (self.tag, self.generation));
                    reply.draining |= data.flags.has(Flags::DRAINING);
                    let body = &decoded.tail[usize::from(data.pad_bytes)..];
                    assert_eq!(body.len(), usize::from(data.data_bytes));
                    let at = (data.offset - read.offset) as usize;
                    reply.bytes[at..at + body.len()].copy_from_slice(body);
                    assert_eq!(reply.fragments >> data.fragment & 1, 0, "sent twice");
                    reply.fragments |= 1 << data.fragment;
                    if data.flags.has(Flags::SINGLE) {
                        assert_eq!(data.unit_sum, crc32c::crc32c(body));
                    } else {
                        let range = self.fragment_size.range(usize::from(data.fragment), length);
                        let range = range.expect("a fragment of the read");
                        assert_eq!((at, body.len()), (range.offset, range.bytes));
                    }
                }
                Message::ReadZero(zero) if zero.request_id == read.request_id => {
                    assert_eq!(
                        (zero.tag, zero.generation, zero.offset),
                        (self.tag, self.generation, read.offset)
                    );
                    reply.zero_marks += 1;
                    reply.zero_units |= zero.zero_units;
                    reply.draining |= zero.flags.has(Flags::DRAINING);
                }
                Message::ReadPending(p) if p.request_id == read.request_id => reply.pending += 1,
                Message::ReadBusy(b) if b.request_id == read.request_id => {
                    reply.busy.push(b.wait_ms);
                }
                Message::ReadError(e) if e.request_id == read.request_id => {
                    reply.errors.push(e.code);
                }
                Message::Notice(_) => {}
                other => panic!("not for this read: {other:?}"),
            }
        }
        if read.flags.has(Flags::SINGLE) {
            reply.complete = reply.fragments == 1;
            return reply;
        }
        let marked = (0..16).filter(|unit| reply.zero_units >> unit & 1 == 1);
        let marked = marked.fold(0, |map, unit| map | self.fragment_size.of_unit(unit));
        reply.complete = (reply.fragments | marked) & read.wanted == read.wanted;
        self.check_sums(read, mail, &reply);
        reply
    }

    /// Units that came whole must have the sum that their fragments carry.
    fn check_sums(&self, read: &Read, mail: &[Mail], reply: &Reply) {
        for mail in mail {
            let Message::ReadData(data) = mail.message() else { continue };
            if data.request_id != read.request_id {
                continue;
            }
            let unit = self.fragment_size.first_unit(usize::from(data.fragment));
            let whole = self.fragment_size.of_unit(unit);
            if reply.fragments & whole == whole {
                let bytes = &reply.bytes[unit * UNIT..(unit + 1) * UNIT];
                assert_eq!(data.unit_sum, crc32c::crc32c(bytes), "sum of unit {unit}");
                if usize::from(data.data_bytes) > UNIT {
                    let bytes = &reply.bytes[(unit + 1) * UNIT..(unit + 2) * UNIT];
                    assert_eq!(data.second_unit_sum, crc32c::crc32c(bytes));
                }
            }
        }
    }
}

/// The image's bytes, with zeros past its end.
pub fn expected(world: &World, offset: u64, length: usize) -> Vec<u8> {
    let start = (offset as usize).min(world.image.len());
    let end = (start + length).min(world.image.len());
    let mut bytes = world.image[start..end].to_vec();
    bytes.resize(length, 0);
    bytes
}
