use super::*;
use crate::facts::{BlockDevice, CpuPolicy, HugePages, Limit, Memlock, Nic};

const GIB: u64 = 1 << 30;

/// A host that nothing has to be done to, for the goal below.
fn tuned() -> Facts {
    Facts {
        kernel_release: Some("6.12.9".into()),
        io_uring_disabled: Some(0),
        cores_online: Some(2),
        cpu_policies: vec![policy("policy0", "performance")],
        memory_total_bytes: Some(8 * GIB),
        memory_available_bytes: Some(6 * GIB),
        huge_pages: vec![HugePages { size_kib: 2048, total: 300, free: 256, reserved: 0 }],
        transparent_huge_pages: Some("madvise".into()),
        memlock: Some(Memlock { soft: Limit::Unlimited, hard: Limit::Unlimited }),
        rmem_max_bytes: Some(4 << 20),
        wmem_max_bytes: Some(4 << 20),
        nics: vec![nic("eth0", 9000, 2)],
        block_devices: vec![disk("nvme0n1", "none")],
        unread: vec![],
    }
}

fn goal() -> Goal {
    Goal { cache_bytes: 512 << 20, cores: None }
}

fn policy(name: &str, governor: &str) -> CpuPolicy {
    let available = ["performance", "powersave", "schedutil"].map(str::to_owned).to_vec();
    CpuPolicy { name: name.into(), governor: governor.into(), available }
}

fn nic(name: &str, mtu: u32, queues: u32) -> Nic {
    Nic {
        name: name.into(),
        mtu: Some(mtu),
        rx_queues: queues,
        tx_queues: queues,
        speed_mbit: Some(25_000),
        state: Some("up".into()),
    }
}

fn disk(name: &str, scheduler: &str) -> BlockDevice {
    BlockDevice {
        name: name.into(),
        scheduler: Some(scheduler.into()),
        schedulers: ["none", "mq-deadline"].map(str::to_owned).to_vec(),
        read_ahead_kib: Some(128),
        rotational: Some(false),
    }
}

/// The only action of a plan.
fn only(facts: &Facts) -> Action {
    let plan = plan(facts, &goal());
    assert_eq!(plan.notes, []);
    let [action] = plan.actions.as_slice() else { panic!("{:#?}", plan.actions) };
    action.clone()
}

#[test]
fn a_tuned_host_and_an_unknown_one_get_no_actions() {
    let plan_of = |facts| plan(&facts, &goal());
    assert_eq!(plan_of(tuned()).actions, []);
    assert_eq!(plan_of(tuned()).notes, []);
    assert_eq!(plan_of(Facts::default()).actions, [], "an unknown value cannot be undone");
}

#[test]
fn io_uring_is_enabled_and_an_old_kernel_is_noted() {
    let action = only(&Facts { io_uring_disabled: Some(2), ..tuned() });
    assert_eq!(action.command, "sudo sysctl -w kernel.io_uring_disabled=0");
    assert_eq!(action.undo, "sudo sysctl -w kernel.io_uring_disabled=2");
    let plan = plan(&Facts { kernel_release: Some("5.15.0".into()), ..tuned() }, &goal());
    assert!(plan.notes[0].text.contains("needs 6.1"), "{:?}", plan.notes);
}

#[test]
fn locked_memory_is_counted_once_per_shard() {
    let enough = 2 * ((512 << 20) + (64 << 20));
    let with = |soft, hard| Facts { memlock: Some(Memlock { soft, hard }), ..tuned() };
    let short = Limit::Bytes(enough - 1);
    let action = only(&with(short, short));
    assert_eq!(action.command, format!("sudo prlimit --pid $$ --memlock={enough}:{enough}"));
    let short_bytes = enough - 1;
    assert_eq!(action.undo, format!("sudo prlimit --pid $$ --memlock={short_bytes}:{short_bytes}"));
    let action = only(&with(short, Limit::Unlimited));
    assert_eq!(action.command, format!("sudo prlimit --pid $$ --memlock={enough}:unlimited"));
    let fine = with(Limit::Bytes(enough), Limit::Bytes(enough));
    assert_eq!(plan(&fine, &goal()).actions, []);
    let more = plan(&fine, &Goal { cores: Some(3), ..goal() });
    assert_eq!(more.actions.len(), 1, "three shards register it three times");
}

#[test]
fn missing_huge_pages_are_added_to_those_in_use() {
    let pages = |total, free, reserved| {
        let pages = vec![HugePages { size_kib: 2048, total, free, reserved }];
        Facts { huge_pages: pages, ..tuned() }
    };
    let action = only(&pages(300, 100, 10));
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(action.command, format!("echo {} | sudo tee {path}", 300 + 256 - 90));
    assert_eq!(action.undo, format!("echo 300 | sudo tee {path}"));
    assert_eq!(plan(&pages(300, 257, 1), &goal()).actions, []);
    assert_eq!(only(&pages(300, 257, 2)).wanted, "301 pages");
}

