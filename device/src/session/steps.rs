//! The login steps at one node, in PVS's order: start, I/O port, I/O service, vDisk info, one single read, handshake.
//!
//! Each step has a transaction number that cannot be guessed; an answer counts only when it echoes the number and comes
//! from the address that was asked. From `LoginComplete` on the session's tag takes the number's place.

use std::net::SocketAddr;

use diskstream_wire::limits::SECTOR_BYTES;
use diskstream_wire::{
    Capabilities, Decoded, Flags, FragmentSize, Handshake, HandshakeReply, ImageMode,
    IoPortRequest, IoServiceStart, LoginBusy, LoginComplete, LoginKind, LoginPortReply,
    LoginReject, LoginStart, LoginTransfer, Message, Nanos, PROTOCOL_VERSION, Read, RejectReason,
    Text, VdiskInfo, VdiskInfoRequest, node_entries,
};

use super::event::{Channel, DiskInfo, Event};
use super::limits::{
    BUSY_WAIT_MAX, KEEP_ALIVE_BOUNDS, REFUSED_WAIT_LATE, REFUSED_WAIT_MOVED, REFUSED_WAIT_SOON,
    REQUEST_SLOT_BITS, STEP_RETRY_FIRST, STEP_RETRY_MAX, STEP_TRIES_MAX,
};
use super::nodes::Route;
use super::path::Opening;
use super::seek::{Admission, Answer, Context};

/// The one read of single-read mode: the boot sector.
const SINGLE_READ_BYTES: u32 = 512;
const _: () = assert!(SINGLE_READ_BYTES as usize == SECTOR_BYTES);

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first answer: `LoginPortReply` or `IoPortReply`.
    First,
    Start,
    Port,
    Service,
    Info,
    Single,
    Handshake,
    Failed,
}

/// What a login wants now.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Send(Channel, SocketAddr),
    Wait,
    /// The node stopped answering.
    Failed,
}

/// A login at one candidate.
#[derive(Debug)]
pub struct Steps {
    candidate: SocketAddr,
    route: Route,
    kind: LoginKind,
    step: Step,
    /// Who is asked in this step.
    to: SocketAddr,
    /// Transaction number of this step, then the session's tag.
    tag: u64,
    tries: u32,
    due: Nanos,
    wait: Nanos,
    cookie: [u8; 16],
    nonce: [u8; 16],
    /// Login address of the I/O node.
    node: SocketAddr,
    session: u32,
    keep_alive: Nanos,
    read_id: u64,
    info: VdiskInfo,
}

/// The transaction number that an answer of a login echoes; none for other messages.
pub fn login_tag(message: &Message) -> Option<u64> {
    match message {
        Message::LoginPortReply(m) => Some(m.tag),
        Message::LoginTransfer(m) => Some(m.tag),
        Message::LoginBusy(m) => Some(m.tag),
        Message::LoginReject(m) => Some(m.tag),
        Message::IoPortReply(m) => Some(m.tag),
        Message::LoginComplete(m) => Some(m.tag),
        Message::VdiskInfo(m) => Some(m.tag),
        Message::HandshakeReply(m) => Some(m.tag),
        Message::ReadData(m) => Some(m.tag),
        Message::ReadZero(m) => Some(m.tag),
        Message::ReadPending(m) => Some(m.tag),
        Message::ReadBusy(m) => Some(m.tag),
        Message::ReadError(m) => Some(m.tag),
        Message::UnknownSession(m) => Some(m.tag),
        _ => None,
    }
}

impl Steps {
    /// A candidate that was asked with transaction number `tag`.
    pub fn new(login: SocketAddr, route: Route, tag: u64, kind: LoginKind, now: Nanos) -> Steps {
        Steps {
            candidate: login,
            route,
            kind,
            step: Step::First,
            to: login,
            tag,
            tries: 0,
            due: now,
            wait: STEP_RETRY_FIRST,
            cookie: [0; 16],
            nonce: [0; 16],
            node: login,
            session: 0,
            keep_alive: Nanos::ZERO,
            read_id: 0,
            info: VdiskInfo::default(),
        }
    }

    pub fn next_due(&self) -> Nanos {
        self.due
    }

    pub fn has_failed(&self) -> bool {
        self.step == Step::Failed
    }

