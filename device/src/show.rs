//! `status`: what PVS shows in its status tray, as a table or as JSON.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use diskstream_device::front::status;
use serde_json::Value;

use crate::cli::Status;

/// How long a device may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a device's status and prints it.
pub fn run(arguments: &Status) -> Result<()> {
    let told = status::read(&arguments.socket, TIMEOUT)?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&told).context("a status that was read can be written")?
    } else {
        table(&told)
    };
    println!("{}", text.trim_end());
    Ok(())
}

fn table(told: &Value) -> String {
    let session = &told["session"];
    let counters = &session["counters"];
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ok = writeln!(out, "{name:<14}{value}");
    };
    if session.is_null() {
        row("state", "ended: the device's thread does not answer".to_owned());
        return out;
    }
    let holding = match session["holding_ms"].as_u64() {
        Some(ms) if session["state"] == "holding" => {
            format!(" (no node answers for {:.1} s; reads are held)", ms_to_s(ms))
        }
        _ => String::new(),
    };
    row("state", format!("{}{holding}", text(&session["state"]).replace('_', " ")));
    row("device", format!("{} {}", text(&told["mac"]), text(&session["device_name"])));
    row("node", text(&session["node"]));
    row("I/O service", text(&session["io"]));
    let pinned = if session["pinned"] == true { "; pinned: no failover" } else { "" };
    row("eligible", format!("{} nodes{pinned}", text(&session["eligible_nodes"])));
    let version = text(&session["version"]);
    row("vDisk", format!("{} version {version}", text(&session["vdisk"])));
    row("content", text(&session["content_id"]));
    row("size", bytes(&session["size_bytes"]));
    let us = |name: &str| session[name].as_u64().unwrap_or(0);
    row("round trip", format!("{} ± {} µs", us("srtt_us"), us("rttvar_us")));
    let fragments = text(&session["window_fragments"]);
    row("window", format!("{fragments} fragments of {} bytes", text(&session["fragment_bytes"])));
    row("reads", format!("{} ({})", text(&counters["reads"]), bytes(&counters["read_bytes"])));
    let rate = session["retry_rate"].as_f64().unwrap_or(0.0) * 100.0;
    row("retries", format!("{} ({rate:.3} % of requests)", text(&counters["retries"])));
    row("wrong sums", text(&counters["sum_mismatches"]));
    row("moves", moves(session));
    row("standby", standby(session));
    row("hedges", hedges(session));
    row("longest read", format!("{:.1} ms", us_to_ms(us("stall_us_max"))));
    row("slow reads", slow_reads(&session["stalls"]));
    row("ticket age", format!("{} s", text(&session["ticket_age_s"])));
    let cache = &told["write_cache"];
    let fill = &cache["fill"];
    let filled = match fill["percent"].as_u64() {
        Some(percent) => format!(
            ", {} of {} used ({percent} %)",
            bytes(&fill["used_bytes"]),
            bytes(&fill["capacity_bytes"])
        ),
        None => String::new(),
    };
    row("write cache", format!("{}{filled}", text(&cache["type"])));
    row("NBD", text(&told["nbd"]));
    out
}

/// How many moves there were, why, and the last one.
fn moves(session: &Value) -> String {
    let counters = &session["counters"];
    let causes = counters["moves_by_cause"].as_object().into_iter().flatten();
    let causes: Vec<String> = causes
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    let mut count = text(&counters["moves"]);
    if !causes.is_empty() {
        count = format!("{count} ({})", causes.join(", "));
    }
    let last = &session["last_move"];
    if last.is_null() {
        return count;
    }
    let (from, to, cause) = (text(&last["from"]), text(&last["to"]), text(&last["cause"]));
    let ago = ms_to_s(last["ago_ms"].as_u64().unwrap_or(0));
    let held = text(&last["stall_ms"]);
    format!(
        "{count}; last {ago:.0} s ago, {from} to {to}, {cause}; the oldest read had waited {held} ms"
    )
}

