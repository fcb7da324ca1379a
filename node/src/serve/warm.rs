//! The lists of what boots read: loaded when the node starts, learned from while it runs, written back by a thread of their own, since a
//! store that hangs must hang nothing else. The same thread tells how far vDisks are that are to stay in the cache.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_vdisk::{Vdisk, WarmList};
use diskstream_wire::Nanos;

use crate::metrics::{Samples, Source};
use crate::running::RunningNode;
use crate::settings::{Settings, VdiskSetting};
use crate::shard::{NodeShared, VdiskEntry};

/// Distance of two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Distance of two lines about what is being loaded to stay.
const SAY_EVERY: Nanos = Nanos::from_secs(10);
/// How long the end of the node waits for the last list to be written. Guessed: a store that takes longer hangs.
const END_WITHIN: Duration = Duration::from_secs(2);

/// The list beside an image; empty where there is none, or none that is of use, which is said.
pub(crate) fn load_warm_list(config: &VdiskSetting, vdisk: &Vdisk, block_bytes: usize) -> WarmList {
    let block_bytes = u32::try_from(block_bytes).expect("at most 1 MiB");
    match WarmList::load(vdisk.path(), vdisk.content_id(), block_bytes) {
        Ok(list) => list.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(
                vdisk = config.name,
                path = %vdisk.path().display(),
                "the list of what its boots read ({}.warm) is ignored, and made anew by the next boot: {error}",
                vdisk.path().display()
            );
            IGNORED.fetch_add(1, Relaxed);
            WarmList::default()
        }
    }
}

/// Lists that were of no use when the node started.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// What became of the lists, and how far the lists' blocks are, for the metrics.
pub(super) struct WarmFigures {
    shared: Arc<NodeShared>,
    written: AtomicU64,
    failed: AtomicU64,
}

impl Source for WarmFigures {
    fn collect(&self, samples: &mut Samples) {
        for entry in self.shared.vdisks().unwrap_or_default() {
            let labels = || {
                let purpose = if entry.kept { "pinned" } else { "warm_up" };
                vec![("vdisk", entry.name.clone().into()), ("purpose", purpose.into())]
            };
            let help = "Blocks that are loaded in the background: of a vDisk that stays in the cache, or that earlier boots have read.";
            samples.gauge("listed_blocks", help, labels(), f64::from(entry.feed.blocks()));
            let help = "Of those the ones that were loaded, or found in the cache.";
            samples.gauge("listed_blocks_done", help, labels(), f64::from(entry.feed.done()));
        }
        let mut counter = |name, help, value: &AtomicU64| {
            samples.counter(name, help, Vec::new(), value.load(Relaxed));
        };
        let help = "Lists of what boots read that were damaged or of another content when the node started.";
        counter("warm_lists_ignored_total", help, &IGNORED);
        counter(
            "warm_lists_written_total",
            "Lists of what boots read that were written.",
            &self.written,
        );
        let help = "Lists of what boots read that could not be written.";
        counter("warm_lists_failed_total", help, &self.failed);
    }
}

