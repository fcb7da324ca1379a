//! The report: every figure, and the ratios that it comes to.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::args::PeersArgs;
use super::figures::Cell;
use super::loads::{Load, Measure};
use super::scene::{Missing, Results, Started, ours};
use crate::report::{Provenance, round};
use crate::spread::median;

/// Our node and the best stream peer under a load.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The load.
    pub load: Load,
    /// The name of the ratio.
    pub name: &'static str,
    /// MTU of our devices.
    pub mtu: u16,
    /// What is compared.
    pub measure: Measure,
    /// Our median.
    pub ours: f64,
    /// The peer with the lowest median.
    pub best_peer: String,
    /// Its median.
    pub theirs: f64,
    /// Whether both held the rate of an open loop; none where there is no rate to hold. A latency of a server that does not is that of its
    /// backlog.
    pub held: Option<[bool; 2]>,
    /// Ours ÷ theirs: the ratio of the medians.
    pub ratio: f64,
    /// The ratio of each round.
    pub each: Vec<f64>,
}

/// Names and ratios; none where nothing was measured.
pub type Ratios = BTreeMap<&'static str, Option<f64>>;

/// The report.
#[derive(Debug, Serialize)]
pub struct PeersReport {
    /// Ours ÷ best stream peer, with the first MTU.
    pub ratios: Ratios,
    /// The same for each MTU.
    pub ratios_by_mtu: BTreeMap<u16, Ratios>,
    /// What the ratios are made of.
    pub comparisons: Vec<Comparison>,
    /// Figures of our node and of stream peers.
    pub servers: Vec<Cell>,
    /// vblade's, which is no stream peer, and ours in the same shapes.
    pub aoe: Vec<Cell>,
    /// Rate of the open loop, in reads per second.
    pub open_rate: Option<u32>,
    /// Our node's rate that it is half of.
    pub saturation: Option<f64>,
    /// Peers that were not there.
    pub missing: Vec<Missing>,
    /// How the others were started.
    pub peers: Vec<Started>,
    /// Part of all processors' time that other guests of the host took during the run; the figures do not know of it.
    pub stolen: f64,
    /// Rounds.
    pub rounds: u32,
    /// Length of each window.
    pub seconds: f64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// How bytes were checked.
    pub check: &'static str,
    /// Seed.
    pub seed: u64,
    /// Whether servers and load had a core each.
    pub pinned: bool,
    /// Where the figures come from.
    pub provenance: Provenance,
}

impl PeersReport {
    /// Of these results.
    #[must_use]
    pub fn new(
        args: &PeersArgs,
        results: Results,
        stolen: f64,
        provenance: Provenance,
    ) -> PeersReport {
        let Results { mut cells, aoe, missing, started, open_rate, saturation } = results;
        cells.iter_mut().for_each(Cell::judge);
        let loads = args.loads();
        let pairs = args.mtu.iter().flat_map(|&mtu| loads.iter().map(move |&load| (mtu, load)));
        let comparisons: Vec<_> =
            pairs.filter_map(|(mtu, load)| compare(&cells, mtu, load)).collect();
        let ratios_by_mtu: BTreeMap<u16, Ratios> =
            args.mtu.iter().map(|&mtu| (mtu, ratios(&comparisons, mtu))).collect();
        PeersReport {
            ratios: ratios(&comparisons, args.mtu[0]),
            ratios_by_mtu,
            comparisons,
            servers: cells,
            aoe,
            open_rate,
            saturation,
            missing,
            peers: started,
            stolen,
            rounds: args.rounds,
            seconds: args.seconds,
            image_bytes: args.image_bytes,
            check: if args.verify { "every byte" } else { "stamps; of peers 1 read in 64 whole" },
            seed: args.seed,
            pinned: !args.no_pin,
            provenance,
        }
    }

