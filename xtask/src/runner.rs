//! Steps: what the test run is made of, how they are chosen, timed, logged and counted.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::proc::{self, Log};
use crate::{clock, install};

/// How much of a failing step's log is shown.
const LINES_OF_A_LOG: usize = 60;
/// How much of what a check says is shown; all of it is in the log.
const LINES_OF_A_FAILURE: usize = 30;
/// Steps that the closing line names with their time.
const SLOWEST_SHOWN: usize = 8;

/// What every step knows.
#[derive(Debug)]
pub struct Ctx {
    /// The repository.
    pub root: PathBuf,
    /// Where cargo builds: `target`, or what `CARGO_TARGET_DIR` says.
    pub target: PathBuf,
    /// How many seeds the simulator runs.
    pub sim_seeds: u32,
    /// Take the release programs as they are.
    pub no_build: bool,
    /// Let the export be qemu-nbd instead of our node and device: tells whether a failure is ours or the tools'.
    pub stand_in: bool,
    /// `install` may use apt: then a missing tool is a failure, not a reason to skip.
    pub can_install: bool,
    /// The unit tests were built in this run, and the programs that they start.
    pub tests_built: Cell<bool>,
}

impl Ctx {
    /// A folder for images that are kept between runs.
    pub fn images(&self) -> anyhow::Result<PathBuf> {
        let path = self.target.join("e2e");
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// A program of ours, as built for release.
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The repository's cargo.
    pub fn cargo(&self, args: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = proc::command(cargo);
        command.current_dir(&self.root).env("CARGO_TERM_COLOR", "never").args(args);
        command
    }
}

/// Why a test could not run. Not a failure, but counted and listed.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The error that makes a step or a check count as skipped.
pub fn skip(why: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(why.into()))
}

/// A step of the test run.
#[derive(Debug)]
pub struct Step {
    /// What `--only` and `--skip` call it, and its log.
    pub name: &'static str,
    /// What it proves, in a line.
    pub what: &'static str,
    /// Steps that must have passed before.
    pub needs: &'static [&'static str],
    /// Does it.
    pub run: fn(&mut Job<'_>) -> anyhow::Result<()>,
}

/// One run of a step: its log and its counts.
#[derive(Debug)]
pub struct Job<'a> {
    /// What every step knows.
    pub ctx: &'a Ctx,
    /// The step's log.
    pub log: Log,
    name: &'static str,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
    notes: Vec<String>,
}

impl Job<'_> {
    /// Runs a command of at most `within`; fails when it fails. Gives its standard output.
    pub fn run(&mut self, command: &mut Command, within: Duration) -> anyhow::Result<String> {
        let name = proc::show(command).split(' ').next().unwrap_or_default().to_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        proc::run_ok(command, &name, &self.log, within)
    }

    /// A line of the log.
    pub fn say(&self, text: &str) {
        self.log.line(text);
    }

    /// Something that the final table shows: a measured figure, a choice made.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.log.line(&text);
        self.notes.push(text);
    }

    /// One named check inside the step. Its failure is counted and told, and the step goes on.
    pub fn check(&mut self, name: &str, run: impl FnOnce(&mut Self) -> anyhow::Result<()>) {
        self.log.line(&format!("--- {name}"));
        let began = clock::now();
        let result = run(self);
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                self.log.line(&format!("--- {name}: passed, {seconds:.1} s"));
            }
            Err(e) if e.is::<Skip>() => {
                self.log.line(&format!("--- {name}: SKIPPED: {e}"));
                self.skipped.push(format!("{name}: {e}"));
            }
            Err(e) => {
                self.failed += 1;
                self.failures.push(format!("{name}: {e:#}"));
                self.log.line(&format!("--- {name}: FAILED, {seconds:.1} s: {e:#}"));
            }
        }
    }

    /// Adds the counts of a test runner.
    pub fn count(&mut self, passed: usize, failed: usize, skipped: Vec<String>) {
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(skipped);
    }

    /// What failed tests said; counted they are already.
    pub fn tell_failures(&mut self, failures: Vec<String>) {
        self.failures.extend(failures);
    }

    /// Skips the step, or fails it where tools can be installed, when one of these programs is missing.
    pub fn need_tools(&self, tools: &[&str]) -> anyhow::Result<()> {
        let missing: Vec<_> =
            tools.iter().filter(|t| install::find(t).is_none()).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why =
            format!("{} not installed ({})", missing.join(", "), install::packages_of(&missing));
        if self.ctx.can_install { anyhow::bail!(why) } else { Err(skip(why)) }
    }
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    verdict: Verdict,
    seconds: f64,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
    notes: Vec<String>,
}

