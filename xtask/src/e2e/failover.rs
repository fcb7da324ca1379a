//! Two nodes serve the same image, and the one that a device reads from goes away in the middle of a copy.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::export::{Export, Spec};
use super::{LARGE_BYTES, http, large_image};
use crate::image::sha256;
use crate::proc::{self, Proc};
use crate::runner::Job;
use crate::scratch::Scratch;

/// What a node counts: read requests of devices.
const READS: &str = "diskstream_reads_total";

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["nbdcopy"])?;
    let image = large_image(job)?;
    let wanted = sha256(job, &image)?;
    for (name, signal) in [("stopped gracefully", "TERM"), ("killed", "KILL")] {
        job.check(&format!("the node is {name} in the middle of a copy"), |job| {
            lose_a_node(job, &image, &wanted, signal)
        });
    }
    Ok(())
}

fn lose_a_node(job: &mut Job<'_>, image: &Path, wanted: &str, signal: &str) -> anyhow::Result<()> {
    let scratch = Scratch::large(&job.ctx.images()?, LARGE_BYTES)?;
    let out = scratch.path("copy.img");
    let mut export = Export::start(job, Spec { nodes: 2, ..Spec::plain(image) })?;
    let mut command = proc::command("nbdcopy");
    // A little of each at a time: the copy takes long enough for its middle to be found.
    command.args(["--connections=2", "--requests=4", "--request-size=262144", "--progress=1"]);
    command.arg("--no-extents").arg(export.uri()).arg(&out);
    let mut copy = Proc::start(&mut command, "nbdcopy", &job.log)?;
    let percent = await_percent(&mut copy, 20)?;
    let reads = reads_of(&export)?;
    let busy = usize::from(reads[1] > reads[0]);
    job.say(&format!("at {percent} %: reads {reads:?}; {signal} to node{}", busy + 1));
    export.nodes[busy].proc.signal(signal)?;
    let at_signal = last_percent(&copy.text());
    anyhow::ensure!(
        copy.is_alive() && at_signal < 90,
        "the copy was over before the node went away"
    );
    let gone = export.nodes[busy].proc.wait_exit(Duration::from_secs(40))?;
    if signal == "TERM" {
        anyhow::ensure!(gone.success(), "the stopped node ended with {gone}");
    }
    let status =
        copy.wait_exit(Duration::from_mins(3)).context("the copy after the node went away")?;
    anyhow::ensure!(status.success(), "nbdcopy ended with {status}:\n{}", copy.text());
    let got = sha256(job, &out)?;
    anyhow::ensure!(got == wanted, "the copy's SHA-256 is {got}, the image's is {wanted}");
    let page = http::get(&export.nodes[1 - busy].http, "/metrics")?.body;
    let served = http::metric(&page, READS).unwrap_or(0.0);
    anyhow::ensure!(served > reads[1 - busy], "the other node served nothing");
    job.note(format!(
        "{signal} at {at_signal} %: the other node served {served:.0} reads, the copy is correct"
    ));
    export.finish()
}

/// Reads that each node has answered.
pub fn reads_of(export: &Export) -> anyhow::Result<[f64; 2]> {
    let mut reads = [0.0; 2];
    for (sum, node) in reads.iter_mut().zip(&export.nodes) {
        let page = http::get(&node.http, "/metrics")?.body;
        *sum =
            http::metric(&page, READS).with_context(|| format!("no {READS} at {}", node.http))?;
    }
    Ok(reads)
}

/// Waits until nbdcopy's progress lines, `N/100`, say at least `percent`.
fn await_percent(copy: &mut Proc, percent: u32) -> anyhow::Result<u32> {
    copy.wait_until(&format!("{percent} % progress"), Duration::from_mins(1), |text| {
        let now = last_percent(text);
        (now >= percent).then_some((now, 0))
    })
}

fn last_percent(text: &str) -> u32 {
    let mut lines = text.lines().rev();
    lines.find_map(|line| line.strip_suffix("/100")?.parse().ok()).unwrap_or(0)
}
