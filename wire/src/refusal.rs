//! Why a datagram was refused before anybody looked at what it asks.

/// A reason for which bytes are no message. Each is also a counter of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Fewer bytes arrived than the header has, or the length field names fewer than the message's fixed part.
    TooShort,
    /// The first two bytes are not ours.
    BadMagic,
    /// A protocol version that we do not speak.
    UnsupportedVersion,
    /// A kind that this version does not define.
    UnknownKind,
    /// The length field names fewer bytes than the header has, or more than arrived.
    BadLength,
}

impl Refusal {
    /// Every reason, in the order of their counters.
    pub const ALL: [Refusal; 5] = [
        Refusal::TooShort,
        Refusal::BadMagic,
        Refusal::UnsupportedVersion,
        Refusal::UnknownKind,
        Refusal::BadLength,
    ];

    /// A stable label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::TooShort => "too_short",
            Refusal::BadMagic => "bad_magic",
            Refusal::UnsupportedVersion => "unsupported_version",
            Refusal::UnknownKind => "unknown_kind",
            Refusal::BadLength => "bad_length",
        }
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.label())
    }
}

impl core::error::Error for Refusal {}
