//! Addresses and control messages as the kernel lays them out, read and written as bytes.

pub(crate) mod address;
pub(crate) mod control;
