//! Judges of what nodes send, who know nothing of how they decide.
//!
//! * *Amplification*: an address that never echoed a cookie or a tag that was sent to it gets no more bytes than came in
//!   its name.
//! * *Forgery*: nothing answers a forged read with data.
//! * *Silence*: a node that runs answers every read of a session of its own within a bound, be it "pending".
//!
//! Bytes and reads are judged at the devices, pins at the nodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use diskstream_wire::{LoginComplete, LoginPortReply, LoginStart, Message, Nanos, Read, decode};

use crate::hostile::{FORGED_MARK, is_victim};
use crate::hosts::PEER_PORT;
use crate::network::Datagram;

/// A read must meet some answer within this time. Derived: `ReadPending` after 10 ms, then a full send queue of 64 MiB
/// at the simulated 1 GiB/s; rounded up.
pub const ANSWER_WITHIN: Nanos = Nanos::from_millis(250);

#[derive(Default)]
struct Account {
    bytes_in: u64,
    bytes_out: u64,
    secrets: HashSet<[u8; 16]>,
    proven: bool,
}

/// A session that the node told a device about.
struct Known {
    at: SocketAddr,
    /// The device has used it: from then on it is the only one of its address.
    used: bool,
}

/// What one node sent and received.
///
/// Bytes are counted for each host, not for each port: who has proven a host's address with its I/O port is told of a
/// drain at its notice port too, which never said anything.
#[derive(Default)]
pub struct Judge {
    accounts: HashMap<IpAddr, Account>,
    /// Sessions that this node gave out, by their tags.
    sessions: BTreeMap<u64, Known>,
    /// Reads by session and request, with the time of arrival. What a session waits for ends with it.
    unanswered: BTreeMap<(u64, u64), Nanos>,
    next_check: Nanos,
    peer_bytes: u64,
    peer_bytes_in: HashMap<IpAddr, usize>,
    peer_bytes_out: HashMap<IpAddr, usize>,
}

/// How often silence is looked for: far below the bound.
const CHECK_EVERY: Nanos = Nanos::from_millis(5);

fn tag_secret(tag: u64) -> [u8; 16] {
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&tag.to_be_bytes());
    secret
}

impl Judge {
    /// Forgets the node's sessions: it crashed.
    pub fn node_restarted(&mut self) {
        self.sessions.clear();
        self.unanswered.clear();
    }

    /// A datagram reaches the node, which looks at it now.
    pub fn node_receives(&mut self, datagram: &Datagram, now: Nanos) {
        if datagram.to.port() == PEER_PORT {
            *self.peer_bytes_in.entry(datagram.from.ip()).or_default() += datagram.bytes.len();
            return;
        }
        let account = self.accounts.entry(datagram.from.ip()).or_default();
        account.bytes_in += datagram.bytes.len() as u64;
        let Ok(decoded) = decode(&datagram.bytes) else { return };
        if let Message::LoginStart(LoginStart { cookie, .. }) = decoded.message {
            account.proven |= account.secrets.contains(&cookie);
            return;
        }
        let tag = u64::from_be_bytes(datagram.bytes[8..16].try_into().expect("a decoded header"));
        account.proven |= account.secrets.contains(&tag_secret(tag));
        if self.sessions.get(&tag).is_none_or(|known| known.at != datagram.from) {
            return;
        }
        self.used(tag, datagram.from);
        match decoded.message {
            Message::Read(Read { request_id, .. }) => {
                self.unanswered.entry((tag, request_id)).or_insert(now);
            }
            Message::SessionClose(_) => self.forget(tag),
            _ => {}
        }
    }

    /// A device uses a session: those that it used before at the same address are over.
    fn used(&mut self, tag: u64, at: SocketAddr) {
        let known = self.sessions.get_mut(&tag).expect("looked up before");
        if std::mem::replace(&mut known.used, true) {
            return;
        }
        let over = |(other, known): (&u64, &Known)| {
            (*other != tag && known.used && known.at == at).then_some(*other)
        };
        let over: Vec<u64> = self.sessions.iter().filter_map(over).collect();
        over.into_iter().for_each(|tag| self.forget(tag));
    }

    fn forget(&mut self, tag: u64) {
        self.sessions.remove(&tag);
        self.unanswered.retain(|&(of, _), _| of != tag);
    }

    /// The node sends a datagram.
    pub fn node_sends(&mut self, datagram: &Datagram) {
        if datagram.from.port() == PEER_PORT {
            return self.peer_sends(datagram);
        }
        let account = self.accounts.entry(datagram.to.ip()).or_default();
        account.bytes_out += datagram.bytes.len() as u64;
        assert!(
            account.proven || account.bytes_out <= account.bytes_in,
            "judge of amplification: {} was sent {} bytes and {} came in its name",
            datagram.to,
            account.bytes_out,
            account.bytes_in
        );
        assert!(
            !is_victim(datagram.to) || !account.proven,
            "judge of amplification: a forged address was believed"
        );
        let Ok(decoded) = decode(&datagram.bytes) else { panic!("a node sent what is no message") };
        match decoded.message {
            Message::LoginPortReply(LoginPortReply { cookie, .. }) => {
                account.secrets.insert(cookie);
            }
            Message::LoginComplete(LoginComplete { session_tag, .. }) => {
                account.secrets.insert(tag_secret(session_tag));
                self.sessions.insert(session_tag, Known { at: datagram.to, used: false });
            }
            Message::ReadData(m) => self.answered(m.tag, m.request_id, true),
            Message::ReadZero(m) => self.answered(m.tag, m.request_id, true),
            Message::ReadPending(m) => self.answered(m.tag, m.request_id, true),
            Message::ReadBusy(m) => self.answered(m.tag, m.request_id, true),
            Message::ReadError(m) => self.answered(m.tag, m.request_id, true),
            Message::UnknownSession(m) => self.answered(m.tag, m.request_id, false),
            Message::SessionClosed(m) => self.forget(m.tag),
            _ => {}
        }
    }

    /// What was recorded comes again, from a stranger: it may be met by an answer. Those are greetings, of which the
    /// node sends few a second; observed: up to 2.5 times the bytes that caused them.
    fn peer_sends(&mut self, datagram: &Datagram) {
        let out = self.peer_bytes_out.entry(datagram.to.ip()).or_default();
        *out += datagram.bytes.len();
        let bytes_in = self.peer_bytes_in.get(&datagram.to.ip()).copied().unwrap_or(0);
        assert!(
            !is_victim(datagram.to) || *out <= 4 * bytes_in,
            "judge of amplification: a stranger was sent {out} bytes as a peer for {bytes_in}"
        );
        self.peer_bytes += datagram.bytes.len() as u64;
    }

    /// Bytes that the node sent to peers.
    #[must_use]
    pub fn peer_bytes(&self) -> u64 {
        self.peer_bytes
    }

    fn answered(&mut self, tag: u64, request_id: u64, served: bool) {
        let forged = request_id & 0xFFFF_FFFF_0000_0000 == FORGED_MARK;
        assert!(!(forged && served), "judge of forgery: a read with a foreign tag was served");
        self.unanswered.remove(&(tag, request_id));
    }

    /// Checks for silence. `paused`: the node was not running of late.
    pub fn check_silence(&mut self, now: Nanos, paused: bool) {
        if paused {
            self.unanswered.clear();
            return;
        }
        if now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_EVERY;
        for ((tag, request_id), since) in &self.unanswered {
            assert!(
                now.since(*since) <= ANSWER_WITHIN,
                "judge of silence: read {request_id:#x} of session {tag:#x} met no answer for {} ms",
                now.since(*since).as_millis()
            );
        }
    }
}
