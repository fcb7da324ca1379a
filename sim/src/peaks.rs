//! What comes at its worst all at once: datagrams that devices send for a read, and logins that a node is asked for.
//!
//! A stall is bounded by other judges; this is its price. A fleet that repeats itself into a storm is found here, also where
//! every read is done in time.

use std::collections::VecDeque;

use diskstream_wire::header::Header;
use diskstream_wire::{IoServiceStart, LoginStart, Nanos};

/// Datagrams are counted over so long.
pub const WINDOW: Nanos = Nanos::from_millis(100);
/// Windows over which logins are counted: a second.
const LOGIN_WINDOWS: usize = 10;

/// Counts since the last mark.
#[derive(Clone, Debug)]
pub struct Peaks {
    began: Nanos,
    /// Reads that devices wait for in this window.
    reads: f64,
    datagrams: u32,
    datagrams_per_read_most: f64,
    /// Of each node: logins of the last windows, the present one last.
    logins: Vec<VecDeque<u64>>,
    logins_most: u64,
}

impl Peaks {
    /// Nothing yet.
    #[must_use]
    pub fn new(nodes: usize, now: Nanos) -> Peaks {
        let none = VecDeque::from(vec![0; LOGIN_WINDOWS]);
        Peaks {
            began: now,
            reads: f64::INFINITY,
            datagrams: 0,
            datagrams_per_read_most: 0.0,
            logins: vec![none; nodes],
            logins_most: 0,
        }
    }

    /// Whether a window is over.
    #[must_use]
    pub fn is_over(&self, now: Nanos) -> bool {
        now.since(self.began) >= WINDOW
    }

    /// The next window begins. `reads`: those that are outstanding now, and those that are planned within it.
    pub fn begin(&mut self, reads: f64, now: Nanos) {
        let passed = now.since(self.began).0 / WINDOW.0;
        self.began = now;
        self.reads = reads;
        self.datagrams = 0;
        for logins in &mut self.logins {
            for _ in 0..passed.min(LOGIN_WINDOWS as u64) {
                logins.pop_front();
                logins.push_back(0);
            }
        }
    }

    /// A device sends a datagram.
    pub fn device_sends(&mut self) {
        self.datagrams += 1;
        let ratio = f64::from(self.datagrams) / self.reads;
        self.datagrams_per_read_most = self.datagrams_per_read_most.max(ratio);
    }

    /// A node that runs is reached by a datagram. What costs it work and memory is the step that proves who asks, and the one
    /// that opens a session; each of their repeats counts.
    pub fn node_receives(&mut self, node: usize, bytes: &[u8]) {
        if !matches!(Header::peek_kind(bytes), Some(LoginStart::KIND | IoServiceStart::KIND)) {
            return;
        }
        let logins = &mut self.logins[node];
        *logins.back_mut().expect("it has ten") += 1;
        self.logins_most = self.logins_most.max(logins.iter().sum());
    }

    /// Most datagrams that all devices sent within one [`WINDOW`], for each read that they waited for in it.
    #[must_use]
    pub fn datagrams_per_read(&self) -> f64 {
        self.datagrams_per_read_most
    }

    /// Most logins that one node was asked for within a second.
    #[must_use]
    pub fn logins_per_second(&self) -> u64 {
        self.logins_most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end() {
        let mut peaks = Peaks::new(2, Nanos::ZERO);
        peaks.device_sends();
        assert!(peaks.datagrams_per_read() < 1e-9, "no window has begun");
        for (ms, sends) in [(100, 2), (200, 3), (300, 1)] {
            assert!(peaks.is_over(Nanos::from_millis(ms)));
            peaks.begin(2.0, Nanos::from_millis(ms));
            assert!(!peaks.is_over(Nanos::from_millis(ms + 99)));
            (0..sends).for_each(|_| peaks.device_sends());
        }
        assert!((peaks.datagrams_per_read() - 1.5).abs() < 1e-9);
        let mut start = vec![0; LoginStart::BYTES];
        LoginStart::default().encode(&mut start);
        for (ms, node) in [(400, 0), (900, 0), (900, 1), (1_300, 0), (1_400, 0)] {
            peaks.begin(2.0, Nanos::from_millis(ms));
            peaks.node_receives(node, &start);
        }
        // 400 and 1,400 are not within a second.
        assert_eq!(peaks.logins_per_second(), 3);
        peaks.node_receives(0, b"not a login");
        assert_eq!(peaks.logins_per_second(), 3);
    }
}
