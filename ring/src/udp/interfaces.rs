//! Which interfaces this host has, and the addresses on them.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

use crate::net::address::{self, NAME_BYTES};

/// Each address of this network namespace, with its interface's name.
///
/// # Errors
/// When the kernel does not list them.
pub fn interfaces() -> io::Result<Vec<(String, IpAddr)>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `first` is a valid, exclusively borrowed pointer; on success it is a list that we alone own, and free below. The
    // standard library lists no interfaces.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: not null, hence an entry of the list, which lives until it is freed below and which nobody changes.
        let entry = unsafe { &*next };
        // SAFETY: the address of an entry of the list: null, or as long as its family's are, and as long-lived as the entry.
        if let Some(ip) = unsafe { ip_of(entry.ifa_addr) } {
            // SAFETY: each entry has a name that ends with a zero byte, and lives as long as the entry.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found.push((name.to_string_lossy().into_owned(), ip));
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list came from `getifaddrs`, is freed once, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The address of an entry; none for other families.
///
/// # Safety
/// `name` is null, or points to a socket address that is readable during the call, all bytes that its family's addresses have.
unsafe fn ip_of(name: *const libc::sockaddr) -> Option<IpAddr> {
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, hence a socket address, by the caller's promise; every family's begins with these fields.
    let family = unsafe { (*name).sa_family };
    let len = match i32::from(family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => NAME_BYTES,
        _ => return None,
    };
    // SAFETY: an address of that family has that many bytes, readable by the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(name.cast::<u8>(), len) };
    address::parse(bytes).map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there() {
        let found = interfaces().unwrap();
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        if !found.iter().any(|(_, ip)| *ip == local) {
            eprintln!("SKIPPED: this namespace has no loopback address");
            return;
        }
        assert!(found.iter().any(|(name, ip)| name == "lo" && *ip == local), "{found:?}");
    }
}
