//! `failover-table`: the cases that a farm must stand, each run several times with real processes, against what it must and what
//! it should reach.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::sys;

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
    /// One run of each case, shorter ones, and no table of growing fleets.
    #[arg(long)]
    pub quick: bool,
    /// Only cases whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// File for the table, as Markdown; it is printed anyway.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Folder for the JSON object of each run.
    #[arg(long)]
    pub reports: Option<PathBuf>,
    /// Do not pin nodes and fleet to cores.
    #[arg(long)]
    pub no_pin: bool,
}

/// A figure of a report and its bounds.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// Key of the report.
    key: &'static str,
    unit: &'static str,
    /// At most this, or the case failed.
    must: f64,
    /// At most this is wanted.
    aim: f64,
}

/// A case.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    /// Flags of `failover`.
    flags: &'static str,
    seconds: u32,
    /// The same with --quick.
    quick_seconds: u32,
    bounds: &'static [Bound],
}

const fn stall(must: f64, aim: f64) -> Bound {
    Bound { key: "stall_ms_max", unit: "ms", must, aim }
}

/// What no case may do. Reports with such a fault fail by themselves too.
const NEVER: [Bound; 2] = [
    Bound { key: "reads_failed", unit: "", must: 0.0, aim: 0.0 },
    Bound { key: "wrong_bytes", unit: "", must: 0.0, aim: 0.0 },
];
const UNNEEDED: Bound = Bound { key: "unneeded_moves", unit: "", must: 0.0, aim: 0.0 };

/// The cases (issue 3, "What it must show").
const CASES: [Case; 11] = [
    Case {
        name: "kill",
        flags: "--mode kill",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(1000.0, 250.0), UNNEEDED],
    },
    Case {
        name: "kill, refusals get through",
        flags: "--mode kill --refusals",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(1000.0, 250.0), UNNEEDED],
    },
    Case {
        name: "cut",
        flags: "--mode cut",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(1000.0, 250.0), UNNEEDED],
    },
    Case {
        name: "pause, resumed after 10 s",
        flags: "--mode pause",
        seconds: 30,
        quick_seconds: 24,
        bounds: &[stall(1000.0, 250.0), UNNEEDED],
    },
    Case {
        name: "kill at 5 % loss and 20 ms jitter",
        flags: "--mode kill --loss 5% --jitter-ms 20",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(2000.0, 500.0), UNNEEDED],
    },
    Case {
        name: "stop",
        flags: "--mode stop",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(100.0, 20.0), UNNEEDED],
    },
    Case {
        name: "stop, 6902 blocked",
        flags: "--mode stop --block-notice-port",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(100.0, 20.0), UNNEEDED],
    },
    Case {
        name: "stop, idle devices, 6902 blocked",
        flags: "--mode stop --block-notice-port --idle",
        seconds: 30,
        quick_seconds: 30,
        bounds: &[
            Bound { key: "left_at_exit", unit: "devices", must: 0.0, aim: 0.0 },
            Bound { key: "all_moved_ms", unit: "ms", must: 15_000.0, aim: 1000.0 },
        ],
    },
    Case {
        name: "nothing happens, 5 % loss and 20 ms jitter",
        flags: "--mode none --loss 5% --jitter-ms 20",
        seconds: 60,
        quick_seconds: 15,
        bounds: &[UNNEEDED, Bound { key: "hedged_percent", unit: "%", must: 2.0, aim: 1.0 }],
    },
    Case {
        name: "all nodes gone for 30 s, re-login",
        flags: "--mode kill --all --gone-seconds 30",
        seconds: 20,
        quick_seconds: 14,
        bounds: &[Bound { key: "all_reading_ms", unit: "ms", must: 3000.0, aim: 1000.0 }],
    },
    Case {
        name: "kill, and a third node's image differs by one byte",
        flags: "--mode kill --nodes 3 --odd-node",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[
            Bound { key: "devices_at_odd_node", unit: "devices", must: 0.0, aim: 0.0 },
            stall(1000.0, 250.0),
        ],
    },
];

