//! Every bound and timer of the device's machine, with its origin.

use diskstream_wire::Nanos;

/// Servers that a configuration may name. Guess: PVS takes 4 (BIOS) or 32 (UEFI).
pub const SERVERS_MAX: usize = 32;
/// Reads that callers may have outstanding. Guess: several NBD connections with deep queues.
pub const READS_MAX: usize = 4096;
/// Bytes of one caller's read. Derived: qemu and the kernel's NBD client stay below 32 MiB.
pub const READ_CALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Requests on the wire: the slot number is the low bits of the request id. Derived: a granted buffer of 4 MiB holds
/// 1,820 datagrams, which are 606 requests of 4 KiB; the next power of two.
pub const REQUESTS_MAX: usize = 1 << REQUEST_SLOT_BITS;
/// Low bits of a request id that name its slot; the other 54 are unpredictable.
pub const REQUEST_SLOT_BITS: u32 = 10;
/// Questions about extents that may be outstanding. Guess: one per NBD connection, with room.
pub const EXTENT_QUESTIONS_MAX: usize = 64;
/// Single datagrams (acknowledgements, closes) that wait to be sent. Past it the oldest duty is repeated by its peer.
pub const CONTROLS_MAX: usize = 32;
/// Requests in one train: every kernel with UDP segmentation takes 64 segments.
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Bytes of the longest train or datagram that [`super::Session::poll_send`] writes: a padded path probe.
pub const TRAIN_BYTES_MAX: usize = diskstream_wire::limits::DATAGRAM_BYTES_MAX;
const _: () = assert!(TRAIN_SEGMENTS_MAX * diskstream_wire::Read::BYTES <= TRAIN_BYTES_MAX);

/// Fragments that a new path may have in flight (RFC 6928).
pub const WINDOW_FRAGMENTS_FIRST: u32 = 10;
/// Fewest fragments in flight: one unit at the smallest fragment size.
pub const WINDOW_FRAGMENTS_MIN: u32 = 4;
/// A loss takes the window no lower than this. Derived: 80 reads of 4 KiB a second at 5 % loss and 20 ms of jitter each way keep 8 to
/// 9 fragments in flight, those included that wait for their time-out; twice that. Below it chance losses, not the
/// link, would set the pace: reads would queue at the device for seconds (measured by the failover bench).
pub const WINDOW_FRAGMENTS_FLOOR: u32 = 16;
/// A path idle for this long starts anew with one read. Guess, after RFC 2861.
pub const IDLE_RESTART: Nanos = Nanos::from_secs(1);

/// Least allowance for variation in a time-out. Derived: a node says `Pending` after 10 ms; 2 ms for its turn and ours,
/// so that a slow disk is not mistaken for a lost request.
pub const RTO_SLACK_MIN: Nanos = Nanos::from_millis(12);
/// Longest time between repeats of a request on a path that shows life.
pub const RTO_MAX: Nanos = Nanos::from_secs(1);
/// The round trip that is assumed until one was measured. Guess: a campus network.
pub const RTT_ASSUMED: Nanos = Nanos::from_millis(10);
/// Least reordering that is tolerated before a hole counts as lost. Guess: interrupt moderation and GRO hold datagrams
/// back by some hundred microseconds.
pub const REORDER_MIN: Nanos = Nanos::from_millis(1);
/// After `Pending`, the read is asked for again this much later; doubled each time up to [`RTO_MAX`].
pub const PENDING_RECHECK: Nanos = Nanos::from_millis(100);

/// Time between probes of a silent node (design, section 6).
pub const PROBE_INTERVAL: Nanos = Nanos::from_millis(20);
/// Longest time between probes of a node that counts as lost; it is reached by doubling. Derived: reads are answered by the standby
/// by then, so that nobody waits for the decision; and thousands of devices that lose a node together have better to do.
pub const PROBE_INTERVAL_LOST_MAX: Nanos = Nanos::from_millis(80);
/// Unanswered probes after which the node counts as gone, on a path that has lost nothing lately, and on one that has. Derived: a try
/// is silent with 10 % at 5 % loss each way, and with 23 % at 12 %; with the read that was not answered either, 7 in a row of the
/// former are one in 10⁷ (the first loss on a clean path), 13 of the latter one in 10⁸.
pub const PROBES_SILENT_MAX: (u32, u32) = (6, 12);
/// Least silence after which a node counts as gone, whatever the probes say (design, section 6).
pub const SILENCE_MIN: Nanos = Nanos::from_millis(160);
/// Probes of a node that counts as gone slow down to this interval while another is sought.
pub const PROBE_INTERVAL_MAX: Nanos = Nanos::from_millis(500);

