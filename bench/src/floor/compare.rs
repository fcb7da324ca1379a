//! The node and the bare responder in turns, under the same load.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::args::FloorArgs;
use super::loads::Load;
use super::on_core;
use super::responder::ResponderProcess;
use super::side::{Measuring, PAYLOAD_BYTES, Side, read_args};
use crate::image;
use crate::node_process::NodeProcess;
use crate::read::{self, CORES, ReadArgs};
use crate::report::round;
use crate::spread::Spread;
use crate::steal::{self, Rounds, Steal};

/// Both sides, one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Processor time per read of the node by that of the responder.
    pub ratio: f64,
    /// Part of all processors' time that other guests of the host took meanwhile; the figures do not know of it.
    pub stolen: f64,
    /// Part of the window for which other processes of this machine kept server and clients waiting, the mean of the two; of the side
    /// that waited longer.
    pub waited: f64,
    /// The node.
    pub node: Side,
    /// The bare responder.
    pub responder: Side,
}

impl Round {
    /// What others had of its time.
    fn lost(&self) -> f64 {
        self.stolen.max(self.waited)
    }
}

/// All rounds under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The load.
    #[serde(flatten)]
    pub load: Load,
    /// Of the rounds' ratios.
    pub ratio: Spread,
    /// Processor time of the node per read in microseconds.
    pub node_us_per_read: Spread,
    /// Of the responder.
    pub responder_us_per_read: Spread,
    /// Processor time of the node per 2^30 bytes in seconds.
    pub node_s_per_gib: Spread,
    /// Of the responder.
    pub responder_s_per_gib: Spread,
    /// Each round that counts.
    pub rounds: Vec<Round>,
    /// Rounds that lost too much to others of this machine or its host, and were measured again.
    pub disturbed: Vec<Round>,
}

/// Which pages the responder's image had, and all comparisons.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// Pages of the responder's image.
    pub responder_memory: String,
    /// One for each load.
    pub loads: Vec<Comparison>,
}

/// Starts both servers and compares them under each load that is asked for.
///
/// # Errors
/// When a server cannot be started, or a measurement is worth nothing.
pub fn run(args: &FloorArgs) -> anyhow::Result<Comparisons> {
    let path = image::make(&image::folder()?, args.seed, args.image_bytes)?;
    let loads = args.loads();
    let most = loads.iter().max_by_key(|load| load.devices).expect("at least one load");
    let for_all = read_args(args, most);
    for load in &loads {
        read_args(args, load).check().with_context(|| format!("load {}", load.name))?;
    }
    let core = (!args.no_pin).then_some(CORES.0);
    let responder = responder(&path, core)?;
    let node = read::start_node(&for_all)?;
    on_core(args.no_pin, || {
        let first = ReadArgs { devices: 1, seconds: 0.1, ..read_args(args, most) };
        read::measure(&first, Some(&node), true)?.judge().context("warming the node's cache")
    })?;
    let mut comparisons = Vec::new();
    for load in loads {
        let one = |number| one_round(args, &load, number, &node, &responder);
        let rounds = steal::rounds(args.rounds, one, Round::lost)
            .with_context(|| format!("load {}", load.name))?;
        comparisons.push(Comparison::of(load, rounds));
    }
    Ok(Comparisons { responder_memory: responder.backing.clone(), loads: comparisons })
}

fn responder(image: &Path, core: Option<usize>) -> anyhow::Result<ResponderProcess> {
    let listen = "127.0.0.1:0".parse().expect("an address");
    ResponderProcess::start(image, listen, PAYLOAD_BYTES, core, None)
}

/// Who begins changes from round to round, so that what drifts meets both alike.
fn one_round(
    args: &FloorArgs,
    load: &Load,
    number: u32,
    node: &NodeProcess,
    responder: &ResponderProcess,
) -> anyhow::Result<Round> {
    let measuring = Measuring { args, load, clients: None };
    let before = Steal::now()?;
    let of_node = || measuring.node(node).context("the node's side");
    let of_responder = || measuring.responder(responder).context("the responder's side");
    let (node, responder) = if number.is_multiple_of(2) {
        let responder = of_responder()?;
        (of_node()?, responder)
    } else {
        (of_node()?, of_responder()?)
    };
    let stolen = before.share_since()?;
    let waited = round(node.waited().max(responder.waited()), 3);
    let ratio = node.cpu_us_per_read / responder.cpu_us_per_read;
    let _ = writeln!(
        std::io::stderr(),
        "{} round {}: node {:.2} µs per read, responder {:.2}, ratio {ratio:.3}; {:.1} % stolen, {:.1} % waited",
        load.name,
        number + 1,
        node.cpu_us_per_read,
        responder.cpu_us_per_read,
        stolen * 100.0,
        waited * 100.0
    );
    Ok(Round { ratio: round(ratio, 4), stolen, waited, node, responder })
}

impl Comparison {
    fn of(load: Load, Rounds { kept: rounds, disturbed }: Rounds<Round>) -> Comparison {
        let spread = |figure: fn(&Round) -> f64, decimals| {
            Spread::of(rounds.iter().map(figure), decimals).expect("at least one round")
        };
        Comparison {
            load,
            ratio: spread(|round| round.ratio, 3),
            node_us_per_read: spread(|round| round.node.cpu_us_per_read, 3),
            responder_us_per_read: spread(|round| round.responder.cpu_us_per_read, 3),
            node_s_per_gib: spread(|round| round.node.cpu_s_per_gib, 4),
            responder_s_per_gib: spread(|round| round.responder.cpu_s_per_gib, 4),
            rounds,
            disturbed,
        }
    }
}
