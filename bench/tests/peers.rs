//! `peers` with real servers, short and small: every client gets every byte, and what is missing is said.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).any(|file| file.is_file())
}

/// Runs it; none when the node's program was not built beside this one, or a peer is not installed.
fn peers(programs: &[(&str, &str)], flags: &str) -> Option<Output> {
    if !Path::new(BENCH).with_file_name("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    for (program, package) in programs {
        if !installed(program) {
            println!("SKIPPED: {program} is not installed: apt install {package}");
            return None;
        }
    }
    let common = "--no-pin --verify --image-bytes 64M --seconds 0.3 --json";
    let flags = common.split_whitespace().chain(flags.split_whitespace());
    Some(Command::new(BENCH).arg("peers").args(flags).output().unwrap())
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"))
}

/// Each cell of these servers has so many runs that read something, and none that failed.
fn assert_measured(report: &Value, list: &str, server: &str, cells: usize) {
    let all = report[list].as_array().unwrap();
    let own: Vec<_> = all.iter().filter(|cell| cell["server"] == server).collect();
    assert_eq!(own.len(), cells, "{server}: {report}");
    for cell in own {
        assert_eq!(cell["failures"].as_array().unwrap().len(), 0, "{cell}");
        let runs = cell["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 1, "{cell}");
        assert!(runs[0]["reads_per_s"].as_f64().unwrap() > 0.0, "{cell}");
        assert!(runs[0]["cpu_us_per_read"].as_f64().unwrap() > 0.0, "{cell}");
    }
}

#[test]
fn nbdkit_and_our_node_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (full, plots) = (folder.path().join("r.json"), folder.path().join("plots"));
    let flags = format!(
        "--rounds 1 --peers nbdkit --loads 4k_64,half_load,1m --rate 3000 --report {} --plots {}",
        full.display(),
        plots.display()
    );
    let Some(output) = peers(&[("nbdkit", "nbdkit")], &flags) else { return };
    let report = json(&output);
    for server in ["diskstream, MTU 1500", "diskstream, MTU 9000", "nbdkit"] {
        assert_measured(&report, "servers", server, 3);
    }
    let ratios = report["ratios"].as_object().unwrap();
    let names = [
        "cpu_per_4k_read_64",
        "cpu_per_4k_read_500",
        "cpu_per_4k_read_64_deep",
        "cpu_per_4k_read_500_deep",
        "cpu_per_32k_read",
        "cpu_per_gib_1m",
        "p99_at_half_load",
    ];
    assert_eq!(ratios.len(), names.len(), "{ratios:?}");
    for name in names {
        let measured = ["cpu_per_4k_read_64", "cpu_per_gib_1m", "p99_at_half_load"].contains(&name);
        assert_eq!(ratios[name].as_f64().is_some_and(|ratio| ratio > 0.0), measured, "{name}");
    }
    assert_eq!(report["open_rate"], 3000, "{report}");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(full).unwrap()).unwrap();
    assert_eq!(written["ratios"], report["ratios"]);
    for name in ["table", "latency-4k_64", "latency-half_load", "latency-1m"] {
        let svg = std::fs::read_to_string(plots.join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains(">nbdkit<"), "{name}: {svg}");
    }
    assert!(!plots.join("throughput-over-devices.svg").exists(), "one number of connections");
}

#[test]
fn every_stream_peer_gives_every_byte() {
    let needed = [
        ("nbdkit", "nbdkit"),
        ("nbd-server", "nbd-server"),
        ("qemu-nbd", "qemu-utils"),
        ("tgtd", "tgt"),
    ];
    let names = "nbdkit-t1,nbd-server,qemu-nbd,tgt";
    let flags = format!("--rounds 1 --peers {names} --loads 4k_64_deep,32k_1_deep,1m --mtu 1500");
    let Some(output) = peers(&needed, &flags) else { return };
    let report = json(&output);
    for server in names.split(',') {
        assert_measured(&report, "servers", server, 3);
    }
    assert_eq!(report["peers"].as_array().unwrap().len(), 4, "{report}");
}

#[test]
fn vblade_is_measured_apart() {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("SKIPPED: needs root for network namespaces");
        return;
    }
    let flags = "--rounds 1 --peers vblade --loads 4k_64 --mtu 1500";
    let Some(output) = peers(&[("vblade", "vblade")], flags) else { return };
    let report = json(&output);
    let ours = ["diskstream, MTU 1500", "diskstream, MTU 9000"];
    for server in ["vblade, MTU 1500", "vblade, MTU 9000"].into_iter().chain(ours) {
        assert_measured(&report, "aoe", server, 2);
    }
    assert_eq!(report["ratios"]["cpu_per_4k_read_64"], Value::Null, "vblade is no stream peer");
}

/// Processes whose command line names this folder.
fn processes_of(folder: &Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(folder.to_str().unwrap())).count()
}

#[test]
fn a_run_that_is_told_to_end_leaves_no_server_behind() {
    let programs = [("nbdkit", "nbdkit"), ("nbd-server", "nbd-server")];
    // Asks only whether everything is there: a run without rounds is refused.
    if peers(&programs, "--rounds 0").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let flags = "--no-pin --image-bytes 64M --rounds 100 --seconds 0.3 --loads 4k_64 --peers nbdkit,nbd-server";
    let mut run = Command::new(BENCH)
        .arg("peers")
        .args(flags.split_whitespace())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    let measured = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("nbd-server")));
    assert!(measured.is_some(), "nothing was measured");
    // nbdkit, nbd-server and our node.
    let serving = processes_of(folder.path());
    assert!(serving >= 3, "{serving}");
    let id = run.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let last: Vec<String> = said.map_while(Result::ok).collect();
    assert!(!run.wait().unwrap().success());
    assert!(last.last().is_some_and(|line| line.contains("told to end")), "{last:?}");
    assert_eq!(processes_of(folder.path()), 0, "servers are left");
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let Some(output) = peers(&[], "--rounds 0") else { return };
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("--rounds 0"), "{error}");
}