/// Unanswered probes after which every read is asked at the standby as well. Derived: three probes and the repeats that go with
/// them are all silent with a probability of about 10^-6 at 5 % loss each way; and 60 ms + a time-out + a round trip
/// stays below the 250 ms that a stall may last.
pub const LOST_AFTER_PROBES: u32 = 3;
/// Least time after which an unanswered read is asked at the standby as well (design, section 6).
pub const HEDGE_AFTER_MIN: Nanos = Nanos::from_millis(20);
/// An unanswered read is asked at the standby after this long whatever the budget says. Guess: the longest repeat interval; at 5 % loss
/// each way chance alone leaves one read in a million unanswered for so long.
pub const HEDGE_ANYWAY: Nanos = RTO_MAX;
/// Such reads in a row, none of them answered by the serving node, after which the device moves: the node says that it lives, and serves
/// nothing. As many as [`STORE_ERRORS_MOVE`].
pub const IGNORED_MOVE: u32 = STORE_ERRORS_MOVE;
/// Least time that a repeat is given before the standby is asked. Guess: a node or a device that is busy does not run for some
/// milliseconds; and a repeat goes out after 12 ms, so that this ends before [`HEDGE_AFTER_MIN`].
pub const HEDGE_REPEAT_MIN: Nanos = Nanos::from_millis(7);
/// Reads that earn one hedge while the serving node shows life: 1 %. The bound that must hold is 2 %.
pub const READS_PER_HEDGE: u32 = 100;
/// Hedges that may be saved up. Derived: between the first time-out after a node's death and the moment when it counts as lost,
/// 60 ms later, a machine with some processes has a handful of reads outstanding; and on the 1,200 reads of a minute at
/// 20 a second, 4 are 0.3 %, so that the sum stays below 2 %.
pub const HEDGES_SAVED_MAX: u32 = 4;
/// Keep-alives of a standby. Derived: stateful firewalls forget a UDP flow after 30 s without an answer
/// (`nf_conntrack_udp_timeout`), so a third of it; 4,000 devices make 400 datagrams a second in the farm.
pub const STANDBY_CHECK: Nanos = Nanos::from_secs(10);
/// Over this time devices spread their search for a standby (issue 3): they open, and lose it, together.
pub const STANDBY_SPREAD: Nanos = Nanos::from_millis(500);
/// Time after which the next candidate for a standby is asked as well. Longer than a login's: nobody waits for it, and
/// the order of the list is the farm's choice.
pub const STANDBY_STAGGER: Nanos = Nanos::from_millis(300);
/// First wait after a round of asking every candidate for a standby in vain.
pub const STANDBY_ROUND_FIRST: Nanos = Nanos::from_secs(1);
/// Longest such wait. Guess: an operator who starts a node sees it used within half a minute.
pub const STANDBY_ROUND_MAX: Nanos = Nanos::from_secs(30);
/// How long a node that was left in good order may take for what it was asked before. Guess: the longest repeat interval.
pub const LEAVE_PATIENCE: Nanos = RTO_MAX;
/// Over this time devices spread a move that only balances load (issue 3).
pub const REBALANCE_SPREAD: Nanos = Nanos::from_secs(2);
/// Time-outs of a request that are not doubled yet, on a path that shows life: there a lost request is chance, and it is
/// only the third loss in a row that speaks of a full queue.
pub const TIMEOUTS_PLAIN: u32 = 2;