    /// A session that is open at the node but not handed over yet.
    pub fn half_open(&self) -> Option<Opening> {
        matches!(self.step, Step::Info | Step::Single | Step::Handshake)
            .then(|| self.opening(&HandshakeReply::default(), FragmentSize::B1376))
    }

    /// Sends the present step, first or again.
    pub fn poll(&mut self, context: &mut Context<'_>, now: Nanos, out: &mut Vec<u8>) -> Progress {
        if now < self.due {
            return Progress::Wait;
        }
        if self.tries == STEP_TRIES_MAX {
            if self.step != Step::Single {
                let until = now + context.random.jitter(STEP_RETRY_MAX);
                self.defer(context, until);
                return Progress::Failed;
            }
            // The single read is what a boot loader would do; a driver can do without.
            self.go(Step::Handshake, self.to, self.tag, now);
        }
        self.tries += 1;
        self.due = now + context.random.jitter(self.wait);
        self.wait = Nanos(self.wait.0 * 2).earlier(STEP_RETRY_MAX);
        out.resize(diskstream_wire::limits::CONTROL_BYTES_MAX, 0);
        let (channel, bytes) = self.write(context, out);
        out.truncate(bytes);
        Progress::Send(channel, self.to)
    }

    fn write(&self, context: &Context<'_>, out: &mut [u8]) -> (Channel, usize) {
        let (tag, session) = (self.tag, self.session);
        match self.step {
            Step::Start => (Channel::Login, self.write_start(context, out)),
            Step::Port => {
                let mac = context.config.mac;
                let message = IoPortRequest { tag, mac, ..IoPortRequest::default() };
                (Channel::Login, message.encode(out))
            }
            Step::Service => (Channel::Io, self.write_service(context, out)),
            Step::Info => {
                let message = VdiskInfoRequest { tag, session, ..VdiskInfoRequest::default() };
                (Channel::Io, message.encode(out))
            }
            Step::Single => {
                let message = Read {
                    flags: Flags::SINGLE,
                    tag,
                    session,
                    fragment_size: FragmentSize::B1024,
                    attempt: u8::try_from(self.tries).unwrap_or(u8::MAX),
                    request_id: self.read_id,
                    generation: self.info.content_id.generation(),
                    offset: 0,
                    length: SINGLE_READ_BYTES,
                    wanted: 1,
                    ..Read::default()
                };
                (Channel::Io, message.encode(out))
            }
            Step::Handshake => (Channel::Io, self.write_handshake(context, out)),
            Step::First | Step::Failed => unreachable!("never due: nothing to send in this state"),
        }
    }

    fn write_start(&self, context: &Context<'_>, out: &mut [u8]) -> usize {
        let config = context.config;
        let ticket = context.nodes.ticket().unwrap_or_default();
        let proof = proof(config.device_key.as_ref(), &self.cookie, &self.nonce, config.mac);
        LoginStart {
            tag: self.tag,
            mac: config.mac,
            login_kind: self.kind,
            version: PROTOCOL_VERSION,
            capabilities: Capabilities::OURS,
            cookie: self.cookie,
            device_nonce: self.nonce,
            proof,
            vdisk: Text::new(config.vdisk.as_deref().unwrap_or_default()),
            ticket_bytes: ticket_bytes(ticket),
            ..LoginStart::default()
        }
        .encode_with_tail(ticket, out)
    }

    fn write_service(&self, context: &Context<'_>, out: &mut [u8]) -> usize {
        let config = context.config;
        let ticket = context.nodes.ticket().unwrap_or_default();
        let former_tag = context.nodes.former_tag(self.node);
        let bound = [ticket, &former_tag.to_le_bytes()].concat();
        let proof = proof(config.device_key.as_ref(), &bound, &self.nonce, config.mac);
        IoServiceStart {
            tag: self.tag,
            mac: config.mac,
            login_kind: self.kind,
            version: PROTOCOL_VERSION,
            capabilities: Capabilities::OURS,
            device_nonce: self.nonce,
            proof,
            vdisk: Text::new(config.vdisk.as_deref().unwrap_or_default()),
            ticket_bytes: ticket_bytes(ticket),
            former_tag,
            ..IoServiceStart::default()
        }
        .encode_with_tail(ticket, out)
    }

