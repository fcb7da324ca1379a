//! Which memory node the arena's pages come from.

use std::io;

/// `MPOL_BIND` of `linux/mempolicy.h`: from these nodes only.
const MPOL_BIND: libc::c_int = 2;
/// Nodes that can be named: `MAX_NUMNODES` of the kernels that there are (`CONFIG_NODES_SHIFT` is at most 10).
const NODES_MAX: u32 = 1024;
const WORD_BITS: u32 = libc::c_ulong::BITS;

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
