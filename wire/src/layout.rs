//! One table per message: `field: type @ offset`, from which come the struct, its codec and its documentation.
//!
//! The offset is written down so that the table reads like a page of the specification, and is checked at compile time:
//! fields follow each other without gaps, and the last one ends at the stated size.

/// A type of fixed size on the wire.
pub trait Field: Copy {
    /// Bytes on the wire.
    const BYTES: usize;
    /// Name in documents, e.g. `u32`.
    const TYPE: &'static str;
    /// Reads the value from exactly [`Field::BYTES`] bytes. Any bytes give a value.
    fn load(bytes: &[u8]) -> Self;
    /// Writes the value into exactly [`Field::BYTES`] bytes.
    fn store(&self, out: &mut [u8]);
}

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Device to node.
    ToNode,
    /// Node to device.
    ToDevice,
    /// Part of other messages, or of sealed data.
    Inside,
    /// Node to node.
    BetweenNodes,
}

/// One field of a table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Field name.
    pub name: &'static str,
    /// Type name on the wire.
    pub ty: &'static str,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
    /// What it means, with unit and range.
    pub doc: &'static str,
}

/// A message or record as data: for `docs/protocol.md` and the dissector.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name of the message.
    pub name: &'static str,
    /// Kind byte; none for records that travel inside messages.
    pub kind: Option<u8>,
    /// Who sends it.
    pub direction: Direction,
    /// Bytes of the fixed part.
    pub bytes: usize,
    /// What it is for (the lines of its documentation).
    pub doc: &'static str,
    /// Its fields, in order.
    pub rows: &'static [Row],
}

/// A numbered meaning as data: for `docs/protocol.md` and the dissector.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// Type name on the wire, as in [`Row::ty`].
    pub ty: &'static str,
    /// What it says.
    pub doc: &'static str,
    /// Number, label and explanation of each known value.
    pub values: &'static [(u8, &'static str, &'static str)],
}

