//! The README's first command, as a new user types it.

use std::time::Duration;

use crate::proc::Proc;
use crate::runner::{Job, skip};

/// Includes what is not compiled yet.
const WITHIN: Duration = Duration::from_mins(10);

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    if job.ctx.stand_in {
        return Err(skip("the stand-in has no quickstart"));
    }
    let mut command = job.ctx.cargo(&["run", "--release", "--", "quickstart"]);
    let mut quickstart = Proc::start(&mut command, "quickstart", &job.log)?;
    let line = quickstart.wait_until("that every byte is verified", WITHIN, |text| {
        let lower = text.to_ascii_lowercase();
        let at = lower.find("verified")?;
        let line = text.lines().find(|l| l.to_ascii_lowercase().contains("verified"))?;
        Some((line.trim().to_owned(), at))
    })?;
    job.note(line);
    for told in ["/metrics", "qemu"] {
        quickstart.wait_for(told, Duration::from_secs(20))?;
    }
    // It serves until Ctrl-C: it must be alive now, and end well then. cargo has replaced itself with the program.
    anyhow::ensure!(quickstart.is_alive(), "quickstart ended by itself");
    quickstart.signal("INT")?;
    let status = quickstart.wait_exit(Duration::from_secs(40))?;
    anyhow::ensure!(status.success(), "after Ctrl-C it ended with {status}");
    Ok(())
}
