//! The lists of what boots read: loaded when the node starts, learned from while it runs, written back by a thread for each store, since
//! one that hangs must hang nothing else. The same threads tell how far vDisks are that are pinned in the cache.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstream_ring::clock;
use diskstream_vdisk::{Vdisk, WarmList};
use diskstream_wire::Nanos;

use crate::metrics::{Samples, Source};
use crate::running::RunningNode;
use crate::settings::{Settings, VdiskSetting};
use crate::shard::{NodeShared, Record, VdiskEntry};

/// Distance of two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Distance of two lines about what is being pinned.
const SAY_EVERY: Nanos = Nanos::from_secs(10);
/// How long the end of the node waits for the last lists to be written. Guessed: a store that takes longer hangs.
const END_WITHIN: Nanos = Nanos::from_secs(2);

/// The list beside an image, empty where there is no file. None: the file is of no use, which is said.
pub(crate) fn load_warm_list(
    config: &VdiskSetting,
    vdisk: &Vdisk,
    block_bytes: usize,
) -> Option<WarmList> {
    let block_bytes = u32::try_from(block_bytes).expect("at most 1 MiB");
    match WarmList::load(vdisk.path(), vdisk.content_id(), block_bytes) {
        Ok(list) => Some(list.unwrap_or_default()),
        Err(error) => {
            tracing::warn!(
                vdisk = config.name,
                path = %vdisk.path().display(),
                "the list of what its boots read ({}.warm) is ignored, and made anew by the next boot: {error}",
                vdisk.path().display()
            );
            None
        }
    }
}

/// What became of the lists, and how far the lists' blocks are, for the metrics.
pub(super) struct WarmFigures {
    shared: Arc<NodeShared>,
    ignored: u64,
    saves: Arc<Saves>,
}

/// What became of lists that were to be written.
#[derive(Debug, Default)]
struct Saves {
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
            let help = "Blocks that are loaded in the background: of a vDisk that is pinned in the cache, or that earlier boots have read.";
            samples.gauge("listed_blocks", help, labels(), f64::from(entry.feed.blocks()));
            let help = "Blocks to be loaded in the background that were loaded or found in the cache, or are nothing but zeros.";
            samples.gauge("listed_blocks_done", help, labels(), f64::from(entry.feed.done()));
        }
        let mut counter = |name, help, value| samples.counter(name, help, Vec::new(), value);
        let help = "Lists of what boots read that were damaged or of another content when the node started.";
        counter("warm_lists_ignored_total", help, self.ignored);
        let help = "Lists of what boots read that were written.";
        counter("warm_lists_written_total", help, self.saves.written.load(Relaxed));
        let help = "Lists of what boots read that could not be written.";
        counter("warm_lists_failed_total", help, self.saves.failed.load(Relaxed));
    }
}

/// The threads, one for each store. Dropping it has the last lists written, those that take no longer than [`END_WITHIN`].
pub(super) struct WarmUp(Vec<Writer>);

struct Writer {
    stop: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl WarmUp {
    /// What the metrics show; `ignored` lists were of no use at the start.
    pub(super) fn figures(node: &RunningNode, ignored: u64) -> Arc<WarmFigures> {
        let shared = Arc::clone(node.shared());
        Arc::new(WarmFigures { shared, ignored, saves: Arc::default() })
    }

    /// Starts the threads; none where there is nothing to learn and nothing to pin. `lists` are what is known, one for each vDisk.
    pub(super) fn start(
        settings: &Settings,
        node: &RunningNode,
        lists: Vec<WarmList>,
        figures: &Arc<WarmFigures>,
    ) -> anyhow::Result<WarmUp> {
        let block_bytes = u32::try_from(settings.block_bytes).expect("at most 1 MiB");
        let entries = node.shared().vdisks().unwrap_or_default();
        let mut of_store: BTreeMap<u16, Vec<Work>> = BTreeMap::new();
        for ((entry, vdisk), list) in entries.iter().zip(node.vdisks()).zip(lists) {
            if let Some(vdisk) = vdisk
                && (entry.recorder.is_some() || entry.feed.blocks() > 0)
            {
                let (entry, path) = (Arc::clone(entry), vdisk.path().to_owned());
                let work = of_store.entry(entry.store).or_default();
                work.push(Work { entry, path, list, block_bytes, said: (0, 0) });
            }
        }
        let writers = of_store.into_values().map(|work| Writer::start(work, &figures.saves));
        Ok(WarmUp(writers.collect::<std::io::Result<_>>()?))
    }
}

impl Writer {
    fn start(work: Vec<Work>, saves: &Arc<Saves>) -> std::io::Result<Writer> {
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let mut round = Round { work, saves: Arc::clone(saves), stopped, said: clock::now() };
        let thread = std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || {
            round.run();
            drop(end);
        })?;
        Ok(Writer { stop: Some(stop), ended, thread })
    }
}

