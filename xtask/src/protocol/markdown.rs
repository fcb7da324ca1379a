//! Writes the tables of `docs/protocol.md` between its markers.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use diskstream_wire::layout::{Direction, Meaning, Table};
use diskstream_wire::{
    Capabilities, FragmentSize, Kind, PEER_MEANINGS, PEER_TABLES, Refusal, header::Flags, limits,
    meanings, tables,
};

use super::one_line;

/// Explanations of [`Flags::NAMES`], lowest bit first.
const FLAGS: [&str; Flags::NAMES.len()] = [
    "The node is draining: move to another one. On every reply of an open stream.",
    "The header's `auth` holds an authenticator over the rest of the datagram. Not negotiated by this version.",
    "A read in single-read mode, or the reply to one.",
    "A copy of a read that another node was asked first.",
    "A request that was sent before, in whole or in part.",
    "Reads of this session wait at the node for their turn to be sent. On `KeepAliveReply`.",
];

/// Explanations of [`Capabilities::NAMES`], lowest bit first.
const CAPABILITIES: [&str; Capabilities::NAMES.len()] = [
    "`ReadZero` marks instead of zero bytes.",
    "Fragments of 4096 and 8192 bytes where the path carries them.",
    "`ExtentsRequest` is answered.",
    "Writes. Not offered by this version.",
    "Authenticated datagrams. Not offered by this version.",
    "Encrypted datagrams. Not offered by this version.",
    "A second, warm session may be open at another node.",
];

/// The document with every generated part made anew.
pub fn document(old: &str) -> Result<String> {
    let mut new = old.to_owned();
    for (name, text) in [
        ("fragments", fragments()?),
        ("flags", bits(&Flags::NAMES, &FLAGS, None)?),
        ("capabilities", bits(&Capabilities::NAMES, &CAPABILITIES, Some(Capabilities::OURS.0))?),
        ("refusals", refusals()?),
        ("limits", limits_table()?),
        ("kinds", kinds()?),
        ("messages", messages()?),
        ("meanings", meanings_tables()?),
    ] {
        new = replace(&new, name, &text)?;
    }
    Ok(new)
}

/// `docs/peers.md` with its generated part made anew.
pub fn peers_document(old: &str) -> Result<String> {
    let tables = tables_of(PEER_TABLES.iter())?;
    let meanings = meanings_of(PEER_MEANINGS.iter())?;
    replace(old, "peers", &format!("{tables}\n{meanings}"))
}

fn replace(document: &str, name: &str, text: &str) -> Result<String> {
    let open = format!("<!-- generated: {name} -->\n");
    let close = format!("<!-- end: {name} -->");
    let missing = || format!("the document: put the lines `{}` and `{close}` back", open.trim());
    let (before, rest) = document.split_once(&open).with_context(missing)?;
    let (_, after) = rest.split_once(&close).with_context(missing)?;
    ensure!(!after.contains(&open), "docs/protocol.md: {name} is generated twice");
    Ok(format!("{before}{open}\n{}\n\n{close}{after}", text.trim()))
}

fn fragments() -> Result<String> {
    let mut out = String::from(
        "| number | data bytes | datagram bytes | per 4 KiB unit | per 32 KiB | per 64 KiB | datagrams in one send |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for size in FragmentSize::ALL {
        let per_unit = match size.units_each() {
            1 => size.per_unit().to_string(),
            units => format!("1 for {units}"),
        };
        writeln!(
            out,
            "| {} | {} | {} | {per_unit} | {} | {} | {} |",
            size as u8,
            size.bytes(),
            size.datagram_bytes(),
            size.count(32 * 1024),
            size.count(limits::READ_BYTES_MAX),
            size.segments_per_send(),
        )?;
    }
    Ok(out)
}

fn bits(names: &[&str], docs: &[&str], ours: Option<u64>) -> Result<String> {
    let mut out = String::from("| bit | value | name | meaning |\n|---|---|---|---|\n");
    for (bit, (name, doc)) in names.iter().zip(docs).enumerate() {
        if let Some(ours) = ours {
            let offered = ours >> bit & 1 == 1;
            ensure!(offered != doc.contains("Not offered"), "explain capability {name} as it is");
        }
        writeln!(out, "| {bit} | {:#06x} | `{name}` | {doc} |", 1u64 << bit)?;
    }
    Ok(out)
}

fn refusals() -> Result<String> {
    let docs = [
        "Fewer bytes arrived than the header has, or `length` names fewer than the message's fixed part.",
        "The first two bytes are not `DS`.",
        "The version byte is not 1.",
        "A kind that this version does not define.",
        "`length` names fewer bytes than the header has, or more than arrived.",
    ];
    let mut out = String::from("| counted as | when |\n|---|---|\n");
    for (refusal, doc) in Refusal::ALL.iter().zip(docs) {
        writeln!(out, "| `{}` | {doc} |", refusal.label())?;
    }
    Ok(out)
}

