//! What the comparisons look like.

use std::path::Path;

use super::compare::{Comparison, Comparisons};
use super::report::FloorReport;
use super::side::Side;
use super::single::Single;
use crate::plot::{self, Chart, Curve, Scale, cumulated, latencies};
use crate::spread::Spread;

/// Draws what was measured into this folder, which is made.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(folder: &Path, report: &FloorReport) -> anyhow::Result<()> {
    plot::make_folder(folder)?;
    if let Some(all) = &report.responder {
        for comparison in &all.loads {
            let name = format!("latency-{}.svg", comparison.load.name);
            plot::write(folder, &name, &of_load(comparison).svg())?;
        }
        plot::write(folder, "throughput-over-devices.svg", &throughput(all).svg())?;
    }
    if let Some(single) = &report.single {
        plot::write(folder, "latency-veth.svg", &of_single(single).svg())?;
    }
    if let Some(cold) = &report.cold {
        let node = cumulated("node", cold.rounds.iter().map(|round| &round.latency));
        let title =
            format!("Cold reads of {} KiB, {} outstanding", cold.read_bytes >> 10, cold.depth);
        plot::write(folder, "latency-cold.svg", &latencies(title, vec![node]).svg())?;
    }
    if let Some(disk) = &report.disk {
        let curve = |row: &super::machine::Disk| {
            cumulated(
                format!("{} KiB, {} outstanding", row.read_bytes >> 10, row.depth),
                &row.latency,
            )
        };
        let title = "Random reads of the disk through the node's ring";
        plot::write(
            folder,
            "latency-disk.svg",
            &latencies(title, disk.iter().map(curve).collect()).svg(),
        )?;
    }
    Ok(())
}

fn of_load(comparison: &Comparison) -> Chart {
    let load = &comparison.load;
    let side = |name: &str, of: fn(&super::compare::Round) -> &Side| {
        cumulated(name, comparison.rounds.iter().map(|round| &of(round).latency))
    };
    let title = format!(
        "Devices: {}, reads of {} KiB outstanding on each: {}",
        load.devices,
        load.size >> 10,
        load.depth
    );
    latencies(title, vec![side("node", |r| &r.node), side("bare responder", |r| &r.responder)])
}

fn of_single(single: &Single) -> Chart {
    let title = format!(
        "One device over a veth pair, MTU {}, {} reads of {} KiB outstanding",
        single.mtu,
        single.depth,
        single.read_bytes >> 10
    );
    let curve = |row: &super::single::SingleRow| {
        cumulated(row.server.as_str(), row.rounds.iter().map(|side| &side.latency))
    };
    latencies(title, single.rows.iter().map(curve).collect())
}

/// Reads per second under the loads of 4 KiB, which differ by their devices.
fn throughput(all: &Comparisons) -> Chart {
    let curve = |name: &str, of: fn(&super::compare::Round) -> f64| {
        let mut points: Vec<_> = all
            .loads
            .iter()
            .filter(|comparison| comparison.load.size == 4096)
            .filter_map(|comparison| {
                let rates = Spread::of(comparison.rounds.iter().map(of), 1)?;
                Some((f64::from(comparison.load.devices), rates.median))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: name.to_owned(), points }
    };
    Chart {
        title: "Random reads of 4 KiB, server on one core".to_owned(),
        across: "devices (one: 32 reads outstanding; else one each)".to_owned(),
        scale: Scale::Powers,
        up: "reads per second".to_owned(),
        marks: true,
        curves: vec![
            curve("node", |round| round.node.reads_per_s),
            curve("bare responder", |round| round.responder.reads_per_s),
        ],
    }
}
