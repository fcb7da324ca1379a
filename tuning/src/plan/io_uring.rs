//! Whether a node can use io_uring at all.
use super::{Action, Basis, Family, Plan};
use crate::facts::Facts;

/// Deferred task run and STATX_DIOALIGN came with 6.1; the youngest of what a node cannot do
/// without.
const KERNEL_MIN: (u32, u32) = (6, 1);

pub(super) fn rules(facts: &Facts, plan: &mut Plan) {
    if let Some(release) = &facts.kernel_release
        && let Some(version) = version(release)
        && version < KERNEL_MIN
    {
        let (major, minor) = KERNEL_MIN;
        let text = format!(
            "the kernel is {release}; a node needs {major}.{minor} or later (io_uring with deferred \
             task run, statx alignment for direct I/O): upgrade it first, the rest of this plan can \
             wait"
        );
        plan.note(Family::IoUring, text);
    }
    let Some(disabled @ 1..) = facts.io_uring_disabled else { return };
    let whom = if disabled == 1 {
        "only root and members of kernel.io_uring_group may use it"
    } else {
        "nobody may use it"
    };
    plan.actions.push(Action {
        family: Family::IoUring,
        title: "enable io_uring".into(),
        found: format!("kernel.io_uring_disabled = {disabled}"),
        wanted: "kernel.io_uring_disabled = 0".into(),
        reason: format!(
            "the node moves every datagram and block through io_uring, and here {whom}; where it was \
             disabled for security, 1 with kernel.io_uring_group set to the node's group is narrower"
        ),
        worth: "the node does not start without it".into(),
        basis: Basis::Derived,
        command: "sudo sysctl -w kernel.io_uring_disabled=0".into(),
        undo: format!("sudo sysctl -w kernel.io_uring_disabled={disabled}"),
    });
}

/// "6.12.9-amd64" is (6, 12).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(version("5.4-custom"), Some((5, 4)));
        assert_eq!(version("6.1"), Some((6, 1)));
        for odd in ["", "linux", "6", "6.", ".1"] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }
}
