//! The table of what a farm must stand, at 250 devices: stops, deaths, cuts, pauses, loss, all nodes gone.

use std::fs;
use std::time::Duration;

use crate::proc;
use crate::runner::{Job, skip};

/// Measured 4 minutes with `--quick` on two idle cores.
const TABLE_WITHIN: Duration = Duration::from_mins(20);
/// Devices of each case. The long run, by hand, has 1,000: `diskstream-bench failover-table --devices 1000`.
const DEVICES: &str = "250";

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    if job.ctx.stand_in {
        return Err(skip("the stand-in knows no nodes"));
    }
    if !crate::install::is_root() {
        return Err(skip("cuts and packet filters need network namespaces, which need root"));
    }
    job.need_tools(&["ip", "nft"])?;
    let out = job.ctx.images()?.join("failover-table.md");
    let mut command = proc::command(job.ctx.program("diskstream-bench"));
    command.args(["failover-table", "--quick", "--devices", DEVICES, "--out"]).arg(&out);
    let told = job.run(&mut command, TABLE_WITHIN);
    // The table says more than the exit status, and stands there in both cases.
    for line in fs::read_to_string(&out).unwrap_or_default().lines().filter(|l| l.starts_with('|'))
    {
        job.note(line.to_owned());
    }
    told.map(drop)
}
