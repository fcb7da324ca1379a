//! `serve`: from flags to a running node, and what its control thread does until it ends.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use diskstream_ring::clock;
use diskstream_vdisk::{Change, OpenOptions, SidecarUse, Vdisk, Watch};
use diskstream_wire::{Nanos, NodeEntry};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{HttpAt, ServeArgs};
use crate::metrics::{
    ArenaSource, CacheSource, Exporter, FeatureSource, Health, HealthSource, HealthState,
    HttpServer, ProcessSource, RingSource, RunningHttp, ShardSource, gauge,
};
use crate::running::{RunningNode, Sockets};
use crate::settings::Settings;

/// Distance of two looks at the files. Guessed: a change is named within a second; blocks are checked anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a node without a successor waits for its devices (design, section 6).
const DRAIN_ALONE: Nanos = Nanos::from_secs(2);

/// Serves until a signal ends it.
///
/// # Errors
/// One line: what could not be had, where, and the remedy.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::resolve(args)?;
    // Before any thread: signals then wait for the control thread instead of ending the process half-way.
    let signals = signals()?;
    let sockets = Sockets::bind(&settings)?;
    let http = match settings.http {
        HttpAt::Off => None,
        HttpAt::At(addr) => Some(HttpServer::bind(addr)?),
    };
    for line in settings.describe() {
        tracing::info!("{line}");
    }
    // Memory that is not there is said at once, not after an hour of hashing.
    let arena = RunningNode::arena_for(&settings)?;
    let vdisks = open_vdisks(&settings)?;
    let mut node = RunningNode::start(&settings, &arena, sockets, vdisks)?;
    let health = Arc::new(Health::default());
    let http =
        http.map(|http| http.start(exporter(&node, &health), Arc::clone(&health))).transpose();
    let http = http.context("starting the thread for metrics")?;
    health.set(HealthState::Ready);
    announce(&node, http.as_ref().map(RunningHttp::address))?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    control(&settings, &mut node, &signals, &health)
}

/// All that the node says about itself.
pub fn exporter(node: &RunningNode, health: &Arc<Health>) -> Exporter {
    let shared = Arc::clone(node.shared());
    let booting = move || {
        #[expect(clippy::cast_precision_loss, reason = "a count of devices is far below 2^53")]
        let in_use = shared.boot_slots.in_use(clock::now()) as f64;
        in_use
    };
    let mut sources: Vec<Box<dyn crate::metrics::Source>> = vec![
        Box::new(ShardSource(node.counters().to_vec())),
        Box::new(RingSource(node.ring_stats().to_vec())),
        Box::new(CacheSource(Arc::clone(&node.shared().cache))),
        Box::new(ArenaSource(Arc::clone(node.arena()))),
        Box::new(FeatureSource(node.features())),
        Box::new(HealthSource(Arc::clone(health))),
        Box::new(ProcessSource::new(clock::unix_seconds())),
        gauge(
            "boot_slots_in_use",
            "Devices that are booting and count against the boot limit.",
            Vec::new(),
            booting,
        ),
    ];
    for vdisk in node.shared().vdisks().unwrap_or_default() {
        let labels = vec![("vdisk", vdisk.name.clone().into())];
        let entry = Arc::clone(vdisk);
        let help =
            "1 while the vDisk takes devices; 0: its file is missing or was changed, see the log.";
        sources.push(gauge("vdisk_eligible", help, labels, move || {
            f64::from(u8::from(entry.is_eligible()))
        }));
    }
    Exporter::new(sources)
}

/// One line on standard output, for people and scripts: the node takes logins from here on.
fn announce(node: &RunningNode, http: Option<SocketAddr>) -> anyhow::Result<()> {
    let io: Vec<String> = node.io().iter().map(ToString::to_string).collect();
    let vdisks: Vec<String> = node
        .shared()
        .vdisks()
        .unwrap_or_default()
        .iter()
        .filter(|v| v.is_eligible())
        .map(|v| format!("{}:{}", v.name, v.content_id))
        .collect();
    let http = http.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready: login={} io={} http={http} vdisks={}",
        node.login(),
        io.join(","),
        vdisks.join(",")
    )
    .and_then(|()| out.flush())
    .context("writing to standard output")
}

/// Signals arrive through a channel, so that the control thread can wait for one with a time limit.
///
/// # Errors
/// When the process may not handle signals or start a thread.
pub fn signals() -> anyhow::Result<mpsc::Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .context("taking over SIGTERM, SIGINT and SIGHUP")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            signals.forever().take_while(|&signal| sender.send(signal).is_ok()).for_each(drop);
        })
        .context("starting a thread")?;
    Ok(receiver)
}

/// Opens and, where needed, hashes the images, with a progress bar on a terminal and log lines otherwise.
///
/// # Errors
/// The first image that cannot be served, with its defect and the remedy.
pub fn open_vdisks(settings: &Settings) -> anyhow::Result<Vec<Option<Vdisk>>> {
    let sidecar = if settings.rehash { SidecarUse::Rewrite } else { SidecarUse::ReadWrite };
    let options = OpenOptions { sidecar, ..OpenOptions::default() };
    let mut vdisks = Vec::new();
    for config in &settings.vdisks {
        let Some(path) = &config.path else {
            vdisks.push(None);
            continue;
        };
        let mut progress = HashProgress::new(&config.name);
        let opened = Vdisk::open_with_progress(path, &options, &mut |done, total| {
            progress.show(done, total);
            ControlFlow::Continue(())
        });
        match opened {
            Ok(vdisk) => vdisks.push(Some(vdisk)),
            Err(error) if settings.every_vdisk_needed => return Err(error.into()),
            Err(error) => {
                tracing::error!(vdisk = config.name, "not served by this node: {error}");
                vdisks.push(None);
            }
        }
    }
    anyhow::ensure!(
        vdisks.iter().any(Option::is_some),
        "none of the farm's vDisks can be served by this node; the reasons are above"
    );
    Ok(vdisks)
}

