//! Front ends: how a machine's block layer reaches a vDisk.
//!
//! ```text
//!   qemu, nbdcopy, kernel nbd      operator
//!            |                        |
//!        nbd::Server             status::Server
//!            |
//!        disk::Disk   <- write_cache::WriteCache, or ReadOnlyDisk
//!            |
//!        source::BlockSource   <- the session, through aligned::UnitAligned; MemorySource and FileSource in tests
//! ```
//!
//! Everything below the NBD connection threads is asynchronous: a read that waits for a node is an entry in a table.
#![deny(unsafe_code)]

pub mod aligned;
pub mod disk;
pub mod local;
pub mod nbd;
pub mod root_storage;
pub mod source;
pub mod status;
#[expect(unsafe_code, reason = "the front ends' one home of unsafe code")]
mod sys;
mod unix_socket;
pub mod write_cache;

pub use aligned::UnitAligned;
pub use disk::{Disk, ReadOnlyDisk};
pub use local::{FileSource, MemorySource};
pub use source::{
    BlockSource, Done, Extent, ExtentsDone, ExtentsRequest, ReadFailure, ReadRequest,
};
pub use unix_socket::SocketError;
pub use write_cache::{WriteCache, WriteCacheConfig};
