//! `read --rate` with a real node: reads come at their rate, and what a small depth holds up is counted as latency.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

/// The report of a run; none when the node's program was not built beside this one.
fn read(flags: &str) -> Option<Value> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let output = Command::new(BENCH)
        .args(["read", "--no-pin", "--json", "--image-bytes", "64M"])
        .args(flags.split_whitespace())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} of {report}"))
}

#[test]
fn reads_come_at_the_rate_and_not_faster() {
    let flags = "--rate 2000 --devices 4 --depth 8 --seconds 1 --verify";
    let Some(report) = read(flags) else { return };
    assert_eq!(report["rate"], 2000, "{report}");
    assert_eq!((&report["failed"], &report["wrong_bytes"]), (&0.into(), &0.into()), "{report}");
    assert_eq!((&report["skipped"], &report["unfinished"]), (&0.into(), &0.into()), "{report}");
    // 2,000 expected; the standard deviation is 45.
    assert!((1_700.0..2_300.0).contains(&number(&report, "reads")), "{report}");
}

#[test]
fn more_than_can_be_served_shows_in_the_latency() {
    // One device with one read outstanding has some 10,000 of them a second answered, where a read takes 100 µs; a million are due.
    let flags = "--rate 1000000 --devices 1 --depth 1 --seconds 0.5";
    let Some(report) = read(flags) else { return };
    assert!(number(&report, "unfinished") > 10_000.0, "{report}");
    // Had latencies counted from when a read was sent, they would be a thousandth of this: coordinated omission.
    assert!(number(&report, "p99_us") > 1_000_000.0, "{report}");
}
