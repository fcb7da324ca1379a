//! The program itself: snapshots over composed hosts, and a run on this one.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p diskstream-tune` rewrites the snapshots.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tune(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_diskstream-tune"))
        .args(arguments)
        .output()
        .expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// A server as its distribution ships it.
fn stock_server(root: &Path) {
    write(root, "proc/sys/kernel/osrelease", "6.12.9-amd64\n");
    write(root, "proc/sys/kernel/io_uring_disabled", "2\n");
    write(root, "sys/devices/system/cpu/online", "0-7\n");
    for policy in ["policy0", "policy1"] {
        let directory = format!("sys/devices/system/cpu/cpufreq/{policy}");
        write(root, &format!("{directory}/scaling_governor"), "schedutil\n");
        write(root, &format!("{directory}/scaling_available_governors"), "performance schedutil\n");
    }
    write(root, "proc/meminfo", "MemTotal: 65536000 kB\nMemAvailable: 60000000 kB\n");
    for (size, pages) in [("2048", "0\n"), ("1048576", "0\n")] {
        for what in ["nr_hugepages", "free_hugepages", "resv_hugepages"] {
            write(root, &format!("sys/kernel/mm/hugepages/hugepages-{size}kB/{what}"), pages);
        }
    }
    write(root, "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    write(root, "proc/self/limits", "Max locked memory  8388608  8388608  bytes\n");
    write(root, "proc/sys/net/core/rmem_max", "212992\n");
    write(root, "proc/sys/net/core/wmem_max", "212992\n");
    for (path, text) in
        [("mtu", "1500\n"), ("speed", "25000\n"), ("operstate", "up\n"), ("device/x", "")]
    {
        write(root, &format!("sys/class/net/eth0/{path}"), text);
    }
    for queue in ["rx-0", "rx-1", "tx-0", "tx-1"] {
        write(root, &format!("sys/class/net/eth0/queues/{queue}/x"), "");
    }
    for (disk, rotational) in [("nvme0n1", "0\n"), ("sda", "1\n")] {
        write(root, &format!("sys/block/{disk}/device/x"), "");
        write(root, &format!("sys/block/{disk}/queue/scheduler"), "[mq-deadline] none\n");
        write(root, &format!("sys/block/{disk}/queue/read_ahead_kb"), "128\n");
        write(root, &format!("sys/block/{disk}/queue/rotational"), rotational);
    }
}

fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().expect("below tests")).expect("a directory");
        fs::write(&path, found).expect("a snapshot");
    }
    let expected = fs::read_to_string(&path).expect("a snapshot: see the file's header");
    assert_eq!(found, expected, "{name}: see the file's header if this is meant");
}

#[test]
fn a_stock_server() {
    let root = tempfile::tempdir().expect("a directory");
    stock_server(root.path());
    let root = root.path().to_str().expect("UTF-8");
    compare("stock_inspect.txt", &tune(&["inspect", "--root", root]));
    compare("stock_plan.txt", &tune(&["plan", "--root", root, "--cache", "4G"]));
    compare("stock_plan.json", &tune(&["plan", "--root", root, "--cache", "4G", "--json"]));
}

#[test]
fn an_unknown_host() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path().to_str().expect("UTF-8");
    compare("unknown_inspect.txt", &tune(&["inspect", "--root", root]));
    compare("unknown_plan.txt", &tune(&["plan", "--root", root, "--cores", "4"]));
}

#[test]
fn facts_travel_as_json() {
    let directory = tempfile::tempdir().expect("a directory");
    stock_server(directory.path());
    let root = directory.path().to_str().expect("UTF-8");
    let file: PathBuf = directory.path().join("facts.json");
    fs::write(&file, tune(&["inspect", "--root", root, "--json"])).expect("written");
    let file = file.to_str().expect("UTF-8");
    assert_eq!(tune(&["plan", "--facts", file]), tune(&["plan", "--root", root]));
}

#[test]
fn bad_input_is_refused_with_the_reason() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_diskstream-tune")).args(arguments).output();
        let output = output.expect("the program runs");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["plan", "--cache", "lots"]).contains("e.g. 512M"));
    assert!(refused(&["plan", "--facts", "/nowhere"]).contains("cannot be read from \"/nowhere\""));
    assert!(refused(&["plan", "--facts", "/proc/version"]).contains("inspect --json"));
}

#[test]
fn this_host() {
    let facts: serde_json::Value =
        serde_json::from_str(&tune(&["inspect", "--json"])).expect("valid JSON");
    assert!(facts["cores_online"].as_u64().is_some_and(|cores| cores > 0), "{facts}");
    assert!(facts["kernel_release"].is_string());
    let plan: serde_json::Value =
        serde_json::from_str(&tune(&["plan", "--cache", "64M", "--json"])).expect("valid JSON");
    for action in plan["actions"].as_array().expect("a list") {
        for field in ["reason", "worth", "command", "undo"] {
            let text = action[field].as_str().expect("a text");
            assert!(!text.is_empty(), "{field} of {action}");
        }
    }
    assert!(tune(&["plan"]).contains("Nothing was changed"));
}
