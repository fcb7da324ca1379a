//! The small values that messages are made of: addresses, names, identities and numbered meanings.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

use crate::layout::Field;

/// A device's hardware address: its identity.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMac;

impl fmt::Display for BadMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six pairs of hexadecimal digits, such as 52:54:00:12:34:56")
    }
}

impl core::error::Error for BadMac {}

impl FromStr for Mac {
    type Err = BadMac;

    /// Six pairs of hexadecimal digits with `:` or `-` between them.
    fn from_str(text: &str) -> Result<Mac, BadMac> {
        let mut mac = [0u8; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut mac {
            let pair = pairs.next().ok_or(BadMac)?;
            if pair.len() != 2 || !pair.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(BadMac);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadMac)?;
        }
        if pairs.next().is_some() { Err(BadMac) } else { Ok(Mac(mac)) }
    }
}

impl Field for Mac {
    const BYTES: usize = 6;
    const TYPE: &'static str = "mac";
    fn load(bytes: &[u8]) -> Self {
        Mac(<[u8; 6]>::load(bytes))
    }
    fn store(&self, out: &mut [u8]) {
        self.0.store(out);
    }
}

/// An address and a port: 16 bytes of IPv6 (IPv4 as `::ffff:a.b.c.d`) and 2 of port. All zero: none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv6 or IPv4-mapped address.
    pub address: [u8; 16],
    /// UDP port.
    pub port: u16,
}

impl Endpoint {
    /// No address.
    pub const NONE: Endpoint = Endpoint { address: [0; 16], port: 0 };

    /// As the standard library's type, IPv4 where it is mapped; none when port or address is zero.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let v6 = Ipv6Addr::from(self.address);
        let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
        if self.port == 0 || ip.is_unspecified() {
            return None;
        }
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Endpoint {
        let v6 = match addr.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Endpoint { address: v6.octets(), port: addr.port() }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket_addr() {
            Some(addr) => write!(f, "{addr}"),
            None => f.write_str("none"),
        }
    }
}

impl Field for Endpoint {
    const BYTES: usize = 18;
    const TYPE: &'static str = "endpoint";
    fn load(bytes: &[u8]) -> Self {
        Endpoint { address: Field::load(&bytes[..16]), port: Field::load(&bytes[16..18]) }
    }
    fn store(&self, out: &mut [u8]) {
        self.address.store(&mut out[..16]);
        self.port.store(&mut out[16..18]);
    }
}

