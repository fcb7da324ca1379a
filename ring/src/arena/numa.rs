//! Which memory node the arena's pages come from.

use std::io;
use std::path::Path;

use super::host;

/// `MPOL_BIND` of `linux/mempolicy.h`: from these nodes only.
const MPOL_BIND: libc::c_int = 2;
/// Nodes that can be named: `MAX_NUMNODES` of the kernels that there are (`CONFIG_NODES_SHIFT` is at most 10).
const NODES_MAX: u32 = 1024;
const WORD_BITS: u32 = libc::c_ulong::BITS;

/// A node has less memory than is to come from it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("memory node {node} has {available_bytes} bytes of such pages available")]
pub(super) struct Shortage {
    pub(super) node: u32,
    pub(super) available_bytes: usize,
}

/// Whether a node has `len` bytes, in huge pages of a size or in small ones; to ask before they are touched.
///
/// Pages of a bound range come from no other node, and when this one has run out of small ones the kernel kills processes, this one
/// first: an error is wanted instead. Where the kernel does not tell, there is nothing to compare.
///
/// # Errors
/// [`Shortage`].
pub(super) fn check_room(
    nodes: &Path,
    node: u32,
    len: usize,
    page_bytes: Option<usize>,
) -> io::Result<()> {
    let available_bytes = match page_bytes {
        Some(bytes) => {
            Some(host::free_huge_pages(bytes, Some((nodes, node))).saturating_mul(bytes))
        }
        None => host::node_available_bytes(nodes, node),
    };
    match available_bytes {
        Some(available_bytes) if available_bytes < len => {
            Err(io::Error::new(io::ErrorKind::OutOfMemory, Shortage { node, available_bytes }))
        }
        _ => Ok(()),
    }
}

/// Has all pages of a range that are not there yet come from one node.
///
/// Bound and not preferred: pages of another node would be a silent fall-back.
///
/// # Errors
/// `EINVAL` when there is no such node or it has no memory; `ENOSYS` without NUMA in the kernel; `EPERM` in a sandbox.
pub(super) fn bind(start: *mut u8, len: usize, node: u32) -> io::Result<()> {
    if node >= NODES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut mask = [0 as libc::c_ulong; (NODES_MAX / WORD_BITS) as usize];
    mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
    // SAFETY: mbind(2) changes where pages of the range are taken from, never what is in them, and reads NODES_MAX bits of a mask that
    // outlives the call. (The kernel counts one bit less than it is told, hence the 1.) A range that is no mapping is an error.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start,
            len,
            MPOL_BIND,
            mask.as_ptr(),
            libc::c_ulong::from(NODES_MAX + 1),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
