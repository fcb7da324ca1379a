//! Notes which commit a program is built of, for `--version` and for reports of figures. The bench is built with the same script.
//!
//! Only where optimised: such a program is built again whenever the commit changes, and those that are built to be tested shall not be.

use std::path::Path;
use std::process::Command;

/// What the node is made of, beside what the lock file names.
const PARTS: [&str; 7] =
    ["../wire", "../ring", "../vdisk", "../device", "../node", "../Cargo.toml", "../Cargo.lock"];

fn main() {
    println!("cargo::rerun-if-changed=../node/build.rs");
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = if optimised { commit() } else { Some("development".to_owned()) };
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=DISKSTREAM_COMMIT={commit}");
}

/// The commit, with `-dirty` where files that the program is made of are not as it has them; none without git, or outside a repository.
fn commit() -> Option<String> {
    // A file that is not there would have this run each time; in a worktree these lie elsewhere than in `.git`.
    let watch = |path: &str| {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    };
    // Whatever makes a part another than the commit's.
    // The bench is the node's parts and its own.
    let parts = [&PARTS[..], &["."]].concat();
    parts.iter().for_each(|part| watch(part));
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // A branch that git has packed has no file of its own; the log tells of each change of HEAD as well.
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            watch(&path);
        }
    }
    let changed = git(&[&["status", "--porcelain", "--"][..], &parts].concat())?;
    Some(if changed.is_empty() { head } else { format!("{head}-dirty") })
}

/// What git says; none when it fails.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
