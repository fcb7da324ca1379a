//! The example is right, and each defect has its line.

use super::*;

const GOOD: &str = r#"
[farm]
name = "lab"
key_file = "farm.key"
accept_mac_alone = true
[[node]]
name = "alpha"
address = "10.0.0.11"
[[store]]
name = "images"
path = "images"
[[vdisk]]
name = "debian"
store = "images"
file = "debian.raw"
[[device]]
mac = "52:54:00:12:34:56"
name = "desk-01"
vdisk = "debian"
"#;

fn parse(text: &str) -> Result<Farm, FarmError> {
    Farm::parse(text, Path::new("/etc/diskstream/farm.toml"))
}

/// The one line that is wrong after replacing `from` by `to` in the good file.
fn defect(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let lines = parse(&GOOD.replacen(from, to, 1)).expect_err(to).to_string();
    assert!(!lines.contains('\n'), "one line for one defect, not:\n{lines}");
    lines.strip_prefix("/etc/diskstream/farm.toml:").expect("the file comes first").to_owned()
}

fn assert_defect(from: &str, to: &str, place: &str, parts: &[&str]) {
    let line = defect(from, to);
    assert!(line.starts_with(place), "{to}: expected {place}, got {line}");
    for part in parts {
        assert!(line.contains(part), "{to}: expected {part:?} in {line}");
    }
}

#[test]
fn the_example_is_right() {
    let farm = Farm::parse(EXAMPLE, Path::new("/etc/diskstream/farm.toml")).unwrap();
    assert_eq!((farm.name.as_str(), farm.epoch, farm.boot_limit), ("lab", 1, 500));
    assert_eq!(farm.key_file.as_deref(), Some(Path::new("/etc/diskstream/farm.key")));
    let alpha = farm.node("alpha").unwrap();
    assert_eq!((alpha.rating, alpha.io_port_count(), alpha.stores.as_slice()), (200, 20, &[0][..]));
    assert_eq!(alpha.login(), "10.0.0.11:6910".parse().unwrap());
    assert_eq!(alpha.entry().login.socket_addr(), Some(alpha.login()));
    let beta = farm.node("beta").unwrap();
    assert_eq!((beta.login_port, beta.io_ports, beta.peer_port), (6910, (6911, 6930), 6890));
    assert_eq!((beta.rating, beta.stores.as_slice()), (100, &[0][..]));
    assert!(alpha.subnet.is_some_and(|net| net.contains("10.0.0.77".parse().unwrap())));
    assert_eq!((farm.rebalance.enabled, farm.rebalance.trigger_percent), (false, 25));
    let (number, vdisk) = farm.vdisk("debian-13").unwrap();
    assert_eq!(
        (vdisk.affinity, vdisk.pinned, vdisk.content_id),
        (Affinity::BestEffort, None, None)
    );
    assert_eq!(vdisk.path, Path::new("/srv/images/debian-13.raw"));
    assert_eq!((vdisk.write_cache, vdisk.write_cache_bytes), (WriteCacheType::Ram, 2 << 30));
    assert_eq!(farm.nodes_with(number).count(), 2);
    let first = farm.device(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])).unwrap();
    assert!(first.key.is_some() && first.enabled && first.vdisk == Some(0));
    let second = farm.device(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57])).unwrap();
    assert!(second.key.is_none() && !second.enabled);
    assert!(farm.device(Mac([2, 0, 0, 0, 0, 1])).is_none());
    assert_eq!((farm.device_count(), farm.devices_without_key()), (2, 1));
    assert!(!farm.admits_any_mac() && farm.node("gamma").is_none());
}

#[test]
fn relative_paths_start_at_the_file() {
    let farm = parse(GOOD).unwrap();
    assert_eq!(farm.vdisks[0].path, Path::new("/etc/diskstream/images/debian.raw"));
    assert_eq!(farm.boot_limit, BOOT_LIMIT_DEFAULT);
}