macro_rules! integer_field {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            const BYTES: usize = core::mem::size_of::<$ty>();
            const TYPE: &'static str = stringify!($ty);
            #[inline]
            fn load(bytes: &[u8]) -> Self {
                let mut raw = [0u8; core::mem::size_of::<$ty>()];
                raw.copy_from_slice(bytes);
                <$ty>::from_be_bytes(raw)
            }
            #[inline]
            fn store(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_be_bytes());
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

impl<const N: usize> Field for [u8; N] {
    const BYTES: usize = N;
    const TYPE: &'static str = "bytes";
    #[inline]
    fn load(bytes: &[u8]) -> Self {
        let mut raw = [0u8; N];
        raw.copy_from_slice(bytes);
        raw
    }
    #[inline]
    fn store(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
}

/// Declares a message: a header of [`crate::HEADER_BYTES`] and the listed fields. `flags` and `tag` of the header are fields of the struct.
macro_rules! message {
    (
        $(#[doc = $doc:literal])+
        $name:ident = $kind:literal, $direction:ident, bytes $bytes:literal {
            $( $(#[doc = $field_doc:literal])+ $field:ident : $ty:ty = $type_name:literal @ $offset:literal, )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// Marks of the header.
            pub flags: $crate::header::Flags,
            /// Session tag, or transaction number before there is a session.
            pub tag: u64,
            $( $(#[doc = $field_doc])+ pub $field: $ty, )*
        }

        impl $name {
            /// Bytes of header and fixed part.
            pub const BYTES: usize = $bytes;
            /// The kind byte.
            pub const KIND: u8 = $kind;
            /// The layout as data.
            pub const TABLE: $crate::layout::Table = $crate::layout::Table {
                name: stringify!($name),
                kind: Some($kind),
                direction: $crate::layout::Direction::$direction,
                bytes: $bytes,
                doc: concat!($($doc, "\n"),+),
                rows: &[ $( $crate::layout::Row {
                    name: stringify!($field),
                    ty: $type_name,
                    offset: $offset,
                    bytes: <$ty as $crate::layout::Field>::BYTES,
                    doc: concat!($($field_doc, "\n"),+),
                }, )* ],
            };

            /// Writes header and fixed part; gives the bytes written, [`Self::BYTES`].
            ///
            /// # Panics
            /// When `out` is shorter than [`Self::BYTES`].
            #[inline]
            pub fn encode(&self, out: &mut [u8]) -> usize {
                self.encode_with_tail(&[], out)
            }

            /// Writes header, fixed part and tail; gives the bytes written.
            ///
            /// # Panics
            /// When `out` is too short.
            #[inline]
            pub fn encode_with_tail(&self, tail: &[u8], out: &mut [u8]) -> usize {
                let length = $bytes + tail.len();
                let out = &mut out[..length];
                self.encode_head(length, out);
                out[$bytes..].copy_from_slice(tail);
                length
            }

            /// Writes header and fixed part for a datagram whose tail of `length − BYTES` bytes is sent from elsewhere.
            ///
            /// # Panics
            /// When `out` is shorter than [`Self::BYTES`].
            #[inline]
            pub fn encode_head(&self, length: usize, out: &mut [u8]) {
                let out = &mut out[..$bytes];
                $crate::header::Header::store($kind, self.flags, length, self.tag, out);
                $( $crate::layout::Field::store(&self.$field,
                    &mut out[$offset..$offset + <$ty as $crate::layout::Field>::BYTES]); )*
            }

            /// Reads the message and its tail from a whole datagram.
            ///
            /// # Errors
            /// The reason why these bytes are not this message.
            #[inline]
            pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), $crate::Refusal> {
                let header = $crate::header::Header::load(bytes)?;
                if header.kind != $kind {
                    return Err($crate::Refusal::UnknownKind);
                }
                Self::load(&header, bytes)
            }

            #[inline]
            pub(crate) fn load<'a>(header: &$crate::header::Header, bytes: &'a [u8]) -> Result<(Self, &'a [u8]), $crate::Refusal> {
                let body = &bytes[..header.length];
                let Some((fixed, tail)) = body.split_first_chunk::<$bytes>() else {
                    return Err($crate::Refusal::TooShort);
                };
                Ok((Self {
                    flags: header.flags,
                    tag: header.tag,
                    $( $field: <$ty as $crate::layout::Field>::load(
                        &fixed[$offset..$offset + <$ty as $crate::layout::Field>::BYTES]), )*
                }, tail))
            }
        }

        const _: () = {
            let at = $crate::header::HEADER_BYTES;
            $( assert!(at == $offset, "fields follow each other without gaps");
               let at = at + <$ty as $crate::layout::Field>::BYTES; )*
            assert!(at == $bytes, "the last field ends at the stated size");
        };
    };
}

/// Declares a record without a header, which travels inside messages or sealed data.
macro_rules! record {
    (
        $(#[doc = $doc:literal])+
        $name:ident, bytes $bytes:literal {
            $( $(#[doc = $field_doc:literal])+ $field:ident : $ty:ty = $type_name:literal @ $offset:literal, )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $ty, )*
        }

        impl $name {
            /// Bytes of the record.
            pub const BYTES: usize = $bytes;
            /// The layout as data.
            pub const TABLE: $crate::layout::Table = $crate::layout::Table {
                name: stringify!($name),
                kind: None,
                direction: $crate::layout::Direction::Inside,
                bytes: $bytes,
                doc: concat!($($doc, "\n"),+),
                rows: &[ $( $crate::layout::Row {
                    name: stringify!($field),
                    ty: $type_name,
                    offset: $offset,
                    bytes: <$ty as $crate::layout::Field>::BYTES,
                    doc: concat!($($field_doc, "\n"),+),
                }, )* ],
            };

            /// Writes the record into its exact number of bytes.
            ///
            /// # Panics
            /// When `out` is shorter than [`Self::BYTES`].
            pub fn encode(&self, out: &mut [u8]) {
                $( $crate::layout::Field::store(&self.$field,
                    &mut out[$offset..$offset + <$ty as $crate::layout::Field>::BYTES]); )*
            }

            /// Reads the record and gives what follows it; none when there are too few bytes.
            #[must_use]
            pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
                let (fixed, rest) = bytes.split_first_chunk::<$bytes>()?;
                Some((Self {
                    $( $field: <$ty as $crate::layout::Field>::load(
                        &fixed[$offset..$offset + <$ty as $crate::layout::Field>::BYTES]), )*
                }, rest))
            }
        }

        const _: () = {
            let at = 0;
            $( assert!(at == $offset, "fields follow each other without gaps");
               let at = at + <$ty as $crate::layout::Field>::BYTES; )*
            assert!(at == $bytes, "the last field ends at the stated size");
        };
    };
}

pub(crate) use message;
pub(crate) use record;
