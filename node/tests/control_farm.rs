//! Two real nodes that know each other: what they say of each other, who is chosen, and how devices move on command.

mod control_support;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use control_support::{Place, Serve, ask, content, stderr, stdout};
use diskstream_device::driver::{DeviceThread, Handle, Ports};
use diskstream_device::front::{BlockSource, Done, ReadRequest};
use diskstream_device::session::SessionConfig;
use diskstream_ring::clock;
use diskstream_wire::Mac;
use serde_json::Value;

const BYTES: usize = 4 << 20;
const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const NODES: [(&str, &str); 2] = [("alpha", "127.0.0.1"), ("beta", "127.0.0.2")];

/// A port at which nothing listens now; three are needed for each node: logins, shard, peers.
fn free_port(address: &str) -> u16 {
    let socket = UdpSocket::bind((address, 0)).expect("a free port");
    socket.local_addr().expect("its address").port()
}

struct Farm {
    place: Place,
    ports: [[u16; 3]; 2],
}

impl Farm {
    /// Each node has its own copy of the image, and the farm file that says where.
    fn new(more: &str) -> Farm {
        let place = Place::new();
        place.key();
        let ports = NODES.map(|(_, address)| [0; 3].map(|_: u16| free_port(address)));
        let farm = Farm { place, ports };
        for (name, _) in NODES {
            farm.place.image(&format!("{name}/disk.img"), BYTES);
            fs::write(farm.place.path(&format!("{name}.toml")), farm.text(name, more))
                .expect("a farm file");
        }
        farm
    }

    fn text(&self, store_of: &str, more: &str) -> String {
        let mut text = format!(
            "[farm]\nname = \"test\"\nkey_file = \"farm.key\"\naccept_mac_alone = true\n{more}\n"
        );
        for ((name, address), [login, io, peers]) in NODES.iter().zip(self.ports) {
            text += &format!(
                "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nlogin_port = {login}\nio_ports = \"{io}-{io}\"\npeer_port = {peers}\n"
            );
        }
        let store = self.place.path(store_of);
        text += &format!("[[store]]\nname = \"images\"\npath = \"{}\"\n", store.display());
        text += "[[vdisk]]\nname = \"debian-13\"\nstore = \"images\"\nfile = \"disk.img\"\n";
        text + &format!("[[device]]\nmac = \"{MAC}\"\nname = \"desk-01\"\nvdisk = \"debian-13\"\n")
    }

    fn start(&self, index: usize) -> Serve {
        let (name, _) = NODES[index];
        let [login, io, peers] = self.ports[index].map(|port| port.to_string());
        let file = self.place.path(&format!("{name}.toml"));
        let control = self.place.path(&format!("{name}.sock"));
        let file = file.to_str().expect("UTF-8");
        Serve::start(
            &control,
            &[
                "--farm",
                file,
                "--name",
                name,
                "--login-port",
                &login,
                "--io-ports",
                &io,
                "--peer-port",
                &peers,
            ],
        )
    }

    fn image(&self, index: usize) -> std::path::PathBuf {
        self.place.path(&format!("{}/disk.img", NODES[index].0))
    }
}

/// Both nodes, and each has heard the other's whole inventory.
fn two_up(farm: &Farm) -> [Serve; 2] {
    let nodes = [farm.start(0), farm.start(1)];
    for (node, other) in [(&nodes[0], "beta"), (&nodes[1], "alpha")] {
        node.await_status(&format!("{other} up with its versions"), |status| {
            peer(status, other)["state"] == "up" && holder(status, other).is_some()
        });
    }
    nodes
}

fn peer<'s>(status: &'s Value, name: &str) -> &'s Value {
    let peers = status["peers"].as_array().expect("peers");
    peers.iter().find(|peer| peer["name"] == name).unwrap_or(&Value::Null)
}

fn holder<'s>(status: &'s Value, node: &str) -> Option<&'s Value> {
    let holders = status["vdisks"][0]["holders"].as_array()?;
    holders.iter().find(|holder| holder["node"] == node)
}

/// A device on this machine, reading.
struct Device {
    thread: DeviceThread,
    handle: Handle,
}

impl Device {
    fn attach(servers: Vec<SocketAddr>) -> Device {
        let config = SessionConfig::new(servers, MAC);
        let thread = DeviceThread::start(config, Ports::Free, [3; 32]).expect("a device");
        thread.wait_opened(control_support::PATIENCE.as_duration()).expect("let in");
        let handle = thread.handle();
        Device { thread, handle }
    }

    /// The login address of the node that serves it.
    fn node(&self) -> SocketAddr {
        self.handle.status().expect("it runs").node.expect("it is served")
    }

