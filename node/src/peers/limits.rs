//! Every bound and time of the peers in one place.

use std::time::Duration;

use diskstream_wire::time::Nanos;

/// Peers that a node knows. Guessed: four times the largest farm that was planned for.
pub const PEERS_MAX: usize = 256;
/// Nodes that said hello and have not answered a challenge yet. Guessed: a joining rack.
pub const STRANGERS_MAX: usize = 32;
/// Members, dead ones included, that the membership library may hold before its datagrams are refused.
pub const MEMBERS_MAX: usize = 4 * PEERS_MAX;
/// Versions of one node. Derived: the parts that an inventory request can name, 11 versions each, rounded down.
pub const VERSIONS_MAX: usize = 1024;
/// Datagrams that wait to be sent. Derived: an inventory of 94 parts for each of a few peers, and one for each peer.
pub const OUT_MAX: usize = 2048;
/// Second copies that wait for their moment.
pub const COPIES_MAX: usize = 1024;

/// How long a challenge may be answered. Derived: a round trip on a bad link, several times over.
pub const CHALLENGE_FOR: Nanos = Nanos::from_secs(5);
/// First and longest distance of two hellos to a peer that does not answer.
pub const HELLO_BACKOFF: (Nanos, Nanos) = (Nanos::from_millis(250), Nanos::from_secs(4));
/// A refusal by another node counts for so long. Derived: three of the longest distances of two hellos, jitter included.
pub const REFUSED_FOR: Nanos = Nanos::from_secs(15);
/// Shortest distance of two answers to one peer's hellos.
pub const HELLO_REPLY_EVERY: Nanos = Nanos::from_millis(50);
/// Answers to strangers in a second, as many may come at once; and as many hellos that unknown incarnations cause. Guessed: a rack
/// starting together is through in two seconds, a replay attacker gets 8 KB/s of each.
pub const STRANGERS_PER_SECOND: u64 = 32;
/// Incarnations whose hellos are told from recorded ones. Derived: each peer and three former lives of it.
pub const GREETERS_MAX: usize = 4 * PEERS_MAX;
/// An established peer that is silent for so long is greeted again.
pub const GREET_AFTER_SILENCE: Nanos = Nanos::from_secs(2);

/// Distance of two reports to one peer, before a jitter of a quarter to both sides.
pub const REPORT_EVERY: Nanos = Nanos::from_secs(1);
/// A report tells the present for so long: five of them lost (3 in 10 million at 5 % loss).
pub const REPORT_FRESH_FOR: Nanos = Nanos::from_secs(5);
/// A peer that only the membership library names is forgotten when it has not answered by then.
pub const RUMOUR_FOR: Nanos = Nanos::from_secs(30);
/// Shortest distance of two announcements to a peer that speaks but is no member.
pub const ANNOUNCE_AGAIN: Nanos = Nanos::from_millis(500);
/// Events that wait for the log; what is beyond is dropped, the counters tell.
pub const EVENTS_MAX: usize = 1024;
/// The log names a node that is refused once in so long.
pub const COMPLAIN_EVERY: Nanos = Nanos::from_secs(60);
/// A changed drain state or inventory is told at once and again after each of these.
pub const URGENT_REPORTS: [Nanos; 2] = [Nanos::from_millis(100), Nanos::from_millis(300)];
/// Shortest distance of two answers to one peer's inventory requests.
pub const INVENTORY_EVERY: Nanos = Nanos::from_millis(200);

/// A suspicion counts when the peer was silent towards this node, too, for so long. Derived: a report a second and two pings.
pub const SUSPECT_SILENCE: Nanos = Nanos::from_secs(1);
/// A name is not given to another node while its bearer was heard of so recently.
pub const NAME_HELD_FOR: Nanos = Nanos::from_secs(5);
/// A turn that comes later than it was due by this was a pause (design: 500 ms).
pub const PAUSE: Nanos = Nanos::from_millis(500);
/// The longest distance of two turns: what makes a pause show.
pub const TURN_EVERY: Nanos = Nanos::from_millis(250);
/// After a pause a peer is unknown until it answers, or for so long; then what was known of it holds again.
pub const UNKNOWN_AFTER_PAUSE: Nanos = Nanos::from_secs(5);
/// What the membership library sends goes twice, so far apart: two nodes alone have nobody to probe for them. At 5 % loss a
/// probe then fails once in 200 instead of once in 10.
pub const COPY_AFTER: Nanos = Nanos::from_millis(30);

/// A member is probed each period.
pub const PROBE_PERIOD: Duration = Duration::from_millis(400);
/// A probe unanswered for so long is tried through others. Derived: 20 ms of jitter each way and the second copy of both, with some room.
pub const PROBE_RTT: Duration = Duration::from_millis(130);
/// How many others.
pub const INDIRECT_PROBES: usize = 3;
/// A suspect that has not spoken up by then is down. With two periods before it: 2 s after its end between two nodes.
pub const SUSPECT_TO_DOWN: Duration = Duration::from_millis(1200);
/// How often a piece of news is passed on. Derived: log2(256) + 2.
pub const TRANSMISSIONS: u8 = 10;
/// News is passed on each of these, while there is any.
pub const GOSSIP_EVERY: Duration = Duration::from_millis(100);
/// A member asks another for its list each of these.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// A dead incarnation is remembered for so long, so that late news does not revive it.
pub const REMEMBER_DOWN: Duration = Duration::from_mins(10);
