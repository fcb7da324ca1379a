//! The arithmetic of the table: what runs measured against their bounds. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::cases::{Bound, Case, DEATH, FLAT_PLUS_MS, FLAT_TIMES, NEVER};

/// Lines of a table, and what among them must not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Whole lines of Markdown.
    pub lines: String,
    /// What failed: case, figure, measured.
    pub failed: Vec<String>,
}

impl Rows {
    /// A line for each figure of a case. A run that gave no report has no figures, and fails all of them.
    pub fn of(case: &Case, seconds: u32, reports: &[Value]) -> Rows {
        let mut rows = Rows::default();
        for bound in case.bounds.iter().chain(&NEVER) {
            let (measured, worst) = spread(reports, bound.key);
            let Bound { key, unit, must, aim } = bound;
            let verdict = rows.judge(bound, worst, case.name, &measured);
            // What never may be and never was needs no line of its own.
            if NEVER.iter().any(|never| never.key == *key) && verdict == "aim" {
                continue;
            }
            let name = case.name;
            let length = length(seconds, case.seconds);
            let _ = writeln!(
                rows.lines,
                "| {name} | {length} | {key} | ≤ {must} {unit} | ≤ {aim} {unit} | {measured} {unit} | {verdict} |"
            );
        }
        rows
    }

    /// The line of one fleet that a node was killed under; gives its longest stall too.
    pub fn of_fleet(devices: u16, reports: &[Value]) -> (Rows, Option<f64>) {
        let mut rows = Rows::default();
        let (stalls, worst) = spread(reports, DEATH.key);
        let name = format!("{devices} devices");
        let verdict = rows.judge(&DEATH, worst, &name, &stalls);
        for never in &NEVER {
            let (measured, worst) = spread(reports, never.key);
            rows.judge(never, worst, &name, &measured);
        }
        let cell = |key| spread(reports, key).0;
        let _ = writeln!(
            rows.lines,
            "| {devices} | {stalls} | {} | {} | {} | {} | {verdict} |",
            cell("all_moved_ms"),
            cell("stall_ms_p50"),
            cell("fleet_cpu_wait_s"),
            cell("wrong_bytes")
        );
        (rows, worst)
    }

    /// Whether the longest stalls of growing fleets, smallest fleet first, are flat.
    pub fn of_growth(worst: &[(u16, Option<f64>)]) -> Rows {
        let mut rows = Rows::default();
        let (Some(&(few, first)), Some(&(many, last))) = (worst.first(), worst.last()) else {
            return rows;
        };
        let bound = first.map(|first| first * FLAT_TIMES + FLAT_PLUS_MS);
        let flat = last.zip(bound).is_some_and(|(last, bound)| last <= bound);
        let shown =
            |figure: Option<f64>| figure.map_or("never".to_owned(), |f| format!("{f:.0} ms"));
        let said = format!(
            "{few} → {many} devices: {} → {}, flat is ≤ {FLAT_TIMES} × the first + {FLAT_PLUS_MS} ms = {}",
            shown(first),
            shown(last),
            shown(bound)
        );
        let word = if flat { "flat" } else { "**not flat**" };
        let _ = writeln!(rows.lines, "\n{said}: {word}.");
        if !flat {
            rows.failed.push(said);
        }
        rows
    }

    fn judge(
        &mut self,
        bound: &Bound,
        worst: Option<f64>,
        name: &str,
        measured: &str,
    ) -> &'static str {
        match worst {
            Some(worst) if worst <= bound.aim => "aim",
            Some(worst) if worst <= bound.must => "must",
            _ => {
                self.failed.push(format!("{name}: {} {measured}", bound.key));
                "**failed**"
            }
        }
    }
}

/// How long was measured, and for how long it should be where that is longer.
fn length(seconds: u32, whole: u32) -> String {
    if seconds < whole { format!("{seconds} of {whole} s") } else { format!("{seconds} s") }
}