    fn await_node(&self, wanted: SocketAddr) {
        let deadline = clock::now() + control_support::PATIENCE;
        while self.node() != wanted {
            assert!(clock::now() < deadline, "it stays at {}", self.node());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reads_all(&self, right: &[u8]) {
        for (piece, offset) in right.chunks(64 << 10).zip((0..).step_by(64 << 10)) {
            let (answer, answered) = mpsc::channel();
            let done = Done::new(move |bytes, result| drop(answer.send(result.map(|()| bytes))));
            self.handle.read(ReadRequest { offset, buffer: vec![0; piece.len()], done });
            let bytes = answered.recv_timeout(control_support::PATIENCE.as_duration());
            let bytes = bytes.expect("an answer").expect("a read");
            assert!(bytes == piece, "other bytes than the image's at {offset}");
        }
    }
}

/// One byte of the image changes, and its times with it.
fn change_a_byte(image: &Path) {
    let mut bytes = fs::read(image).expect("read");
    bytes[BYTES / 2] ^= 1;
    fs::write(image, bytes).expect("written");
}

#[test]
fn two_nodes_see_each_other_up_with_equal_versions() {
    let farm = Farm::new("");
    let nodes = two_up(&farm);
    let id = blake3::hash(&content(BYTES)).to_string();
    for (node, (own, other)) in nodes.iter().zip([("alpha", "beta"), ("beta", "alpha")]) {
        assert_ne!(node.word("peers"), "off");
        let status = node.status();
        assert_eq!(status["node"]["name"], own);
        assert_eq!(status["vdisks"][0]["content_id"], id);
        for name in [own, other] {
            let holder = holder(&status, name).expect("both hold it");
            assert_eq!(
                (&holder["same"], &holder["content_id"]),
                (&true.into(), &id.clone().into())
            );
        }
        assert_eq!(status["differences"], serde_json::json!([]));
        assert!(node.metrics().contains("diskstream_versions_differ{vdisk=\"debian-13\"} 0"));
        let text = stdout(&ask(node, "status", &[]));
        assert!(text.contains(&format!("{own} (this)")) && !text.contains("DIFFERS"), "{text}");
    }
}

#[test]
fn a_node_that_is_killed_is_soon_down_and_one_that_drains_says_good_bye() {
    let farm = Farm::new("");
    let [alpha, mut beta] = two_up(&farm);
    beta.signal("KILL");
    beta.wait_end();
    alpha.await_status("beta down", |status| peer(status, "beta")["state"] == "down");
    let mut beta = farm.start(1);
    alpha.await_status("beta up again", |status| peer(status, "beta")["state"] == "up");
    assert!(ask(&beta, "drain", &[]).status.success());
    assert!(beta.wait_end().success());
    alpha.await_status("beta down", |status| peer(status, "beta")["state"] == "down");
}

#[test]
fn a_copy_that_differs_by_a_byte_is_named_and_never_chosen() {
    let farm = Farm::new("");
    change_a_byte(&farm.image(1));
    let [mut alpha, beta] = two_up(&farm);
    alpha.wait_line("beta holds another version of debian-13");
    let status = alpha.status();
    assert_eq!(holder(&status, "beta").expect("it holds one")["same"], false);
    let said = status["differences"][0].as_str().expect("a sentence").to_owned();
    assert!(said.contains("beta holds another version of debian-13"), "{said}");
    assert!(alpha.metrics().contains("diskstream_versions_differ{vdisk=\"debian-13\"} 1"));
    assert!(stdout(&ask(&alpha, "status", &[])).contains("DIFFERS"));
    // Logged in at alpha, the device stays there, even when alpha wants to be rid of it: beta's bytes are not its bytes.
    let device = Device::attach(vec![alpha.login()]);
    assert_eq!(device.node(), alpha.login());
    let drain = ask(&alpha, "drain", &["--stay", "--seconds", "2"]);
    assert_eq!(drain.status.code(), Some(2), "{}{}", stdout(&drain), stderr(&drain));
    assert_eq!(device.node(), alpha.login());
    device.reads_all(&content(BYTES));
    assert_eq!(beta.status()["node"]["sessions"], 0);
    assert!(ask(&alpha, "resume", &[]).status.success());
}

#[test]
fn drain_moves_a_reading_device_and_resume_takes_devices_again() {
    let farm = Farm::new("");
    let [mut alpha, beta] = two_up(&farm);
    let device = Device::attach(vec![alpha.login()]);
    let (from, to) = if device.node() == alpha.login() { (&alpha, &beta) } else { (&beta, &alpha) };
    let drained = ask(from, "drain", &["--stay"]);
    assert!(drained.status.success(), "{}{}", stdout(&drained), stderr(&drained));
    assert!(stdout(&drained).contains("all 1 sessions have moved"), "{}", stdout(&drained));
    device.await_node(to.login());
    device.reads_all(&content(BYTES));
    let name = from.status()["node"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(from.status()["node"]["drain"], "maintenance");
    to.await_status("it in maintenance", |status| peer(status, &name)["drain"] == "maintenance");
    assert!(ask(from, "resume", &[]).status.success());
    to.await_status("it serving", |status| peer(status, &name)["drain"] == "serving");
    // And back, by the end of the other node; a stop during maintenance is one too.
    let back = from.login();
    let mut beta = beta;
    let (to, stays) = if back == alpha.login() { (&mut beta, &alpha) } else { (&mut alpha, &beta) };
    assert!(ask(to, "drain", &["--stay"]).status.success());
    device.await_node(back);
    to.signal("TERM");
    assert!(to.wait_end().success());
    device.reads_all(&content(BYTES));
    assert_eq!(stays.status()["node"]["sessions"], 1);
    device.thread.detach().expect("it ran until now");
}

#[test]
fn nodes_without_a_farm_file_join_through_one() {
    let place = Place::new();
    let (image, key) = (place.image("disk.img", BYTES), place.key());
    let (image, key) = (image.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let first = Serve::start(&place.path("a.sock"), &[image, "--name", "first", "--key-file", key]);
    let peers = first.word("peers");
    let second = Serve::start(
        &place.path("b.sock"),
        &[image, "--name", "second", "--key-file", key, "--listen", "127.0.0.2", "--join", &peers],
    );
    for (node, other) in [(&first, "second"), (&second, "first")] {
        node.await_status("up", |s| peer(s, other)["state"] == "up" && holder(s, other).is_some());
    }
    assert_eq!(peer(&first.status(), "second")["login"], second.word("login"));
}

#[test]
fn a_node_whose_name_is_taken_says_so_itself() {
    let place = Place::new();
    let (image, key) = (place.image("disk.img", BYTES), place.key());
    let (image, key) = (image.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let alpha = Serve::start(&place.path("a.sock"), &[image, "--name", "alpha", "--key-file", key]);
    let peers = alpha.word("peers");
    let join = |socket: &str, address: &str| {
        let args = ["--name", "beta", "--key-file", key, "--listen", address, "--join", &peers];
        Serve::start(&place.path(socket), &[&[image][..], &args].concat())
    };
    let beta = join("b.sock", "127.0.0.2");
    alpha.await_status("beta up", |status| peer(status, "beta")["state"] == "up");
    let twin = join("c.sock", "127.0.0.3");
    let problems = |status: &Value| status["problems"].to_string();
    let status = twin.await_status("refused", |status| problems(status).contains("alpha ("));
    assert!(problems(&status).contains("start one of both with another --name"), "{status}");
    assert!(stdout(&ask(&twin, "status", &[])).contains("! alpha ("));
    let deadline = clock::now() + control_support::PATIENCE;
    while !twin.page("/healthz").contains("failing: alpha (") {
        assert!(clock::now() < deadline, "{}", twin.page("/healthz"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!twin.metrics().contains("\ndiskstream_refused_by_peers 0\n"));
    for good in [&alpha, &beta] {
        assert!(good.page("/healthz").starts_with("HTTP/1.1 200"), "{}", good.page("/healthz"));
        assert!(good.metrics().contains("\ndiskstream_control_socket 1\n"));
    }
    assert_eq!(problems(&alpha.status()), "[]");
}

#[test]
fn rebalance_says_why_it_moves_nothing() {
    let farm = Farm::new("");
    let [alpha, _beta] = two_up(&farm);
    let said = ask(&alpha, "rebalance", &["--dry-run"]);
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(stdout(&said).contains("debian-13: nothing to move"), "{}", stdout(&said));
    let said = ask(&alpha, "rebalance", &["--vdisk", "windows"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(stderr(&said).contains("no vDisk 'windows'"), "{}", stderr(&said));
}

#[test]
fn a_service_manager_hears_how_the_end_goes() {
    let place = Place::new();
    let image = place.image("disk.img", BYTES);
    let manager = UnixDatagram::bind(place.path("notify")).expect("a socket");
    manager.set_read_timeout(Some(control_support::PATIENCE.as_duration())).expect("a timeout");
    let args = [image.to_str().expect("UTF-8")];
    let mut node = Serve::start_under(&place.path("node.sock"), &args, Some(&place.path("notify")));
    let hear = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = manager.recv(&mut buffer).unwrap_or_else(|e| panic!("no {wanted}: {e}"));
            let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if said.contains(wanted) {
                return said;
            }
        }
    };
    assert!(hear("READY=1").contains("STATUS=serving"));
    let device = Device::attach(vec![node.login()]);
    node.signal("TERM");
    hear("STOPPING=1");
    // It has nowhere to go: the node waits two seconds, and asks for the time that it may take.
    let asked = hear("EXTEND_TIMEOUT_USEC=");
    assert!(asked.contains("STATUS=draining: 1 of 1 sessions left"), "{asked}");
    assert!(node.wait_end().success());
    assert!(node.said().contains("drained: 1 of 1 sessions had not moved"), "{}", node.said());
    drop(device);
}
