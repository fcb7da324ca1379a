//! What a device is told before it starts.

use std::net::SocketAddr;

use diskstream_wire::limits::{READ_BYTES_MAX, UNIT_BYTES};
use diskstream_wire::{FragmentSize, Mac, Nanos, WriteCacheType};

use super::limits::SERVERS_MAX;

/// Settings of a device. Start from [`SessionConfig::new`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Nodes to log in at, in the order in which they are tried; 1 to [`SERVERS_MAX`].
    pub servers: Vec<SocketAddr>,
    /// The device's identity.
    pub mac: Mac,
    /// Proves the device, where the farm demands it.
    pub device_key: Option<[u8; 32]>,
    /// The vDisk wanted; none: the assigned one.
    pub vdisk: Option<String>,
    /// How the device calls itself; up to 32 bytes reach the node.
    pub device_name: String,
    /// Where the device keeps what it writes.
    pub write_cache: WriteCacheType,
    /// Bytes that it may keep there.
    pub write_cache_bytes: u64,
    /// Granted receive buffer of the I/O socket (`SO_RCVBUF` as read back): bounds what may be in flight.
    pub receive_buffer_bytes: u32,
    /// Port of the notice socket; 0: none.
    pub notice_port: u16,
    /// Largest IP packet of the device's link: 1500 usually, 9000 with jumbo frames.
    pub mtu: u16,
    /// Bytes of one request: whole units up to 64 KiB. 32 KiB are 24 fragments, as in PVS.
    pub request_bytes: u32,
    /// How long reads are held while no node answers; none: for ever.
    pub hold_limit: Option<Nanos>,
    /// Name and version of the software, for the node's log.
    pub software: String,
}

impl SessionConfig {
    /// The usual settings: no key, the assigned vDisk, no write cache, a default receive buffer, MTU 1500, held for ever.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, mac: Mac) -> SessionConfig {
        SessionConfig {
            servers,
            mac,
            device_key: None,
            vdisk: None,
            device_name: String::new(),
            write_cache: WriteCacheType::None,
            write_cache_bytes: 0,
            receive_buffer_bytes: 212_992,
            notice_port: 0,
            mtu: 1500,
            request_bytes: 32 * 1024,
            hold_limit: None,
            software: concat!("diskstream-device ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Finds what cannot work, before anything is opened.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.servers.is_empty() || self.servers.len() > SERVERS_MAX {
            return Err(ConfigError::Servers { count: self.servers.len() });
        }
        if let Some(&server) =
            self.servers.iter().find(|s| s.port() == 0 || s.ip().is_unspecified())
        {
            return Err(ConfigError::ServerAddress { server });
        }
        let request = self.request_bytes as usize;
        if request == 0 || !request.is_multiple_of(UNIT_BYTES) || request > READ_BYTES_MAX {
            return Err(ConfigError::RequestBytes { bytes: self.request_bytes });
        }
        if self.mtu < MTU_MIN {
            return Err(ConfigError::Mtu { mtu: self.mtu });
        }
        // The lowest bit of the first byte marks a group's address (IEEE 802).
        if self.mac == Mac::default() || self.mac.0[0] & 1 == 1 {
            return Err(ConfigError::Mac);
        }
        Ok(())
    }

    /// The largest UDP payload that the device's own link carries towards this peer.
    #[must_use]
    pub fn datagram_bytes(&self, peer: SocketAddr) -> u16 {
        let headers = if peer.is_ipv4() { 20 + 8 } else { 40 + 8 };
        self.mtu.saturating_sub(headers)
    }
}

/// The smallest link that carries 1024-byte fragments over IPv6.
pub const MTU_MIN: u16 = 1280;
const _: () = assert!(FragmentSize::B1024.datagram_bytes() + 48 <= MTU_MIN as usize);

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too few or too many.
    #[error("{count} servers are named; name 1 to {SERVERS_MAX}, as ADDRESS:PORT")]
    Servers {
        /// How many.
        count: usize,
    },
    /// No usable address.
    #[error(
        "server {server} has no address or no port; a node's login port is 6910 unless it was changed"
    )]
    ServerAddress {
        /// The server.
        server: SocketAddr,
    },
    /// Not whole units, or too many.
    #[error("requests of {bytes} bytes are not whole units of {UNIT_BYTES} up to {READ_BYTES_MAX}")]
    RequestBytes {
        /// The setting.
        bytes: u32,
    },
    /// Too small.
    #[error("an MTU of {mtu} carries no fragment; the least is {MTU_MIN}")]
    Mtu {
        /// The setting.
        mtu: u16,
    },
    /// All zeros, or a group's address.
    #[error(
        "the MAC address is all zeros or a group's; a device is known by a MAC of its own, such as 52:54:00:12:34:56"
    )]
    Mac,
}
