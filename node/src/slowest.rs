//! The devices whose reads take longest, by their own word: for `top`.
//!
//! A small table for the whole node, behind a lock that is only ever tried: a keep-alive that finds it taken is not counted, and the
//! next one comes within seconds. Nothing here grows, and nothing is on the path of a read.

use diskstream_wire::Mac;
use diskstream_wire::time::Nanos;

use crate::lock::Mutex;

/// Devices that are remembered. Guessed: what fits a screen, twice over.
const DEVICES: usize = 32;
/// Devices that are shown.
pub const SHOWN: usize = 10;
/// A word older than this no longer counts. Guessed: several keep-alives.
const KEPT_FOR: Nanos = Nanos::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Word {
    mac: Mac,
    read_us_max: u32,
    at: Nanos,
}

/// The table.
#[derive(Debug, Default)]
pub struct Slowest(Mutex<[Option<Word>; DEVICES]>);

impl Slowest {
    /// A device says how long its longest read took since its last keep-alive.
    pub fn note(&self, mac: Mac, read_us_max: u32, now: Nanos) {
        let Ok(mut words) = self.0.try_lock() else { return };
        let old = |word: &Word| now.since(word.at) > KEPT_FOR;
        let place = words.iter().position(|word| word.as_ref().is_some_and(|w| w.mac == mac));
        let place = place
            .or_else(|| words.iter().position(|word| word.as_ref().is_none_or(old)))
            .or_else(|| {
                let (at, least) = words
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, word)| word.as_ref().map_or(0, |word| word.read_us_max))?;
                let least = least.as_ref().map_or(0, |word| word.read_us_max);
                (least < read_us_max).then_some(at)
            });
        if let Some(place) = place {
            words[place] = Some(Word { mac, read_us_max, at: now });
        }
    }

    /// The slowest first, [`SHOWN`] at most; devices without a read are left out.
    ///
    /// # Panics
    /// When a thread panicked under the lock, which nothing in here does.
    #[must_use]
    pub fn list(&self, now: Nanos) -> Vec<(Mac, u32)> {
        let words = *self.0.lock().expect("nothing panics under this lock");
        let fresh = |word: &Word| now.since(word.at) <= KEPT_FOR && word.read_us_max > 0;
        let mut list: Vec<(Mac, u32)> =
            words.into_iter().flatten().filter(fresh).map(|w| (w.mac, w.read_us_max)).collect();
        list.sort_by_key(|&(mac, us)| (std::cmp::Reverse(us), mac.0));
        list.truncate(SHOWN);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    #[test]
    fn the_slowest_of_many_are_kept() {
        let slowest = Slowest::default();
        for n in 0..200 {
            slowest.note(mac(n), 1000 + u32::from(n), Nanos::from_secs(1));
        }
        let list = slowest.list(Nanos::from_secs(2));
        assert_eq!(list.len(), SHOWN);
        assert_eq!(list[0], (mac(199), 1199));
        assert_eq!(list[9], (mac(190), 1190));
    }

    #[test]
    fn a_device_counts_once_by_its_last_word_and_not_for_ever() {
        let slowest = Slowest::default();
        slowest.note(mac(1), 5000, Nanos::from_secs(1));
        slowest.note(mac(1), 70, Nanos::from_secs(2));
        slowest.note(mac(2), 0, Nanos::from_secs(2));
        assert_eq!(slowest.list(Nanos::from_secs(3)), [(mac(1), 70)]);
        assert_eq!(slowest.list(Nanos::from_secs(70)), []);
    }
}
