//! The account of a loop of reads, for the fleet of devices and for the clients of other servers: ramp, window and last answers, what
//! counts in each, and which reads are due. Time is an argument.

use diskstream_wire::Nanos;
use hdrhistogram::Histogram;

use crate::fleet::{Check, Job, LATENCY, Offsets, Tally};
use crate::image;
use crate::open_loop::OpenLoop;

/// Wait for the answers that are still out when the time is over. Guessed.
const LAST_ANSWERS: Nanos = Nanos::from_secs(5);
/// A loop in which no read ends for so long has hung: longer than a device needs to give up a node and find another.
const STALL_LIMIT: Nanos = Nanos::from_secs(30);
/// The longest sleep, so that stage changes are noticed.
const TURN_MAX: Nanos = Nanos::from_millis(20);
/// One in so many reads is compared byte for byte, where the others' stamps are: as much as costs the client nothing that shows.
const THOROUGH_EVERY: u64 = 64;

/// A read under way.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Where.
    pub offset: u64,
    /// When it was asked for, or was due.
    pub since: Nanos,
    /// Every byte is compared.
    thorough: bool,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Goes on.
    On,
    /// An edge of the window: processor times are read now.
    Edge,
    /// The run is over.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ramp,
    Window,
    Last,
}

/// The account.
#[derive(Debug)]
pub struct Book {
    job: Job,
    image_bytes: u64,
    open: Option<OpenLoop>,
    tally: Tally,
    stage: Stage,
    /// When the next stage begins.
    until: Nanos,
    /// The window, as far as it has begun and ended.
    window: (Nanos, Nanos),
    asked: u64,
    /// One in so many reads is compared byte for byte; none: no read is.
    thorough_every: Option<u64>,
    outstanding: usize,
    ended_at: Nanos,
}

impl Book {
    /// An account of `job`, which begins at `now`.
    #[must_use]
    pub fn new(job: Job, image_bytes: u64, now: Nanos) -> Book {
        let (low, high, digits) = LATENCY;
        let latency = Histogram::new_with_bounds(low, high, digits)
            .expect("bounds and digits are those of the crate's page");
        let open = job.rate.map(|rate| OpenLoop::new(job.devices, job.depth, rate, now, job.seed));
        Book {
            until: now + job.ramp,
            thorough_every: (job.check == Check::EveryByte).then_some(1),
            job,
            image_bytes,
            open,
            tally: Tally {
                reads: 0,
                reads_all: 0,
                failed: 0,
                wrong_bytes: 0,
                latency,
                skipped: 0,
                unfinished: 0,
                first_failure: None,
            },
            stage: Stage::Ramp,
            window: (Nanos::NEVER, Nanos::NEVER),
            asked: 0,
            outstanding: 0,
            ended_at: now,
        }
    }

    /// Compares one read in 64 byte for byte, where it would be the stamps only.
    #[must_use]
    pub fn with_samples(mut self) -> Book {
        self.thorough_every.get_or_insert(THOROUGH_EVERY);
        self
    }

    /// Whether reads are asked for by the clock.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Reads that ended so far, well or not.
    #[must_use]
    pub fn ended_count(&self) -> u64 {
        self.tally.reads_all + self.tally.failed
    }

    /// Bytes of a read.
    #[must_use]
    pub fn size(&self) -> usize {
        self.job.size
    }

    /// Reads that each member asks for at once: all of its depth in a closed loop.
    #[must_use]
    pub fn at_once(&self) -> usize {
        if self.open.is_some() { 0 } else { self.job.depth }
    }

    /// How long the driver may sleep; none: not at all.
    #[must_use]
    pub fn rest(&self, now: Nanos) -> Option<Nanos> {
        self.open
            .as_ref()
            .map_or(Some(TURN_MAX), |open| open.rest(now))
            .map(|r| r.earlier(TURN_MAX))
    }

    /// A read of the open loop that is due, and whose it is.
    pub fn due(&mut self, now: Nanos) -> Option<(usize, Nanos)> {
        self.open.as_mut()?.due(now)
    }

    /// A read of this member begins, due `since`; none when all was read.
    pub fn ask(&mut self, member: usize, since: Nanos) -> Option<Asked> {
        let offset = self.job.offsets.next(member, self.job.size as u64, self.image_bytes)?;
        self.asked += 1;
        self.outstanding += 1;
        let thorough = self.thorough_every.is_some_and(|every| self.asked.is_multiple_of(every));
        Some(Asked { offset, since, thorough })
    }

    /// A piece of a read's data has arrived.
    pub fn check(&mut self, asked: Asked, at: usize, bytes: &[u8]) {
        if self.job.check != Check::Nothing {
            let from = asked.offset + at as u64;
            self.tally.wrong_bytes +=
                image::wrong_in_piece(self.job.seed, from, bytes, asked.thorough);
        }
    }