/// Fleets that grow: the longest stall of a kill should not.
const FLEETS: [u16; 3] = [250, 1000, 4000];
/// A stall of the largest fleet may be this many times the smallest one's and still count as flat. Guessed: what runs of one
/// size differ by.
const FLAT: f64 = 2.0;

/// Runs the cases and prints the table.
///
/// # Errors
/// A case that failed its `must`, or could not be run.
pub fn run(args: &TableArgs) -> anyhow::Result<()> {
    let runs = if args.quick { 1 } else { args.runs.max(1) };
    if let Some(folder) = &args.reports {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut table = format!(
        "{} devices, {} reads/s, {runs} run{} of each case, the worst run decides.\n\n\
         | case | figure | must | aim | measured | |\n|---|---|---|---|---|---|\n",
        args.devices,
        args.rate,
        if runs == 1 { "" } else { "s" }
    );
    let mut failed = Vec::new();
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let seconds = if args.quick { case.quick_seconds } else { case.seconds };
        let reports = (1..=runs)
            .map(|seed| one_run(args, case.name, case.flags, args.devices, seconds, seed))
            .collect::<anyhow::Result<Vec<_>>>()?;
        failed.extend(rows(&mut table, case, &reports));
    }
    if !args.quick && wanted("devices") {
        growing(args, runs, &mut table)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{table}")?;
    out.flush()?;
    if let Some(path) = &args.out {
        std::fs::write(path, &table).with_context(|| format!("writing {}", path.display()))?;
    }
    if failed.is_empty() { Ok(()) } else { bail!("must not hold: {}", failed.join("; ")) }
}

/// A row for each figure of a case; gives those that failed.
fn rows(table: &mut String, case: &Case, reports: &[Value]) -> Vec<String> {
    let mut failed = Vec::new();
    for bound in case.bounds.iter().chain(&NEVER) {
        let figures: Vec<Option<f64>> = reports.iter().map(|r| figure(r, bound.key)).collect();
        let (measured, worst) = spread(&figures);
        let verdict = match worst {
            Some(worst) if worst <= bound.aim => "aim",
            Some(worst) if worst <= bound.must => "must",
            _ => {
                failed.push(format!("{}: {} {measured}", case.name, bound.key));
                "**failed**"
            }
        };
        // What never may be and never was needs no line of its own.
        if NEVER.iter().any(|never| never.key == bound.key) && verdict == "aim" {
            continue;
        }
        let Bound { key, unit, must, aim } = bound;
        let _ = writeln!(
            table,
            "| {} | {key} | ≤ {must} {unit} | ≤ {aim} {unit} | {measured} {unit} | {verdict} |",
            case.name
        );
    }
    failed
}

/// Smallest and largest of the runs' figures, and the largest as a number; none when a run has none.
fn spread(figures: &[Option<f64>]) -> (String, Option<f64>) {
    let known: Option<Vec<f64>> = figures.iter().copied().collect();
    let Some(known) = known.filter(|known| !known.is_empty()) else {
        return ("never".to_owned(), None);
    };
    let (least, most) =
        known.iter().fold((f64::MAX, f64::MIN), |(least, most), &f| (least.min(f), most.max(f)));
    let text = if known.len() == 1 { format!("{most}") } else { format!("{least} – {most}") };
    (text, Some(most))
}

/// A figure of a report; some are made of others.
fn figure(report: &Value, key: &str) -> Option<f64> {
    let number = |key: &str| report.get(key).and_then(Value::as_f64);
    match key {
        // A node that never exited kept nobody waiting, but was not rid of its devices either.
        "left_at_exit" => Some(number("devices")? - number("moved_before_exit")?),
        key => number(key),
    }
}

/// Kills with growing fleets.
fn growing(args: &TableArgs, runs: u32, table: &mut String) -> anyhow::Result<()> {
    let _ = writeln!(
        table,
        "\n| devices | longest stall after a kill, ms | all moved after, ms | median stall, ms | fleet waited for its core, s |\n\
         |---|---|---|---|---|"
    );
    let mut ends = Vec::new();
    for devices in FLEETS {
        let reports = (1..=runs)
            .map(|seed| one_run(args, "devices", "--mode kill", devices, 10, seed))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let cell = |key: &str| {
            spread(&reports.iter().map(|report| figure(report, key)).collect::<Vec<_>>())
        };
        let (stalls, worst) = cell("stall_ms_max");
        ends.extend(worst);
        let _ = writeln!(
            table,
            "| {devices} | {stalls} | {} | {} | {} |",
            cell("all_moved_ms").0,
            cell("stall_ms_p50").0,
            cell("fleet_cpu_wait_s").0
        );
    }
    if let (Some(first), Some(last)) = (ends.first(), ends.last()) {
        let word = if *last <= first * FLAT { "flat" } else { "**not flat**" };
        let _ = writeln!(table, "\n{} → {} devices: {word}.", FLEETS[0], FLEETS[2]);
    }
    Ok(())
}

/// Runs `failover` as a process, because a run leaves its own pinned and in a namespace.
fn one_run(
    args: &TableArgs,
    name: &str,
    flags: &str,
    devices: u16,
    seconds: u32,
    seed: u32,
) -> anyhow::Result<Value> {
    let mut err = std::io::stderr();
    let _ = writeln!(err, "{devices} devices, {name}, run {seed}");
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("failover").args(flags.split_whitespace());
    command.args(["--devices", &devices.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--seed", &seed.to_string(), "--rate", &args.rate.to_string(), "--json"]);
    if args.no_pin {
        command.arg("--no-pin");
    }
    sys::end_with_parent(&mut command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    // A run with a fault prints its report all the same.
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{name}: the run gave no report; its reason is above"))?;
    let settled = report["placement"]["as_wanted"].as_bool().unwrap_or(false);
    if !settled {
        let _ = writeln!(err, "  began otherwise than wanted: {}", report["placement"]);
    }
    if let Some(folder) = &args.reports {
        let file = name.replace([' ', ',', '%', '\''], "-");
        let path = folder.join(format!("{file}-{devices}-{seed}.json"));
        std::fs::write(&path, &output.stdout)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_worst_run_decides_and_a_missing_figure_fails() {
        let case = &CASES[0];
        let report = |stall: f64| json!({ "stall_ms_max": stall, "unneeded_moves": 0, "reads_failed": 0, "wrong_bytes": 0 });
        let verdict = |reports: &[Value]| {
            let mut table = String::new();
            let failed = rows(&mut table, case, reports);
            (table, failed.len())
        };
        let (table, failed) = verdict(&[report(100.0), report(240.5)]);
        assert!(table.contains("| 100 – 240.5 ms | aim |") && failed == 0, "{table}");
        assert!(!table.contains("wrong_bytes"), "{table}");
        let (table, failed) = verdict(&[report(100.0), report(900.0)]);
        assert!(table.contains("| must |") && failed == 0, "{table}");
        let (table, failed) = verdict(&[report(100.0), report(1001.0)]);
        assert!(table.contains("**failed**") && failed == 1, "{table}");
        let (_, failed) = verdict(&[json!({})]);
        assert_eq!(failed, 4, "nothing was measured");
        let mut wrong = report(1.0);
        wrong["wrong_bytes"] = 1.into();
        let (table, failed) = verdict(&[wrong]);
        assert!(table.contains("wrong_bytes") && failed == 1, "{table}");
    }

    #[test]
    fn devices_left_at_exit_are_those_that_had_not_moved() {
        let report = json!({ "devices": 10, "moved_before_exit": 7 });
        assert_eq!(figure(&report, "left_at_exit"), Some(3.0));
        assert_eq!(
            figure(&json!({ "devices": 10, "moved_before_exit": null }), "left_at_exit"),
            None
        );
    }

    #[test]
    fn every_case_has_flags_that_parse_and_figures_that_exist() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: super::super::FailoverArgs,
        }
        for case in &CASES {
            let words = std::iter::once("failover").chain(case.flags.split_whitespace());
            let line = Line::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            line.args.check().unwrap();
            assert!(case.bounds.iter().all(|bound| bound.aim <= bound.must), "{}", case.name);
        }
    }
}
