//! `/metrics` and `/healthz` of a node that has served.

use std::time::Duration;

use anyhow::Context;

use super::export::{Export, Spec};
use super::{http, small_image};
use crate::proc::{self, Proc};
use crate::runner::{Job, skip};

/// What must be there after a copy, and whether it must have counted by then.
const EXPECTED: &[(&str, bool)] = &[
    ("diskstream_logins_total", true),
    ("diskstream_sessions", true),
    ("diskstream_reads_total", true),
    ("diskstream_data_bytes_total", true),
    ("diskstream_datagrams_sent_total", true),
    ("diskstream_datagrams_received_total", true),
    ("diskstream_ring_enters_total", true),
    ("diskstream_cache_lookups_total", true),
    ("diskstream_disk_reads_total", true),
    ("diskstream_disk_read_seconds_count", true),
    ("diskstream_request_seconds_count", true),
    ("diskstream_zero_units_total", false),
    ("diskstream_reads_joined_total", false),
    ("diskstream_reads_again_total", false),
    ("diskstream_device_retries_total", false),
    ("diskstream_refusals_total", false),
    ("diskstream_node_draining", false),
    ("diskstream_feature_enabled", true),
];

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["nbdcopy"])?;
    if job.ctx.stand_in {
        return Err(skip("the stand-in has no metrics"));
    }
    let image = small_image(job)?;
    let export = Export::start(job, Spec::plain(&image))?;
    let mut copy = proc::command("nbdcopy");
    job.run(copy.arg(export.uri()).arg("null:"), Duration::from_mins(1))?;
    let at = export.nodes[0].http.clone();
    let answer = http::get(&at, "/metrics")?;
    job.say(&answer.body);
    job.check("/metrics is there, as text", |_| {
        anyhow::ensure!(answer.status == 200, "status {}", answer.status);
        let typed = answer.head.to_ascii_lowercase().contains("content-type: text/plain");
        anyhow::ensure!(typed, "no text/plain in:\n{}", answer.head);
        Ok(())
    });
    job.check("it counts what happened", |_| expected(&answer.body));
    job.check("promtool finds nothing to object to", |job| {
        job.need_tools(&["promtool"])?;
        let mut promtool = proc::command("promtool");
        let mut checker = Proc::start(promtool.args(["check", "metrics"]), "promtool", &job.log)?;
        checker.type_in(&answer.body)?;
        checker.close_stdin();
        let status = checker.wait_exit(Duration::from_secs(30))?;
        anyhow::ensure!(status.success(), "promtool: {status}\n{}", checker.text());
        Ok(())
    });
    job.check("/healthz is well, other paths are not found", |_| {
        let health = http::get(&at, "/healthz")?;
        anyhow::ensure!(health.status == 200, "/healthz: {} {}", health.status, health.body);
        let other = http::get(&at, "/no-such-page")?;
        anyhow::ensure!(other.status == 404, "/no-such-page: {}", other.status);
        Ok(())
    });
    job.check("status shows node, round trip and write cache", |job| status(job, &export));
    export.finish()
}

fn expected(page: &str) -> anyhow::Result<()> {
    for (name, counted) in EXPECTED {
        let value = http::metric(page, name).with_context(|| format!("no metric {name}"))?;
        anyhow::ensure!(!counted || value > 0.0, "{name} is {value} after a copy");
    }
    Ok(())
}

fn status(job: &mut Job<'_>, export: &Export) -> anyhow::Result<()> {
    let mut command = proc::command(job.ctx.program("diskstream-device"));
    let text = job.run(
        command.args(["status", "--json", "--socket"]).arg(&export.status),
        Duration::from_secs(20),
    )?;
    let start = text.find(['{', '[']).context("no JSON")?;
    for key in ["\"node\"", "srtt_us", "write_cache", "version"] {
        anyhow::ensure!(text[start..].contains(key), "status --json has no {key}: {text}");
    }
    Ok(())
}