#[test]
fn gigantic_pages_do_as_well() {
    let mut facts = tuned();
    facts.huge_pages[0].free = 0;
    facts.huge_pages.push(HugePages { size_kib: 1 << 20, total: 1, free: 1, reserved: 0 });
    assert_eq!(plan(&facts, &goal()).actions, []);
}

#[test]
fn a_cache_that_the_host_cannot_hold_is_not_planned() {
    let big = Goal { cache_bytes: 6 * GIB, ..goal() };
    let plan = plan(&tuned(), &big);
    assert_eq!(plan.actions, []);
    assert!(plan.notes[0].text.contains("plan a smaller cache"), "{:?}", plan.notes);
}

#[test]
fn socket_limits_are_raised_each_way() {
    let action = only(&Facts { rmem_max_bytes: Some(212_992), ..tuned() });
    assert_eq!(action.command, "sudo sysctl -w net.core.rmem_max=4194304");
    assert_eq!(action.undo, "sudo sysctl -w net.core.rmem_max=212992");
    let action = only(&Facts { wmem_max_bytes: Some(212_992), ..tuned() });
    assert_eq!(action.undo, "sudo sysctl -w net.core.wmem_max=212992");
}

#[test]
fn schedulers_go_only_where_they_are_needless() {
    let with = |disk: BlockDevice| Facts { block_devices: vec![disk], ..tuned() };
    let action = only(&with(disk("nvme1n1", "mq-deadline")));
    assert_eq!(action.undo, "echo mq-deadline | sudo tee /sys/block/nvme1n1/queue/scheduler");
    let turning = |name| BlockDevice { rotational: Some(true), ..disk(name, "mq-deadline") };
    only(&with(turning("vda")));
    for kept in [turning("sda"), turning("nvme0n1"), disk("sda", "mq-deadline")] {
        assert_eq!(plan(&with(kept), &goal()).actions, []);
    }
    let no_choice =
        BlockDevice { schedulers: vec!["mq-deadline".into()], ..disk("vda", "mq-deadline") };
    assert_eq!(plan(&with(no_choice), &goal()).actions, []);
}

#[test]
fn governors_are_grouped_so_that_each_can_be_undone() {
    let cpu_policies = vec![
        policy("policy0", "schedutil"),
        policy("policy1", "performance"),
        policy("policy2", "powersave"),
        policy("policy3", "schedutil"),
        CpuPolicy { available: vec![], ..policy("policy4", "userspace") },
    ];
    let plan = plan(&Facts { cpu_policies, ..tuned() }, &goal());
    let undo: Vec<&str> = plan.actions.iter().map(|action| action.undo.as_str()).collect();
    let path = "/sys/devices/system/cpu/cpufreq/$p/scaling_governor";
    assert_eq!(
        undo,
        [
            format!("for p in policy2; do echo powersave | sudo tee {path}; done"),
            format!("for p in policy0 policy3; do echo schedutil | sudo tee {path}; done"),
        ]
    );
}

#[test]
fn interfaces_are_noted_when_they_are_up() {
    let facts = Facts { nics: vec![nic("eth0", 1500, 1)], ..tuned() };
    let plan_of_up = plan(&facts, &Goal { cores: Some(4), ..goal() });
    let notes: Vec<&str> = plan_of_up.notes.iter().map(|note| note.text.as_str()).collect();
    assert!(notes[0].contains("planned for 4 cores, and 2 are online"), "{notes:?}");
    assert!(notes[1].contains("1 receive queue(s) for 4 shards"), "{notes:?}");
    assert!(notes[2].contains("MTU of 1500"), "{notes:?}");
    let down = Nic { state: Some("down".into()), ..nic("eth0", 1500, 1) };
    assert_eq!(plan(&Facts { nics: vec![down], ..tuned() }, &goal()).notes, []);
}

#[test]
fn absurd_facts_neither_panic_nor_overflow() {
    let huge = HugePages { size_kib: 2048, total: u64::MAX, free: 0, reserved: u64::MAX };
    let facts = Facts {
        huge_pages: vec![
            huge,
            HugePages { size_kib: u64::MAX, total: 1, free: u64::MAX, reserved: 0 },
        ],
        memlock: Some(Memlock { soft: Limit::Bytes(0), hard: Limit::Bytes(0) }),
        memory_total_bytes: Some(u64::MAX),
        memory_available_bytes: Some(0),
        ..tuned()
    };
    for cache_bytes in [1, u64::MAX] {
        let plan = plan(&facts, &Goal { cache_bytes, cores: Some(u32::MAX) });
        assert!(!crate::render::plan(&plan).is_empty());
    }
    assert!(!crate::render::facts(&facts).is_empty());
}
