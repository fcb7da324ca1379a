//! Facts and plans as text.
use crate::facts::{Facts, Limit};
use crate::plan::{Action, Plan};
use crate::units::format_bytes;
use std::fmt::{Display, Write};

/// What is not known.
const UNKNOWN: &str = "unknown";

fn or_unknown<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), T::to_string)
}

/// A page of facts.
#[must_use]
pub fn facts(facts: &Facts) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(page, "{name:<22} {value}").expect("a String takes all");
    };
    let mib = |bytes: Option<u64>| or_unknown(bytes.map(|b| format!("{} MiB", b >> 20)).as_ref());
    line("kernel", or_unknown(facts.kernel_release.as_ref()));
    line("io_uring_disabled", or_unknown(facts.io_uring_disabled.as_ref()));
    line("cores online", or_unknown(facts.cores_online.as_ref()));
    for policy in &facts.cpu_policies {
        line(&format!("governor {}", policy.name), policy.governor.clone());
    }
    line("memory", mib(facts.memory_total_bytes));
    line("memory available", mib(facts.memory_available_bytes));
    for pages in &facts.huge_pages {
        let size = format_bytes(pages.size_kib.saturating_mul(1024));
        let count =
            format!("{} total, {} free, {} reserved", pages.total, pages.free, pages.reserved);
        line(&format!("huge pages {size}"), count);
    }
    line("transparent huge pages", or_unknown(facts.transparent_huge_pages.as_ref()));
    line(
        "locked memory",
        facts.memlock.map_or(UNKNOWN.into(), |limits| {
            format!("{} soft, {} hard", limit(limits.soft), limit(limits.hard))
        }),
    );
    line("net.core.rmem_max", or_unknown(facts.rmem_max_bytes.as_ref()));
    line("net.core.wmem_max", or_unknown(facts.wmem_max_bytes.as_ref()));
    for nic in &facts.nics {
        let value = format!(
            "{}, MTU {}, {} rx and {} tx queues, {} Mbit/s",
            or_unknown(nic.state.as_ref()),
            or_unknown(nic.mtu.as_ref()),
            nic.rx_queues,
            nic.tx_queues,
            or_unknown(nic.speed_mbit.as_ref())
        );
        line(&format!("interface {}", nic.name), value);
    }
    for disk in &facts.block_devices {
        let value = format!(
            "scheduler {}, read-ahead {} KiB, {}",
            or_unknown(disk.scheduler.as_ref()),
            or_unknown(disk.read_ahead_kib.as_ref()),
            match disk.rotational {
                Some(true) => "rotational",
                Some(false) => "not rotational",
                None => "rotation unknown",
            }
        );
        line(&format!("disk {}", disk.name), value);
    }
    for unread in &facts.unread {
        line("not read", format!("{}: {}", unread.path, unread.reason));
    }
    page
}

fn limit(limit: Limit) -> String {
    match limit {
        Limit::Unlimited => "unlimited".into(),
        Limit::Bytes(bytes) => format_bytes(bytes),
    }
}

/// A plan to read and to paste from.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let cache = format_bytes(plan.goal.cache_bytes);
    let cores = plan.goal.cores.map_or_else(|| "all cores".into(), |n| format!("{n} cores"));
    let mut page = format!("Plan for a cache of {cache} on {cores}. Nothing was changed.\n");
    for (i, action) in plan.actions.iter().enumerate() {
        page.push_str(&describe(i + 1, action));
    }
    for note in &plan.notes {
        write!(page, "\nNote ({}): {}\n", note.family.name(), note.text)
            .expect("a String takes all");
    }
    if !plan.not_judged.is_empty() {
        page.push_str("\nNot judged, since it could not be read:\n");
        for unread in &plan.not_judged {
            writeln!(page, "   {}: {}", unread.path, unread.reason).expect("a String takes all");
        }
    }
    if !plan.actions.is_empty() {
        page.push_str(
            "\nThe commands hold until the next boot (limits: for this shell). `apply` and `revert` \
             are not there yet.\n",
        );
    } else if plan.not_judged.is_empty() {
        page.push_str("\nNothing to change.\n");
    }
    page
}

fn describe(number: usize, action: &Action) -> String {
    format!(
        "\n{number}. {} ({})\n   found   {}\n   wanted  {}\n   why     {}\n   worth   {} ({})\n   \
         do      {}\n   undo    {}\n",
        action.title,
        action.family.name(),
        action.found,
        action.wanted,
        action.reason,
        action.worth,
        action.basis.name(),
        action.command,
        action.undo,
    )
}
