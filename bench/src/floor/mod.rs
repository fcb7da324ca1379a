//! `floor`: what this machine can do at best, now, and how near to it the node is.
//!
//! The node is compared with a bare UDP responder (`responder`) under the same loads (`loads`), in turns (`compare`): a figure of
//! one run says little on a machine that others use too, a ratio within one run says much.

mod args;
mod bare;
mod client;
mod cold;
mod compare;
mod gso;
mod loads;
mod machine;
mod plots;
mod report;
pub mod responder;
mod scene;
mod sends;
mod side;
mod single;

use anyhow::anyhow;

pub use args::{FloorArgs, Part};

use crate::net::may_make_namespaces;
use crate::read::{self, CORES};
use crate::report::Provenance;
use report::{FloorReport, Ratios, Settings};

/// Measures and prints.
///
/// # Errors
/// Flags that cannot work, servers that cannot be started, bytes that are wrong.
pub fn run(args: &FloorArgs) -> anyhow::Result<()> {
    args.check()?;
    let provenance = Provenance::with_node();
    if args.wants(Part::Sends) || args.wants(Part::Veth) {
        may_make_namespaces()?;
    }
    let responder = args.wants(Part::Responder).then(|| compare::run(args)).transpose()?;
    let cold = args.wants(Part::Cold).then(|| cold::run(args)).transpose()?;
    let memory = args.wants(Part::Memory).then(|| machine::memory(args)).transpose()?;
    let disk = args.wants(Part::Disk).then(|| machine::disk(args)).transpose()?;
    let sends = args.wants(Part::Sends).then(|| sends::run(args)).transpose()?;
    let single = args.wants(Part::Veth).then(|| single::run(args)).transpose()?;
    let mut report = FloorReport {
        ratios: Ratios::default(),
        responder,
        cold,
        memory,
        disk,
        sends,
        single,
        settings: Settings::of(args),
        provenance,
    };
    if let Some(folder) = &args.plots {
        plots::draw(folder, &report)?;
    }
    report.sum_up();
    report.print(args.json)
}

/// Runs the clients' side on a thread of its own, on the clients' core. The caller's thread starts servers, which would
/// inherit its core.
fn on_core<T: Send>(
    no_pin: bool,
    action: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            if !no_pin {
                read::pin(CORES.1);
            }
            action()
        });
        clients.join().map_err(|_| anyhow!("the clients' thread panicked"))?
    })
}
