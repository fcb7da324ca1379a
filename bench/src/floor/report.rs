//! What `floor` found, as one JSON object or as tables.

use std::io::{self, Write};

use serde::Serialize;

use super::args::FloorArgs;
use super::cold::Cold;
use super::compare::{Comparison, Comparisons};
use super::machine::{Disk, Memory};
use super::sends::Sends;
use super::single::Single;
use crate::report::{self, Provenance, round};
use crate::spread::Spread;
use crate::steal::QUIET;

/// The ratios by which the node is judged; none where the part was not measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ratios {
    /// Processor time per read of the node by that of the bare responder, under the load of this name.
    pub cpu_over_responder_4k_1: Option<f64>,
    /// Likewise.
    pub cpu_over_responder_4k_64: Option<f64>,
    /// Likewise.
    pub cpu_over_responder_4k_500: Option<f64>,
    /// Likewise.
    pub cpu_over_responder_32k: Option<f64>,
    /// Likewise.
    pub cpu_over_responder_1m: Option<f64>,
    /// Delivered bytes of cold random reads of 64 KiB through the node by those that `fio` reads.
    pub cold_over_fio: Option<f64>,
    /// Rate of a single device over a veth pair by that of a client of the best TCP peer.
    pub single_over_best_peer: Option<f64>,
}

/// Flags that the figures depend on.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settings {
    rounds: u32,
    seconds: f64,
    image_bytes: u64,
    cold_image_bytes: u64,
    mtu: u16,
    seed: u64,
    verify_every_byte: bool,
    pinned: bool,
}

impl Settings {
    /// Of a run.
    #[must_use]
    pub fn of(args: &FloorArgs) -> Settings {
        Settings {
            rounds: args.rounds,
            seconds: args.seconds,
            image_bytes: args.image_bytes,
            cold_image_bytes: args.cold_image_bytes,
            mtu: 1500,
            seed: args.seed,
            verify_every_byte: args.verify,
            pinned: !args.no_pin,
        }
    }
}

/// Figures of a run of `floor`. Keys of the JSON object are the fields' names.
#[derive(Debug, Serialize)]
pub struct FloorReport {
    /// The figures that count.
    pub ratios: Ratios,
    /// Node and bare responder.
    pub responder: Option<Comparisons>,
    /// Cold reads.
    pub cold: Option<Cold>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Disk.
    pub disk: Option<Vec<Disk>>,
    /// Sends in one direction.
    pub sends: Option<Sends>,
    /// A single device over a veth pair.
    pub single: Option<Single>,
    /// Flags.
    pub settings: Settings,
    /// Where the figures come from.
    pub provenance: Provenance,
}

impl FloorReport {
    /// Fills in the ratios from what was measured.
    pub fn sum_up(&mut self) {
        let of = |name: &str| {
            let loads = self.responder.as_ref().map(|all| all.loads.iter());
            loads.into_iter().flatten().find(|c| c.load.name == name).map(|c| c.ratio.median)
        };
        self.ratios = Ratios {
            cpu_over_responder_4k_1: of("4k_1"),
            cpu_over_responder_4k_64: of("4k_64"),
            cpu_over_responder_4k_500: of("4k_500"),
            cpu_over_responder_32k: of("32k"),
            cpu_over_responder_1m: of("1m"),
            cold_over_fio: self.cold.as_ref().map(|cold| cold.ratio.median),
            single_over_best_peer: self
                .single
                .as_ref()
                .and_then(|single| Some(single.ours_over_best_peer.as_ref()?.ratio.median)),
        };
    }

    /// Prints tables, or one JSON object.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(self, json, |out| self.table(out))
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(all) = &self.responder {
            responder_table(out, &all.loads)?;
        }
        if let Some(cold) = &self.cold {
            cold_table(out, cold)?;
        }
        if let Some(disk) = &self.disk {
            disk_table(out, disk)?;
        }
        if let Some(memory) = &self.memory {
            memory_table(out, memory)?;
        }
        if let Some(sends) = &self.sends {
            sends_table(out, sends)?;
        }
        if let Some(single) = &self.single {
            single_table(out, single)?;
        }
        let Settings { rounds, seconds, .. } = self.settings;
        writeln!(out, "{rounds} rounds of {seconds} s | {}", self.provenance)
    }
}

