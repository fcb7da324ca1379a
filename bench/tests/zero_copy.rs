//! What a whole node decides about zero copy by itself: over an interface where it pays, and over one where the kernel copies.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::Command;

const BENCH: &str = env!("CARGO_BIN_EXE_diskstream-bench");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/scripts/zero-copy-verdict.sh");
/// What the script ends with where the host cannot do it.
const CANNOT: i32 = 77;

/// The node's lines about zero copy after some seconds of reads; none where that cannot be tried.
fn verdict(way: &str) -> Option<String> {
    let programs = Path::new(BENCH).parent().unwrap();
    if !programs.join("diskstream-node").exists() {
        println!("SKIPPED: diskstream-node is not built; use `cargo test --workspace`");
        return None;
    }
    let output = Command::new(SCRIPT).arg(programs).arg(way).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT) {
        println!("SKIPPED: {error}");
        return None;
    }
    assert!(output.status.success(), "{}: {error}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// One after the other: both change how many huge pages the host reserves.
#[test]
fn it_is_on_where_it_pays_and_not_where_the_kernel_copies() {
    if let Some(log) = verdict("sink") {
        assert!(log.contains("zero copy is on"), "{log}");
        assert!(!log.contains("zero copy does not happen"), "{log}");
    }
    if let Some(log) = verdict("veth") {
        assert!(log.contains("zero copy does not happen: the kernel copies"), "{log}");
        assert!(!log.contains("zero copy is on"), "{log}");
    }
}
