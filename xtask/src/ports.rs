//! Ports that are free at this moment.
//!
//! A port is found by binding it. Between its release here and its use by the program under test somebody else could take
//! it; that program then says so and the step fails by name. Programs that can take port 0 themselves are given 0.

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::Mutex;

use anyhow::{Context, bail};

/// Ports handed out so far: two programs that start at the same time must not get the same one.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// The first of `count` free UDP ports in a row at every one of `addresses`.
pub fn udp_run(addresses: &[IpAddr], count: u16) -> anyhow::Result<u16> {
    for _ in 0..200 {
        let probe = UdpSocket::bind((addresses[0], 0)).context("looking for a free UDP port")?;
        let first = probe.local_addr()?.port();
        drop(probe);
        let Some(end) = first.checked_add(count) else { continue };
        let free = (first..end)
            .all(|port| addresses.iter().all(|address| UdpSocket::bind((*address, port)).is_ok()));
        if free && give(first, end) {
            return Ok(first);
        }
    }
    bail!("found no {count} free UDP ports in a row")
}

fn give(first: u16, end: u16) -> bool {
    let mut guard = GIVEN.lock().expect("no holder of this lock panics");
    let given = guard.get_or_insert_with(HashSet::new);
    if (first..end).any(|port| given.contains(&port)) {
        return false;
    }
    given.extend(first..end);
    true
}
