//! `peers`: our node beside other servers of disk images, on one image and under the same loads, within one run.
//!
//! ```text
//! core 0: diskstream-node, nbdkit, nbd-server, qemu-nbd, tgtd      one of them is busy at a time
//! core 1: this program: fleet of devices, NBD and iSCSI clients
//! ```
//!
//! A server's cost is the processor time of its process, with all threads and children, within the window, by the reads that
//! ended in it. The ratios are ours ÷ the best stream peer's: under each load the one that is best there, so no single
//! peer has to be good at everything. vblade stands apart: Ethernet frames, no stream.

mod aoe;
mod args;
mod figures;
mod iscsi;
mod loads;
mod nbd;
mod plot;
pub mod process;
mod report;
mod scene;
pub mod servers;
pub mod stream;
mod wire;

use anyhow::{Context, ensure};

pub use args::PeersArgs;

use crate::report::{Provenance, print};
use crate::steal::Steal;
use crate::{stop, sys};
use report::PeersReport;
use servers::Server;
use stream::Clients;

/// Open files beside a load's connections: rings, pipes, a folder. Guessed.
const FILES: u64 = 4096;

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, a node that cannot be started or fails, bytes that are wrong.
pub fn run(args: &PeersArgs) -> anyhow::Result<()> {
    args.check()?;
    let granted = sys::raise_open_files(FILES).context("raising the limit of open files")?;
    ensure!(granted >= FILES, "needs {FILES} open files, and the hard limit is {granted}");
    let stop = stop::on_signals()?;
    let provenance = Provenance::with_node();
    let before = Steal::now()?;
    let results = scene::play(args, &stop)?;
    stop::go_on(&stop)?;
    let report = PeersReport::new(args, results, before.share_since()?, provenance);
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text)
            .with_context(|| format!("writing --report {}", path.display()))?;
    }
    if let Some(folder) = &args.plots {
        plot::draw(folder, &report)?;
    }
    print(&report, args.json, |out| report.table(out)).context("writing the report")
}

/// Connections to a server that speaks NBD. The calling thread must be in its network.
///
/// # Errors
/// When one cannot be made.
pub fn connect_nbd(server: &Server, connections: usize) -> anyhow::Result<Clients<nbd::Nbd>> {
    Clients::connect(connections, |_| nbd::connect(server.address, server.export))
}

/// Sessions with a server that speaks iSCSI. The calling thread must be in its network.
///
/// # Errors
/// When one cannot be made.
pub fn connect_iscsi(server: &Server, sessions: usize) -> anyhow::Result<Clients<iscsi::Iscsi>> {
    Clients::connect(sessions, |number| iscsi::connect(server.address, server.export, number))
}