    /// The table for people.
    ///
    /// # Errors
    /// When the output is gone.
    pub fn table(&self, out: &mut impl Write) -> io::Result<()> {
        for load in Load::ALL {
            self.load_table(out, load)?;
        }
        if !self.aoe.is_empty() {
            writeln!(
                out,
                "\nvblade: AoE over a veth pair, one device; no stream peer. In turns with it our node, over loopback"
            )?;
            for cell in &self.aoe {
                let (_, depth, size, _) = cell.shape;
                row(out, cell, &format!("{}, {depth} x {} KiB", cell.server, size >> 10))?;
            }
        }
        writeln!(out, "\nours ÷ best stream peer (each round)")?;
        for c in &self.comparisons {
            let held = match c.held {
                None | Some([true, true]) => "",
                Some([true, false]) => "; the peer does not hold the rate",
                Some([false, true]) => "; we do not hold the rate",
                Some([false, false]) => "; neither holds the rate",
            };
            writeln!(
                out,
                "  MTU {:5} {:12} {:>7.3}  {:?}: {} against {} of {}; rounds {:?}{held}",
                c.mtu,
                c.load.name(),
                c.ratio,
                c.measure,
                c.ours,
                c.theirs,
                c.best_peer,
                c.each
            )?;
        }
        if let Some(rate) = self.open_rate {
            writeln!(out, "  the open loop asks for {rate} reads/s")?;
        }
        for Missing { peer, package } in &self.missing {
            writeln!(out, "  {peer} was left out: not installed (apt install {package})")?;
        }
        let PeersReport { rounds, seconds, provenance, .. } = self;
        let stolen = self.stolen * 100.0;
        writeln!(out, "  {rounds} rounds of {seconds} s, {stolen:.1} % stolen | {provenance}")
    }

    fn load_table(&self, out: &mut impl Write, load: Load) -> io::Result<()> {
        let cells: Vec<_> = self.servers.iter().filter(|cell| cell.load == Some(load)).collect();
        if cells.is_empty() {
            return Ok(());
        }
        let (connections, depth, size, pattern) = load.shape();
        writeln!(
            out,
            "\n{}: {connections} x {depth} reads of {} KiB, {pattern:?}\n  {:24} {:>9} {:>9} {:>9} {:>10} {:>17} {:>9} {:>6} {:>6}",
            load.name(),
            size >> 10,
            "",
            "reads/s",
            "MiB/s",
            "p50 µs",
            "p99 µs",
            "µs/read (spread)",
            "s/GiB",
            "server",
            "client"
        )?;
        cells.iter().try_for_each(|cell| row(out, cell, &cell.server))
    }
}

fn row(out: &mut impl Write, cell: &Cell, name: &str) -> io::Result<()> {
    let Some(cpu) = cell.median(|run| run.cpu_us_per_read) else {
        let reason = cell.failures.first().map_or("not measured", String::as_str);
        return writeln!(out, "  {name:24} failed: {reason}");
    };
    let middle = |figure: fn(&super::figures::Figures) -> f64| cell.median(figure).unwrap_or(0.0);
    let most = cell.each(|run| run.cpu_us_per_read).fold(0.0, f64::max);
    let least = cell.each(|run| run.cpu_us_per_read).fold(f64::MAX, f64::min);
    let again: u64 = cell.runs.iter().map(|run| run.asked_again).sum();
    let mut more = String::new();
    if cell.held == Some(false) {
        more += " does not hold the rate";
    }
    if again > 0 {
        more += &format!(" {again} requests lost and asked again");
    }
    if !cell.failures.is_empty() {
        more += &format!(" {} runs failed: {}", cell.failures.len(), cell.failures[0]);
    }
    writeln!(
        out,
        "  {name:24} {:>9.0} {:>9.0} {:>9.1} {:>10.1} {:>8.2} ({:>4.1} %) {:>9.3} {:>6.2} {:>6.2}{more}",
        middle(|run| run.reads_per_s),
        middle(|run| run.mib_per_s),
        middle(|run| run.p50_us),
        middle(|run| run.p99_us),
        cpu,
        (most - least) / cpu * 100.0,
        middle(|run| run.cpu_s_per_gib),
        middle(|run| run.server_cores),
        middle(|run| run.client_cores),
    )
}

