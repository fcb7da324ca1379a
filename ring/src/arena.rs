//! One mapping of memory, shared by all threads and registered with every ring; bytes are named by their offset.
//!
//! The arena is a bag of bytes: it does not know who uses which part. Whoever hands out frames (the block cache) decides
//! that, and vouches for it at the two unsafe accessors. Disk reads write into it and sends read from it by offset,
//! without a reference ever existing.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

mod donor;
mod headers;
mod host;
mod numa;

pub use headers::{AREA_BYTES, AREAS_MAX};

/// The largest range that can be one registered buffer (measured on Linux 6.18: 1 GiB is taken, 4 KiB more is `EFAULT`).
/// The arena is registered in pieces of this size, cut at multiples of it.
pub const PIECE_BYTES: usize = 1 << 30;

const PAGE_BYTES: usize = 4096;
const TWO_MIB: usize = 2 << 20;
const ONE_GIB: usize = 1 << 30;

/// Which pages to back the arena with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The largest reserved huge pages that fit (1 GiB only for whole GiBs), else transparent ones, else plain pages.
    #[default]
    Auto,
    /// Reserved 2 MiB pages, else as `Auto`.
    TwoMiB,
    /// Reserved 1 GiB pages (the size is rounded up to whole GiBs), else as `Auto`.
    OneGiB,
    /// Plain 4 KiB pages.
    Off,
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HugePages::Auto => "auto",
            HugePages::TwoMiB => "2M",
            HugePages::OneGiB => "1G",
            HugePages::Off => "off",
        })
    }
}

/// The text is not one of `auto`, `2M`, `1G`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("huge pages are one of: auto, 2M, 1G, off")]
pub struct UnknownHugePages;

impl FromStr for HugePages {
    type Err = UnknownHugePages;
    fn from_str(text: &str) -> Result<HugePages, UnknownHugePages> {
        match text {
            "auto" => Ok(HugePages::Auto),
            "2M" => Ok(HugePages::TwoMiB),
            "1G" => Ok(HugePages::OneGiB),
            "off" => Ok(HugePages::Off),
            _ => Err(UnknownHugePages),
        }
    }
}

/// Which pages back the arena. The value is the gauge: larger is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Backing {
    /// 4 KiB pages.
    Plain = 0,
    /// 4 KiB pages that the kernel joins to 2 MiB ones where it can.
    Transparent = 1,
    /// Reserved 2 MiB pages.
    TwoMiB = 2,
    /// Reserved 1 GiB pages.
    OneGiB = 3,
}

impl Backing {
    /// The value of the gauge: 0 plain, 1 transparent, 2 for 2 MiB, 3 for 1 GiB.
    #[must_use]
    pub const fn gauge(self) -> u64 {
        self as u64
    }

    fn page_bytes(self) -> usize {
        match self {
            Backing::Plain | Backing::Transparent => PAGE_BYTES,
            Backing::TwoMiB => TWO_MIB,
            Backing::OneGiB => ONE_GIB,
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backing::Plain => "plain pages",
            Backing::Transparent => "transparent huge pages",
            Backing::TwoMiB => "2 MiB huge pages",
            Backing::OneGiB => "1 GiB huge pages",
        })
    }
}

/// Size and pages of an arena.
#[derive(Clone, Copy, Debug)]
pub struct ArenaConfig {
    /// Bytes wanted; rounded up to whole pages of the backing asked for.
    pub bytes: usize,
    /// Which pages to try first.
    pub huge_pages: HugePages,
}