fn standby(session: &Value) -> String {
    let standby = &session["standby"];
    if standby.is_null() {
        return "none: if the node is lost, another has to be found first".to_owned();
    }
    let checks = text(&session["counters"]["standby_checks"]);
    let (node, state) = (text(&standby["node"]), text(&standby["state"]));
    format!("{node}, {state}, {} µs; {checks} keep-alives sent to standbys", standby["srtt_us"])
}

fn hedges(session: &Value) -> String {
    let won = text(&session["hedges_won"]);
    format!(
        "{} reads asked at the standby too, {won} answered there first",
        text(&session["hedges"])
    )
}

/// The histogram's buckets above 10 ms that hold something.
fn slow_reads(stalls: &Value) -> String {
    let buckets = stalls.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut above = 0;
    let mut parts = Vec::new();
    for bucket in buckets {
        let (end, count) = (bucket[0].as_u64(), bucket[1].as_u64().unwrap_or(0));
        if above >= 10 && count > 0 {
            parts.push(match end {
                Some(end) => format!("{count} of {above}–{end} ms"),
                None => format!("{count} over {above} ms"),
            });
        }
        above = end.unwrap_or(above);
    }
    if parts.is_empty() { "none over 10 ms".to_owned() } else { parts.join(", ") }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn us_to_ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn ms_to_s(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn bytes(value: &Value) -> String {
    let count = value.as_u64().unwrap_or(0);
    let (unit, shift) = match count {
        0..1_048_576 => return format!("{count} B"),
        1_048_576..1_073_741_824 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.2} {unit}", count as f64 / f64::from(1u32 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_names_what_the_tray_shows() {
        let told = json!({
            "mac": "52:54:00:12:34:56", "nbd": "/tmp/nbd",
            "session": {
                "state": "holding", "holding_ms": 1500, "node": "10.0.0.1:6910",
                "io": "10.0.0.1:6911", "eligible_nodes": 2, "pinned": false, "vdisk": "debian",
                "device_name": "lab_1", "version": 3, "content_id": "ab", "size_bytes": 3_221_225_472u64,
                "srtt_us": 150, "rttvar_us": 20, "window_fragments": 92, "fragment_bytes": 1376,
                "retry_rate": 0.0125, "ticket_age_s": null, "hedges": 3, "hedges_won": 2,
                "stall_us_max": 71_500, "stalls": [[1, 90], [10, 4], [20, 0], [50, 6], [null, 1]],
                "standby": {"node": "10.0.0.2:6910", "state": "open", "srtt_us": 170},
                "last_move": {"from": "10.0.0.3:6910", "to": "10.0.0.1:6910", "cause": "node_silent",
                    "stall_ms": 44, "ago_ms": 5000},
                "counters": {"reads": 9, "read_bytes": 4096, "retries": 1, "sum_mismatches": 0, "moves": 2,
                    "moves_by_cause": {"node_silent": 1, "notice": 0, "draining": 1}, "standby_checks": 7},
            },
            "write_cache": {"type": "ram:1G", "fill": {
                "used_bytes": 1 << 20, "capacity_bytes": 1 << 30, "percent": 0}},
        });
        let table = table(&told);
        for part in [
            "holding (no node answers for 1.5 s",
            "10.0.0.1:6911",
            "version 3",
            "3.00 GiB",
            "150 ± 20 µs",
            "1 (1.250 % of requests)",
            "; last 5 s ago, 10.0.0.3:6910 to 10.0.0.1:6910, node_silent; the oldest read had waited 44 ms",
            "2 (draining 1, node_silent 1); last",
            "10.0.0.2:6910, open, 170 µs; 7 keep-alives sent to standbys",
            "3 reads asked at the standby too, 2 answered there first",
            "71.5 ms",
            "6 of 20–50 ms, 1 over 50 ms",
            "1.00 MiB of 1.00 GiB used",
            "-",
            "/tmp/nbd",
        ] {
            assert!(table.contains(part), "{part}:\n{table}");
        }
    }

    #[test]
    fn a_device_that_ended_is_said() {
        assert!(table(&json!({"session": null})).contains("ended"));
    }
}