    fn write_handshake(&self, context: &Context<'_>, out: &mut [u8]) -> usize {
        let config = context.config;
        Handshake {
            tag: self.tag,
            session: self.session,
            datagram_bytes: config.datagram_bytes(self.to),
            notice_port: config.notice_port,
            window: 1 << REQUEST_SLOT_BITS,
            receive_buffer_bytes: config.receive_buffer_bytes,
            capabilities: Capabilities::OURS,
            image_mode: match self.info.image_mode {
                ImageMode::Other(0) => ImageMode::Standard,
                mode => mode,
            },
            write_cache: config.write_cache,
            write_cache_bytes: config.write_cache_bytes,
            vdisk: self.info.vdisk,
            device_name: Text::new(&config.device_name),
            software: Text::new(&config.software),
            ..Handshake::default()
        }
        .encode(out)
    }

    /// Takes an answer of the present step.
    pub fn handle(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        decoded: &Decoded<'_>,
        now: Nanos,
    ) -> Answer {
        if from != self.to || login_tag(&decoded.message) != Some(self.tag) {
            return Answer::Foreign;
        }
        match (self.step, &decoded.message) {
            (Step::First, Message::LoginPortReply(m)) if self.route == Route::Full => {
                self.on_login_port(context, m, now);
            }
            (Step::First | Step::Port, Message::IoPortReply(m)) => {
                if let Some(io) = m.io.socket_addr()
                    && (io.ip() == self.node.ip() || context.nodes.is_eligible_ip(io.ip()))
                {
                    self.nonce = context.random.nonce();
                    self.go(Step::Service, io, context.random.id(), now);
                } else {
                    context.counters.implausible += 1;
                    return Answer::Foreign;
                }
            }
            (Step::Start, Message::LoginTransfer(m)) => {
                self.on_transfer(context, m, decoded.tail, now);
            }
            (Step::Service, Message::LoginComplete(m)) => self.on_complete(m, now),
            (Step::Info, Message::VdiskInfo(m)) => self.on_info(context, m, now),
            (Step::Single, Message::ReadPending(_) | Message::ReadBusy(_)) => {
                self.due = now + STEP_RETRY_MAX;
            }
            (Step::Single, message) => return self.on_single(message, decoded.tail, now),
            (Step::Handshake, Message::HandshakeReply(m)) => {
                if m.ticket_bytes > 0
                    && let Some(ticket) = decoded.tail.get(..usize::from(m.ticket_bytes))
                {
                    let lives = Nanos::from_secs(u64::from(m.ticket_seconds));
                    context.nodes.renew_ticket(ticket, lives, now);
                }
                return self.on_handshake(context, m, now);
            }
            (_, Message::LoginBusy(m)) => self.on_busy(context, m, now),
            (_, Message::LoginReject(m)) => self.on_reject(context, m, now),
            (_, Message::UnknownSession(_)) => self.fail(context, now + STEP_RETRY_FIRST),
            _ => return Answer::Foreign,
        }
        Answer::Taken
    }

    fn on_login_port(&mut self, context: &mut Context<'_>, m: &LoginPortReply, now: Nanos) {
        self.cookie = m.cookie;
        self.nonce = context.random.nonce();
        let to = m.login.socket_addr().unwrap_or(self.candidate);
        self.go(Step::Start, to, context.random.id(), now);
    }

    fn on_transfer(
        &mut self,
        context: &mut Context<'_>,
        m: &LoginTransfer,
        tail: &[u8],
        now: Nanos,
    ) {
        if context.disk.is_some_and(|disk| differs(disk.content_id, m.content_id)) {
            return self.wrong_content(context, m.content_id, now);
        }
        let Some(node) = m.node.socket_addr() else {
            context.counters.implausible += 1;
            return self.fail(context, now + REFUSED_WAIT_SOON);
        };
        let mut list = Vec::with_capacity(usize::from(m.node_count));
        let rest = node_entries(tail, m.node_count, |entry| list.push(entry));
        let Some(ticket) = rest.get(..usize::from(m.ticket_bytes)) else {
            context.counters.implausible += 1;
            return self.fail(context, now + REFUSED_WAIT_SOON);
        };
        let lives = Nanos::from_secs(u64::from(m.ticket_seconds));
        context.nodes.admit(node, list.into_iter(), ticket, lives, now);
        *context.admission = Some(Admission {
            content_id: m.content_id,
            size_bytes: m.size_bytes,
            device_name: m.device_name,
            capabilities: m.capabilities,
            pinned: m.policy & 1 != 0,
        });
        self.node = node;
        self.go(Step::Port, node, context.random.id(), now);
    }

