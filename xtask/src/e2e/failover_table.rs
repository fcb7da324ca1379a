//! The table of what a farm must stand, at 250 devices: stops, deaths, cuts, pauses, loss, all nodes gone.

use std::fs;
use std::time::Duration;

use crate::proc;
use crate::runner::{Job, skip};

/// Measured 4 minutes with `--quick` on two idle cores.
const TABLE_WITHIN: Duration = Duration::from_mins(20);
/// Reads per second of all devices. At the full 20,000 the rows with loss need a core for the relay beside those of nodes and fleet;
/// the machines that run this have two.
const RATE: &str = "5000";
/// A busy neighbour looks like a slow farm: a table that fails is made once more, and that one counts.
const TRIES: usize = 2;
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
    let mut told = Ok(());
    for n in 1..=TRIES {
        let mut command = proc::command(job.ctx.program("diskstream-bench"));
        command.args(["failover-table", "--quick", "--devices", DEVICES, "--rate", RATE]);
        told = job.run(command.arg("--out").arg(&out), TABLE_WITHIN).map(drop);
        if told.is_ok() {
            break;
        }
        job.note(format!("table {n} of at most {TRIES} failed"));
    }
    // The table says more than the exit status, and stands there in both cases.
    for line in fs::read_to_string(&out).unwrap_or_default().lines().filter(|l| l.starts_with('|'))
    {
        job.note(line.to_owned());
    }
    told
}
