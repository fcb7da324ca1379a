//! The node's own scrub: one thread that reads each vDisk from its disk now and then, slowly.
//!
//! It has a bound of bytes per second instead of an I/O priority, because most disks' schedulers know none; it starts again with
//! the process, because when an image was scrubbed last is nowhere written down.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_vdisk::{Scrub, ScrubFound};
use diskstream_wire::Nanos;

use super::Wish;
use crate::metrics::{Samples, Source};
use crate::running::RunningNode;
use crate::settings::Settings;

/// Bytes read per second at most. Guessed: a tenth of what a slow SSD reads, a third of a hard disk.
const BYTES_PER_SECOND: u64 = 64 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// What is known of one vDisk's scrubs.
#[derive(Debug, Default)]
struct Progress {
    size_bytes: u64,
    checked_bytes: AtomicU64,
    bad_bytes: AtomicU64,
    finished_unix_seconds: AtomicU64,
}

/// The state of all scrubs, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Scrubs(Vec<(String, Progress)>);

/// The thread. Dropping it ends it after the piece that it reads; nobody waits for that, which may be as long as a store hangs.
pub(super) struct Scrubber {
    _stop: mpsc::Sender<()>,
}

impl Scrubs {
    /// Nothing is scrubbed yet.
    pub(super) fn new(node: &RunningNode) -> Arc<Scrubs> {
        let names = node.shared().vdisks().unwrap_or_default().iter().map(|v| v.name.clone());
        let sizes =
            node.vdisks().iter().map(|v| v.as_ref().map_or(0, diskstream_vdisk::Vdisk::size_bytes));
        let progress = |size_bytes| Progress { size_bytes, ..Progress::default() };
        Arc::new(Scrubs(names.zip(sizes.map(progress)).collect()))
    }
}

impl Source for Scrubs {
    fn collect(&self, samples: &mut Samples) {
        for (name, progress) in &self.0 {
            let labels = || vec![("vdisk", name.clone().into())];
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            let mut gauge = |metric, help, value: u64| {
                samples.gauge(metric, help, labels(), value as f64);
            };
            let help = "Bytes that the vDisk's scrub has to read; 0: no image is here.";
            gauge("scrub_size_bytes", help, progress.size_bytes);
            let help = "Bytes that the vDisk's present or last scrub has read.";
            gauge("scrub_checked_bytes", help, progress.checked_bytes.load(Relaxed));
            let help = "Bytes in bad blocks that the vDisk's present or last scrub has found.";
            gauge("scrub_bad_bytes", help, progress.bad_bytes.load(Relaxed));
            let help = "When the vDisk's last whole scrub ended, in seconds since 1970; 0: none has since the start.";
            gauge(
                "scrub_finished_timestamp_seconds",
                help,
                progress.finished_unix_seconds.load(Relaxed),
            );
        }
    }
}

impl Scrubber {
    /// Starts the thread; none when scrubs are off.
    pub(super) fn start(
        settings: &Settings,
        node: &RunningNode,
        scrubs: &Arc<Scrubs>,
        wish: mpsc::Sender<Wish>,
    ) -> anyhow::Result<Option<Scrubber>> {
        if settings.scrub_days == 0 {
            return Ok(None);
        }
        let mut work = Vec::new();
        for (index, vdisk) in node.vdisks().iter().enumerate() {
            if let Some(vdisk) = vdisk {
                work.push((index, Scrub::of_vdisk(vdisk)?));
            }
        }
        let (stop, stopped) = mpsc::channel();
        let round = Round {
            work,
            scrubs: Arc::clone(scrubs),
            wish,
            stopped,
            delay: Duration::from_secs(u64::from(settings.scrub_delay)),
            period: DAY * settings.scrub_days,
        };
        std::thread::Builder::new().name("scrub".to_owned()).spawn(move || round.run())?;
        Ok(Some(Scrubber { _stop: stop }))
    }
}

struct Round {
    work: Vec<(usize, Scrub)>,
    scrubs: Arc<Scrubs>,
    wish: mpsc::Sender<Wish>,
    stopped: mpsc::Receiver<()>,
    delay: Duration,
    period: Duration,
}

impl Round {
    fn run(&self) {
        let mut wait = self.delay;
        while self.waits(wait) {
            let began = clock::now();
            for (index, scrub) in &self.work {
                if self.scrub(*index, scrub).is_break() {
                    return;
                }
            }
            let took = clock::now().since(began).as_duration();
            wait = self.period.saturating_sub(took);
        }
    }

    /// Sleeps; false when the node ends meanwhile.
    fn waits(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
    }

    fn scrub(&self, index: usize, scrub: &Scrub) -> ControlFlow<()> {
        let (name, progress) = &self.scrubs.0[index];
        let began = clock::now();
        tracing::info!(
            vdisk = name,
            "scrub: reading {} bytes of {}",
            scrub.size_bytes(),
            scrub.path().display()
        );
        let mut told = false;
        let mut stopped = false;
        progress.bad_bytes.store(0, Relaxed);
        let found = scrub.run(&mut |found| {
            progress.checked_bytes.store(found.checked_bytes, Relaxed);
            progress.bad_bytes.store(found.bad_bytes, Relaxed);
            if !found.is_clean() && !told {
                // At the first bad block: its devices need not wait for the end.
                told = true;
                drop(self.wish.send(Wish::BadBlock { vdisk: index, what: first(found) }));
            }
            let due = began + budget(found.checked_bytes);
            stopped = !self.waits(due.since(clock::now()).as_duration());
            if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if stopped {
            return ControlFlow::Break(());
        }
        progress.finished_unix_seconds.store(clock::unix_seconds(), Relaxed);
        let seconds = clock::now().since(began).as_millis() / 1000;
        if found.is_clean() {
            tracing::info!(vdisk = name, seconds, "scrub: every byte is right");
        } else {
            let bad = found.bad_bytes;
            tracing::error!(
                vdisk = name,
                seconds,
                "scrub: {bad} bytes in bad blocks; `diskstream-node vdisk scrub {}` names them",
                scrub.path().display()
            );
        }
        ControlFlow::Continue(())
    }
}

/// The time in which so many bytes may be read.
fn budget(bytes: u64) -> Nanos {
    Nanos(
        u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(BYTES_PER_SECOND))
            .unwrap_or(u64::MAX),
    )
}

/// The first bad range, in words.
fn first(found: &ScrubFound) -> String {
    match (found.differing.first(), found.unreadable.first()) {
        (Some(range), _) => {
            format!("bytes {}..{} differ from their hashes", range.start, range.end)
        }
        (None, Some(range)) => format!(
            "bytes {}..{} cannot be read: {}",
            range.start,
            range.end,
            found.unreadable_because.as_deref().unwrap_or_default()
        ),
        (None, None) => "a block is bad".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_the_stated_rate() {
        assert_eq!(budget(64 << 20), Nanos::from_secs(1));
        assert_eq!(budget(0), Nanos::ZERO);
        assert_eq!(budget(40 << 30), Nanos::from_secs(640));
    }
}
