//! `failover` with real node processes and real sockets, short and small.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

/// Runs it; none when the node's program was not built beside this one.
fn failover(flags: &str) -> Option<Output> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let flags = flags.split_whitespace();
    Some(Command::new(BENCH).arg("failover").args(flags).arg("--no-pin").output().unwrap())
}

/// The JSON object of a run that ended well.
fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{error}\n{text}");
    serde_json::from_str(text.trim()).unwrap()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} of {report}"))
}

#[test]
fn a_killed_and_a_stopped_node_cost_no_read() {
    for mode in ["kill", "stop"] {
        let flags = format!("--devices 5 --mode {mode} --seconds 2 --rate 2000 --json");
        let Some(output) = failover(&flags) else { return };
        let report = json(&output);
        assert_eq!(report["devices"], 5, "{report}");
        assert_eq!(report["devices_moved"], 5, "{report}");
        assert_eq!((&report["reads_failed"], &report["wrong_bytes"]), (&0.into(), &0.into()));
        assert_eq!(report["placement"]["on_node_1"], 5, "{report}");
        // Every read that was due was answered, those that waited through the event included.
        let reads = number(&report, "reads");
        assert!((4000.0..4200.0).contains(&reads), "{report}");
        assert!(number(&report, "all_moved_ms") > 0.0, "{report}");
        // The node was gone: somebody must have waited. An aim is not held here, on a busy machine.
        assert!(number(&report, "stall_ms_max") < 20_000.0, "{report}");
        assert!(number(&report, "node_exit_ms") < 1_100.0 + 20_000.0, "{report}");
    }
}

#[test]
fn devices_read_again_when_all_nodes_were_gone() {
    let flags = "--devices 5 --mode kill --all --gone-seconds 1 --seconds 4 --rate 500 --json";
    let Some(output) = failover(flags) else { return };
    let report = json(&output);
    let again = number(&report, "all_reading_ms");
    assert!(again > 0.0 && again < 6_000.0, "{report}");
    // A second without a node: reads waited at least so long, and devices did not ask for ever more.
    assert!(number(&report, "stall_ms_max") > 900.0, "{report}");
}

#[test]
fn no_device_goes_where_the_image_differs() {
    let flags = "--devices 5 --nodes 3 --odd-node --mode kill --seconds 2 --rate 500 --json";
    let Some(output) = failover(flags) else { return };
    let report = json(&output);
    assert_eq!(report["devices_at_odd_node"], 0, "{report}");
    assert_eq!(report["devices_moved"], 5, "{report}");
}

#[test]
fn where_nothing_happens_nothing_moves_and_files_tell_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (full, plot) = (folder.path().join("r.json"), folder.path().join("r.svg"));
    let flags = format!(
        "--devices 3 --mode none --seconds 1 --rate 1000 --json --report {} --plot {}",
        full.display(),
        plot.display()
    );
    let Some(output) = failover(&flags) else { return };
    let report = json(&output);
    assert_eq!(report["devices_moved"], 0, "{report}");
    assert_eq!(report["stall_ms_max"], report["baseline_stall_ms_max"], "{report}");
    let full: Value = serde_json::from_str(&std::fs::read_to_string(full).unwrap()).unwrap();
    let series = &full["series"];
    assert_eq!((series["bin_ms"].as_u64(), full["mode"].as_str()), (Some(50), Some("none")));
    let bins = series["reads"].as_array().unwrap();
    assert_eq!(bins.len(), 20);
    let binned: u64 = bins.iter().map(|reads| reads.as_u64().unwrap()).sum();
    // The last reads may end after the last bin.
    assert!((900..=1001).contains(&binned), "{series}");
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
}

/// As [`failover`], where network namespaces can be made.
fn in_namespaces(flags: &str) -> Option<Value> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("SKIPPED: needs root for network namespaces");
        return None;
    }
    failover(flags).map(|output| json(&output))
}

#[test]
fn a_node_that_is_cut_off_is_left_by_all_devices() {
    let flags = "--devices 5 --mode cut --seconds 2 --rate 500 --json";
    let Some(report) = in_namespaces(flags) else { return };
    assert_eq!(report["devices_moved"], 5, "{report}");
    assert_eq!(report["moves_by_cause"]["node_silent"], 5, "{report}");
    assert_eq!(report["network"], "namespaces, bridge", "{report}");
}

#[test]
fn notices_that_a_packet_filter_drops_cost_no_move() {
    let flags = "--devices 5 --mode stop --block-notice-port --seconds 2 --rate 500 --json";
    let Some(report) = in_namespaces(flags) else { return };
    assert_eq!(report["devices_moved"], 5, "{report}");
    assert!(number(&report, "notices_blocked") >= 5.0, "each device had one: {report}");
    assert_eq!(report["moved_before_exit"], 5, "{report}");
}

#[test]
fn the_relay_loses_and_delays_what_it_was_told_and_nothing_of_its_own() {
    let flags = "--devices 40 --mode none --loss 2% --jitter-ms 10 --seconds 2 --rate 400 --json";
    let Some(report) = in_namespaces(flags) else { return };
    assert_eq!((&report["relay_drops"], &report["socket_drops"]), (&0.into(), &0.into()));
    let (lost, relayed) = (number(&report["relay"], "lost"), number(&report["relay"], "relayed"));
    // 1,600 reads of four datagrams each, and what a login needs: 2 % of at least 6,400 are 128; five standard deviations
    // are 56 and grow slower than the rest.
    let share = lost / (lost + relayed);
    assert!(relayed > 6000.0 && (0.011..0.029).contains(&share), "{report}");
    // A read's request and its last fragment are delayed by 10 ms on average, together.
    assert!(number(&report, "stall_ms_p50") > 5.0, "{report}");
}

#[test]
fn forgeries_from_off_the_path_arrive_and_change_nothing() {
    let flags = "--devices 5 --mode none --forged 10000 --forged-per-second 10000 --seconds 3 --rate 500 --json";
    let Some(report) = in_namespaces(flags) else { return };
    let forged = &report["forged"];
    assert_eq!((&forged["sent"], &forged["not_sent"]), (&10_000.into(), &0.into()), "{report}");
    assert_eq!(forged["sessions_lost"], 0, "{report}");
    assert_eq!((&report["devices_moved"], &report["unneeded_moves"]), (&0.into(), &0.into()));
    // They were met, and not lost on their way: each side refused what was sent to it.
    for (sent, refused) in [("to_nodes", "refused_by_nodes"), ("to_devices", "refused_by_devices")]
    {
        let (sent, refused) = (number(forged, sent), number(forged, refused));
        assert!(sent > 3000.0 && refused >= sent * 0.95, "{report}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let Some(output) = failover("--mode stop --refusals") else { return };
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("--refusals"), "{error}");
}
