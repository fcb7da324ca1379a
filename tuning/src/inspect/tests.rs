use super::*;
use tempfile::TempDir;

/// A root directory with these files.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// The files of a whole host.
const HOST: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.0-test\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("sys/devices/system/cpu/online", "0-2,8\n"),
    ("sys/devices/system/cpu/cpufreq/policy10/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/cpufreq/policy2/scaling_governor", "schedutil\n"),
    (
        "sys/devices/system/cpu/cpufreq/policy2/scaling_available_governors",
        "performance schedutil\n",
    ),
    ("proc/meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "0\n"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "0\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "7\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "1\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("proc/self/limits", "Limit  Soft  Hard\nMax locked memory  8388608  unlimited  bytes\n"),
    ("proc/sys/net/core/rmem_max", "212992\n"),
    ("proc/sys/net/core/wmem_max", "4194304\n"),
    ("sys/class/net/eth0/device/vendor", ""),
    ("sys/class/net/eth0/mtu", "9000\n"),
    ("sys/class/net/eth0/speed", "10000\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/queues/rx-0/x", ""),
    ("sys/class/net/eth0/queues/rx-1/x", ""),
    ("sys/class/net/eth0/queues/tx-0/x", ""),
    ("sys/class/net/eth1/device/vendor", ""),
    ("sys/class/net/eth1/speed", "-1\n"),
    ("sys/class/net/lo/mtu", "65536\n"),
    ("sys/block/nvme0n1/device/x", ""),
    ("sys/block/nvme0n1/queue/scheduler", "none [mq-deadline]\n"),
    ("sys/block/nvme0n1/queue/read_ahead_kb", "128\n"),
    ("sys/block/nvme0n1/queue/rotational", "0\n"),
    ("sys/block/sda/device/x", ""),
    ("sys/block/sda/queue/scheduler", "none\n"),
    ("sys/block/sda/queue/rotational", "1\n"),
    ("sys/block/loop0/queue/scheduler", "[none]\n"),
];

/// What is to be read from them.
fn host() -> Facts {
    let text = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Facts {
        kernel_release: Some("6.12.0-test".into()),
        io_uring_disabled: Some(0),
        cores_online: Some(4),
        cpu_policies: vec![
            CpuPolicy {
                name: "policy2".into(),
                governor: "schedutil".into(),
                available: text(&["performance", "schedutil"]),
            },
            CpuPolicy { name: "policy10".into(), governor: "powersave".into(), available: vec![] },
        ],
        memory_total_bytes: Some(16 << 20),
        memory_available_bytes: Some(8 << 20),
        huge_pages: vec![
            HugePages { size_kib: 2048, total: 8, free: 7, reserved: 1 },
            HugePages { size_kib: 1_048_576, total: 0, free: 0, reserved: 0 },
        ],
        transparent_huge_pages: Some("madvise".into()),
        memlock: Some(Memlock { soft: Limit::Bytes(8_388_608), hard: Limit::Unlimited }),
        rmem_max_bytes: Some(212_992),
        wmem_max_bytes: Some(4_194_304),
        nics: vec![
            Nic {
                name: "eth0".into(),
                mtu: Some(9000),
                rx_queues: 2,
                tx_queues: 1,
                speed_mbit: Some(10_000),
                state: Some("up".into()),
            },
            Nic {
                name: "eth1".into(),
                mtu: None,
                rx_queues: 0,
                tx_queues: 0,
                speed_mbit: None,
                state: None,
            },
        ],
        block_devices: vec![
            BlockDevice {
                name: "nvme0n1".into(),
                scheduler: Some("mq-deadline".into()),
                schedulers: text(&["none", "mq-deadline"]),
                read_ahead_kib: Some(128),
                rotational: Some(false),
            },
            BlockDevice {
                name: "sda".into(),
                scheduler: Some("none".into()),
                schedulers: text(&["none"]),
                read_ahead_kib: None,
                rotational: Some(true),
            },
        ],
        unread: vec![],
    }
}

#[test]
fn a_whole_host_is_read() {
    let root = root(HOST);
    let facts = inspect(root.path());
    assert_eq!(facts, host());
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&json).unwrap(), facts, "JSON goes both ways");
}

#[test]
fn an_empty_root_gives_reasons_and_no_facts() {
    let facts = inspect(TempDir::new().unwrap().path());
    assert!(facts.unread.iter().any(|unread| unread.path == "/proc/sys/net/core/rmem_max"));
    assert_eq!(Facts { unread: vec![], ..facts }, Facts::default());
}

#[test]
fn nonsense_is_noted_and_taken_for_nothing() {
    let root = root(&[
        ("proc/sys/net/core/rmem_max", "-5"),
        ("proc/sys/kernel/io_uring_disabled", "\u{fffd}"),
        ("sys/devices/system/cpu/online", "3-1"),
        ("proc/meminfo", "MemTotal: many\nMemAvailable: 99999999999999999999 kB"),
        ("proc/self/limits", "Max locked memory"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "x"),
    ]);
    let facts = inspect(root.path());
    assert_eq!(Facts { unread: vec![], kernel_release: None, ..facts.clone() }, Facts::default());
    let noted: Vec<&str> = facts.unread.iter().map(|unread| unread.path.as_str()).collect();
    for path in ["/proc/sys/net/core/rmem_max", "/proc/meminfo", "/proc/self/limits"] {
        assert!(noted.contains(&path), "{path} in {noted:?}");
    }
}

#[test]
fn lists_of_cores_are_counted() {
    assert_eq!(count_list("0"), Some(1));
    assert_eq!(count_list("0-3,8,10-11"), Some(7));
    for bad in ["", "x", "1-", "3-1", "0-4294967295"] {
        assert_eq!(count_list(bad), None, "{bad}");
    }
}

#[test]
fn this_host_can_be_inspected() {
    let facts = inspect(Path::new("/"));
    assert!(facts.kernel_release.is_some_and(|release| release.contains('.')));
    assert!(facts.cores_online.is_some_and(|cores| cores > 0));
    assert!(facts.memory_total_bytes > Some(64 << 20));
    assert!(facts.memlock.is_some());
}
