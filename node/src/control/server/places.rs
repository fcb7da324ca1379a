//! Who is connected. Connections are bounded; when all places are taken, the one that has been idle for longest gives up its own, so
//! that forgotten connections keep nobody out. One that is being answered keeps its place.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, MutexGuard};
use std::time::Duration;

use super::{Answer, write_line};
use crate::lock::Mutex;

/// Connections at once. Guessed: a few operators, `top` and a script; more is a script that leaks them.
pub(super) const CONNECTIONS_MAX: usize = 16;

/// The places, and who has them.
#[derive(Debug, Default)]
pub(super) struct Places {
    table: Mutex<Table>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    places: Vec<Place>,
    /// Counts arrivals and answers: numbers the connections, and orders them by how long they have been idle.
    turn: u64,
}

#[derive(Debug)]
struct Place {
    id: u64,
    /// Another handle of the connection, to end it with.
    stream: UnixStream,
    /// The turn of its arrival or its last answer; none while it is being answered.
    idle_since: Option<u64>,
}

impl Table {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn place(&mut self, id: u64) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.id == id)
    }

    /// Ends the connection that has been idle for longest. False when all are being answered.
    fn make_room(&mut self) -> bool {
        let idle = self.places.iter().enumerate();
        let idle = idle.filter_map(|(index, place)| Some((place.idle_since?, index)));
        let Some((_, index)) = idle.min() else { return false };
        let stream = self.places.swap_remove(index).stream;
        let reason = format!(
            "this connection was idle for longest of {CONNECTIONS_MAX}, and another one came: connect again"
        );
        // Best effort: a client that reads nothing is not waited for.
        let _ = stream.set_nonblocking(true);
        let _ = write_line(&stream, &Answer::Refused { reason });
        let _ = stream.shutdown(Shutdown::Both);
        tracing::info!(
            "control socket: all {CONNECTIONS_MAX} connections are taken; the one idle for longest was closed"
        );
        true
    }
}

impl Places {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics under this lock")
    }

    /// A place for this connection, until it is dropped; none when all others are being answered.
    pub(super) fn take(self: &Arc<Self>, stream: &UnixStream) -> io::Result<Option<Held>> {
        let stream = stream.try_clone()?;
        let mut table = self.table();
        if table.places.len() >= CONNECTIONS_MAX && !table.make_room() {
            return Ok(None);
        }
        let id = table.next_turn();
        table.places.push(Place { id, stream, idle_since: Some(id) });
        Ok(Some(Held { places: Arc::clone(self), id }))
    }

    /// Waits until nobody is being answered, or for so long.
    pub(super) fn wait_answered(&self, most: Duration) {
        let busy = |table: &mut Table| table.places.iter().any(|place| place.idle_since.is_none());
        let _ = self.answered.wait_timeout_while(self.table(), most, busy);
    }
}

/// The place of a connection.
#[derive(Debug)]
pub(super) struct Held {
    places: Arc<Places>,
    id: u64,
}

impl Held {
    /// A request came: until the result is dropped, the place is kept, and the end of the process waits for its last line. None
    /// when the place was given away meanwhile.
    pub(super) fn begin(&self) -> Option<Busy<'_>> {
        self.places.table().place(self.id)?.idle_since = None;
        Some(Busy(self))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.places.table().places.retain(|place| place.id != self.id);
        self.places.answered.notify_all();
    }
}

/// Held while a request is being answered.
#[derive(Debug)]
pub(super) struct Busy<'h>(&'h Held);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut table = self.0.places.table();
        let turn = table.next_turn();
        if let Some(place) = table.place(self.0.id) {
            place.idle_since = Some(turn);
        }
        drop(table);
        self.0.places.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_idle_ones_the_longest_idle_goes_and_busy_ones_stay() {
        let places = Arc::new(Places::default());
        let (stream, _other) = UnixStream::pair().expect("a pair");
        let take = || places.take(&stream).expect("a descriptor");
        let held: Vec<Held> = (0..CONNECTIONS_MAX).map(|_| take().expect("room")).collect();
        drop(held[0].begin().expect("its place"));
        let further = take().expect("the second one's place");
        assert!(held[1].begin().is_none(), "it has lost its place");
        let busy: Vec<_> = held.iter().chain([&further]).filter_map(Held::begin).collect();
        assert_eq!(busy.len(), CONNECTIONS_MAX);
        assert!(take().is_none(), "all are being answered");
        drop(busy);
        assert!(take().is_some());
    }
}
