//! The threads of the overflow file.
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::cache::Inner;
use super::overflow::OverflowFile;
use super::request::{Payload, WritePiece};
use super::state::{Actions, Job, UNIT};
use crate::front::disk::WriteFailure;

/// Threads, and so requests that a local disk sees at once. Guessed: enough to keep a SATA disk's queue from running dry.
const THREADS: usize = 4;

/// A job and the cache that waits for it: the cache lives at least as long as its jobs.
pub(super) type Task = (Arc<Inner>, Job);

/// Starts the threads. They end when the sender is gone. The queue needs no bound of its own: it holds no more than
/// what is in flight in the front end, which bounds that.
pub(super) fn start(file: &Arc<OverflowFile>) -> io::Result<Sender<Task>> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..THREADS {
        let (file, receiver) = (Arc::clone(file), Arc::clone(&receiver));
        thread::Builder::new()
            .name(format!("overflow-{number}"))
            .spawn(move || work(&file, &receiver))?;
    }
    Ok(sender)
}

fn work(file: &OverflowFile, receiver: &Mutex<Receiver<Task>>) {
    let mut scratch = Vec::new();
    loop {
        let task = receiver.lock().expect("receiving does not panic").recv();
        match task {
            Ok((cache, job)) => perform(file, &cache, job, &mut scratch),
            Err(_) => return,
        }
    }
}

fn perform(file: &OverflowFile, cache: &Arc<Inner>, job: Job, scratch: &mut Vec<u8>) {
    let mut actions = Actions::default();
    match job {
        Job::Read { slot, pieces } => {
            scratch.resize(pieces.len() * UNIT, 0);
            let result = file.read(slot, scratch).map(|()| &scratch[..]);
            cache.lock().read_done(pieces, result, &mut actions);
        }
        Job::Write { slot, fresh, pieces } => {
            let result = write_pieces(file, slot, &pieces, scratch);
            cache.lock().written(slot, fresh, pieces, result, &mut actions);
        }
        Job::Place { slot, unit, piece } => {
            let result = file.write(slot, &unit[..]);
            cache.lock().written(slot, true, vec![piece], result, &mut actions);
        }
        Job::Merge { slot, piece } => {
            scratch.resize(UNIT, 0);
            let result = file.read(slot, scratch).and_then(|()| {
                piece.apply(scratch);
                file.write(slot, scratch)
            });
            cache.lock().written(slot, false, vec![piece], result, &mut actions);
        }
        Job::Sync(done) => {
            let result = file.sync().map_err(|error| {
                cache.fill().overflow_failed(&error);
                WriteFailure::Overflow(error.to_string().into())
            });
            return done.call(result);
        }
    }
    cache.lock().update_fill();
    cache.run(actions);
}

/// Writes whole units to consecutive slots: straight from the request's bytes where they are consecutive there too.
fn write_pieces(
    file: &OverflowFile,
    slot: u32,
    pieces: &[WritePiece],
    scratch: &mut Vec<u8>,
) -> io::Result<()> {
    let first = &pieces[0];
    if let Payload::Bytes(from) = first.payload
        && pieces.iter().enumerate().all(|(index, piece)| {
            Arc::ptr_eq(&piece.write, &first.write)
                && piece.within == (0..UNIT)
                && matches!(piece.payload, Payload::Bytes(at) if at == from + index * UNIT)
        })
    {
        return file.write(slot, &first.write.bytes[from..from + pieces.len() * UNIT]);
    }
    scratch.clear();
    scratch.resize(pieces.len() * UNIT, 0);
    for (piece, unit) in pieces.iter().zip(scratch.chunks_mut(UNIT)) {
        piece.apply(unit);
    }
    file.write(slot, scratch)
}
