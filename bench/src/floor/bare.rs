//! What the bare responder and its clients say to each other: nothing but what a read needs.
//!
//! ```text
//! request   tag:4  length:4  offset:8
//! reply     tag:4  number:4  length:4  zero:4  data…      one datagram of at most `payload` bytes; `number` counts them
//! ```
//!
//! Numbers are little-endian. There is no session, no check sum and no window: whatever they cost is what the node is compared for.

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 16;
/// Bytes before the data of a reply.
pub const HEADER_BYTES: usize = 16;
/// Bytes of one read at most.
pub const READ_BYTES_MAX: u32 = 1 << 20;

/// A read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back with each reply.
    pub tag: u32,
    /// Bytes wanted.
    pub length: u32,
    /// First byte in the image.
    pub offset: u64,
}

impl Request {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&self.tag.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Reads one; none when the bytes are no request.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        let (numbers, offset) = bytes.split_at(8);
        let [tag, length] = [word(numbers, 0)?, word(numbers, 4)?];
        Some(Request { tag, length, offset: u64::from_le_bytes(offset.try_into().ok()?) })
    }

    /// Whether it asks for something that is there.
    #[must_use]
    pub fn is_within(&self, image_bytes: u64) -> bool {
        (1..=READ_BYTES_MAX).contains(&self.length)
            && self.offset.checked_add(self.length.into()).is_some_and(|end| end <= image_bytes)
    }
}

/// What stands before the data of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The request's.
    pub tag: u32,
    /// Which of the read's datagrams, from 0.
    pub number: u32,
    /// Bytes of the whole read.
    pub length: u32,
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.tag.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The header of a reply and its data; none when the datagram is too short.
    #[must_use]
    pub fn split(datagram: &[u8]) -> Option<(Header, &[u8])> {
        let (header, data) = datagram.split_at_checked(HEADER_BYTES)?;
        let header =
            Header { tag: word(header, 0)?, number: word(header, 4)?, length: word(header, 8)? };
        Some((header, data))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// How a read is cut into datagrams and sends.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Bytes of a datagram.
    pub payload: usize,
    /// Data bytes in each.
    pub data: usize,
    /// Datagrams of one send at most.
    pub segments: usize,
}

impl Cut {
    /// For datagrams of so many bytes: as many to a send as the kernel takes (64 segments, and 65,000 bytes, as the C program
    /// has it that this stands for).
    ///
    /// # Panics
    /// When a datagram has no room for data.
    #[must_use]
    pub fn new(payload: usize) -> Cut {
        assert!(payload > HEADER_BYTES, "a datagram of {payload} bytes has no room for data");
        Cut { payload, data: payload - HEADER_BYTES, segments: (65_000 / payload).clamp(1, 64) }
    }

    /// Datagrams of a read of so many bytes.
    #[must_use]
    pub fn datagrams(&self, length: usize) -> usize {
        length.div_ceil(self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_lie_as_the_page_says() {
        let request = Request { tag: 0x0403_0201, length: 4096, offset: 0x1_0000_2000 };
        assert_eq!(request.bytes(), [1, 2, 3, 4, 0, 16, 0, 0, 0, 32, 0, 0, 1, 0, 0, 0]);
        assert_eq!(Request::parse(&request.bytes()), Some(request));
        let header = Header { tag: 7, number: 2, length: 4096 };
        let mut datagram = header.bytes().to_vec();
        datagram.extend([9, 9]);
        assert_eq!(Header::split(&datagram), Some((header, &[9u8, 9][..])));
        for length in 0..REQUEST_BYTES {
            assert_eq!(Request::parse(&request.bytes()[..length]), None);
            assert_eq!(Header::split(&datagram[..length]), None);
        }
    }

    #[test]
    fn what_is_not_there_is_not_answered() {
        let request = |length, offset| Request { tag: 0, length, offset };
        assert!(request(4096, 4096).is_within(8192));
        for bad in [request(0, 0), request(4096, 4097), request(1, u64::MAX)] {
            assert!(!bad.is_within(8192), "{bad:?}");
        }
        assert!(request(READ_BYTES_MAX, 0).is_within(8 << 20));
        assert!(!request(READ_BYTES_MAX + 1, 0).is_within(8 << 20), "no read is so long");
    }

    #[test]
    fn reads_are_cut_as_the_kernel_takes_them() {
        let cut = Cut::new(1472);
        assert_eq!((cut.data, cut.segments, cut.datagrams(4096)), (1456, 44, 3));
        assert_eq!(Cut::new(8900).segments, 7);
    }
}