    /// A read has ended well. Gives since when the next one, which takes its place, is due.
    pub fn ended(&mut self, member: usize, asked: Asked, now: Nanos) -> Option<Nanos> {
        self.outstanding -= 1;
        self.ended_at = now;
        self.tally.reads_all += 1;
        let in_window = self.stage == Stage::Window;
        self.tally.reads += u64::from(in_window);
        let counts = if self.open.is_some() { self.is_of_window(asked.since) } else { in_window };
        if counts {
            self.tally.latency.saturating_record(now.since(asked.since).0.max(LATENCY.0));
        }
        match &mut self.open {
            Some(open) => open.ended(member),
            None => (self.stage != Stage::Last).then_some(now),
        }
    }

    /// A read has failed. A closed loop asks for no other in its place, which would fail at once and for ever: it gets shorter instead.
    pub fn failed(&mut self, member: usize, reason: String, now: Nanos) -> Option<Nanos> {
        self.refused(reason, now);
        self.open.as_mut()?.ended(member)
    }

    /// A read could not even be asked for.
    pub fn refused(&mut self, reason: String, now: Nanos) {
        self.outstanding -= 1;
        self.ended_at = now;
        self.tally.failed += 1;
        self.tally.first_failure.get_or_insert(reason);
    }

    fn is_of_window(&self, due: Nanos) -> bool {
        due >= self.window.0 && due < self.window.1
    }

    /// Goes on to the next stage when it is time.
    ///
    /// # Errors
    /// When no read ended for long.
    pub fn step(&mut self, now: Nanos) -> anyhow::Result<Step> {
        anyhow::ensure!(
            self.outstanding == 0 || now.since(self.ended_at) < STALL_LIMIT,
            "no read ended for {} s",
            STALL_LIMIT.as_millis() / 1000
        );
        // All was read, or all that was asked for has failed.
        let over = self.outstanding == 0 && self.open.is_none();
        match self.stage {
            Stage::Ramp if now >= self.until => {
                self.stage = Stage::Window;
                self.window.0 = now;
                self.until = now + self.job.window;
                Ok(Step::Edge)
            }
            Stage::Ramp if over => Ok(Step::Over),
            Stage::Window if over || now >= self.until => {
                self.stage = Stage::Last;
                self.window.1 = now;
                self.until = now + LAST_ANSWERS;
                self.open.iter_mut().for_each(OpenLoop::stop);
                Ok(Step::Edge)
            }
            Stage::Last if self.outstanding == 0 || now >= self.until => Ok(Step::Over),
            _ => Ok(Step::On),
        }
    }

    /// What came of it. `left` are the reads that were asked for and not answered.
    #[must_use]
    pub fn close(mut self, left: impl Iterator<Item = Asked>, now: Nanos) -> Tally {
        let Some(open) = self.open.take() else {
            self.tally.failed += self.outstanding as u64;
            if self.outstanding > 0 {
                self.tally.first_failure.get_or_insert_with(|| "it was never answered".to_owned());
            }
            return self.tally;
        };
        self.tally.skipped = open.skipped();
        for due in left.map(|asked| asked.since).chain(open.waiting()) {
            if self.is_of_window(due) {
                self.tally.unfinished += 1;
                self.tally.latency.saturating_record(now.since(due).0.max(LATENCY.0));
            }
        }
        self.tally
    }
}

