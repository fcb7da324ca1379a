//! Hashing a whole image: in parallel, without reading its holes, without emptying the page cache.
//!
//! The image is cut into pieces of 4 MiB; threads take the next piece from a common queue, so a
//! slow piece holds up nobody. Each piece's slots in the table of hashes are handed out with it,
//! hence no two threads share a cache line for long and no unsafe code is needed. The calling
//! thread hashes nothing: it reports progress and can stop the work between two pieces.
use crate::content::{BlockHash, BlockHashes, hash_block};
use crate::geometry::{VERIFY_BLOCK_BYTES, bytes, index};
use crate::map::{ImageMap, Place};
use crate::sys;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// The most hashing threads. 64 of them hash about 250 GB/s as far as cores go (derived from 16 µs
/// per 64 KiB), more than any store reads; each holds a buffer of 4 MiB.
pub const MAX_HASH_THREADS: usize = 64;

/// Blocks per piece of work. 4 MiB per read: a guess at where more stops helping; a hard disk reads
/// that in 20 ms, so cancelling stays prompt.
const PIECE_BLOCKS: usize = 64;

/// A block of nothing: what a hole holds. Holes are hashed too, as their place is part of the hash.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
const _: () = assert!(ZEROES.len() as u64 == VERIFY_BLOCK_BYTES);

/// Why hashing ended early.
#[derive(Debug)]
pub(crate) enum HashFailure {
    Cancelled {
        done_bytes: u64,
    },
    Read {
        offset: u64,
        len: u64,
        source: io::Error,
    },
    /// The file ended before its size: somebody truncated it.
    Shrunk {
        offset: u64,
    },
}

impl HashFailure {
    fn offset(&self) -> u64 {
        match self {
            Self::Cancelled { .. } => u64::MAX,
            Self::Read { offset, .. } | Self::Shrunk { offset } => *offset,
        }
    }
}

/// How many threads to use when nobody says: as many as the process may run at once.
pub(crate) fn default_threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Hashes what `map` describes. `progress` gets (done, total) bytes after every piece, on this
/// thread; when it breaks, the work stops.
pub(crate) fn hash(
    file: &File,
    map: &dyn ImageMap,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<BlockHashes, HashFailure> {
    let size_bytes = map.size_bytes();
    let mut hashes = vec![BlockHash::default(); index(BlockHashes::count_for(size_bytes))];
    let pieces = hashes.len().div_ceil(PIECE_BLOCKS);
    let queue = Mutex::new(hashes.chunks_mut(PIECE_BLOCKS).zip(0_u64..));
    let stop = AtomicBool::new(false);
    let reader = Reader { file, map, uncached: AtomicBool::new(true) };

    let mut done_bytes = 0;
    let mut cancelled = false;
    let mut failures: Vec<HashFailure> = Vec::new();
    std::thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let workers: Vec<_> = (0..threads.get().min(MAX_HASH_THREADS).min(pieces))
            .map(|_| {
                let report = report.clone();
                let (queue, stop, reader) = (&queue, &stop, &reader);
                scope.spawn(move || work(reader, queue, stop, &report))
            })
            .collect();
        // Only the workers' ends of the channel remain: the loop ends when they do.
        drop(report);
        for piece_bytes in reports {
            done_bytes += piece_bytes;
            if !cancelled && progress(done_bytes, size_bytes).is_break() {
                cancelled = true;
                stop.store(true, Ordering::Relaxed);
            }
        }
        let results = workers.into_iter().map(|worker| worker.join().expect("workers never panic"));
        failures.extend(results.filter_map(Result::err));
    });
    // The lowest offset, so that the same broken disk is reported the same way every time.
    if let Some(failure) = failures.into_iter().min_by_key(HashFailure::offset) {
        return Err(failure);
    }
    if cancelled {
        return Err(HashFailure::Cancelled { done_bytes });
    }
    Ok(BlockHashes::from_hashes(size_bytes, hashes))
}

