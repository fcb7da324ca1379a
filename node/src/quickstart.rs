//! `quickstart`: the whole path on this machine, from an image file to verified bytes on an NBD socket, in one command.
//!
//! Node and device run in this one process and still talk UDP over loopback, as they would over a network.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Parser;
use diskstream_device::driver::{DeviceThread, Opened, Ports};
use diskstream_device::front::nbd::client::Client;
use diskstream_device::front::nbd::{Server, ServerConfig};
use diskstream_device::front::{BlockSource, UnitAligned, WriteCacheConfig, write_cache};
use diskstream_device::session::SessionConfig;
use diskstream_ring::clock;
use diskstream_wire::limits::UNIT_BYTES;
use diskstream_wire::{Mac, Nanos};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::cli::{Cli, Command, HttpAt, QuickstartArgs, ServeArgs};
use crate::metrics::{Health, HealthState, HttpServer, RunningHttp};
use crate::running::{RunningNode, Sockets};
use crate::serve;
use crate::settings::Settings;
use crate::view::DrainState;

/// Bytes of the demo image. Guessed: large enough to take a visible moment, small enough for any machine.
const DEMO_BYTES: u64 = 256 << 20;
/// The device's MAC: from the range for local use.
const DEVICE_MAC: Mac = Mac([0x02, 0x00, 0x00, 0x00, 0x00, 0x01]);
/// Patience with the login. Guessed: a loopback login takes milliseconds.
const LOGIN_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of one NBD request of the check, and how many are outstanding. Guessed: what nbdcopy does.
const CHECK: (u32, usize) = (256 << 10, 16);

/// Runs it all; serves until a signal, unless told otherwise.
///
/// # Errors
/// What could not be had, or the first wrong byte.
pub fn run(args: &QuickstartArgs) -> anyhow::Result<()> {
    let (sender, signals) = std::sync::mpsc::channel();
    let stop = serve::signals(sender, |signal| signal)?;
    let folder = tempfile::Builder::new()
        .prefix("diskstream-")
        .tempdir()
        .context("making a temporary folder")?;
    let image = image(args, &folder)?;
    let Some(demo) = Demo::start(&image, &folder, &stop)? else {
        say("stopping");
        return Ok(());
    };
    demo.verify(&image)?;
    demo.explain(&image);
    if !args.once {
        // Any signal, or the end of the thread that takes them.
        let _ = signals.recv();
        say("stopping");
    }
    demo.stop()
}