fn limits_table() -> Result<String> {
    let rows: [(&str, usize, &str); 13] = [
        (
            "unit",
            limits::UNIT_BYTES,
            "derived: the page size, and the usual block size of file systems",
        ),
        ("sector (single reads)", limits::SECTOR_BYTES, "the smallest logical sector of disks"),
        (
            "read of one request",
            limits::READ_BYTES_MAX,
            "derived: 64 fragments of 1024 bytes, the width of `wanted`; 16 units, the width of `zero_units`",
        ),
        (
            "read in single-read mode",
            limits::SINGLE_READ_BYTES_MAX,
            "derived: one fragment of the smallest size; PVS's boot loader reads 512 bytes, later about 1.1–1.4 KB (seed 001, theorypc.ca 2016-06-28)",
        ),
        (
            "control datagram",
            limits::CONTROL_BYTES_MAX,
            "derived: 1280 (IPv6's minimum MTU, RFC 8200 section 5) − 40 − 8",
        ),
        (
            "any datagram",
            limits::DATAGRAM_BYTES_MAX,
            "derived: `ReadData` and 8192 bytes of data, in an MTU of 9000",
        ),
        (
            "bytes of one GSO send",
            limits::SEND_BYTES_MAX,
            "65,535 − 20 − 8: the largest UDP payload over IPv4 (RFC 791, RFC 768)",
        ),
        (
            "segments of one GSO send",
            limits::SEND_SEGMENTS_MAX,
            "Linux: `UDP_MAX_SEGMENTS` was 64 until 6.9, 128 since",
        ),
        (
            "nodes in a list",
            limits::NODES_MAX,
            "derived: a login transfer fills a control datagram. PVS: 4 in its BIOS boot strap (SDK), 32 in UEFI's DHCP option 11 (docs.citrix.com, pvs-configure-UEFI)",
        ),
        (
            "sealed ticket",
            limits::TICKET_BYTES_MAX,
            "derived: nonce 24 + body 216 + 16 node entries of 24 + authenticator 16",
        ),
        ("extents in one answer", limits::EXTENTS_MAX, "guessed: fits a control datagram"),
        ("text to show", 128, "guessed: two lines of a text console"),
        ("name of a vDisk", 64, "PVS: at most 52 characters (SDK); rounded up"),
    ];
    let mut out = String::from("| what | at most | origin |\n|---|---|---|\n");
    for (what, value, origin) in rows {
        writeln!(out, "| {what} | {value} | {origin} |")?;
    }
    Ok(out)
}

fn arrow(table: &Table) -> &'static str {
    match table.direction {
        Direction::ToNode => "device → node",
        Direction::ToDevice => "node → device",
        Direction::Inside => "record",
        Direction::BetweenNodes => "node → node",
    }
}

fn kinds() -> Result<String> {
    let mut out = String::from("| kind | message | from → to | bytes |\n|---|---|---|---|\n");
    for kind in Kind::ALL {
        let table =
            tables().find(|t| t.kind == Some(kind.code())).context("every kind has a table")?;
        let name = kind.name();
        let anchor = format!("{:#04x}-{}", kind.code(), name.to_lowercase());
        writeln!(
            out,
            "| {:#04x} | [`{name}`](#{anchor}) | {} | {} |",
            kind.code(),
            arrow(table),
            table.bytes
        )?;
    }
    Ok(out)
}

fn messages() -> Result<String> {
    tables_of(tables())
}

fn tables_of<'a>(tables: impl Iterator<Item = &'a Table>) -> Result<String> {
    let mut out = String::new();
    for table in tables {
        match table.kind {
            Some(kind) => writeln!(out, "#### {kind:#04x} {}\n", table.name)?,
            None => writeln!(out, "#### {}\n", table.name)?,
        }
        writeln!(out, "{}, {} bytes. {}\n", arrow(table), table.bytes, one_line(table.doc))?;
        out.push_str("| at | bytes | type | field | meaning |\n|---|---|---|---|---|\n");
        if table.kind.is_some() {
            out.push_str("| 0 | 32 | header | | |\n");
        }
        for row in table.rows {
            writeln!(
                out,
                "| {} | {} | {} | `{}` | {} |",
                row.offset,
                row.bytes,
                row.ty,
                row.name,
                one_line(row.doc)
            )?;
        }
        out.push('\n');
    }
    Ok(out)
}

fn meanings_tables() -> Result<String> {
    meanings_of(meanings())
}

fn meanings_of<'a>(meanings: impl Iterator<Item = &'a Meaning>) -> Result<String> {
    let mut out = String::new();
    for meaning in meanings {
        writeln!(out, "#### {}\n\n{}\n", meaning.ty, one_line(meaning.doc))?;
        out.push_str("| number | label | meaning |\n|---|---|---|\n");
        for (code, label, doc) in meaning.values {
            writeln!(out, "| {code} | `{label}` | {} |", one_line(doc))?;
        }
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n";
        let new = replace(old, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nb\n");
        assert_eq!(replace(&new, "x", "new\n").unwrap(), new);
        assert!(replace(old, "y", "").is_err());
    }
}