/// The thread. Dropping it has the last lists written, if that takes no longer than [`END_WITHIN`].
pub(super) struct WarmUp {
    stop: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl WarmUp {
    /// What the metrics show.
    pub(super) fn figures(node: &RunningNode) -> Arc<WarmFigures> {
        let shared = Arc::clone(node.shared());
        Arc::new(WarmFigures { shared, written: AtomicU64::new(0), failed: AtomicU64::new(0) })
    }

    /// Starts the thread; none where there is nothing to learn and nothing to keep.
    pub(super) fn start(
        settings: &Settings,
        node: &RunningNode,
        figures: &Arc<WarmFigures>,
    ) -> anyhow::Result<Option<WarmUp>> {
        let entries = node.shared().vdisks().unwrap_or_default();
        let work = entries.iter().zip(node.vdisks());
        let work: Vec<Work> = work
            .filter_map(|(entry, vdisk)| {
                let path = vdisk.as_ref()?.path().to_owned();
                let used = entry.recorder.is_some() || entry.kept;
                let list = match entry.recorder {
                    Some(_) => reload(vdisk.as_ref()?, settings.block_bytes),
                    None => WarmList::default(),
                };
                used.then(|| Work {
                    entry: Arc::clone(entry),
                    path,
                    list,
                    said: AtomicBool::new(false),
                })
            })
            .collect();
        if work.is_empty() {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let block_bytes = u32::try_from(settings.block_bytes).expect("at most 1 MiB");
        let mut round =
            Round { work, figures: Arc::clone(figures), stopped, block_bytes, said: clock::now() };
        let thread = std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || {
            round.run();
            drop(end);
        })?;
        Ok(Some(WarmUp { stop: Some(stop), ended, thread: Some(thread) }))
    }
}

/// As when the node started, without saying again what is wrong with it.
fn reload(vdisk: &Vdisk, block_bytes: usize) -> WarmList {
    let block_bytes = u32::try_from(block_bytes).expect("at most 1 MiB");
    WarmList::load(vdisk.path(), vdisk.content_id(), block_bytes).ok().flatten().unwrap_or_default()
}

impl Drop for WarmUp {
    fn drop(&mut self) {
        drop(self.stop.take());
        let late = self.ended.recv_timeout(END_WITHIN) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            tracing::warn!(
                "a store takes longer than {} s to write what boots read; ending without it",
                END_WITHIN.as_secs()
            );
        } else if let Some(thread) = self.thread.take() {
            // A panic was printed by its own thread.
            let _ = thread.join();
        }
    }
}

struct Work {
    entry: Arc<VdiskEntry>,
    path: std::path::PathBuf,
    list: WarmList,
    /// That all of it is loaded was said.
    said: AtomicBool,
}

struct Round {
    work: Vec<Work>,
    figures: Arc<WarmFigures>,
    stopped: mpsc::Receiver<()>,
    block_bytes: u32,
    said: Nanos,
}

impl Round {
    fn run(&mut self) {
        loop {
            let waited = self.stopped.recv_timeout(LOOK_EVERY);
            let ends = waited != Err(mpsc::RecvTimeoutError::Timeout);
            for work in &mut self.work {
                if let Some(recorder) = &work.entry.recorder
                    && let Some(read) = recorder.collect(clock::now(), ends)
                {
                    learn(work, &read, self.block_bytes, &self.figures);
                }
            }
            if ends {
                return;
            }
            self.say();
        }
    }

    /// How far the vDisks are that are to stay in the cache.
    fn say(&mut self) {
        let now = clock::now();
        let due = now.since(self.said) >= SAY_EVERY;
        for Work { entry, said, .. } in self.work.iter().filter(|work| work.entry.kept) {
            let (done, blocks) = (entry.feed.done(), entry.feed.blocks());
            if done == blocks && !said.swap(true, Relaxed) {
                tracing::info!(
                    vdisk = entry.name,
                    "all of its {blocks} blocks are in the cache, to stay"
                );
            } else if done < blocks && due {
                let percent = u64::from(done) * 100 / u64::from(blocks.max(1));
                tracing::info!(vdisk = entry.name, "{percent} % of it is in the cache, to stay");
            }
        }
        if due {
            self.said = now;
        }
    }
}

fn learn(work: &mut Work, read: &[u32], block_bytes: u32, figures: &WarmFigures) {
    work.list.learn(read);
    let content_id = diskstream_vdisk::ContentId(work.entry.content_id.0);
    match work.list.save(&work.path, content_id, block_bytes) {
        Ok(()) => {
            figures.written.fetch_add(1, Relaxed);
            let blocks = work.list.blocks().len();
            tracing::info!(
                vdisk = work.entry.name,
                "boots read {} blocks; {blocks} are remembered for the next start",
                read.len()
            );
        }
        Err((step, error)) => {
            figures.failed.fetch_add(1, Relaxed);
            tracing::warn!(
                vdisk = work.entry.name,
                path = %work.path.display(),
                "what boots read cannot be remembered beside the image ({step}): {error}; the next start of this node warms up as before"
            );
        }
    }
}