/// Progress of hashing: a bar for people, a line every ten seconds for logs.
pub struct HashProgress {
    name: String,
    bar: Option<ProgressBar>,
    said: Nanos,
}

impl HashProgress {
    /// Nothing is shown until there is something to show.
    #[must_use]
    pub fn new(name: &str) -> HashProgress {
        HashProgress { name: name.to_owned(), bar: None, said: clock::now() }
    }

    /// So much of so many bytes is hashed.
    pub fn show(&mut self, done: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar =
                    ProgressBar::new(total).with_prefix(format!("content id of {}", self.name));
                let style = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                bar.with_style(ProgressStyle::with_template(style).expect("a valid template"))
            });
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
            }
        } else if clock::now().since(self.said) >= Nanos::from_secs(10) {
            self.said = clock::now();
            tracing::info!(vdisk = self.name, "hashing: {} %", done * 100 / total.max(1));
        }
    }
}

/// Waits for signals, and looks at the files now and then.
fn control(
    settings: &Settings,
    node: &mut RunningNode,
    signals: &mpsc::Receiver<i32>,
    health: &Health,
) -> anyhow::Result<()> {
    let mut watches = watch_all(node);
    loop {
        match signals.recv_timeout(LOOK_EVERY) {
            Ok(SIGHUP) => tracing::info!(
                "SIGHUP: nothing can be reloaded yet; restart the node (its devices move meanwhile)"
            ),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => {
                return drain(settings, node, signals, health);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if node.any_ended() {
            node.stop();
            anyhow::bail!("a shard ended unexpectedly; its reason is in the log above");
        }
        node.shared().wall_clock.set(clock::unix_seconds(), clock::now());
        node.shared().cache.tick();
        look(node, &mut watches);
        health.set(health_of(node));
    }
}

fn watch_all(node: &RunningNode) -> Vec<Option<Watch>> {
    node.vdisks()
        .iter()
        .map(|vdisk| {
            let vdisk = vdisk.as_ref()?;
            Watch::new(vdisk)
                .inspect_err(|error| tracing::warn!(path = %vdisk.path().display(), %error, "the image cannot be watched"))
                .ok()
        })
        .collect()
}

fn look(node: &RunningNode, watches: &mut [Option<Watch>]) {
    for (index, watch) in watches.iter_mut().enumerate() {
        let Some(watch) = watch else { continue };
        while let Some(change) = watch.check() {
            judge(node, index, change);
        }
    }
}

/// Ready as long as every vDisk that is here takes devices.
fn health_of(node: &RunningNode) -> HealthState {
    let entries = node.shared().vdisks().unwrap_or_default().iter().zip(node.vdisks());
    let lost: Vec<&str> = entries
        .filter(|(entry, here)| here.is_some() && !entry.is_eligible())
        .map(|(entry, _)| entry.name.as_str())
        .collect();
    if lost.is_empty() {
        HealthState::Ready
    } else {
        HealthState::Failing(format!(
            "vDisk {} takes no devices: its file was changed",
            lost.join(", ")
        ))
    }
}

/// A changed file takes its vDisk out of service; what cannot be told yet is said, and the block hashes judge.
fn judge(node: &RunningNode, index: usize, change: Change) {
    let Some(vdisk) = &node.vdisks()[index] else { return };
    let path = vdisk.path().display();
    match change.content() {
        diskstream_vdisk::Content::Intact => tracing::info!(%path, "{change}"),
        diskstream_vdisk::Content::Suspect => {
            tracing::warn!(%path, "{change}; every block is checked before it is served");
        }
        diskstream_vdisk::Content::Changed => {
            tracing::error!(%path, "{change}; the vDisk takes no more devices, and those that it has are told to move. Restore the \
                 image, or serve the changed one under a new name, and restart the node");
            node.vdisk_changed(u32::try_from(index).expect("few vDisks"));
        }
    }
}

/// Tells the devices to move, and serves until they have or the deadline passes. A second signal ends it at once.
fn drain(
    settings: &Settings,
    node: &mut RunningNode,
    signals: &mpsc::Receiver<i32>,
    health: &Health,
) -> anyhow::Result<()> {
    let successors = settings.successors();
    let patience = if successors.is_empty() {
        DRAIN_ALONE
    } else {
        Nanos::from_secs(u64::from(settings.drain_seconds))
    };
    tracing::info!(
        successors = successors.len(),
        seconds = patience.as_millis() / 1000,
        "told to stop: draining"
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    health.set(HealthState::Draining("told to stop".to_owned()));
    let deadline = clock::now() + patience;
    node.drain(deadline, successors);
    // The shards end by themselves; half a second more covers their last turn.
    let end = deadline + Nanos::from_millis(500);
    while !node.all_ended() && clock::now() < end {
        if signals.recv_timeout(Duration::from_millis(20)).is_ok() {
            tracing::warn!("told again: stopping without waiting for the devices");
            break;
        }
    }
    if node.all_ended() {
        node.join()
    } else {
        node.stop();
        Ok(())
    }
}

/// What the devices of a draining node are told: every other node that serves the same.
#[must_use]
pub fn node_entries(addrs: &[SocketAddr]) -> Vec<NodeEntry> {
    addrs
        .iter()
        .map(|&addr| NodeEntry { login: addr.into(), rating: 100, ..NodeEntry::default() })
        .collect()
}
