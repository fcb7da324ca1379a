//! What the NBD tests share.
#![allow(dead_code, reason = "each test crate uses its part")]
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use diskstream_device::front::nbd::{Server, ServerConfig};
use diskstream_device::front::{BlockSource, Disk, ExtentsRequest, MemorySource, ReadRequest};

/// No wait in a test is longer; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const MIB: usize = 1 << 20;

/// A directory, a server in it, and its socket.
pub struct Export {
    pub dir: tempfile::TempDir,
    pub server: Server,
}

impl Export {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self::with(disk, |_| {})
    }

    pub fn with(disk: Arc<dyn Disk>, adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path().join("nbd.sock"));
        config.export_name = "vdisk".to_owned();
        adjust(&mut config);
        let server = Server::start(disk, config).unwrap();
        Self { dir, server }
    }

    pub fn socket(&self) -> PathBuf {
        self.server.socket_path().to_owned()
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///vdisk?socket={}", self.socket().display())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Bytes that name their place: zero for the second quarter and for every seventh 4 KiB, else pseudo-random.
pub fn image(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    for (index, chunk) in bytes.chunks_mut(4096).enumerate() {
        let in_hole = (length / 4..length / 2).contains(&(index * 4096));
        if in_hole || index % 7 == 3 {
            continue;
        }
        for part in chunk.chunks_mut(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
    }
    bytes
}

/// Whether a program exists; if not, says that the test is skipped.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// Runs a program and expects it to succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stdout}\n{stderr}");
    stdout
}

pub fn try_run(program: &str, arguments: &[&str]) -> Output {
    // A hang must fail the test, not the whole run.
    Command::new("timeout").arg("120").arg(program).args(arguments).output().unwrap()
}

/// A source that answers only when it is told to.
pub struct GatedSource {
    inner: MemorySource,
    held: Mutex<Vec<ReadRequest>>,
    arrived: Condvar,
    open: AtomicBool,
}

impl GatedSource {
    pub fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            inner: MemorySource::new(bytes),
            held: Mutex::default(),
            arrived: Condvar::new(),
            open: AtomicBool::new(false),
        })
    }

    /// Waits until `count` reads are held; there must not be more.
    pub fn wait_for(&self, count: usize) {
        let held = self.held.lock().unwrap();
        let (held, waited) =
            self.arrived.wait_timeout_while(held, PATIENCE, |held| held.len() < count).unwrap();
        assert!(!waited.timed_out(), "{} of {count} reads came", held.len());
        assert_eq!(held.len(), count);
    }

    pub fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Answers the newest held read.
    pub fn answer_newest(&self) {
        let request = self.held.lock().unwrap().pop().unwrap();
        self.inner.read(request);
    }

    /// Answers all held reads, newest first, and everything that comes later at once.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        held.into_iter().rev().for_each(|request| self.inner.read(request));
    }
}

impl BlockSource for GatedSource {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read(&self, request: ReadRequest) {
        let mut held = self.held.lock().unwrap();
        if self.open.load(Ordering::SeqCst) {
            drop(held);
            return self.inner.read(request);
        }
        held.push(request);
        self.arrived.notify_all();
    }
    fn extents(&self, request: ExtentsRequest) {
        self.inner.extents(request);
    }
}

/// Waits for something that another thread is about to make true.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not happen");
}
