//! The Wireshark dissector shows every message of the hand-laid listings, by name and value, over IPv4 and IPv6.
//!
//! Needs `tshark` (Debian: tshark). Without it the tests print `SKIPPED: tshark is not installed` and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use diskstream_wire::layout::Direction;
use diskstream_wire::{HEADER_BYTES, Kind, Table, tables};

mod support {
    pub mod pcap;
    pub mod vectors;
}
use support::pcap::Capture;
use support::vectors::{self, Vector};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diskstream.lua")
}

/// Runs tshark with the dissector; none when it is not installed. Errors that Lua prints fail the test.
fn tshark(arguments: &[&str]) -> Option<String> {
    let lua = format!("lua_script:{}", script().display());
    // The script comes last: `-G` must come first.
    let run =
        Command::new("tshark").args(arguments).args(["-X", &lua]).stdin(Stdio::null()).output();
    let output = match run {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: tshark is not installed");
            return None;
        }
        Err(e) => panic!("tshark cannot be started: {e}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    assert!(!errors.to_lowercase().contains("lua"), "tshark: {errors}");
    Some(String::from_utf8(output.stdout).expect("tshark prints UTF-8"))
}

/// A capture file that lives as long as this value.
struct File(PathBuf);

impl File {
    fn new(name: &str, capture: &Capture) -> File {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pcap"));
        std::fs::write(&path, capture.bytes()).expect("a capture file");
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the path is UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn table(vector: &Vector) -> &'static Table {
    tables().find(|t| t.name == vector.of()).expect("a listing is named after its message")
}

/// The listings of messages (not records), requests before their answers.
fn messages() -> Vec<Vector> {
    let mut all: Vec<Vector> =
        vectors::all().into_iter().filter(|v| table(v).kind.is_some()).collect();
    all.sort_by_key(|v| (table(v).kind, v.name.clone()));
    all
}

/// Source and destination of a message, at the ports of the protocol.
fn ends(table: &Table, v6: bool) -> (SocketAddr, SocketAddr) {
    let login = table.kind.is_some_and(|kind| kind <= Kind::IoPortReply.code());
    let (device_port, node_port) = if login { (6901, 6910) } else { (6905, 6911) };
    let device_port = if table.name == "Notice" { 6902 } else { device_port };
    let ends = if v6 { ["2001:db8::9", "2001:db8::7"] } else { ["10.20.30.9", "10.20.30.40"] };
    let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
    let (device, node) = (end(ends[0], device_port), end(ends[1], node_port));
    if table.direction == Direction::ToNode { (device, node) } else { (node, device) }
}

/// Every message twice; the frame number of each listing over IPv4, in order.
fn whole_capture() -> (Capture, Vec<Vector>) {
    let mut capture = Capture::new();
    let listings = messages();
    for v6 in [false, true] {
        for listing in &listings {
            let (from, to) = ends(table(listing), v6);
            capture.push(from, to, &listing.bytes);
        }
    }
    (capture, listings)
}

/// What tshark should print for a field with these bytes.
fn expected(ty: &str, raw: &[u8]) -> String {
    let hex = || raw.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match ty {
        "mac" => raw.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
        "text" => {
            let end = raw.iter().position(|&b| b == 0).unwrap_or(raw.len());
            String::from_utf8(raw[..end].to_vec()).expect("the listings hold UTF-8")
        }
        "bytes" | "content_id" => hex(),
        _ => u64::from_str_radix(&hex(), 16).expect("at most 8 bytes").to_string(),
    }
}

/// Numbers in decimal, whatever radix the dissector chose; bytes without separators.
fn normal(ty: &str, shown: &str) -> String {
    let first = shown.split('|').next().unwrap_or("");
    match ty {
        "mac" | "text" => first.to_owned(),
        "bytes" | "content_id" => first.replace(':', ""),
        _ => match first.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).expect("hexadecimal").to_string(),
            None => first.to_owned(),
        },
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The filter name of each field that the dissector registers.
fn registered() -> Option<BTreeSet<String>> {
    let listing = tshark(&["-G", "fields"])?;
    let names = listing.lines().filter(|line| line.starts_with("F\t"));
    let names = names.filter_map(|line| line.split('\t').nth(2)).map(str::to_owned);
    Some(names.filter(|name| name.starts_with("diskstream.")).collect())
}

/// Values by frame and field.
fn values(file: &File, fields: &[String], more: &[&str]) -> Option<Vec<BTreeMap<String, String>>> {
    let mut arguments = vec!["-r", file.path(), "-T", "fields", "-E", "separator=/t"];
    arguments.extend(["-E", "occurrence=a", "-E", "aggregator=|"]);
    arguments.extend(more);
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let printed = tshark(&arguments)?;
    let row =
        |line: &str| fields.iter().cloned().zip(line.split('\t').map(str::to_owned)).collect();
    Some(printed.lines().map(row).collect())
}

#[test]
fn every_field_of_every_message_is_shown() {
    let Some(registered) = registered() else { return };
    let (capture, listings) = whole_capture();
    let file = File::new("every-field", &capture);
    let fields: Vec<String> = registered.iter().cloned().collect();
    let Some(frames) = values(&file, &fields, &[]) else { return };
    assert_eq!(frames.len(), 2 * listings.len());
    let mut checked = 0;
    for (listing, frame) in listings.iter().chain(&listings).zip(&frames) {
        let table = table(listing);
        assert_eq!(
            frame["diskstream.kind"],
            format!("{:#04x}", listing.bytes[3]),
            "{}",
            listing.name
        );
        for row in table.rows.iter().filter(|row| row.ty != "reserved") {
            let raw = &listing.bytes[row.offset..row.offset + row.bytes];
            let own = format!("diskstream.{}.{}", snake(table.name), row.name);
            let shared = format!("diskstream.{}", row.name);
            let probe = if row.ty == "endpoint" { ".address" } else { "" };
            let name = [own, shared]
                .into_iter()
                .find(|name| registered.contains(&format!("{name}{probe}")))
                .unwrap_or_else(|| panic!("{}.{} has no field", table.name, row.name));
            if row.ty == "endpoint" {
                let address = <[u8; 16]>::try_from(&raw[..16]).expect("16 bytes");
                let shown = &frame[&format!("{name}.address")];
                let shown = shown.split('|').next().expect("a value");
                assert_eq!(shown.parse(), Ok(Ipv6Addr::from(address)), "{name} {}", listing.name);
                let port = &frame[&format!("{name}.port")];
                assert_eq!(normal("u16", port), expected("u16", &raw[16..]), "{name}");
            } else {
                let shown = normal(row.ty, &frame[&name]);
                assert_eq!(shown, expected(row.ty, raw), "{name} in {}", listing.name);
            }
            checked += 1;
        }
        for shown in frame.keys().filter(|k| k.contains("expert.too_short")) {
            assert_eq!(frame[shown], "", "{}", listing.name);
        }
    }
    assert!(checked > 2 * 150, "only {checked} values were compared");
}

#[test]
fn tails_are_shown() {
    let (capture, listings) = whole_capture();
    let file = File::new("tails", &capture);
    let fields = [
        "diskstream.node_entry.login.address",
        "diskstream.node_entry.rating",
        "diskstream.extent_entry.length",
        "diskstream.extent_entry.zero",
        "diskstream.ticket",
        "diskstream.padding",
        "diskstream.data",
        "diskstream.tail",
    ]
    .map(str::to_owned);
    let Some(frames) = values(&file, &fields, &[]) else { return };
    let shown = |listing: &str, field: &str| {
        let at = listings.iter().position(|l| l.name == listing).expect("a listing");
        frames[at][field].clone()
    };
    let nodes = "diskstream.node_entry.login.address";
    assert_eq!(shown("LoginTransfer", nodes), "2001:db8::7|::ffff:10.20.30.41");
    assert_eq!(shown("LoginTransfer", "diskstream.node_entry.rating"), "200|100");
    assert_eq!(shown("LoginTransfer", "diskstream.ticket"), "7a7b7c");
    assert_eq!(shown("LoginStart", "diskstream.ticket"), "7469636b74");
    assert_eq!(shown("KeepAliveReply", "diskstream.ticket"), "cafebabe");
    assert_eq!(shown("Notice", nodes), "::ffff:10.20.30.41");
    assert_eq!(shown("Extents", "diskstream.extent_entry.length"), "2097152|4096");
    assert_eq!(shown("Extents", "diskstream.extent_entry.zero"), "1|0");
    assert_eq!(shown("ReadData", "diskstream.padding"), "00".repeat(32));
    assert!(shown("ReadData", "diskstream.data").starts_with("5a5a5a"));
    assert_eq!(shown("PathProbe", "diskstream.padding").len(), 2 * 1424);
    for listing in &listings {
        assert_eq!(shown(&listing.name, "diskstream.tail"), "", "{}: a tail unread", listing.name);
    }
}

#[test]
fn nothing_is_malformed_and_names_are_readable() {
    let (capture, listings) = whole_capture();
    let file = File::new("names", &capture);
    let Some(details) = tshark(&["-r", file.path(), "-V"]) else { return };
    for wrong in ["Lua Error", "Malformed", "Fewer bytes", "not zero", "Unknown ("] {
        let lines: Vec<_> = details.lines().filter(|line| line.contains(wrong)).collect();
        // The reason of an accepted handshake is 0, which has no name.
        assert!(lines.iter().all(|line| line.contains("Unknown (0)")), "{wrong}: {lines:?}");
    }
    for name in [
        "login kind: reconnect (2)",
        "reason: duplicate_device (10)",
        "reason: boot_limit (1)",
        "write cache: ram_overflow (2)",
        "code: store_error (1)",
        "fragment size: 1376 B (2)",
        "login: 10.20.30.40:6910",
        "node: [2001:db8::7]:6910",
        "ExtentEntry 1: 2097152 B of zeros",
        "Flags: 0x0001 (draining)",
        "The node is draining: the device should move",
        "A request was refused",
        "The node does not know this session",
        ".... ...1 = zero_marks: True",
        ".1.. .... = standby: True",
    ] {
        assert!(details.contains(name), "{name} is not shown");
    }

    let summary = tshark(&["-r", file.path()]).expect("tshark is there");
    let lines: Vec<&str> = summary.lines().collect();
    assert_eq!(lines.len(), 2 * listings.len());
    for (listing, line) in listings.iter().chain(&listings).zip(lines) {
        assert!(line.contains("Diskstream"), "{}: {line}", listing.name);
        assert!(line.contains(listing.of()), "{}: {line}", listing.name);
    }
    for info in [
        "LoginTransfer win11-prod at [2001:db8::7]:6910",
        "LoginBusy 11000 ms boot_limit",
        "LoginReject duplicate_device: this MAC is alive at 10.20.30.99; detach it there first",
        "LoginComplete session 42 tag 0xa1b2c3d4e5f60718",
        "Read 32768 B @ 0x12345000 wants 24 x 1376 B attempt 1 [AGAIN]",
        "Read 512 B @ 0x200 wants 1 x 1024 B attempt 0 [SINGLE]",
        "ReadData frag 2 1344 B @ 0x12345ac0 [DRAINING]",
        "ReadZero 2 units @ 0x12345000",
        "ReadPending waited 10 ms",
        "ReadError store_error 4096 B @ 0x12346000",
        "Notice stopping in 15000 ms, 1 successors [DRAINING]",
    ] {
        assert!(summary.contains(info), "{info} is not in the summary");
    }
}

#[test]
fn answers_name_their_requests() {
    let (capture, listings) = whole_capture();
    let file = File::new("answers", &capture);
    let fields = ["diskstream.request_in", "diskstream.time"].map(str::to_owned);
    let frame = |name: &str| 1 + listings.iter().position(|l| l.name == name).expect("a listing");
    // One pass, as tshark does by default, and two, as Wireshark does when it shows a frame.
    for passes in [&[][..], &["-2"][..]] {
        let Some(frames) = values(&file, &fields, passes) else { return };
        for (request, answer) in [
            ("LoginPortRequest", "LoginPortReply"),
            ("LoginStart", "LoginTransfer"),
            ("IoPortRequest", "IoPortReply"),
            ("IoServiceStart", "LoginComplete"),
            ("VdiskInfoRequest", "VdiskInfo"),
            ("Handshake", "HandshakeReply"),
            ("Read", "ReadData"),
            ("Read", "ReadZero"),
            ("ExtentsRequest", "Extents"),
            ("KeepAlive", "KeepAliveReply"),
            ("Notice", "NoticeAck"),
            ("PathProbe", "PathProbeReply"),
        ] {
            let (asked, answered) = (frame(request), frame(answer));
            let shown = &frames[answered - 1];
            assert_eq!(shown["diskstream.request_in"], asked.to_string(), "{answer} {passes:?}");
            let seconds: f64 = shown["diskstream.time"].parse().expect("seconds");
            let apart = f64::from(u32::try_from(answered - asked).expect("few frames")) / 1000.0;
            assert!((seconds - apart).abs() < 1e-6, "{answer}: {seconds} {apart}");
            assert_eq!(frames[asked - 1]["diskstream.request_in"], "", "{request}");
        }
        // Its `attempt` is that of no request in the capture.
        assert_eq!(frames[frame("ReadPending") - 1]["diskstream.request_in"], "");
    }
}

#[test]
fn trains_cuts_and_strangers() {
    let data = vectors::named("ReadData");
    let read = vectors::named("Read");
    let (from, to) = ends(table(&data), false);
    let mut capture = Capture::new();
    // 1: what a capture on the sending host sees of a GSO send.
    let train = [&data.bytes[..], &data.bytes, &data.bytes].concat();
    capture.push(from, to, &train);
    // 2: cut by the capture in the data. 3: cut in the fixed part.
    capture.push_cut(from, to, &data.bytes, 128);
    capture.push_cut(from, to, &data.bytes, 60);
    // 4: other ports, found by magic.
    let odd = |port| SocketAddr::new(from.ip(), port);
    capture.push(odd(40_000), odd(50_000), &read.bytes);
    // 5: a kind of tomorrow. 6: a length shorter than the message.
    let mut tomorrow = read.bytes.clone();
    tomorrow[3] = 0x5f;
    capture.push(to, from, &tomorrow);
    let mut short = read.bytes.clone();
    short[6..8].copy_from_slice(&40u16.to_be_bytes());
    capture.push(to, from, &short);
    // 7, 8: not ours, though at our ports: no magic, and a length that is not there.
    capture.push(from, to, &[0x55; 200]);
    capture.push(from, to, &data.bytes[..data.bytes.len() - 1]);
    // 9: reserved bytes that are not zero. 10: only a header, cut.
    let mut reserved = read.bytes.clone();
    reserved[39] = 7;
    capture.push(to, from, &reserved);
    capture.push_cut(from, to, &data.bytes, HEADER_BYTES - 1);
    let file = File::new("trains", &capture);

    let Some(details) = tshark(&["-r", file.path(), "-V"]) else { return };
    assert!(!details.contains("Lua Error"), "{details}");
    let summary = tshark(&["-r", file.path()]).expect("tshark is there");
    let lines: Vec<&str> = summary.lines().collect();
    let shows = |frame: usize, text: &str| {
        assert!(lines[frame - 1].contains(text), "frame {frame}: {}", lines[frame - 1]);
    };
    shows(1, "ReadData frag 2 1344 B @ 0x12345ac0 [DRAINING] (+2 more in one send)");
    shows(2, "ReadData frag 2 1344 B @ 0x12345ac0");
    shows(3, "ReadData (cut by the capture)");
    shows(4, "Read 32768 B @ 0x12345000");
    shows(5, "unknown kind 0x5f");
    shows(6, "Read too short");
    shows(9, "Read 32768 B");
    for stranger in [7, 8, 10] {
        assert!(!lines[stranger - 1].contains("Diskstream"), "{}", lines[stranger - 1]);
    }
    let fields = ["diskstream.kind", "diskstream.data", "diskstream.reserved"].map(str::to_owned);
    let frames = values(&file, &fields, &[]).expect("tshark is there");
    assert_eq!(frames[0]["diskstream.kind"], "0x21|0x21|0x21");
    assert_eq!(frames[1]["diskstream.data"], "5a".repeat(128 - 76 - 32));
    assert_eq!(frames[8]["diskstream.reserved"], "0007");
    let refused = tshark(&["-r", file.path(), "-Y", "diskstream.expert.too_short"]);
    assert_eq!(refused.expect("tshark is there").lines().count(), 1);
}
