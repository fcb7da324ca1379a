//! A node made of a few lines: it answers as the protocol says, unless it is told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use diskstream_wire::*;

use super::Packet;

/// An image and its content id.
#[derive(Debug)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub size: usize,
    pub content_id: ContentId,
}

impl Image {
    /// Recognisable bytes; every fifth unit is zeros. `bytes` is filled up to whole units.
    pub fn new(size: usize) -> Arc<Image> {
        let mut bytes = vec![0u8; size.next_multiple_of(4096)];
        for (unit, chunk) in bytes.chunks_mut(4096).enumerate() {
            if unit % 5 != 3 {
                for (i, byte) in chunk.iter_mut().enumerate() {
                    *byte = ((unit * 31 + i * 7 + i / 256) % 251).to_le_bytes()[0];
                }
            }
        }
        bytes[size..].fill(0);
        let content_id = ContentId(*blake3::hash(&bytes[..size]).as_bytes());
        Arc::new(Image { bytes, size, content_id })
    }

    pub fn range(&self, offset: u64, length: usize) -> &[u8] {
        let start = usize::try_from(offset).unwrap();
        &self.bytes[start..start + length]
    }
}

/// How a node treats reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Answer,
    /// `Pending` first, the bytes after this time.
    Slow(Nanos),
    /// Half of the fragments after this time, as they wait for the session's turn, and the rest after as long again.
    Queued(Nanos),
    Busy(u32),
    Fail(ReadErrorCode),
    Ignore,
}

#[derive(Debug)]
pub struct Node {
    pub login: SocketAddr,
    pub io: SocketAddr,
    pub image: Arc<Image>,
    pub list: Vec<SocketAddr>,
    /// Dead: takes nothing, answers nothing.
    pub down: bool,
    pub draining: bool,
    pub busy: Option<(u32, BusyReason)>,
    pub reject: Option<RejectReason>,
    /// Reject at `IoServiceStart` only.
    pub reject_service: Option<RejectReason>,
    pub reads: Reads,
    /// Transfers name this node.
    pub transfer_to: Option<SocketAddr>,
    /// `IoPortReply` names this.
    pub io_port: Option<SocketAddr>,
    pub window: u32,
    pub datagram_bytes: u16,
    pub path_bytes: usize,
    pub keep_alive_ms: u32,
    pub ticket: Vec<u8>,
    /// What the answer to a handshake brings.
    pub handshake_ticket: Vec<u8>,
    pub sessions: BTreeMap<u32, (u64, SocketAddr)>,
    pub closed: Vec<CloseReason>,
    pub acks: Vec<u32>,
    pub last_handshake: Option<Handshake>,
    pub last_keep_alive: Option<KeepAlive>,
    pub last_start: Option<(LoginStart, Vec<u8>)>,
    pub last_service: Option<(IoServiceStart, Vec<u8>)>,
    pub reads_seen: Vec<Read>,
    /// Whether transfers say that the vDisk is pinned to its node.
    pub pinned: bool,
    pub keep_alives: Vec<KeepAlive>,
    next_session: u32,
    last_start_of: BTreeMap<SocketAddr, ([u8; 16], u32)>,
    waiting: Vec<(Nanos, SocketAddr, Read)>,
}