    fn on_complete(&mut self, m: &LoginComplete, now: Nanos) {
        if m.session_tag == 0 {
            return;
        }
        self.session = m.session;
        self.keep_alive = Nanos::from_millis(u64::from(m.keep_alive_ms))
            .max(KEEP_ALIVE_BOUNDS.0)
            .earlier(KEEP_ALIVE_BOUNDS.1);
        self.go(Step::Info, self.to, m.session_tag, now);
    }

    fn on_info(&mut self, context: &mut Context<'_>, m: &VdiskInfo, now: Nanos) {
        let expected = match (context.disk, &context.admission) {
            (Some(disk), _) => Some(disk.content_id),
            (None, Some(admission)) => Some(admission.content_id),
            (None, None) => None,
        };
        if expected.is_some_and(|expected| differs(expected, m.content_id)) {
            return self.wrong_content(context, m.content_id, now);
        }
        let size = context.disk.map(|disk| disk.size_bytes);
        let size = size.or(context.admission.map(|admission| admission.size_bytes));
        // Zero: the node that let the device in does not hold the vDisk itself.
        let size = size.filter(|&bytes| bytes != 0);
        if size.is_some_and(|size| size != m.size_bytes) {
            // Equal contents have equal sizes: these bytes were spoilt on their way.
            context.counters.implausible += 1;
            return;
        }
        self.info = *m;
        self.read_id = context.random.id();
        // A boot reads its first sector as a boot loader would; a reconnect has no need to.
        let single = context.disk.is_none() && m.size_bytes >= u64::from(SINGLE_READ_BYTES);
        let step = if single { Step::Single } else { Step::Handshake };
        self.go(step, self.to, self.tag, now);
    }

    fn on_single(&mut self, message: &Message, tail: &[u8], now: Nanos) -> Answer {
        match message {
            Message::ReadData(m) if m.request_id == self.read_id => {
                let start = usize::from(m.pad_bytes);
                let data = tail.get(start..start + usize::from(m.data_bytes));
                if data.is_none_or(|data| crc32c::crc32c(data) != m.unit_sum) {
                    return Answer::Foreign;
                }
            }
            Message::ReadZero(m) if m.request_id == self.read_id => {}
            // A store error is the business of the reads that follow, which know where else to ask.
            Message::ReadError(m) if m.request_id == self.read_id => {}
            _ => return Answer::Foreign,
        }
        self.go(Step::Handshake, self.to, self.tag, now);
        Answer::Taken
    }

    fn on_handshake(
        &mut self,
        context: &mut Context<'_>,
        m: &HandshakeReply,
        now: Nanos,
    ) -> Answer {
        if m.accepted == 0 {
            let reject = LoginReject {
                reason: m.reason,
                text: Text::new("the node refused the driver's handshake"),
                ..LoginReject::default()
            };
            self.on_reject(context, &reject, now);
            return Answer::Taken;
        }
        context.nodes.remember_tag(self.node, self.tag);
        let ours = context.config.datagram_bytes(self.to);
        let hoped = if m.capabilities.has(Capabilities::JUMBO) {
            FragmentSize::fitting(usize::from(ours))
        } else {
            FragmentSize::fitting(usize::from(ours)).min(FragmentSize::B1376)
        };
        let admission = *context.admission;
        let disk = DiskInfo {
            vdisk: self.info.vdisk,
            device_name: admission.map(|a| a.device_name).unwrap_or_default(),
            size_bytes: self.info.size_bytes,
            content_id: self.info.content_id,
            block_bytes: self.info.block_bytes,
            version: self.info.version,
            image_mode: self.info.image_mode,
            write_cache: self.info.write_cache,
            write_cache_bytes: self.info.write_cache_bytes,
            pinned: admission.is_some_and(|a| a.pinned),
        };
        match self.kind {
            LoginKind::Reconnect => context.counters.reconnects += 1,
            LoginKind::Standby => context.counters.standbys_opened += 1,
            _ => context.counters.logins += 1,
        }
        Answer::Opened(Box::new((self.opening(m, hoped), disk)))
    }