/// Smallest and largest of the runs' figures, and the largest as a number; none when a run has none.
fn spread(reports: &[Value], key: &str) -> (String, Option<f64>) {
    let known: Option<Vec<f64>> = reports.iter().map(|report| figure(report, key)).collect();
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
        // "part.key": of an object inside the report.
        key => match key.split_once('.') {
            Some((part, key)) => report.get(part)?.get(key)?.as_f64(),
            None => number(key),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failover::table::cases::CASES;

    fn report(stall: f64) -> Value {
        json!({ "stall_ms_max": stall, "unneeded_moves": 0, "reads_failed": 0, "wrong_bytes": 0 })
    }

    #[test]
    fn the_worst_run_decides_and_a_missing_figure_fails() {
        let case = &CASES[0];
        let verdict = |reports: &[Value]| {
            let rows = Rows::of(case, case.seconds, reports);
            (rows.lines, rows.failed.len())
        };
        let (table, failed) = verdict(&[report(100.0), report(240.5)]);
        assert!(table.contains("| 100 – 240.5 ms | aim |") && failed == 0, "{table}");
        assert!(!table.contains("wrong_bytes"), "{table}");
        let (table, failed) = verdict(&[report(100.0), report(900.0)]);
        assert!(table.contains("| must |") && failed == 0, "{table}");
        let (table, failed) = verdict(&[report(100.0), report(1001.0)]);
        assert!(table.contains("**failed**") && failed == 1, "{table}");
        let (_, failed) = verdict(&[Value::Null]);
        assert_eq!(failed, 4, "nothing was measured");
        let mut wrong = report(1.0);
        wrong["wrong_bytes"] = 1.into();
        let (table, failed) = verdict(&[wrong]);
        assert!(table.contains("wrong_bytes") && failed == 1, "{table}");
    }

    #[test]
    fn a_shorter_measurement_says_so() {
        let case = &CASES[0];
        let rows = Rows::of(case, case.quick_seconds, &[report(1.0)]);
        assert!(rows.lines.contains("| 6 of 10 s |"), "{}", rows.lines);
        let rows = Rows::of(case, case.seconds, &[report(1.0)]);
        assert!(rows.lines.contains("| 10 s |"), "{}", rows.lines);
    }

    #[test]
    fn a_stall_that_grows_with_the_fleet_fails_and_one_that_wavers_does_not() {
        let grown = |first, last| Rows::of_growth(&[(250, first), (1000, None), (4000, last)]);
        // Twice 60 ms and 100 ms more.
        let flat = grown(Some(60.0), Some(220.0));
        assert!(flat.failed.is_empty() && flat.lines.contains("ms: flat."), "{flat:?}");
        let steep = grown(Some(60.0), Some(220.1));
        assert!(steep.failed.len() == 1 && steep.lines.contains("**not flat**"), "{steep:?}");
        assert_eq!(grown(Some(60.0), None).failed.len(), 1, "an unknown stall is not flat");
        assert_eq!(grown(None, Some(60.0)).failed.len(), 1);
        assert_eq!(Rows::of_growth(&[]), Rows::default());
    }

    #[test]
    fn each_fleet_is_held_against_the_bounds_of_a_death() {
        let (rows, worst) = Rows::of_fleet(4000, &[report(800.0), report(999.0)]);
        assert_eq!((rows.failed.len(), worst), (0, Some(999.0)));
        assert_eq!(Rows::of_fleet(4000, &[report(1800.0)]).0.failed.len(), 1);
        let mut wrong = report(1.0);
        wrong["wrong_bytes"] = 1.into();
        assert_eq!(Rows::of_fleet(4000, &[wrong]).0.failed.len(), 1);
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
    fn figures_of_an_object_inside_the_report_have_its_name_before_them() {
        let report = json!({ "forged": { "not_sent": 2 }, "none": null });
        assert_eq!(figure(&report, "forged.not_sent"), Some(2.0));
        assert_eq!((figure(&report, "forged.x"), figure(&report, "none.x")), (None, None));
    }
}
