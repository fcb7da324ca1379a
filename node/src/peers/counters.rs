//! What the peers' machine counts. One writer, read by whoever scrapes.

use crate::shard::Counter;

/// Why a datagram on the peers' port had no effect. Each is also a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum PeerRefusal {
    /// Longer than any of ours, or shorter.
    Size,
    /// Not our header, version or kind.
    Header,
    /// Damaged, forged, or sealed with another key.
    Seal,
    /// Opened, but not as long as its kind, or with impossible numbers.
    Malformed,
    /// Our own, come back.
    Reflected,
    /// Names another life of this node than the present one.
    Receiver,
    /// Of an incarnation that this node does not know.
    Sender,
    /// Came before.
    Replay,
    /// Answers no challenge that is open.
    Challenge,
    /// Its name is another live node's, or this one's.
    NameTaken,
    /// This node knows as many peers as it can.
    Full,
    /// Too many of its sort in a short time.
    Rate,
    /// The membership library refused it.
    Membership,
    /// An inventory that is not what its digest says.
    Inventory,
}

impl PeerRefusal {
    /// Every reason, in the order of their counters.
    pub const ALL: [PeerRefusal; 14] = [
        PeerRefusal::Size,
        PeerRefusal::Header,
        PeerRefusal::Seal,
        PeerRefusal::Malformed,
        PeerRefusal::Reflected,
        PeerRefusal::Receiver,
        PeerRefusal::Sender,
        PeerRefusal::Replay,
        PeerRefusal::Challenge,
        PeerRefusal::NameTaken,
        PeerRefusal::Full,
        PeerRefusal::Rate,
        PeerRefusal::Membership,
        PeerRefusal::Inventory,
    ];

    /// A stable label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            PeerRefusal::Size => "size",
            PeerRefusal::Header => "header",
            PeerRefusal::Seal => "seal",
            PeerRefusal::Malformed => "malformed",
            PeerRefusal::Reflected => "reflected",
            PeerRefusal::Receiver => "receiver",
            PeerRefusal::Sender => "sender",
            PeerRefusal::Replay => "replay",
            PeerRefusal::Challenge => "challenge",
            PeerRefusal::NameTaken => "name_taken",
            PeerRefusal::Full => "full",
            PeerRefusal::Rate => "rate",
            PeerRefusal::Membership => "membership",
            PeerRefusal::Inventory => "inventory",
        }
    }
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $field:ident = $name:literal, $help:literal; )*) => {
        /// All counters of the peers' machine and its thread.
        #[derive(Debug, Default)]
        pub struct PeerCounters {
            $( $(#[doc = $doc])+ pub $field: Counter, )*
            /// Datagrams that had no effect, in the order of [`PeerRefusal::ALL`].
            pub refused: [Counter; PeerRefusal::ALL.len()],
        }

        impl PeerCounters {
            /// Every counter but the refusals.
            pub const METRICS: &'static [PeerMetric] = &[
                $( PeerMetric { name: $name, help: $help, get: |c| &c.$field }, )*
            ];
        }
    };
}

/// One counter of [`PeerCounters::METRICS`].
#[derive(Clone, Copy)]
pub struct PeerMetric {
    /// Name without prefix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How to read it.
    pub get: fn(&PeerCounters) -> &Counter,
}

counters! {
    /// Datagrams received, refused ones included.
    datagrams_in = "peer_datagrams_received_total", "Datagrams received on the peers' port.";
    /// Their bytes.
    bytes_in = "peer_received_bytes_total", "Bytes of UDP payload received on the peers' port.";
    /// Datagrams sent.
    datagrams_out = "peer_datagrams_sent_total", "Datagrams sent to peers.";
    /// Their bytes.
    bytes_out = "peer_sent_bytes_total", "Bytes of UDP payload sent to peers.";
    /// Hellos sent.
    hellos_out = "peer_hellos_sent_total", "Hellos sent.";
    /// Hellos received.
    hellos_in = "peer_hellos_received_total", "Authentic hellos received; each replay counts again.";
    /// Sessions with an incarnation of a peer that were begun.
    handshakes = "peer_handshakes_total", "Challenges that an incarnation of a peer answered for the first time.";
    /// Reports sent.
    reports_out = "peer_reports_sent_total", "Reports sent.";
    /// Reports received.
    reports_in = "peer_reports_received_total", "Reports received.";
    /// Parts of inventories sent.
    inventories_out = "peer_inventory_parts_sent_total", "Parts of the own inventory sent.";
    /// Whole inventories received.
    inventories_in = "peer_inventories_received_total", "Whole inventories received.";
    /// Datagrams of the membership library received.
    membership_in = "peer_membership_received_total", "Membership datagrams (SWIM) received.";
    /// Datagrams of the membership library sent, second copies not counted.
    membership_out = "peer_membership_sent_total", "Membership datagrams (SWIM) sent, second copies not counted.";
    /// Errors inside the membership library.
    membership_errors = "peer_membership_errors_total", "Errors inside the membership library; its state is repaired.";
    /// Changes of a peer's state.
    state_changes = "peer_state_changes_total", "Changes of a peer's state.";
    /// Turns that came late.
    pauses = "peer_pauses_total", "Pauses of this node that made every peer unknown until it was heard again.";
    /// Addresses of known peers that became other ones.
    address_changes = "peer_address_changes_total", "Known peers that answered from another address.";
    /// Datagrams that found no room or no way out.
    not_sent = "peer_datagrams_not_sent_total", "Datagrams dropped on their way out: queue full, or refused by the network.";
}

impl PeerCounters {
    /// Counts a refusal. Only the owner may.
    pub fn refuse(&self, reason: PeerRefusal) {
        self.refused[reason as usize].inc();
    }

    /// Refusals of a reason.
    #[must_use]
    pub fn refused(&self, reason: PeerRefusal) -> u64 {
        self.refused[reason as usize].get()
    }
}