#[test]
fn a_single_image_admits_any_mac() {
    let logins = ["10.0.0.1:6910".parse().unwrap(), "10.0.0.2:6910".parse().unwrap()];
    let farm = Farm::single_image(Path::new("/srv/debian.raw"), &logins, 7);
    assert!(farm.admits_any_mac());
    let device = farm.device(Mac([9; 6])).unwrap();
    assert!(device.enabled && device.key.is_none() && device.vdisk == Some(0));
    assert_eq!((farm.vdisks[0].name.as_str(), farm.boot_limit), ("debian", 7));
    assert_eq!(farm.vdisks[0].path, Path::new("/srv/debian.raw"));
    assert_eq!(farm.nodes_with(0).map(Node::login).collect::<Vec<_>>(), logins);
}

#[test]
fn unknown_and_missing_keys() {
    assert_defect("key_file", "keyfile", "4:1: ", &["unknown field `keyfile`", "`key_file`"]);
    assert_defect("[[device]]", "[[devices]]", "16:3: ", &["unknown field `devices`", "`device`"]);
    assert_defect("address = \"10.0.0.11\"\n", "", "6:1: ", &["missing field `address`"]);
    assert_defect("mac = \"52", "mac = 7 # \"52", "17:7: ", &["invalid type", "string"]);
    assert_defect("name = \"lab\"", "name = ", "3:", &["string"]);
    assert_defect("[farm]", "[far]", "2:2: ", &["unknown field `far`", "`farm`"]);
}

#[test]
fn duplicates_name_the_first() {
    let again = |table: &str| format!("{table}[farm]");
    let device = again("[[device]]\nmac = \"52-54-00-12-34-56\"\nname = \"twin\"\n");
    assert_defect(
        "[farm]",
        &device,
        "20:7: ",
        &["desk-01", "52:54:00:12:34:56", "line 3", "give each its own"],
    );
    let device = again("[[device]]\nmac = \"02:00:00:00:00:01\"\nname = \"desk-01\"\n");
    assert_defect("[farm]", &device, "21:8: ", &["second device", "desk-01", "line 4"]);
    let store = again("[[store]]\npath = \"x\"\nname = \"images\"\n");
    assert_defect("[farm]", &store, "13:8: ", &["second store", "line 4"]);
    let vdisk = again("[[vdisk]]\nstore = \"images\"\nfile = \"x\"\nname = \"debian\"\n");
    assert_defect("[farm]", &vdisk, "17:8: ", &["second vdisk", "line 5"]);
    let node = again("[[node]]\naddress = \"10.0.0.12\"\nname = \"alpha\"\n");
    assert_defect("[farm]", &node, "10:8: ", &["second node", "line 4"]);
}

#[test]
fn references_must_resolve() {
    assert_defect(
        "store = \"images\"",
        "store = \"disks\"",
        "14:9: ",
        &["no store \"disks\"", "[[store]]"],
    );
    assert_defect(
        "vdisk = \"debian\"",
        "vdisk = \"arch\"",
        "19:9: ",
        &["no vdisk \"arch\"", "[[vdisk]]"],
    );
    let stores = "address = \"10.0.0.11\"\nstores = [\"images\", \"tapes\"]";
    assert_defect("address = \"10.0.0.11\"", stores, "9:21: ", &["no store \"tapes\""]);
    let none = "address = \"10.0.0.11\"\nstores = []";
    assert_defect("address = \"10.0.0.11\"", none, "15:9: ", &["no node has the store \"images\""]);
}

#[test]
fn lists_must_not_be_empty_or_too_long() {
    let node = "[[node]]\nname = \"alpha\"\naddress = \"10.0.0.11\"\n";
    assert_defect(node, "", "1:1: ", &["no node", "[[node]]"]);
    let many: String = (0..257)
        .map(|n| {
            format!("[[node]]\nname = \"n{n}\"\naddress = \"10.0.{}.{}\"\n", n / 250, n % 250 + 1)
        })
        .collect();
    assert_defect(node, &many, "774:1: ", &["257 nodes", "at most 256"]);
    let lines = parse("[farm]\nname = \"a\"\nkey_file = \"k\"\n").unwrap_err().to_string();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("no node") && lines.contains("no vDisk"));
}

