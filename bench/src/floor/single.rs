//! One device that reads in order over a veth pair at an MTU of 1500: how fast a single machine boots or copies.

use std::io::Write;

use anyhow::Context;
use serde::Serialize;

use super::args::FloorArgs;
use super::scene::{Scene, Way};
use super::spread::Spread;
use crate::image;
use crate::node_process::{NodeProcess, serve_command};
use crate::read::{self, CACHE_BESIDE_BYTES, CORES, Pattern, ReadArgs};
use crate::report::round;

/// Bytes of a read, and how many are outstanding: as `1m` has it.
const READ: (u64, u32) = (1 << 20, 8);
/// What a device of Provisioning Services reaches, in 2^20 bytes per second: it stops and waits for each 32 KiB.
const PVS_MIB_PER_S: f64 = 23.0;

/// What one measurement found.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rate {
    mib_per_s: f64,
    cpu_s_per_gib: f64,
}

/// What a server reached.
#[derive(Clone, Debug, Serialize)]
pub struct SingleRow {
    /// Which.
    pub server: String,
    /// 2^20 bytes per second.
    pub mib_per_s: Spread,
    /// Processor time of the server per 2^30 bytes.
    pub cpu_s_per_gib: Spread,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Single {
    /// Bytes of a read.
    pub read_bytes: u64,
    /// Reads outstanding.
    pub depth: u32,
    /// Largest IP packet.
    pub mtu: u16,
    /// Ours first.
    pub rows: Vec<SingleRow>,
    /// Our rate by that of a PVS device.
    pub ours_over_pvs: f64,
}

/// Measures.
///
/// # Errors
/// When namespaces cannot be made or the node cannot be started.
pub fn run(args: &FloorArgs) -> anyhow::Result<Single> {
    let mtu = 1500;
    let scene = Scene::new(Way::Veth, mtu)?;
    let path = image::make(&image::folder()?, args.seed, args.image_bytes)?;
    let node = start_node(args, &scene, &path)?;
    let load = ReadArgs {
        devices: 1,
        depth: READ.1,
        size: READ.0,
        pattern: Pattern::Seq,
        seconds: args.seconds,
        mtu,
        seed: args.seed,
        image_bytes: args.image_bytes,
        no_pin: args.no_pin,
        verify: args.verify,
        ..ReadArgs::default()
    };
    let mut ours = Vec::new();
    for number in 0..args.rounds {
        let rate = our_rate(&load, &scene, &node, number == 0).context("our side")?;
        let _ =
            writeln!(std::io::stderr(), "veth round {}: {:.0} MiB/s", number + 1, rate.mib_per_s);
        ours.push(rate);
    }
    let row = row("diskstream", &ours);
    Ok(Single {
        read_bytes: READ.0,
        depth: READ.1,
        mtu,
        ours_over_pvs: round(row.mib_per_s.median / PVS_MIB_PER_S, 1),
        rows: vec![row],
    })
}

fn start_node(
    args: &FloorArgs,
    scene: &Scene,
    path: &std::path::Path,
) -> anyhow::Result<NodeProcess> {
    let mut command = serve_command()?;
    command.arg(path).args(["--login-port", "0", "--io-ports", "0", "--http", "off"]);
    command.args(["--listen", &scene.from.ip().to_string(), "--allow-any-mac"]);
    command.args(["--boot-limit", "0"]);
    command.args(["--cache", &(args.image_bytes + CACHE_BESIDE_BYTES).to_string()]);
    if !args.no_pin {
        command.args(["--cores", &CORES.0.to_string()]);
    }
    scene.near.host(&mut command);
    NodeProcess::launch(command)
}

/// A measurement by a device at the far end.
fn our_rate(
    load: &ReadArgs,
    scene: &Scene,
    node: &NodeProcess,
    warm: bool,
) -> anyhow::Result<Rate> {
    let measured = super::on_core(load.no_pin, || {
        scene.far().enter()?;
        read::measure(load, Some(node), warm)
    })?;
    measured.judge()?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    let mib = measured.tally.reads as f64 * (load.size >> 20) as f64;
    let cpu = measured.node_cpu().expect("the node is this run's own");
    #[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^53")]
    let cpu_s = cpu.used_ns as f64 / 1e9;
    Ok(Rate { mib_per_s: mib / measured.seconds(), cpu_s_per_gib: cpu_s / (mib / 1024.0) })
}

fn row(server: &str, rates: &[Rate]) -> SingleRow {
    let spread = |figure: fn(&Rate) -> f64, decimals| {
        Spread::of(rates.iter().map(figure), decimals).expect("at least one round")
    };
    SingleRow {
        server: server.to_owned(),
        mib_per_s: spread(|rate| rate.mib_per_s, 1),
        cpu_s_per_gib: spread(|rate| rate.cpu_s_per_gib, 4),
    }
}
