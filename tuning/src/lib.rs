//! `diskstream-tune`: what a host is like, and what to change so that it streams well.
//!
//! ```text
//! /proc, /sys ──inspect──> Facts (data, JSON) ──plan──> Plan: actions and notes
//!   (any root directory)                        (pure)
//! ```
//!
//! * `diskstream-tune inspect [--json]` reads facts. What cannot be read is listed by path and
//!   reason, and is no error: a container or an old kernel lacks much.
//! * `diskstream-tune plan [--cache 512M] [--cores N] [--json]` turns facts into an ordered list of
//!   actions. Each names its reason, what it is worth (and whether that was measured, derived or
//!   guessed), the exact command, and the command that undoes it with the value found.
//!
//! Nothing is changed: there is no `apply` and no `revert` yet; the commands are for reading and
//! for pasting, and they hold until the next boot. Planning is a pure function, so a plan for
//! another host is made from the JSON that `inspect` wrote there (`plan --facts FILE`).
//!
//! Each family of rules is one file under `plan/`; a rule sees the facts and the goal and appends
//! to the plan. A rule whose fact is unknown says nothing: guessing would plan a change that the
//! undo could not take back.
#![forbid(unsafe_code)]

mod facts;
mod inspect;
mod plan;
pub mod render;
mod units;

pub use facts::{BlockDevice, CpuPolicy, Facts, HugePages, Limit, Memlock, Nic, Unread};
pub use inspect::inspect;
pub use plan::{Action, Basis, Family, Goal, Note, Plan, plan};
pub use units::{format_bytes, parse_bytes};
