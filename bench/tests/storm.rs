//! `storm` with a real node process and real sockets, short and small.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

/// Bytes of a cache block.
const BLOCK: u64 = 65_536;

/// Runs it; none when the node's program was not built beside this one.
fn storm(trace: &Path, flags: &str) -> Option<Output> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let mut command = Command::new(BENCH);
    command.args(["storm", "--json", "--no-pin", "--image-bytes", "64M", "--trace"]).arg(trace);
    Some(command.args(flags.split_whitespace()).output().unwrap())
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

/// A boot in small: parts of 60 blocks far apart, some of them twice, runs across blocks, one read of a megabyte, odd offsets.
fn trace(folder: &Path) -> (std::path::PathBuf, u64, u64) {
    let mut lines = "time_ms,offset,length\n".to_owned();
    for n in 0..60 {
        let at = n * 7 % 60 * 12 * BLOCK;
        // Half of them together with the one before; 3 units of the block each.
        let _ = writeln!(lines, "{},{at},12288", n / 2 * 3);
    }
    // The last unit of a block, the whole next one, and a byte of the third: 1 + 16 + 1 units, 3 blocks of which one was read.
    let _ = writeln!(lines, "100,{},{}", 13 * BLOCK - 100, BLOCK + 101);
    // A megabyte that begins within a unit: 257 units in 17 blocks.
    let _ = writeln!(lines, "110.5,{},1048576", (50 << 20) + 4000);
    // The same again costs nothing.
    let _ = writeln!(lines, "120,{},1048576", (50 << 20) + 4000);
    let path = folder.join("trace.csv");
    std::fs::write(&path, lines).unwrap();
    (path, (60 + 2 + 17) * BLOCK, (60 * 3 + 18 + 257) * 4096)
}

#[test]
fn a_storm_reads_every_block_once_and_every_byte_right() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, unique, requested) = trace(folder.path());
    let Some(output) = storm(&trace, "--devices 20 --read-ahead off --verify") else { return };
    let report = json(&output);
    assert_eq!((&report["failed"], &report["wrong_bytes"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["reads"], 20 * 63, "{report}");
    assert_eq!(report["unique_bytes"], unique, "{report}");
    assert_eq!(report["requested_bytes"], requested, "{report}");
    assert_eq!(report["disk_bytes"], unique, "each block is read once: {report}");
    assert!((number(&report["ratios"], "disk_over_unique") - 1.0).abs() < 1e-9, "{report}");
    // Thinking alone takes 120 ms at speed 4: no boot is quicker, and none ends after the last one.
    let (half, last) = (number(&report, "boot_p50_s"), number(&report, "last_boot_s"));
    assert!((0.03..=last).contains(&half) && last < 20.0, "{report}");
    assert!(number(&report, "p99_us") > 0.0 && report["provenance"]["kernel"].is_string());
}

#[test]
fn devices_that_start_over_time_end_over_time_and_pictures_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, unique, _) = trace(folder.path());
    let plots = folder.path().join("plots");
    let flags = format!(
        "--devices 5 --read-ahead off --spread 1 --speed 10 --boot-limit 2 --plots {}",
        plots.display()
    );
    let Some(output) = storm(&trace, &flags) else { return };
    let report = json(&output);
    assert_eq!(report["disk_bytes"], unique, "{report}");
    assert!(
        number(&report, "last_boot_s") >= 1.0,
        "the last device starts after a second: {report}"
    );
    assert!(number(&report, "boot_p50_s") < number(&report, "last_boot_s"), "{report}");
    for name in ["boots.svg", "latency.svg"] {
        let svg = std::fs::read_to_string(plots.join(name)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("<polyline"), "{svg}");
    }
}

#[test]
fn a_node_that_knows_the_boot_loads_what_it_will_read() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, unique, _) = trace(folder.path());
    let flags = "--devices 3 --read-ahead off --warm-up on --verify";
    let Some(output) = storm(&trace, flags) else { return };
    let report = json(&output);
    let rounds = report["rounds"].as_array().unwrap();
    let kinds: Vec<_> = rounds.iter().map(|storm| storm["warm_up"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["recorded", "used"], "{report}");
    assert_eq!(report["warm_up"], "used", "the report is of the second: {report}");
    // Each from an empty cache: both read all blocks from the disk, once.
    for storm in rounds {
        assert_eq!(storm["disk_bytes"], unique, "{storm}");
        assert_eq!((&storm["failed"], &storm["wrong_bytes"]), (&0.into(), &0.into()), "{storm}");
    }
    assert_eq!(rounds[0]["node"]["listed_blocks"], 0, "nothing was known: {report}");
    assert_eq!(rounds[1]["node"]["listed_blocks"], unique / BLOCK, "all was known: {report}");
    let misses = |storm: &Value| storm["node"]["misses"].as_u64().unwrap();
    assert!(misses(&rounds[1]) < misses(&rounds[0]), "{report}");
    let gain = &report["warm_up_gains"][0];
    assert_eq!(gain["read_ahead"], "off", "{report}");
    assert!(number(&gain["last_boot"], "median") > 0.0, "{report}");
}

#[test]
fn rounds_take_turns_and_are_summed_up() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, unique, _) = trace(folder.path());
    let Some(output) = storm(&trace, "--devices 3 --rounds 2 --speed 100") else { return };
    let report = json(&output);
    let rounds = report["rounds"].as_array().unwrap();
    let order: Vec<_> = rounds.iter().map(|storm| storm["read_ahead"].as_str().unwrap()).collect();
    assert_eq!(order, ["off", "on", "on", "off"], "{report}");
    let summaries = report["summaries"].as_array().unwrap();
    assert_eq!(summaries.len(), 2, "{report}");
    assert_eq!(summaries[0]["read_ahead"], "off", "{report}");
    let least = number(&summaries[0]["disk_over_unique"], "least");
    assert!((least - 1.0).abs() < 1e-9, "{unique} bytes, each once: {report}");
    assert!(report["warm_up_gains"].is_null(), "not asked for: {report}");
}

#[test]
fn what_cannot_work_is_said_before_a_node_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, ..) = trace(folder.path());
    let bad = folder.path().join("bad.csv");
    std::fs::write(&bad, "time_ms,offset,length\n0,0,4096\n1,zero,4096\n").unwrap();
    let far = folder.path().join("far.csv");
    std::fs::write(&far, "time_ms,offset,length\n0,67108864,1\n").unwrap();
    for (trace, flags, words) in [
        (&bad, "", "line 3"),
        (&far, "", "--image-bytes"),
        (&folder.path().join("none.csv"), "", "opening --trace"),
        (&trace, "--devices 0", "--devices 0"),
    ] {
        let Some(output) = storm(trace, flags) else { return };
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{flags}: {error}");
        assert!(output.stdout.is_empty());
    }
}
