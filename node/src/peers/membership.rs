//! SWIM by the library `foca`, as a machine that is told the time.
//!
//! A member is one life of a node: its identity is the incarnation, so a restarted node is another member, and the two never
//! contend for a name. What a member is called is told by hellos; what it can do, by reports.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf, BufMut};
use diskstream_wire::layout::Field;
use diskstream_wire::time::Nanos;
use diskstream_wire::{Endpoint, PEER_BODY_BYTES_MAX};
use foca::{
    Codec, Config, Foca, Header, Member, Message, NoCustomBroadcast, Notification, PeriodicParams,
    Runtime, State, Timer,
};
use rand::TryRng;

use super::limits::{
    ANNOUNCE_EVERY, GOSSIP_EVERY, INDIRECT_PROBES, MEMBERS_MAX, PROBE_PERIOD, PROBE_RTT,
    REMEMBER_DOWN, SUSPECT_TO_DOWN, TRANSMISSIONS,
};
use crate::shard::random::Random;

/// One life of a node, as the library names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The life.
    pub(super) incarnation: u64,
    /// Where it is.
    pub(super) addr: Endpoint,
    /// How often it was declared dead and came back.
    pub(super) renewal: u16,
}

impl foca::Identity for Identity {
    type Addr = u64;

    fn renew(&self) -> Option<Identity> {
        Some(Identity { renewal: self.renewal.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> u64 {
        self.incarnation
    }

    fn win_addr_conflict(&self, other: &Identity) -> bool {
        // The address decides between equals, so that all nodes agree.
        (self.renewal, self.addr) > (other.renewal, other.addr)
    }
}

/// What the library thinks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer a probe.
    Suspect,
    /// It did not speak up in time, or it left.
    Down,
}

/// The library with its timers and what it wants sent.
pub(super) struct Membership {
    foca: Foca<Identity, IdentityCodec, Dice, NoCustomBroadcast>,
    collected: Collected,
}

#[derive(Default)]
struct Collected {
    now: Nanos,
    sends: VecDeque<(Identity, Vec<u8>)>,
    /// In no order: there are few, and foca wants ties in its own.
    timers: Vec<(Nanos, Timer<Identity>)>,
    /// The library takes part: somebody living is known, and accepts this node's present identity.
    connected: bool,
}

impl Runtime<Identity> for &mut Collected {
    // Members are read from the list, not from the order of news; only whether the library takes part is said nowhere else.
    fn notify(&mut self, news: Notification<'_, Identity>) {
        match news {
            Notification::Active => self.connected = true,
            Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {
                self.connected = false;
            }
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push_back((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        let after = Nanos(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        self.timers.push((self.now + after, event));
    }
}

impl Membership {
    pub(super) fn new(incarnation: u64, addr: Endpoint, seed: [u8; 32]) -> Membership {
        let identity = Identity { incarnation, addr, renewal: 0 };
        let foca = Foca::new(identity, config(), Dice(Random::new(seed)), IdentityCodec);
        Membership { foca, collected: Collected::default() }
    }

    /// This node as its peers know it.
    pub(super) fn identity(&self) -> Identity {
        *self.foca.identity()
    }

    /// This node learnt where it is.
    pub(super) fn set_addr(&mut self, addr: Endpoint, now: Nanos) -> bool {
        let old = self.identity();
        let new = Identity { addr, renewal: old.renewal.saturating_add(1), ..old };
        self.call(now, |foca, collected| foca.change_identity(new, collected))
    }

    /// Takes a datagram of a member; false: the library refused it.
    pub(super) fn handle(&mut self, data: &[u8], now: Nanos) -> bool {
        let full = self.foca.iter_membership_state().len() >= MEMBERS_MAX;
        !full && self.call(now, |foca, collected| foca.handle_data(data, collected))
    }

    /// Does what is due; false: something in the library went wrong, and it repaired itself.
    pub(super) fn tick(&mut self, now: Nanos) -> bool {
        let mut well = true;
        loop {
            let timers = &mut self.collected.timers;
            let due = timers.iter().enumerate().filter(|(_, (at, _))| *at <= now);
            let Some((n, _)) = due.min_by(|(_, a), (_, b)| a.cmp(b)) else { return well };
            let (at, timer) = timers.swap_remove(n);
            // Told the time at which it was due, so that periods do not drift; never one that a late turn makes a flood.
            let at = if now.since(at) > super::limits::PAUSE { now } else { at };
            well &= self.call(at, |foca, collected| foca.handle_timer(timer, collected));
        }
    }

    /// When something is due.
    pub(super) fn next_deadline(&self) -> Nanos {
        self.collected.timers.iter().map(|(at, _)| *at).min().unwrap_or(Nanos::NEVER)
    }

    /// Everything is due later: this node stood still, and nobody could answer it meanwhile.
    pub(super) fn shift(&mut self, by: Nanos) {
        for (at, _) in &mut self.collected.timers {
            *at = *at + by;
        }
    }

    /// Tells a node that this one is there.
    pub(super) fn announce(&mut self, to: Identity, now: Nanos) -> bool {
        self.call(now, |foca, collected| foca.announce(to, collected))
    }

    /// Tells a member that it is thought dead. It then comes back under a renewed identity.
    pub(super) fn tell_down(&mut self, incarnation: u64) {
        let member = self.foca.iter_membership_state().find(|m| m.id().incarnation == incarnation);
        let Some(member) = member else { return };
        let header = Header {
            src: self.identity(),
            src_incarnation: 0,
            dst: *member.id(),
            message: Message::TurnUndead,
        };
        let mut data = Vec::new();
        IdentityCodec.encode_header(&header, &mut data).expect("a vector has room");
        self.collected.sends.push_back((header.dst, data));
    }

    /// False: nobody is known, or this node came back under a renewed identity that nobody has accepted yet.
    pub(super) fn is_connected(&self) -> bool {
        self.collected.connected
    }

    /// A member is gone for certain: it said so, or its node lives another life now.
    pub(super) fn declare_down(&mut self, incarnation: u64, now: Nanos) {
        let member = self.foca.iter_membership_state().find(|m| m.id().incarnation == incarnation);
        let Some(member) = member.filter(|m| m.state() != State::Down) else { return };
        let down = Member::new(*member.id(), member.incarnation(), State::Down);
        self.call(now, |foca, collected| foca.apply_many([down].into_iter(), true, collected));
    }

    /// What it wants sent.
    pub(super) fn poll_send(&mut self) -> Option<(Identity, Vec<u8>)> {
        self.collected.sends.pop_front()
    }

    /// All members, dead ones included.
    pub(super) fn members(&self) -> impl Iterator<Item = (Identity, MemberState)> {
        self.foca.iter_membership_state().map(|member| {
            let state = match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down => MemberState::Down,
            };
            (*member.id(), state)
        })
    }

    fn call(
        &mut self,
        now: Nanos,
        what: impl FnOnce(
            &mut Foca<Identity, IdentityCodec, Dice, NoCustomBroadcast>,
            &mut Collected,
        ) -> Result<(), foca::Error>,
    ) -> bool {
        self.collected.now = now;
        what(&mut self.foca, &mut self.collected).is_ok()
    }
}

fn config() -> Config {
    let some = |n| NonZeroUsize::new(n).expect("a constant that is not 0");
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: some(INDIRECT_PROBES),
        max_transmissions: NonZeroU8::new(TRANSMISSIONS).expect("a constant that is not 0"),
        suspect_to_down_after: SUSPECT_TO_DOWN,
        remove_down_after: Some(REMEMBER_DOWN),
        max_packet_size: some(PEER_BODY_BYTES_MAX),
        // Done by `tell_down`: version 2.0.0 also tells members that spoke up in time, and they then give up their identity.
        notify_down_members: false,
        periodic_announce: Some(PeriodicParams { frequency: ANNOUNCE_EVERY, num_members: some(1) }),
        // The machine's own hellos find those who are back, also when no member is left.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_EVERY, num_members: some(3) }),
    }
}

/// The library's dice, from our seed.
struct Dice(Random);

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

/// Layout of the library's datagrams: identities of 28 bytes, everything in network order.
struct IdentityCodec;

/// Bytes that are no datagram of the library, or do not fit one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadBytes(&'static str);

const IDENTITY_BYTES: usize = 28;

impl Codec<Identity> for IdentityCodec {
    type Error = BadBytes;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), BadBytes> {
        let mut raw = [0; 2 * IDENTITY_BYTES + 4 + IDENTITY_BYTES];
        let mut rest = &mut raw[..];
        put_identity(&header.src, &mut rest);
        rest.put_u16(header.src_incarnation);
        put_identity(&header.dst, &mut rest);
        let (code, number, third) = message_parts(&header.message);
        rest.put_u8(code);
        rest.put_u8(number);
        if let Some(third) = third {
            put_identity(third, &mut rest);
        }
        let length = raw.len() - if third.is_some() { 0 } else { IDENTITY_BYTES };
        put_all(&raw[..length], &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, BadBytes> {
        let src = get_identity(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| CUT)?;
        let dst = get_identity(&mut buf)?;
        let code = buf.try_get_u8().map_err(|_| CUT)?;
        let probe_number = buf.try_get_u8().map_err(|_| CUT)?;
        let message = match code {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: get_identity(&mut buf)?, probe_number },
            3 => Message::IndirectPing { origin: get_identity(&mut buf)?, probe_number },
            4 => Message::IndirectAck { target: get_identity(&mut buf)?, probe_number },
            5 => Message::ForwardedAck { origin: get_identity(&mut buf)?, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(BadBytes("a message that the library does not have")),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), BadBytes> {
        let mut raw = [0; IDENTITY_BYTES + 3];
        let mut rest = &mut raw[..];
        put_identity(member.id(), &mut rest);
        rest.put_u16(member.incarnation());
        rest.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put_all(&raw, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, BadBytes> {
        let identity = get_identity(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| CUT)?;
        let state = match buf.try_get_u8().map_err(|_| CUT)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(BadBytes("a state that members do not have")),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

const CUT: BadBytes = BadBytes("the datagram ends too early");

fn message_parts(message: &Message<Identity>) -> (u8, u8, Option<&Identity>) {
    match message {
        Message::Ping(number) => (0, *number, None),
        Message::Ack(number) => (1, *number, None),
        Message::PingReq { target, probe_number } => (2, *probe_number, Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, *probe_number, Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, *probe_number, Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(origin)),
        Message::Announce => (6, 0, None),
        Message::Feed => (7, 0, None),
        Message::Gossip => (8, 0, None),
        Message::Broadcast => (9, 0, None),
        Message::TurnUndead => (10, 0, None),
    }
}

fn put_all(raw: &[u8], buf: &mut impl BufMut) -> Result<(), BadBytes> {
    if buf.remaining_mut() < raw.len() {
        return Err(BadBytes("no room"));
    }
    buf.put_slice(raw);
    Ok(())
}

fn put_identity(identity: &Identity, buf: &mut impl BufMut) {
    buf.put_u64(identity.incarnation);
    buf.put_u16(identity.renewal);
    let mut addr = [0; Endpoint::BYTES];
    identity.addr.store(&mut addr);
    buf.put_slice(&addr);
}

fn get_identity(buf: &mut impl Buf) -> Result<Identity, BadBytes> {
    let incarnation = buf.try_get_u64().map_err(|_| CUT)?;
    let renewal = buf.try_get_u16().map_err(|_| CUT)?;
    let mut addr = [0; Endpoint::BYTES];
    buf.try_copy_to_slice(&mut addr).map_err(|_| CUT)?;
    Ok(Identity { incarnation, addr: Endpoint::load(&addr), renewal })
}

const _: () = assert!(IDENTITY_BYTES == 8 + 2 + Endpoint::BYTES);
