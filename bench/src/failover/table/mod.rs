//! `failover-table`: the cases that a farm must stand, each run several times with real processes, against what it must and what
//! it should reach.
//!
//! | part | does |
//! |---|---|
//! | `cases` | what is run, with which bounds |
//! | `verdict` | the arithmetic of the table |
//! | `page` | the table as it grows |
//! | `progress` | how long the rest takes |

mod cases;
mod page;
mod progress;
mod verdict;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use diskstream_ring::clock;
use serde_json::Value;

use self::cases::{CASES, Case, ELSEWHERE, FLEETS, GROWING};
use self::page::Page;
use self::progress::Progress;
use self::verdict::Rows;
use crate::sys;

/// Measurement of a kill under a growing fleet, in seconds.
const GROWING_SECONDS: u32 = 10;

/// Flags of `failover-table`.
#[derive(Debug, clap::Args)]
pub struct TableArgs {
    /// Devices of each case.
    #[arg(long, default_value_t = 250)]
    pub devices: u16,
    /// Runs of each case, with a seed of their own.
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// Reads per second of all devices together.
    #[arg(long, default_value_t = 20_000)]
    pub rate: u64,
    /// One run of each case, shorter ones, and no table of growing fleets unless --only names it.
    #[arg(long)]
    pub quick: bool,
    /// Only cases whose name contains this; may be given several times. "devices:" means the table of growing fleets.
    #[arg(long)]
    pub only: Vec<String>,
    /// Name the cases, and do nothing.
    #[arg(long)]
    pub list: bool,
    /// File for the table, as Markdown, which grows with each case; it is printed anyway.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Folder for the JSON object of each run.
    #[arg(long)]
    pub reports: Option<PathBuf>,
    /// Do not pin nodes and fleet to cores.
    #[arg(long)]
    pub no_pin: bool,
}

impl TableArgs {
    fn runs(&self) -> u32 {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    fn seconds(&self, case: &Case) -> u32 {
        if self.quick { case.quick_seconds } else { case.seconds }
    }

    fn names(&self, name: &str) -> bool {
        self.only.iter().any(|only| name.contains(only.as_str()))
    }

    fn cases(&self) -> Vec<&'static Case> {
        let wanted = |case: &&Case| self.only.is_empty() || self.names(case.name);
        CASES.iter().filter(wanted).collect()
    }

    fn grows(&self) -> bool {
        if self.only.is_empty() { !self.quick } else { self.names(GROWING) }
    }

    /// What no single flag can tell.
    fn check(&self) -> anyhow::Result<()> {
        for only in &self.only {
            let known = CASES.iter().map(|case| case.name).chain([GROWING]);
            ensure!(
                known.into_iter().any(|name| name.contains(only.as_str())),
                "--only {only:?}: no case has that in its name; --list names them"
            );
        }
        Ok(())
    }
}

/// Runs the cases and prints the table.
///
/// # Errors
/// A case that failed its `must`, or could not be run.
pub fn run(args: &TableArgs) -> anyhow::Result<()> {
    if args.list {
        return list();
    }
    args.check()?;
    if let Some(folder) = &args.reports {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut page = Page::new(args.out.as_deref())?;
    let cases = args.cases();
    let lengths = cases.iter().map(|case| args.seconds(case));
    let fleets = FLEETS.iter().filter(|_| args.grows()).map(|_| GROWING_SECONDS);
    let each = lengths.chain(fleets);
    let mut progress =
        Progress::new(each.flat_map(|seconds| std::iter::repeat_n(seconds, args.runs() as usize)));
    page.add(&head(args))?;
    for case in &cases {
        let seconds = args.seconds(case);
        let reports = repeated(args, &mut progress, case.name, case.flags, args.devices, seconds)?;
        page.judged(Rows::of(case, seconds, &reports))?;
    }
    if args.grows() {
        growing(args, &mut progress, &mut page)?;
    }
    page.add(&elsewhere())?;
    let failed = page.failed();
    if failed.is_empty() { Ok(()) } else { bail!("must not hold: {}", failed.join("; ")) }
}

fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for case in &CASES {
        writeln!(out, "{:<52} {}", case.name, case.flags)?;
    }
    writeln!(out, "{GROWING:<52} --mode kill")?;
    write!(out, "{}", elsewhere())?;
    Ok(out.flush()?)
}