/// Why there is no arena. Falling back to smaller pages is not an error.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// An arena of no bytes.
    #[error("an arena needs at least one byte; give the cache a size")]
    Empty,
    /// More than the address space holds.
    #[error(
        "an arena of {bytes} bytes does not fit the address space; give the cache a smaller size"
    )]
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
    },
    /// More than the host can spare. Touching it would end in the kernel killing processes.
    #[error(
        "an arena of {bytes} bytes is more than the {available_bytes} bytes available on this host (MemAvailable); \
             give the cache a smaller size, or stop other programs"
    )]
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What `/proc/meminfo` calls available.
        available_bytes: usize,
    },
    /// More than the memory node that was asked for can spare; the kernel would kill processes rather than use another node's.
    #[error(
        "an arena of {bytes} bytes is more than the {available_bytes} bytes available on memory node {node} (see numactl -H); \
             give the cache a smaller size, choose another node (--numa-node), or stop other programs"
    )]
    NoNodeMemory {
        /// Bytes asked for.
        bytes: usize,
        /// The node.
        node: u32,
        /// What it can give, by its `meminfo`.
        available_bytes: usize,
    },
    /// The kernel refused even plain pages.
    #[error(
        "cannot map an arena of {bytes} bytes ({available_bytes} available): {source}; \
             see ulimit -v, the cgroup's memory.max and vm.overcommit_memory, or give the cache a smaller size"
    )]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// What `/proc/meminfo` calls available; 0 when unknown.
        available_bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The shared memory. Threads share it in an `Arc`; each ring keeps one as long as the kernel may use it.
#[derive(Debug)]
pub struct Arena {
    /// The registration that rings clone; ahead of the mapping, so that it ends first.
    donor: donor::Donor,
    map: MmapRaw,
    len: usize,
    backing: Backing,
    headers: headers::Headers,
    node: Option<u32>,
}

impl Arena {
    /// Maps and touches the memory, so that no page fault happens later.
    ///
    /// Falls back from 1 GiB to 2 MiB huge pages, to transparent ones, to plain ones, with one warning that names what
    /// was asked, what is free and the remedy.
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn new(config: &ArenaConfig) -> Result<Arena, ArenaError> {
        Arena::with_headers(config, 0)
    }

    /// The same, with room for the headers of as many rings' sends without a copy: [`Arena::is_reserved`] tells where, and the
    /// rest is for blocks. A piece that is too short for that gives no room, and sends from it are copied.
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn with_headers(config: &ArenaConfig, rings: u16) -> Result<Arena, ArenaError> {
        Arena::on_node(config, rings, None)
    }

    /// The same, from the memory of one NUMA node. Where the kernel does not bind memory, that is a warning, and the kernel chooses;
    /// where the node has not enough, smaller pages are tried, and then it is an error.
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn on_node(
        config: &ArenaConfig,
        rings: u16,
        node: Option<u32>,
    ) -> Result<Arena, ArenaError> {
        Arena::told_of_nodes(config, rings, node, Path::new(host::NODES))
    }

    /// The same, where `nodes` is the folder that tells of the host's memory nodes.
    fn told_of_nodes(
        config: &ArenaConfig,
        rings: u16,
        node: Option<u32>,
        nodes: &Path,
    ) -> Result<Arena, ArenaError> {
        let bytes = config.bytes;
        let node = node.map(|node| (nodes, node));
        if bytes == 0 {
            return Err(ArenaError::Empty);
        }
        let mut first_failure = None;
        for backing in candidates(config.huge_pages, bytes) {
            let len = rounded(bytes, backing).ok_or(ArenaError::TooLarge { bytes })?;
            match map(len, backing, node) {
                Ok((map, bound)) => {
                    report(config, backing, first_failure.as_ref(), node);
                    return Ok(Arena {
                        donor: donor::Donor::default(),
                        map,
                        len,
                        backing,
                        headers: headers::Headers::new(rings),
                        node: bound,
                    });
                }
                Err(error) if backing == Backing::Plain => return Err(give_up(bytes, error)),
                Err(error) => first_failure = first_failure.or(Some((backing, error))),
            }
        }
        unreachable!("the candidates end with plain pages, which return above")
    }

