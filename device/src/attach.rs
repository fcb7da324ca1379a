//! `attach`: a device, its disk on an NBD socket, its status on another; until a signal ends it.

#[expect(unsafe_code, reason = "waiting for signals")]
mod sys;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use diskstream_device::driver::{DeviceThread, Handle, Opened};
use diskstream_device::front::nbd::{Server, ServerConfig};
use diskstream_device::front::write_cache::{self, Fill};
use diskstream_device::front::{BlockSource, UnitAligned, WriteCacheConfig, root_storage, status};
use diskstream_device::session::SessionConfig;
use diskstream_ring::clock;
use diskstream_wire::{Nanos, WriteCacheType};
use serde_json::{Value, json};

use crate::cli::{Attach, STATUS_SOCKET};
use sys::Signals;

/// How often signals, the thread's health and the write cache's figures are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Requests that are under way when a signal comes may finish for this long.
const GRACE: Duration = Duration::from_secs(2);

/// Makes systemd spare this process at shutdown; it starts anew under another name. First of all.
pub fn spare() -> Result<()> {
    root_storage::mark_spared().map_err(Into::into)
}

/// Runs until a signal.
pub fn run(arguments: &Attach) -> Result<()> {
    let config = session_config(arguments)?;
    check_paths(arguments)?;
    // Before any thread is started: threads inherit which signals are blocked.
    let signals = Signals::block().context("cannot wait for signals")?;
    if arguments.root_storage {
        root_storage::prepare(root_storage::RootStorageOptions::default())?;
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| anyhow!("cannot draw random numbers from the system: {error}"))?;
    let device = DeviceThread::start(config, arguments.port_base, seed)?;
    tracing::info!(mac = %arguments.mac, servers = ?arguments.servers, "logging in");
    let Some(opened) = wait_opened(&device, &signals)? else {
        return device.detach().map_err(Into::into);
    };
    let handle = device.handle();
    let source: Arc<dyn BlockSource> = Arc::new(UnitAligned::new(handle.clone()));
    let (disk, fill) = write_cache::open(&arguments.write_cache, source)?;
    let mut nbd_config = ServerConfig::new(&arguments.nbd);
    nbd_config.export_name = opened.disk.vdisk.as_str().to_owned();
    let nbd = Server::start(disk, nbd_config)?;
    let told = Told {
        handle: handle.clone(),
        fill: fill.clone(),
        write_cache: arguments.write_cache.to_string(),
        mac: arguments.mac.to_string(),
        nbd: arguments.nbd.display().to_string(),
    };
    let status = serve_status(arguments.status.as_deref(), told)?;
    announce(&opened, &arguments.nbd)?;
    let ended = watch(&device, &signals, &handle, fill.as_deref());
    nbd.shutdown(GRACE);
    drop(status);
    let detached = device.detach();
    ended.and(detached.map_err(Into::into))
}

fn session_config(arguments: &Attach) -> Result<SessionConfig> {
    let mut config = SessionConfig::new(arguments.servers.clone(), arguments.mac);
    config.device_key = arguments.key_file.as_deref().map(read_key).transpose()?;
    config.vdisk.clone_from(&arguments.vdisk);
    config.device_name = arguments.name.clone().unwrap_or_else(host_name);
    config.mtu = arguments.mtu;
    config.hold_limit = arguments.hold_limit.map(|limit| Nanos::from_secs(limit.as_secs()));
    (config.write_cache, config.write_cache_bytes) = match &arguments.write_cache {
        WriteCacheConfig::None => (WriteCacheType::None, 0),
        WriteCacheConfig::Ram { ram_bytes, overflow: None } => (WriteCacheType::Ram, *ram_bytes),
        WriteCacheConfig::Ram { ram_bytes, .. } => (WriteCacheType::RamOverflow, *ram_bytes),
    };
    config.check()?;
    Ok(config)
}

