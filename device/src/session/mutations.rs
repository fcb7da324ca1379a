//! Planted defects, which the simulator must catch. Only with the feature `mutations`.

use std::cell::Cell;

/// A defect to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// None.
    None,
    /// Believe every unit whatever its sum.
    DropSumCheck,
    /// Accept datagrams of a session whatever their tag.
    AcceptForeignTag,
    /// Take a node for gone after two probes instead of six.
    MoveAfterTwoProbes,
    /// Hedge without a budget.
    HedgeWithoutTokens,
    /// Use a node whatever content it serves.
    UseOtherContent,
}

thread_local! {
    // Of the thread: simulated worlds run side by side, one a thread, and only one of them is to have the defect.
    static PLANTED: Cell<Mutation> = const { Cell::new(Mutation::None) };
}

/// Plants a defect in every session that this thread runs, until another is planted.
pub fn plant(mutation: Mutation) {
    PLANTED.set(mutation);
}

pub(super) fn is_planted(mutation: Mutation) -> bool {
    PLANTED.get() == mutation
}
