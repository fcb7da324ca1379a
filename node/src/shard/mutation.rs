//! Planted mistakes: each must be caught by one of the simulator's judges, or the judges are worth nothing.

/// A mistake that a shard makes on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Releases the pins of a send twice.
    UnpinTwice,
    /// Takes a session's index for proof enough.
    AcceptForeignTag,
    /// Lets a device log in that has not echoed its cookie.
    AnswerBeforeCookie,
    /// When a block arrives, the last of those that wait for it is not told.
    ForgetWaiter,
    /// A standby that its device begins to use is still counted as one.
    ForgetPromoted,
    /// Names nodes as successors that are leaving themselves.
    NameLeaving,
    /// Plans a rebalance while devices of the last one are on their way (at its driver, which plans).
    RebalanceAtOnce,
}

impl Mutation {
    /// Every mutation.
    pub const ALL: [Mutation; 7] = [
        Mutation::UnpinTwice,
        Mutation::AcceptForeignTag,
        Mutation::AnswerBeforeCookie,
        Mutation::ForgetWaiter,
        Mutation::ForgetPromoted,
        Mutation::NameLeaving,
        Mutation::RebalanceAtOnce,
    ];
}