/// First wait for the answer to a login step.
pub const STEP_RETRY_FIRST: Nanos = Nanos::from_millis(100);
/// Longest wait between repeats of a login step.
pub const STEP_RETRY_MAX: Nanos = Nanos::from_millis(800);
/// Times that a login step is sent before the candidate is given up: 100 + 200 + 400 + 800 ms.
pub const STEP_TRIES_MAX: u32 = 4;
/// Time after which the next candidate is asked as well.
pub const CANDIDATE_STAGGER: Nanos = Nanos::from_millis(30);
/// First wait after a round of asking every candidate in vain.
pub const ROUND_WAIT_FIRST: Nanos = Nanos::from_millis(200);
/// Longest such wait. Derived: devices must read again within a second of a node's return.
pub const ROUND_WAIT_MAX: Nanos = Nanos::from_millis(800);
/// Wait after a refusal that may pass (no node, no room, version pending).
pub const REFUSED_WAIT_SOON: Nanos = Nanos::from_secs(2);
/// Wait after a refusal that a person must mend.
pub const REFUSED_WAIT_LATE: Nanos = Nanos::from_secs(10);
/// Wait after a refusal as one's own duplicate, of a device that had a session: more likely than a second machine with its MAC is
/// that its address changed (DHCP, another port), and the node still sees it alive at the old one. Derived: nodes hold an
/// address for alive for 5 s after they last heard from it (`ALIVE_FOR` there); asking each second, the device is in
/// about a second after that, and not up to 7.5 s as with [`REFUSED_WAIT_LATE`].
pub const REFUSED_WAIT_MOVED: Nanos = Nanos::from_secs(1);
/// Longest wait that a busy node can impose.
pub const BUSY_WAIT_MAX: Nanos = Nanos::from_secs(300);
/// Reads that are held for longer than this are an event.
pub const HOLDING_REPORT: Nanos = Nanos::from_secs(1);

/// Time between repeats of `SessionClose`.
pub const CLOSE_INTERVAL: Nanos = Nanos::from_millis(200);
/// Times that `SessionClose` is sent.
pub const CLOSE_TRIES_MAX: u32 = 3;
/// `StoreError`s after which a device moves (design, section 6).
pub const STORE_ERRORS_MOVE: u32 = 3;
/// Wait before a range that a node's store refused is asked for again there.
pub const STORE_ERROR_WAIT: Nanos = Nanos::from_millis(50);

/// Longest time between keep-alives to a node that says that reads are queued there. Derived: thousands of devices shall not fill what
/// the node has left with keep-alives (4,096 of them at 6 ms each did, and got next to nothing else), and a node that dies
/// meanwhile is missed so much later.
pub const QUEUE_WAIT_MAX: Nanos = Nanos::from_millis(500);

/// Bounds of the keep-alive interval that a node may set.
pub const KEEP_ALIVE_BOUNDS: (Nanos, Nanos) = (Nanos::from_secs(1), Nanos::from_secs(300));
/// Wait for the answer to a path probe.
pub const PATH_PROBE_WAIT: Nanos = Nanos::from_millis(250);
/// Times that each datagram size is probed.
pub const PATH_PROBE_TRIES: u32 = 2;
/// A path that carried less than was hoped is probed again after this. Guess.
pub const PATH_PROBE_AGAIN: Nanos = Nanos::from_secs(600);
/// Lost full-size sends in a row, while small datagrams arrive, after which the size in use is probed, and falls back when no probe is
/// answered. Derived: at 5 % loss each way one is lost with 10 %, so that chance alone raises a doubt once in a million reads; with 2 in
/// a row every tenth device fell back within 20 s (measured by the failover bench). A path that became narrower is left
/// after a third of a second and the probes' half.
pub const FULL_SIZE_LOST_MAX: u32 = 6;
/// Probes of a size arrive and no data does, for so long: then probes are no proof, and smaller fragments are tried. Derived: of a node that
/// is asked for ten times what it can answer devices heard something at least every 5 s; what loses data and lets probes pass
/// is some broken offload of long trains, and rare.
pub const PROBES_BELIEVED: Nanos = Nanos::from_secs(5);

/// Bytes that a datagram of the size `data_bytes` occupies in a receive buffer.
///
/// Measured for 1376: 212,992 granted bytes hold 92 datagrams. Derived for the others: 256 bytes of bookkeeping and the
/// kernel's next size class.
#[must_use]
pub const fn receive_bytes(size: diskstream_wire::FragmentSize) -> u32 {
    match size {
        diskstream_wire::FragmentSize::B1024 | diskstream_wire::FragmentSize::B1376 => 2304,
        diskstream_wire::FragmentSize::B4096 => 8448,
        diskstream_wire::FragmentSize::B8192 => 16_640,
    }
}