#[test]
fn macs_and_addresses() {
    for mac in ["52:54:00:12:34", "52:54:00:12:34:5g", "", "525400123456"] {
        assert_defect("52:54:00:12:34:56", mac, "17:7: ", &["MAC", "six pairs"]);
    }
    for mac in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
        assert_defect("52:54:00:12:34:56", mac, "17:7: ", &["group address or zero"]);
    }
    for address in ["0.0.0.0", "224.0.0.1", "node-1", "::"] {
        assert_defect("10.0.0.11", address, "8:11: ", &["address", "IPv4 or IPv6"]);
    }
}

#[test]
fn ports() {
    let with = |line: &str| format!("address = \"10.0.0.11\"\n{line}");
    let check = |line: &str, parts: &[&str]| {
        assert_defect("address = \"10.0.0.11\"", &with(line), "", parts);
    };
    check("login_port = 0", &["login_port 0 is out of range", "1 to 65535"]);
    check("login_port = 65536", &["login_port 65536 is out of range"]);
    check("peer_port = -1", &["peer_port -1 is out of range"]);
    check("io_ports = \"6930-6911\"", &["no range of ports", "6911-6930"]);
    check("io_ports = \"0-5\"", &["no range of ports"]);
    check("io_ports = \"6911\"", &["no range of ports"]);
    check("io_ports = \"6911-70000\"", &["no range of ports"]);
    check("io_ports = \"6900-6930\"", &["login_port 6910", "inside its io_ports 6900-6930"]);
    check("io_ports = \"6885-6900\"", &["peer_port 6890", "inside"]);
    check("peer_port = 6910", &["both 6910"]);
    check("power = 0.0", &["power 0 is out of range"]);
    check("power = nan", &["power NaN is out of range"]);
    let twin = "[[node]]\nname = \"beta\"\naddress = \"10.0.0.11\"\nlogin_port = 6950\npeer_port = 6951\n[[store]]";
    assert_defect("[[store]]", twin, "11:11: ", &["\"beta\" shares ports", "\"alpha\""]);
}

#[test]
fn devices_need_a_key_or_the_operators_word() {
    assert_defect(
        "accept_mac_alone = true\n",
        "",
        "17:8: ",
        &["desk-01", "no key", "accept_mac_alone"],
    );
    let secret = "abcdef0123456789";
    let key = format!("name = \"desk-01\"\nkey = \"{secret}\"");
    let line = defect("name = \"desk-01\"", &key);
    assert!(line.contains("64 hexadecimal") && line.contains("openssl"), "{line}");
    assert!(!line.contains(secret), "the key is not shown");
    let zero = format!("name = \"desk-01\"\nkey = \"{}\"", "00".repeat(32));
    assert!(defect("name = \"desk-01\"", &zero).contains("no secret"));
    let good = format!("name = \"desk-01\"\nkey = \"{}\"", "0a".repeat(32));
    let farm =
        parse(&GOOD.replace("name = \"desk-01\"", &good).replace("accept_mac_alone = true\n", ""));
    assert_eq!(farm.unwrap().devices_without_key(), 0);
}

#[test]
fn names_files_and_modes() {
    let long = "x".repeat(33);
    assert_defect("desk-01", &long, "18:8: ", &["no name for a device", "1 to 32 bytes"]);
    assert_defect("\"alpha\"", "\"\"", "7:8: ", &["no name for a node"]);
    assert_defect("\"lab\"", "\"a\\u0007b\"", "3:8: ", &["no name for the farm"]);
    for file in ["/etc/passwd", "../x", "a/../../x", ""] {
        assert_defect("debian.raw", file, "15:8: ", &["inside the store"]);
    }
    let mode = "file = \"debian.raw\"\nmode = \"private\"";
    assert_defect("file = \"debian.raw\"", mode, "16:8: ", &["not served yet", "standard"]);
    let cache = "file = \"debian.raw\"\nwrite_cache = \"tape\"";
    assert_defect("file = \"debian.raw\"", cache, "16:15: ", &["tape", "ram_overflow"]);
}