impl Node {
    pub fn new(login: SocketAddr, image: Arc<Image>, list: Vec<SocketAddr>) -> Node {
        let mut io = login;
        io.set_port(6911);
        Node {
            login,
            io,
            image,
            list,
            down: false,
            draining: false,
            busy: None,
            reject: None,
            reject_service: None,
            reads: Reads::Answer,
            transfer_to: None,
            io_port: None,
            window: 4096,
            datagram_bytes: 1452,
            path_bytes: 1472,
            keep_alive_ms: 30_000,
            ticket: b"a ticket that only nodes can read".to_vec(),
            handshake_ticket: Vec::new(),
            sessions: BTreeMap::new(),
            closed: Vec::new(),
            acks: Vec::new(),
            last_handshake: None,
            last_keep_alive: None,
            last_start: None,
            last_service: None,
            reads_seen: Vec::new(),
            pinned: false,
            keep_alives: Vec::new(),
            next_session: 0,
            last_start_of: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// A restart: sessions are forgotten.
    pub fn restart(&mut self) {
        self.sessions.clear();
        self.waiting.clear();
        self.down = false;
        self.draining = false;
    }

    pub fn next_due(&self) -> Nanos {
        self.waiting.iter().map(|(at, ..)| *at).min().unwrap_or(Nanos::NEVER)
    }

    pub fn tick(&mut self, now: Nanos, out: &mut Vec<Packet>) {
        let (due, later) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.0 <= now);
        self.waiting = later;
        let due: Vec<(Nanos, SocketAddr, Read)> = due;
        if !self.down {
            due.iter().for_each(|(_, from, read)| self.answer_read(*from, read, out));
        }
    }

    fn flags(&self) -> Flags {
        if self.draining { Flags::DRAINING } else { Flags::NONE }
    }

    fn reply(
        &self,
        out: &mut Vec<Packet>,
        from: SocketAddr,
        to: SocketAddr,
        m: Message,
        tail: &[u8],
    ) {
        let mut bytes = vec![0; 2048];
        let length = m.encode_with_tail(tail, &mut bytes);
        bytes.truncate(length);
        out.push(Packet { from, to, bytes });
    }

    /// A notice to the device's notice port, and down the established flow.
    pub fn notices(&self, sequence: u32, successors: &[SocketAddr]) -> Vec<Packet> {
        let mut out = Vec::new();
        for (&session, &(tag, device)) in &self.sessions {
            let _ = session;
            let mut tail = vec![0; successors.len() * NodeEntry::BYTES];
            for (chunk, &login) in tail.chunks_mut(NodeEntry::BYTES).zip(successors) {
                NodeEntry { login: login.into(), rating: 100, ..NodeEntry::default() }
                    .encode(chunk);
            }
            let notice = Notice {
                tag,
                sequence,
                deadline_ms: 15_000,
                reason: NoticeReason::Stopping,
                node_count: u8::try_from(successors.len()).unwrap(),
                ..Notice::default()
            };
            let mut port = device;
            port.set_port(6902);
            self.reply(&mut out, self.io, port, Message::Notice(notice), &tail);
            self.reply(&mut out, self.io, device, Message::Notice(notice), &tail);
        }
        out
    }

    pub fn handle(&mut self, packet: &Packet, now: Nanos, out: &mut Vec<Packet>) {
        if self.down {
            return;
        }
        let decoded = decode(&packet.bytes).expect("a device sends messages");
        let (from, at) = (packet.from, packet.to);
        let datagram_bytes = packet.bytes.len();
        let tail = decoded.tail;
        match decoded.message {
            Message::LoginPortRequest(m) => {
                if let Some(refusal) = self.refusal(m.tag) {
                    return self.reply(out, at, from, refusal, &[]);
                }
                let login = Endpoint::from(self.login);
                let reply = LoginPortReply {
                    tag: m.tag,
                    login,
                    cookie: [7; 16],
                    version: 1,
                    ..Default::default()
                };
                self.reply(out, at, from, Message::LoginPortReply(reply), &[]);
            }
            Message::LoginStart(m) => {
                if m.cookie != [7; 16] {
                    let reason = RejectReason::BadProof;
                    let reject = LoginReject { tag: m.tag, reason, ..Default::default() };
                    return self.reply(out, at, from, Message::LoginReject(reject), &[]);
                }
                self.last_start = Some((m, tail.to_vec()));
                if let Some(refusal) = self.refusal(m.tag) {
                    return self.reply(out, at, from, refusal, &[]);
                }
                self.transfer(m.tag, at, from, out);
            }
            Message::IoPortRequest(m) => {
                if let Some(refusal) = self.refusal(m.tag) {
                    return self.reply(out, at, from, refusal, &[]);
                }
                let io = Endpoint::from(self.io_port.unwrap_or(self.io));
                let reply = IoPortReply { tag: m.tag, io, ..Default::default() };
                self.reply(out, at, from, Message::IoPortReply(reply), &[]);
            }
            Message::IoServiceStart(m) => self.service(&m, tail, at, from, out),
            other => self.in_session(&other, datagram_bytes, at, from, now, out),
        }
    }

    fn refusal(&self, tag: u64) -> Option<Message> {
        if let Some((wait_ms, reason)) = self.busy {
            return Some(Message::LoginBusy(LoginBusy {
                tag,
                wait_ms,
                reason,
                ..Default::default()
            }));
        }
        if self.draining {
            let reason = BusyReason::Draining;
            return Some(Message::LoginBusy(LoginBusy {
                tag,
                wait_ms: 500,
                reason,
                ..Default::default()
            }));
        }
        let reason = self.reject?;
        let text = Text::new("because the test says so");
        Some(Message::LoginReject(LoginReject { tag, reason, text, ..Default::default() }))
    }

    fn transfer(&self, tag: u64, at: SocketAddr, from: SocketAddr, out: &mut Vec<Packet>) {
        let mut tail = vec![0; self.list.len() * NodeEntry::BYTES];
        for (chunk, &login) in tail.chunks_mut(NodeEntry::BYTES).zip(&self.list) {
            NodeEntry { login: login.into(), rating: 100, ..NodeEntry::default() }.encode(chunk);
        }
        tail.extend_from_slice(&self.ticket);
        let transfer = LoginTransfer {
            tag,
            node: Endpoint::from(self.transfer_to.unwrap_or(self.login)),
            vdisk_count: 1,
            image_mode: ImageMode::Standard,
            policy: u32::from(self.pinned),
            size_bytes: self.image.size as u64,
            content_id: self.image.content_id,
            vdisk: Text::new("debian"),
            device_name: Text::new("lab-17"),
            capabilities: Capabilities::OURS,
            node_count: u8::try_from(self.list.len()).unwrap(),
            ticket_bytes: u16::try_from(self.ticket.len()).unwrap(),
            ticket_seconds: 7 * 86_400,
            ..Default::default()
        };
        self.reply(out, at, from, Message::LoginTransfer(transfer), &tail);
    }

    fn service(
        &mut self,
        m: &IoServiceStart,
        ticket: &[u8],
        at: SocketAddr,
        from: SocketAddr,
        out: &mut Vec<Packet>,
    ) {
        self.last_service = Some((*m, ticket.to_vec()));
        let reason = if ticket == self.ticket {
            self.reject_service
        } else {
            Some(RejectReason::TicketExpired)
        };
        if let Some(reason) = reason {
            let text = Text::new("no such ticket");
            let reject = LoginReject { tag: m.tag, reason, text, ..Default::default() };
            return self.reply(out, at, from, Message::LoginReject(reject), &[]);
        }
        // A repeat of the same start finds its session; another start ends what the device had here.
        let session = match self.last_start_of.get(&from) {
            Some(&(nonce, session))
                if nonce == m.device_nonce && self.sessions.contains_key(&session) =>
            {
                session
            }
            _ => {
                self.sessions.retain(|_, (_, device)| *device != from);
                self.next_session += 1;
                self.next_session
            }
        };
        self.last_start_of.insert(from, (m.device_nonce, session));
        let session_tag = 0x1111_0000_0000_0000
            | u64::from(self.login.port()) << 32
            | u64::from(session)
            | u64::from(match self.login.ip() {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                _ => 0,
            }) << 16;
        self.sessions.insert(session, (session_tag, from));
        let complete = LoginComplete {
            tag: m.tag,
            session,
            session_tag,
            keep_alive_ms: self.keep_alive_ms,
            expiry_ms: 90_000,
            ..Default::default()
        };
        self.reply(out, at, from, Message::LoginComplete(complete), &[]);
    }

    fn in_session(
        &mut self,
        message: &Message,
        datagram_bytes: usize,
        at: SocketAddr,
        from: SocketAddr,
        now: Nanos,
        out: &mut Vec<Packet>,
    ) {
        let (tag, session, request_id) = match message {
            Message::VdiskInfoRequest(m) => (m.tag, m.session, 0),
            Message::Handshake(m) => (m.tag, m.session, 0),
            Message::Read(m) => (m.tag, m.session, m.request_id),
            Message::ExtentsRequest(m) => (m.tag, m.session, m.request_id),
            Message::KeepAlive(m) => (m.tag, m.session, 0),
            Message::NoticeAck(m) => (m.tag, m.session, 0),
            Message::SessionClose(m) => (m.tag, m.session, 0),
            Message::PathProbe(m) => (m.tag, m.session, 0),
            other => panic!("a device does not send {other:?}"),
        };
        if self.sessions.get(&session).is_none_or(|known| known.0 != tag) {
            let unknown = UnknownSession { tag, session, request_id, ..Default::default() };
            return self.reply(out, at, from, Message::UnknownSession(unknown), &[]);
        }
        let flags = self.flags();
        match message {
            Message::VdiskInfoRequest(_) => {
                let info = VdiskInfo {
                    tag,
                    size_bytes: self.image.size as u64,
                    content_id: self.image.content_id,
                    block_bytes: 65_536,
                    image_mode: ImageMode::Standard,
                    vdisk: Text::new("debian"),
                    ..Default::default()
                };
                self.reply(out, at, from, Message::VdiskInfo(info), &[]);
            }
            Message::Handshake(m) => {
                self.last_handshake = Some(*m);
                let reply = HandshakeReply {
                    tag,
                    window: self.window,
                    datagram_bytes: self.datagram_bytes,
                    accepted: 1,
                    capabilities: Capabilities::OURS,
                    read_bytes_max: 65_536,
                    reads_max: 1024,
                    ticket_bytes: u16::try_from(self.handshake_ticket.len()).unwrap(),
                    ticket_seconds: 7 * 86_400,
                    ..Default::default()
                };
                let ticket = &self.handshake_ticket;
                self.reply(out, at, from, Message::HandshakeReply(reply), ticket);
            }
            Message::Read(m) => self.on_read(m, at, from, now, out),
            Message::ExtentsRequest(m) => self.on_extents(m, at, from, out),
            Message::KeepAlive(m) => {
                self.last_keep_alive = Some(*m);
                self.keep_alives.push(*m);
                let wants = m.ticket_age_s == u32::MAX;
                let ticket = if wants { self.ticket.clone() } else { Vec::new() };
                let digest = nodes_digest(self.list.iter().map(|&login| login.into()));
                let news = m.nodes_digest != 0 && m.nodes_digest != digest;
                let mut tail = Vec::new();
                for &login in self.list.iter().filter(|_| news) {
                    let entry = NodeEntry { login: login.into(), ..NodeEntry::default() };
                    tail.resize(tail.len() + NodeEntry::BYTES, 0);
                    let at = tail.len() - NodeEntry::BYTES;
                    entry.encode(&mut tail[at..]);
                }
                let node_count = u8::try_from(tail.len() / NodeEntry::BYTES).unwrap();
                tail.extend_from_slice(&ticket);
                let queued = matches!(self.reads, Reads::Queued(_)) && !self.waiting.is_empty();
                let queued = if queued { Flags::QUEUED } else { Flags::NONE };
                let reply = KeepAliveReply {
                    flags: flags.with(queued),
                    tag,
                    sequence: m.sequence,
                    node_count,
                    ticket_bytes: u16::try_from(ticket.len()).unwrap(),
                    ticket_seconds: 7 * 86_400,
                    ..Default::default()
                };
                self.reply(out, at, from, Message::KeepAliveReply(reply), &tail);
            }
            Message::NoticeAck(m) => self.acks.push(m.sequence),
            Message::SessionClose(m) => {
                self.sessions.remove(&session);
                self.closed.push(m.reason);
                let closed = SessionClosed { tag, session, reason: m.reason, ..Default::default() };
                self.reply(out, at, from, Message::SessionClosed(closed), &[]);
            }
            Message::PathProbe(m) => {
                assert_eq!(datagram_bytes, usize::from(m.probe_bytes));
                if datagram_bytes <= self.path_bytes {
                    let reply = PathProbeReply {
                        tag,
                        sequence: m.sequence,
                        probe_bytes: m.probe_bytes,
                        ..Default::default()
                    };
                    let mut bytes = vec![0; datagram_bytes];
                    reply.encode(&mut bytes);
                    out.push(Packet { from: at, to: from, bytes });
                }
            }
            _ => unreachable!("matched above"),
        }
    }

    fn on_read(
        &mut self,
        m: &Read,
        at: SocketAddr,
        from: SocketAddr,
        now: Nanos,
        out: &mut Vec<Packet>,
    ) {
        self.reads_seen.push(*m);
        let (flags, tag, request_id, attempt) = (self.flags(), m.tag, m.request_id, m.attempt);
        let single = m.flags.has(Flags::SINGLE);
        match self.reads {
            _ if single => self.answer_read(from, m, out),
            Reads::Answer => self.answer_read(from, m, out),
            Reads::Ignore => {}
            Reads::Slow(time) => {
                if !self.waiting.iter().any(|w| w.2.request_id == request_id) {
                    self.waiting.push((now + time, from, *m));
                }
                let pending = ReadPending { flags, tag, request_id, attempt, ..Default::default() };
                self.reply(out, at, from, Message::ReadPending(pending), &[]);
            }
            Reads::Queued(time) => {
                if !self.waiting.iter().any(|w| w.2.request_id == request_id) {
                    let count = m.wanted.count_ones() / 2;
                    let first = (0..count).fold(0, |part: u64, _| {
                        let rest = m.wanted & !part;
                        part | rest & rest.wrapping_neg()
                    });
                    let parts = [(time, first), (time + time, m.wanted & !first)];
                    let parts =
                        parts.map(|(time, wanted)| (now + time, from, Read { wanted, ..*m }));
                    self.waiting.extend(parts);
                }
            }
            Reads::Busy(wait_ms) => {
                self.reads = Reads::Answer;
                let busy =
                    ReadBusy { flags, tag, request_id, wait_ms, attempt, ..Default::default() };
                self.reply(out, at, from, Message::ReadBusy(busy), &[]);
            }
            Reads::Fail(code) => {
                let (offset, length) = (m.offset, m.length);
                let error = ReadError {
                    flags,
                    tag,
                    request_id,
                    offset,
                    length,
                    code,
                    attempt,
                    ..Default::default()
                };
                self.reply(out, at, from, Message::ReadError(error), &[]);
            }
        }
    }

    fn answer_read(&self, from: SocketAddr, m: &Read, out: &mut Vec<Packet>) {
        let (flags, tag, request_id, attempt) = (self.flags(), m.tag, m.request_id, m.attempt);
        let generation = self.image.content_id.generation();
        if m.generation != generation {
            let code = ReadErrorCode::WrongGeneration;
            let error = ReadError { tag, request_id, code, attempt, ..Default::default() };
            return self.reply(out, self.io, from, Message::ReadError(error), &[]);
        }
        let length = m.length as usize;
        let bytes = self.image.range(m.offset, length);
        if m.flags.has(Flags::SINGLE) {
            let data = ReadData {
                flags: Flags::SINGLE,
                tag,
                request_id,
                generation,
                offset: m.offset,
                data_bytes: u16::try_from(length).unwrap(),
                unit_sum: crc32c::crc32c(bytes),
                attempt,
                ..Default::default()
            };
            return self.reply(out, self.io, from, Message::ReadData(data), bytes);
        }
        let size = m.fragment_size;
        let zero = |unit: usize| {
            bytes.get(unit * 4096..(unit + 1) * 4096).is_none_or(|u| u.iter().all(|&b| b == 0))
        };
        let zero_units =
            (0..length / 4096).filter(|&u| zero(u)).fold(0u16, |mask, u| mask | 1 << u);
        if zero_units != 0 {
            let mark = ReadZero {
                flags,
                tag,
                request_id,
                generation,
                offset: m.offset,
                zero_units,
                attempt,
                ..Default::default()
            };
            self.reply(out, self.io, from, Message::ReadZero(mark), &[]);
        }
        for index in (0..size.count(length)).filter(|&i| m.wanted & 1 << i != 0) {
            let unit = size.first_unit(index);
            if (unit..unit + size.units_each()).all(zero) {
                continue;
            }
            let range = size.range(index, length).unwrap();
            let sum =
                |unit: usize| bytes.get(unit * 4096..(unit + 1) * 4096).map_or(0, crc32c::crc32c);
            // 8192-byte fragments of one unit would need more padding than a byte counts; they are sent short.
            let pad = (size.bytes() - range.bytes).min(255) % 255;
            let data = ReadData {
                flags,
                tag,
                request_id,
                generation,
                offset: m.offset + range.offset as u64,
                fragment: u8::try_from(index).unwrap(),
                pad_bytes: u8::try_from(pad).unwrap(),
                data_bytes: u16::try_from(range.bytes).unwrap(),
                unit_sum: sum(unit),
                second_unit_sum: if size.units_each() == 2 { sum(unit + 1) } else { 0 },
                attempt,
                ..Default::default()
            };
            let mut tail = vec![0; pad];
            tail.extend_from_slice(&bytes[range.offset..range.offset + range.bytes]);
            let mut datagram = vec![0; ReadData::BYTES + tail.len()];
            data.encode_with_tail(&tail, &mut datagram);
            if datagram.len() <= self.path_bytes {
                out.push(Packet { from: self.io, to: from, bytes: datagram });
            }
        }
    }

    fn on_extents(
        &self,
        m: &ExtentsRequest,
        at: SocketAddr,
        from: SocketAddr,
        out: &mut Vec<Packet>,
    ) {
        let mut tail = Vec::new();
        let mut count = 0u8;
        for unit in 0..(m.length / 4096).min(8) {
            let zero = self.image.range(m.offset + unit * 4096, 4096).iter().all(|&b| b == 0);
            let mut entry = [0; ExtentEntry::BYTES];
            ExtentEntry { length: 4096, zero: u8::from(zero), ..Default::default() }
                .encode(&mut entry);
            tail.extend_from_slice(&entry);
            count += 1;
        }
        let generation = self.image.content_id.generation();
        let (tag, request_id, offset) = (m.tag, m.request_id, m.offset);
        let reply = Extents { tag, request_id, generation, offset, count, ..Default::default() };
        self.reply(out, at, from, Message::Extents(reply), &tail);
    }
}