/// The steps that `only` and `skip` leave, with what they need, in order.
pub fn choose<'a>(
    all: &'a [Step],
    only: &[String],
    skip: &[String],
) -> anyhow::Result<Vec<&'a Step>> {
    for name in only.iter().chain(skip) {
        if !all.iter().any(|s| matches(s, name)) {
            anyhow::bail!("no step is called {name:?}; `cargo xtask test --list` names them");
        }
    }
    let mut wanted: HashSet<&str> = all
        .iter()
        .filter(|s| only.is_empty() || only.iter().any(|name| matches(s, name)))
        .map(|s| s.name)
        .collect();
    // Needs point backwards, so one pass from the end finds them all.
    for step in all.iter().rev() {
        if wanted.contains(step.name) {
            wanted.extend(step.needs);
        }
    }
    Ok(all
        .iter()
        .filter(|s| wanted.contains(s.name) && !skip.iter().any(|name| matches(s, name)))
        .collect())
}

/// A name chooses the step itself, and `e2e` every step of that family.
fn matches(step: &Step, name: &str) -> bool {
    step.name == name || step.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
}

/// Runs the steps; whether nothing failed.
pub fn run(ctx: &Ctx, steps: &[&Step]) -> anyhow::Result<bool> {
    let logs = ctx.target.join("xtask");
    fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    let began = clock::now();
    let mut rows: Vec<Row> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        println!("[{:2}/{}] {:<14} {}", i + 1, steps.len(), step.name, step.what);
        let row = run_step(ctx, step, &rows, &logs)?;
        report(ctx, &row);
        rows.push(row);
    }
    print_table(&rows, began.elapsed().as_secs_f64());
    Ok(rows.iter().all(|row| row.failed == 0))
}

fn run_step(ctx: &Ctx, step: &Step, rows: &[Row], logs: &std::path::Path) -> anyhow::Result<Row> {
    let log = Log::create(&logs.join(format!("{}.log", step.name)))?;
    let mut job = Job {
        ctx,
        log,
        name: step.name,
        passed: 0,
        failed: 0,
        failures: Vec::new(),
        skipped: Vec::new(),
        notes: Vec::new(),
    };
    let began = clock::now();
    let broken = step.needs.iter().find(|need| {
        rows.iter().any(|row| row.name == **need && !matches!(row.verdict, Verdict::Passed))
    });
    let result = match broken {
        Some(need) => Err(skip(format!("{need} did not pass"))),
        None => (step.run)(&mut job),
    };
    Ok(job.finish(result, began.elapsed().as_secs_f64()))
}

impl Job<'_> {
    fn finish(mut self, result: anyhow::Result<()>, seconds: f64) -> Row {
        let verdict = match result {
            Err(e) if e.is::<Skip>() => {
                self.skipped.push(e.to_string());
                if self.failed > 0 {
                    Verdict::Failed(format!("{} checks failed", self.failed))
                } else {
                    Verdict::Skipped(e.to_string())
                }
            }
            Err(e) => {
                self.failed = self.failed.max(1);
                self.log.line(&format!("FAILED: {e:#}"));
                Verdict::Failed(first_line(&format!("{e:#}")))
            }
            Ok(()) if self.failed > 0 => Verdict::Failed(format!("{} checks failed", self.failed)),
            Ok(()) => {
                if self.passed == 0 && self.skipped.is_empty() {
                    self.passed = 1;
                }
                Verdict::Passed
            }
        };
        Row {
            name: self.name,
            verdict,
            seconds,
            passed: self.passed,
            failed: self.failed,
            failures: self.failures,
            skipped: self.skipped,
            notes: self.notes,
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn report(ctx: &Ctx, row: &Row) {
    let path = ctx.target.join("xtask").join(format!("{}.log", row.name));
    match &row.verdict {
        Verdict::Passed => println!("        ok, {:.1} s", row.seconds),
        Verdict::Skipped(why) => println!("        SKIPPED: {why}"),
        Verdict::Failed(why) => {
            println!("        FAILED after {:.1} s: {why}", row.seconds);
            // What failed inside the step first: in the log it may lie far above the end.
            for line in row.failures.iter().flat_map(|f| f.lines().take(LINES_OF_A_FAILURE)) {
                println!("        ! {line}");
            }
            println!("        the end of {}:", path.display());
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LINES_OF_A_LOG)..] {
                println!("        | {line}");
            }
        }
    }
}