    fn opening(&self, m: &HandshakeReply, hoped: FragmentSize) -> Opening {
        let granted = FragmentSize::fitting(usize::from(m.datagram_bytes));
        Opening {
            node: self.node,
            io: self.to,
            session: self.session,
            tag: self.tag,
            keep_alive: self.keep_alive,
            allowance: m.window,
            request_bytes: m.read_bytes_max,
            requests_max: m.reads_max,
            size: granted.min(hoped).min(FragmentSize::B1376),
            size_hoped: hoped,
            extents: m.capabilities.has(Capabilities::EXTENTS),
        }
    }

    fn on_busy(&mut self, context: &mut Context<'_>, m: &LoginBusy, now: Nanos) {
        let wait = Nanos::from_millis(u64::from(m.wait_ms)).earlier(BUSY_WAIT_MAX);
        context.events.push_back(Event::Busy { node: self.to, wait, reason: m.reason });
        let until = now + context.random.later(wait);
        self.fail(context, until);
    }

    fn on_reject(&mut self, context: &mut Context<'_>, m: &LoginReject, now: Nanos) {
        context.counters.rejects += 1;
        let ticket_is_bad =
            matches!(m.reason, RejectReason::BadProof | RejectReason::TicketExpired);
        // One node's opinion costs a standby only; the serving node is asked for a fresh ticket in time.
        if ticket_is_bad && context.nodes.ticket().is_some() && self.route != Route::Standby {
            context.nodes.drop_ticket();
            if self.route == Route::Ticket || self.step == Step::Start {
                // A full login without it follows at once; this node may well admit the device then.
                self.step = Step::Failed;
                return;
            }
        }
        let (node, reason, text) = (self.to, m.reason, m.text);
        context.events.push_back(Event::Rejected { node, reason, text });
        let wait = match m.reason {
            RejectReason::NoEligibleNode
            | RejectReason::VersionPending
            | RejectReason::NoRoom
            | RejectReason::TicketExpired => REFUSED_WAIT_SOON,
            // Nobody waits for a standby.
            RejectReason::DuplicateDevice
                if context.disk.is_some() && self.route != Route::Standby =>
            {
                REFUSED_WAIT_MOVED
            }
            _ => REFUSED_WAIT_LATE,
        };
        let until = now + context.random.later(wait);
        self.fail(context, until);
    }

    fn wrong_content(
        &mut self,
        context: &mut Context<'_>,
        offered: diskstream_wire::ContentId,
        now: Nanos,
    ) {
        context.counters.wrong_content += 1;
        let expected = context
            .disk
            .map(|disk| disk.content_id)
            .or(context.admission.map(|a| a.content_id))
            .unwrap_or_default();
        context.events.push_back(Event::WrongContent {
            node: self.node,
            expected,
            offered: Some(offered),
        });
        let until = now + context.random.later(REFUSED_WAIT_LATE);
        self.fail(context, until);
    }

    /// Gives this candidate up until then.
    fn fail(&mut self, context: &mut Context<'_>, until: Nanos) {
        self.defer(context, until);
        self.step = Step::Failed;
    }

    fn defer(&self, context: &mut Context<'_>, until: Nanos) {
        context.nodes.defer(self.candidate, self.route, until);
        if self.route != Route::Standby {
            context.nodes.defer(self.node, Route::Ticket, until);
        }
    }

    fn go(&mut self, step: Step, to: SocketAddr, tag: u64, now: Nanos) {
        self.step = step;
        self.to = diskstream_wire::canonical(to);
        self.tag = tag;
        self.tries = 0;
        self.wait = STEP_RETRY_FIRST;
        self.due = now;
    }
}

/// Keyed BLAKE3 over what is to be bound, the nonce and the MAC; zeros where the device has no key.
fn proof(
    key: Option<&[u8; 32]>,
    bound: &[u8],
    nonce: &[u8; 16],
    mac: diskstream_wire::Mac,
) -> [u8; 32] {
    let Some(key) = key else { return [0; 32] };
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(bound).update(nonce).update(&mac.0);
    *hasher.finalize().as_bytes()
}

fn ticket_bytes(ticket: &[u8]) -> u16 {
    u16::try_from(ticket.len()).expect("tickets arrive in datagrams, so their length fits")
}

/// Whether a node offers another content than the one that is being read.
fn differs(ours: diskstream_wire::ContentId, theirs: diskstream_wire::ContentId) -> bool {
    // Planted defect: the simulator must catch a device that goes on with another image.
    #[cfg(feature = "mutations")]
    if super::mutations::is_planted(super::mutations::Mutation::UseOtherContent) {
        return false;
    }
    ours != theirs
}
