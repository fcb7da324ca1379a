//! The program: attach, read through NBD, ask for the status, stop it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use diskstream_device::front::nbd::client::Client;
use diskstream_wire::CloseReason;
use session_support::node::Image;
use session_support::served::Served;

const PROGRAM: &str = env!("CARGO_BIN_EXE_diskstream-device");
const MAC: &str = "52:54:00:12:34:56";

struct Attached {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Attached {
    fn start(arguments: &[&str]) -> Attached {
        let mut child = Command::new(PROGRAM)
            .args(["attach", "--mac", MAC, "--port-base", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Attached { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Ends it by a signal; gives the exit code and what it logged.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

fn status(socket: &Path, json: bool) -> String {
    let mut command = Command::new(PROGRAM);
    command.arg("status").arg("--socket").arg(socket);
    if json {
        command.arg("--json");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_disk_is_attached_read_described_and_detached() {
    let size = (1 << 20) + 512;
    let image = Image::new(size);
    let served = Served::start(&image);
    let dir = tempfile::tempdir().unwrap();
    let (nbd, told) = (dir.path().join("nbd"), dir.path().join("status"));
    let mut attached = Attached::start(&[
        "--servers",
        &served.login.to_string(),
        "--nbd",
        nbd.to_str().unwrap(),
        "--status",
        told.to_str().unwrap(),
        "--write-cache",
        "ram:64M",
    ]);
    let line = attached.line();
    let expected =
        format!("attached: debian {size} bytes from {} at {}\n", served.login, nbd.display());
    assert_eq!(line, expected);

    let mut client = Client::connect(&nbd, "debian", Some(Duration::from_secs(10))).unwrap();
    assert_eq!(client.size_bytes(), size as u64);
    assert!(!client.read_only());
    let mut bytes = vec![0; size];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes == image.bytes[..size]);
    client.write(5000, b"written").unwrap();
    let mut back = [0; 7];
    client.read(5000, &mut back).unwrap();
    assert_eq!(&back, b"written");
    client.disconnect().unwrap();

    let json: serde_json::Value = serde_json::from_str(&status(&told, true)).unwrap();
    assert_eq!(json["session"]["state"], "streaming");
    assert_eq!(json["session"]["vdisk"], "debian");
    assert_eq!(json["session"]["node"], served.login.to_string());
    assert_eq!(json["write_cache"]["fill"]["used_bytes"], 4096);
    let table = status(&told, false);
    assert!(table.contains("streaming") && table.contains("debian version 0"), "{table}");
    assert!(table.contains("ram:64M, 4096 B of 64.00 MiB used"), "{table}");

    let (code, log) = attached.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(served.node.lock().unwrap().closed, [CloseReason::Detached]);
    assert!(!nbd.exists() && !told.exists());
}

#[test]
fn without_a_write_cache_the_export_is_read_only() {
    let image = Image::new(1 << 20);
    let served = Served::start(&image);
    let dir = tempfile::tempdir().unwrap();
    let nbd = dir.path().join("nbd");
    let told = dir.path().join("status");
    let mut attached = Attached::start(&[
        "--servers",
        &served.login.to_string(),
        "--nbd",
        nbd.to_str().unwrap(),
        "--status",
        told.to_str().unwrap(),
    ]);
    assert!(attached.line().starts_with("attached: "));
    let client = Client::connect(&nbd, "", Some(Duration::from_secs(10))).unwrap();
    assert!(client.read_only());
    drop(client);
    let (code, log) = attached.stop("-INT");
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_device_that_waits_for_a_node_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let nbd = dir.path().join("nbd");
    let nobody = "127.0.0.1:9";
    let mut attached = Attached::start(&["--servers", nobody, "--nbd", nbd.to_str().unwrap()]);
    // Its log's first line says that it has started.
    let stderr = attached.child.stderr.take().unwrap();
    let mut stderr = BufReader::new(stderr);
    let mut line = String::new();
    while !line.contains("logging in") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    attached.child.stderr = Some(stderr.into_inner());
    let (code, log) = attached.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn what_cannot_work_is_one_line_and_a_failure() {
    let good = ["attach", "--mac", MAC, "--nbd", "/nowhere/at/all", "--servers", "127.0.0.1:6910"];
    let cases: [(&[&str], &str); 4] = [
        (&good, "there is no directory /nowhere/at"),
        (&["attach", "--mac", MAC, "--nbd", "/tmp", "--servers", "127.0.0.1:6910"], "directory"),
        (
            &[
                "attach",
                "--mac",
                MAC,
                "--nbd",
                "/tmp/x",
                "--servers",
                "127.0.0.1:6910",
                "--key-file",
                "/nowhere",
            ],
            "cannot read key file /nowhere",
        ),
        (&["status", "--socket", "/nowhere"], "is the device running"),
    ];
    for (arguments, part) in cases {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(part), "{arguments:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
}
