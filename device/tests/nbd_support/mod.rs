//! What the NBD tests share.
#![allow(dead_code, reason = "each test crate uses its part")]
#![allow(clippy::unwrap_used, reason = "tests may")]
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use diskstream_device::front::Disk;
use diskstream_device::front::nbd::{Server, ServerConfig};

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