/// What would fail only after the login, said before it.
fn check_paths(arguments: &Attach) -> Result<()> {
    let sockets = [("--nbd", Some(&arguments.nbd)), ("--status", arguments.status.as_ref())];
    for (flag, path) in sockets {
        let Some(path) = path else { continue };
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            bail!(
                "{flag} {}: there is no directory {}; create it",
                path.display(),
                parent.display()
            );
        }
        if path.is_dir() {
            bail!("{flag} {}: that is a directory; name a file in it", path.display());
        }
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<[u8; 32]> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read key file {}", path.display()))?;
    if let Ok(key) = bytes.as_slice().try_into() {
        return Ok(key);
    }
    let text = String::from_utf8_lossy(&bytes);
    let digits = text.trim().as_bytes();
    let mut key = [0; 32];
    let whole = digits.len() == 64
        && key.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
            let pair = std::str::from_utf8(pair).ok().filter(|p| !p.starts_with('+'));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).map(|b| *byte = b).is_some()
        });
    if !whole {
        bail!(
            "key file {}: {} bytes; a device key is 32 bytes, or 64 hexadecimal digits",
            path.display(),
            bytes.len()
        );
    }
    Ok(key)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// First word about a login that nobody answers, and the distance of the next ones. Guess: a person's patience.
const SILENCE: (Nanos, Nanos) = (Nanos::from_secs(2), Nanos::from_secs(30));

/// Waits for the vDisk, as long as it takes; none when a signal came first.
fn wait_opened(device: &DeviceThread, signals: &Signals) -> Result<Option<Opened>> {
    let mut next = clock::now() + SILENCE.0;
    loop {
        if clock::now() >= next {
            next = clock::now() + SILENCE.1;
            tracing::warn!(
                "no node has let the device in yet; still trying. Are the addresses of --servers right, and is UDP to them open?"
            );
        }
        if let Some(opened) = device.wait_opened(Duration::from_millis(50)) {
            return Ok(Some(opened));
        }
        if !device.is_running() {
            bail!("the device ended before the vDisk was open; the log says why");
        }
        if signals.wait(Duration::ZERO).is_some() {
            return Ok(None);
        }
    }
}

fn announce(opened: &Opened, nbd: &Path) -> Result<()> {
    let vdisk = opened.disk.vdisk;
    let size = opened.disk.size_bytes;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "attached: {} {size} bytes from {} at {}",
        vdisk.as_str(),
        opened.node,
        nbd.display()
    )
    .and_then(|()| out.flush())
    .context("cannot write to standard output")
}

/// Looks after everything until a signal, or until the device's thread has ended by itself.
fn watch(
    device: &DeviceThread,
    signals: &Signals,
    handle: &Handle,
    fill: Option<&Fill>,
) -> Result<()> {
    loop {
        if let Some(signal) = signals.wait(LOOK_INTERVAL) {
            tracing::info!(signal, "detaching");
            return Ok(());
        }
        if !device.is_running() {
            bail!("the device's thread has ended; the log says why");
        }
        if let Some(fill) = fill {
            let fill = fill.snapshot();
            handle.set_write_cache_figures(fill.used_bytes(), fill.capacity_bytes());
        }
    }
}

/// An explicit status socket must be had; the usual one is a convenience, and its absence one log line.
fn serve_status(path: Option<&Path>, told: Told) -> Result<Option<status::Server>> {
    let source = Arc::new(told);
    if let Some(path) = path {
        return Ok(Some(status::Server::start(path, source)?));
    }
    let usual = Path::new(STATUS_SOCKET);
    if let Some(parent) = usual.parent() {
        // Whether it worked shows in the next step.
        let _made = fs::create_dir_all(parent);
    }
    match status::Server::start(usual, source) {
        Ok(server) => Ok(Some(server)),
        Err(error) => {
            tracing::warn!("no status socket: {error}; name another with --status");
            Ok(None)
        }
    }
}

/// What the status socket tells.
struct Told {
    handle: Handle,
    fill: Option<Arc<Fill>>,
    write_cache: String,
    mac: String,
    nbd: String,
}

impl status::StatusSource for Told {
    fn json(&self) -> Value {
        json!({
            "software": concat!("diskstream-device ", env!("CARGO_PKG_VERSION")),
            "mac": self.mac,
            "nbd": self.nbd,
            "session": self.handle.status(),
            "write_cache": {
                "type": self.write_cache,
                "fill": self.fill.as_ref().map(|fill| fill.snapshot().json()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes_or_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let read = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            read_key(&path)
        };
        assert_eq!(read(&[7; 32]).unwrap(), [7; 32]);
        assert_eq!(read("0a".repeat(32).as_bytes()).unwrap(), [10; 32]);
        assert_eq!(read(format!("{}\n", "FF".repeat(32)).as_bytes()).unwrap(), [255; 32]);
        for wrong in [&b""[..], b"secret", &[b'g'; 64], "+1".repeat(32).as_bytes()] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        let missing = read_key(&dir.path().join("none")).unwrap_err();
        assert!(format!("{missing:#}").contains("none"), "{missing:#}");
    }
}
