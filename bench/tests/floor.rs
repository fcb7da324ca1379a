//! `floor` with real processes, short and small: every figure that it promises is there.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

/// Runs it; none when the node's program was not built beside this one.
fn floor(flags: &str) -> Option<Output> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let flags = flags.split_whitespace();
    let short = ["--rounds", "1", "--seconds", "0.2", "--image-bytes", "64M", "--no-pin"];
    Some(Command::new(BENCH).arg("floor").args(short).args(flags).output().unwrap())
}

/// The JSON object of a run that ended well.
fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{error}\n{text}");
    serde_json::from_str(text.trim()).unwrap()
}

#[track_caller]
fn positive(value: &Value, what: &str) {
    let number = value.as_f64().unwrap_or_else(|| panic!("{what} is {value}"));
    assert!(number.is_finite() && number > 0.0, "{what} is {number}");
}

#[test]
fn the_node_is_compared_with_the_responder_under_every_load() {
    let folder = tempfile::tempdir().unwrap();
    let plots = folder.path().join("plots");
    let flags = format!("--parts responder --verify --json --plots {}", plots.display());
    let Some(output) = floor(&flags) else { return };
    let report = json(&output);
    for name in ["4k_1", "4k_64", "4k_500", "32k", "1m"] {
        let ratio = &report["ratios"][format!("cpu_over_responder_{name}")];
        positive(ratio, name);
        let loads = report["responder"]["loads"].as_array().unwrap();
        let load = loads.iter().find(|load| load["name"] == name).unwrap();
        let round = &load["rounds"][0];
        for side in ["node", "responder"] {
            for figure in ["reads_per_s", "cpu_us_per_read", "cpu_s_per_gib", "p50_us", "p99_us"] {
                positive(&round[side][figure], &format!("{name} {side} {figure}"));
            }
        }
        assert_eq!(&load["ratio"]["median"], ratio, "{load}");
        let plot = std::fs::read_to_string(plots.join(format!("latency-{name}.svg"))).unwrap();
        assert!(plot.starts_with("<svg") && plot.contains(">bare responder<"), "{plot}");
    }
    assert!(report["ratios"]["cold_over_fio"].is_null(), "not asked for: {report}");
    assert!(plots.join("throughput-over-devices.svg").exists());
    for key in ["commit", "node_commit", "kernel", "cpu"] {
        assert!(!report["provenance"][key].as_str().unwrap().is_empty(), "{report}");
    }
}

#[test]
fn cold_reads_are_compared_with_fio() {
    if Command::new("fio").arg("--version").output().is_err() {
        println!("SKIPPED: fio is not installed");
        return;
    }
    let flags = "--parts cold --cold-image-bytes 256M --cold-depth 16 --json";
    let Some(output) = floor(flags) else { return };
    let report = json(&output);
    positive(&report["ratios"]["cold_over_fio"], "cold_over_fio");
    let cold = &report["cold"];
    assert_eq!((&cold["depth"], &cold["read_bytes"]), (&16.into(), &65_536.into()), "{report}");
    positive(&cold["fio_mib_per_s"]["median"], "fio");
    positive(&cold["node_mib_per_s"]["median"], "node");
    // A cache of a quarter of the image answers about a quarter; far more would mean that nothing cold was measured.
    let cached = cold["rounds"][0]["cached_share"].as_f64().unwrap();
    assert!(cached < 0.5, "{report}");
}

#[test]
fn memory_and_disk_have_their_rows() {
    let flags = "--parts memory,disk --cold-image-bytes 256M --json";
    let Some(output) = floor(flags) else { return };
    let report = json(&output);
    for rate in ["copy_cold", "copy_hot", "crc32c_cold", "crc32c_hot"] {
        positive(&report["memory"][format!("{rate}_gib_per_s")]["median"], rate);
    }
    let rows = report["disk"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{report}");
    for row in rows {
        positive(&row["reads_per_s"]["median"], "reads per second");
        positive(&row["cpu_us_per_read"]["median"], "processor time per read");
    }
}

#[test]
fn sends_and_a_single_device_have_their_rows() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("SKIPPED: needs root for network namespaces");
        return;
    }
    let Some(output) = floor("--parts sends,veth --json") else { return };
    let report = json(&output);
    let rows = report["sends"]["rows"].as_array().unwrap();
    // Three paths; four ways to send, and at 1500 a fifth.
    assert_eq!(rows.len(), 27, "{report}");
    for row in rows {
        assert!(row["refused_share"].as_f64().unwrap() <= 0.01, "{row}");
        positive(&row["cpu_s_per_gib"]["median"], &row.to_string());
        if row["way"] == "sink" {
            assert!(row["delivered_share"].is_null(), "nobody receives: {row}");
        } else {
            let share = row["delivered_share"]["median"].as_f64().unwrap();
            assert!(share > 0.0 && share <= 1.0, "{row}");
        }
    }
    let same_train = |row: &&Value| row["mtu"] == 1500 && row["how"] == "ring_short";
    let ratios = report["sends"]["zero_copy_over_copy"].as_array().unwrap();
    assert_eq!(ratios.iter().filter(same_train).count(), 3, "{report}");
    for ratio in report["sends"]["zero_copy_over_copy"].as_array().unwrap() {
        positive(&ratio["ratio"]["median"], &ratio.to_string());
    }
    single_device(&report);
}

/// Ours, the bare responder, and each peer that is installed, in the order in which they were started.
fn single_device(report: &Value) {
    let single = &report["single"];
    let rows = single["rows"].as_array().unwrap();
    let left_out = single["left_out"].as_array().unwrap();
    assert_eq!(rows.len() + left_out.len(), 6, "{single}");
    assert_eq!(
        (&rows[0]["server"], &rows[1]["server"]),
        (&"diskstream".into(), &"bare responder".into())
    );
    for row in rows {
        positive(&row["mib_per_s"]["median"], &row.to_string());
        positive(&row["cpu_s_per_gib"]["median"], &row.to_string());
        assert_eq!(row["rounds"].as_array().unwrap().len(), 1, "{row}");
    }
    positive(&single["ours_over_pvs"], "ours over PVS");
    // The best peer is the one with the highest rate, and the ratio is made of its rate and ours.
    let rate = |row: &Value| row["mib_per_s"]["median"].as_f64().unwrap();
    let Some(best) = rows[2..].iter().max_by(|a, b| rate(a).total_cmp(&rate(b))) else {
        println!("SKIPPED: no TCP peer is installed; apt install nbdkit nbd-server qemu-utils tgt");
        assert!(report["ratios"]["single_over_best_peer"].is_null(), "{report}");
        return;
    };
    assert_eq!(single["ours_over_best_peer"]["peer"], best["server"], "{single}");
    let ratio = report["ratios"]["single_over_best_peer"].as_f64().unwrap();
    assert!((ratio / (rate(&rows[0]) / rate(best)) - 1.0).abs() < 0.01, "{ratio}: {single}");
}

#[test]
fn a_table_is_printed_and_nonsense_refused() {
    let Some(output) = floor("--parts responder --loads 4k_64") else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("4k_64"), "{text}");
    assert!(!text.contains("4k_500"), "one load was asked for: {text}");
    let Some(output) = floor("--loads 3k") else { return };
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("4k_500"), "{error}");
}
