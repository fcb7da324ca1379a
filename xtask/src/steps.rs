//! The steps that cargo does: format, lints, docs, unit and model tests, fuzzing, the simulator, release builds.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::install;
use crate::proc::{self, run};
use crate::runner::{Job, Step, skip};
use crate::scratch::Scratch;
use crate::test_output::{self, Counts};
use crate::{e2e, protocol, tidy};

/// Compiling everything anew on two busy cores, and then some.
const BUILD_WITHIN: Duration = Duration::from_mins(25);

/// cargo-fuzz compiles a crate in one piece unless told otherwise, and all but one core wait for the largest ones.
const FUZZ_UNITS: &str = "--codegen-units=16";

const fn step(
    name: &'static str,
    needs: &'static [&'static str],
    what: &'static str,
    run: fn(&mut Job<'_>) -> anyhow::Result<()>,
) -> Step {
    Step { name, what, needs, run }
}

/// All steps, in order. A step's needs stand before it.
pub const ALL: &[Step] = &[
    step("install", &[], "what the other steps need, from Debian's packages", install::run),
    step("fmt", &[], "cargo fmt --check", fmt),
    step("tidy", &[], "house rules that no lint knows", tidy::step),
    step("clippy", &[], "no warning in any target", clippy),
    step("doc", &[], "documentation builds without a warning", doc),
    step("docs-tables", &[], "protocol tables in docs equal the code's", docs_tables),
    step("unit", &[], "unit, golden and property tests; doc tests", unit),
    step("loom", &[], "every interleaving of what cores share", loom),
    step("miri", &[], "frames and index of the cache under Miri's memory model", miri),
    step("sim", &[], "simulated networks and crashes; planted mutations are caught", sim),
    step("fuzz", &[], "each decoder survives a moment of fuzzing", fuzz),
    step("build", &[], "release programs", build),
    step("e2e-quickstart", &["build"], "the README's first command", e2e::quickstart::run),
    step(
        "e2e-bad-input",
        &["build"],
        "refusals: one clear line, nothing half-started",
        e2e::bad_input::run,
    ),
    step("e2e-copy", &["build"], "nbdcopy of the export equals the image", e2e::copy::run),
    step("e2e-fio", &["build"], "fio writes and verifies through the write cache", e2e::fio::run),
    step(
        "e2e-qemu-tools",
        &["build"],
        "qemu-io and qemu-img agree with a plain copy",
        e2e::qemu_tools::run,
    ),
    step(
        "e2e-failover",
        &["build"],
        "a node stops or dies in the middle of a copy",
        e2e::failover::run,
    ),
    step(
        "e2e-failover-table",
        &["build"],
        "250 devices stand stops, deaths, cuts, pauses and loss",
        e2e::failover_table::run,
    ),
    step(
        "e2e-firewall",
        &["build"],
        "each port blocked by a packet filter: devices move, or log in elsewhere",
        e2e::firewall::run,
    ),
    step(
        "e2e-slow-store",
        &["build"],
        "a store that answers after 2 s moves nobody",
        e2e::slow_store::run,
    ),
    step(
        "e2e-metrics",
        &["build"],
        "metrics of a real run, as promtool reads them",
        e2e::metrics::run,
    ),
    step(
        "dissector",
        &["build"],
        "tshark understands every datagram of a real run",
        e2e::dissector::run,
    ),
    step("vm-image", &["install"], "a bootable Debian disk", e2e::vm::build_image),
    step(
        "e2e-vm",
        &["build", "vm-image"],
        "Debian boots from the export, also with loss",
        e2e::vm::run,
    ),
];

fn fmt(job: &mut Job<'_>) -> anyhow::Result<()> {
    let mut command = job.ctx.cargo(&["fmt", "--all", "--", "--check"]);
    job.run(&mut command, Duration::from_mins(2)).map(drop)
}

fn clippy(job: &mut Job<'_>) -> anyhow::Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    job.run(&mut job.ctx.cargo(&args), BUILD_WITHIN)?;
    // A workspace of its own, which the line above does not see: its targets broke once with a change of the node.
    let fuzz = ["clippy", "--manifest-path=fuzz/Cargo.toml", "--all-targets", "--locked"];
    let mut command = job.ctx.cargo(&fuzz);
    job.run(command.args(["--", "-D", "warnings"]), BUILD_WITHIN).map(drop)
}

fn doc(job: &mut Job<'_>) -> anyhow::Result<()> {
    let mut command = job.ctx.cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    job.run(command.env("RUSTDOCFLAGS", "-D warnings"), BUILD_WITHIN).map(drop)
}

fn docs_tables(_job: &mut Job<'_>) -> anyhow::Result<()> {
    protocol::run(true)
}

