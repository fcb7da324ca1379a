//! What this kernel offers, probed once. Everything here has a slower twin, so nothing is required but `io_uring`.
//!
//! | feature | Linux | without it |
//! |---|---|---|
//! | `gso` | 4.18 | one `sendmsg` for each segment |
//! | `gro` | 5.0 | every datagram is received alone |
//! | `buffer_ring` | 5.19 | each receive names its own buffer |
//! | `multishot_receive` | 6.0 | several single receives are kept armed |
//! | `registered_buffers` | 5.1 | reads name plain memory, pinned anew for each |
//! | `registered_files` | 5.19 (sparse) | operations name plain descriptors |
//! | `defer_taskrun` | 6.1 | completions interrupt the thread |
//! | `msg_ring` | 5.18 | other rings are woken by an eventfd |
//! | `zero_copy_send` | 6.15 | sends are copied |
//!
//! `DISKSTREAM_RING_WITHOUT=gso,gro` (any names of the table, or `all`) switches features off for a whole process, to
//! exercise the twins; [`crate::RingConfig::permit`] does it for one ring.

use std::os::fd::AsFd;
use std::sync::OnceLock;

use io_uring::{IoUring, Probe, opcode};
use socket2::{Domain, Protocol, Socket, Type};

use crate::udp::sys;

/// The variable that switches features off.
pub const ENVIRONMENT: &str = "DISKSTREAM_RING_WITHOUT";

macro_rules! features {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One flag for each feature.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Features {
            $($(#[doc = $doc])+ pub $name: bool,)+
        }

        impl Features {
            /// Everything.
            pub const ALL: Features = Features { $($name: true,)+ };
            /// Nothing: every twin.
            pub const NONE: Features = Features { $($name: false,)+ };

            /// What both have.
            #[must_use]
            pub const fn and(self, other: Features) -> Features {
                Features { $($name: self.$name && other.$name,)+ }
            }

            /// Each feature: name, help, whether it is there. For gauges.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
                [$((stringify!($name), concat!($($doc,)+), self.$name),)+].into_iter()
            }

            /// Everything but the named ones, separated by commas; `all` names each.
            ///
            /// # Errors
            /// The first name that is no feature.
            pub fn without(names: &str) -> Result<Features, UnknownFeature> {
                let mut features = Features::ALL;
                for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                    match name {
                        "all" => features = Features::NONE,
                        $(stringify!($name) => features.$name = false,)+
                        _ => return Err(UnknownFeature { name: name.to_owned() }),
                    }
                }
                Ok(features)
            }
        }
    };
}

features! {
    /// One send is cut to many datagrams by the kernel or the card (`UDP_SEGMENT`).
    gso,
    /// Datagrams of one sender are received joined (`UDP_GRO`).
    gro,
    /// One armed receive delivers many datagrams.
    multishot_receive,
    /// The kernel picks receive buffers from a shared ring.
    buffer_ring,
    /// The arena is pinned once, not for each read.
    registered_buffers,
    /// Sockets and files are looked up once, not for each operation.
    registered_files,
    /// Completions are gathered when the thread asks for them.
    defer_taskrun,
    /// Rings wake each other without a system call of their own.
    msg_ring,
    /// Sends can leave straight from the registered arena (`SENDMSG_ZC`).
    zero_copy_send,
    /// Disk reads bypass the page cache. Of a ring: as long as every file it was given can.
    direct_io,
}

/// A name that is no feature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no feature; the names are those of the gauges: gso, gro, multishot_receive, buffer_ring, \
         registered_buffers, registered_files, defer_taskrun, msg_ring, zero_copy_send, direct_io, or all"
)]
pub struct UnknownFeature {
    name: String,
}

impl Features {
    /// What the kernel offers, less what [`ENVIRONMENT`] takes away. Probed at the first call and logged once.
    #[must_use]
    pub fn probe() -> Features {
        static PROBED: OnceLock<Features> = OnceLock::new();
        *PROBED.get_or_init(|| {
            let features = probe_kernel().and(permitted_by_environment());
            for (name, help, present) in features.fields() {
                if !present {
                    tracing::warn!(feature = name, "not available, using the slower twin: {help}");
                }
            }
            features
        })
    }
}

fn permitted_by_environment() -> Features {
    let Ok(names) = std::env::var(ENVIRONMENT) else { return Features::ALL };
    Features::without(&names).unwrap_or_else(|error| {
        tracing::error!("{ENVIRONMENT} is ignored: {error}");
        Features::ALL
    })
}

fn probe_kernel() -> Features {
    let mut features = Features { direct_io: true, ..Features::NONE };
    if let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) {
        // Not bound: a network namespace whose loopback is down has no address to bind, and segments all the same.
        features.gso = sys::takes_segment_size(socket.as_fd());
        features.gro = sys::takes_gro(socket.as_fd());
    }
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let deferred: Result<IoUring, _> = builder.build(4);
    features.defer_taskrun = deferred.is_ok();
    let Ok(ring) = deferred.or_else(|_| IoUring::new(4)) else {
        // Without any ring the caller gets the reason from Ring::new; no twin matters.
        return features;
    };
    let submitter = ring.submitter();
    let mut probe = Probe::new();
    if submitter.register_probe(&mut probe).is_ok() {
        features.registered_buffers = probe.is_supported(opcode::ReadFixed::CODE);
        features.msg_ring = probe.is_supported(opcode::MsgRingData::CODE);
        // Multishot receives came with zero-copy sends, in 6.0, and have no probe of their own.
        features.multishot_receive = probe.is_supported(opcode::SendZc::CODE);
        // Sparse tables came with sockets made by the ring, in 5.19, as did buffer rings.
        features.buffer_ring = probe.is_supported(opcode::Socket::CODE);
    }
    features.registered_files = submitter.register_files_sparse(1).is_ok();
    features.zero_copy_send =
        features.registered_buffers && crate::ring::takes_registered_buffers(ring);
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_switch_off() {
        let features = Features::without("gso, msg_ring").unwrap();
        assert_eq!(features, Features { gso: false, msg_ring: false, ..Features::ALL });
        assert_eq!(Features::without("").unwrap(), Features::ALL);
        assert_eq!(Features::without("all").unwrap(), Features::NONE);
        let error = Features::without("gso,gros").unwrap_err();
        for (name, ..) in Features::ALL.fields() {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn probes_the_same_twice() {
        assert_eq!(Features::probe(), Features::probe());
    }
}