#[test]
fn placement_keys() {
    let file = "file = \"debian.raw\"";
    let with = |line: &str| format!("{file}\n{line}");
    let check = |line: &str, parts: &[&str]| assert_defect(file, &with(line), "16:", parts);
    check("node = \"gamma\"", &["no node \"gamma\"", "[[node]]"]);
    check("subnet_affinity = \"near\"", &["unknown", "best_effort"]);
    check("subnet_affinity = \"fixed\"", &["no node says where it is", "subnet"]);
    check("content_id = \"4f2a\"", &["64 hexadecimal digits", "vdisk hash"]);
    let address = "address = \"10.0.0.11\"";
    let subnet = |text: &str| format!("{address}\nsubnet = \"{text}\"");
    assert_defect(address, &subnet("10.0.0.11/24"), "9:10: ", &["bits set behind the first 24"]);
    assert_defect(address, &subnet("lan"), "9:10: ", &["10.0.0.0/24"]);
    let stores = format!(
        "{address}\nstores = [\"images\"]\n[[node]]\nname = \"beta\"\naddress = \"10.0.0.12\"\nstores = []"
    );
    let text = GOOD.replace(address, &stores).replace(file, &with("node = \"beta\""));
    assert!(parse(&text).unwrap_err().to_string().contains("does not have the vDisk's store"));
    let head = "accept_mac_alone = true";
    let trigger = format!("{head}\nrebalance_trigger = 4");
    assert_defect(head, &trigger, "6:21: ", &["rebalance_trigger 4", "5 to 5000"]);
    let keys = with(&format!(
        "node = \"alpha\"\ncontent_id = \"{}\"\nsubnet_affinity = \"fixed\"",
        "0a".repeat(32)
    ));
    let good = GOOD.replace(file, &keys).replace(address, &subnet("fd00::/64"));
    let good =
        good.replace(head, "accept_mac_alone = true\nrebalance = true\nrebalance_trigger = 50");
    let farm = parse(&good).unwrap();
    let vdisk = &farm.vdisks[0];
    assert_eq!((vdisk.pinned, vdisk.affinity), (Some(0), Affinity::Fixed));
    assert_eq!(vdisk.content_id, Some(ContentId([10; 32])));
    assert_eq!((farm.rebalance.enabled, farm.rebalance.trigger_percent), (true, 50));
}

#[test]
fn all_defects_at_once_but_not_endlessly() {
    let devices: String =
        (0..30).map(|n| format!("[[device]]\nmac = \"bad\"\nname = \"d{n}\"\n")).collect();
    let lines = parse(&format!("{GOOD}{devices}")).unwrap_err().to_string();
    assert_eq!(lines.lines().count(), 21);
    assert!(lines.ends_with("and 10 more"), "{lines}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let error = Farm::load(Path::new("/nonexistent/farm.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/farm.toml") && error.contains("--farm"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), GOOD).unwrap();
    let farm = Farm::load(file.path()).unwrap();
    assert_eq!(farm.key_file.as_deref(), Some(file.path().with_file_name("farm.key").as_path()));
    std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(Farm::load(file.path()).unwrap_err().to_string().contains("UTF-8"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_text_panics(at in 0..GOOD.len(), text in ".{0,12}", cut in 0usize..20) {
        let end = (at + cut).min(GOOD.len());
        let _ = parse(&format!("{}{text}{}", &GOOD[..at], &GOOD[end..]));
        let _ = parse(&text);
    }
}