fn say(text: &str) {
    // A closed standard output keeps nobody from trying things out.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The image that was given, or a demo: random bytes with holes.
fn image(args: &QuickstartArgs, folder: &TempDir) -> anyhow::Result<PathBuf> {
    if let Some(image) = &args.image {
        return Ok(image.clone());
    }
    let path = folder.path().join("demo.img");
    say(&format!(
        "1. making a demo image of {} MiB, every fourth MiB a hole: {}",
        DEMO_BYTES >> 20,
        path.display()
    ));
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    file.set_len(DEMO_BYTES)?;
    let mut content =
        blake3::Hasher::new_derive_key("diskstream quickstart demo image").finalize_xof();
    let mut piece = vec![0u8; 1 << 20];
    for (number, offset) in (0..DEMO_BYTES).step_by(piece.len()).enumerate() {
        if number % 4 != 3 {
            content.fill(&mut piece);
            file.write_all_at(&piece, offset)
                .with_context(|| format!("writing {} (is the disk full?)", path.display()))?;
        }
    }
    Ok(path)
}

/// A node, a device and its export.
struct Demo {
    node: RunningNode,
    http: Option<RunningHttp>,
    device: Option<DeviceThread>,
    export: Option<Server>,
    opened: Opened,
    socket: PathBuf,
}

impl Demo {
    /// None when it was told to stop before the image was hashed.
    fn start(image: &Path, folder: &TempDir, stop: &AtomicBool) -> anyhow::Result<Option<Demo>> {
        say("2. starting a node on loopback; its first start computes the image's content id");
        let (settings, sockets, http) = bind(image)?;
        let arena = RunningNode::arena_for(&settings)?;
        let Some(vdisks) = serve::open_vdisks(&settings, stop)? else { return Ok(None) };
        let mut node = RunningNode::start(&settings, &arena, sockets, vdisks, Arc::new(|| {}))?;
        let health = Arc::new(Health::default());
        let exporter = serve::exporter(&node, &health, Vec::new());
        let http = http.map(|http| http.start(exporter, Arc::clone(&health))).transpose()?;
        health.set(HealthState::Ready);
        say(&format!("   logins at {}, {} shards", node.login(), node.io().len()));
        say("3. attaching a device, with a write cache in memory, and exporting its disk over NBD");
        let socket = folder.path().join("disk.sock");
        match attach(node.login(), &socket) {
            Ok((device, export, opened)) => {
                let (device, export) = (Some(device), Some(export));
                Ok(Some(Demo { node, http, device, export, opened, socket }))
            }
            Err(error) => {
                node.stop();
                Err(error)
            }
        }
    }

    /// Reads the whole export and compares every byte with the image.
    fn verify(&self, image: &Path) -> anyhow::Result<()> {
        let size = self.opened.disk.size_bytes;
        let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
        let mut client = Client::connect(&self.socket, self.opened.disk.vdisk.as_str(), None)
            .context("connecting to the export")?;
        ensure!(
            client.size_bytes() == size,
            "the export has {} bytes, the image {size}",
            client.size_bytes()
        );
        let bar = progress(size);
        let (mut expected, mut hash) = (Vec::new(), blake3::Hasher::new());
        let started = clock::now();
        client.read_pipelined(0..size, CHECK.0, CHECK.1, |offset, bytes| {
            expected.resize(bytes.len(), 0);
            file.read_exact_at(&mut expected, offset)?;
            if let Some(at) = bytes.iter().zip(&expected).position(|(read, right)| read != right) {
                let at = offset + at as u64;
                return Err(std::io::Error::other(format!(
                    "the export differs from the image at byte {at}"
                ))
                .into());
            }
            hash.update(bytes);
            bar.set_position(offset + bytes.len() as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        let content_id = self.opened.disk.content_id.0;
        ensure!(
            *hash.finalize().as_bytes() == content_id,
            "the bytes read do not have the content id of the login"
        );
        let seconds = clock::now().since(started).as_duration().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = size as f64 / (1 << 20) as f64 / seconds;
        say(&format!(
            "4. verified: all {size} bytes read through the export equal the image ({rate:.0} MiB/s)"
        ));
        client.disconnect().context("ending the check")
    }

    fn explain(&self, image: &Path) {
        let socket = self.socket.display();
        say(&format!(
            "\nServing {} until Ctrl-C. While it does, in another terminal:",
            image.display()
        ));
        if let Some(http) = &self.http {
            say(&format!("  metrics   curl http://{}/metrics", http.address()));
        }
        say(&format!("  a look    nbdinfo --map 'nbd+unix:///?socket={socket}'"));
        say(&format!("  a copy    nbdcopy 'nbd+unix:///?socket={socket}' copy.img"));
        say(&format!(
            "  a machine qemu-system-x86_64 -m 1024 -drive 'file=nbd+unix:///?socket={socket},format=raw,if=virtio'"
        ));
        say(
            "            (the image must hold a system that boots; what it writes is gone afterwards)",
        );
        say(&format!(
            "  a device  diskstream-device attach --servers {} --mac 02:00:00:00:00:02 --nbd /tmp/second.sock --port-base 0",
            self.node.login()
        ));
    }

    fn stop(mut self) -> anyhow::Result<()> {
        if let Some(export) = self.export.take() {
            export.shutdown(Duration::from_secs(2));
        }
        if let Some(device) = self.device.take() {
            device.detach()?;
        }
        self.node.drain(DrainState::Stopping, clock::now() + Nanos::from_secs(2));
        self.node.join()
    }
}

fn progress(size: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "   verifying {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    ProgressBar::new(size)
        .with_style(ProgressStyle::with_template(style).expect("a valid template"))
}

/// The default ports, or free ones where somebody has them.
fn bind(image: &Path) -> anyhow::Result<(Settings, Sockets, Option<HttpServer>)> {
    let usual = arguments(image, &[])?;
    let settings = Settings::resolve(&usual)?;
    let (settings, sockets) = match Sockets::bind(&settings) {
        Ok(sockets) => (settings, sockets),
        Err(error) => {
            say(&format!("   the usual ports are taken ({}); using free ones", error.root_cause()));
            let settings =
                Settings::resolve(&arguments(image, &["--login-port", "0", "--io-ports", "0"])?)?;
            let sockets = Sockets::bind(&settings)?;
            (settings, sockets)
        }
    };
    let HttpAt::At(at) = settings.http else { return Ok((settings, sockets, None)) };
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let http = HttpServer::bind(at).or_else(|_| HttpServer::bind(free))?;
    Ok((settings, sockets, Some(http)))
}

/// The flags of `serve`, with their defaults.
fn arguments(image: &Path, more: &[&str]) -> anyhow::Result<ServeArgs> {
    let image = image.to_str().context("the image's path is not UTF-8; rename it")?;
    let words = ["diskstream-node", "serve", image].into_iter().chain(more.iter().copied());
    match Cli::try_parse_from(words)?.command {
        Command::Serve(args) => Ok(*args),
        _ => bail!("serve parses as serve"),
    }
}

fn attach(login: SocketAddr, socket: &Path) -> anyhow::Result<(DeviceThread, Server, Opened)> {
    let mut config = SessionConfig::new(vec![login], DEVICE_MAC);
    "quickstart".clone_into(&mut config.device_name);
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow!("the kernel gives no random bytes: {e}"))?;
    let device = DeviceThread::start(config, Ports::Free, seed)?;
    let opened = device.wait_opened(LOGIN_PATIENCE).with_context(|| {
        format!(
            "the device was not let in within {} s; is UDP to {login} filtered?",
            LOGIN_PATIENCE.as_secs()
        )
    })?;
    let source: Arc<dyn BlockSource> = Arc::new(UnitAligned::new(device.handle()));
    let cache: WriteCacheConfig = "ram:256M".parse().expect("a size that the write cache takes");
    let (disk, _) = write_cache::open(&cache, source)?;
    let mut config = ServerConfig::new(socket);
    opened.disk.vdisk.as_str().clone_into(&mut config.export_name);
    Ok((device, Server::start(disk, config)?, opened))
}

const _: () = assert!((CHECK.0 as usize).is_multiple_of(UNIT_BYTES));
