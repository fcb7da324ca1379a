//! Planted defects, which the simulator must catch. Only with the feature `mutations`.

use std::sync::atomic::{AtomicU8, Ordering};

/// A defect to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// None.
    None = 0,
    /// Believe every unit whatever its sum.
    DropSumCheck = 1,
    /// Accept datagrams of a session whatever their tag.
    AcceptForeignTag = 2,
}

static PLANTED: AtomicU8 = AtomicU8::new(Mutation::None as u8);

/// Plants a defect for the whole process.
pub fn plant(mutation: Mutation) {
    PLANTED.store(mutation as u8, Ordering::Relaxed);
}

pub(super) fn is_planted(mutation: Mutation) -> bool {
    PLANTED.load(Ordering::Relaxed) == mutation as u8
}