    /// Bytes; at least as many as asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: there is no empty arena.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which pages it got.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// True when `offset..offset + len` touches what rings keep for headers: nothing else may be put there.
    #[must_use]
    pub fn is_reserved(&self, offset: usize, len: usize) -> bool {
        let (first, last) = (offset / PIECE_BYTES, (offset + len.max(1) - 1) / PIECE_BYTES);
        (first..=last).any(|piece| {
            let reserved = self.headers.reserved(self.len, piece);
            offset < reserved.end && reserved.start < offset + len
        })
    }

    /// A header area for a ring, until it is [given back](Arena::release_area).
    pub(crate) fn claim_area(&self) -> Option<u16> {
        self.headers.claim()
    }

    pub(crate) fn release_area(&self, area: u16) {
        self.headers.release(area);
    }

    /// Where an area begins in a piece; `None` where that piece has none.
    pub(crate) fn area(&self, piece: usize, area: u16) -> Option<usize> {
        self.headers.area(self.len, piece, area)
    }

    /// Pages that lie together: a range that stays in one of them is one fragment of a datagram.
    pub(crate) fn page_bytes(&self) -> usize {
        self.backing.page_bytes()
    }

    /// The NUMA node that its memory is bound to.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        self.node
    }

    /// Bytes `offset..offset + len`.
    ///
    /// # Panics
    /// When the range is not inside the arena.
    ///
    /// # Safety
    /// For the lifetime of the result nothing may write to the range: no [`Arena::bytes_mut`] overlaps it, and no
    /// [`crate::ReadPlan`] that names any of it is in flight or gets submitted; and none of it is
    /// [reserved](Arena::is_reserved), for rings write there at any time. A pin on a published cache frame is exactly that promise.
    #[must_use]
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.address(offset, len);
        // SAFETY: `address` asserted that the range is inside the mapping, which lives as long as `self`, is readable,
        // and was zeroed by the kernel, hence initialized. The caller promises that nothing writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Bytes `offset..offset + len`, to be written.
    ///
    /// # Panics
    /// When the range is not inside the arena.
    ///
    /// # Safety
    /// For the lifetime of the result nothing else may touch the range: no other reference from this arena overlaps
    /// it, no [`crate::ReadPlan`] or [`crate::SendPlan`] that names any of it is in flight or gets submitted, and none of it
    /// is [reserved](Arena::is_reserved). Owning a frame that is not published yet, outside its disk read, is exactly that promise.
    #[must_use]
    #[expect(clippy::mut_from_ref, reason = "the caller's promise replaces the borrow; see Safety")]
    pub unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        let start = self.address(offset, len);
        // SAFETY: as in `bytes`; the mapping is writable, and the caller promises that the range is exclusively its own.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Where the kernel finds `offset..offset + len`.
    ///
    /// # Panics
    /// When the range is not inside the arena.
    pub(crate) fn address(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            self.holds(offset, len),
            "range {offset}+{len} is outside the arena of {} bytes",
            self.len
        );
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    /// True when `offset..offset + len` is inside the arena.
    pub(crate) fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Registers the arena with a ring, as buffers 0, 1, … of one piece each.
    ///
    /// # Safety
    /// The arena must outlive every operation of that ring.
    pub(crate) unsafe fn register_with(&self, ring: &io_uring::Submitter<'_>) -> io::Result<()> {
        if self.donor.lend(self, ring) {
            return Ok(());
        }
        let pieces: Vec<_> = self.pieces().collect();
        // SAFETY: the pieces are inside the mapping, which the caller keeps for as long as the ring has operations; the
        // kernel pins its pages besides.
        unsafe { ring.register_buffers(&pieces) }
    }

    /// The ranges to register as fixed buffers: piece `i` begins at `i * PIECE_BYTES`.
    fn pieces(&self) -> impl ExactSizeIterator<Item = libc::iovec> {
        (0..self.len.div_ceil(PIECE_BYTES)).map(|piece| {
            let offset = piece * PIECE_BYTES;
            let len = PIECE_BYTES.min(self.len - offset);
            libc::iovec { iov_base: self.address(offset, len).cast(), iov_len: len }
        })
    }
}

