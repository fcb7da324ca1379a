//! Real `diskstream-node` processes on loopback, with free ports, ended whatever becomes of the test.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_wire::Nanos;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes on a busy machine; a test that needs it has failed.
pub const PATIENCE: Nanos = Nanos::from_secs(120);
/// Between two looks at what has no event to wait for.
const LOOK: Duration = Duration::from_millis(50);

/// A folder for one test, with an image.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of random-looking bytes, the same each time.
    pub fn image(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, content(bytes)).expect("an image");
        path
    }

    /// A farm key.
    pub fn key(&self) -> PathBuf {
        let path = self.path("farm.key");
        fs::write(&path, [7u8; 32]).expect("a key");
        path
    }
}

/// Bytes of an image.
pub fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new_derive_key("diskstream control test").finalize_xof().fill(&mut content);
    content
}

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstream-node"));
    command.env("NO_COLOR", "1").env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

/// A command that speaks to a node; its standard output.
pub fn ask(node: &Serve, command: &str, more: &[&str]) -> Output {
    let control = node.control.to_str().expect("UTF-8");
    run(&[&[command, "--control", control], more].concat())
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Passes on each line of a stream, until nobody wants them.
fn listen(stream: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.take_while(|line| to.send(line.clone()).is_ok()).for_each(drop);
    });
}

/// A node that serves.
pub struct Serve {
    child: Child,
    pub control: PathBuf,
    pub ready: String,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Serve {
    /// Starts `serve` with these arguments, free ports, one core and a control socket; waits until it is ready.
    pub fn start(control: &Path, args: &[&str]) -> Serve {
        Serve::start_under(control, args, None)
    }

    /// The same, under a service manager that listens at `notify`.
    pub fn start_under(control: &Path, args: &[&str], notify: Option<&Path>) -> Serve {
        let usual = ["--http", "127.0.0.1:0", "--cores", "0", "--huge-pages", "off"];
        let mut command = program();
        command.arg("serve").args(args).args(usual).arg("--control").arg(control);
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        let unless_said =
            [("--login-port", "0"), ("--io-ports", "0"), ("--peer-port", "0"), ("--cache", "16M")];
        for (flag, usual) in unless_said {
            if !args.contains(&flag) {
                command.args([flag, usual]);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = mpsc::channel();
        listen(child.stdout.take().expect("piped"), sender.clone());
        listen(child.stderr.take().expect("piped"), sender);
        let mut serve = Serve {
            child,
            control: control.to_owned(),
            ready: String::new(),
            lines,
            said: Vec::new(),
        };
        serve.ready = serve.wait_line("ready:");
        serve
    }

    /// Waits for a line that contains this, of either stream.
    pub fn wait_line(&mut self, needle: &str) -> String {
        let deadline = clock::now() + PATIENCE;
        loop {
            let left = deadline.since(clock::now()).as_duration();
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(needle) {
                        return line;
                    }
                }
                Err(_) => panic!("it never said {needle:?}; it said:\n{}", self.said.join("\n")),
            }
        }
    }

    /// What the ready line says of `key`.
    pub fn word(&self, key: &str) -> String {
        let prefix = format!("{key}=");
        let word = self.ready.split_whitespace().find_map(|word| word.strip_prefix(&prefix));
        word.unwrap_or_else(|| panic!("no {key} in {}", self.ready)).to_owned()
    }

    pub fn login(&self) -> SocketAddr {
        self.word("login").parse().expect("an address")
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        let output = ask(self, "status", &["--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Asks for the status until it is as wanted.
    pub fn await_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = clock::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(clock::now() < deadline, "never {what}; the last status:\n{status:#}");
            thread::sleep(LOOK);
        }
    }

    /// One page of metrics.
    pub fn metrics(&self) -> String {
        self.page("/metrics")
    }

    /// A page, head and all.
    pub fn page(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.word("http")).expect("it listens");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        text
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> ExitStatus {
        let deadline = clock::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                self.said.extend(self.lines.iter());
                return status;
            }
            assert!(clock::now() < deadline, "it does not end; it said:\n{}", self.said.join("\n"));
            thread::sleep(LOOK);
        }
    }

    /// Everything that it said so far, for messages and at its end.
    pub fn said(&self) -> String {
        self.said.join("\n")
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