impl Drop for WarmUp {
    fn drop(&mut self) {
        // All of them first, so that they end at the same time.
        self.0.iter_mut().for_each(|writer| drop(writer.stop.take()));
        let until = clock::now() + END_WITHIN;
        let mut late = 0;
        for writer in self.0.drain(..) {
            let left = Duration::from_nanos(until.since(clock::now()).0);
            if writer.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                late += 1;
            } else {
                // A panic was printed by its own thread.
                let _ = writer.thread.join();
            }
        }
        if late > 0 {
            tracing::warn!(
                "{late} stores take longer than {} s to write what boots read; ending without that",
                END_WITHIN.as_millis() / 1000
            );
        }
    }
}

struct Work {
    entry: Arc<VdiskEntry>,
    path: std::path::PathBuf,
    list: WarmList,
    block_bytes: u32,
    /// What was said last of its blocks: those that are done, and those that cannot be loaded.
    said: (u32, u32),
}

struct Round {
    work: Vec<Work>,
    saves: Arc<Saves>,
    stopped: mpsc::Receiver<()>,
    said: Nanos,
}

impl Round {
    fn run(&mut self) {
        loop {
            let waited = self.stopped.recv_timeout(LOOK_EVERY);
            let ends = waited != Err(mpsc::RecvTimeoutError::Timeout);
            let now = clock::now();
            for work in &mut self.work {
                if let Some(recorder) = &work.entry.recorder
                    && let Some(record) = recorder.collect(now, ends)
                {
                    work.learn(&record, &self.saves);
                }
            }
            if ends {
                return;
            }
            let due = now.since(self.said) >= SAY_EVERY;
            self.work.iter_mut().filter(|work| work.entry.kept).for_each(|work| work.say(due));
            if due {
                self.said = now;
            }
        }
    }
}

impl Work {
    /// How far a vDisk is that is pinned in the cache.
    fn say(&mut self, due: bool) {
        let entry = &self.entry;
        let (done, blocks, missing) =
            (entry.feed.done(), entry.feed.blocks(), entry.feed.missing());
        if self.said == (done, missing) {
            return;
        }
        if done == blocks {
            tracing::info!(
                vdisk = entry.name,
                "all of its {blocks} blocks are pinned in the cache"
            );
        } else if missing > 0 {
            tracing::warn!(
                vdisk = entry.name,
                "{missing} of its {blocks} blocks cannot be loaded, and are not pinned in the cache; they are tried again, ever more \
                 seldom. The lines about the store say why"
            );
        } else if due {
            let percent = u64::from(done) * 100 / u64::from(blocks.max(1));
            tracing::info!(vdisk = entry.name, "{percent} % of it is pinned in the cache");
        } else {
            return;
        }
        self.said = (done, missing);
    }

    fn learn(&mut self, record: &Record, saves: &Saves) {
        match record.whole {
            true => self.list.learn(&record.blocks),
            false => self.list.learn_part(&record.blocks),
        }
        let content_id = diskstream_vdisk::ContentId(self.entry.content_id.0);
        match self.list.save(&self.path, content_id, self.block_bytes) {
            Ok(()) => {
                saves.written.fetch_add(1, Relaxed);
                let blocks = self.list.blocks().len();
                tracing::info!(
                    vdisk = self.entry.name,
                    "{} read {} blocks; {blocks} are remembered for the next start",
                    if record.whole { "boots" } else { "parts of boots" },
                    record.blocks.len()
                );
            }
            Err((step, error)) => {
                saves.failed.fetch_add(1, Relaxed);
                tracing::warn!(
                    vdisk = self.entry.name,
                    path = %self.path.display(),
                    "what boots read cannot be remembered beside the image ({step}): {error}; the next start of this node warms up as before"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use diskstream_vdisk::FlatMap;
    use diskstream_wire::ContentId;

    use super::*;
    use crate::shard::Recorder;

    #[test]
    fn a_store_that_hangs_keeps_no_other_list_from_being_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.img");
        let content = ContentId([3; 32]);
        let map = Arc::new(FlatMap::dense(1 << 20));
        let mut entry = VdiskEntry::new("disk", content, map, None);
        let recorder = Recorder::new(16);
        recorder.boots(clock::now(), clock::now());
        recorder.note(5);
        entry.recorder = Some(recorder);
        let work = Work {
            entry: Arc::new(entry),
            path: image.clone(),
            list: WarmList::default(),
            block_bytes: 64 << 10,
            said: (0, 0),
        };
        let (end, ended) = mpsc::channel::<()>();
        let (open, gate) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _end = end;
            let _ = gate.recv();
        });
        let hangs = Writer { stop: None, ended, thread };
        let saves = Arc::default();
        let writer = Writer::start(vec![work], &saves).expect("a thread");
        drop(WarmUp(vec![hangs, writer]));
        let content = diskstream_vdisk::ContentId(content.0);
        let list = WarmList::load(&image, content, 64 << 10).expect("sound").expect("written");
        assert_eq!(list.blocks().collect::<Vec<_>>(), [5]);
        assert_eq!(saves.written.load(Relaxed), 1);
        drop(open);
    }
}