fn unit(job: &mut Job<'_>) -> anyhow::Result<()> {
    let nextest = install::find("cargo-nextest").is_some();
    let text = if nextest {
        let args = [
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--success-output",
            "final",
        ];
        run_tests(job, &args)?
    } else {
        run_tests(
            job,
            &[
                "test",
                "--workspace",
                "--locked",
                "--no-fail-fast",
                "--lib",
                "--bins",
                "--tests",
                "--",
                "--show-output",
            ],
        )?
    };
    job.ctx.tests_built.set(true);
    let doc = run_tests(job, &["test", "--workspace", "--locked", "--no-fail-fast", "--doc"])?;
    count(job, &format!("{text}{doc}"))
}

/// Runs tests; a failing test is counted from what the runner says, anything else that fails is an error here.
fn run_tests(job: &Job<'_>, args: &[&str]) -> anyhow::Result<String> {
    let mut command = job.ctx.cargo(args);
    let (status, text) = run(&mut command, "cargo", &job.log, BUILD_WITHIN)?;
    let ran = Counts::of(&text);
    if !status.success() && ran.failed == 0 {
        anyhow::bail!(
            "`{}` ended with {status} and tells no failed test; see the log",
            proc::show(&command)
        );
    }
    Ok(text)
}

fn count(job: &mut Job<'_>, text: &str) -> anyhow::Result<()> {
    let counts = Counts::of(text);
    anyhow::ensure!(counts.passed + counts.failed > 0, "no test ran");
    // A test that prints why it could not run has passed for its runner, and is a skipped one here.
    let told: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SKIPPED:"))
        .map(|why| why.trim().to_owned())
        .collect();
    let passed = counts.passed.saturating_sub(told.len());
    let ignored = (0..counts.ignored).map(|_| "a test marked #[ignore]".to_owned());
    let skipped = told.iter().cloned().chain(ignored).collect();
    job.count(passed, counts.failed, skipped);
    job.tell_failures(test_output::failures(text));
    Ok(())
}

fn loom(job: &mut Job<'_>) -> anyhow::Result<()> {
    let args = [
        "test",
        "--profile=loom",
        "--locked",
        "-p",
        "diskstream-ring",
        "-p",
        "diskstream-node",
        "--lib",
        "loom",
    ];
    let mut command = job.ctx.cargo(&args);
    // A target folder of its own: other flags would make every other step compile anew.
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", job.ctx.target.join("loom"));
    let (status, text) = run(&mut command, "cargo", &job.log, BUILD_WITHIN)?;
    anyhow::ensure!(status.success(), "the models failed: {status}");
    count(job, &text)
}

/// Where Miri lives: it is no part of a stable toolchain.
const NIGHTLY: &str = "nightly";

/// The tests that need no ring: Miri knows no `io_uring` and no huge page.
fn miri(job: &mut Job<'_>) -> anyhow::Result<()> {
    let (quick, long) = (Duration::from_mins(1), Duration::from_mins(10));
    if install::find("rustup").is_none() && !cargo_bin_has("rustup") {
        return Err(skip("no rustup to bring a nightly toolchain with Miri"));
    }
    let there = ["run", NIGHTLY, "cargo", "miri", "--version"];
    if job.run(&mut rustup(job, &there), quick).is_err() {
        let get = ["toolchain", "install", NIGHTLY, "--profile=minimal", "--no-self-update"];
        let parts = ["--component=miri", "--component=rust-src"];
        job.run(&mut rustup(job, &[&get[..], &parts[..]].concat()), long)?;
    }
    let package = ["--locked", "-p", "diskstream-node", "--lib"];
    let tests = ["--", "cache::frame", "cache::index"];
    let args = [&["run", NIGHTLY, "cargo", "miri", "test"][..], &package[..], &tests[..]].concat();
    let mut command = rustup(job, &args);
    // As with loom: a target folder of its own.
    command.env("CARGO_TARGET_DIR", job.ctx.target.join("miri"));
    let (status, text) = run(&mut command, "rustup", &job.log, BUILD_WITHIN)?;
    anyhow::ensure!(status.success(), "Miri ended with {status}; see the log");
    count(job, &text)
}

fn rustup(job: &Job<'_>, args: &[&str]) -> std::process::Command {
    let mut command = proc::command("rustup");
    command.current_dir(&job.ctx.root).env("CARGO_TERM_COLOR", "never").args(args);
    command
}