fn head(args: &TableArgs) -> String {
    let runs = args.runs();
    let plural = if runs == 1 { "" } else { "s" };
    format!(
        "{} devices, {} reads/s, {runs} run{plural} of each case, the worst run decides.\n\n\
         | case | measured for | figure | must | aim | measured | |\n|---|---|---|---|---|---|---|\n",
        args.devices, args.rate
    )
}

fn elsewhere() -> String {
    let mut text = String::from("\nShown by other commands:\n\n");
    for (what, command) in ELSEWHERE {
        let _ = writeln!(text, "* {what}: `{command}`");
    }
    text
}

/// Kills with growing fleets.
fn growing(args: &TableArgs, progress: &mut Progress, page: &mut Page) -> anyhow::Result<()> {
    page.add(
        "\n| devices | longest stall after a kill, ms | all moved after, ms | median stall, ms | fleet waited for its core, s | \
         wrong bytes | |\n|---|---|---|---|---|---|---|\n",
    )?;
    let mut worst = Vec::new();
    for devices in FLEETS {
        let reports = repeated(args, progress, "devices", "--mode kill", devices, GROWING_SECONDS)?;
        let (rows, stall) = Rows::of_fleet(devices, &reports);
        page.judged(rows)?;
        worst.push((devices, stall));
    }
    page.judged(Rows::of_growth(&worst))
}

/// The runs of a case, each with a seed of its own. One that gives no report is told on standard error, and counts as failed.
fn repeated(
    args: &TableArgs,
    progress: &mut Progress,
    name: &str,
    flags: &str,
    devices: u16,
    seconds: u32,
) -> anyhow::Result<Vec<Value>> {
    let mut reports = Vec::new();
    for seed in 1..=args.runs() {
        progress.begins(&format!("{devices} devices, {name}, run {seed} of {}", args.runs()));
        let began = clock::now();
        let output = failover(args, flags, devices, seconds, seed)?;
        progress.ended(seconds, clock::now().since(began));
        let mut err = std::io::stderr();
        // A run with a fault prints its report all the same.
        let report: Value = serde_json::from_slice(&output).unwrap_or_default();
        if report.is_null() {
            let _ = writeln!(err, "  the run gave no report; its reason is above");
        } else if report["placement"]["as_wanted"] != true {
            let _ = writeln!(err, "  began otherwise than wanted: {}", report["placement"]);
        }
        if let Some(folder) = &args.reports {
            let file = name.replace([' ', ',', '%', '\''], "-");
            let path = folder.join(format!("{file}-{devices}-{seed}.json"));
            std::fs::write(&path, &output)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Runs `failover` as a process, because a run leaves its own pinned and in a namespace; gives what it prints.
fn failover(
    args: &TableArgs,
    flags: &str,
    devices: u16,
    seconds: u32,
    seed: u32,
) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("failover").args(flags.split_whitespace());
    command.args(["--devices", &devices.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--seed", &seed.to_string(), "--rate", &args.rate.to_string(), "--json"]);
    if args.no_pin {
        command.arg("--no-pin");
    }
    sys::end_with_parent(&mut command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    Ok(output.context("running `failover`")?.stdout)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TableArgs,
    }

    fn args(flags: &[&str]) -> TableArgs {
        Line::try_parse_from([&["failover-table"], flags].concat()).unwrap().args
    }

    #[test]
    fn only_takes_several_names_and_refuses_unknown_ones() {
        let some = args(&["--only", "stop, 6902", "--only", "cut"]);
        some.check().unwrap();
        let names: Vec<_> = some.cases().iter().map(|case| case.name).collect();
        assert_eq!(names, ["cut", "stop, 6902 blocked"]);
        assert!(!some.grows());
        let error = args(&["--only", "burn"]).check().unwrap_err().to_string();
        assert!(error.contains("burn") && error.contains("--list"), "{error}");
    }

    #[test]
    fn growing_fleets_are_left_out_of_quick_tables_unless_named() {
        assert!(args(&[]).grows() && !args(&["--quick"]).grows());
        let named = args(&["--quick", "--only", "devices:"]);
        assert!(named.grows() && named.cases().is_empty());
    }
}
