//! `idle` with a real node, short and small: every session lives to the end, and what it costs is told.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

/// Half of the sessions stand by, as they do unless told otherwise.
const FEW: &str = "--sessions 50 --seconds 4 --keep-alive 1 --standby-check 2 --json";

/// Runs it; none when the node's program was not built beside this one.
fn idle(flags: &str) -> Option<Output> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let flags = flags.split_whitespace();
    Some(Command::new(BENCH).args(["idle", "--no-pin"]).args(flags).output().unwrap())
}

#[test]
fn sessions_live_and_their_cost_is_told() {
    let Some(output) = idle(FEW) else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} of {report}"));
    for (key, value) in [("sessions", 50), ("sessions_at_node", 50), ("lost", 0)] {
        assert_eq!(report[key], value, "{key}: {report}");
    }
    // Half of them each second, half of them every other one: 150 in 4 s, one each more or less.
    let keep_alives = number("keep_alives");
    assert!((100.0..=200.0).contains(&keep_alives), "{report}");
    assert!(number("unanswered") <= keep_alives / 10.0, "{report}");
    let took = number("seconds");
    assert!((4.0..30.0).contains(&took), "{report}");
    assert!((number("keep_alives_per_s") * took / keep_alives - 1.0).abs() < 0.01, "{report}");
    assert!(number("login_s") > 0.0 && number("logins_per_s") > 0.0, "{report}");
    // A node that answers uses its processor; of one core there is no more than all.
    assert!((0.0..=110.0).contains(&number("cpu_percent")), "{report}");
    assert!(number("cpu_us_per_keep_alive") > 0.0, "{report}");
    // Measured: 400 accounted. So few sessions say nothing of resident bytes each, but that the node has some.
    assert!((1.0..=1024.0).contains(&number("accounted_bytes_each")), "{report}");
    assert!(number("resident_bytes") > 1e6 && number("resident_bytes_empty") > 1e6, "{report}");
    assert!(report["memory_bytes_each"].is_number() && report["cpu_wait_s"].is_number());
    assert_eq!((&report["keep_alive_s"], &report["standby_percent"]), (&1.0.into(), &50.into()));
    for key in ["commit", "node_commit", "kernel", "cpu"] {
        assert!(!report["provenance"][key].as_str().unwrap().is_empty(), "{report}");
    }
}

#[test]
fn a_table_is_printed_and_nonsense_refused() {
    let Some(output) = idle("--sessions 5 --seconds 0.2 --standby-percent 0") else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("5 idle sessions, 0 % of them standbys"), "{text}");
    for (flags, words) in [
        ("--sessions 0", "--sessions 0"),
        ("--seconds NaN", "--seconds NaN"),
        ("--keep-alive 0", "--keep-alive 0"),
        ("--standby-percent 101", "101"),
    ] {
        let Some(output) = idle(flags) else { return };
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{flags}: {error}");
    }
}