/// Removes the mapping, so that one peer has one spelling: `::ffff:a.b.c.d` becomes `a.b.c.d`.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// The unspecified IPv4 address, where some address must stand.
pub const NO_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a version's content is: the BLAKE3 root of its bytes. Copies with equal content ids are identical.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The first 8 bytes: what each read names, so that no read is answered from another content.
    #[must_use]
    pub fn generation(&self) -> u64 {
        u64::load(&self.0[..8])
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Field for ContentId {
    const BYTES: usize = 32;
    const TYPE: &'static str = "content_id";
    fn load(bytes: &[u8]) -> Self {
        ContentId(<[u8; 32]>::load(bytes))
    }
    fn store(&self, out: &mut [u8]) {
        self.0.store(out);
    }
}

/// UTF-8 text in a field of `N` bytes, filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// The text cut at a character border so that it fits.
    #[must_use]
    pub fn new(text: &str) -> Text<N> {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut raw = [0u8; N];
        raw[..end].copy_from_slice(&text.as_bytes()[..end]);
        Text(raw)
    }

    /// The text before the first zero byte, up to the first byte that is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        let raw = &self.0[..end];
        match core::str::from_utf8(raw) {
            Ok(text) => text,
            Err(e) => core::str::from_utf8(&raw[..e.valid_up_to()]).unwrap_or(""),
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text([0; N])
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> Field for Text<N> {
    const BYTES: usize = N;
    const TYPE: &'static str = "text";
    fn load(bytes: &[u8]) -> Self {
        Text(<[u8; N]>::load(bytes))
    }
    fn store(&self, out: &mut [u8]) {
        self.0.store(out);
    }
}

/// Bytes kept for later, or to make a request as long as its answer: sent as zeros, ignored on receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved<const N: usize>;

impl<const N: usize> Field for Reserved<N> {
    const BYTES: usize = N;
    const TYPE: &'static str = "reserved";
    fn load(_: &[u8]) -> Self {
        Reserved
    }
    fn store(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

impl Field for crate::FragmentSize {
    const BYTES: usize = 1;
    const TYPE: &'static str = "fragment_size";
    fn load(bytes: &[u8]) -> Self {
        crate::FragmentSize::from_code(bytes[0])
    }
    fn store(&self, out: &mut [u8]) {
        out[0] = *self as u8;
    }
}

/// A numbered meaning in one byte. Numbers that this version does not know are kept, not refused: a newer peer may name
/// a new reason.
macro_rules! meaning {
    (
        $(#[doc = $doc:literal])+
        $name:ident = $ty:literal { $( $(#[doc = $vdoc:literal])+ $variant:ident = $value:literal, $label:literal; )* }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[doc = $vdoc])+ $variant, )*
            /// A number that this version does not know.
            Other(u8),
        }

        impl $name {
            /// The known values with their numbers and labels.
            pub const ALL: &'static [($name, u8, &'static str)] = &[ $( ($name::$variant, $value, $label), )* ];

            /// The numbers, labels and explanations as data.
            pub const MEANING: crate::layout::Meaning = crate::layout::Meaning {
                ty: $ty,
                doc: concat!($($doc, "\n"),+),
                values: &[ $( ($value, $label, concat!($($vdoc, "\n"),+)), )* ],
            };

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $( $name::$variant => $value, )*
                    $name::Other(code) => code,
                }
            }

            /// The meaning of a number.
            #[must_use]
            pub const fn from_code(code: u8) -> $name {
                match code {
                    $( $value => $name::$variant, )*
                    code => $name::Other(code),
                }
            }

            /// A stable label for metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $( $name::$variant => $label, )*
                    $name::Other(_) => "other",
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name::from_code(0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $name::Other(code) => write!(f, "other ({code})"),
                    known => f.write_str(known.label()),
                }
            }
        }

        impl Field for $name {
            const BYTES: usize = 1;
            const TYPE: &'static str = $ty;
            fn load(bytes: &[u8]) -> Self {
                $name::from_code(bytes[0])
            }
            fn store(&self, out: &mut [u8]) {
                out[0] = self.code();
            }
        }
    };
}
pub(crate) use meaning;

meaning! {
    /// What a device wants of a login.
    LoginKind = "login_kind" {
        /// A fresh start: takes a boot slot.
        Boot = 1, "boot";
        /// Going on with a valid ticket. It takes no boot slot if the ticket says that the device had a session.
        Reconnect = 2, "reconnect";
        /// A second session at another node, kept warm for a failure. No boot slot, under the same condition.
        Standby = 3, "standby";
    }
}

meaning! {
    /// Why a login or an I/O service was refused.
    RejectReason = "reject_reason" {
        /// No device with this MAC in the farm.
        UnknownDevice = 1, "unknown_device";
        /// The device is disabled.
        Disabled = 2, "disabled";
        /// No vDisk is assigned to the device.
        NoVdiskAssigned = 3, "no_vdisk_assigned";
        /// The vDisk is locked by somebody else.
        VdiskLocked = 4, "vdisk_locked";
        /// No node holds this content and takes devices.
        NoEligibleNode = 5, "no_eligible_node";
        /// The version's file is missing or was changed in place.
        VersionMissing = 6, "version_missing";
        /// The version is not released yet, or not on this node yet.
        VersionPending = 7, "version_pending";
        /// The device's protocol version is too old.
        ProtocolTooOld = 8, "protocol_too_old";
        /// Cookie, ticket or device proof does not check out; log in from the start.
        BadProof = 9, "bad_proof";
        /// The same MAC is alive at another address.
        DuplicateDevice = 10, "duplicate_device";
        /// The ticket is too old, of another farm epoch, or sealed with another key; log in from the start.
        TicketExpired = 11, "ticket_expired";
        /// The node has no room for another session.
        NoRoom = 12, "no_room";
    }
}

meaning! {
    /// Why a device must wait before it logs in.
    BusyReason = "busy_reason" {
        /// As many devices are booting as the operator allows.
        BootLimit = 1, "boot_limit";
        /// The node is draining and knows no successor yet.
        Draining = 2, "draining";
        /// The node is still checking its vDisks.
        Starting = 3, "starting";
    }
}

meaning! {
    /// Why a read was not answered with bytes.
    ReadErrorCode = "read_error" {
        /// The store did not give the bytes (an I/O error, a short file, a block that is not the vDisk's content).
        StoreError = 1, "store_error";
        /// The range is not inside the vDisk, or not made of whole units.
        OutOfRange = 2, "out_of_range";
        /// The read names another content than the session's.
        WrongGeneration = 3, "wrong_generation";
        /// The fragment size was not negotiated, or the read is too long for the session's mode.
        NotNegotiated = 4, "not_negotiated";
        /// The store has not answered within the node's deadline. It may yet: another node is asked, and the read never fails for it.
        StoreTimeout = 5, "store_timeout";
    }
}

meaning! {
    /// How a device uses an image.
    ImageMode = "image_mode" {
        /// Many devices read it; each keeps what it writes to itself.
        Standard = 1, "standard";
        /// One device reads and writes it.
        Private = 2, "private";
        /// The one writer of a maintenance version.
        Maintenance = 3, "maintenance";
    }
}

meaning! {
    /// Where a device keeps what it writes (numbers of our own; PVS's names).
    WriteCacheType = "write_cache_type" {
        /// Nowhere: the export is read-only.
        None = 0, "none";
        /// In the device's RAM.
        Ram = 1, "ram";
        /// In RAM, with overflow to a local file.
        RamOverflow = 2, "ram_overflow";
        /// In a file on the node.
        Node = 3, "node";
    }
}

meaning! {
    /// Why a node tells its devices to move.
    NoticeReason = "notice_reason" {
        /// The node is going to stop.
        Stopping = 1, "stopping";
        /// The vDisk's file was changed, removed or fails.
        VdiskIneligible = 2, "vdisk_ineligible";
        /// Load is being spread.
        Rebalance = 3, "rebalance";
    }
}

meaning! {
    /// Why a session ends.
    CloseReason = "close_reason" {
        /// The device shuts down or detaches.
        Detached = 1, "detached";
        /// The device goes on at another node.
        Moved = 2, "moved";
        /// The node ended it (administrator, expiry).
        EndedByNode = 3, "ended_by_node";
    }
}

meaning! {
    /// Why a device went to another node, or logged in again at the same one.
    MoveReason = "move_reason" {
        /// It has not moved.
        None = 0, "none";
        /// Probes were not answered.
        NodeSilent = 1, "node_silent";
        /// The node sent a notice.
        Notice = 2, "notice";
        /// The node marked its replies.
        Draining = 3, "draining";
        /// The node did not know the session: it restarted.
        UnknownSession = 4, "unknown_session";
        /// The node ended the session.
        EndedByNode = 5, "ended_by_node";
        /// The node's store failed repeatedly.
        StoreErrors = 6, "store_errors";
        /// The node served another content.
        WrongContent = 7, "wrong_content";
    }
}

meaning! {
    /// What a session is to its device.
    SessionRole = "session_role" {
        /// Reads are asked here.
        Serving = 0, "serving";
        /// Kept warm for a failure of the serving one; no load.
        Standby = 1, "standby";
    }
}

/// Every numbered meaning of the protocol.
pub fn meanings() -> impl Iterator<Item = &'static crate::layout::Meaning> {
    const ALL: &[crate::layout::Meaning] = &[
        LoginKind::MEANING,
        RejectReason::MEANING,
        BusyReason::MEANING,
        ReadErrorCode::MEANING,
        ImageMode::MEANING,
        WriteCacheType::MEANING,
        NoticeReason::MEANING,
        CloseReason::MEANING,
        SessionRole::MEANING,
        MoveReason::MEANING,
    ];
    ALL.iter()
}

/// Abilities that both sides state and of which the common ones hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Zero marks instead of zero bytes.
    pub const ZERO_MARKS: u64 = 1 << 0;
    /// Fragments of 4096 and 8192 bytes where the path carries them.
    pub const JUMBO: u64 = 1 << 1;
    /// `Extents` answers.
    pub const EXTENTS: u64 = 1 << 2;
    /// Room for writes (not yet).
    pub const WRITES: u64 = 1 << 3;
    /// Datagrams are authenticated (not yet).
    pub const AUTHENTICATED: u64 = 1 << 4;
    /// Datagrams are encrypted (not yet).
    pub const ENCRYPTED: u64 = 1 << 5;
    /// A second, warm session may be open at another node.
    pub const STANDBY: u64 = 1 << 6;
    /// What this code can do today.
    pub const OURS: Capabilities =
        Capabilities(Self::ZERO_MARKS | Self::JUMBO | Self::EXTENTS | Self::STANDBY);
    /// Names of the bits, lowest first.
    pub const NAMES: [&'static str; 7] =
        ["zero_marks", "jumbo", "extents", "writes", "authenticated", "encrypted", "standby"];

    /// Whether both sides have all bits of `bits`.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// What both sides have.
    #[must_use]
    pub const fn common(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }
}

impl Field for Capabilities {
    const BYTES: usize = 8;
    const TYPE: &'static str = "capabilities";
    fn load(bytes: &[u8]) -> Self {
        Capabilities(u64::load(bytes))
    }
    fn store(&self, out: &mut [u8]) {
        self.0.store(out);
    }
}
