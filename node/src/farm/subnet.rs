//! Subnets, for vDisks that keep their devices near.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Whether a vDisk's devices are to be served from their own subnet (the three settings of PVS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Any node will do.
    #[default]
    None,
    /// A node of the device's subnet if one takes it, else any.
    BestEffort,
    /// A node of the device's subnet or none at all; failover too stays inside.
    Fixed,
}

impl Affinity {
    /// As the farm file spells it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Affinity::None => "none",
            Affinity::BestEffort => "best_effort",
            Affinity::Fixed => "fixed",
        }
    }

    /// The meaning of a spelling.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Affinity> {
        [Affinity::None, Affinity::BestEffort, Affinity::Fixed]
            .into_iter()
            .find(|affinity| affinity.label() == label)
    }
}

/// An address range: the addresses whose first bits are a network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    network: IpAddr,
    /// Bits of the network part.
    bits: u8,
}

/// Not a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSubnet {
    /// Not `ADDRESS/BITS`.
    #[error("write NETWORK/BITS such as 10.0.0.0/24 or fd00:1::/64")]
    Shape,
    /// The address has bits outside the network part.
    #[error("the address has bits set behind the first {0}; write the network's own address")]
    HostBits(u8),
}

impl Subnet {
    /// Whether an address lies in it. An IPv4 address that is mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = u32::from(32 - self.bits);
                let (network, address) =
                    (u64::from(network.to_bits()), u64::from(address.to_bits()));
                network >> shift == address >> shift
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = u32::from(128 - self.bits);
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Subnet, BadSubnet> {
        let (network, bits) = text.split_once('/').ok_or(BadSubnet::Shape)?;
        let network: IpAddr = network.parse().map_err(|_| BadSubnet::Shape)?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.parse().ok().filter(|&bits| bits <= most).ok_or(BadSubnet::Shape)?;
        let host_bits = match network {
            IpAddr::V4(v4) => u64::from(v4.to_bits()) & ((1 << (32 - bits)) - 1) != 0,
            IpAddr::V6(v6) => v6.to_bits().checked_shl(u32::from(bits)).unwrap_or(0) != 0,
        };
        if host_bits { Err(BadSubnet::HostBits(bits)) } else { Ok(Subnet { network, bits }) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_begins_alike() {
        let cases = [
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("10.0.0.0/24", "::ffff:10.0.0.9", true),
            ("10.0.0.0/24", "fd00::1", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("10.0.0.7/32", "10.0.0.7", true),
            ("10.0.0.7/32", "10.0.0.6", false),
            ("fd00:1::/64", "fd00:1::dead:beef", true),
            ("fd00:1::/64", "fd00:2::1", false),
            ("::/0", "fd00:2::1", true),
            ("fd00::5/128", "fd00::5", true),
        ];
        for (subnet, address, inside) in cases {
            let subnet: Subnet = subnet.parse().expect(subnet);
            assert_eq!(
                subnet.contains(address.parse().expect(address)),
                inside,
                "{subnet} {address}"
            );
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/24", "::/129", "a/8"] {
            assert_eq!(text.parse::<Subnet>(), Err(BadSubnet::Shape), "{text}");
        }
        assert_eq!("10.0.0.1/24".parse::<Subnet>(), Err(BadSubnet::HostBits(24)));
        assert_eq!("fd00::1/64".parse::<Subnet>(), Err(BadSubnet::HostBits(64)));
    }
}