fn compare(cells: &[Cell], mtu: u16, load: Load) -> Option<Comparison> {
    let measure = load.measure();
    let middle = |cell: &Cell| cell.median(|run| run.of(measure));
    let ours_name = ours(mtu);
    let of_load = || cells.iter().filter(|cell| cell.load == Some(load));
    let our_cell = of_load().find(|cell| cell.server == ours_name)?;
    let peers = of_load().filter(|cell| !is_ours(&cell.server));
    // One that holds the rate is better than any that does not.
    let order = |(value, cell): &(f64, &Cell)| (cell.held == Some(false), *value);
    let (theirs, best) = peers.filter_map(|cell| Some((middle(cell)?, cell))).min_by(|a, b| {
        let ((a_fails, a), (b_fails, b)) = (order(a), order(b));
        a_fails.cmp(&b_fails).then(a.total_cmp(&b))
    })?;
    let ours = middle(our_cell)?;
    let pairs = our_cell.each(|run| run.of(measure)).zip(best.each(|run| run.of(measure)));
    Some(Comparison {
        load,
        name: load.ratio(),
        mtu,
        measure,
        ours,
        best_peer: best.server.clone(),
        theirs,
        held: our_cell.held.zip(best.held).map(|(ours, theirs)| [ours, theirs]),
        ratio: round(ours / theirs, 3),
        each: pairs.map(|(ours, theirs)| round(ours / theirs, 3)).collect(),
    })
}

/// Whether a server's name is our node's.
#[must_use]
pub fn is_ours(server: &str) -> bool {
    server.starts_with("diskstream")
}

/// Of two loads with the same ratio the larger one counts: 32 KiB of one device and of many are to be good both.
fn ratios(comparisons: &[Comparison], mtu: u16) -> Ratios {
    let mut ratios: Ratios = Load::ALL.iter().map(|load| (load.ratio(), None)).collect();
    for comparison in comparisons.iter().filter(|c| c.mtu == mtu) {
        let slot = ratios.entry(comparison.name).or_default();
        *slot = Some(slot.unwrap_or(0.0).max(comparison.ratio));
    }
    ratios
}

/// The middle of a load's figure, for plots.
#[must_use]
pub fn middle(cell: &Cell) -> Option<f64> {
    let measure = cell.load?.measure();
    median(cell.each(|run| run.of(measure)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::figures::Figures;

    fn cell(load: Load, server: &str, cpu: &[f64]) -> Cell {
        let run = |&cpu: &f64| Figures { cpu_us_per_read: cpu, p99_us: cpu, ..Figures::default() };
        Cell { runs: cpu.iter().map(run).collect(), ..Cell::new(load, server, None) }
    }

    #[test]
    fn each_load_has_its_own_best_peer_and_the_worse_of_32_kib_counts() {
        let cells = [
            cell(Load::Small64, &ours(1500), &[4.0, 5.0, 9.0]),
            cell(Load::Small64, "nbdkit", &[10.0, 10.0, 10.0]),
            cell(Load::Small64, "qemu-nbd", &[8.0, 11.0, 8.0]),
            cell(Load::Small64, "tgt", &[]),
            cell(Load::Medium1Deep, &ours(1500), &[10.0]),
            cell(Load::Medium1Deep, "nbdkit", &[20.0]),
            cell(Load::Medium64, &ours(1500), &[10.0]),
            cell(Load::Medium64, &ours(9000), &[1.0]),
            cell(Load::Medium64, "nbdkit", &[12.5]),
        ];
        let found: Vec<_> = Load::ALL.iter().filter_map(|&l| compare(&cells, 1500, l)).collect();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].best_peer.as_str(), found[0].each.len()), ("qemu-nbd", 3));
        let near = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-9);
        let ratios = ratios(&found, 1500);
        assert_eq!(ratios.len(), 7, "all names are there: {ratios:?}");
        assert!(near(ratios["cpu_per_4k_read_64"], 0.625), "{ratios:?}");
        assert!(near(ratios["cpu_per_32k_read"], 0.8), "{ratios:?}");
        assert_eq!(ratios["p99_at_half_load"], None);
        assert!(near(compare(&cells, 9000, Load::Medium64).map(|c| c.ratio), 0.08));
    }
}