fn print_table(rows: &[Row], seconds: f64) {
    println!(
        "\n{:<14} {:>8} {:>7} {:>7} {:>7}  result",
        "step", "seconds", "passed", "failed", "skipped"
    );
    for row in rows {
        let result = match &row.verdict {
            Verdict::Passed => "ok".to_owned(),
            Verdict::Failed(why) => format!("FAILED: {why}"),
            Verdict::Skipped(why) => format!("SKIPPED: {why}"),
        };
        println!(
            "{:<14} {:>8.1} {:>7} {:>7} {:>7}  {result}",
            row.name,
            row.seconds,
            row.passed,
            row.failed,
            row.skipped.len()
        );
        for note in &row.notes {
            println!("{:>16}{note}", "");
        }
    }
    let mut skipped =
        rows.iter().flat_map(|r| r.skipped.iter().map(move |why| (r.name, why))).peekable();
    if skipped.peek().is_some() {
        println!("\nskipped:");
        for (name, why) in skipped {
            println!("  {name}: {why}");
        }
    }
    let sum = |count: fn(&Row) -> usize| rows.iter().map(count).sum::<usize>();
    println!("\n{seconds:.0} s in all, {}", slowest(rows));
    println!(
        "{} passed, {} failed, {} skipped",
        sum(|r| r.passed),
        sum(|r| r.failed),
        sum(|r| r.skipped.len())
    );
}

/// Where the time went: the steps that took longest, the longest first.
fn slowest(rows: &[Row]) -> String {
    let mut times: Vec<_> = rows.iter().map(|row| (row.name, row.seconds)).collect();
    times.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let shown = times.iter().take(SLOWEST_SHOWN).filter(|(_, seconds)| *seconds >= 1.0);
    let shown: Vec<_> = shown.map(|(name, seconds)| format!("{name} {seconds:.0}")).collect();
    format!("the longest: {}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_steps_are_named_first() {
        let row = |name, seconds| Row {
            name,
            verdict: Verdict::Passed,
            seconds,
            passed: 1,
            failed: 0,
            failures: Vec::new(),
            skipped: Vec::new(),
            notes: Vec::new(),
        };
        let rows = [row("fmt", 0.2), row("unit", 320.4), row("clippy", 90.0), row("sim", 150.0)];
        assert_eq!(slowest(&rows), "the longest: unit 320, sim 150, clippy 90");
    }

    fn steps() -> Vec<Step> {
        let step = |name, needs| Step { name, what: "", needs, run: |_| Ok(()) };
        vec![
            step("fmt", &[]),
            step("build", &[]),
            step("e2e-copy", &["build"]),
            step("e2e-vm", &["build"]),
        ]
    }

    fn chosen(only: &[&str], skip: &[&str]) -> Vec<&'static str> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        choose(&steps(), &owned(only), &owned(skip)).unwrap().iter().map(|s| s.name).collect()
    }

    #[test]
    fn only_brings_what_is_needed() {
        assert_eq!(chosen(&["e2e-vm"], &[]), ["build", "e2e-vm"]);
        assert_eq!(chosen(&["e2e"], &["e2e-vm"]), ["build", "e2e-copy"]);
        assert_eq!(chosen(&[], &["e2e"]), ["fmt", "build"]);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(choose(&steps(), &["e2".to_owned()], &[]).is_err());
    }
}
