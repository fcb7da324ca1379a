//! Who is who: addresses, names and MACs of a world's hosts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use diskstream_wire::Mac;

/// Login port of every node; its shards follow.
pub const LOGIN_PORT: u16 = 6910;
/// Port towards other nodes.
pub const PEER_PORT: u16 = 6890;

/// The address of a node.
#[must_use]
pub fn node_ip(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, u8::try_from(node).expect("few nodes"), 1))
}

/// Where a node answers logins: its identity in lists.
#[must_use]
pub fn node_login(node: usize) -> SocketAddr {
    SocketAddr::new(node_ip(node), LOGIN_PORT)
}

/// The node with this address.
#[must_use]
pub fn node_at(ip: IpAddr) -> Option<usize> {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 0, node, 1] => Some(usize::from(node)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// The name of a node in the farm's file.
#[must_use]
pub fn node_name(node: usize) -> String {
    format!("n{node}")
}

fn octets(device: usize) -> [u8; 2] {
    u16::try_from(device + 1).expect("fewer devices than addresses").to_be_bytes()
}

/// The address of a device.
#[must_use]
pub fn device_ip(device: usize) -> IpAddr {
    let [high, low] = octets(device);
    IpAddr::V4(Ipv4Addr::new(10, 1, high, low))
}

/// The address that a device has after its own was changed.
#[must_use]
pub fn device_ip_changed(device: usize) -> IpAddr {
    let [high, low] = octets(device);
    IpAddr::V4(Ipv4Addr::new(10, 2, high, low))
}

/// The device that has, or had, this address.
#[must_use]
pub fn device_at(ip: IpAddr) -> Option<usize> {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 1 | 2, high, low] => usize::from(u16::from_be_bytes([high, low])).checked_sub(1),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// The MAC of a device.
#[must_use]
pub fn device_mac(device: usize) -> Mac {
    let [high, low] = octets(device);
    Mac([0x52, 0x54, 0, 0, high, low])
}

/// The name of a vDisk in the farm's file.
#[must_use]
pub fn vdisk_name(vdisk: usize) -> String {
    format!("disk{vdisk}")
}
