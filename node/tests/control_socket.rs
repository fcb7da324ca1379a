//! The control socket of a real node, alone: its place, its commands, its end.

mod control_support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use control_support::{Place, Serve, ask, program, run, stderr, stdout};

fn one(place: &Place) -> Serve {
    let image = place.image("disk.img", 1 << 20);
    Serve::start(&place.path("node.sock"), &[image.to_str().expect("UTF-8")])
}

#[test]
fn a_node_alone_says_how_it_is() {
    let place = Place::new();
    let node = one(&place);
    assert_eq!(node.word("peers"), "off", "a node without a name has no peers");
    let mode = std::fs::metadata(&node.control).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = node.status();
    assert_eq!(status["node"]["drain"], "serving");
    assert_eq!(status["node"]["login"], node.word("login"));
    assert_eq!(status["peers"], serde_json::json!([]));
    let held = &status["vdisks"][0];
    assert_eq!(held["name"], "disk");
    assert_eq!(held["content_id"], blake3::hash(&control_support::content(1 << 20)).to_string());
    let text = stdout(&ask(&node, "status", &[]));
    assert!(text.contains("this: serving") && text.contains("disk"), "{text}");
    let top = ask(&node, "top", &["--once", "--json"]);
    let top: serde_json::Value = serde_json::from_slice(&top.stdout).expect("JSON");
    assert!(top["seconds"].as_f64().expect("a number") > 0.5, "{top}");
    assert_eq!(top["figures"]["sessions"], 0);
    assert!(stdout(&ask(&node, "top", &["--once"])).contains("MiB/s"));
}

#[test]
fn drain_ends_the_node_and_takes_its_socket_away() {
    let place = Place::new();
    let mut node = one(&place);
    let drained = ask(&node, "drain", &[]);
    assert!(drained.status.success(), "{}", stderr(&drained));
    assert!(stdout(&drained).contains("all 0 sessions have moved"), "{}", stdout(&drained));
    assert!(node.wait_end().success());
    assert!(!node.control.exists(), "the socket stayed behind");
    let again = ask(&node, "drain", &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("no node answers at"), "{}", stderr(&again));
}

#[test]
fn a_living_nodes_socket_is_refused_and_a_killed_ones_replaced() {
    let place = Place::new();
    let mut first = one(&place);
    let image = place.path("disk.img");
    let free = ["--login-port", "0", "--io-ports", "0", "--http", "off", "--cache", "16M"];
    let second = program()
        .arg("serve")
        .arg(&image)
        .args(free)
        .arg("--control")
        .arg(&first.control)
        .output()
        .expect("it starts");
    assert!(!second.status.success());
    assert!(stderr(&second).contains("a running process listens there"), "{}", stderr(&second));
    first.signal("KILL");
    first.wait_end();
    assert!(first.control.exists(), "a killed process takes nothing away");
    let third = one(&place);
    assert_eq!(third.status()["node"]["drain"], "serving");
}

#[test]
fn garbage_costs_the_one_who_sends_it_and_nobody_else() {
    let place = Place::new();
    let node = one(&place);
    let mut stream = UnixStream::connect(&node.control).expect("it listens");
    let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
    for garbage in [
        "\u{0}\u{0}",
        "{\"do\":\"drain\",\"stey\":true}",
        "[[[[",
        "{\"do\":\"drain\",\"seconds\":4294967296}",
    ] {
        writeln!(stream, "{garbage}").expect("it reads");
        let answer = lines.next().expect("an answer").expect("a line");
        assert!(answer.contains("\"refused\""), "{garbage:?} got {answer}");
    }
    writeln!(stream, "{{\"do\":\"drain\",\"seconds\":86401}}").expect("it reads");
    let answer = lines.next().expect("an answer").expect("a line");
    assert!(answer.contains("at most 86400"), "{answer}");
    assert_eq!(node.status()["node"]["drain"], "serving");
}

#[test]
fn commands_want_exactly_one_node() {
    for command in ["drain", "resume", "rebalance", "status", "top"] {
        let output = run(&[command]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(stderr(&output).contains("--name"), "{}", stderr(&output));
        let both = run(&[command, "--name", "n", "--control", "p"]);
        assert_eq!(both.status.code(), Some(2), "{command}");
    }
}

#[test]
fn two_signals_end_a_node_at_once() {
    let place = Place::new();
    let mut node = one(&place);
    node.signal("HUP");
    node.wait_line("nothing can be reloaded");
    node.signal("TERM");
    assert!(node.wait_end().success());
    assert!(node.said().contains("drained: all 0 sessions have moved"), "{}", node.said());
}

#[test]
fn datagrams_that_found_no_room_are_counted_and_said() {
    let place = Place::new();
    let image = place.image("disk.img", 1 << 20);
    let image = image.to_str().expect("UTF-8");
    let mut node = Serve::start(&place.path("node.sock"), &[image, "--socket-buffer", "64K"]);
    let lost = |page: &str, of: &str| -> u64 {
        let name = format!("diskstream_receive_drops_total{{{of}}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a number")
    };
    let (io, login) = ("socket=\"io\",shard=\"0\"", "socket=\"login\"");
    assert_eq!(lost(&node.metrics(), io), 0);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    node.signal("STOP");
    for _ in 0..5000 {
        sender.send_to(&[0; 64], node.word("io")).expect("sent");
    }
    node.signal("CONT");
    node.wait_line("a socket's receive buffer was full");
    let page = node.metrics();
    assert!(lost(&page, io) > 1000, "{page}");
    assert_eq!(lost(&page, login), 0);
}

#[test]
fn status_tells_how_much_of_a_pinned_vdisk_is_in_the_cache() {
    let place = Place::new();
    let image = place.image("disk.img", 1 << 20);
    let image = image.to_str().expect("UTF-8");
    // Room for what is under way beside it.
    let node = Serve::start(&place.path("node.sock"), &[image, "--cache-pinned", "--cache", "64M"]);
    let all = serde_json::json!({ "blocks": 16, "loaded": 16, "missing": 0 });
    node.await_status("loaded", |status| status["vdisks"][0]["cache_pinned"] == all);
    let text = stdout(&ask(&node, "status", &[]));
    assert!(text.contains("disk: 16 of 16 blocks pinned in the cache\n"), "{text}");
    let place = Place::new();
    let plain = one(&place);
    assert!(plain.status()["vdisks"][0]["cache_pinned"].is_null());
}
