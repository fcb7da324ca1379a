//! The node's own scrub: a thread for each store reads its vDisks from their disk now and then, slowly.
//!
//! They have one bound of bytes per second together instead of an I/O priority, because most disks' schedulers know none; they start again
//! with the process, because when an image was scrubbed last is nowhere written down. A store that hangs keeps its own thread, and nothing
//! of what the others may read.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
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

/// Bytes read per second at most, of all stores together. Guessed: a tenth of what a slow SSD reads, a third of a hard disk.
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

/// The threads. Dropping it ends each after the piece that it reads; nobody waits for that, which may be as long as a store hangs.
pub(super) struct Scrubber {
    _stops: Vec<mpsc::Sender<()>>,
}

/// What is read of one image, and how: all of it, with a call before each piece and at the end.
type Turn<'t> = &'t mut dyn FnMut(&ScrubFound) -> ControlFlow<()>;
type Read = Box<dyn Fn(Turn<'_>) -> ScrubFound + Send>;

/// One vDisk's scrub.
struct Work {
    vdisk: usize,
    path: PathBuf,
    size_bytes: u64,
    read: Read,
}

impl Work {
    fn of(vdisk: usize, scrub: Scrub) -> Work {
        let (path, size_bytes) = (scrub.path().to_owned(), scrub.size_bytes());
        Work { vdisk, path, size_bytes, read: Box::new(move |turn| scrub.run(turn)) }
    }
}

/// What all threads may read: until when the bytes that were read last have used it up, in nanoseconds.
#[derive(Debug, Default)]
struct Allowance(AtomicU64);

impl Allowance {
    /// Bytes were read: when the next may be. What a store did not use while it hung or waited is not made up for.
    fn use_up(&self, bytes: u64, now: Nanos) -> Nanos {
        let cost = budget(bytes);
        let after = |used: u64| Nanos(used).max(now) + cost;
        let before = self.0.fetch_update(Relaxed, Relaxed, |used| Some(after(used).0));
        after(before.expect("every update is one"))
    }
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
    /// Starts the threads; none when scrubs are off.
    pub(super) fn start(
        settings: &Settings,
        node: &RunningNode,
        scrubs: &Arc<Scrubs>,
        wish: &mpsc::Sender<Wish>,
    ) -> anyhow::Result<Option<Scrubber>> {
        if settings.scrub_days == 0 {
            return Ok(None);
        }
        let mut stores: BTreeMap<u64, Vec<Work>> = BTreeMap::new();
        for (index, vdisk) in node.vdisks().iter().enumerate() {
            let Some(vdisk) = vdisk else { continue };
            let work = Work::of(index, Scrub::of_vdisk(vdisk)?);
            stores.entry(vdisk.identity().dev).or_default().push(work);
        }
        let delay = Duration::from_secs(u64::from(settings.scrub_delay));
        let period = DAY * settings.scrub_days;
        Ok(Some(Scrubber::of_stores(stores.into_values(), scrubs, wish, delay, period)?))
    }

    /// A thread for the vDisks of each store.
    fn of_stores(
        stores: impl Iterator<Item = Vec<Work>>,
        scrubs: &Arc<Scrubs>,
        wish: &mpsc::Sender<Wish>,
        delay: Duration,
        period: Duration,
    ) -> std::io::Result<Scrubber> {
        let allowance = Arc::new(Allowance::default());
        let mut stops = Vec::new();
        for work in stores {
            let (stop, stopped) = mpsc::channel();
            let (scrubs, allowance) = (Arc::clone(scrubs), Arc::clone(&allowance));
            let round =
                Round { work, scrubs, allowance, wish: wish.clone(), stopped, delay, period };
            std::thread::Builder::new().name("scrub".to_owned()).spawn(move || round.run())?;
            stops.push(stop);
        }
        Ok(Scrubber { _stops: stops })
    }
}

/// What the thread of one store does.
struct Round {
    work: Vec<Work>,
    scrubs: Arc<Scrubs>,
    allowance: Arc<Allowance>,
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
            for work in &self.work {
                if self.scrub(work).is_break() {
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

    fn scrub(&self, work: &Work) -> ControlFlow<()> {
        let (name, progress) = &self.scrubs.0[work.vdisk];
        let path = work.path.display();
        let began = clock::now();
        tracing::info!(vdisk = name, "scrub: reading {} bytes of {path}", work.size_bytes);
        let mut told = false;
        let mut stopped = false;
        let mut paid_bytes = 0;
        progress.bad_bytes.store(0, Relaxed);
        let found = (work.read)(&mut |found| {
            progress.checked_bytes.store(found.checked_bytes, Relaxed);
            progress.bad_bytes.store(found.bad_bytes, Relaxed);
            if !found.is_clean() && !told {
                // At the first bad block: its devices need not wait for the end.
                told = true;
                drop(self.wish.send(Wish::BadBlock { vdisk: work.vdisk, what: first(found) }));
            }
            let now = clock::now();
            let due = self.allowance.use_up(found.checked_bytes - paid_bytes, now);
            paid_bytes = found.checked_bytes;
            stopped = !self.waits(due.since(now).as_duration());
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
                "scrub: {bad} bytes in bad blocks; `diskstream-node vdisk scrub {path}` names them"
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

    #[test]
    fn stores_share_one_allowance_and_save_nothing_up() {
        let allowance = Allowance::default();
        let second = Nanos::from_secs;
        assert_eq!(allowance.use_up(64 << 20, second(1)), second(2));
        assert_eq!(allowance.use_up(64 << 20, second(1)), second(3), "of another store, behind it");
        assert_eq!(allowance.use_up(64 << 20, second(90)), second(91), "hung for a minute");
    }

    #[test]
    fn a_store_that_hangs_stops_no_scrub_of_another() {
        // It hangs for as long as the test has the other end.
        let (_hangs, hung) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let hanging: Read = Box::new(move |turn| {
            let _ = turn(&ScrubFound::default());
            began.send(()).expect("the test waits");
            let _ = hung.recv();
            ScrubFound::default()
        });
        let (ended, ends) = mpsc::channel();
        let right: Read = Box::new(move |turn| {
            let found = ScrubFound { checked_bytes: 4096, ..ScrubFound::default() };
            let _ = turn(&found);
            ended.send(()).expect("the test waits");
            found
        });
        let names = ["hangs", "right"].map(|name| (name.to_owned(), Progress::default()));
        let scrubs = Arc::new(Scrubs(names.into()));
        let work = |(vdisk, read)| vec![Work { vdisk, path: PathBuf::new(), size_bytes: 0, read }];
        let stores = [hanging, right].into_iter().enumerate().map(work);
        let (wish, _wishes) = mpsc::channel();
        let scrubber = Scrubber::of_stores(stores, &scrubs, &wish, Duration::ZERO, DAY);
        let patience = Duration::from_secs(30);
        begins.recv_timeout(patience).expect("the one is read");
        ends.recv_timeout(patience).expect("and the other is, too");
        // Nobody waits for the one that hangs.
        drop(scrubber);
    }
}