fn responder_table(out: &mut impl Write, loads: &[Comparison]) -> io::Result<()> {
    writeln!(out, "Processor time of the server: the node and a bare UDP responder, in turns")?;
    writeln!(
        out,
        "  {:<7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>17} {:>10} {:>10} {:>9} {:>9}",
        "load",
        "node µs",
        "bare µs",
        "node s/G",
        "bare s/G",
        "ratio",
        "from - to",
        "node rd/s",
        "bare rd/s",
        "node p99",
        "bare p99"
    )?;
    for comparison in loads {
        let Comparison { load, ratio, rounds, .. } = comparison;
        let middle = |figure: fn(&super::compare::Round) -> f64| {
            Spread::of(rounds.iter().map(figure), 0).map_or(0.0, |s| s.median)
        };
        writeln!(
            out,
            "  {:<7} {:>9.2} {:>9.2} {:>9.3} {:>9.3} {:>8.3} {:>8.3} - {:>6.3} {:>10} {:>10} {:>9} {:>9}",
            load.name,
            comparison.node_us_per_read.median,
            comparison.responder_us_per_read.median,
            comparison.node_s_per_gib.median,
            comparison.responder_s_per_gib.median,
            ratio.median,
            ratio.least,
            ratio.most,
            middle(|round| round.node.reads_per_s),
            middle(|round| round.responder.reads_per_s),
            middle(|round| round.node.p99_us),
            middle(|round| round.responder.p99_us),
        )?;
        if !comparison.disturbed.is_empty() {
            let again = comparison.disturbed.len();
            writeln!(
                out,
                "          {again} rounds lost time to others of the machine or its host and were measured again"
            )?;
        }
        let most = |figure: fn(&super::compare::Round) -> f64| {
            rounds.iter().map(figure).fold(0.0, f64::max)
        };
        let (stolen, waited) = (most(|round| round.stolen), most(|round| round.waited));
        if stolen > QUIET || waited > QUIET {
            writeln!(
                out,
                "          a round that counts lost up to {:.1} % to other guests of the host, {:.1} % to other processes",
                stolen * 100.0,
                waited * 100.0
            )?;
        }
    }
    Ok(())
}

fn cold_table(out: &mut impl Write, cold: &Cold) -> io::Result<()> {
    writeln!(
        out,
        "Cold random reads of {} KiB, {} outstanding ({} devices), in turns with fio io_uring O_DIRECT",
        cold.read_bytes >> 10,
        cold.depth,
        cold.devices
    )?;
    writeln!(
        out,
        "  node {} MiB/s, fio {} MiB/s, ratio {}",
        cold.node_mib_per_s, cold.fio_mib_per_s, cold.ratio
    )
}

fn disk_table(out: &mut impl Write, disk: &[Disk]) -> io::Result<()> {
    writeln!(out, "Random reads of the disk through the node's ring, one core")?;
    for row in disk {
        writeln!(
            out,
            "  {:>2} KiB, {:>2} outstanding: {} reads/s, {} MiB/s, {} µs of processor each, p99 {} µs{}",
            row.read_bytes >> 10,
            row.depth,
            row.reads_per_s,
            row.mib_per_s.median,
            row.cpu_us_per_read.median,
            row.p99_us.median,
            if row.direct { "" } else { " (NOT O_DIRECT: the file system refused)" }
        )?;
    }
    Ok(())
}

fn memory_table(out: &mut impl Write, memory: &Memory) -> io::Result<()> {
    writeln!(
        out,
        "Memory, GiB/s: copy {} from memory, {} within a cache; CRC32C {} from memory, {} within a cache",
        memory.copy_cold_gib_per_s.median,
        memory.copy_hot_gib_per_s.median,
        memory.crc32c_cold_gib_per_s.median,
        memory.crc32c_hot_gib_per_s.median
    )
}

fn sends_table(out: &mut impl Write, sends: &Sends) -> io::Result<()> {
    writeln!(out, "Sends in one direction: processor time of the sender, in seconds per GiB")?;
    for row in &sends.rows {
        let delivered = row
            .delivered_share
            .as_ref()
            .map_or(String::new(), |s| format!(", {} arrived", s.median));
        let copied = row.copied_share.map_or(String::new(), |share| format!(", {share:.3} copied"));
        let refused = match row.refused_share {
            0.0 => String::new(),
            share => format!(", up to {share:.4} refused"),
        };
        writeln!(
            out,
            "  {:<9} MTU {:<5} {:<15} {:>2} segments: {} s/GiB, {} Gbit/s{delivered}{copied}{refused}",
            format!("{:?}", row.way),
            row.mtu,
            format!("{:?}", row.how),
            row.segments,
            row.cpu_s_per_gib,
            row.gbit_per_s.median
        )?;
    }
    for ratio in &sends.zero_copy_over_copy {
        writeln!(
            out,
            "  {:<9} MTU {:<5} zero copy / copy, {:?}: {}",
            format!("{:?}", ratio.way),
            ratio.mtu,
            ratio.how,
            ratio.ratio
        )?;
    }
    Ok(())
}

fn single_table(out: &mut impl Write, single: &Single) -> io::Result<()> {
    writeln!(
        out,
        "One device over a veth pair, MTU {}, in order, {} reads of {} KiB outstanding",
        single.mtu,
        single.depth,
        single.read_bytes >> 10
    )?;
    for row in &single.rows {
        writeln!(
            out,
            "  {:<15} {} MiB/s, {} s of processor per GiB; others had the clients' core for {} %",
            row.server,
            row.mib_per_s,
            row.cpu_s_per_gib.median,
            round(row.clients_waited.median * 100.0, 1)
        )?;
    }
    writeln!(out, "  ours is {} times what a PVS device reaches", single.ours_over_pvs)?;
    if let Some(best) = &single.ours_over_best_peer {
        writeln!(out, "  ours ÷ {}, the best TCP peer: {}", best.peer, best.ratio)?;
    }
    single.left_out.iter().try_for_each(|words| writeln!(out, "  left out: {words}"))
}