/// What to try, best first; always ends with plain pages.
fn candidates(wanted: HugePages, bytes: usize) -> impl Iterator<Item = Backing> {
    let first = match wanted {
        HugePages::OneGiB => 0,
        HugePages::Auto if bytes.is_multiple_of(ONE_GIB) => 0,
        HugePages::Auto | HugePages::TwoMiB => 1,
        HugePages::Off => 3,
    };
    [Backing::OneGiB, Backing::TwoMiB, Backing::Transparent, Backing::Plain].into_iter().skip(first)
}

fn rounded(bytes: usize, backing: Backing) -> Option<usize> {
    // Slices cannot be longer than isize::MAX.
    bytes.checked_next_multiple_of(backing.page_bytes()).filter(|len| isize::try_from(*len).is_ok())
}

/// The mapping, and the node that it is bound to.
fn map(
    len: usize,
    backing: Backing,
    node: Option<(&Path, u32)>,
) -> io::Result<(MmapRaw, Option<u32>)> {
    let huge = match backing {
        Backing::OneGiB => Some(30),
        Backing::TwoMiB => Some(21),
        Backing::Transparent if !host::transparent_huge_pages() => {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Backing::Transparent | Backing::Plain => None,
    };
    if huge.is_none() && host::available_bytes().is_some_and(|available| len > available) {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    let map: MmapMut = match huge {
        Some(bits) => MmapOptions::new().len(len).huge(Some(bits)).map_anon()?,
        None => MmapOptions::new().len(len).map_anon()?,
    };
    let map = MmapRaw::from(map);
    if backing == Backing::Transparent {
        map.advise(Advice::HugePage)?;
    }
    // Before the first touch, which is when pages are taken.
    let bound = node.filter(|&(_, node)| match numa::bind(map.as_mut_ptr(), len, node) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(node, %error, "the kernel does not bind memory to this node; it chooses itself");
            false
        }
    });
    if let Some((nodes, node)) = bound {
        numa::check_room(nodes, node, len, huge.map(|_| backing.page_bytes()))?;
    }
    // Unlike MAP_POPULATE this says when pages are missing, instead of a signal at the first touch. Linux 5.14.
    match map.advise(Advice::PopulateWrite) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        other => other?,
    }
    Ok((map, bound.map(|(_, node)| node)))
}

fn give_up(bytes: usize, source: io::Error) -> ArenaError {
    if let Some(short) = source.get_ref().and_then(|e| e.downcast_ref::<numa::Shortage>()) {
        let numa::Shortage { node, available_bytes } = *short;
        return ArenaError::NoNodeMemory { bytes, node, available_bytes };
    }
    let available_bytes = host::available_bytes();
    match available_bytes {
        Some(available_bytes) if available_bytes < bytes => {
            ArenaError::NoMemory { bytes, available_bytes }
        }
        _ => ArenaError::Map { bytes, available_bytes: available_bytes.unwrap_or(0), source },
    }
}

fn report(
    config: &ArenaConfig,
    got: Backing,
    failure: Option<&(Backing, io::Error)>,
    node: Option<(&Path, u32)>,
) {
    let bytes = config.bytes;
    let Some((wanted, error)) = failure else {
        tracing::info!(bytes, backing = %got, "arena mapped");
        return;
    };
    let free = host::free_huge_pages(wanted.page_bytes(), node);
    tracing::warn!(
        bytes,
        asked = %config.huge_pages,
        backing = %got,
        "no arena of {wanted} ({error}; {free} such pages are free, {needed} needed), using {got}; \
         remedy: echo {needed} > {folder}/nr_hugepages, best at boot",
        needed = bytes.div_ceil(wanted.page_bytes()),
        folder = host::huge_pages_folder(wanted.page_bytes(), node).display(),
    );
}

#[cfg(test)]
mod tests;
