//! How answers look to people.

use std::fmt::Write;

use super::{Figures, Rebalanced};
use crate::status::{LoadStatus, PeerStatus, Status, short};

/// The farm as a node sees it.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let node = &status.node;
    let _ = writeln!(
        text,
        "{}: {}, logins at {}, peers at {}, up {}, version {}, process {}",
        node.name,
        node.drain,
        node.login,
        node.peer_port.as_deref().unwrap_or("off"),
        span(node.uptime_seconds),
        node.version,
        node.pid
    );
    text.push('\n');
    let mut rows = vec![
        [
            "node", "state", "since", "address", "power", "sessions", "standbys", "boots", "drain",
            "heard",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.push(row(
        &format!("{} (this)", node.name),
        "up",
        node.uptime_seconds,
        (&node.login, node.power, &node.load, &node.drain),
        "-",
    ));
    rows.extend(status.peers.iter().map(peer_row));
    table(&mut text, &rows);
    for peer in status.peers.iter().filter(|peer| peer.state != "up") {
        let _ = writeln!(text, "{}: {}", peer.name, peer.why);
    }
    text.push('\n');
    versions(&mut text, status);
    for line in status.differences.iter().chain(&status.problems) {
        let _ = writeln!(text, "\n! {line}");
    }
    text
}

/// Who holds which content of what.
fn versions(text: &mut String, status: &Status) {
    let mut rows =
        vec![["vdisk", "node", "content id", "sessions", ""].map(str::to_owned).to_vec()];
    for vdisk in &status.vdisks {
        if vdisk.holders.is_empty() {
            rows.push(vec![
                vdisk.name.clone(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "nobody holds it".to_owned(),
            ]);
        }
        for holder in &vdisk.holders {
            let mut marks = Vec::new();
            if !holder.same {
                marks.push("DIFFERS".to_owned());
            }
            if !holder.eligible {
                marks.push("takes no devices".to_owned());
            }
            if holder.node_state != "up" {
                marks.push(format!("node {}", holder.node_state));
            }
            rows.push(vec![
                vdisk.name.clone(),
                holder.node.clone(),
                short(&holder.content_id),
                holder.sessions.to_string(),
                marks.join(", "),
            ]);
        }
    }
    table(text, &rows);
    for vdisk in &status.vdisks {
        if let Some(node) = &vdisk.pinned_to {
            let _ =
                writeln!(text, "{}: pinned to {node}, its devices have no failover", vdisk.name);
        }
        if let Some(pinned) = vdisk.cache_pinned {
            let missing = match pinned.missing {
                0 => String::new(),
                n => format!(", {n} cannot be loaded"),
            };
            let (name, loaded, blocks) = (&vdisk.name, pinned.loaded, pinned.blocks);
            let _ =
                writeln!(text, "{name}: {loaded} of {blocks} blocks pinned in the cache{missing}");
        }
    }
}

fn peer_row(peer: &PeerStatus) -> Vec<String> {
    let heard =
        peer.reported_seconds_ago.map_or_else(|| "never".to_owned(), |s| format!("{s:.1} s ago"));
    row(
        &peer.name,
        &peer.state,
        peer.since_seconds,
        (&peer.login, peer.power, &peer.load, &peer.drain),
        &heard,
    )
}

fn row(
    name: &str,
    state: &str,
    since: u64,
    (login, power, load, drain): (&str, f64, &LoadStatus, &str),
    heard: &str,
) -> Vec<String> {
    let boots = match load.boot_limit {
        0 => format!("{}", load.boot_slots_in_use),
        limit => format!("{}/{limit}", load.boot_slots_in_use),
    };
    vec![
        name.to_owned(),
        state.to_owned(),
        span(since),
        login.to_owned(),
        power.to_string(),
        load.sessions.to_string(),
        load.standbys.to_string(),
        boots,
        drain.to_owned(),
        heard.to_owned(),
    ]
}

/// Columns as wide as their widest cell.
fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Seconds as people say them, two units at most.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// What a rebalance did.
pub(super) fn rebalanced(dry_run: bool, vdisks: &[Rebalanced]) -> String {
    let mut text = String::new();
    let verb = if dry_run { "would be moved" } else { "are told to move" };
    for vdisk in vdisks {
        let _ = match vdisk.sessions {
            0 => writeln!(text, "{}: nothing to move: {}", vdisk.vdisk, vdisk.why),
            n => writeln!(text, "{}: {n} sessions {verb}: {}", vdisk.vdisk, vdisk.why),
        };
    }
    if vdisks.is_empty() {
        text.push_str("no vDisk to rebalance\n");
    }
    text
}

/// Rates between two moments.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct Rates {
    /// Seconds between the two.
    pub seconds: f64,
    /// Reads per second.
    pub reads_per_second: f64,
    /// MiB of vDisk data per second.
    pub mib_per_second: f64,
    /// Share of lookups that found their block, in percent; none without a lookup.
    pub hit_percent: Option<f64>,
    /// Disk reads per second.
    pub disk_reads_per_second: f64,
    /// The later moment's counts.
    pub figures: Figures,
}

impl Rates {
    /// What happened between two answers of one node.
    pub(super) fn between(before: &Figures, after: &Figures) -> Rates {
        let seconds = (after.at - before.at).max(1e-3);
        #[expect(
            clippy::cast_precision_loss,
            reason = "differences within seconds are far below 2^53"
        )]
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        let lookups = rate(before.cache_lookups, after.cache_lookups);
        let hits = rate(before.cache_hits, after.cache_hits);
        Rates {
            seconds,
            reads_per_second: rate(before.reads, after.reads),
            mib_per_second: rate(before.data_bytes, after.data_bytes) / f64::from(1 << 20),
            hit_percent: (lookups > 0.0).then(|| 100.0 * hits / lookups),
            disk_reads_per_second: rate(before.disk_reads, after.disk_reads),
            figures: after.clone(),
        }
    }

    /// A screen of it.
    pub(super) fn screen(&self) -> String {
        let figures = &self.figures;
        let hits =
            self.hit_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %"));
        let mut text = String::new();
        let _ = writeln!(text, "reads     {:>12.0} /s", self.reads_per_second);
        let _ = writeln!(text, "data      {:>12.1} MiB/s", self.mib_per_second);
        let _ = writeln!(text, "hit rate  {hits:>12}");
        let _ = writeln!(text, "disk      {:>12.0} reads/s", self.disk_reads_per_second);
        let _ = writeln!(text, "sessions  {:>12}", figures.sessions);
        let _ = writeln!(text, "standbys  {:>12}", figures.standbys);
        let _ = writeln!(text, "booting   {:>12}", figures.boot_slots_in_use);
        if !figures.slowest.is_empty() {
            text.push_str("\nslowest devices (longest read, by their own word)\n");
        }
        for device in &figures.slowest {
            #[expect(clippy::cast_precision_loss, reason = "a time for people")]
            let ms = device.read_us_max as f64 / 1e3;
            let _ = writeln!(text, "  {}  {ms:>10.1} ms", device.mac);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let before = Figures {
            at: 1.0,
            reads: 100,
            cache_hits: 10,
            cache_lookups: 20,
            ..Figures::default()
        };
        let after = Figures {
            at: 3.0,
            reads: 500,
            data_bytes: 4 << 20,
            cache_hits: 19,
            cache_lookups: 30,
            ..before.clone()
        };
        let rates = Rates::between(&before, &after);
        assert!((rates.reads_per_second - 200.0).abs() < 1e-9);
        assert!((rates.mib_per_second - 2.0).abs() < 1e-9);
        assert!((rates.hit_percent.expect("lookups") - 90.0).abs() < 1e-9);
        assert_eq!(Rates::between(&after, &after).hit_percent, None);
    }

    #[test]
    fn spans_name_two_units() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(61), "1 min 1 s");
        assert_eq!(span(7_260), "2 h 1 min");
        assert_eq!(span(90_000), "1 d 1 h");
    }

    #[test]
    fn tables_are_aligned() {
        let rows =
            vec![vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        let mut text = String::new();
        table(&mut text, &rows);
        assert_eq!(text, "a    bb\nccc  d\n");
    }
}
