//! Huge pages for the block cache.
use super::{Action, Basis, Family, Goal, Plan};
use crate::facts::{Facts, HugePages};
use crate::units::format_bytes;

const SIZE_KIB: u64 = 2048;

/// The share of the host's memory that must stay for everything else: one part of eight. A
/// guess: kernel, sockets, page cache and whatever else the host runs.
const SPARE_PARTS: u64 = 8;

pub(super) fn rules(facts: &Facts, goal: &Goal, plan: &mut Plan) {
    transparent(facts, plan);
    if facts.huge_pages.iter().any(|pages| usable_bytes(pages) >= goal.cache_bytes) {
        return;
    }
    let Some(pages) = facts.huge_pages.iter().find(|pages| pages.size_kib == SIZE_KIB) else {
        return;
    };
    let needed = goal.cache_bytes.div_ceil(SIZE_KIB * 1024);
    let missing = needed - pages.free.saturating_sub(pages.reserved).min(needed);
    let missing_bytes = missing.saturating_mul(SIZE_KIB * 1024);
    if let (Some(total), Some(available)) = (facts.memory_total_bytes, facts.memory_available_bytes)
        && missing_bytes.saturating_add(total / SPARE_PARTS) > available
    {
        let text = format!(
            "a cache of {} needs {} more of huge pages, which leaves less than an eighth of the \
             memory for everything else ({} MiB of {} MiB are available): plan a smaller cache or \
             add memory",
            format_bytes(goal.cache_bytes),
            format_bytes(missing_bytes),
            available >> 20,
            total >> 20,
        );
        plan.note(Family::HugePages, text);
        return;
    }
    let wanted = pages.total.saturating_add(missing);
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    plan.actions.push(Action {
        family: Family::HugePages,
        title: "reserve huge pages for the cache".into(),
        found: format!("{} pages of 2 MiB, {} of them free", pages.total, pages.free),
        wanted: format!("{wanted} pages"),
        reason: format!(
            "a cache of {} takes {needed} free pages; the kernel may find fewer on a host that has \
             run for long, so do it early and read the count back",
            format_bytes(goal.cache_bytes)
        ),
        worth: "one TLB entry covers 512 times as much of the cache, and registering it pins 512 \
                times fewer pages"
            .into(),
        basis: Basis::Derived,
        command: format!("echo {wanted} | sudo tee {path}"),
        undo: format!("echo {} | sudo tee {path}", pages.total),
    });
}

/// Without reserved pages the node falls back to transparent ones, if there are any.
fn transparent(facts: &Facts, plan: &mut Plan) {
    if facts.transparent_huge_pages.as_deref() != Some("never") {
        return;
    }
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    plan.actions.push(Action {
        family: Family::HugePages,
        title: "let programs ask for transparent huge pages".into(),
        found: "never".into(),
        wanted: "madvise".into(),
        reason:
            "when reserved pages run out, the node asks for transparent ones; madvise gives them \
                 to those who ask and to nobody else"
                .into(),
        worth: "the fallback of the cache stays fast".into(),
        basis: Basis::Derived,
        command: format!("echo madvise | sudo tee {path}"),
        undo: format!("echo never | sudo tee {path}"),
    });
}

fn usable_bytes(pages: &HugePages) -> u64 {
    pages.free.saturating_sub(pages.reserved).saturating_mul(pages.size_kib.saturating_mul(1024))
}