/// A random or sequential job's offsets.
#[must_use]
pub fn offsets(pattern: crate::read::Pattern, job: (usize, u64, u64), seed: u64) -> Offsets {
    let (members, size, image_bytes) = job;
    match pattern {
        crate::read::Pattern::Rand => Offsets::Random(crate::random::Random::new(seed)),
        crate::read::Pattern::Seq => Offsets::sequential(members, size, image_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn job(rate: Option<u32>) -> Job {
        Job {
            devices: 1,
            depth: 2,
            rate,
            size: 4096,
            offsets: Offsets::Random(Random::new(1)),
            check: Check::Stamps,
            seed: 1,
            ramp: Nanos::from_millis(10),
            window: Nanos::from_millis(100),
        }
    }

    #[test]
    fn a_closed_loop_counts_what_ends_in_the_window() {
        let at = Nanos::from_millis;
        let mut book = Book::new(job(None), 1 << 20, at(0));
        assert_eq!((book.at_once(), book.due(at(5))), (2, None));
        let first = book.ask(0, at(0)).unwrap();
        assert_eq!(book.ended(0, first, at(5)), Some(at(5)), "the next follows at once");
        let second = book.ask(0, at(5)).unwrap();
        assert_eq!(book.step(at(10)).unwrap(), Step::Edge);
        assert_eq!(book.ended(0, second, at(20)), Some(at(20)));
        let third = book.ask(0, at(20)).unwrap();
        assert_eq!(book.step(at(109)).unwrap(), Step::On);
        assert_eq!(book.step(at(110)).unwrap(), Step::Edge);
        assert_eq!(book.step(at(111)).unwrap(), Step::On, "an answer is missing");
        assert_eq!(book.ended(0, third, at(112)), None);
        assert_eq!(book.step(at(112)).unwrap(), Step::Over);
        let tally = book.close(std::iter::empty(), at(112));
        assert_eq!((tally.reads, tally.reads_all, tally.failed), (1, 3, 0));
        assert_eq!(tally.latency.len(), 1);
    }

    #[test]
    fn an_open_loop_counts_what_was_due_in_the_window_whenever_it_ends() {
        let at = Nanos::from_millis;
        let mut book = Book::new(job(Some(1000)), 1 << 20, at(0));
        assert_eq!(book.at_once(), 0);
        book.step(at(10)).unwrap();
        let mut asked = Vec::new();
        while let Some((member, due)) = book.due(at(110)) {
            asked.push(book.ask(member, due).unwrap());
        }
        assert_eq!(asked.len(), 2, "the depth; the others wait");
        assert_eq!(book.step(at(110)).unwrap(), Step::Edge);
        // The server answers one read each 10 ms, far behind.
        let mut now = at(120);
        while let Some(due) = book.ended(0, asked.remove(0), now) {
            asked.push(book.ask(0, due).unwrap());
            now = now + at(10);
            if book.step(now).unwrap() == Step::Over {
                break;
            }
        }
        let tally = book.close(asked.into_iter(), now);
        assert_eq!(tally.reads, 0);
        // Poisson of mean 100, give or take five times its root.
        assert!((50..150).contains(&tally.latency.len()), "{}", tally.latency.len());
        assert!(tally.latency.value_at_quantile(0.5) > 100_000_000);
    }

    #[test]
    fn a_server_that_falls_silent_ends_the_run() {
        let mut book = Book::new(job(None), 1 << 20, Nanos::ZERO);
        let _ = book.ask(0, Nanos::ZERO);
        assert!(book.step(Nanos::from_secs(29)).is_ok());
        assert!(book.step(Nanos::from_secs(31)).is_err());
    }

    #[test]
    fn a_loop_that_has_read_all_ends_before_its_time() {
        let at = Nanos::from_millis;
        let once = Offsets::Once { next: 0 };
        let endless = Job { offsets: once, ramp: at(0), window: Nanos::NEVER, ..job(None) };
        let mut book = Book::new(endless, 2 * 4096, at(0));
        let both = [book.ask(0, at(0)).unwrap(), book.ask(0, at(0)).unwrap()];
        assert_eq!(book.step(at(1)).unwrap(), Step::Edge, "the window opens");
        for asked in both {
            assert!(book.ended(0, asked, at(2)).is_some());
            assert!(book.ask(0, at(2)).is_none(), "nothing is left to read");
        }
        assert_eq!(book.step(at(3)).unwrap(), Step::Edge, "and closes");
        assert_eq!(book.step(at(3)).unwrap(), Step::Over);
        assert_eq!(book.close(std::iter::empty(), at(3)).reads, 2);
    }

    #[test]
    fn a_failed_read_shortens_a_closed_loop_and_not_an_open_one() {
        let at = Nanos::from_millis;
        let mut book = Book::new(job(None), 1 << 20, at(0));
        let _ = book.ask(0, at(0));
        assert_eq!(book.failed(0, "first".to_owned(), at(1)), None);
        assert_eq!(book.step(at(2)).unwrap(), Step::Over, "before the window opened");
        let tally = book.close(std::iter::empty(), at(2));
        assert_eq!((tally.failed, tally.first_failure.as_deref()), (1, Some("first")));
        let mut book = Book::new(job(Some(1000)), 1 << 20, at(0));
        let mut due = 0;
        while let Some((member, since)) = book.due(at(50)) {
            let _ = book.ask(member, since);
            due += 1;
        }
        assert_eq!(due, 2, "the depth; the others wait");
        assert!(book.failed(0, "x".to_owned(), at(51)).is_some(), "the next in the queue follows");
        assert_eq!(book.step(at(52)).unwrap(), Step::Edge);
    }

    #[test]
    fn one_read_in_64_is_compared_whole_where_samples_are_wanted() {
        let whole = |mut book: Book| {
            (0..128).filter(|_| book.ask(0, Nanos::ZERO).unwrap().thorough).count()
        };
        let new = |check| Book::new(Job { check, ..job(None) }, 1 << 20, Nanos::ZERO);
        assert_eq!(whole(new(Check::Stamps)), 0);
        assert_eq!(whole(new(Check::Stamps).with_samples()), 2);
        assert_eq!(whole(new(Check::EveryByte).with_samples()), 128);
    }
}