/// One thread's share: pieces, until there are no more or somebody says stop.
fn work<'t>(
    reader: &Reader<'_>,
    queue: &Mutex<impl Iterator<Item = (&'t mut [BlockHash], u64)>>,
    stop: &AtomicBool,
    report: &mpsc::Sender<u64>,
) -> Result<(), HashFailure> {
    let mut buffer = vec![0; PIECE_BLOCKS * ZEROES.len()];
    while !stop.load(Ordering::Relaxed) {
        let next = queue.lock().expect("no holder of the lock panics").next();
        let Some((slots, piece)) = next else { break };
        match hash_piece(reader, piece, slots, &mut buffer) {
            // The receiver outlives the workers: it is drained until their senders are gone.
            Ok(piece_bytes) => report.send(piece_bytes).expect("the receiver outlives us"),
            Err(failure) => {
                stop.store(true, Ordering::Relaxed);
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// Hashes one piece into its slots, and says how many bytes of the image that was.
fn hash_piece(
    reader: &Reader<'_>,
    piece: u64,
    slots: &mut [BlockHash],
    buffer: &mut [u8],
) -> Result<u64, HashFailure> {
    let size_bytes = reader.map.size_bytes();
    let first_block = piece * bytes(PIECE_BLOCKS);
    let offset = first_block * VERIFY_BLOCK_BYTES;
    let len = (bytes(slots.len()) * VERIFY_BLOCK_BYTES).min(size_bytes - offset);
    let content = &mut buffer[..index(len)];
    let has_data = reader.read(offset, content)?;
    let blocks = content.chunks(ZEROES.len()).zip(first_block..);
    for (slot, (block, block_index)) in slots.iter_mut().zip(blocks) {
        let block = if has_data { block } else { &ZEROES[..block.len()] };
        *slot = hash_block(size_bytes, block_index, block);
    }
    Ok(len)
}

/// Reads an image through its map.
struct Reader<'f> {
    file: &'f File,
    map: &'f dyn ImageMap,
    /// Whether `RWF_DONTCACHE` works here, until the first read says no. Relaxed everywhere: a
    /// thread that learns it late makes one more refused call.
    uncached: AtomicBool,
}

impl Reader<'_> {
    /// Fills `into` with the image from `offset` on. `false`: all of it is a hole, and `into` was
    /// left as it was.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<bool, HashFailure> {
        let mut has_data = false;
        let len = bytes(into.len());
        self.map.visit(offset, len, &mut |extent| has_data |= extent.place != Place::Zero);
        if !has_data {
            return Ok(false);
        }
        let mut outcome = Ok(true);
        self.map.visit(offset, len, &mut |extent| {
            let from = index(extent.logical_offset - offset);
            let part = &mut into[from..from + index(extent.len)];
            match extent.place {
                Place::Zero => part.fill(0),
                Place::File { file_offset, .. } if outcome.is_ok() => {
                    if let Err(failure) = self.read_file(file_offset, part) {
                        outcome = Err(failure);
                    }
                }
                Place::File { .. } => {}
            }
        });
        outcome
    }

    fn read_file(&self, offset: u64, into: &mut [u8]) -> Result<(), HashFailure> {
        let mut filled = 0;
        while filled < into.len() {
            let at = offset + bytes(filled);
            match self.read_some(at, &mut into[filled..]) {
                Ok(0) => return Err(HashFailure::Shrunk { offset: at }),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let len = bytes(into.len() - filled);
                    return Err(HashFailure::Read { offset: at, len, source });
                }
            }
        }
        if !self.uncached.load(Ordering::Relaxed) {
            // Also drops pages that others had cached; without it, hashing 40 GiB would drop
            // everything else that the host has cached.
            sys::drop_cached(self.file, offset, bytes(into.len()));
        }
        Ok(())
    }

    fn read_some(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.uncached.load(Ordering::Relaxed) {
            match sys::read_uncached(self.file, into, offset) {
                Err(error) if is_unsupported(&error) => {
                    if self.uncached.swap(false, Ordering::Relaxed) {
                        tracing::debug!(%error, "no uncached reads here; hashing drops pages behind itself");
                    }
                }
                result => return result,
            }
        }
        self.file.read_at(into, offset)
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS))
}

#[cfg(test)]
mod tests;