fn sim(job: &mut Job<'_>) -> anyhow::Result<()> {
    // Not the release profile: a judge's panic must unwind, so that the next seed runs.
    let program = sim_program(job)?;
    let seeds = job.ctx.sim_seeds.to_string();
    job.check(&format!("{seeds} seeds"), |job| {
        let mut command = proc::command(&program);
        command.current_dir(&job.ctx.root).args(["--seeds", &seeds]);
        job.run(&mut command, BUILD_WITHIN).map(drop)
    });
    job.check("every story, five seeds of each", |job| {
        let all = ["--scenario", "all", "--seeds", "5", "--devices", "20"];
        let args = [&["run", "--locked", "-p", "diskstream-sim", "--"][..], &all].concat();
        job.run(&mut job.ctx.cargo(&args), BUILD_WITHIN).map(drop)
    });
    job.check("the planted mutations are caught", |job| {
        let mut command = proc::command(&program);
        command.current_dir(&job.ctx.root).arg("--mutations");
        let text = job.run(&mut command, BUILD_WITHIN)?;
        let caught = text
            .lines()
            .filter(|line| line.contains("caught") && !line.contains("not caught"))
            .count();
        anyhow::ensure!(caught >= 12, "{caught} of 12 mutations caught");
        Ok(())
    });
    Ok(())
}

/// The simulator's program. The unit tests have built it, with the features of the whole workspace; alone it is built with its own,
/// which takes a minute and a half of compiling what is there already.
fn sim_program(job: &mut Job<'_>) -> anyhow::Result<PathBuf> {
    if !job.ctx.tests_built.get() {
        let args = ["build", "--locked", "-p", "diskstream-sim"];
        job.run(&mut job.ctx.cargo(&args), BUILD_WITHIN)?;
    }
    let program = job.ctx.target.join("debug").join("diskstream-sim");
    anyhow::ensure!(program.exists(), "{} is missing", program.display());
    Ok(program)
}

fn fuzz(job: &mut Job<'_>) -> anyhow::Result<()> {
    let fuzz = job.ctx.root.join("fuzz");
    anyhow::ensure!(fuzz.join("Cargo.toml").exists(), "fuzz/ is missing");
    if install::find("cargo-fuzz").is_none() && !cargo_bin_has("cargo-fuzz") {
        job.run(
            &mut job.ctx.cargo(&["install", "cargo-fuzz", "--locked", "--quiet"]),
            BUILD_WITHIN,
        )?;
    }
    let list = job.run(&mut fuzz_command(job, &["list"]), Duration::from_mins(5))?;
    let targets: Vec<_> = list.split_whitespace().map(str::to_owned).collect();
    anyhow::ensure!(!targets.is_empty(), "no fuzz target");
    job.run(&mut fuzz_command(job, &["build", FUZZ_UNITS]), BUILD_WITHIN)?;
    let scratch = Scratch::small()?;
    for target in targets {
        job.check(&target, |job| {
            // What is found goes into the first folder; the repository's own corpus is only read.
            let found = scratch.path(&target);
            fs::create_dir(&found)?;
            let mut command = fuzz_command(job, &["run", FUZZ_UNITS, &target]);
            command.arg(found);
            let corpus = fuzz.join("corpus").join(&target);
            if corpus.is_dir() {
                command.arg(corpus);
            }
            command.args([
                "--",
                "-max_total_time=5",
                "-timeout=5",
                "-rss_limit_mb=2048",
                "-seed=1",
            ]);
            job.run(&mut command, Duration::from_mins(5)).map(drop)
        });
    }
    Ok(())
}

/// cargo-fuzz on the stable toolchain: RUSTC_BOOTSTRAP lets it switch the sanitizer's coverage on.
fn fuzz_command(job: &Job<'_>, args: &[&str]) -> std::process::Command {
    let mut command = job.ctx.cargo(&["fuzz"]);
    command
        .args(args)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", job.ctx.target.join("fuzz"));
    command
}

fn cargo_bin_has(tool: &str) -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|h| h.join(".cargo")));
    home.is_some_and(|h| h.join("bin").join(tool).exists())
}

fn build(job: &mut Job<'_>) -> anyhow::Result<()> {
    if job.ctx.stand_in || job.ctx.no_build {
        job.note("told not to");
        return Ok(());
    }
    // Not the simulator: it switches planted defects on, which then are in every program of the same build. (And `cargo run` of the
    // quickstart would build the node once more without them.)
    let args = ["build", "--release", "--workspace", "--exclude=diskstream-sim", "--exclude=xtask"];
    let mut command = job.ctx.cargo(&args);
    job.run(command.args(["--bins", "--locked"]), BUILD_WITHIN)?;
    for name in ["diskstream-node", "diskstream-device", "diskstream-bench"] {
        let size = fs::metadata(job.ctx.program(name))?.len();
        job.note(format!("{name}: {:.1} MiB", size as f64 / f64::from(1 << 20)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_stand_before_what_needs_them() {
        for (i, step) in ALL.iter().enumerate() {
            for need in step.needs {
                assert!(ALL[..i].iter().any(|s| s.name == *need), "{} needs {need}", step.name);
            }
        }
    }
}
